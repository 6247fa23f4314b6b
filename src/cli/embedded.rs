//! Settings made to use the embedded broker instead of the brokers they name, and plain clients of that broker: what
//! `demo` and `dev` share. The clients stand for a user's own programs, so they know nothing of the worker.

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{Offset, producer};

use super::CliError;
use crate::config::{KafkaSettings, Secret, Settings, SinkSettings, SourceKind, Target, TriggerSettings};
use crate::source::kafka::client::log_line;
use crate::source::kafka::embedded::{CLIENT_SETTINGS, EmbeddedBroker};

/// How many partitions each topic of the embedded broker gets.
pub const PARTITIONS: i32 = 4;

/// Settings of `client` that say how to reach and convince a real broker.
const CONNECTION_PREFIXES: [&str; 6] = ["security.", "sasl.", "ssl.", "enable.ssl.", "enable.sasl.", "broker.address."];

/// Starts a broker.
pub fn start() -> Result<EmbeddedBroker, CliError> {
    EmbeddedBroker::start().map_err(|reason| CliError::failed(format!("the embedded broker does not start: {reason}")))
}

/// Points every Kafka source at the embedded broker, which has neither security nor other members of a group.
pub fn point_at(settings: &mut Settings, bootstrap: &str) {
    for source in settings.sources.values_mut() {
        let SourceKind::Kafka(kafka) = &mut source.kind else { continue };
        let KafkaSettings { brokers, client, oauth_token, instance_id } = kafka;
        *brokers = vec![bootstrap.to_owned()];
        *oauth_token = None;
        *instance_id = None;
        client.retain(|key, _| !CONNECTION_PREFIXES.iter().any(|prefix| key.starts_with(prefix)));
        for (key, value) in CLIENT_SETTINGS {
            client.entry(key.to_owned()).or_insert_with(|| Secret::plain(value));
        }
    }
}

/// Makes a worker that follows another one in its groups wait less: when a member leaves, the embedded broker waits for
/// the rest of the group for one second less than the session timeout, even where there is no rest. Below 4 s it would
/// take the first member for dead while it waits for others.
pub fn hasten_rejoining(settings: &mut Settings) {
    for source in settings.sources.values_mut() {
        if let SourceKind::Kafka(kafka) = &mut source.kind {
            for (key, value) in [("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "1000")] {
                kafka.client.insert(key.to_owned(), Secret::plain(value));
            }
        }
    }
}

/// The topics that triggers read from Kafka sources, each once, in the order of the configuration.
pub fn inputs(settings: &Settings) -> Vec<String> {
    let of_kafka = triggers(settings).filter(|trigger| is_kafka(settings, &trigger.source));
    distinct(of_kafka.flat_map(|trigger| &trigger.topics))
}

/// The topics that results and dead letters go to, each once, in the order of the configuration.
pub fn outputs(settings: &Settings) -> Vec<String> {
    let sinks = triggers(settings).flat_map(|trigger| [&trigger.on_success, &trigger.on_failure]).flatten();
    let of_kafka = sinks.filter(|sink| is_kafka(settings, &sink.source));
    distinct(of_kafka.filter_map(|SinkSettings { target, .. }| match target {
        Target::Topic(topic) => Some(topic),
        Target::Exchange { .. } => None,
    }))
}

fn triggers(settings: &Settings) -> impl Iterator<Item = &TriggerSettings> {
    settings.services.values().flat_map(|service| service.triggers.values())
}

fn is_kafka(settings: &Settings, source: &str) -> bool {
    settings.sources.get(source).is_some_and(|source| matches!(source.kind, SourceKind::Kafka(_)))
}

fn distinct<'a>(topics: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut known = Vec::new();
    for topic in topics {
        if !known.contains(topic) {
            known.push(topic.clone());
        }
    }
    known
}

/// What every client of the embedded broker is made with.
pub fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// A client context that logs where the worker's own clients do, and only for those who look inside.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a client of the embedded broker");
    }
}

impl ConsumerContext for Quiet {}

impl producer::ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &producer::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            tracing::error!(%error, "the embedded broker did not take a message");
        }
    }
}

/// A consumer that is in no group: partitions are assigned to it by hand and nothing is committed.
pub fn consumer(bootstrap: &str) -> Result<BaseConsumer<Quiet>, KafkaError> {
    let mut config = client(bootstrap);
    // Without a name for a group, librdkafka lets nobody assign partitions; this one is never joined.
    config.set("group.id", "lagless-reader").set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    for (key, value) in CLIENT_SETTINGS {
        config.set(key, value);
    }
    config.create_with_context(Quiet)
}

/// All partitions of topics, from their beginnings.
pub fn whole(topics: &[String]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use indexmap::IndexMap;

    use super::*;
    use crate::config::{InFlight, OauthToken, OutOfRange, SourceSettings};

    #[test]
    fn sources_keep_their_tuning_but_not_their_way_to_a_real_broker() {
        let client = [("sasl.password", "s3cret"), ("security.protocol", "SASL_SSL"), ("fetch.min.bytes", "10")];
        let kafka = KafkaSettings {
            brokers: vec!["kafka.example:9093".into()],
            client: client.map(|(key, value)| (key.to_owned(), Secret::plain(value))).into_iter().collect(),
            oauth_token: Some(OauthToken::File("token".into())),
            instance_id: Some("worker-1".into()),
        };
        let source = SourceSettings {
            kind: SourceKind::Kafka(kafka),
            commit_interval: Duration::from_secs(1),
            in_flight: InFlight { messages: 1, bytes: 1 },
            revoke_timeout: Duration::from_secs(1),
            on_out_of_range: OutOfRange::Stop,
            consumer_timeout: Duration::MAX,
        };
        let mut settings = Settings {
            sources: IndexMap::from([("shop".to_owned(), source)]),
            services: IndexMap::new(),
            admin: None,
            drain_timeout: Duration::from_secs(1),
            files: Vec::new(),
        };
        point_at(&mut settings, "127.0.0.1:1");
        let SourceKind::Kafka(kafka) = &settings.sources["shop"].kind else { panic!("it was Kafka") };
        assert_eq!(kafka.brokers, ["127.0.0.1:1"]);
        assert_eq!(kafka.instance_id, None);
        assert_eq!(kafka.client.keys().collect::<Vec<_>>(), ["fetch.min.bytes", "fetch.wait.max.ms"]);
    }
}
