//! The record that a dead-letter sink gets: the original bytes, key and headers, and headers that say why.

use lagless_protocol::frames::Failure;
use serde_json::Value;

use crate::event::{self, Envelope, Message};
use crate::sink::{Limits, Properties, Record};

/// Room for the broker's own framing of a record.
const FRAMING: usize = 200;
const STACK_MAX: usize = 4 << 10;
const ERROR_MAX: usize = 1 << 10;
/// Headers that are not text keep their types as long as their texts are no longer than this together, in bytes: in
/// their types they may take five times as much.
const TYPED_MAX: usize = 4 << 10;

/// Why, when and for whom a message is dead.
#[derive(Debug)]
pub struct Obituary<'a> {
    pub source: &'a str,
    /// `service.trigger`.
    pub trigger: &'a str,
    /// `service.function`.
    pub function: &'a str,
    pub failure: &'a Failure,
    pub attempts: u32,
    /// RFC 3339.
    pub time: String,
}

/// Builds the record, no larger than `limits` allow: where it would be, the stack goes first, then the original
/// headers, then the end of the value, with headers that say what is missing. With `properties`, those of the message
/// are kept as such, but for two that would make the record expire or be refused.
pub fn record(message: &Message, obituary: &Obituary<'_>, limits: Limits, properties: bool) -> Record {
    let mut record = Record {
        key: message.key().map(<[u8]>::to_vec),
        value: message.value().map(<[u8]>::to_vec),
        headers: message.headers().map(|header| (header.name.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
        properties: properties.then(|| Box::new(kept(message))),
        routing_key: None,
    };
    let original_headers = record.headers.len();
    let failure = obituary.failure;
    let mut add = |name: &str, value: String| record.headers.push((name.to_owned(), Some(value.into_bytes())));
    add("lagless-reason", failure.class.as_str().to_owned());
    add("lagless-error", truncated(&format!("{}: {}", failure.name, failure.message), ERROR_MAX).to_owned());
    add("lagless-attempts", obituary.attempts.to_string());
    add("lagless-time", obituary.time.clone());
    add("lagless-source", obituary.source.to_owned());
    add("lagless-topic", message.topic().to_string());
    add("lagless-partition", message.partition().to_string());
    add("lagless-offset", message.offset().to_string());
    if let Some(timestamp) = message.timestamp() {
        add("lagless-timestamp", timestamp.to_string());
    }
    add("lagless-trigger", obituary.trigger.to_owned());
    add("lagless-function", obituary.function.to_owned());
    if let Some(own) = message.properties() {
        add_properties(own, properties, add);
    }
    if !failure.stack.is_empty() {
        record.headers.push(("lagless-stack".to_owned(), Some(truncated(&failure.stack, STACK_MAX).into())));
    }
    fit(record, original_headers, limits)
}

/// What a record with properties has in them, one without has in headers.
fn add_properties(own: &event::Properties, are_kept: bool, mut add: impl FnMut(&str, String)) {
    add("lagless-exchange", own.exchange.clone());
    add("lagless-routing-key", own.routing_key.clone());
    let always = [
        ("content-type", &own.content_type),
        ("lagless-expiration", &own.expiration),
        ("lagless-user-id", &own.user_id),
    ];
    let priority = own.priority.map(|priority| priority.to_string());
    let otherwise = [
        ("lagless-message-id", &own.message_id),
        ("lagless-correlation-id", &own.correlation_id),
        ("lagless-reply-to", &own.reply_to),
        ("lagless-content-encoding", &own.content_encoding),
        ("lagless-type", &own.kind),
        ("lagless-app-id", &own.app_id),
        ("lagless-priority", &priority),
    ];
    for (name, value) in always.iter().chain(otherwise.iter().filter(|_| !are_kept)) {
        if let Some(value) = value {
            add(name, value.clone());
        }
    }
}

/// The properties that a dead letter keeps. A message that has none is known by the id of its event.
fn kept(message: &Message) -> Properties {
    let timestamp = message.timestamp().and_then(|milliseconds| u64::try_from(milliseconds / 1000).ok());
    let Some(own) = message.properties() else {
        let mut id = String::new();
        Envelope::id(message, &mut id);
        return Properties { message_id: Some(id), timestamp, ..Properties::default() };
    };
    let is_typed = |value: &Value| !value.is_string() && !value.is_null() && value.get("base64").is_none();
    let mut room = TYPED_MAX;
    let mut fits = |value: &Value| {
        let left = room.checked_sub(value.to_string().len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    let typed = own.headers.iter().filter(|(_, value)| is_typed(value) && fits(value));
    Properties {
        message_id: own.message_id.clone(),
        correlation_id: own.correlation_id.clone(),
        reply_to: own.reply_to.clone(),
        content_encoding: own.content_encoding.clone(),
        kind: own.kind.clone(),
        app_id: own.app_id.clone(),
        priority: own.priority,
        timestamp,
        typed_headers: typed.map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

fn fit(mut record: Record, original_headers: usize, limits: Limits) -> Record {
    if is_within(&record, limits) {
        return record;
    }
    record.headers.retain(|(name, _)| name != "lagless-stack");
    if is_within(&record, limits) {
        return record;
    }
    let record_max = limits.record;
    let cut = |record: &mut Record, what: &str, length: usize| {
        record.headers.push((format!("lagless-truncated-{what}"), Some(length.to_string().into_bytes())));
    };
    if original_headers > 0 {
        let removed: Vec<_> = record.headers.drain(..original_headers).collect();
        let length = removed.iter().map(header_size).sum();
        cut(&mut record, "headers", length);
    }
    if let Some(length) = record.value.as_ref().map(Vec::len).filter(|_| size(&record) > record_max) {
        cut(&mut record, "value", length);
        let excess = size(&record).saturating_sub(record_max);
        record.value = record.value.map(|mut value| {
            value.truncate(length.saturating_sub(excess));
            value
        });
    }
    if let Some(length) = record.key.as_ref().map(Vec::len).filter(|_| size(&record) > record_max) {
        cut(&mut record, "key", length);
        let excess = size(&record).saturating_sub(record_max);
        record.key = record.key.map(|mut key| {
            key.truncate(length.saturating_sub(excess));
            key
        });
    }
    record
}

fn is_within(record: &Record, limits: Limits) -> bool {
    size(record) <= limits.record && record.headers.iter().map(header_size).sum::<usize>() <= limits.headers
}

fn header_size((name, value): &(String, Option<Vec<u8>>)) -> usize {
    // Kafka: two lengths of up to five bytes each. AMQP: two lengths and a type, and numbers may be longer than their text.
    name.len() + value.as_ref().map_or(0, Vec::len) + 16
}

/// An upper bound of the record's size at the broker, in bytes.
fn size(record: &Record) -> usize {
    FRAMING
        + record.key.as_ref().map_or(0, Vec::len)
        + record.value.as_ref().map_or(0, Vec::len)
        + record.headers.iter().map(header_size).sum::<usize>()
}

fn truncated(text: &str, length_max: usize) -> &str {
    &text[..text.floor_char_boundary(length_max)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lagless_protocol::frames::FailureClass;
    use serde_json::json;

    use super::*;
    use crate::event::{Header, MessageRef};

    fn bury(key: usize, value: usize, header: usize, record_max: usize) -> Record {
        let (key, value, header) = (vec![b'k'; key], vec![b'v'; value], vec![b'h'; header]);
        let message = MessageRef {
            topic: "orders",
            partition: 2,
            offset: 7,
            timestamp: Some(5),
            key: Some(&key),
            value: Some(&value),
            headers: vec![Header { name: "trace", value: Some(&header) }],
            properties: None,
        };
        let failure = Failure {
            class: FailureClass::Timeout,
            name: "Timeout".into(),
            message: "é".repeat(5000),
            stack: "at f".repeat(2000),
        };
        let obituary = Obituary {
            source: "kafka",
            trigger: "shop.placed",
            function: "shop.total",
            failure: &failure,
            attempts: 5,
            time: "2026-01-01T00:00:00Z".into(),
        };
        let limits = Limits { record: record_max, headers: usize::MAX };
        record(&Message::copy_of(&message, "orders".into()), &obituary, limits, false)
    }

    fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
        let (_, value) = record.headers.iter().find(|(known, _)| known == name)?;
        Some(std::str::from_utf8(value.as_ref()?).unwrap())
    }

    #[test]
    fn a_dead_letter_keeps_the_message_and_says_why() {
        let record = bury(3, 10, 4, 1_000_000);
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"kkk"[..]), Some(&b"vvvvvvvvvv"[..])));
        assert_eq!(header(&record, "trace"), Some("hhhh"));
        assert_eq!(header(&record, "lagless-reason"), Some("timeout"));
        assert_eq!(header(&record, "lagless-offset"), Some("7"));
        assert_eq!(header(&record, "lagless-truncated-value"), None);
    }

    #[test]
    fn a_dead_letter_always_fits() {
        for (key, value, header_length) in
            [(10, 900_000, 0), (10, 10, 900_000), (900_000, 10, 10), (9, 500_000, 500_000)]
        {
            for record_max in [5_000, 100_000, 1_000_000] {
                let record = bury(key, value, header_length, record_max);
                assert!(size(&record) <= record_max, "{} > {record_max}", size(&record));
                assert_eq!(header(&record, "lagless-reason"), Some("timeout"));
            }
        }
    }

    #[test]
    fn headers_that_do_not_travel_are_left_out_and_said() {
        let mut message = bury(1, 10, 5_000, 1_000_000);
        message.headers.truncate(1);
        let limits = Limits { record: 1_000_000, headers: 4_000 };
        let record = fit(message, 1, limits);
        assert_eq!((header(&record, "trace"), header(&record, "lagless-truncated-headers")), (None, Some("5021")));
        assert_eq!(record.value.unwrap().len(), 10);
    }

    #[test]
    fn only_some_headers_keep_their_types() {
        let properties = Arc::new(event::Properties {
            headers: json!({ "n": 1, "text": "x", "none": null, "bytes": { "base64": "AQ==" }, "deep": { "a": [1] },
                "long": vec![1; TYPED_MAX] })
            .as_object()
            .unwrap()
            .clone(),
            user_id: Some("u".to_owned()),
            ..event::Properties::default()
        });
        let message = MessageRef {
            topic: "q",
            partition: 0,
            offset: 1,
            timestamp: Some(1_700_000_000_999),
            key: None,
            value: None,
            headers: vec![],
            properties: Some(&properties),
        };
        let kept = kept(&Message::copy_of(&message, "q".into()));
        assert_eq!(Value::Object(kept.typed_headers), json!({ "n": 1, "deep": { "a": [1] } }));
        assert_eq!((kept.timestamp, kept.message_id), (Some(1_700_000_000), None));
    }

    #[test]
    fn what_is_missing_is_said() {
        let record = bury(1, 50_000, 10, 20_000);
        assert_eq!(header(&record, "lagless-truncated-value"), Some("50000"));
        assert!(record.value.unwrap().len() > 10_000);
    }
}
