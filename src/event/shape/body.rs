//! What the payload of a message is: JSON, text, bytes or nothing. The rule stands at [`super::Shape::Lagless`].

use lagless_protocol::frames::Data;
use serde::de::IgnoredAny;

use crate::event::Message;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The data of an event, and the content type that says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Body<'m> {
    pub(super) data: Data<'m>,
    /// `None` for a tombstone.
    pub(super) content_type: Option<&'m str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    Json,
    Text,
    Bytes,
}

impl<'m> Body<'m> {
    pub(super) fn of(message: &'m Message) -> Self {
        let Some(value) = message.value() else {
            return Self { data: Data::Null, content_type: None };
        };
        let header = content_type(message);
        let declared = header.and_then(declared);
        let data = match declared {
            None | Some(Declared::Json) => json(value).or_else(|| text(value)),
            Some(Declared::Text) => text(value),
            Some(Declared::Bytes) => None,
        }
        .unwrap_or(Data::Bytes(value));
        let (is, usual) = match data {
            Data::Null | Data::Json(_) => (Declared::Json, "application/json"),
            Data::Text(_) => (Declared::Text, "text/plain; charset=utf-8"),
            Data::Bytes(_) => (Declared::Bytes, "application/octet-stream"),
        };
        let content_type = header.filter(|_| declared == Some(is)).unwrap_or(usual);
        Self { data, content_type: Some(content_type) }
    }
}

/// The message's content type: the AMQP property, or the header `content-type`, if it is text.
pub(super) fn content_type(message: &Message) -> Option<&str> {
    if let Some(own) = message.properties().and_then(|properties| properties.content_type.as_deref()) {
        return Some(own);
    }
    let header = message.headers().find(|header| header.name.eq_ignore_ascii_case("content-type"))?;
    std::str::from_utf8(header.value?).ok()
}

/// The media type without its parameters, for comparisons that ignore case.
pub(super) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// `bytes` without a byte order mark in front.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

fn declared(content_type: &str) -> Option<Declared> {
    let media = media_type(content_type).to_ascii_lowercase();
    let (kind, subtype) = media.split_once('/')?;
    Some(match subtype {
        _ if subtype == "json" || subtype.ends_with("+json") => Declared::Json,
        _ if kind == "text" || subtype.ends_with("+xml") => Declared::Text,
        "xml" | "x-www-form-urlencoded" => Declared::Text,
        _ => Declared::Bytes,
    })
}

/// `JSON.parse` accepts exactly what this does: lone surrogates as escapes, numbers of any size, any depth. The check
/// goes through the text without recursion.
fn json(value: &[u8]) -> Option<Data<'_>> {
    let text = std::str::from_utf8(without_mark(value)).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    Some(Data::Json(text.as_bytes()))
}

fn text(value: &[u8]) -> Option<Data<'_>> {
    std::str::from_utf8(value).ok().map(Data::Text)
}
