//! Functions: which there are, and their code, read once and ready to be deployed to a runner.
//!
//! Knows nothing of brokers. What a runner is told about a function is made here and nowhere else.

use std::path::PathBuf;

use lagless_javascript::package::{self, Package, PackageError};
use lagless_protocol::frames::{Deploy, Limits};

use crate::config::{FunctionSettings, ServiceSettings, Settings};

/// How long a termination may take to bite before the runner is killed.
const GRACE_MS: u64 = 500;

/// One function with its code.
#[derive(Debug)]
pub struct Function {
    /// The number by which runners know it; unique within the worker.
    pub id: u32,
    pub service: String,
    pub name: String,
    pub package: Package,
}

/// Code that cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("service.{service}.function.{function}: {error}")]
pub struct LoadError {
    pub service: String,
    pub function: String,
    #[source]
    pub error: PackageError,
}

/// All functions of a worker.
#[derive(Debug, Default)]
pub struct Registry {
    functions: Vec<Function>,
}

impl Registry {
    /// Reads the code of every function; all that is wrong is reported at once.
    pub fn load(settings: &Settings) -> Result<Self, Vec<LoadError>> {
        let mut registry = Self::default();
        let mut errors = Vec::new();
        for (service, service_settings) in &settings.services {
            for (name, function) in &service_settings.functions {
                match package::load(&function.code) {
                    Ok(package) => registry.functions.push(Function {
                        id: registry.functions.len() as u32,
                        service: service.clone(),
                        name: name.clone(),
                        package,
                    }),
                    Err(error) => {
                        errors.push(LoadError { service: service.clone(), function: name.clone(), error });
                    }
                }
            }
        }
        if errors.is_empty() { Ok(registry) } else { Err(errors) }
    }

    pub fn of_service<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Function> + use<'a> {
        let service = service.to_owned();
        self.functions.iter().filter(move |function| function.service == service)
    }

    pub fn get(&self, service: &str, name: &str) -> Option<&Function> {
        self.of_service(service).find(|function| function.name == name)
    }

    /// Every file that some function was made of, for watching.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.functions.iter().flat_map(|function| &function.package.files)
    }
}

impl Function {
    /// `service.function`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.service, self.name)
    }

    /// What a runner is told.
    pub fn deploy(&self, service: &ServiceSettings, settings: &FunctionSettings) -> Deploy {
        let milliseconds = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Deploy {
            function: self.id,
            name: self.full_name(),
            modules: self.package.modules.clone(),
            handler: settings.handler.clone(),
            env: service.env.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect(),
            limits: Limits {
                timeout_ms: milliseconds(settings.timeout),
                grace_ms: GRACE_MS,
                start_ms: milliseconds(settings.start_timeout),
                memory_bytes: settings.memory,
                concurrency: settings.concurrency,
            },
        }
    }
}
