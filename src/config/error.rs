//! What can be wrong with a configuration. Every message names the place, what was found, and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::place::Place;
use super::suggest;

/// One thing that is wrong.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A configuration file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },

    /// A configuration file is not TOML. The line itself is not shown: it may hold a secret.
    #[error("{}:{line}:{column}: not valid TOML: {message}", file.display())]
    Syntax { file: PathBuf, line: usize, column: usize, message: String },

    /// An override is not of the form `key=value`. Its text is not shown: it may hold a secret.
    #[error("--set number {number}: no \"=\" in it; expected KEY=VALUE, such as service.shop.log.level=debug")]
    MalformedOverride { number: usize },

    /// A key that means nothing here.
    #[error("{at}: unknown key{hint} Allowed: {allowed}")]
    UnknownKey { at: Place, hint: String, allowed: String },

    /// A key that a later version will bring.
    #[error("{at}: not supported yet. Allowed: {allowed}")]
    PlannedKey { at: Place, allowed: String },

    /// A variable names a source, service, function or trigger that no file defines.
    #[error("{at}: no {what} of this name in the configuration files{hint} Defined: {defined}")]
    UnknownName { at: Place, what: &'static str, hint: String, defined: String },

    /// A variable fits several names, since case and `-` do not count in variables.
    #[error("{at}: the variable fits several names: {names}; use a file or --set to tell them apart")]
    AmbiguousName { at: Place, names: String },

    /// A key that cannot be done without.
    #[error("{at}: the key {key:?} is missing; expected {expected}")]
    MissingKey { at: Place, key: &'static str, expected: &'static str },

    /// A value of the wrong kind or out of bounds.
    #[error("{at}: {problem}")]
    BadValue { at: Place, problem: String },

    /// A value refers to something that is not there.
    #[error("{at}: there is no {what} {found:?}{known}")]
    UnknownReference { at: Place, what: String, found: String, known: String },

    /// A librdkafka setting that Lagless decides itself.
    #[error("{at}: cannot be set here: {reason}")]
    ReservedClientKey { at: Place, reason: &'static str },

    /// Two settings that exclude each other.
    #[error("{at}: {problem}; {fix}")]
    Conflict { at: Place, problem: String, fix: String },

    /// A secret or a rule that is kept elsewhere cannot be had from there.
    #[error("{at}: {problem}")]
    Unavailable { at: Place, problem: String },
}

impl ConfigError {
    pub(super) fn unknown_key(at: Place, found: &str, allowed: &[&str]) -> Self {
        Self::UnknownKey { at, hint: suggest::hint(found, allowed.iter().copied()), allowed: allowed.join(", ") }
    }

    pub(super) fn unknown_reference<'a>(
        at: Place,
        what: impl Into<String>,
        found: &str,
        defined: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        Self::UnknownReference {
            at,
            what: what.into(),
            found: found.into(),
            known: format!("{} Defined: {}", suggest::hint(found, defined.clone()), listed(defined)),
        }
    }
}

/// The names, or a word for none.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Everything found wrong with a configuration: at least one error.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// For callers that know of at least one error.
    pub(super) fn some(errors: Vec<ConfigError>) -> Self {
        Self(errors)
    }

    /// `Ok` where nothing is wrong.
    pub(super) fn none_of(errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    /// One paragraph for each error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let gap = if index > 0 { "\n\n" } else { "" };
            write!(f, "{gap}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
