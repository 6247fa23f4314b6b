//! The project that the demo runs: the example `shop`, built in.

use std::fs;
use std::path::Path;

use crate::cli::{CliError, embedded, run};
use crate::config::{self, Settings, TriggerSettings};
use crate::function::Registry;

/// The files of the example, by path below the project's folder.
const CONFIG: &str = "lagless.toml";
const FILES: [(&str, &str); 2] = [
    (CONFIG, include_str!("../../../examples/shop/lagless.toml")),
    ("functions/total.ts", include_str!("../../../examples/shop/functions/total.ts")),
];

/// The example, ready to be run on the embedded broker.
#[derive(Debug)]
pub struct Shop {
    pub settings: Settings,
    pub registry: Registry,
    pub names: Names,
}

/// What the configuration calls the things that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub source: String,
    pub group: String,
    pub service: String,
    pub trigger: String,
    pub function: String,
    pub orders: String,
    pub results: String,
    pub dead_letters: String,
}

impl Shop {
    /// Reads the example by way of a temporary folder, so that it is read like any other project.
    pub fn load(bootstrap: &str) -> Result<Self, CliError> {
        let folder = tempfile::Builder::new().prefix("lagless-demo-").tempdir().map_err(CliError::failed)?;
        write(folder.path()).map_err(|error| CliError::failed(format!("{}: {error}", folder.path().display())))?;
        // Neither the environment nor flags have a say in the demo.
        let sources = config::Sources { files: vec![folder.path().join(CONFIG)], ..config::Sources::default() };
        let mut settings = config::load(&sources).map_err(CliError::bad_config)?;
        let registry = run::load_code(&settings)?;
        embedded::point_at(&mut settings, bootstrap);
        // Another worker may be serving on the same port.
        settings.admin = None;
        let names = Names::of(&settings).ok_or_else(|| {
            CliError::bad_config("the built-in example has no trigger with a topic, on_success and on_failure")
        })?;
        Ok(Self { settings, registry, names })
    }
}

impl Names {
    fn of(settings: &Settings) -> Option<Self> {
        let (service, service_settings) = settings.services.first()?;
        let (trigger, TriggerSettings { function, source, topics, group, on_success, on_failure, .. }) =
            service_settings.triggers.first()?;
        Some(Self {
            source: source.clone(),
            group: group.clone(),
            service: service.clone(),
            trigger: trigger.clone(),
            function: function.clone(),
            orders: topics.first()?.clone(),
            results: on_success.as_ref()?.target.name(),
            dead_letters: on_failure.as_ref()?.target.name(),
        })
    }
}

fn write(folder: &Path) -> std::io::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_example_is_what_the_demo_needs() {
        let Shop { names, registry, settings } = Shop::load("127.0.0.1:1").unwrap();
        assert_eq!(names.orders, "orders");
        assert_eq!(names.results, "totals");
        assert_eq!(names.dead_letters, "orders.dead");
        assert!(registry.get(&names.service, &names.function).is_some());
        assert_eq!(embedded::inputs(&settings), ["orders"]);
        assert_eq!(embedded::outputs(&settings), ["totals", "orders.dead"]);
    }
}
