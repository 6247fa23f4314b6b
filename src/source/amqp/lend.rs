//! The client's messages as the rest of the program sees them.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Number, Value, json};

use crate::event::{Header, MessageRef, Properties};

/// The offset of a stream's message.
pub(super) fn stream_offset(delivery: &Delivery) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => Some(*offset),
        _ => None,
    }
}

/// How often a quorum queue has handed the message out before, which stands for failed attempts: a message that ends
/// workers must come to its end too. Servers that tell returns from failures (they send `x-acquired-count` besides) count
/// only failures here.
pub(super) fn delivery_count(delivery: &Delivery) -> u32 {
    let headers = delivery.properties.headers().as_ref();
    let count = match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortUInt(count)) => i64::from(*count),
        _ => 0,
    };
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

/// A message's properties, and its headers as bytes.
pub(super) struct Lent<'d> {
    delivery: &'d Delivery,
    /// The delivery tag, where the message has no offset of its own.
    offset: i64,
    properties: Arc<Properties>,
    headers: Vec<(&'d str, Option<Cow<'d, [u8]>>)>,
}

impl<'d> Lent<'d> {
    /// With `offset` where the message has one of its own.
    pub(super) fn of(delivery: &'d Delivery, offset: Option<i64>) -> Self {
        let table = delivery.properties.headers().as_ref();
        let headers = table.map_or_else(Vec::new, |table| {
            table.inner().iter().map(|(name, value)| (name.as_str(), bytes(value))).collect()
        });
        let properties = Arc::new(Properties { has_offset: offset.is_some(), ..properties(delivery) });
        let offset = offset.unwrap_or_else(|| delivery.delivery_tag.cast_signed());
        Self { delivery, offset, properties, headers }
    }

    /// The message as it is matched; nothing of its body is copied.
    pub(super) fn message<'a>(&'a self, queue: &'a str) -> MessageRef<'a> {
        let timestamp = *self.delivery.properties.timestamp();
        MessageRef {
            topic: queue,
            partition: 0,
            offset: self.offset,
            timestamp: timestamp.and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000)),
            key: None,
            value: Some(&self.delivery.data),
            headers: self.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect(),
            properties: Some(&self.properties),
        }
    }
}

fn properties(delivery: &Delivery) -> Properties {
    let own = &delivery.properties;
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
    Properties {
        exchange: delivery.exchange.to_string(),
        routing_key: delivery.routing_key.to_string(),
        redelivered: delivery.redelivered,
        message_id: text(own.message_id()),
        correlation_id: text(own.correlation_id()),
        reply_to: text(own.reply_to()),
        content_type: text(own.content_type()),
        content_encoding: text(own.content_encoding()),
        kind: text(own.kind()),
        app_id: text(own.app_id()),
        user_id: text(own.user_id()),
        expiration: text(own.expiration()),
        priority: *own.priority(),
        delivery_mode: *own.delivery_mode(),
        headers: own.headers().as_ref().map(table).unwrap_or_default(),
        has_offset: false,
    }
}

/// Text and bytes as they are, anything else as JSON text.
fn bytes(value: &AMQPValue) -> Option<Cow<'_, [u8]>> {
    match value {
        AMQPValue::Void => None,
        AMQPValue::LongString(text) => Some(Cow::Borrowed(text.as_bytes())),
        AMQPValue::ShortString(text) => Some(Cow::Borrowed(text.as_str().as_bytes())),
        AMQPValue::ByteArray(bytes) => Some(Cow::Borrowed(bytes.as_slice())),
        other => Some(Cow::Owned(to_json(other).to_string().into_bytes())),
    }
}

fn table(table: &FieldTable) -> Map<String, Value> {
    table.inner().iter().map(|(name, value)| (name.to_string(), to_json(value))).collect()
}

/// Numbers that JSON does not know are null.
fn to_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(flag) => Value::Bool(*flag),
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Float(number) => float(f64::from(*number)),
        AMQPValue::Double(number) => float(*number),
        AMQPValue::DecimalValue(decimal) => {
            float(f64::from(decimal.value.cast_signed()) / 10f64.powi(i32::from(decimal.scale)))
        }
        AMQPValue::ShortString(text) => Value::String(text.to_string()),
        AMQPValue::LongString(text) => text_or_base64(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => json!({ "base64": BASE64.encode(bytes.as_slice()) }),
        AMQPValue::FieldArray(array) => array.as_slice().iter().map(to_json).collect(),
        AMQPValue::Timestamp(seconds) => seconds.saturating_mul(1000).into(),
        AMQPValue::FieldTable(inner) => Value::Object(table(inner)),
        AMQPValue::Void => Value::Null,
    }
}

fn float(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn text_or_base64(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => json!({ "base64": BASE64.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::LongString;

    use super::*;

    #[test]
    fn header_values_keep_their_types() {
        let mut inner = FieldTable::default();
        inner.insert("deep".into(), AMQPValue::LongLongInt(-7));
        let checks = [
            (AMQPValue::Boolean(true), json!(true)),
            (AMQPValue::LongUInt(7), json!(7)),
            (AMQPValue::Double(0.5), json!(0.5)),
            (AMQPValue::Double(f64::NAN), Value::Null),
            (AMQPValue::LongString(LongString::from("é")), json!("é")),
            (AMQPValue::LongString(LongString::from(vec![0xff])), json!({ "base64": "/w==" })),
            (AMQPValue::Timestamp(2), json!(2000)),
            (AMQPValue::FieldArray(vec![AMQPValue::Void].into()), json!([null])),
            (AMQPValue::FieldTable(inner), json!({ "deep": -7 })),
        ];
        for (value, expected) in checks {
            assert_eq!(to_json(&value), expected, "{value:?}");
        }
        assert_eq!(bytes(&AMQPValue::LongUInt(7)).as_deref(), Some(b"7".as_slice()));
    }
}
