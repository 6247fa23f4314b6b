//! From a record to a message as the client publishes it: its address, properties and headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldTable, ShortString};
use serde_json::Value;

use super::Address;
use crate::config::{PropertySettings, ROUTING_KEY_MAX};
use crate::sink::{Limits, Properties, Record};

/// What servers take by default, less some room.
const RECORD_MAX: usize = (128 << 20) - (1 << 20);
/// Headers travel in one frame, of 128 KiB by default; there is some room for other properties, and for numbers that
/// take more than their text.
const HEADERS_MAX: usize = 100 << 10;
/// Of header names, and of properties.
const SHORT_MAX: usize = 255;
/// A header's framing: two lengths, and its type.
const HEADER_FRAMING: usize = 16;
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;
/// Begins the names by which clients without a queue of their own are answered. They are no queues, so a message to
/// them always counts as not routed.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";
/// As `reply_to` this means the publisher itself, which the server refuses to one that consumes nothing.
const DIRECT_REPLY_TO_ME: &str = "amq.rabbitmq.reply-to";

/// What all messages of a sink have in common, as the client wants it.
#[derive(Debug)]
pub(super) struct Form {
    exchange: ShortString,
    /// For records that bring none of their own.
    routing_key: Option<ShortString>,
    properties: BasicProperties,
    headers: FieldTable,
    headers_length: usize,
}

impl Form {
    /// The texts of an address are at most 255 bytes long; longer ones are cut.
    pub(super) fn of(address: &Address) -> Self {
        let mut headers = FieldTable::default();
        let mut headers_length = 0;
        for (name, value) in &address.headers {
            headers_length += name.len() + HEADER_FRAMING + length_at_most(value);
            headers.insert(short(name), to_amqp(value));
        }
        Self {
            exchange: short(&address.exchange),
            routing_key: address.routing_key.as_ref().and_then(|key| key.constant()).map(short),
            properties: constant(&address.properties),
            headers,
            headers_length,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { record: RECORD_MAX, headers: HEADERS_MAX.saturating_sub(self.headers_length) }
    }

    pub(super) fn exchange(&self) -> &ShortString {
        &self.exchange
    }

    pub(super) fn routing_key(&self, record: &Record) -> ShortString {
        match (&record.routing_key, &self.routing_key) {
            (Some(own), _) => short(own),
            (None, constant) => constant.clone().unwrap_or_default(),
        }
    }

    /// What the sink's settings say wins over what the record brings.
    pub(super) fn properties(&self, record: &Record) -> BasicProperties {
        let mut properties = self.properties.clone();
        let mut table = FieldTable::default();
        let typed = record.properties.as_deref().map(|own| &own.typed_headers);
        for (name, value) in &record.headers {
            if name.eq_ignore_ascii_case("content-type")
                && let Some(text) = value.as_deref().and_then(|value| std::str::from_utf8(value).ok())
                && text.len() <= SHORT_MAX
            {
                if properties.content_type().is_none() {
                    properties = properties.with_content_type(text.into());
                }
                continue;
            }
            let value = match (typed.and_then(|typed| typed.get(name)), value) {
                (Some(typed), _) => to_amqp(typed),
                (None, Some(bytes)) => AMQPValue::LongString(bytes.clone().into()),
                (None, None) => AMQPValue::Void,
            };
            table.insert(passed_on(name), value);
        }
        for (name, value) in self.headers.inner() {
            table.insert(name.clone(), value.clone());
        }
        if let Some(own) = record.properties.as_deref() {
            properties = with_own(properties, own);
        }
        if table.inner().is_empty() { properties } else { properties.with_headers(table) }
    }
}

/// Whether a message that no queue takes is to come back.
pub(super) fn is_mandatory(routing_key: &str) -> bool {
    !routing_key.starts_with(DIRECT_REPLY)
}

/// Why a record can never be published.
pub(super) fn flaw(record: &Record, limits: Limits) -> Option<String> {
    let size = headers_size(record);
    if size > limits.headers {
        return Some(format!("its headers take {size} bytes; allowed: {}", limits.headers));
    }
    if let Some((name, _)) = record.headers.iter().find(|(name, _)| name.len() > SHORT_MAX) {
        return Some(format!("a header's name has {} bytes; allowed: {SHORT_MAX}", name.len()));
    }
    if let Some(length) = record.routing_key.as_ref().map(String::len).filter(|length| *length > ROUTING_KEY_MAX) {
        return Some(format!("its routing key has {length} bytes; allowed: {ROUTING_KEY_MAX}"));
    }
    let length = record.value.as_ref().map_or(0, Vec::len);
    (length > limits.record).then(|| format!("it has {length} bytes; allowed: {}", limits.record))
}

fn headers_size(record: &Record) -> usize {
    let size =
        |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len) + HEADER_FRAMING;
    record.headers.iter().map(size).sum()
}

