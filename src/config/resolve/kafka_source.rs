//! `[source.NAME]` with `kind = "kafka"`: which librdkafka settings are not the user's to give, and which agree.

use std::path::Path;
use std::time::Duration;

use indexmap::IndexMap;

use super::Resolver;
use super::source::{amqp_keys, memory_keys};
use crate::config::error::ConfigError;
use crate::config::file::{OauthTokenFile, SourceFile, revoke_timeout};
use crate::config::place::KeyPath;
use crate::config::settings::{KafkaSettings, OauthToken, Secret};

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

/// Settings of logins other than by `oauth_token`, and of other ways to come by a token.
const OTHER_LOGINS: [&str; 7] = [
    "sasl.username",
    "sasl.password",
    "sasl.jaas.config",
    "sasl.kerberos.",
    "sasl.oauthbearer.",
    "enable.sasl.oauthbearer.",
    "https.ca.",
];

impl Resolver<'_> {
    pub(super) fn kafka(&mut self, file: &SourceFile, path: &KeyPath) -> Option<KafkaSettings> {
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
        let oauth_token = match &file.oauth_token {
            Some(token) => {
                self.check_oauth_client(&client, path);
                Some(self.oauth_token(token, &path.then("oauth_token"))?)
            }
            None => None,
        };
        if file.instance_id.as_deref() == Some("") {
            self.bad(&path.then("instance_id"), "is empty; leave it out, or give each worker one of its own");
        }
        let instance_id = file.instance_id.clone();
        Some(KafkaSettings { brokers: file.brokers.clone()?, client, oauth_token, instance_id })
    }

    fn oauth_token(&mut self, file: &OauthTokenFile, path: &KeyPath) -> Option<OauthToken> {
        match (&file.file, &file.command[..]) {
            (Some(file), []) => Some(OauthToken::File(self.path(file, &path.then("file")))),
            (None, [program, arguments @ ..]) if !program.is_empty() => {
                let program = if program.contains('/') {
                    self.path(Path::new(program), &path.then("command")).to_string_lossy().into_owned()
                } else {
                    program.clone()
                };
                Some(OauthToken::Command([&[program], arguments].concat()))
            }
            (Some(_), _) => {
                self.conflict(path, "has both file and command", "give one of the two");
                None
            }
            (None, _) => {
                self.bad(path, "expected { file = \"path\" } or { command = [\"program\", \"argument\"] }");
                None
            }
        }
    }

    /// Whether the client would use the token at all.
    fn check_oauth_client(&mut self, client: &IndexMap<String, Secret>, path: &KeyPath) {
        let path = path.then("client");
        for (key, value) in client {
            if matches!(&**key, "sasl.mechanism" | "sasl.mechanisms") && value.reveal() != "OAUTHBEARER" {
                let problem = format!("is {:?}, and oauth_token logs in with OAUTHBEARER", value.shown());
                self.conflict(&path.then(key), problem, "remove the key, or oauth_token");
            }
            if OTHER_LOGINS.iter().any(|other| key.starts_with(other)) {
                self.conflict(&path.then(key), "has no use beside oauth_token", "remove the key, or oauth_token");
            }
        }
        let protocol = client.get("security.protocol").map_or("plaintext", Secret::reveal);
        if !protocol.to_lowercase().starts_with("sasl_") {
            let problem = "without a login, which oauth_token is for";
            self.conflict(
                &path.then("security.protocol"),
                problem,
                "set \"security.protocol\" = \"SASL_SSL\" under client",
            );
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
