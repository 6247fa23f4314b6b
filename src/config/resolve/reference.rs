//! Values that are kept elsewhere: secrets in variables and files, rules in files.

use std::fs;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::Resolver;
use crate::config::file::{RuleFile, SecretFile};
use crate::config::place::KeyPath;
use crate::config::settings::Secret;

impl Resolver<'_> {
    /// `None` where one of them cannot be had; the errors say which.
    pub(super) fn secrets(
        &mut self,
        files: &IndexMap<String, SecretFile>,
        path: &KeyPath,
    ) -> Option<IndexMap<String, Secret>> {
        let mut secrets = IndexMap::new();
        for (key, file) in files {
            if let Some(secret) = self.secret(key, file, &path.then(key)) {
                secrets.insert(key.clone(), secret);
            }
        }
        (secrets.len() == files.len()).then_some(secrets)
    }

    pub(super) fn secret(&mut self, name: &str, file: &SecretFile, path: &KeyPath) -> Option<Secret> {
        match file {
            SecretFile::Open(value) if sounds_secret(name) => Some(Secret::hidden(value)),
            SecretFile::Open(value) => Some(Secret::plain(value)),
            SecretFile::Env(variable) => {
                let value = self.env.iter().find(|(name, _)| name == variable).map(|(_, value)| value);
                if value.is_none() {
                    let problem = format!("the environment variable {variable} is not set; set it for this process");
                    self.unavailable(path, problem);
                }
                value.map(Secret::hidden)
            }
            SecretFile::File(file) => {
                let text = self.text(file, path)?;
                let value = text.strip_suffix('\n').map_or(text.as_str(), |line| line.trim_end_matches('\r'));
                Some(Secret::hidden(value))
            }
        }
    }

    /// A rule, in the end always a JSON object.
    pub(super) fn rule(&mut self, file: &RuleFile, path: &KeyPath) -> Option<Json> {
        let rule = match file {
            RuleFile::Table(rule) => Ok(rule.clone()),
            RuleFile::Text(text) => serde_json::from_str(text),
            RuleFile::File(file) => serde_json::from_str(&self.text(file, path)?),
        };
        match rule {
            Ok(rule @ Json::Object(_)) => Some(rule),
            Ok(_) => {
                self.bad(path, "is JSON but not an object; expected a pattern such as {\"data\": {\"type\": [\"a\"]}}");
                None
            }
            Err(error) => {
                let place = if let RuleFile::File(file) = file { format!("{}: ", file.display()) } else { "".into() };
                self.bad(path, format!("{place}not valid JSON: {error}"));
                None
            }
        }
    }

    fn text(&mut self, file: &Path, path: &KeyPath) -> Option<String> {
        let file = self.path(file, path);
        match fs::read_to_string(&file) {
            Ok(text) => {
                self.read.push(file);
                Some(text)
            }
            Err(error) => {
                self.unavailable(path, format!("{} cannot be read: {error}", file.display()));
                None
            }
        }
    }
}

/// Whether a value under this name is better not printed, although it was written openly.
fn sounds_secret(name: &str) -> bool {
    const WORDS: [&str; 9] = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "api.key",
        "private.key",
        "key.pem",
        "oauthbearer.config",
    ];
    let name = name.to_lowercase().replace(['_', '-'], ".");
    WORDS.iter().any(|word| name.contains(word))
}
