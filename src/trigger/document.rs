//! The fields of a message beside its body.

use std::borrow::Cow;

use crate::event::{MessageRef, Properties};

use super::leaf::{Leaf, Number, Test};

/// A field that needs no scan of the body.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MetadataField {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Source,
    Header(String),
    /// Of an AMQP message.
    Property(Property),
}

/// A property of an AMQP message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Property {
    pub name: &'static str,
    kind: Kind,
    leaf: fn(&Properties) -> Option<Leaf<'_>>,
}

impl PartialEq for Property {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

macro_rules! text_property {
    ($name:literal, $field:ident) => {
        Property {
            name: $name,
            kind: Kind::Text,
            leaf: |properties| properties.$field.as_ref().map(|value| text(value.as_bytes())),
        }
    };
}

/// What `properties` of a rule may name.
pub(super) const PROPERTIES: [Property; 14] = [
    Property { name: "exchange", kind: Kind::Text, leaf: |properties| Some(text(properties.exchange.as_bytes())) },
    Property {
        name: "routing_key",
        kind: Kind::Text,
        leaf: |properties| Some(text(properties.routing_key.as_bytes())),
    },
    Property { name: "redelivered", kind: Kind::Any, leaf: |properties| Some(Leaf::Bool(properties.redelivered)) },
    text_property!("message_id", message_id),
    text_property!("correlation_id", correlation_id),
    text_property!("reply_to", reply_to),
    text_property!("content_type", content_type),
    text_property!("content_encoding", content_encoding),
    text_property!("type", kind),
    text_property!("app_id", app_id),
    text_property!("user_id", user_id),
    text_property!("expiration", expiration),
    Property {
        name: "priority",
        kind: Kind::Number,
        leaf: |properties| properties.priority.map(|value| number(value.into())),
    },
    Property {
        name: "delivery_mode",
        kind: Kind::Number,
        leaf: |properties| properties.delivery_mode.map(|value| number(value.into())),
    },
];

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
            Self::Property(property) => property.kind,
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
            Self::Property(property) => message.properties.and_then(|own| (property.leaf)(own)),
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
