//! Variables and overrides as layers: whose key is meant, and how the value is read.

use ::config::{Map, Value, ValueKind};

use super::error::{ConfigError, listed};
use super::place::{KeyPath, Place};
use super::schema::{Node, OpenKeys, ROOT, Table};
use super::suggest;
use super::toml_layer::{Layer, from_value};

/// Begins the name of every variable that is configuration.
const PREFIX: &str = "LAGLESS__";

/// One layer for each variable that is configuration, sorted by name, so that the order of the process's environment
/// never matters.
pub(super) fn from_environment(
    variables: &[(String, String)],
    tree: &Value,
    errors: &mut Vec<ConfigError>,
) -> Vec<Layer> {
    let mut ours: Vec<_> = variables.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    let mut layers = Vec::new();
    for (name, text) in ours {
        let origin = format!("environment variable {name}");
        let segments: Vec<_> = name[PREFIX.len()..].split("__").collect();
        match Walk::new(tree, &origin, Spelling::Variable).locate(&segments) {
            Ok((path, node)) => layers.push(layer(&path, value(text, node, &origin), &origin)),
            Err(error) => errors.push(error),
        }
    }
    layers
}

/// One layer for each override, in their order.
pub(super) fn from_overrides(overrides: &[String], tree: &Value, errors: &mut Vec<ConfigError>) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (index, text) in overrides.iter().enumerate() {
        let Some((key, text)) = text.split_once('=') else {
            errors.push(ConfigError::MalformedOverride { number: index + 1 });
            continue;
        };
        let key = key.trim();
        let origin = format!("--set {key}");
        let segments: Vec<_> = key.split('.').collect();
        match Walk::new(tree, &origin, Spelling::Exact).locate(&segments) {
            Ok((path, node)) => layers.push(layer(&path, value(text.trim(), node, &origin), &origin)),
            Err(error) => errors.push(error),
        }
    }
    layers
}

/// How closely keys are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Case does not count, and `_` is `-`.
    Variable,
    Exact,
}

impl Spelling {
    fn matches(self, segment: &str, key: &str) -> bool {
        match self {
            Self::Exact => segment == key,
            Self::Variable => folded(segment) == folded(key),
        }
    }
}

/// What variables do not tell apart.
fn folded(key: &str) -> String {
    key.to_lowercase().replace(['-', '.'], "_")
}

/// The way from the root to the key that a variable or an override means.
struct Walk<'a> {
    origin: &'a str,
    spelling: Spelling,
    /// How far we have come.
    path: KeyPath,
    /// What the layers below have there, for the names that they define.
    value: Option<&'a Value>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Value, origin: &'a str, spelling: Spelling) -> Self {
        Self { origin, spelling, path: KeyPath::default(), value: Some(tree) }
    }

    fn locate(mut self, segments: &[&str]) -> Result<(KeyPath, &'static Node), ConfigError> {
        let mut node: &'static Node = &ROOT;
        for (index, segment) in segments.iter().enumerate() {
            let key = match node {
                Node::Table(table) => self.known_key(table, segment)?,
                Node::Named { what, .. } => self.name(what, segment)?,
                Node::Open(whose) => {
                    let key = self.open_key(*whose, &segments[index..]);
                    return Ok((self.path.then(key), &Node::Text));
                }
                Node::Text | Node::Whole => return Err(self.too_deep()),
            };
            node = node.below(&key).expect("the arms above let through only keys that the node has");
            self.value = self.value.and_then(|value| entry(value, &key));
            self.path = self.path.then(key);
        }
        Ok((self.path, node))
    }

    fn known_key(&self, table: &Table, segment: &str) -> Result<String, ConfigError> {
        let known = table.names().into_iter().find(|key| self.spelling.matches(segment, key));
        known.map(str::to_owned).ok_or_else(|| {
            let key = if self.spelling == Spelling::Variable { segment.to_lowercase() } else { segment.to_owned() };
            table.refuse(self.place(self.path.then(&key)), &key)
        })
    }

    /// Overrides may introduce a name; variables cannot, since they do not keep its case.
    fn name(&self, what: &'static str, segment: &str) -> Result<String, ConfigError> {
        let defined = keys(self.value);
        if self.spelling == Spelling::Exact || defined.contains(&segment) {
            return Ok(segment.to_owned());
        }
        let alike: Vec<_> = defined.iter().copied().filter(|name| self.spelling.matches(segment, name)).collect();
        let at = self.place(self.path.then(segment));
        match alike[..] {
            [name] => Ok(name.to_owned()),
            [] => Err(ConfigError::UnknownName {
                at,
                what,
                hint: suggest::hint(segment, defined.iter().copied()),
                defined: listed(defined.iter().copied()),
            }),
            _ => Err(ConfigError::AmbiguousName { at, names: alike.join(", ") }),
        }
    }

    /// The user's own key, which takes all that is left, separators included.
    fn open_key(&self, whose: OpenKeys, segments: &[&str]) -> String {
        match (self.spelling, whose) {
            (Spelling::Exact, _) => segments.join(".").trim_matches('"').to_owned(),
            (Spelling::Variable, OpenKeys::Function) => segments.join("__"),
            (Spelling::Variable, OpenKeys::Librdkafka) => {
                let key = segments.join("__");
                let present = keys(self.value).into_iter().find(|present| self.spelling.matches(&key, present));
                present.map_or_else(|| key.to_lowercase().replace('_', "."), str::to_owned)
            }
        }
    }

    fn too_deep(self) -> ConfigError {
        let problem = "takes a value, there are no keys below it".into();
        ConfigError::BadValue { at: self.place(self.path.clone()), problem }
    }

    fn place(&self, key: KeyPath) -> Place {
        Place { origin: Some(self.origin.to_owned()), key }
    }
}

fn entry<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match &value.kind {
        ValueKind::Table(table) => table.get(key),
        _ => None,
    }
}

fn keys(value: Option<&Value>) -> Vec<&str> {
    match value.map(|value| &value.kind) {
        Some(ValueKind::Table(table)) => table.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Texts stay as they are written, so that `007` and `1.0` survive; the rest is TOML where it can be.
fn value(text: &str, node: &'static Node, origin: &str) -> Value {
    let as_text = || Value::new(Some(&origin.to_owned()), text);
    let Some(value) = from_value(text, origin) else { return as_text() };
    match (node, &value.kind) {
        (Node::Text, ValueKind::Table(_)) => value,
        (Node::Text, ValueKind::String(_)) if text.starts_with(['"', '\'']) => value,
        (Node::Text, _) => as_text(),
        _ => value,
    }
}

/// The tree with nothing but `value` at `path`.
fn layer(path: &KeyPath, value: Value, origin: &str) -> Layer {
    let origin = origin.to_owned();
    Layer(path.keys().iter().rev().fold(value, |below, key| {
        let table: Map<String, Value> = [(key.clone(), below)].into_iter().collect();
        Value::new(Some(&origin), table)
    }))
}
