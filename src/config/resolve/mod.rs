//! From what was written to what the program uses: references are looked up, paths and defaults that depend on other
//! keys are filled in, and rules across keys are enforced.

mod amqp_source;
mod kafka_source;
mod queue;
mod reference;
mod sink;
mod source;
mod trigger;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;

use super::error::{ConfigError, ConfigErrors};
use super::file::{FunctionFile, isolates_max};
use super::form::{Form, ServiceForm};
use super::place::{KeyPath, Origins};
use super::settings::{FunctionSettings, Isolates, ServiceSettings, Settings};
use super::units::size_text;

/// V8 does not start in less.
const MEMORY_MIN: u64 = 8 << 20;
/// The most that V8 addresses with compressed pointers.
const MEMORY_MAX: u64 = 4 << 30;

pub(super) fn settings(form: &Form, origins: &Origins<'_>, env: &[(String, String)]) -> Result<Settings, ConfigErrors> {
    let mut resolver = Resolver { form, origins, env, read: Vec::new(), errors: Vec::new() };
    let root = KeyPath::default();
    let sources = named(&form.sources, |name, file| resolver.source(file, &root.then("source").then(name)));
    let services = named(&form.services, |name, service| resolver.service(name, service));
    resolver.check_groups(&services);
    ConfigErrors::none_of(resolver.errors)?;
    let files = origins.files.iter().cloned().chain(resolver.read).collect();
    Ok(Settings { sources, services, admin: form.worker.admin, drain_timeout: form.worker.drain_timeout, files })
}

/// Those that resolve; the others have left an error.
fn named<F, T>(files: &IndexMap<String, F>, mut resolve: impl FnMut(&str, &F) -> Option<T>) -> IndexMap<String, T> {
    files.iter().filter_map(|(name, file)| Some((name.clone(), resolve(name, file)?))).collect()
}

struct Resolver<'a> {
    form: &'a Form,
    origins: &'a Origins<'a>,
    env: &'a [(String, String)],
    /// Files of secrets and rules.
    read: Vec<PathBuf>,
    errors: Vec<ConfigError>,
}

impl Resolver<'_> {
    fn service(&mut self, name: &str, form: &ServiceForm) -> Option<ServiceSettings> {
        let path = KeyPath::of(["service", name]);
        let env = self.secrets(&form.service.env, &path.then("env"));
        let function = path.then("function");
        let functions = named(&form.functions, |name, file| Some(self.function(file, &function.then(name))));
        let trigger = path.then("trigger");
        let triggers = named(&form.triggers, |trigger_name, file| {
            let within = trigger::Within { service: name, functions: &form.functions };
            self.trigger(file, &within, &trigger.then(trigger_name))
        });
        Some(ServiceSettings { env: env?, log_level: form.service.log.level, functions, triggers })
    }

    fn function(&mut self, file: &FunctionFile, path: &KeyPath) -> FunctionSettings {
        let max = file.isolates.max.unwrap_or_else(|| isolates_max().max(file.isolates.min));
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&file.memory) {
            let found = size_text(file.memory);
            self.bad(&path.then("memory"), format!("found {found}; allowed: 8MiB to 4GiB"));
        }
        self.check_positive(file.timeout, &path.then("timeout"));
        self.check_positive(file.start_timeout, &path.then("start_timeout"));
        self.check_least_one(file.concurrency, &path.then("concurrency"));
        let isolates = path.then("isolates");
        self.check_least_one(max, &isolates.then("max"));
        if file.isolates.min > max && max > 0 {
            let problem = format!("min is {} and max is {max}", file.isolates.min);
            self.conflict(&isolates, problem, "min must not be above max");
        }
        if file.handler.is_empty() {
            self.bad(&path.then("handler"), "is empty; expected the name of an export, such as \"default\"");
        }
        if file.code.as_os_str().is_empty() {
            self.bad(&path.then("code"), "is empty; expected the path of the function's file");
        }
        FunctionSettings {
            code: self.path(&file.code, &path.then("code")),
            handler: file.handler.clone(),
            memory: file.memory,
            timeout: file.timeout,
            start_timeout: file.start_timeout,
            concurrency: file.concurrency,
            isolates: Isolates { min: file.isolates.min, max, idle: file.isolates.idle },
        }
    }

    /// A path as written at `key`, seen from the working directory.
    fn path(&self, path: &Path, key: &KeyPath) -> PathBuf {
        self.origins.folder(key).join(path)
    }

    fn check_positive(&mut self, duration: Duration, key: &KeyPath) {
        if duration.is_zero() {
            self.bad(key, "found no time at all; allowed: more than 0s");
        }
    }

    fn check_least_one(&mut self, number: u32, key: &KeyPath) {
        if number == 0 {
            self.bad(key, "found 0; allowed: 1 or more");
        }
    }

    fn bad(&mut self, key: &KeyPath, problem: impl Into<String>) {
        let at = self.origins.place(key);
        self.errors.push(ConfigError::BadValue { at, problem: problem.into() });
    }

    fn conflict(&mut self, key: &KeyPath, problem: impl Into<String>, fix: impl Into<String>) {
        let at = self.origins.place(key);
        self.errors.push(ConfigError::Conflict { at, problem: problem.into(), fix: fix.into() });
    }

    fn missing(&mut self, parent: &KeyPath, key: &'static str, expected: &'static str) {
        let at = self.origins.place(parent);
        self.errors.push(ConfigError::MissingKey { at, key, expected });
    }

    fn unavailable(&mut self, key: &KeyPath, problem: impl Into<String>) {
        let at = self.origins.place(key);
        self.errors.push(ConfigError::Unavailable { at, problem: problem.into() });
    }
}
