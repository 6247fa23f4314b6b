//! CloudEvents 1.0, structured.

use std::fmt::Write as _;

use indexmap::IndexMap;
use jiff::Timestamp;
use lagless_protocol::frames::Data;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::event::{Header, Message};

use super::body::{self, Body};
use super::{Envelope, Templates, Written, json};

/// Before the names of attributes in headers. The binding to AMQP has the other two.
const PREFIX: &str = "ce_";
const AMQP_PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
const TRIGGER: &str = "laglesstrigger";
const ATTEMPT: &str = "laglessattempt";
const PARTITION_KEY: &str = "partitionkey";
/// Attributes that every event has; they are texts.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
const DATA: &str = "data";
const BYTES: &str = "data_base64";

impl Envelope {
    pub(super) fn write_cloud_event<'m>(
        &self,
        message: &'m Message,
        attempt: u32,
        templates: &mut Templates,
        out: &mut Vec<u8>,
    ) -> Written<'m> {
        if let Some(own) = structured(message) {
            let mut event = Attributes::new(out);
            let (data_key, data) = own.write(&mut event);
            event.add_ours(self, message, attempt);
            return Written { template: event.finish(data_key, templates), data };
        }
        let mut event = Attributes::new(out);
        match binary(message) {
            Some(own) => own.iter().for_each(|(name, value)| value.write(name, &mut event)),
            None => write_fresh(self, message, &mut event),
        }
        let body = Body::of(message);
        if let Some(content_type) = body.content_type {
            event.text("datacontenttype", content_type);
        }
        event.add_ours(self, message, attempt);
        let data_key = if matches!(body.data, Data::Bytes(_)) { BYTES } else { DATA };
        Written { template: event.finish(data_key, templates), data: body.data }
    }
}

/// The attributes written so far.
struct Attributes<'o, 'k> {
    out: &'o mut Vec<u8>,
    keys: Vec<&'k str>,
}

impl<'o, 'k> Attributes<'o, 'k> {
    fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, keys: Vec::with_capacity(12) }
    }

    fn name(&mut self, name: &'k str) -> &mut Vec<u8> {
        self.out.push(if self.keys.is_empty() { b'{' } else { b',' });
        json::string(self.out, name);
        self.out.push(b':');
        self.keys.push(name);
        self.out
    }

    fn text(&mut self, name: &'k str, text: &str) {
        json::string(self.name(name), text);
    }

    /// Adds what every event carries.
    fn add_ours(&mut self, envelope: &Envelope, message: &Message, attempt: u32) {
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
        if let Some(key) = key.filter(|key| !key.is_empty() && !self.keys.contains(&PARTITION_KEY)) {
            self.text(PARTITION_KEY, key);
        }
        self.text(TRIGGER, &envelope.trigger);
        json::display(self.name(ATTEMPT), attempt);
    }

    /// Closes the object, and returns its template.
    fn finish(mut self, data_key: &'k str, templates: &mut Templates) -> u32 {
        self.out.push(b'}');
        self.keys.push(data_key);
        templates.learn(&self.keys)
    }
}

/// The attributes of a message that is no CloudEvent yet.
fn write_fresh(envelope: &Envelope, message: &Message, event: &mut Attributes<'_, '_>) {
    event.text("specversion", "1.0");
    let id = event.name("id");
    id.push(b'"');
    Envelope::write_id(message, id);
    id.push(b'"');
    let mut source = String::from("/lagless/");
    percent_encode(&envelope.source, &mut source);
    source.push('/');
    percent_encode(message.topic(), &mut source);
    event.text("source", &source);
    event.text("type", "dev.lagless.message");
    match message.properties() {
        // A subject must not be empty.
        Some(properties) if properties.routing_key.is_empty() => {}
        Some(properties) => event.text("subject", &properties.routing_key),
        None => {
            let place = format_args!("\"partition:{}#{}\"", message.partition(), message.offset());
            json::display(event.name("subject"), place);
        }
    }
    if let Some(moment) = json::moment(message.timestamp()) {
        json::time(event.name("time"), &moment);
    }
}

