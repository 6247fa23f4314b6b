//! Our own shape.

use crate::event::{Header, Message};

use super::body::Body;
use super::{Envelope, Templates, Written, json};

const KEYS: &[&str] = &[
    "id",
    "source",
    "trigger",
    "time",
    "topic",
    "partition",
    "offset",
    "key",
    "headers",
    "content_type",
    "attempt",
    "data",
];
/// Of AMQP messages.
const KEYS_WITH_PROPERTIES: &[&str] = &[
    "id",
    "source",
    "trigger",
    "time",
    "topic",
    "partition",
    "offset",
    "key",
    "headers",
    "content_type",
    "attempt",
    "properties",
    "data",
];

impl Envelope {
    pub(super) fn write_lagless<'m>(
        &self,
        message: &'m Message,
        attempt: u32,
        templates: &mut Templates,
        out: &mut Vec<u8>,
    ) -> Written<'m> {
        let body = Body::of(message);
        out.extend_from_slice(b"{\"id\":\"");
        Self::write_id(message, out);
        out.extend_from_slice(b"\",\"source\":");
        json::string(out, &self.source);
        out.extend_from_slice(b",\"trigger\":");
        json::string(out, &self.trigger);
        out.extend_from_slice(b",\"time\":");
        match json::moment(message.timestamp()) {
            Some(moment) => json::time(out, &moment),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"topic\":");
        json::string(out, message.topic());
        json::display(out, format_args!(",\"partition\":{},\"offset\":{}", message.partition(), message.offset()));
        out.extend_from_slice(b",\"key\":");
        json::text_or_base64(out, message.key());
        out.extend_from_slice(b",\"headers\":");
        match message.properties() {
            Some(properties) => json::value(out, &properties.headers),
            None => write_headers(message, out),
        }
        out.extend_from_slice(b",\"content_type\":");
        json::text_or_base64(out, body.content_type.map(str::as_bytes));
        json::display(out, format_args!(",\"attempt\":{attempt}"));
        let keys = match message.properties() {
            Some(properties) => {
                out.extend_from_slice(b",\"properties\":");
                json::value(out, &**properties);
                KEYS_WITH_PROPERTIES
            }
            None => KEYS,
        };
        out.push(b'}');
        Written { template: templates.fixed(keys), data: body.data }
    }
}

/// The headers by name, in the order in which the names first come.
fn write_headers(message: &Message, out: &mut Vec<u8>) {
    let headers: Vec<Header<'_>> = message.headers().collect();
    let mut by_name: Vec<usize> = (0..headers.len()).collect();
    by_name.sort_by_key(|&at| headers[at].name);
    let mut groups: Vec<&[usize]> = by_name.chunk_by(|&a, &b| headers[a].name == headers[b].name).collect();
    groups.sort_unstable_by_key(|group| group[0]);

    out.push(b'{');
    for (nth, group) in groups.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        json::string(out, headers[group[0]].name);
        out.push(b':');
        match group {
            [only] => json::text_or_base64(out, headers[*only].value),
            several => {
                for (nth, &at) in several.iter().enumerate() {
                    out.push(if nth == 0 { b'[' } else { b',' });
                    json::text_or_base64(out, headers[at].value);
                }
                out.push(b']');
            }
        }
    }
    out.push(b'}');
}
