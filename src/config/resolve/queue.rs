//! What a trigger says of an AMQP queue, and what the triggers of one queue must agree on.

use std::time::Duration;

use indexmap::IndexMap;

use super::Resolver;
use super::trigger::Reads;
use crate::config::file::{BindFile, TriggerFile};
use crate::config::place::KeyPath;
use crate::config::settings::{Binding, QueueSettings, ServiceSettings};

/// Exchanges, queues and routing keys.
const AMQP_NAME_MAX: usize = 255;
/// Far below the 30 minutes after which a server takes back a message that was not acknowledged.
const AMQP_BACKOFF_MAX: Duration = Duration::from_secs(600);

impl Resolver<'_> {
    pub(super) fn queue(&mut self, file: &TriggerFile, path: &KeyPath) -> Option<Reads> {
        let kafka_only =
            [("topics", file.topics.is_some()), ("group", file.group.is_some()), ("start", file.start.is_some())];
        self.refuse_trigger_keys_of(&kafka_only, "kafka", path);
        let Some(name) = &file.queue else {
            self.missing(path, "queue", "the queue to read");
            return None;
        };
        self.check_amqp_name(name, &path.then("queue"));
        if name.is_empty() {
            self.bad(&path.then("queue"), "is empty; expected the name of a queue");
        }
        if file.rule.is_some() && file.on_no_match.is_none() {
            let expected = "\"ack\", \"reject\" or \"stop\": what becomes of messages that the rule does not match, \
                            since what is taken off a queue is gone";
            self.missing(path, "on_no_match", expected);
        }
        let longest = file.retry.max_backoff.unwrap_or(file.retry.backoff);
        if longest > AMQP_BACKOFF_MAX {
            let problem = "is too long: the server takes a message back that is kept for long";
            self.conflict(&path.then("retry"), problem, "wait 10 minutes at most");
        }
        let bind = file.bind.iter().map(|BindFile { exchange, routing_key }| {
            let key = path.then("bind");
            self.check_amqp_name(exchange, &key);
            self.check_amqp_name(routing_key, &key);
            if exchange.is_empty() {
                self.bad(&key, "names no exchange; every queue is bound to the default exchange anyway");
            }
            Binding { exchange: exchange.clone(), routing_key: routing_key.clone() }
        });
        let queue = QueueSettings {
            bind: bind.collect(),
            declare: file.declare,
            queue_type: file.queue_type,
            on_no_match: file.on_no_match,
        };
        Some(Reads { topics: vec![name.clone()], group: name.clone(), queue: Some(queue) })
    }

    /// The protocol has one byte for the length of a name or routing key.
    pub(super) fn check_amqp_name(&mut self, name: &str, key: &KeyPath) {
        if name.len() > AMQP_NAME_MAX {
            self.bad(key, format!("found {} bytes; allowed: {AMQP_NAME_MAX}", name.len()));
        }
    }

    /// One channel serves all triggers of a queue.
    pub(super) fn check_queues(&mut self, services: &IndexMap<String, ServiceSettings>) {
        let mut said: IndexMap<(&str, &str), (QueueSettings, KeyPath)> = IndexMap::new();
        for (service_name, service) in services {
            for (name, trigger) in &service.triggers {
                let Some(queue) = &trigger.queue else { continue };
                let path = KeyPath::of(["service", service_name, "trigger", name]);
                let (known, first) = said
                    .entry((&trigger.source, &trigger.group))
                    .or_insert_with(|| (QueueSettings::default(), path.clone()));
                let differs = [
                    ("declare", differ(&mut known.declare, queue.declare)),
                    ("queue_type", differ(&mut known.queue_type, queue.queue_type)),
                    ("on_no_match", differ(&mut known.on_no_match, queue.on_no_match)),
                ];
                for (key, _) in differs.into_iter().filter(|(_, differs)| *differs) {
                    let problem = format!("differs from what {first} or another trigger of the same queue says");
                    self.conflict(&path.then(key), problem, "give all of them the same");
                }
            }
        }
    }
}

/// Notes what is said; whether it differs from what was said before.
fn differ<T: PartialEq + Copy>(known: &mut Option<T>, said: Option<T>) -> bool {
    match (*known, said) {
        (Some(known), Some(said)) => known != said,
        (None, said) => {
            *known = said;
            false
        }
        (Some(_), None) => false,
    }
}
