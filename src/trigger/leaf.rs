//! Leaves of a document, and the tests that a rule makes on them.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A leaf.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Leaf<'a> {
    Null,
    Bool(bool),
    Number(Number),
    /// Mostly UTF-8. A key or header may hold any bytes; a lone surrogate in JSON stands as three bytes that no UTF-8
    /// text has, so that it equals nothing.
    Text(Cow<'a, [u8]>),
}

/// A number by its value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

/// What a rule asks of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    /// Is, or is not, there: the one test that an absent field may pass.
    Exists(bool),
    Leaf(LeafTest),
}

/// What a rule asks of one leaf.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LeafTest {
    Equals(Leaf<'static>),
    Prefix(String),
    Suffix(String),
    /// All of them.
    Numeric(Vec<(Comparison, Number)>),
    /// None of them.
    AnythingBut(Vec<LeafTest>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Test {
    /// Whether the field with these leaves passes one of `tests`.
    pub(super) fn any<'l, 'b: 'l>(tests: &[Test], leaves: impl Iterator<Item = &'l Leaf<'b>> + Clone) -> bool {
        tests.iter().any(|test| match test {
            Test::Exists(wanted) => leaves.clone().next().is_some() == *wanted,
            Test::Leaf(test) => leaves.clone().any(|leaf| test.accepts(leaf)),
        })
    }
}

impl LeafTest {
    fn accepts(&self, leaf: &Leaf<'_>) -> bool {
        match (self, leaf) {
            (Self::Equals(wanted), leaf) => wanted == leaf,
            (Self::Prefix(prefix), Leaf::Text(text)) => text.starts_with(prefix.as_bytes()),
            (Self::Suffix(suffix), Leaf::Text(text)) => text.ends_with(suffix.as_bytes()),
            (Self::Numeric(bounds), Leaf::Number(number)) => {
                bounds.iter().all(|(comparison, bound)| comparison.holds(number.compare(bound)))
            }
            (Self::AnythingBut(refused), leaf) => !refused.iter().any(|test| test.accepts(leaf)),
            (Self::Prefix(_) | Self::Suffix(_) | Self::Numeric(_), _) => false,
        }
    }
}

impl Comparison {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "=" => Self::Equal,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Number {
    /// Reads a number as JSON spells it.
    pub(super) fn from_literal(literal: &str) -> Option<Self> {
        let integer = || literal.parse().ok().map(Number::Integer);
        integer().or_else(|| literal.parse().ok().map(Number::Float))
    }

    /// Integers exactly, else as doubles. Neither side is ever NaN: JSON cannot spell it.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(one), Self::Integer(other)) => one.cmp(other),
            _ => self.as_double().partial_cmp(&other.as_double()).unwrap_or(Ordering::Less),
        }
    }

    fn as_double(&self) -> f64 {
        match *self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other).is_eq()
    }
}
