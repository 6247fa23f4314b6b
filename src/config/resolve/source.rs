//! `[source.NAME]`: what belongs to which kind, and which librdkafka settings are not the user's to give.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;

use super::Resolver;
use crate::config::error::ConfigError;
use crate::config::file::{
    Kind, SecretFile, SourceFile, commit_interval, in_flight_bytes, in_flight_messages, prefetch, revoke_timeout,
};
use crate::config::place::KeyPath;
use crate::config::settings::{
    AmqpSettings, InFlight, KafkaSettings, LineFormat, MemorySettings, OutOfRange, Secret, SourceKind, SourceSettings,
};

const SESSION_TIMEOUT: &str = "session.timeout.ms";
/// librdkafka's own default.
const SESSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(45);

/// The protocol has two bytes for it.
const PREFETCH_MAX: u32 = 65_535;

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
        if let Some(interval) = file.commit_interval {
            self.check_positive(interval, &path.then("commit_interval"));
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

    fn amqp(&mut self, file: &SourceFile, path: &KeyPath) -> Option<AmqpSettings> {
        self.refuse_keys_of(&memory_keys(file), "memory", path);
        let mut kafka_keys = kafka_keys(file).to_vec();
        kafka_keys.push(("commit_interval", file.commit_interval.is_some()));
        self.refuse_keys_of(&kafka_keys, "kafka", path);
        let urls: Vec<(&SecretFile, KeyPath)> = match (&file.url, &file.urls[..]) {
            (Some(url), []) => vec![(url, path.then("url"))],
            (None, urls @ [_, ..]) => urls.iter().map(|url| (url, path.then("urls"))).collect(),
            (Some(_), _) => {
                self.conflict(&path.then("urls"), "is given besides url", "give one of the two");
                return None;
            }
            (None, []) => {
                self.missing(path, "url", "where the server is, such as \"amqp://127.0.0.1:5672/%2f\"");
                return None;
            }
        };
        let found: Vec<_> = urls.iter().filter_map(|(url, key)| self.url(url, key)).collect();
        (found.len() == urls.len()).then_some(AmqpSettings { urls: found })
    }

    /// The text of a bad one is not shown: it may hold a password.
    fn url(&mut self, file: &SecretFile, key: &KeyPath) -> Option<Secret> {
        let secret = self.secret("url", file, key)?;
        let Some((scheme, rest)) = secret.reveal().split_once("://").filter(|(_, rest)| !rest.is_empty()) else {
            self.bad(key, "is no URL; expected amqp://user:password@host:port/vhost");
            return None;
        };
        if scheme != "amqp" {
            let problem = if scheme == "amqps" { "TLS is not supported yet" } else { "has another scheme" };
            self.bad(key, format!("{problem}; expected amqp://user:password@host:port/vhost"));
            return None;
        }
        Some(if rest.contains('@') { Secret::hidden(secret.reveal()) } else { secret })
    }

    fn kafka(&mut self, file: &SourceFile, path: &KeyPath) -> Option<KafkaSettings> {
        self.refuse_keys_of(&memory_keys(file), "memory", path);
        self.refuse_keys_of(&amqp_keys(file), "amqp", path);
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

/// The keys of one kind of source, and whether they are given.
fn memory_keys(file: &SourceFile) -> [(&'static str, bool); 3] {
    [("input", file.input.is_some()), ("output", file.output.is_some()), ("format", file.format.is_some())]
}

fn kafka_keys(file: &SourceFile) -> [(&'static str, bool); 5] {
    [
        ("brokers", file.brokers.is_some()),
        ("client", !file.client.is_empty()),
        ("instance_id", file.instance_id.is_some()),
        ("revoke_timeout", file.revoke_timeout.is_some()),
        ("on_out_of_range", file.on_out_of_range.is_some()),
    ]
}

fn amqp_keys(file: &SourceFile) -> [(&'static str, bool); 2] {
    [("url", file.url.is_some()), ("urls", !file.urls.is_empty())]
}
