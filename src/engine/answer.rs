//! The records that a function's outcome makes: its result, and the answer to who sent the message.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use lagless_protocol::frames::Failure;
use serde_json::json;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::event::{Envelope, Message};
use crate::sink::{Properties, Record};

/// What AMQP takes as a message's id, in bytes.
const ID_MAX: usize = 255;

/// The record of a result; `properties` says whether the sink has such.
pub fn result(message: &Message, trigger: &str, json: Vec<u8>, properties: bool) -> Record {
    Record {
        key: message.key().map(<[u8]>::to_vec),
        value: Some(json),
        headers: vec![content_type()],
        properties: properties.then(|| Box::new(own(message, trigger))),
        routing_key: None,
    }
}

/// The answer to who sent the message, if it asks for one. A function without a result answers `null`.
pub fn reply(message: &Message, trigger: &str, json: &[u8]) -> Option<Box<Record>> {
    let body = if json.is_empty() { b"null" } else { json };
    to_sender(message, trigger, body.to_vec(), Vec::new())
}

/// The answer that the message could not be handled, if it asks for one.
pub fn error(message: &Message, trigger: &str, failure: &Failure) -> Option<Box<Record>> {
    let (class, Failure { name, message: told, .. }) = (failure.class.as_str(), failure);
    let body = json!({ "error": { "class": class, "name": name, "message": told } }).to_string();
    let headers = [("lagless-reason", class.to_owned()), ("lagless-error", format!("{name}: {told}"))];
    let headers = headers.map(|(header, text)| (header.to_owned(), Some(short(&text).into())));
    to_sender(message, trigger, body.into_bytes(), headers.into())
}

fn to_sender(
    message: &Message,
    trigger: &str,
    body: Vec<u8>,
    mut headers: Vec<(String, Option<Vec<u8>>)>,
) -> Option<Box<Record>> {
    let queue = message.properties()?.reply_to.as_ref().filter(|queue| !queue.is_empty())?;
    headers.push(content_type());
    Some(Box::new(Record {
        key: None,
        value: Some(body),
        headers,
        properties: Some(Box::new(own(message, trigger))),
        routing_key: Some(queue.clone()),
    }))
}

fn content_type() -> (String, Option<Vec<u8>>) {
    ("content-type".to_owned(), Some(b"application/json".to_vec()))
}

fn own(message: &Message, trigger: &str) -> Properties {
    Properties {
        message_id: Some(id(message, trigger)),
        correlation_id: message.properties().and_then(|own| own.correlation_id.clone()),
        timestamp: u64::try_from(jiff::Timestamp::now().as_second()).ok(),
        ..Properties::default()
    }
}

/// The event's id and the trigger, `orders/3/42/shop.placed`: the same for each result of the same message. One that is
/// too long is hashed.
fn id(message: &Message, trigger: &str) -> String {
    let mut id = String::with_capacity(64);
    Envelope::id(message, &mut id);
    // Writing to a string cannot fail.
    let _ = write!(id, "/{trigger}");
    if id.len() <= ID_MAX {
        return id;
    }
    let mut hasher = SipHasher24::new();
    hasher.write(id.as_bytes());
    format!("{:032x}", hasher.finish128().as_u128())
}

/// Headers of an answer are for reading, its body has the whole.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(1 << 10)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lagless_protocol::frames::FailureClass;

    use super::*;
    use crate::event::{self, MessageRef};

    fn message(properties: Option<event::Properties>) -> Message {
        let properties = properties.map(Arc::new);
        let lent = MessageRef {
            topic: "q",
            partition: 3,
            offset: 42,
            timestamp: None,
            key: None,
            value: Some(b"{}"),
            headers: vec![],
            properties: properties.as_ref(),
        };
        Message::copy_of(&lent, "q".into())
    }

    fn asking() -> event::Properties {
        event::Properties {
            message_id: Some("m-1".to_owned()),
            correlation_id: Some("c-1".to_owned()),
            reply_to: Some("answers".to_owned()),
            ..event::Properties::default()
        }
    }

    fn id_of(message: &Message) -> String {
        result(message, "shop.t", vec![], true).properties.unwrap().message_id.unwrap()
    }

    #[test]
    fn results_of_the_same_message_have_the_same_id() {
        assert_eq!(id_of(&message(None)), "q/3/42/shop.t");
        assert_eq!(id_of(&message(Some(asking()))), "m-1/shop.t");
        let long = |end: &str| event::Properties { message_id: Some("x".repeat(250) + end), ..asking() };
        let (first, second) = (id_of(&message(Some(long("a")))), id_of(&message(Some(long("b")))));
        assert_eq!((first.len(), &first), (32, &id_of(&message(Some(long("a"))))));
        assert_ne!(first, second);
    }

    #[test]
    fn only_who_asks_is_answered() {
        let silent = event::Properties { reply_to: Some(String::new()), ..asking() };
        for message in [message(None), message(Some(silent))] {
            assert_eq!(reply(&message, "shop.t", b"1"), None);
        }
        let answer = reply(&message(Some(asking())), "shop.t", b"").unwrap();
        assert_eq!((answer.routing_key.as_deref(), answer.value.as_deref()), (Some("answers"), Some(&b"null"[..])));
        assert_eq!(answer.properties.unwrap().correlation_id.as_deref(), Some("c-1"));
    }

    #[test]
    fn a_failure_is_answered_with_its_class_name_and_message() {
        let failure = Failure::new(FailureClass::Timeout, "Timeout", "too \"slow\"");
        let answer = error(&message(Some(asking())), "shop.t", &failure).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&answer.value.unwrap()).unwrap();
        assert_eq!(body, json!({ "error": { "class": "timeout", "name": "Timeout", "message": "too \"slow\"" } }));
        assert_eq!(answer.headers[1], ("lagless-error".to_owned(), Some(b"Timeout: too \"slow\"".to_vec())));
    }
}
