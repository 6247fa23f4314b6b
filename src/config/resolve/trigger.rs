//! `[service.NAME.trigger.NAME]`: references to functions and sources, and what triggers of one group must agree on.

use std::time::Duration;

use indexmap::IndexMap;
use indexmap::map::Entry;

use super::Resolver;
use crate::config::choice::word;
use crate::config::error::ConfigError;
use crate::config::file::{BindFile, FunctionFile, Kind, RetryFile, SinkFile, TriggerFile, retry_max_backoff};
use crate::config::place::KeyPath;
use crate::config::settings::{
    Binding, OnExhausted, QueueSettings, RetrySettings, ServiceSettings, SinkSettings, Start, Target, TriggerSettings,
};

const BATCH_MAX: u32 = 10_000;
/// The topic of messages of a memory source that name none.
const MEMORY_TOPIC: &str = "memory";
/// Kafka takes no longer names.
const TOPIC_LEN_MAX: usize = 249;

/// Exchanges, queues and routing keys.
const AMQP_NAME_MAX: usize = 255;
/// Far below the 30 minutes after which a server takes back a message that was not acknowledged.
const AMQP_BACKOFF_MAX: Duration = Duration::from_secs(600);

/// What a trigger reads.
struct Reads {
    topics: Vec<String>,
    group: String,
    queue: Option<QueueSettings>,
}

/// The service that a trigger belongs to.
pub(super) struct Within<'a> {
    pub service: &'a str,
    pub functions: &'a IndexMap<String, FunctionFile>,
}

/// A group of a source: where it begins, and the trigger that said so.
type Groups<'s> = IndexMap<(&'s str, &'s str), (Start, KeyPath)>;

