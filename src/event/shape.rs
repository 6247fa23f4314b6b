//! The event shapes: how a message becomes the JSON that a function is handed.
//!
//! An event travels in two parts: its metadata, which is written here, and its data, which stays the message's own
//! bytes until V8 needs it. Whatever a payload holds, it cannot reach out of the data: it is called JSON only when it
//! is exactly one JSON value. The event's data is the last key of every shape.

mod body;
mod cloud_events;
mod json;
mod lagless;
mod templates;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use lagless_protocol::frames::Data;

pub use self::templates::Templates;
use super::Message;

/// A form of event. `crate::config` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Our own, with these keys, all of them always there:
    ///
    /// - `id`: `topic/partition/offset`; `source`: the source's name; `trigger`: `service.trigger`.
    /// - `time`: RFC 3339, UTC, milliseconds; null when unknown or outside the years that RFC 3339 can say.
    /// - `topic`, `partition`, `offset`.
    /// - `key`: a string; `{"base64": ".."}` when it is not UTF-8; null when there is none.
    /// - `headers`: an object. A value is a string, `{"base64": ".."}` or null; an array of these where the name repeats.
    /// - `content_type`: what `data` is; see below. `attempt`: 1 at first.
    /// - `data`: a value (JSON), a string (text), a base64 string (bytes), or null (a tombstone).
    ///
    /// The message's `content-type` header decides which of these the data is. A JSON type (`application/json`,
    /// `..+json`) means JSON if the payload is exactly one JSON value, otherwise text. A text type (`text/..`, XML, a
    /// form) means text. Any other type means bytes. Without a header that is a media type, it is JSON if it is valid
    /// JSON, otherwise text. Text that is not UTF-8 is bytes. `content_type` repeats the header where the data became
    /// what it says; otherwise it is `application/json`, `text/plain; charset=utf-8` or `application/octet-stream`.
    /// A byte order mark in front of JSON is left out, since `JSON.parse` refuses it.
    ///
    /// Of an AMQP message, `topic` is the queue, `partition` is 0, `offset` counts the messages of the connection from
    /// 1 (it orders, and names nothing), `key` is null, and `id` is the `message_id` or, without one,
    /// `queue/<hash of the body>`, which messages with equal bodies share. `headers` keep their AMQP types as JSON
    /// types; bytes that are no text are `{"base64": ".."}`, times are milliseconds. One key more, `properties`, has
    /// `exchange`, `routing_key`, `redelivered`, and the message's properties, null where it has none.
    Lagless,
    /// CloudEvents 1.0, structured (the JSON format).
    ///
    /// A message that is a CloudEvent already, in binary mode (`ce_*` headers; in AMQP also `cloudEvents:*` and
    /// `cloudEvents_*`, whose numbers, booleans and times keep their types) or structured mode
    /// (`application/cloudevents+json`), keeps its own attributes. Any other becomes an event of the type
    /// `dev.lagless.message` with the source `/lagless/<source>/<topic>`, the id `topic/partition/offset` and the
    /// subject `partition:<partition>#<offset>`; of an AMQP message, the id is that of the other shape and the subject
    /// is the routing key. All carry `laglesstrigger` and `laglessattempt`, and `partitionkey`
    /// when the message has a UTF-8 key and the event does not bring one itself.
    /// Data that is bytes is `data_base64`; an event without data has `data` null.
    CloudEvents,
}

/// What the events of one trigger have in common.
#[derive(Debug, Clone)]
pub struct Envelope {
    pub shape: Shape,
    /// Name of the source.
    pub source: String,
    /// `service.trigger`.
    pub trigger: String,
}

/// What [`Envelope::write`] says of the event it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<'m> {
    /// Index into the batch's templates.
    pub template: u32,
    pub data: Data<'m>,
}

impl Envelope {
    /// Appends the event's metadata, a JSON object without the data's key, to `out`, and learns its key list in
    /// `templates`, which belong to the batch the event travels in.
    pub fn write<'m>(
        &self,
        message: &'m Message,
        attempt: u32,
        templates: &mut Templates,
        out: &mut Vec<u8>,
    ) -> Written<'m> {
        match self.shape {
            Shape::Lagless => self.write_lagless(message, attempt, templates, out),
            Shape::CloudEvents => self.write_cloud_event(message, attempt, templates, out),
        }
    }

    /// Appends the id of the event made of `message` to `out`: `topic/partition/offset`, or the message's own.
    pub fn id(message: &Message, out: &mut String) {
        match message.own_id() {
            Some(id) => out.push_str(id),
            // Writing to a string cannot fail.
            None => _ = write!(out, "{}/{}/{}", message.topic(), message.partition(), message.offset()),
        }
    }

    /// Appends the id as it stands between the quotes of a JSON string.
    fn write_id(message: &Message, out: &mut Vec<u8>) {
        match message.own_id() {
            Some(id) => json::part_of_string(out, id),
            None => {
                json::part_of_string(out, message.topic());
                json::display(out, format_args!("/{}/{}", message.partition(), message.offset()));
            }
        }
    }
}

/// The whole event, metadata and data, as one JSON text: for people and tools, not for the way to V8.
pub fn whole_event_json(envelope: &Envelope, message: &Message, attempt: u32) -> String {
    let mut templates = Templates::default();
    let mut out = Vec::new();
    let written = envelope.write(message, attempt, &mut templates, &mut out);
    out.pop();
    out.push(b',');
    json::string(&mut out, templates.data_key(written.template));
    out.push(b':');
    match written.data {
        Data::Null => out.extend_from_slice(b"null"),
        Data::Json(text) => out.extend_from_slice(text),
        Data::Text(text) => json::string(&mut out, text),
        Data::Bytes(bytes) => json::base64(&mut out, bytes),
    }
    out.push(b'}');
    String::from_utf8(out).expect("metadata and checked data are UTF-8")
}
