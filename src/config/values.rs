//! Values that can be written in several forms: secrets and rules.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// A value given openly, or where to find it: `{ env = "NAME" }` or `{ file = "path" }`. What is found elsewhere is
/// never printed; a line break at the end of a file does not count.
#[derive(Clone)]
pub enum SecretFile {
    Open(String),
    Env(String),
    File(PathBuf),
}

impl std::fmt::Debug for SecretFile {
    /// Open values may be passwords all the same.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(_) => f.write_str("Open(***)"),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

const SECRET_FORM: &str = "a string, a number, a boolean, { env = \"NAME\" } or { file = \"path\" }";

impl<'de> Deserialize<'de> for SecretFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = SecretFile;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(SECRET_FORM)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretFile, E> {
        Ok(SecretFile::Open(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<SecretFile, E> {
        Ok(SecretFile::Open(flag.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<SecretFile, E> {
        Ok(SecretFile::Open(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<SecretFile, E> {
        Ok(SecretFile::Open(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<SecretFile, E> {
        Ok(SecretFile::Open(number.to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretFile, A::Error> {
        // The text of neither key nor value is shown: a secret may have been put where its reference belongs.
        let refused = || de::Error::custom(format!("found a table of another form; expected {SECRET_FORM}"));
        let entry = map.next_entry::<String, serde_json::Value>()?;
        let secret = match &entry {
            Some((key, serde_json::Value::String(name))) if key == "env" => SecretFile::Env(name.clone()),
            Some((key, serde_json::Value::String(path))) if key == "file" => SecretFile::File(path.into()),
            _ => return Err(refused()),
        };
        if map.next_entry::<String, de::IgnoredAny>()?.is_some() {
            return Err(refused());
        }
        Ok(secret)
    }
}

/// A rule in any of its three forms.
#[derive(Debug)]
pub enum RuleFile {
    Table(serde_json::Value),
    Text(String),
    File(PathBuf),
}

impl<'de> Deserialize<'de> for RuleFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde_json::Value;
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Object(table) => match table.get("file") {
                Some(Value::String(path)) if table.len() == 1 => Ok(Self::File(path.into())),
                _ => Ok(Self::Table(Value::Object(table))),
            },
            _ => Err(de::Error::custom("expected a table, JSON text, or { file = \"path\" }")),
        }
    }
}