impl Resolver<'_> {
    /// `None` where a part that has no stand-in is wrong; the errors say which.
    pub(super) fn trigger(
        &mut self,
        file: &TriggerFile,
        within: &Within<'_>,
        path: &KeyPath,
    ) -> Option<TriggerSettings> {
        if !within.functions.contains_key(&file.function) {
            let what = format!("function in service {:?} called", within.service);
            let defined = within.functions.keys().map(String::as_str);
            let at = self.origins.place(&path.then("function"));
            self.errors.push(ConfigError::unknown_reference(at, what, &file.function, defined));
        }
        let rule = file.rule.as_ref().map(|rule| self.rule(rule, &path.then("rule")));
        let on_success = file.on_success.as_ref().map(|sink| self.sink(sink, &path.then("on_success")));
        let on_failure = file.on_failure.as_ref().map(|sink| self.sink(sink, &path.then("on_failure")));
        if file.on_failure.is_some() && file.on_exhausted.is_some() {
            let problem = "says what happens without on_failure, and on_failure is given";
            self.conflict(&path.then("on_exhausted"), problem, "remove one of the two");
        }
        if !(1..=BATCH_MAX).contains(&file.batch.size) {
            let problem = format!("found {}; allowed: 1 to {BATCH_MAX}", file.batch.size);
            self.bad(&path.then("batch").then("size"), problem);
        }
        let retry = self.retry(&file.retry, &path.then("retry"));
        let reads = self.reads(file, within, path);
        let Reads { topics, group, queue } = reads?;
        Some(TriggerSettings {
            function: file.function.clone(),
            source: file.source.clone(),
            topics,
            group,
            queue,
            start: file.start.unwrap_or(Start::Earliest),
            rule: all_or_none(rule)?,
            shape: file.shape,
            order: file.order,
            batch_size: usize::try_from(file.batch.size).unwrap_or(usize::MAX),
            retry,
            on_success: all_or_none(on_success)?,
            on_failure: all_or_none(on_failure)?,
            on_exhausted: file.on_exhausted.unwrap_or(OnExhausted::Stop),
        })
    }

    fn reads(&mut self, file: &TriggerFile, within: &Within<'_>, path: &KeyPath) -> Option<Reads> {
        let kind = self.source_kind(&file.source, &path.then("source"))?;
        if kind == Kind::Amqp {
            return self.queue(file, path);
        }
        let amqp_only = [
            ("queue", file.queue.is_some()),
            ("declare", file.declare.is_some()),
            ("queue_type", file.queue_type.is_some()),
            ("bind", !file.bind.is_empty()),
            ("on_no_match", file.on_no_match.is_some()),
        ];
        self.refuse_trigger_keys_of(&amqp_only, "amqp", path);
        if file.on_exhausted == Some(OnExhausted::Reject) {
            let problem = "only a queue can be told of a rejection";
            self.conflict(&path.then("on_exhausted"), problem, "use \"stop\", \"drop\" or on_failure");
        }
        let group = file.group.clone().unwrap_or_else(|| within.service.to_owned());
        if group.is_empty() {
            self.bad(&path.then("group"), "is empty; leave it out for the service's name");
        }
        Some(Reads { topics: self.topics(file, kind, path)?, group, queue: None })
    }

    fn refuse_trigger_keys_of(&mut self, keys: &[(&str, bool)], kind: &str, path: &KeyPath) {
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            let problem =
                format!("belongs to triggers of sources of kind {kind:?}, and this source is of another kind");
            self.conflict(&path.then(*key), problem, "remove the key, or name another source");
        }
    }

    fn queue(&mut self, file: &TriggerFile, path: &KeyPath) -> Option<Reads> {
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
    fn check_amqp_name(&mut self, name: &str, key: &KeyPath) {
        if name.len() > AMQP_NAME_MAX {
            self.bad(key, format!("found {} bytes; allowed: {AMQP_NAME_MAX}", name.len()));
        }
    }

    fn topics(&mut self, file: &TriggerFile, kind: Kind, path: &KeyPath) -> Option<Vec<String>> {
        let key = path.then("topics");
        if kind == Kind::Memory && file.start == Some(Start::Latest) {
            let problem = "a memory source has no latest position";
            self.conflict(&path.then("start"), problem, "remove the key, or say \"earliest\"");
        }
        let topics = match (&file.topics, kind) {
            (Some(topics), _) => topics.clone(),
            (None, Kind::Memory) => vec![MEMORY_TOPIC.to_owned()],
            (None, Kind::Kafka | Kind::Amqp) => {
                self.missing(path, "topics", "the topics to read, such as [\"orders\"]");
                return None;
            }
        };
        if topics.is_empty() {
            self.bad(&key, "is empty; expected the topics to read, such as [\"orders\"]");
        }
        for (index, topic) in topics.iter().enumerate() {
            self.check_topic(topic, &key);
            if topics[..index].contains(topic) {
                self.bad(&key, format!("found {topic:?} twice; once is enough"));
            }
        }
        Some(topics)
    }

    fn retry(&mut self, file: &RetryFile, path: &KeyPath) -> RetrySettings {
        self.check_least_one(file.attempts, &path.then("attempts"));
        let max_backoff = file.max_backoff.unwrap_or_else(|| retry_max_backoff().max(file.backoff));
        if file.backoff > max_backoff {
            let problem = format!(
                "backoff is {} and max_backoff is {}",
                humantime::format_duration(file.backoff),
                humantime::format_duration(max_backoff)
            );
            self.conflict(path, problem, "backoff must not be above max_backoff");
        }
        RetrySettings { attempts: file.attempts, backoff: file.backoff, max_backoff }
    }

    fn sink(&mut self, file: &SinkFile, path: &KeyPath) -> Option<SinkSettings> {
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

    fn source_kind(&mut self, source: &str, key: &KeyPath) -> Option<Kind> {
        if let Some(file) = self.form.sources.get(source) {
            return Some(file.kind);
        }
        let defined = self.form.sources.keys().map(String::as_str);
        let at = self.origins.place(key);
        self.errors.push(ConfigError::unknown_reference(at, "source called", source, defined));
        None
    }

    fn check_topic(&mut self, topic: &str, key: &KeyPath) {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if topic.is_empty() || topic.len() > TOPIC_LEN_MAX || topic == "." || topic == ".." || !topic.bytes().all(legal)
        {
            let form = "letters, digits, \".\", \"_\" and \"-\", at most 249 of them";
            self.bad(key, format!("found the topic {topic:?}; allowed: {form}"));
        }
    }

    /// One consumer serves all triggers of a group, wherever they are defined.
    pub(super) fn check_groups(&mut self, services: &IndexMap<String, ServiceSettings>) {
        let mut groups = Groups::new();
        for (service_name, service) in services {
            for (name, trigger) in &service.triggers {
                let path = KeyPath::of(["service", service_name, "trigger", name]);
                match groups.entry((&trigger.source, &trigger.group)) {
                    Entry::Vacant(entry) => _ = entry.insert((trigger.start, path)),
                    Entry::Occupied(entry) if entry.get().0 != trigger.start => {
                        let problem = format!("differs from the start of {}, which has the same group", entry.get().1);
                        let fix = "give both the same start, or different groups";
                        self.conflict(&path.then("start"), problem, fix);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
        self.check_memory_groups(&groups);
        self.check_queues(services);
    }

    /// One channel serves all triggers of a queue.
    fn check_queues(&mut self, services: &IndexMap<String, ServiceSettings>) {
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

    /// The lines of a memory source are there once; so is standard input.
    fn check_memory_groups(&mut self, groups: &Groups<'_>) {
        let mut readers: IndexMap<&str, &KeyPath> = IndexMap::new();
        let mut standard_input: Option<&str> = None;
        for ((source, _), (_, path)) in groups {
            let Some(file) = self.form.sources.get(*source).filter(|file| file.kind == Kind::Memory) else { continue };
            if let Some(first) = readers.get(source) {
                let problem = format!("{first} reads the memory source {source:?} in another group");
                self.conflict(&path.then("group"), problem, "give all its triggers the same group");
                continue;
            }
            readers.insert(source, path);
            if file.input.as_deref().is_some_and(|input| input.as_os_str() != "-") {
                continue;
            }
            if let Some(other) = standard_input {
                let problem = format!("the source {other:?} reads standard input already");
                self.conflict(&KeyPath::of(["source", source, "input"]), problem, "give one of them a file");
            }
            standard_input = Some(source);
        }
    }
}

/// Turns "given but wrong" into `None`, and keeps "not given".
fn all_or_none<T>(given: Option<Option<T>>) -> Option<Option<T>> {
    match given {
        Some(None) => None,
        Some(value) => Some(value),
        None => Some(None),
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
