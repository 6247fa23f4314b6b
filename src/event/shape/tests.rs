use std::sync::Arc;

use lagless_protocol::frames::Data;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::body::Body;
use super::*;
use crate::event::{Header, MessageRef, Properties};

const TIME: i64 = 1_767_225_599_007;

fn message<'a>(value: Option<&'a [u8]>, headers: &[(&'a str, Option<&'a [u8]>)]) -> MessageRef<'a> {
    MessageRef {
        topic: "orders",
        partition: 3,
        offset: 42,
        timestamp: Some(TIME),
        key: Some(b"k1"),
        value,
        headers: headers.iter().map(|&(name, value)| Header { name, value }).collect(),
        properties: None,
    }
}

fn event(shape: Shape, message: &MessageRef<'_>) -> String {
    let envelope = Envelope { shape, source: "shop".into(), trigger: "shop.placed".into() };
    let message = Message::copy_of(message, message.topic.into());
    let whole = whole_event_json(&envelope, &message, 2);
    check_templates(&envelope, &message);
    whole
}

/// The template names exactly the metadata's keys, in order, and the data's key.
fn check_templates(envelope: &Envelope, message: &Message) {
    let mut templates = Templates::default();
    let mut out = Vec::new();
    let first = envelope.write(message, 1, &mut templates, &mut out);
    let metadata: indexmap::IndexMap<String, serde::de::IgnoredAny> = serde_json::from_slice(&out).unwrap();
    let frames = templates.as_frames();
    let frame = &frames[first.template as usize];
    assert_eq!(frame.data_key as usize, frame.keys.len() - 1);
    assert_eq!(frame.keys[..frame.keys.len() - 1], metadata.keys().map(String::as_str).collect::<Vec<_>>());
    let again = envelope.write(message, 2, &mut templates, &mut out);
    assert_eq!(again.template, first.template);
    assert_eq!(templates.as_frames().len(), 1);
}

fn check_lagless(message: &MessageRef<'_>, tail: &str) {
    let head = r#"{"id":"orders/3/42","source":"shop","trigger":"shop.placed","time":"2025-12-31T23:59:59.007Z","topic":"orders","partition":3,"offset":42,"#;
    assert_eq!(event(Shape::Lagless, message), format!("{head}{tail}}}"));
}

