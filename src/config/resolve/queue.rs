//! What a trigger says of an AMQP queue, and what the triggers of one queue must agree on.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::Resolver;
use super::trigger::{Reads, Within};
use crate::config::file::{BindFile, TriggerFile, consumer_timeout};
use crate::config::place::KeyPath;
use crate::config::settings::{
    Binding, Declare, OnExhausted, QueueSettings, QueueType, ServiceSettings, SourceSettings, TriggerSettings,
};

/// Exchanges, queues and routing keys.
const AMQP_NAME_MAX: usize = 255;

/// What was said of the queues and exchanges so far, by source and name.
#[derive(Default)]
struct Said<'s> {
    queues: IndexMap<(&'s str, &'s str), (QueueSettings, KeyPath)>,
    /// The types of exchanges.
    exchanges: IndexMap<(&'s str, &'s str), (&'s str, KeyPath)>,
}

impl Resolver<'_> {
    pub(super) fn queue(&mut self, file: &TriggerFile, within: &Within<'_>, path: &KeyPath) -> Option<Reads> {
        self.refuse_trigger_keys_of(&[("topics", file.topics.is_some())], "kafka", path);
        let Some(name) = &file.queue else {
            self.missing(path, "queue", "the queue to read");
            return None;
        };
        self.check_amqp_name(name, &path.then("queue"));
        if name.is_empty() {
            self.bad(&path.then("queue"), "is empty; expected the name of a queue");
        }
        let is_stream = file.queue_type == Some(QueueType::Stream);
        if is_stream {
            self.check_stream(file, path);
        } else {
            self.check_no_stream(file, path);
        }
        self.check_backoff(file, path);
        let queue = QueueSettings {
            bind: file.bind.iter().map(|bind| self.binding(bind, &path.then("bind"))).collect(),
            declare: file.declare,
            queue_type: file.queue_type,
            arguments: self.queue_arguments(&file.arguments, &path.then("arguments")),
            consumer_priority: file.consumer_priority,
            on_no_match: file.on_no_match,
            reader: is_stream.then(|| self.group(file, within, path)),
        };
        let group = match &queue.reader {
            Some(reader) => {
                self.check_amqp_name(&QueueSettings::position_queue(reader, name), &path.then("group"));
                format!("{name}@{reader}")
            }
            None => name.clone(),
        };
        Some(Reads { topics: vec![name.clone()], group, queue: Some(queue) })
    }

    /// The server takes back what is kept for long.
    fn check_backoff(&mut self, file: &TriggerFile, path: &KeyPath) {
        let timeout = self.form.sources.get(&file.source).and_then(|source| source.consumer_timeout);
        let most = SourceSettings::keep_max(timeout.unwrap_or_else(consumer_timeout));
        if file.retry.max_backoff.unwrap_or(file.retry.backoff) > most {
            let problem = "is longer than a message can be kept: the server takes it back after `consumer_timeout`";
            let most = humantime::format_duration(most);
            self.conflict(&path.then("retry"), problem, format!("wait {most} at most"));
        }
    }

    /// Nothing is taken off a stream.
    fn check_stream(&mut self, file: &TriggerFile, path: &KeyPath) {
        let of_queues = [
            ("on_no_match", file.on_no_match.is_some(), "reading takes nothing off a stream; remove the key"),
            ("on_exhausted", file.on_exhausted == Some(OnExhausted::Reject), "use \"stop\", \"drop\" or on_failure"),
            ("consumer_priority", file.consumer_priority.is_some(), "one worker of a group reads; remove the key"),
        ];
        for (key, _, fix) in of_queues.into_iter().filter(|(_, given, _)| *given) {
            self.conflict(&path.then(key), "has no meaning for a stream", fix);
        }
    }

    fn check_no_stream(&mut self, file: &TriggerFile, path: &KeyPath) {
        for (key, _) in [("group", file.group.is_some()), ("start", file.start.is_some())].iter().filter(|key| key.1) {
            let problem = "is for streams and for Kafka: a queue keeps no position";
            self.conflict(&path.then(*key), problem, "remove the key, or say queue_type = \"stream\"");
        }
        if file.rule.is_some() && file.on_no_match.is_none() {
            let expected = "\"ack\", \"reject\" or \"stop\": what becomes of messages that the rule does not match, \
                            since what is taken off a queue is gone";
            self.missing(path, "on_no_match", expected);
        }
    }

    fn binding(&mut self, file: &BindFile, key: &KeyPath) -> Binding {
        self.check_amqp_name(&file.exchange, key);
        self.check_amqp_name(&file.routing_key, key);
        if file.exchange.is_empty() {
            self.bad(key, "names no exchange; every queue is bound to the default exchange anyway");
        }
        if file.exchange_type.as_deref() == Some("") {
            let problem = "type is empty; expected \"direct\", \"topic\", \"fanout\", \"headers\" or a plugin's";
            self.bad(key, problem);
        }
        self.check_arguments(&file.arguments, key);
        Binding {
            exchange: file.exchange.clone(),
            exchange_type: file.exchange_type.clone(),
            routing_key: file.routing_key.clone(),
            arguments: file.arguments.clone(),
        }
    }

    fn queue_arguments(&mut self, file: &Map<String, Value>, key: &KeyPath) -> Map<String, Value> {
        if file.contains_key("x-queue-type") {
            let problem = "has a key of its own";
            self.conflict(&key.then("x-queue-type"), problem, "use the trigger's key \"queue_type\"");
        }
        self.check_arguments(file, key);
        file.clone()
    }

    fn check_arguments(&mut self, arguments: &Map<String, Value>, key: &KeyPath) {
        for (name, value) in arguments {
            let at = key.then(name);
            self.check_amqp_name(name, &at);
            if let Err(found) = check_argument(value) {
                self.bad(&at, format!("found {found}; expected strings, booleans, whole numbers, lists or tables"));
            }
        }
    }

    /// The protocol has one byte for the length of a name or routing key.
    pub(super) fn check_amqp_name(&mut self, name: &str, key: &KeyPath) {
        if name.len() > AMQP_NAME_MAX {
            self.bad(key, format!("found {} bytes; allowed: {AMQP_NAME_MAX}", name.len()));
        }
    }

    /// One channel serves all triggers of a queue.
    pub(super) fn check_queues(&mut self, services: &IndexMap<String, ServiceSettings>) {
        let mut said = Said::default();
        for (service_name, service) in services {
            for (name, trigger) in &service.triggers {
                let Some(queue) = &trigger.queue else { continue };
                let path = KeyPath::of(["service", service_name, "trigger", name]);
                self.check_exchanges(&mut said, trigger, queue, &path);
                let (known, first) = said
                    .queues
                    .entry((&trigger.source, trigger.topics.first().map_or("", String::as_str)))
                    .or_insert_with(|| {
                        (QueueSettings { reader: queue.reader.clone(), ..Default::default() }, path.clone())
                    });
                if known.reader.is_some() != queue.reader.is_some() {
                    let problem = format!("differs from what {first} says: it is a stream or it is none");
                    self.conflict(&path.then("queue_type"), problem, "give both \"stream\", or none");
                }
                for key in differences(known, queue) {
                    let problem = format!("differs from what {first} or another trigger of the same queue says");
                    self.conflict(&path.then(key), problem, "give all of them the same");
                }
                known.add(queue);
            }
        }
        for (queue, path) in said.queues.values().filter(|(queue, _)| queue.declare != Some(Declare::Create)) {
            let unused = [("bind", !queue.bind.is_empty()), ("arguments", !queue.arguments.is_empty())];
            for (key, _) in unused.into_iter().filter(|(_, given)| *given) {
                let problem = "is for a queue that is declared, and this one must be there";
                self.conflict(&path.then(key), problem, "add declare = \"create\", or remove the key");
            }
        }
    }

    fn check_exchanges<'s>(
        &mut self,
        said: &mut Said<'s>,
        trigger: &'s TriggerSettings,
        queue: &'s QueueSettings,
        path: &KeyPath,
    ) {
        for binding in &queue.bind {
            let Some(kind) = binding.exchange_type.as_deref() else { continue };
            let key = (trigger.source.as_str(), binding.exchange.as_str());
            let (known, first) = said.exchanges.entry(key).or_insert_with(|| (kind, path.clone()));
            if *known != kind {
                let problem = format!(
                    "declares the exchange {:?} with the type {kind:?}, and {first} with {known:?}",
                    binding.exchange
                );
                self.conflict(&path.then("bind"), problem, "give it the same type everywhere");
            }
        }
    }
}

