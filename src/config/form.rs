//! The merged tree read into the types of [`super::file`], table by table, so that every table reports its own errors.

use ::config::{Value, ValueKind};
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use serde_path_to_error::Segment;

use super::error::ConfigError;
use super::file::{FunctionFile, ServiceFile, SourceFile, TriggerFile, WorkerFile};
use super::place::{KeyPath, Origins};

/// A whole configuration as written, defaults filled in.
pub(super) struct Form {
    pub worker: WorkerFile,
    pub sources: IndexMap<String, SourceFile>,
    pub services: IndexMap<String, ServiceForm>,
}

/// A service with what belongs to it.
pub(super) struct ServiceForm {
    pub service: ServiceFile,
    pub functions: IndexMap<String, FunctionFile>,
    pub triggers: IndexMap<String, TriggerFile>,
}

/// Reads a tree that [`super::schema::check`] has gone over. `None` only where there are errors.
pub(super) fn read(origins: &Origins<'_>, errors: &mut Vec<ConfigError>) -> Option<Form> {
    let mut reader = Reader { origins, errors };
    let root = KeyPath::default();
    let worker = reader.table(origins.tree, &root, &["source", "service"]);
    let sources =
        reader.named(origins.tree, &root.then("source"), |reader, value, path| reader.table(value, path, &[]));
    let services = reader.named(origins.tree, &root.then("service"), |reader, value, path| {
        let service = reader.table(value, path, &["function", "trigger"]);
        let function = path.then("function");
        let functions = reader.named(value, &function, |reader, value, path| reader.table(value, path, &[]));
        let trigger = path.then("trigger");
        let triggers = reader.named(value, &trigger, |reader, value, path| reader.table(value, path, &[]));
        Some(ServiceForm { service: service?, functions, triggers })
    });
    Some(Form { worker: worker?, sources, services })
}

struct Reader<'a> {
    origins: &'a Origins<'a>,
    errors: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    /// Each table under the last key of `path`, which is looked up in `parent`.
    fn named<T>(
        &mut self,
        parent: &Value,
        path: &KeyPath,
        mut read: impl FnMut(&mut Self, &Value, &KeyPath) -> Option<T>,
    ) -> IndexMap<String, T> {
        let mut tables = IndexMap::new();
        if let Some(ValueKind::Table(named)) = entry(parent, path.last()).map(|value| &value.kind) {
            for (name, value) in named {
                if let Some(table) = read(self, value, &path.then(name)) {
                    tables.insert(name.clone(), table);
                }
            }
        }
        tables
    }

    /// The table without the keys that are read by themselves. After an error the key at fault is left out and reading
    /// goes on, to find the errors of the other keys too.
    fn table<T: DeserializeOwned>(&mut self, value: &Value, path: &KeyPath, apart: &[&str]) -> Option<T> {
        let mut json = to_json(value);
        for key in apart {
            remove(&mut json, &[(*key).to_owned()]);
        }
        let mut first = true;
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(&json) {
                Ok(table) if first => return Some(table),
                Ok(_) => return None,
                Err(error) => error,
            };
            let keys = keys_of(error.path());
            let removed = remove(&mut json, &keys);
            // A required key that was left out is missed by now: that is no error of its own.
            if first || removed {
                let at = self.origins.place(&keys.iter().fold(path.clone(), |path, key| path.then(key)));
                self.errors.push(ConfigError::BadValue { at, problem: error.inner().to_string() });
            }
            if !removed {
                return None;
            }
            first = false;
        }
    }
}

fn entry<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match &value.kind {
        ValueKind::Table(table) => table.get(key),
        _ => None,
    }
}

fn keys_of(path: &serde_path_to_error::Path) -> Vec<String> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Whether there was something to remove. An element of a list takes its list along.
fn remove(json: &mut Json, keys: &[String]) -> bool {
    let (Some((first, rest)), Json::Object(table)) = (keys.split_first(), json) else { return false };
    match table.get_mut(first) {
        Some(below @ Json::Object(_)) if !rest.is_empty() => remove(below, rest),
        Some(_) => table.remove(first).is_some(),
        None => false,
    }
}

/// The same values in the data model whose deserializer converts nothing: `"16"` is no number there.
fn to_json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(flag) => Json::Bool(*flag),
        ValueKind::I64(number) => Json::from(*number),
        ValueKind::U64(number) => Json::from(*number),
        // Wider numbers come from no layer of ours.
        ValueKind::I128(number) => Json::from(number.to_string()),
        ValueKind::U128(number) => Json::from(number.to_string()),
        ValueKind::Float(number) => Json::from(*number),
        ValueKind::String(text) => Json::from(text.clone()),
        ValueKind::Array(list) => Json::Array(list.iter().map(to_json).collect()),
        ValueKind::Table(table) => {
            Json::Object(table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect::<Map<_, _>>())
        }
    }
}
