//! Rules as they are written, compiled and checked at load time.

use std::borrow::Cow;

use serde_json::{Map, Value};
use thiserror::Error;

use super::document::{Kind, MetadataField, PROPERTIES, Property};
use super::leaf::{Comparison, Leaf, LeafTest, Number, Test};

/// A compiled pattern. The default one matches every message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    pub(super) metadata: Vec<(MetadataField, Vec<Test>)>,
    pub(super) body: Option<Pattern>,
}

/// What a rule asks of the body.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    /// One of these must pass.
    Tests(Vec<Test>),
    /// All of these must match.
    Object(Vec<(String, Pattern)>),
}

/// Why a pattern is no rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{path}: {reason}", if path.is_empty() { "rule" } else { "rule." })]
pub struct RuleError {
    /// The place in the pattern, such as `data.amount[0].numeric`; empty is the whole pattern.
    pub path: String,
    pub reason: String,
}

/// Matching recurs as deep as a pattern goes.
const DEPTH_MAX: usize = 64;
const FIELDS: [&str; 9] =
    ["data", "topic", "partition", "offset", "timestamp", "key", "headers", "properties", "source"];
const OPERATORS: [&str; 5] = ["prefix", "suffix", "numeric", "exists", "anything-but"];
const NOT_YET: [&str; 4] = ["wildcard", "cidr", "equals-ignore-case", "$or"];

type Result<T> = std::result::Result<T, RuleError>;

impl Rule {
    /// Compiles a pattern; `crate::trigger` says what it may hold. The error names the place and what is allowed there.
    pub fn compile(pattern: &Value) -> Result<Rule> {
        let mut rule = Rule::default();
        for (name, value) in object("", pattern)? {
            match (name.as_str(), MetadataField::named(name)) {
                (_, Some(field)) => {
                    let tests = tests(name, value, field.kind())?;
                    rule.metadata.push((field, tests));
                }
                ("data", None) => rule.body = Some(body_pattern(name, value, DEPTH_MAX)?),
                ("headers", None) => {
                    for (header, value) in object(name, value)? {
                        let field = MetadataField::Header(header.clone());
                        let tests = tests(&format!("headers.{header}"), value, field.kind())?;
                        rule.metadata.push((field, tests));
                    }
                }
                ("properties", None) => {
                    for (property, value) in object(name, value)? {
                        let field = MetadataField::Property(property_named(property)?);
                        let tests = tests(&format!("properties.{property}"), value, field.kind())?;
                        rule.metadata.push((field, tests));
                    }
                }
                (_, None) => return Err(unknown_field(name)),
            }
        }
        Ok(rule)
    }

    /// Whether the message's body must be scanned to decide.
    pub fn reads_body(&self) -> bool {
        self.body.is_some()
    }
}

fn refuse<T>(path: &str, reason: impl Into<String>) -> Result<T> {
    Err(RuleError { path: path.to_owned(), reason: reason.into() })
}

fn unknown_field(name: &str) -> RuleError {
    let reason = if NOT_YET.contains(&name) {
        "not supported yet".to_owned()
    } else {
        format!("no such field{}; a rule may test {}", did_you_mean(name, &FIELDS), FIELDS.join(", "))
    };
    RuleError { path: name.to_owned(), reason }
}

fn property_named(name: &str) -> Result<Property> {
    PROPERTIES.into_iter().find(|property| property.name == name).ok_or_else(|| {
        let names = PROPERTIES.map(|property| property.name);
        let (hint, names) = (did_you_mean(name, &names), names.join(", "));
        RuleError {
            path: format!("properties.{name}"),
            reason: format!("no such property{hint}; a rule may test {names}"),
        }
    })
}

fn did_you_mean(name: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map_or_else(String::new, |(_, known)| format!(", did you mean \"{known}\"?"))
}

/// An object that is not empty.
fn object<'p>(path: &str, pattern: &'p Value) -> Result<&'p Map<String, Value>> {
    match pattern {
        Value::Object(fields) if fields.is_empty() => {
            refuse(path, "an empty pattern; leave it out to match every message")
        }
        Value::Object(fields) => Ok(fields),
        other => refuse(path, format!("expected an object of fields, found {other}")),
    }
}

fn body_pattern(path: &str, pattern: &Value, depth_left: usize) -> Result<Pattern> {
    if !pattern.is_object() {
        return Ok(Pattern::Tests(tests(path, pattern, Kind::Any)?));
    }
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return refuse(path, format!("nested deeper than {DEPTH_MAX} objects"));
    };
    let fields = object(path, pattern)?
        .iter()
        .map(|(name, value)| {
            let path = format!("{path}.{name}");
            match (name.as_str(), value) {
                ("$or", _) => refuse(&path, "not supported yet"),
                (operator, value) if OPERATORS.contains(&operator) && !value.is_object() && !value.is_array() => {
                    refuse(&path, format!("a test stands in a list: [{{\"{operator}\": {value}}}]"))
                }
                _ => Ok((name.clone(), body_pattern(&path, value, depth_left)?)),
            }
        })
        .collect::<Result<_>>()?;
    Ok(Pattern::Object(fields))
}

/// The list of tests of one field.
fn tests(path: &str, list: &Value, kind: Kind) -> Result<Vec<Test>> {
    match list {
        Value::Array(list) if list.is_empty() => refuse(path, "an empty list never matches"),
        Value::Array(list) => {
            list.iter().enumerate().map(|(nth, value)| test(&format!("{path}[{nth}]"), value, kind)).collect()
        }
        Value::Object(_) => refuse(path, "expected a list of tests, found an object: this field has no fields in it"),
        other => refuse(path, format!("expected a list of tests such as [{other}], found {other}")),
    }
}

