//! `[source.NAME]`: what belongs to which kind, and what all kinds have.

use std::path::{Path, PathBuf};

use super::Resolver;
use crate::config::file::{
    Kind, SourceFile, commit_interval, consumer_timeout, in_flight_bytes, in_flight_messages, prefetch, revoke_timeout,
};
use crate::config::place::KeyPath;
use crate::config::settings::{InFlight, LineFormat, MemorySettings, OutOfRange, SourceKind, SourceSettings};

/// The protocol has two bytes for it.
const PREFETCH_MAX: u32 = 65_535;

impl Resolver<'_> {
    pub(super) fn source(&mut self, file: &SourceFile, path: &KeyPath) -> Option<SourceSettings> {
        if let Some(interval) = file.commit_interval {
            self.check_positive(interval, &path.then("commit_interval"));
        }
        if let Some(timeout) = file.consumer_timeout {
            self.check_positive(timeout, &path.then("consumer_timeout"));
        }
        let in_flight = self.in_flight(file, &path.then("in_flight"));
        let kind = match file.kind {
            Kind::Kafka => self.kafka(file, path).map(SourceKind::Kafka),
            Kind::Amqp => self.amqp(file, path).map(SourceKind::Amqp),
            Kind::Memory => self.memory(file, path).map(SourceKind::Memory),
        };
        Some(SourceSettings {
            kind: kind?,
            commit_interval: file.commit_interval.unwrap_or_else(commit_interval),
            in_flight,
            revoke_timeout: file.revoke_timeout.unwrap_or_else(revoke_timeout),
            on_out_of_range: file.on_out_of_range.unwrap_or(OutOfRange::Stop),
            consumer_timeout: file.consumer_timeout.unwrap_or_else(consumer_timeout),
        })
    }

    fn in_flight(&mut self, file: &SourceFile, path: &KeyPath) -> InFlight {
        let amqp = file.kind == Kind::Amqp;
        let messages = file.in_flight.messages.unwrap_or_else(if amqp { prefetch } else { in_flight_messages });
        self.check_least_one(messages, &path.then("messages"));
        if amqp && messages > PREFETCH_MAX {
            self.bad(&path.then("messages"), format!("found {messages}; allowed with AMQP: 1 to {PREFETCH_MAX}"));
        }
        if file.in_flight.bytes == Some(0) {
            self.bad(&path.then("bytes"), "found 0; allowed: 1 or more");
        }
        if amqp && file.in_flight.bytes.is_some() {
            let problem = "AMQP servers send by number of messages, not by bytes";
            self.conflict(
                &path.then("bytes"),
                problem,
                "remove the key, and choose `messages` for the memory there is",
            );
        }
        // What an AMQP server has sent is here already.
        let bytes = if amqp { u64::MAX } else { file.in_flight.bytes.unwrap_or_else(in_flight_bytes) };
        InFlight {
            messages: usize::try_from(messages).unwrap_or(usize::MAX),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        }
    }

    fn memory(&mut self, file: &SourceFile, path: &KeyPath) -> Option<MemorySettings> {
        self.refuse_keys_of(&kafka_keys(file), "kafka", path);
        self.refuse_keys_of(&amqp_keys(file), "amqp", path);
        Some(MemorySettings {
            input: self.stream(file.input.as_deref(), &path.then("input")),
            output: self.stream(file.output.as_deref(), &path.then("output")),
            format: file.format.unwrap_or(LineFormat::Value),
        })
    }

    /// `None` for standard input or output.
    fn stream(&self, path: Option<&Path>, key: &KeyPath) -> Option<PathBuf> {
        path.filter(|path| *path != Path::new("-")).map(|path| self.path(path, key))
    }

    pub(super) fn refuse_keys_of(&mut self, keys: &[(&str, bool)], kind: &str, path: &KeyPath) {
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            let problem = format!("belongs to sources of kind {kind:?}, and this source is of another kind");
            self.conflict(&path.then(*key), problem, "remove the key, or change the kind");
        }
    }
}

/// The keys of one kind of source, and whether they are given.
pub(super) fn memory_keys(file: &SourceFile) -> [(&'static str, bool); 3] {
    [("input", file.input.is_some()), ("output", file.output.is_some()), ("format", file.format.is_some())]
}

pub(super) fn kafka_keys(file: &SourceFile) -> [(&'static str, bool); 6] {
    [
        ("brokers", file.brokers.is_some()),
        ("client", !file.client.is_empty()),
        ("oauth_token", file.oauth_token.is_some()),
        ("instance_id", file.instance_id.is_some()),
        ("revoke_timeout", file.revoke_timeout.is_some()),
        ("on_out_of_range", file.on_out_of_range.is_some()),
    ]
}

pub(super) fn amqp_keys(file: &SourceFile) -> [(&'static str, bool); 5] {
    [
        ("url", file.url.is_some()),
        ("urls", !file.urls.is_empty()),
        ("tls", file.tls.is_some()),
        ("login", file.login.is_some()),
        ("consumer_timeout", file.consumer_timeout.is_some()),
    ]
}
