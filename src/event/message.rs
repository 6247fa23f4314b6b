//! A message, borrowed from the broker's client or owned for the time of its delivery.

use std::ops::Range;
use std::sync::Arc;

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
}

/// A header; names may repeat, and order is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
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
        Self {
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
        };
        assert_eq!(Message::copy_of(&original, "orders".into()).lend(), original);
    }
}