/// The keys of which `said` says otherwise than `known`.
fn differences(known: &QueueSettings, said: &QueueSettings) -> Vec<&'static str> {
    let arguments = !known.arguments.is_empty() && !said.arguments.is_empty() && known.arguments != said.arguments;
    let differs = [
        ("declare", differ(known.declare, said.declare)),
        ("queue_type", differ(known.queue_type, said.queue_type)),
        ("arguments", arguments),
        ("consumer_priority", differ(known.consumer_priority, said.consumer_priority)),
        ("on_no_match", differ(known.on_no_match, said.on_no_match)),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

fn differ<T: PartialEq>(known: Option<T>, said: Option<T>) -> bool {
    matches!((known, said), (Some(known), Some(said)) if known != said)
}

/// What is there that the protocol's tables cannot hold.
fn check_argument(value: &Value) -> Result<(), String> {
    match value {
        Value::String(_) | Value::Bool(_) => Ok(()),
        Value::Number(number) if number.is_i64() => Ok(()),
        Value::Array(list) => list.iter().try_for_each(check_argument),
        Value::Object(table) => match table.keys().find(|key| key.len() > AMQP_NAME_MAX) {
            Some(_) => Err(format!("a key of more than {AMQP_NAME_MAX} bytes")),
            None => table.values().try_for_each(check_argument),
        },
        Value::Number(number) => Err(number.to_string()),
        Value::Null => Err("nothing".to_owned()),
    }
}
