//! `[service.NAME.trigger.NAME]`: references to functions and sources, and what triggers of one group must agree on.

use indexmap::IndexMap;
use indexmap::map::Entry;

use super::Resolver;
use crate::config::error::ConfigError;
use crate::config::file::{FunctionFile, Kind, RetryFile, TriggerFile, retry_max_backoff};
use crate::config::place::KeyPath;
use crate::config::settings::{OnExhausted, QueueSettings, RetrySettings, ServiceSettings, Start, TriggerSettings};

const BATCH_MAX: u32 = 10_000;
/// The topic of messages of a memory source that name none.
const MEMORY_TOPIC: &str = "memory";
/// Kafka takes no longer names.
const TOPIC_LEN_MAX: usize = 249;

/// What a trigger reads.
pub(super) struct Reads {
    pub topics: Vec<String>,
    pub group: String,
    pub queue: Option<QueueSettings>,
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
            reply: file.reply,
            on_exhausted: file.on_exhausted.unwrap_or(OnExhausted::Stop),
        })
    }

    fn reads(&mut self, file: &TriggerFile, within: &Within<'_>, path: &KeyPath) -> Option<Reads> {
        let kind = self.source_kind(&file.source, &path.then("source"))?;
        if kind == Kind::Amqp {
            return self.queue(file, within, path);
        }
        let amqp_only = [
            ("queue", file.queue.is_some()),
            ("declare", file.declare.is_some()),
            ("queue_type", file.queue_type.is_some()),
            ("bind", !file.bind.is_empty()),
            ("arguments", !file.arguments.is_empty()),
            ("consumer_priority", file.consumer_priority.is_some()),
            ("on_no_match", file.on_no_match.is_some()),
            ("reply", file.reply),
        ];
        self.refuse_trigger_keys_of(&amqp_only, "amqp", path);
        if file.on_exhausted == Some(OnExhausted::Reject) {
            let problem = "only a queue can be told of a rejection";
            self.conflict(&path.then("on_exhausted"), problem, "use \"stop\", \"drop\" or on_failure");
        }
        if !matches!(file.start, None | Some(Start::Earliest | Start::Latest)) {
            let problem = "is for AMQP streams, and this source is of another kind";
            self.conflict(&path.then("start"), problem, "use \"earliest\" or \"latest\"");
        }
        let group = self.group(file, within, path);
        Some(Reads { topics: self.topics(file, kind, path)?, group, queue: None })
    }

    pub(super) fn group(&mut self, file: &TriggerFile, within: &Within<'_>, path: &KeyPath) -> String {
        if file.group.as_deref() == Some("") {
            self.bad(&path.then("group"), "is empty; leave it out for the service's name");
        }
        file.group.clone().unwrap_or_else(|| within.service.to_owned())
    }

    pub(super) fn refuse_trigger_keys_of(&mut self, keys: &[(&str, bool)], kind: &str, path: &KeyPath) {
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            let problem =
                format!("belongs to triggers of sources of kind {kind:?}, and this source is of another kind");
            self.conflict(&path.then(*key), problem, "remove the key, or name another source");
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

    pub(super) fn source_kind(&mut self, source: &str, key: &KeyPath) -> Option<Kind> {
        if let Some(file) = self.form.sources.get(source) {
            return Some(file.kind);
        }
        let defined = self.form.sources.keys().map(String::as_str);
        let at = self.origins.place(key);
        self.errors.push(ConfigError::unknown_reference(at, "source called", source, defined));
        None
    }

    pub(super) fn check_topic(&mut self, topic: &str, key: &KeyPath) {
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
