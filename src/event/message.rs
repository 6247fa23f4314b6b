//! A message, borrowed from the broker's client or owned for the time of its delivery.

use std::hash::Hasher as _;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// A message as the source's client lends it: nothing is copied before a trigger matches.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageRef<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: Vec<Header<'a>>,
    /// Of an AMQP message.
    pub properties: Option<&'a Arc<Properties>>,
}

/// A header; names may repeat, and order is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
}

/// What an AMQP message brings besides its body, as events show it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Properties {
    pub exchange: String,
    pub routing_key: String,
    /// Whether the broker has handed the message out before.
    pub redelivered: bool,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub app_id: Option<String>,
    pub user_id: Option<String>,
    pub expiration: Option<String>,
    pub priority: Option<u8>,
    pub delivery_mode: Option<u8>,
    /// The headers with their types; [`MessageRef::headers`] has them as bytes.
    #[serde(skip)]
    pub headers: Map<String, Value>,
    /// Whether the message has an offset that stays, as in a stream, which names it.
    #[serde(skip)]
    pub has_offset: bool,
}

impl Properties {
    /// The id of the event made of such a message, where its offset does not name it: its `message_id`, or one that
    /// follows from queue and body, the same for each copy of the message and for messages with equal bodies.
    fn event_id(&self, queue: &str, body: &[u8]) -> Option<Box<str>> {
        match &self.message_id {
            Some(id) if !id.is_empty() => Some(id.as_str().into()),
            _ if self.has_offset => None,
            _ => {
                let mut hasher = SipHasher24::new();
                hasher.write(body);
                Some(format!("{queue}/{:032x}", hasher.finish128().as_u128()).into())
            }
        }
    }
}

/// A message of our own: key, value and headers in one allocation.
#[derive(Debug, Clone)]
pub struct Message {
    topic: Arc<str>,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    bytes: Box<[u8]>,
    key: Option<Range<u32>>,
    value: Option<Range<u32>>,
    headers: Box<[HeaderSpan]>,
    properties: Option<Arc<Properties>>,
    /// The event's id, where it is not made of topic, partition and offset.
    id: Option<Box<str>>,
}

/// Where a header stands in a message's bytes.
#[derive(Debug, Clone)]
struct HeaderSpan {
    name: Range<u32>,
    value: Option<Range<u32>>,
}

impl Message {
    /// Copies what `message` lends. `topic` is the subscription's shared copy of the topic's name.
    pub fn copy_of(message: &MessageRef<'_>, topic: Arc<str>) -> Self {
        let headers_length: usize =
            message.headers.iter().map(|header| header.name.len() + header.value.map_or(0, <[u8]>::len)).sum();
        let length = message.key.map_or(0, <[u8]>::len) + message.value.map_or(0, <[u8]>::len) + headers_length;
        let mut bytes = Vec::with_capacity(length);
        let mut append = |part: &[u8]| {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(part);
            start..bytes.len() as u32
        };
        let key = message.key.map(&mut append);
        let value = message.value.map(&mut append);
        let headers = message
            .headers
            .iter()
            .map(|header| HeaderSpan { name: append(header.name.as_bytes()), value: header.value.map(&mut append) })
            .collect();
        let id = message.properties.and_then(|own| own.event_id(&topic, message.value.unwrap_or_default()));
        Self {
            id,
            properties: message.properties.cloned(),
            topic,
            partition: message.partition,
            offset: message.offset,
            timestamp: message.timestamp,
            bytes: bytes.into_boxed_slice(),
            key,
            value,
            headers,
        }
    }

    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The event's id, where it is not made of topic, partition and offset.
    pub fn own_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Of an AMQP message.
    pub fn properties(&self) -> Option<&Arc<Properties>> {
        self.properties.as_ref()
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.slice(&self.key)
    }

    /// `None` is a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.slice(&self.value)
    }

    pub fn headers(&self) -> impl ExactSizeIterator<Item = Header<'_>> {
        self.headers.iter().map(|HeaderSpan { name, value }| Header {
            // Header names enter as `&str`.
            name: std::str::from_utf8(&self.bytes[name.start as usize..name.end as usize]).unwrap_or_default(),
            value: self.slice(value),
        })
    }

    /// Memory that the message holds, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + self.headers.len() * size_of::<HeaderSpan>()
    }

    /// The message as a borrowed one.
    pub fn lend(&self) -> MessageRef<'_> {
        MessageRef {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key(),
            value: self.value(),
            headers: self.headers().collect(),
            properties: self.properties.as_ref(),
        }
    }

    fn slice(&self, range: &Option<Range<u32>>) -> Option<&[u8]> {
        range.as_ref().map(|range| &self.bytes[range.start as usize..range.end as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_copy_lends_what_it_was_made_of() {
        let original = MessageRef {
            topic: "orders",
            partition: 3,
            offset: 42,
            timestamp: Some(1_700_000_000_000),
            key: Some(b"k"),
            value: None,
            headers: vec![
                Header { name: "a", value: Some(b"1") },
                Header { name: "a", value: None },
                Header { name: "", value: Some(b"") },
            ],
            properties: None,
        };
        assert_eq!(Message::copy_of(&original, "orders".into()).lend(), original);
    }

    #[test]
    fn an_amqp_message_is_known_by_its_message_id_or_its_body() {
        let id = |message_id: Option<&str>, body: &[u8]| {
            let properties =
                Arc::new(Properties { message_id: message_id.map(str::to_owned), ..Properties::default() });
            let message = MessageRef {
                topic: "q",
                partition: 0,
                offset: 1,
                timestamp: None,
                key: None,
                value: Some(body),
                headers: Vec::new(),
                properties: Some(&properties),
            };
            Message::copy_of(&message, "q".into()).own_id().unwrap().to_owned()
        };
        assert_eq!(id(Some("m-1"), b"a"), "m-1");
        assert_eq!(id(None, b"a"), id(Some(""), b"a"));
        assert_ne!(id(None, b"a"), id(None, b"b"));
        assert!(id(None, b"a").starts_with("q/"));
    }
}
