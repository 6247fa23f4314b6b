//! What every Kafka client of a source has in common: its settings, its log lines, and words for its errors.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::config::KafkaSettings;

/// How often the same trouble is told again.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// The configuration of a client: what every client has, then `defaults`, then what the user passes through.
pub(crate) fn configure(settings: &KafkaSettings, defaults: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", settings.brokers.join(","));
    config.set("client.id", "lagless");
    // The library's ten seconds outlast a group's session: a broker that is back would be found too late.
    config.set("reconnect.backoff.max.ms", "2000");
    if settings.oauth_token.is_some() {
        config.set("sasl.mechanism", "OAUTHBEARER");
    }
    for (key, value) in defaults {
        config.set(*key, *value);
    }
    for (key, value) in &settings.client {
        config.set(key, value.reveal());
    }
    config.set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// Why a client cannot be made, without showing any setting's value.
pub(crate) fn creation_error(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("setting `{key}` is unknown to this client library or its value is not allowed: see `client`")
        }
        other => other.to_string(),
    }
}

/// Passes on a line that librdkafka logs. What an operator must know comes as an error of its own, so these lines are
/// only for looking inside.
pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, line: &str) {
    if (level as i32) <= (RDKafkaLogLevel::Warning as i32) {
        tracing::debug!(target: "librdkafka", "{facility}: {line}");
    } else {
        tracing::trace!(target: "librdkafka", "{facility}: {line}");
    }
}

/// One sentence about an error that a client reports by itself, with what to do about it.
pub(crate) fn explain(code: RDKafkaErrorCode, reason: &str) -> String {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => format!(
            "authentication failed ({reason}): check `security.protocol`, `sasl.mechanism`, `sasl.username` and \
             `sasl.password` under `client`, or `oauth_token`"
        ),
        Code::SSL => {
            format!("TLS failed ({reason}): check `security.protocol` and the `ssl.` settings under `client`")
        }
        Code::Resolve => format!("a broker's name cannot be resolved ({reason}): check `brokers`; still trying"),
        Code::BrokerTransportFailure | Code::AllBrokersDown => format!(
            "broker not reachable ({reason}): check `brokers`, and `security.protocol` and the `ssl.` settings under \
             `client` if the connection is closed at once; still trying"
        ),
        Code::TopicAuthorizationFailed => {
            format!("not authorised for a topic ({reason}): grant the user read access to `topics`")
        }
        Code::GroupAuthorizationFailed => {
            format!("not authorised for the group ({reason}): grant the user access to `group`")
        }
        Code::FencedInstanceId => format!(
            "another consumer has joined with the same `instance_id` ({reason}): give each worker one of its own"
        ),
        Code::PollExceeded => format!("the consumer was put out of its group for not polling ({reason})"),
        _ => reason.to_owned(),
    }
}

/// Keeps the log readable: the same trouble is told at most every ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    told: HashMap<String, Instant>,
}

impl Notices {
    /// Whether to tell of `what` at `now`; if so, it is noted as told.
    pub(crate) fn is_due(&mut self, what: &str, now: Instant) -> bool {
        if self.told.get(what).is_some_and(|told| now.duration_since(*told) < NOTICE_INTERVAL) {
            return false;
        }
        self.told.retain(|_, told| now.duration_since(*told) < NOTICE_INTERVAL);
        self.told.insert(what.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn what_the_user_passes_through_wins_over_defaults() {
        let settings = KafkaSettings {
            brokers: vec!["a:1".into(), "b:2".into()],
            client: [("linger.ms".to_owned(), Secret::plain("7"))].into_iter().collect(),
            oauth_token: None,
            instance_id: None,
        };
        let config = configure(&settings, &[("linger.ms", "5"), ("acks", "all")]);
        assert_eq!(config.get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert_eq!(config.get("acks"), Some("all"));
    }

    #[test]
    fn a_refused_setting_is_named_without_its_value() {
        let settings = KafkaSettings {
            brokers: vec!["a:1".into()],
            client: [("security.protocol".to_owned(), Secret::hidden("s3cret"))].into_iter().collect(),
            oauth_token: None,
            instance_id: None,
        };
        let error = configure(&settings, &[]).create::<rdkafka::consumer::BaseConsumer>().err().unwrap();
        let text = creation_error(&error);
        assert!(text.contains("`security.protocol`") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn the_same_notice_is_told_once_in_a_while() {
        let mut notices = Notices::default();
        let start = Instant::now();
        assert!(notices.is_due("a", start));
        assert!(!notices.is_due("a", start + Duration::from_secs(9)));
        assert!(notices.is_due("b", start + Duration::from_secs(9)));
        assert!(notices.is_due("a", start + Duration::from_secs(10)));
    }
}
