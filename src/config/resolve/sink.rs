//! `on_success` and `on_failure`: places to write to.

use super::Resolver;
use crate::config::choice::word;
use crate::config::file::{Kind, SinkFile};
use crate::config::place::KeyPath;
use crate::config::settings::{SinkSettings, Target};

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
        let target = self.target(file, stated, path);
        let found = self.source_kind(source, &key)?;
        if found != stated {
            let other = word(found);
            let problem = format!("the source {source:?} is of kind {other:?}");
            self.conflict(&key, problem, format!("write {other} = {source:?}, or name another source"));
            return None;
        }
        Some(SinkSettings { source: source.clone(), target: target? })
    }

    fn target(&mut self, file: &SinkFile, kind: Kind, path: &KeyPath) -> Option<Target> {
        if kind != Kind::Amqp {
            for (key, given) in [("exchange", &file.exchange), ("routing_key", &file.routing_key)] {
                if given.is_some() {
                    self.conflict(&path.then(key), "belongs to AMQP", "give a topic instead");
                }
            }
            let Some(topic) = &file.topic else {
                self.missing(path, "topic", "the topic to write to");
                return None;
            };
            self.check_topic(topic, &path.then("topic"));
            return Some(Target::Topic(topic.clone()));
        }
        if file.topic.is_some() {
            self.conflict(&path.then("topic"), "AMQP has no topics", "give exchange and routing_key instead");
        }
        let Some(routing_key) = &file.routing_key else {
            self.missing(path, "routing_key", "the routing key to publish with; it may be \"\"");
            return None;
        };
        let exchange = file.exchange.clone().unwrap_or_default();
        self.check_amqp_name(&exchange, &path.then("exchange"));
        self.check_amqp_name(routing_key, &path.then("routing_key"));
        if exchange.is_empty() && routing_key.is_empty() {
            self.bad(path, "names neither an exchange nor a queue");
        }
        Some(Target::Exchange { exchange, routing_key: routing_key.clone() })
    }
}
