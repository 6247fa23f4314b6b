//! The project that is being worked on: read again whenever it changes.

use std::path::PathBuf;

use super::watch::Interest;
use crate::cli::{CliError, ConfigArgs, run};
use crate::config::Settings;
use crate::function::Registry;

/// Settings and code that are valid.
#[derive(Debug)]
pub struct Project {
    pub settings: Settings,
    pub registry: Registry,
}

/// A project that is not valid.
#[derive(Debug)]
pub struct Refused {
    pub error: CliError,
    /// The files that are known to belong to it.
    pub files: Vec<PathBuf>,
}

impl Project {
    /// Reads everything; what it says is what a worker would refuse to start with.
    pub fn load(config: &ConfigArgs) -> Result<Self, Refused> {
        let settings = run::load(config).map_err(|error| Refused { error, files: config.config.clone() })?;
        match run::load_code(&settings) {
            Ok(registry) => Ok(Self { settings, registry }),
            Err(error) => Err(Refused { error, files: files_of(&settings).collect() }),
        }
    }

    /// What to watch.
    pub fn interest(&self) -> Interest {
        Interest::new(files_of(&self.settings).chain(self.registry.files().cloned()), false)
    }
}

/// The files that settings were read from and that they name.
fn files_of(settings: &Settings) -> impl Iterator<Item = PathBuf> {
    let code = settings.services.values().flat_map(|service| service.functions.values());
    settings.files.iter().cloned().chain(code.map(|function| function.code.clone()))
}
