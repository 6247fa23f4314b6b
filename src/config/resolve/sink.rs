//! `on_success` and `on_failure`: places to write to.

use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::Resolver;
use crate::config::choice::word;
use crate::config::file::{Kind, PropertiesFile, SinkFile};
use crate::config::place::KeyPath;
use crate::config::routing_key::RoutingKey;
use crate::config::settings::{PropertySettings, SinkSettings, Target};

/// Names of headers and the texts of properties: the protocol has one byte for their length.
const SHORT_MAX: usize = 255;
/// All headers of a record travel in one frame, of 128 KiB by default; numbers may take five times their text there.
const HEADERS_MAX: usize = 8 << 10;
/// Names of our own headers.
const OURS: &str = "lagless-";

impl Resolver<'_> {
    pub(super) fn sink(&mut self, file: &SinkFile, path: &KeyPath) -> Option<SinkSettings> {
        let (stated, source) = match (&file.kafka, &file.memory, &file.amqp) {
            (Some(source), None, None) => (Kind::Kafka, source),
            (None, Some(source), None) => (Kind::Memory, source),
            (None, None, Some(source)) => (Kind::Amqp, source),
            _ => {
                let fix = "give one of kafka = \"SOURCE\", memory = \"SOURCE\" and amqp = \"SOURCE\"";
                self.conflict(path, "names no source, or several", fix);
                return None;
            }
        };
        let key = path.then(word(stated));
        self.check_headers(&file.headers, stated, &path.then("headers"));
        let target = if stated == Kind::Amqp { self.exchange(file, path) } else { self.topic(file, path) };
        let found = self.source_kind(source, &key)?;
        if found != stated {
            let other = word(found);
            let problem = format!("the source {source:?} is of kind {other:?}");
            self.conflict(&key, problem, format!("write {other} = {source:?}, or name another source"));
            return None;
        }
        let headers = file.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Some(SinkSettings { source: source.clone(), target: target?, headers })
    }

    fn topic(&mut self, file: &SinkFile, path: &KeyPath) -> Option<Target> {
        for (key, given) in [("exchange", &file.exchange), ("routing_key", &file.routing_key)] {
            if given.is_some() {
                self.conflict(&path.then(key), "belongs to AMQP", "give a topic instead");
            }
        }
        if file.properties != PropertiesFile::default() {
            self.conflict(&path.then("properties"), "belong to AMQP", "give headers instead");
        }
        let Some(topic) = &file.topic else {
            self.missing(path, "topic", "the topic to write to");
            return None;
        };
        self.check_topic(topic, &path.then("topic"));
        Some(Target::Topic(topic.clone()))
    }

    fn exchange(&mut self, file: &SinkFile, path: &KeyPath) -> Option<Target> {
        if file.topic.is_some() {
            self.conflict(&path.then("topic"), "AMQP has no topics", "give exchange and routing_key instead");
        }
        let properties = self.properties(&file.properties, &path.then("properties"));
        let Some(written) = &file.routing_key else {
            self.missing(path, "routing_key", "the routing key to publish with; it may be \"\"");
            return None;
        };
        let exchange = file.exchange.clone().unwrap_or_default();
        self.check_amqp_name(&exchange, &path.then("exchange"));
        if exchange.is_empty() && written.is_empty() {
            self.bad(path, "names neither an exchange nor a queue");
        }
        match RoutingKey::parse(written) {
            Ok(routing_key) => Some(Target::Exchange { exchange, routing_key, properties }),
            Err(problem) => {
                self.bad(&path.then("routing_key"), problem);
                None
            }
        }
    }

    fn properties(&mut self, file: &PropertiesFile, path: &KeyPath) -> PropertySettings {
        let texts = [
            ("content_type", &file.content_type),
            ("content_encoding", &file.content_encoding),
            ("type", &file.r#type),
            ("app_id", &file.app_id),
            ("user_id", &file.user_id),
        ];
        for (key, text) in texts {
            if let Some(length) = text.as_ref().map(String::len).filter(|length| *length > SHORT_MAX) {
                self.bad(&path.then(key), format!("found {length} bytes; allowed: {SHORT_MAX}"));
            }
        }
        let priority = file.priority.map(|priority| {
            u8::try_from(priority).unwrap_or_else(|_| {
                self.bad(&path.then("priority"), format!("found {priority}; allowed: 0 to 255"));
                0
            })
        });
        if file.expiration.is_some_and(|expiration| expiration < Duration::from_millis(1)) {
            self.bad(&path.then("expiration"), "found less than a millisecond; records would be gone at once");
        }
        PropertySettings {
            content_type: file.content_type.clone(),
            content_encoding: file.content_encoding.clone(),
            kind: file.r#type.clone(),
            app_id: file.app_id.clone(),
            user_id: file.user_id.clone(),
            priority,
            expiration: file.expiration,
            persistent: file.persistent.unwrap_or(true),
        }
    }

    fn check_headers(&mut self, headers: &IndexMap<String, Json>, kind: Kind, path: &KeyPath) {
        let mut size = 0;
        for (name, value) in headers {
            let key = path.then(name);
            size += name.len() + value.to_string().len();
            if name.is_empty() || name.len() > SHORT_MAX {
                self.bad(&key, format!("a header's name has 1 to {SHORT_MAX} bytes"));
            }
            if name.to_ascii_lowercase().starts_with(OURS) {
                self.conflict(&key, "headers of this name are set by Lagless", "choose another name");
            }
            if name.eq_ignore_ascii_case("content-type") && kind == Kind::Amqp {
                let fix = "write properties = { content_type = .. }";
                self.conflict(&key, "is a property in AMQP, not a header", fix);
            }
            let is_list_of_keys =
                || value.as_array().is_some_and(|keys| keys.iter().all(|key| key.as_str().is_some_and(is_short)));
            if kind != Kind::Amqp && !value.is_string() {
                self.bad(&key, format!("found {value}; headers are texts, write \"..\""));
            } else if matches!(name.as_str(), "CC" | "BCC") && kind == Kind::Amqp && !is_list_of_keys() {
                self.bad(&key, format!("found {value}; the server takes a list of routing keys here"));
            }
        }
        if size > HEADERS_MAX {
            self.bad(path, format!("found {size} bytes; allowed: {HEADERS_MAX}"));
        }
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= SHORT_MAX
}