/// An upper bound of what a value takes: the digit of a list is a byte and a comma as text, and nine bytes in AMQP.
fn length_at_most(value: &Value) -> usize {
    if let Value::String(text) = value { text.len() } else { 5 * value.to_string().len() }
}

fn constant(settings: &PropertySettings) -> BasicProperties {
    let mut properties =
        BasicProperties::default().with_delivery_mode(if settings.persistent { PERSISTENT } else { TRANSIENT });
    if let Some(text) = &settings.content_type {
        properties = properties.with_content_type(short(text));
    }
    if let Some(text) = &settings.content_encoding {
        properties = properties.with_content_encoding(short(text));
    }
    if let Some(text) = &settings.kind {
        properties = properties.with_type(short(text));
    }
    if let Some(text) = &settings.app_id {
        properties = properties.with_app_id(short(text));
    }
    if let Some(text) = &settings.user_id {
        properties = properties.with_user_id(short(text));
    }
    if let Some(priority) = settings.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(expiration) = settings.expiration {
        properties = properties.with_expiration(short(&expiration.as_millis().to_string()));
    }
    properties
}

fn with_own(mut properties: BasicProperties, own: &Properties) -> BasicProperties {
    let fits = |text: &Option<String>| text.as_deref().filter(|text| text.len() <= SHORT_MAX).map(short);
    if let Some(text) = fits(&own.message_id) {
        properties = properties.with_message_id(text);
    }
    if let Some(text) = fits(&own.correlation_id) {
        properties = properties.with_correlation_id(text);
    }
    if let Some(text) = fits(&own.reply_to).filter(|text| text.as_str() != DIRECT_REPLY_TO_ME) {
        properties = properties.with_reply_to(text);
    }
    if let Some(text) = fits(&own.content_encoding).filter(|_| properties.content_encoding().is_none()) {
        properties = properties.with_content_encoding(text);
    }
    if let Some(text) = fits(&own.kind).filter(|_| properties.kind().is_none()) {
        properties = properties.with_type(text);
    }
    if let Some(text) = fits(&own.app_id).filter(|_| properties.app_id().is_none()) {
        properties = properties.with_app_id(text);
    }
    if let Some(priority) = own.priority.filter(|_| properties.priority().is_none()) {
        properties = properties.with_priority(priority);
    }
    if let Some(seconds) = own.timestamp {
        properties = properties.with_timestamp(seconds);
    }
    properties
}

/// The name under which a header of a record travels. `CC` and `BCC` would send copies to the queues that they name.
fn passed_on(name: &str) -> ShortString {
    match name {
        "CC" | "BCC" => short(&format!("lagless-{name}")),
        _ => short(name),
    }
}

/// The text, at most 255 bytes of it: more has been refused before.
fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(SHORT_MAX)].into()
}

