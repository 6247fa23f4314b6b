//! The layers, one over the other.

use std::fs;
use std::path::PathBuf;

use super::error::{ConfigError, ConfigErrors};
use super::place::Origins;
use super::settings::Settings;
use super::toml_layer::{Layer, from_file, merged};
use super::{form, keys, resolve, schema};

/// Where a configuration comes from, lowest layer first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// TOML files; later ones lie over earlier ones.
    pub files: Vec<PathBuf>,
    /// `key=value` each; later ones lie over earlier ones, and all over the environment.
    pub overrides: Vec<String>,
    /// The environment: `LAGLESS__` variables are a layer, and `{ env = "NAME" }` finds its value here.
    pub env: Vec<(String, String)>,
}

/// Reads, merges and validates.
///
/// # Errors
/// Everything that can be found wrong at once: first what keeps files from being read, then keys and values, and when
/// those are in order, what contradicts each other.
pub fn load(sources: &Sources) -> Result<Settings, ConfigErrors> {
    let mut errors = Vec::new();
    let files = read_files(&sources.files, &mut errors);
    ConfigErrors::none_of(std::mem::take(&mut errors))?;

    let mut layers = files;
    let below = merged(&layers);
    layers.extend(keys::from_environment(&sources.env, &below, &mut errors));
    layers.extend(keys::from_overrides(&sources.overrides, &below, &mut errors));

    let mut tree = merged(&layers);
    schema::check(&mut tree, &mut errors);
    let origins = Origins { tree: &tree, files: &sources.files };
    let form = form::read(&origins, &mut errors);
    match form {
        Some(form) if errors.is_empty() => resolve::settings(&form, &origins, &sources.env),
        _ => Err(ConfigErrors::some(errors)),
    }
}

fn read_files(files: &[PathBuf], errors: &mut Vec<ConfigError>) -> Vec<Layer> {
    let mut layers = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.clone(), source });
        match text.and_then(|text| from_file(file, &text)) {
            Ok(layer) => layers.push(layer),
            Err(error) => errors.push(error),
        }
    }
    layers
}