fn check_body(content_type: Option<&str>, value: &[u8], expected: &str) {
    let headers: Vec<_> = content_type.iter().map(|text| ("Content-Type", Some(text.as_bytes()))).collect();
    let whole = event(Shape::Lagless, &message(Some(value), &headers));
    let at = whole.find(r#","content_type""#).unwrap();
    let expected = format!(r#","content_type":{expected}}}"#);
    assert_eq!(whole[at..], expected, "{content_type:?} {value:?}");
}

#[test]
fn json_is_copied_as_it_stands() {
    check_lagless(
        &message(Some(b" {\"n\": 12345678901234567890, \"n\": 1e999}\n"), &[]),
        r#""key":"k1","headers":{},"content_type":"application/json","attempt":2,"data": {"n": 12345678901234567890, "n": 1e999}
"#,
    );
}

#[test]
fn a_tombstone_is_null_and_so_is_what_is_unknown() {
    let mut tombstone = message(None, &[]);
    tombstone.key = None;
    tombstone.timestamp = None;
    assert_eq!(
        event(Shape::Lagless, &tombstone),
        r#"{"id":"orders/3/42","source":"shop","trigger":"shop.placed","time":null,"topic":"orders","partition":3,"offset":42,"key":null,"headers":{},"content_type":null,"attempt":2,"data":null}"#
    );
}

#[test]
fn headers_keep_repeats_nulls_and_bytes() {
    let headers: &[(&str, Option<&[u8]>)] = &[
        ("b", Some(b"1")),
        ("a\n\"", Some(b"x")),
        ("b", None),
        ("c", None),
        ("b", Some(b"\xff\xfe")),
        ("", Some(b"\x01")),
    ];
    let mut with_bytes = message(Some(b"1"), headers);
    with_bytes.key = Some(b"\xff");
    check_lagless(
        &with_bytes,
        r#""key":{"base64":"/w=="},"headers":{"b":["1",null,{"base64":"//4="}],"a\n\"":"x","c":null,"":"\u0001"},"content_type":"application/json","attempt":2,"data":1"#,
    );
}

#[test]
fn the_content_type_says_what_the_data_is() {
    let json = r#""application/json","attempt":2,"data":"#;
    let text = r#""text/plain; charset=utf-8","attempt":2,"data":"#;
    let bytes = r#""application/octet-stream","attempt":2,"data":"#;
    let cases: &[(Option<&str>, &[u8], String)] = &[
        (None, b"true", format!("{json}true")),
        (None, b"\xef\xbb\xbf[1]", format!("{json}[1]")),
        (None, b"\"\\ud800\"", format!("{json}\"\\ud800\"")),
        (None, b"", format!("{text}\"\"")),
        (None, b"  ", format!("{text}\"  \"")),
        (None, b"1 2", format!("{text}\"1 2\"")),
        (None, b"1},\"x\":{", format!("{text}\"1}},\\\"x\\\":{{\"")),
        (None, b"01", format!("{text}\"01\"")),
        (None, b"\"a\tb\"", format!("{text}\"\\\"a\\tb\\\"\"")),
        (None, b"\xef\xbb\xbfhi", format!("{text}\"\u{feff}hi\"")),
        (None, b"\"\xff\"", format!("{bytes}\"Iv8i\"")),
        (Some("nonsense"), b"1", format!("{json}1")),
        (Some("application/json"), b"{", format!("{text}\"{{\"")),
        (Some("application/json"), b"\xff", format!("{bytes}\"/w==\"")),
        (Some("application/vnd.a+JSON; v=1"), b"1", r#""application/vnd.a+JSON; v=1","attempt":2,"data":1"#.into()),
        (Some("text/plain"), b"1", r#""text/plain","attempt":2,"data":"1""#.into()),
        (Some("application/xml"), b"<a/>", r#""application/xml","attempt":2,"data":"<a/>""#.into()),
        (Some("text/plain"), b"\xff", format!("{bytes}\"/w==\"")),
        (Some("image/png"), b"1", r#""image/png","attempt":2,"data":"MQ==""#.into()),
    ];
    for (content_type, value, expected) in cases {
        check_body(*content_type, value, expected);
    }
}

#[test]
fn nesting_has_no_depth_that_overflows() {
    let open = vec![b'['; 1_000_000];
    let whole = [open.clone(), vec![b']'; 1_000_000]].concat();
    let body = |value: &[u8]| {
        let owned = Message::copy_of(&message(Some(value), &[]), "orders".into());
        matches!(Body::of(&owned).data, Data::Json(_))
    };
    assert!(!body(&open));
    assert!(body(&whole));
}

#[test]
fn times_that_cannot_be_said_are_null() {
    for (at, expected) in [
        (0, r#""1970-01-01T00:00:00.000Z""#),
        (-1, r#""1969-12-31T23:59:59.999Z""#),
        (-62_167_219_200_000, r#""0000-01-01T00:00:00.000Z""#),
        (-62_167_219_200_001, "null"),
        (i64::MAX, "null"),
        (i64::MIN, "null"),
    ] {
        let mut moved = message(None, &[]);
        moved.timestamp = Some(at);
        let whole = event(Shape::Lagless, &moved);
        assert!(whole.contains(&format!(r#","time":{expected},"topic""#)), "{at}: {whole}");
    }
}

#[test]
fn a_message_becomes_a_cloud_event() {
    let mut odd = message(Some(b"{}"), &[]);
    odd.topic = "a b/\u{e9}";
    assert_eq!(
        event(Shape::CloudEvents, &odd),
        r#"{"specversion":"1.0","id":"a b/é/3/42","source":"/lagless/shop/a%20b%2F%C3%A9","type":"dev.lagless.message","subject":"partition:3#42","time":"2025-12-31T23:59:59.007Z","datacontenttype":"application/json","partitionkey":"k1","laglesstrigger":"shop.placed","laglessattempt":2,"data":{}}"#
    );
    let mut bare = message(Some(b"\xff"), &[]);
    bare.key = Some(b"\xff");
    bare.timestamp = None;
    let head = r#"{"specversion":"1.0","id":"orders/3/42","source":"/lagless/shop/orders","type":"dev.lagless.message","subject":"partition:3#42","#;
    let tail = r#""laglesstrigger":"shop.placed","laglessattempt":2,"#;
    let bytes = format!(r#"{head}"datacontenttype":"application/octet-stream",{tail}"data_base64":"/w=="}}"#);
    assert_eq!(event(Shape::CloudEvents, &bare), bytes);
    bare.value = None;
    assert_eq!(event(Shape::CloudEvents, &bare), format!(r#"{head}{tail}"data":null}}"#));
}

#[test]
fn a_binary_cloud_event_keeps_its_attributes() {
    let headers: &[(&str, Option<&[u8]>)] = &[
        ("ce_specversion", Some(b"1.0")),
        ("ce_id", Some(b"A-1")),
        ("ce_id", Some(b"A-2")),
        ("ce_source", Some(b"/shop")),
        ("ce_type", Some(b"order.placed")),
        ("ce_Bad", Some(b"x")),
        ("ce_data", Some(b"x")),
        ("ce_laglessattempt", Some(b"9")),
        ("ce_tenant", Some(b"t\"1")),
        ("ce_partitionkey", Some(b"own")),
        ("other", Some(b"x")),
        ("content-type", Some(b"text/csv")),
    ];
    assert_eq!(
        event(Shape::CloudEvents, &message(Some(b"1,2"), headers)),
        r#"{"specversion":"1.0","id":"A-1","source":"/shop","type":"order.placed","tenant":"t\"1","partitionkey":"own","datacontenttype":"text/csv","laglesstrigger":"shop.placed","laglessattempt":2,"data":"1,2"}"#
    );
    let incomplete = event(Shape::CloudEvents, &message(Some(b"1,2"), &headers[..4]));
    assert!(incomplete.contains(r#""type":"dev.lagless.message""#), "{incomplete}");
}

#[track_caller]
fn check_amqp_cloud_event(content_type: Option<&str>, headers: &[(&str, Value)], value: &[u8], expected: &str) {
    let texts: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let bytes: Vec<_> = texts.iter().map(|(name, text)| (*name, Some(text.as_bytes()))).collect();
    let properties = Arc::new(Properties {
        message_id: Some("m-1".to_owned()),
        routing_key: "order.eu".to_owned(),
        content_type: content_type.map(str::to_owned),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Properties::default()
    });
    let message = MessageRef { key: None, properties: Some(&properties), ..message(Some(value), &bytes) };
    assert_eq!(event(Shape::CloudEvents, &message), expected);
}

#[test]
fn a_cloud_event_over_amqp_keeps_its_attributes_and_their_types() {
    let core = r#""specversion":"1.0","id":"A-1","source":"/shop","type":"order.placed""#;
    let ours = r#""laglesstrigger":"shop.placed","laglessattempt":2"#;
    for prefix in ["cloudEvents:", "cloudEvents_", "ce_"] {
        let names = ["specversion", "id", "source", "type", "tenant", "count", "vip", "time", "Bad", "datacontenttype"];
        let names = names.map(|name| format!("{prefix}{name}"));
        let values = [
            json!("1.0"),
            json!("A-1"),
            json!("/shop"),
            json!("order.placed"),
            json!("t\"1"),
            json!(7),
            json!(true),
            json!(TIME),
            json!("x"),
            json!("x/y"),
        ];
        let headers: Vec<_> = names.iter().map(String::as_str).zip(values).collect();
        let own = r#""tenant":"t\"1","count":7,"vip":true,"time":"2025-12-31T23:59:59.007Z""#;
        check_amqp_cloud_event(
            Some("text/csv"),
            &headers,
            b"1,2",
            &format!(r#"{{{core},{own},"datacontenttype":"text/csv",{ours},"data":"1,2"}}"#),
        );
    }
    let structured = format!(r#"{{{core},"data":[1]}}"#);
    let expected = format!(r#"{{{core},{ours},"data":[1]}}"#);
    check_amqp_cloud_event(Some("application/cloudevents+json"), &[], structured.as_bytes(), &expected);

    let fresh = r#""specversion":"1.0","id":"m-1","source":"/lagless/shop/orders","type":"dev.lagless.message","subject":"order.eu","time":"2025-12-31T23:59:59.007Z""#;
    let incomplete = [("cloudEvents:specversion", json!("1.0")), ("cloudEvents:id", json!("A"))];
    let expected = format!(r#"{{{fresh},"datacontenttype":"application/json",{ours},"data":1}}"#);
    check_amqp_cloud_event(None, &incomplete, b"1", &expected);
    let not_text = [
        ("cloudEvents:specversion", json!(1.0)),
        ("cloudEvents:id", json!("A")),
        ("cloudEvents:source", json!("/s")),
        ("cloudEvents:type", json!("t")),
    ];
    let kept = format!(
        r#"{{"specversion":"1.0","id":"A","source":"/s","type":"t","datacontenttype":"application/json",{ours},"data":1}}"#
    );
    check_amqp_cloud_event(None, &not_text, b"1", &kept);
}

#[test]
fn a_structured_cloud_event_is_itself() {
    let headers: &[(&str, Option<&[u8]>)] = &[("content-type", Some(b"application/cloudevents+json; charset=utf-8"))];
    let check = |value: &str, expected: &str| {
        assert_eq!(event(Shape::CloudEvents, &message(Some(value.as_bytes()), headers)), expected, "{value}");
    };
    let ours = r#""partitionkey":"k1","laglesstrigger":"shop.placed","laglessattempt":2"#;
    let core = r#""specversion":"1.0","id":"A","source":"/s","type":"t""#;
    check(
        &format!(r#"{{{core},"data":{{"a": [1]}},"n":1,"subject":null,"laglessattempt":7}}"#),
        &format!(r#"{{{core},"n":1,{ours},"data":{{"a": [1]}}}}"#),
    );
    check(
        &format!("\u{feff}{{{core},\"data_base64\":\"AQ==\"}}"),
        &format!(r#"{{{core},{ours},"data_base64":"AQ=="}}"#),
    );
    check(&format!("{{{core}}}"), &format!(r#"{{{core},{ours},"data":null}}"#));
    let other = event(Shape::CloudEvents, &message(Some(br#"{"specversion":"1.0"}"#), headers));
    assert!(other.contains(r#""type":"dev.lagless.message""#), "{other}");
    assert!(other.ends_with(r#""data":{"specversion":"1.0"}}"#), "{other}");
}

#[test]
fn the_id_names_the_message() {
    let owned = Message::copy_of(&message(None, &[]), "orders".into());
    let mut id = String::new();
    Envelope::id(&owned, &mut id);
    assert_eq!(id, "orders/3/42");
}

proptest! {
    #[test]
    fn any_message_becomes_one_json_object(
        topic in any::<String>(),
        timestamp in any::<Option<i64>>(),
        key in any::<Option<Vec<u8>>>(),
        value in proptest::option::of(prop_oneof![any::<Vec<u8>>(), "[\\[\\]{}:,\" 0-9a\\\\]{0,8}".prop_map(String::into_bytes)]),
        headers in proptest::collection::vec(("(ce_)?(id|type|source|.{0,2})", any::<Option<Vec<u8>>>()), 0..8),
    ) {
        let headers = headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
        let message = MessageRef {
            topic: &topic, partition: 0, offset: i64::MAX, timestamp,
            key: key.as_deref(), value: value.as_deref(), headers,
            properties: None,
        };
        for shape in [Shape::Lagless, Shape::CloudEvents] {
            let whole = event(shape, &message);
            let parsed = serde_json::from_str::<indexmap::IndexMap<String, serde::de::IgnoredAny>>(&whole);
            prop_assert!(parsed.is_ok(), "{whole}");
        }
    }
}
