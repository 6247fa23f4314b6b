//! `[source.NAME]`: what belongs to which kind, and which librdkafka settings are not the user's to give.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;

use super::Resolver;
use crate::config::error::ConfigError;
use crate::config::file::{Kind, SourceFile, revoke_timeout};
use crate::config::place::KeyPath;
use crate::config::settings::{
    InFlight, KafkaSettings, LineFormat, MemorySettings, OutOfRange, Secret, SourceKind, SourceSettings,
};

const SESSION_TIMEOUT: &str = "session.timeout.ms";
/// librdkafka's own default.
const SESSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(45);

/// librdkafka settings that would break a promise, each with the way to go instead.
const RESERVED: [(&str, &str); 21] = [
    ("bootstrap.servers", "the servers come from the source's key \"brokers\""),
    ("metadata.broker.list", "the servers come from the source's key \"brokers\""),
    ("group.id", "the group comes from the trigger's key \"group\""),
    ("group.instance.id", "it comes from the source's key \"instance_id\""),
    ("group.protocol", "Lagless relies on the classic group protocol"),
    ("group.remote.assignor", "Lagless relies on the classic group protocol"),
    ("partition.assignment.strategy", "Lagless relies on cooperative-sticky assignment"),
    ("auto.offset.reset", "use the trigger's key \"start\" and the source's key \"on_out_of_range\""),
    ("enable.auto.commit", "Lagless commits what is finished; see the source's key \"commit_interval\""),
    ("auto.commit.enable", "Lagless commits what is finished; see the source's key \"commit_interval\""),
    ("auto.commit.interval.ms", "use the source's key \"commit_interval\""),
    ("enable.auto.offset.store", "Lagless decides which offsets are finished"),
    ("enable.partition.eof", "Lagless learns the end of a partition in its own way"),
    ("enable.idempotence", "results are always written idempotently"),
    ("transactional.id", "results are not written in transactions"),
    ("acks", "a result counts as written when all in-sync replicas have it"),
    ("request.required.acks", "a result counts as written when all in-sync replicas have it"),
    ("message.timeout.ms", "a result is sent again until it is written"),
    ("delivery.timeout.ms", "a result is sent again until it is written"),
    ("delivery.report.only.error", "Lagless waits for the report of every result"),
    ("consume.callback.max.messages", "Lagless polls messages one by one"),
];

impl Resolver<'_> {
    pub(super) fn source(&mut self, file: &SourceFile, path: &KeyPath) -> Option<SourceSettings> {
        self.check_positive(file.commit_interval, &path.then("commit_interval"));
        let in_flight = path.then("in_flight");
        self.check_least_one(file.in_flight.messages, &in_flight.then("messages"));
        if file.in_flight.bytes == 0 {
            self.bad(&in_flight.then("bytes"), "found 0; allowed: 1 or more");
        }
        let kind = match file.kind {
            Kind::Kafka => self.kafka(file, path).map(SourceKind::Kafka),
            Kind::Memory => self.memory(file, path).map(SourceKind::Memory),
        };
        Some(SourceSettings {
            kind: kind?,
            commit_interval: file.commit_interval,
            in_flight: InFlight {
                messages: usize::try_from(file.in_flight.messages).unwrap_or(usize::MAX),
                bytes: usize::try_from(file.in_flight.bytes).unwrap_or(usize::MAX),
            },
            revoke_timeout: file.revoke_timeout.unwrap_or_else(revoke_timeout),
            on_out_of_range: file.on_out_of_range.unwrap_or(OutOfRange::Stop),
        })
    }

    fn kafka(&mut self, file: &SourceFile, path: &KeyPath) -> Option<KafkaSettings> {
        let memory_only =
            [("input", file.input.is_some()), ("output", file.output.is_some()), ("format", file.format.is_some())];
        self.refuse_keys_of(&memory_only, "memory", path);
        self.check_brokers(file.brokers.as_deref(), path);
        let client_path = path.then("client");
        let client = self.secrets(&file.client, &client_path)?;
        for key in client.keys() {
            if let Some((_, reason)) = RESERVED.iter().find(|(reserved, _)| reserved == key) {
                let at = self.origins.place(&client_path.then(key));
                self.errors.push(ConfigError::ReservedClientKey { at, reason });
            }
        }
        self.check_revoke_timeout(file, &client, path);
        if file.instance_id.as_deref() == Some("") {
            self.bad(&path.then("instance_id"), "is empty; leave it out, or give each worker one of its own");
        }
        Some(KafkaSettings { brokers: file.brokers.clone()?, client, instance_id: file.instance_id.clone() })
    }

    fn memory(&mut self, file: &SourceFile, path: &KeyPath) -> Option<MemorySettings> {
        let kafka_only = [
            ("brokers", file.brokers.is_some()),
            ("client", !file.client.is_empty()),
            ("instance_id", file.instance_id.is_some()),
            ("revoke_timeout", file.revoke_timeout.is_some()),
            ("on_out_of_range", file.on_out_of_range.is_some()),
        ];
        self.refuse_keys_of(&kafka_only, "kafka", path);
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

    fn refuse_keys_of(&mut self, keys: &[(&str, bool)], kind: &str, path: &KeyPath) {
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            let problem = format!("belongs to sources of kind {kind:?}, and this source is of another kind");
            self.conflict(&path.then(*key), problem, "remove the key, or change the kind");
        }
    }

    fn check_brokers(&mut self, brokers: Option<&[String]>, path: &KeyPath) {
        const FORM: &str = "the Kafka servers to ask first, such as [\"127.0.0.1:9092\"]";
        let Some(brokers) = brokers else { return self.missing(path, "brokers", FORM) };
        if brokers.is_empty() {
            self.bad(&path.then("brokers"), format!("is empty; expected {FORM}"));
        }
        for broker in brokers {
            let port =
                broker.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                self.bad(&path.then("brokers"), format!("found {broker:?}; expected host:port"));
            }
        }
    }

    /// The consumer does not poll while it waits for a revoke, and must be back before the group gives it up.
    fn check_revoke_timeout(&mut self, file: &SourceFile, client: &IndexMap<String, Secret>, path: &KeyPath) {
        let session = match client.get(SESSION_TIMEOUT).map(|text| text.reveal().parse().map(Duration::from_millis)) {
            None => SESSION_TIMEOUT_DEFAULT,
            Some(Ok(session)) => session,
            Some(Err(_)) => {
                let key = path.then("client").then(SESSION_TIMEOUT);
                return self.bad(&key, "expected a whole number of milliseconds, such as \"45000\"");
            }
        };
        let revoke = file.revoke_timeout.unwrap_or_else(revoke_timeout);
        if revoke >= session {
            let problem = format!(
                "{} is not below the session timeout of {}",
                humantime::format_duration(revoke),
                humantime::format_duration(session)
            );
            let fix = format!("shorten revoke_timeout, or raise \"{SESSION_TIMEOUT}\" under client");
            self.conflict(&path.then("revoke_timeout"), problem, fix);
        }
    }
}
