//! The event that a file holds, made ready for a runner.

use indexmap::IndexMap;
use lagless_protocol::frames::{Data, Event, Invoke, Template, ToRunner};
use lagless_protocol::wire::FRAME_MAX;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// The key whose value is the event's data, where there is one.
const DATA: &str = "data";

/// A whole event as the function is to see it: keys in their order, values as they are written.
#[derive(Debug)]
pub struct LocalEvent {
    members: IndexMap<String, Box<RawValue>>,
    /// Which of the members travels as data. The function sees no difference, but a runner must be told one.
    data_key: usize,
}

/// Why a text is not an event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("not a JSON object: {0}")]
    NotAnObject(#[from] serde_json::Error),
    #[error("the object is empty; write the event as the function is to see it, such as {{\"data\": 1}}")]
    Empty,
    #[error("the event takes {0} bytes, more than {FRAME_MAX}")]
    TooLong(usize),
}

impl LocalEvent {
    pub fn parse(text: &str) -> Result<Self, EventError> {
        // `JSON.parse` refuses a byte order mark, but editors write it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let members: IndexMap<String, Box<RawValue>> = serde_json::from_str(text)?;
        let last = members.len().checked_sub(1).ok_or(EventError::Empty)?;
        let data_key = members.get_index_of(DATA).unwrap_or(last);
        Ok(Self { members, data_key })
    }

    /// The frame that runs the event as batch `batch` of the isolate.
    pub fn invoke(&self, isolate: u32, batch: u64) -> Result<Vec<u8>, EventError> {
        let metadata: IndexMap<&str, &RawValue> = self
            .members
            .iter()
            .filter(|(key, _)| Some(*key) != self.members.get_index(self.data_key).map(|(data, _)| data))
            .map(|(key, value)| (key.as_str(), &**value))
            .collect();
        let metadata = serde_json::to_vec(&metadata)?;
        let id: String = self.member(&["id"]).unwrap_or_else(|| "invoke".to_owned());
        let trigger: String = self.member(&["trigger", "laglesstrigger"]).unwrap_or_else(|| "invoke".to_owned());
        let event = Event {
            template: 0,
            id: &id,
            attempt: self.member(&["attempt", "laglessattempt"]).unwrap_or(1),
            metadata: &metadata,
            data: Data::Json(self.members[self.data_key].get().as_bytes()),
        };
        let keys = self.members.keys().map(String::as_str).collect();
        let mut frame = Vec::new();
        ToRunner::Invoke(Invoke {
            isolate,
            batch,
            ordered: true,
            want_results: true,
            trigger: &trigger,
            templates: vec![Template { keys, data_key: self.data_key as u32 }],
            events: vec![event],
        })
        .encode(&mut frame);
        if frame.len() > FRAME_MAX { Err(EventError::TooLong(frame.len())) } else { Ok(frame) }
    }

    /// The first of the keys that holds a value of this type.
    fn member<T: DeserializeOwned>(&self, keys: &[&str]) -> Option<T> {
        keys.iter().find_map(|key| serde_json::from_str(self.members.get(*key)?.get()).ok())
    }
}

#[cfg(test)]
mod tests {
    use lagless_protocol::wire::split_frame;

    use super::*;

    fn check_invoke(text: &str, check: impl FnOnce(&Invoke<'_>)) {
        let frame = LocalEvent::parse(text).unwrap().invoke(3, 4).unwrap();
        let (kind, body, _) = split_frame(&frame).unwrap().unwrap();
        match ToRunner::decode(kind, body).unwrap() {
            ToRunner::Invoke(invoke) => check(&invoke),
            other => panic!("not an invocation: {other:?}"),
        }
    }

    #[test]
    fn keys_keep_their_order_and_numbers_their_digits() {
        let text = r#"{"id": "a/0/1", "data": {"n": 1.10, "big": 12345678901234567890123}, "z": 2.0, "attempt": 3}"#;
        check_invoke(text, |invoke| {
            assert_eq!((invoke.isolate, invoke.batch), (3, 4));
            assert_eq!(invoke.templates, [Template { keys: vec!["id", "data", "z", "attempt"], data_key: 1 }]);
            let event = &invoke.events[0];
            assert_eq!((event.id, event.attempt, invoke.trigger), ("a/0/1", 3, "invoke"));
            assert_eq!(event.metadata, br#"{"id":"a/0/1","z":2.0,"attempt":3}"#);
            assert_eq!(event.data, Data::Json(br#"{"n": 1.10, "big": 12345678901234567890123}"#));
        });
    }

    #[test]
    fn an_event_without_data_sends_its_last_key_as_data() {
        check_invoke(r#"{"laglesstrigger": "shop.all", "laglessattempt": 2, "name": "Ada"}"#, |invoke| {
            assert_eq!(invoke.templates[0].data_key, 2);
            assert_eq!((invoke.trigger, invoke.events[0].attempt), ("shop.all", 2));
            assert_eq!(invoke.events[0].data, Data::Json(br#""Ada""#));
            assert_eq!(invoke.events[0].metadata, br#"{"laglesstrigger":"shop.all","laglessattempt":2}"#);
        });
        check_invoke(r#"{"data": null}"#, |invoke| {
            assert_eq!(invoke.events[0].metadata, b"{}");
            assert_eq!(invoke.events[0].data, Data::Json(b"null"));
        });
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for text in ["", "[1]", "3", "{\"a\": 1} x", "{\"a\": nan}"] {
            assert!(matches!(LocalEvent::parse(text), Err(EventError::NotAnObject(_))), "{text:?}");
        }
        assert!(matches!(LocalEvent::parse("{}"), Err(EventError::Empty)));
        assert!(LocalEvent::parse("\u{feff}{\"a\": 1}").is_ok());
    }
}
