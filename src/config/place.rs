//! Where a setting stands: its key, and the file, variable or flag that set it.

use std::fmt;
use std::path::{Path, PathBuf};

use ::config::{Value, ValueKind};

/// The keys from the root of the configuration down to one setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPath(Vec<String>);

impl KeyPath {
    pub(super) fn of<const N: usize>(keys: [&str; N]) -> Self {
        Self(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    pub(super) fn then(&self, key: impl Into<String>) -> Self {
        let mut keys = self.0.clone();
        keys.push(key.into());
        Self(keys)
    }

    /// The key itself, without what encloses it; empty for the root.
    pub(super) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for KeyPath {
    /// Keys that TOML would want quoted are quoted, such as librdkafka's names with their dots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            let dot = if index > 0 { "." } else { "" };
            if is_bare(key) { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
        }
        Ok(())
    }
}

/// Whether TOML takes `key` without quotes; also the form of the names of sources, services, functions and triggers.
pub(super) fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// A setting, and what set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `lagless.toml:12`, `environment variable LAGLESS__..` or `--set ..`; `None` where nothing was set.
    pub origin: Option<String>,
    pub key: KeyPath,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) if self.key.keys().is_empty() => f.write_str(origin),
            Some(origin) => write!(f, "{origin}: {}", self.key),
            None => write!(f, "{}", self.key),
        }
    }
}

/// The origin of a value on `line` of `file`.
pub(super) fn file_origin(file: &Path, line: usize) -> String {
    format!("{}:{line}", file.display())
}

/// The merged layers, asked where things come from.
pub(super) struct Origins<'a> {
    pub tree: &'a Value,
    pub files: &'a [PathBuf],
}

impl Origins<'_> {
    /// The place of `key`; where it was never set, the origin of what encloses it.
    pub fn place(&self, key: &KeyPath) -> Place {
        Place { origin: self.origin(key).map(str::to_owned), key: key.clone() }
    }

    /// The folder that relative paths at `key` belong to.
    pub fn folder(&self, key: &KeyPath) -> PathBuf {
        let Some(origin) = self.origin(key) else { return PathBuf::new() };
        let file = self.files.iter().find(|file| {
            let line = origin.strip_prefix(&file.display().to_string()).and_then(|rest| rest.strip_prefix(':'));
            line.is_some_and(|line| line.parse::<usize>().is_ok())
        });
        file.and_then(|file| file.parent()).map(Path::to_path_buf).unwrap_or_default()
    }

    fn origin(&self, key: &KeyPath) -> Option<&str> {
        let mut value = self.tree;
        let mut origin = value.origin();
        for key in key.keys() {
            let below = match &value.kind {
                ValueKind::Table(table) => table.get(key),
                ValueKind::Array(list) => key.parse::<usize>().ok().and_then(|index| list.get(index)),
                _ => None,
            };
            let Some(below) = below else { break };
            value = below;
            origin = value.origin().or(origin);
        }
        origin
    }
}
