//! TOML text as one layer of configuration: every value remembers its file and line.

use std::fmt;
use std::path::Path;

use ::config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::place::file_origin;
use super::schema;

/// One layer: what a file, a variable or an override says.
#[derive(Debug, Clone)]
pub(super) struct Layer(pub Value);

/// All layers in one tree. Crate `config` would do this too, but would also merge two secrets or two rules into one, and
/// would forget where tables come from.
pub(super) fn merged(layers: &[Layer]) -> Value {
    let mut tree = Value::new(None, Map::<String, Value>::new());
    for layer in layers {
        merge(&mut tree, &layer.0, Some(&schema::ROOT));
    }
    tree
}

/// Lays `over` on top of `below`: tables key by key, everything else whole.
fn merge(below: &mut Value, over: &Value, node: Option<&'static schema::Node>) {
    if let (ValueKind::Table(base), ValueKind::Table(table), Some(node)) = (&mut below.kind, &over.kind, node)
        && node.is_merged()
    {
        for (key, value) in table {
            match base.get_mut(key) {
                Some(present) => merge(present, value, node.below(key)),
                None => _ = base.insert(key.clone(), value.clone()),
            }
        }
        return;
    }
    *below = over.clone();
}

/// The layer of a configuration file.
pub(super) fn from_file(file: &Path, text: &str) -> Result<Layer, ConfigError> {
    let at = |offset: usize, message: String| {
        let (line, column) = line_and_column(text, offset);
        ConfigError::Syntax { file: file.to_owned(), line, column, message }
    };
    let table = DeTable::parse(text)
        .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message().replace('\n', "; ")))?;
    let origin = |offset: usize| file_origin(file, line_and_column(text, offset).0);
    let table = from_table(table.into_inner(), &origin).map_err(|(offset, message)| at(offset, message.into()))?;
    Ok(Layer(Value::new(Some(&file_origin(file, 1)), table)))
}

/// The text as one TOML value, if it is one.
pub(super) fn from_value(text: &str, origin: &str) -> Option<Value> {
    let value = DeValue::parse(text).ok()?;
    from_spanned(value, &|_| origin.to_owned()).ok()
}

type Unfit = (usize, &'static str);

fn from_table(table: DeTable<'_>, origin: &impl Fn(usize) -> String) -> Result<Map<String, Value>, Unfit> {
    let mut entries: Vec<_> = table.into_iter().collect();
    // The parser sorts keys by name; people expect the order in which they wrote them.
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut map = Map::new();
    for (key, value) in entries {
        let start = key.span().start;
        let value = from_spanned(value, origin)?;
        map.insert(key.into_inner().into_owned(), Value::new(Some(&origin(start)), value.kind));
    }
    Ok(map)
}

fn from_spanned(value: Spanned<DeValue<'_>>, origin: &impl Fn(usize) -> String) -> Result<Value, Unfit> {
    let start = value.span().start;
    let kind = match value.into_inner() {
        DeValue::String(text) => ValueKind::String(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(ValueKind::I64)
            .map_err(|_| (start, "the number does not fit into 64 bits"))?,
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => ValueKind::Float(number),
            _ => return Err((start, "only finite numbers mean something here")),
        },
        DeValue::Boolean(flag) => ValueKind::Boolean(flag),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(list) => {
            ValueKind::Array(list.into_iter().map(|item| from_spanned(item, origin)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => ValueKind::Table(from_table(table, origin)?),
    };
    Ok(Value::new(Some(&origin(start)), kind))
}

/// Both counted from 1, the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A value's kind in words, for messages; never the value, which may be a secret.
pub(super) struct KindName<'a>(pub &'a Value);

impl fmt::Display for KindName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.kind {
            ValueKind::Nil => "nothing",
            ValueKind::Boolean(_) => "a boolean",
            ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
            ValueKind::Float(_) => "a fraction",
            ValueKind::String(_) => "a string",
            ValueKind::Table(_) => "a table",
            ValueKind::Array(_) => "a list",
        })
    }
}