fn test(path: &str, value: &Value, kind: Kind) -> Result<Test> {
    let Value::Object(operators) = value else {
        return Ok(Test::Leaf(equals(path, value, kind)?));
    };
    let mut operators = operators.iter();
    let (Some((operator, operand)), None) = (operators.next(), operators.next()) else {
        return refuse(path, format!("expected exactly one operator: {}", OPERATORS.join(", ")));
    };
    let path = format!("{path}.{operator}");
    match operator.as_str() {
        "exists" => match operand {
            Value::Bool(wanted) => Ok(Test::Exists(*wanted)),
            other => refuse(&path, format!("expected true or false, found {other}")),
        },
        "prefix" => Ok(Test::Leaf(LeafTest::Prefix(affix(&path, operand, kind)?))),
        "suffix" => Ok(Test::Leaf(LeafTest::Suffix(affix(&path, operand, kind)?))),
        "numeric" => Ok(Test::Leaf(LeafTest::Numeric(numeric(&path, operand, kind)?))),
        "anything-but" => Ok(Test::Leaf(LeafTest::AnythingBut(anything_but(&path, operand, kind)?))),
        known if NOT_YET.contains(&known) => refuse(&path, "not supported yet"),
        unknown => {
            let hint = did_you_mean(unknown, &OPERATORS);
            refuse(&path, format!("no such operator{hint}; there are {}", OPERATORS.join(", ")))
        }
    }
}

fn equals(path: &str, value: &Value, kind: Kind) -> Result<LeafTest> {
    let fits = match value {
        Value::Null => matches!(kind, Kind::Any | Kind::TextOrNull),
        Value::Bool(_) => kind == Kind::Any,
        Value::Number(_) => matches!(kind, Kind::Any | Kind::Number),
        Value::String(_) => kind != Kind::Number,
        Value::Array(_) | Value::Object(_) => return refuse(path, format!("expected a test, found {value}")),
    };
    if !fits {
        return refuse(path, format!("{value} never matches here, where values are {}", kind.name()));
    }
    Ok(LeafTest::Equals(match value {
        Value::Bool(value) => Leaf::Bool(*value),
        Value::Number(_) => Leaf::Number(number(path, value)?),
        Value::String(text) => Leaf::Text(Cow::Owned(text.clone().into_bytes())),
        Value::Null | Value::Array(_) | Value::Object(_) => Leaf::Null,
    }))
}

fn affix(path: &str, operand: &Value, kind: Kind) -> Result<String> {
    match operand {
        _ if kind == Kind::Number => refuse(path, "never matches here, where values are numbers"),
        Value::String(text) => Ok(text.clone()),
        Value::Object(_) => refuse(path, format!("expected a string, found {operand}: this form is not supported yet")),
        other => refuse(path, format!("expected a string, found {other}")),
    }
}

/// `["=", 1]`, or a range such as `[">", 0, "<=", 5]`.
fn numeric(path: &str, operand: &Value, kind: Kind) -> Result<Vec<(Comparison, Number)>> {
    let expected = "expected comparisons such as [\">\", 0, \"<=\", 5]";
    if matches!(kind, Kind::Text | Kind::TextOrNull) {
        return refuse(path, format!("never matches here, where values are {}", kind.name()));
    }
    let Some(list) = operand.as_array().filter(|list| matches!(list.len(), 2 | 4)) else {
        return refuse(path, format!("{expected}, found {operand}"));
    };
    list.chunks(2)
        .enumerate()
        .map(|(nth, pair)| {
            let Some(comparison) = pair[0].as_str().and_then(Comparison::named) else {
                let path = format!("{path}[{}]", 2 * nth);
                return refuse(&path, format!("expected one of = < <= > >=, found {}", pair[0]));
            };
            Ok((comparison, number(&format!("{path}[{}]", 2 * nth + 1), &pair[1])?))
        })
        .collect()
}

fn number(path: &str, value: &Value) -> Result<Number> {
    let Value::Number(number) = value else {
        return refuse(path, format!("expected a number, found {value}"));
    };
    let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (integer, number.as_f64()) {
        (Some(integer), _) => Ok(Number::Integer(integer)),
        (None, Some(float)) if float.is_finite() => Ok(Number::Float(float)),
        (None, _) => refuse(path, format!("{number} is out of range")),
    }
}

fn anything_but(path: &str, operand: &Value, kind: Kind) -> Result<Vec<LeafTest>> {
    match operand {
        Value::Array(list) if list.is_empty() => refuse(path, "an empty list excludes nothing; use {\"exists\": true}"),
        Value::Array(list) => {
            list.iter().enumerate().map(|(nth, value)| equals(&format!("{path}[{nth}]"), value, kind)).collect()
        }
        Value::Object(operators) => match operators.iter().next() {
            Some((operator, prefix)) if operators.len() == 1 && operator == "prefix" => {
                Ok(vec![LeafTest::Prefix(affix(&format!("{path}.prefix"), prefix, kind)?)])
            }
            _ => refuse(path, format!("not supported yet: {operand}; only {{\"prefix\": \"..\"}} is")),
        },
        value => Ok(vec![equals(path, value, kind)?]),
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Any => "of any kind",
            Kind::Text => "text",
            Kind::TextOrNull => "text or null",
            Kind::Number => "numbers",
        }
    }
}
