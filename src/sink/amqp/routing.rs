//! The routing key of a record, made of parts of the message that was handled.

use std::str;

use crate::config::{KeyPart, ROUTING_KEY_MAX, RoutingKey};
use crate::event::{Message, Properties};

/// The key for a record about `message`.
///
/// # Errors
/// What the message lacks.
pub(super) fn key_of(key: &RoutingKey, message: &Message) -> Result<String, String> {
    let mut text = String::with_capacity(64);
    for part in key.parts() {
        text.push_str(part_of(part, message).map_err(|lack| format!("no routing key `{key}`: {lack}"))?);
    }
    if text.len() > ROUTING_KEY_MAX {
        return Err(format!("no routing key `{key}`: it comes to {} bytes; allowed: {ROUTING_KEY_MAX}", text.len()));
    }
    Ok(text)
}

fn part_of<'a>(part: &'a KeyPart, message: &'a Message) -> Result<&'a str, String> {
    let own = |get: fn(&Properties) -> Option<&str>| {
        let own = message.properties().ok_or_else(|| "the message is not of AMQP".to_owned())?;
        get(own).ok_or_else(|| "the message has no type".to_owned())
    };
    let text = |bytes: &'a [u8], what: &str| str::from_utf8(bytes).map_err(|_| format!("the {what} is not text"));
    match part {
        KeyPart::Text(text) => Ok(text),
        KeyPart::Key => text(message.key().ok_or_else(|| "the message has no key".to_owned())?, "message's key"),
        KeyPart::Topic => Ok(message.topic()),
        KeyPart::Exchange => own(|own| Some(&own.exchange)),
        KeyPart::RoutingKey => own(|own| Some(&own.routing_key)),
        KeyPart::Type => own(|own| own.kind.as_deref()),
        KeyPart::Header(name) => {
            let header = message.headers().find(|header| header.name == name).and_then(|header| header.value);
            text(header.ok_or_else(|| format!("the message has no header `{name}`"))?, &format!("header `{name}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Header, MessageRef};

    fn check(written: &str, message: &MessageRef<'_>, expected: Result<&str, &str>) {
        let message = Message::copy_of(message, message.topic.into());
        let found = key_of(&RoutingKey::parse(written).unwrap(), &message);
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            _ => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_key_is_made_of_what_the_message_has() {
        let long = [b'x'; 300];
        let kafka = MessageRef {
            topic: "orders",
            partition: 0,
            offset: 1,
            timestamp: None,
            key: Some("k\u{e9}".as_bytes()),
            value: None,
            headers: vec![
                Header { name: "region", value: Some(b"eu") },
                Header { name: "bytes", value: Some(b"\xff") },
                Header { name: "none", value: None },
                Header { name: "long", value: Some(&long) },
            ],
            properties: None,
        };
        check("${topic}.${key}.${header:region}", &kafka, Ok("orders.k\u{e9}.eu"));
        check("${header:bytes}", &kafka, Err("the header `bytes` is not text"));
        check("${header:none}", &kafka, Err("no routing key `${header:none}`: the message has no header `none`"));
        check("a.${header:long}", &kafka, Err("it comes to 302 bytes; allowed: 255"));
        check("${routing_key}", &kafka, Err("the message is not of AMQP"));
        check("${key}", &MessageRef { key: None, ..kafka.clone() }, Err("the message has no key"));

        let properties = Arc::new(Properties {
            exchange: "shop".to_owned(),
            routing_key: "order.eu".to_owned(),
            ..Properties::default()
        });
        let queued = MessageRef { properties: Some(&properties), ..kafka };
        check("${exchange}/${routing_key}.done", &queued, Ok("shop/order.eu.done"));
        check("${type}", &queued, Err("the message has no type"));
    }
}