/// Whatever is not unreserved in RFC 3986 becomes `%XX`, so that names make a valid path.
fn percent_encode(name: &str, out: &mut String) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The value of an attribute in a header.
enum Attribute<'m> {
    Text(&'m str),
    /// A number or boolean of an AMQP header, as JSON says it too.
    Literal(&'m str),
    /// The moment of an AMQP header.
    Time(Timestamp),
}

impl<'m> Attribute<'m> {
    /// AMQP headers have types; those that CloudEvents know are kept.
    fn of(header: &Header<'m>, name: &str, typed: Option<&Value>) -> Option<Self> {
        let text = std::str::from_utf8(header.value?).ok()?;
        Some(match typed {
            Some(Value::Number(number)) if name == "time" => Self::Time(json::moment(number.as_i64())?),
            Some(Value::Bool(_) | Value::Number(_)) if !REQUIRED.contains(&name) => Self::Literal(text),
            _ => Self::Text(text),
        })
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Text(""))
    }

    fn write<'k>(&self, name: &'k str, event: &mut Attributes<'_, 'k>) {
        match self {
            Self::Text(text) => event.text(name, text),
            Self::Literal(text) => event.name(name).extend_from_slice(text.as_bytes()),
            Self::Time(moment) => json::time(event.name(name), moment),
        }
    }
}

/// The attributes of a message that is a CloudEvent in binary mode: each in a header, all required ones there. Of a
/// header that repeats the first counts. The content type has a place of its own, and what we write ourselves is not
/// taken over.
fn binary(message: &Message) -> Option<IndexMap<&str, Attribute<'_>>> {
    let typed = message.properties().map(|own| &own.headers);
    let mut attributes = IndexMap::new();
    for header in message.headers() {
        let Some(name) = attribute_name(header.name, typed.is_some()) else { continue };
        let typed = typed.and_then(|typed| typed.get(header.name));
        let Some(value) = Attribute::of(&header, name, typed) else { continue };
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if is_name && !matches!(name, DATA | "datacontenttype" | TRIGGER | ATTEMPT) {
            attributes.entry(name).or_insert(value);
        }
    }
    let is_event = matches!(attributes.get("specversion")?, Attribute::Text("1.0"))
        && REQUIRED.into_iter().all(|name| attributes.get(name).is_some_and(|value| !value.is_empty()));
    is_event.then_some(attributes)
}

fn attribute_name(header: &str, is_amqp: bool) -> Option<&str> {
    let prefixes: &[&str] = if is_amqp { &AMQP_PREFIXES } else { &[] };
    prefixes.iter().chain([&PREFIX]).find_map(|prefix| header.strip_prefix(prefix))
}

/// A CloudEvent that is the message's value.
struct Structured<'m> {
    /// Names and values as they stand, in their order; of a name that repeats the last value counts, as in V8.
    members: IndexMap<String, &'m RawValue>,
}

/// The CloudEvent in a message of the type `application/cloudevents+json`, if that is what its value holds.
fn structured(message: &Message) -> Option<Structured<'_>> {
    let content_type = body::content_type(message)?;
    if !body::media_type(content_type).eq_ignore_ascii_case("application/cloudevents+json") {
        return None;
    }
    let members: IndexMap<String, &RawValue> = serde_json::from_slice(body::without_mark(message.value()?)).ok()?;
    let text = |name: &str| serde_json::from_str::<String>(members.get(name)?.get()).ok();
    let is_event = text("specversion")? == "1.0"
        && REQUIRED[1..].iter().all(|name| text(name).is_some_and(|text| !text.is_empty()));
    is_event.then_some(Structured { members })
}

impl<'m> Structured<'m> {
    /// Copies the attributes as they stand; one that is null is absent. Data in base64 is a JSON string already.
    fn write<'k>(&'k self, event: &mut Attributes<'_, 'k>) -> (&'k str, Data<'m>) {
        let data_key = if !self.members.contains_key(DATA) && self.members.contains_key(BYTES) { BYTES } else { DATA };
        for (name, value) in &self.members {
            let is_ours = matches!(name.as_str(), TRIGGER | ATTEMPT);
            if name != data_key && !is_ours && value.get() != "null" {
                event.name(name).extend_from_slice(value.get().as_bytes());
            }
        }
        let data = self.members.get(data_key).map_or(Data::Null, |data| match data.get() {
            "null" => Data::Null,
            text => Data::Json(text.as_bytes()),
        });
        (data_key, data)
    }
}
