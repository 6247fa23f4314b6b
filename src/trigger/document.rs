//! The fields of a message beside its body.

use std::borrow::Cow;

use crate::event::MessageRef;

use super::leaf::{Leaf, Number, Test};

/// A field that needs no scan of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MetadataField {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Source,
    Header(String),
}

/// What the leaves of a field can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Text,
    TextOrNull,
    Number,
}

impl MetadataField {
    /// The field of this name at the top of a rule; `headers` are more than one field.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "topic" => Self::Topic,
            "partition" => Self::Partition,
            "offset" => Self::Offset,
            "timestamp" => Self::Timestamp,
            "key" => Self::Key,
            "source" => Self::Source,
            _ => return None,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Topic | Self::Key | Self::Source => Kind::Text,
            Self::Partition | Self::Offset | Self::Timestamp => Kind::Number,
            Self::Header(_) => Kind::TextOrNull,
        }
    }

    /// Whether the field passes one of `tests`.
    pub(super) fn passes(&self, tests: &[Test], message: &MessageRef<'_>, source: &str) -> bool {
        let leaf = match self {
            Self::Topic => Some(text(message.topic.as_bytes())),
            Self::Source => Some(text(source.as_bytes())),
            Self::Key => message.key.map(text),
            Self::Partition => Some(number(message.partition.into())),
            Self::Offset => Some(number(message.offset)),
            Self::Timestamp => message.timestamp.map(number),
            Self::Header(name) => {
                let leaves: Vec<_> = message
                    .headers
                    .iter()
                    .filter(|header| header.name == name)
                    .map(|header| header.value.map_or(Leaf::Null, text))
                    .collect();
                return Test::any(tests, leaves.iter());
            }
        };
        Test::any(tests, leaf.as_slice().iter())
    }
}

fn text(bytes: &[u8]) -> Leaf<'_> {
    Leaf::Text(Cow::Borrowed(bytes))
}

fn number(integer: i64) -> Leaf<'static> {
    Leaf::Number(Number::Integer(integer.into()))
}