/// Whole numbers of 64 bits, floats of 64 bits; `{"base64": ".."}` is bytes.
fn to_amqp(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => AMQPValue::LongLongInt(whole),
            None => number.as_f64().map_or(AMQPValue::Void, AMQPValue::Double),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(items) => AMQPValue::FieldArray(items.iter().map(to_amqp).collect::<Vec<_>>().into()),
        Value::Object(entries) => {
            let bytes = entries.get("base64").filter(|_| entries.len() == 1).and_then(Value::as_str);
            if let Some(bytes) = bytes.and_then(|text| BASE64.decode(text).ok()) {
                return AMQPValue::ByteArray(ByteArray::from(bytes));
            }
            let mut table = FieldTable::default();
            for (name, value) in entries {
                table.insert(short(name), to_amqp(value));
            }
            AMQPValue::FieldTable(table)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::config::RoutingKey;

    fn form(properties: PropertySettings, headers: &Value) -> Form {
        let headers = headers.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.clone()));
        Form::of(&Address {
            exchange: "e".to_owned(),
            routing_key: Some(RoutingKey::parse("k").unwrap()),
            properties,
            headers: headers.collect(),
        })
    }

    fn record(headers: &[(&str, Option<&str>)]) -> Record {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(|text| text.into())));
        Record { value: Some(b"{}".to_vec()), headers: headers.collect(), ..Record::default() }
    }

    #[test]
    fn settings_win_over_what_a_record_brings() {
        let settings = PropertySettings {
            kind: Some("set".to_owned()),
            expiration: Some(Duration::from_secs(3600)),
            priority: Some(5),
            persistent: false,
            ..PropertySettings::default()
        };
        let form = form(settings, &json!({ "region": "eu" }));
        let own = Properties {
            message_id: Some("m".to_owned()),
            kind: Some("own".to_owned()),
            app_id: Some("own".to_owned()),
            priority: Some(1),
            reply_to: Some(DIRECT_REPLY_TO_ME.to_owned()),
            timestamp: Some(7),
            ..Properties::default()
        };
        let headers = [("Content-Type", Some("text/plain")), ("region", Some("us")), ("CC", Some("x")), ("none", None)];
        let record = Record { properties: Some(Box::new(own)), ..record(&headers) };
        let properties = form.properties(&record);
        let expected = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_type("set".into())
            .with_app_id("own".into())
            .with_message_id("m".into())
            .with_priority(5)
            .with_timestamp(7)
            .with_delivery_mode(TRANSIENT)
            .with_expiration("3600000".into());
        let mut table = FieldTable::default();
        table.insert("region".into(), AMQPValue::LongString("eu".into()));
        table.insert("lagless-CC".into(), AMQPValue::LongString("x".into()));
        table.insert("none".into(), AMQPValue::Void);
        assert_eq!(properties, expected.with_headers(table));
    }

    #[test]
    fn values_get_types_of_the_protocol() {
        let mut inner = FieldTable::default();
        inner.insert("deep".into(), AMQPValue::LongLongInt(-7));
        let checks = [
            (json!(null), AMQPValue::Void),
            (json!(true), AMQPValue::Boolean(true)),
            (json!(2), AMQPValue::LongLongInt(2)),
            (json!(0.5), AMQPValue::Double(0.5)),
            (json!(u64::MAX), AMQPValue::Double(u64::MAX as f64)),
            (json!("\u{e9}"), AMQPValue::LongString("\u{e9}".into())),
            (json!([null]), AMQPValue::FieldArray(vec![AMQPValue::Void].into())),
            (json!({ "deep": -7 }), AMQPValue::FieldTable(inner)),
            (json!({ "base64": "AQ==" }), AMQPValue::ByteArray(vec![1].into())),
        ];
        for (value, expected) in checks {
            assert_eq!(to_amqp(&value), expected, "{value}");
        }
    }

    #[test]
    fn headers_of_a_record_keep_their_types() {
        let typed = json!({ "tries": 3 }).as_object().unwrap().clone();
        let own = Properties { typed_headers: typed, ..Properties::default() };
        let record = Record { properties: Some(Box::new(own)), ..record(&[("tries", Some("3")), ("name", Some("3"))]) };
        let properties = form(PropertySettings::default(), &json!({})).properties(&record);
        let headers = properties.headers().as_ref().unwrap();
        assert_eq!(headers.inner().get("tries"), Some(&AMQPValue::LongLongInt(3)));
        assert_eq!(headers.inner().get("name"), Some(&AMQPValue::LongString("3".into())));
    }

    #[test]
    fn what_the_protocol_cannot_carry_is_refused() {
        let limits = form(PropertySettings::default(), &json!({ "a": "b" })).limits();
        let long = |length: usize| "x".repeat(length);
        let checks = [
            (record(&[(&long(256), None)]), Some("a header's name has 256 bytes; allowed: 255")),
            (record(&[("h", Some(&long(HEADERS_MAX)))]), Some("its headers take")),
            (Record { routing_key: Some(long(256)), ..record(&[]) }, Some("its routing key has 256 bytes")),
            (Record { routing_key: Some(long(255)), ..record(&[(&long(255), None)]) }, None),
        ];
        for (record, expected) in checks {
            let found = flaw(&record, limits);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }
}
