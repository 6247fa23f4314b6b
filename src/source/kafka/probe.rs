//! What a Kafka source finds when its configuration is checked.
//!
//! The clients here are made like those that read, but none subscribes, commits or writes, and none lets the broker
//! create a topic. Even the broker's own topic for groups is left alone: asking about a group would have a cluster create
//! it that has not had any group yet.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext};

use self::group::ask_group;
use super::partition::Spot;
use super::{client, oauth};
use crate::config::{KafkaSettings, OauthToken, Target};
use crate::source::probe::{Finding, Plan, Reading, What, counted, lasting};

mod group;

/// Where brokers keep the offsets of groups.
const GROUPS_TOPIC: &str = "__consumer_offsets";
/// How long the client's news are listened to at a stretch.
const LISTEN: Duration = Duration::from_millis(20);
/// How long to go on after a failure: a name may stand for several addresses, of which another may answer. The client
/// tells of the same failure only once in a long while, so they cannot be counted.
const SECOND_CHANCE: Duration = Duration::from_secs(2);
/// How long a client may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to every broker in the configuration, and asks one that answers for topics and groups. Each client may
/// take the plan's limit for each of its questions.
pub fn probe(settings: &KafkaSettings, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    let cluster = knock(settings, plan, &mut findings);
    match cluster {
        Some(()) => ask(settings, plan, &mut findings),
        None => findings.extend(unasked(plan)),
    }
    findings.extend(plan.untold_rights("join", "write to"));
    findings.push(Finding::unknown(What::Clock, "", "Kafka does not tell its time to those who only read"));
    findings
}

/// Tries each address alone. `None` when none of them lets us in.
fn knock(settings: &KafkaSettings, plan: &Plan, findings: &mut Vec<Finding>) -> Option<()> {
    let knocked: Vec<(&str, Result<Option<String>, Refusal>)> = thread::scope(|scope| {
        let threads: Vec<_> = settings
            .brokers
            .iter()
            .map(|broker| (broker.as_str(), scope.spawn(move || enter(settings, broker, plan.limit))))
            .collect();
        let broken = || Err(Refusal::Server("the check itself broke off".to_owned()));
        threads.into_iter().map(|(broker, thread)| (broker, thread.join().unwrap_or_else(|_| broken()))).collect()
    });
    let mut first: Option<Option<String>> = None;
    let mut refused_login = None;
    for (broker, entered) in knocked {
        findings.push(match entered {
            Ok(cluster) => {
                let known = first.get_or_insert_with(|| cluster.clone());
                if *known == cluster {
                    Finding::ok(What::Server, broker, cluster.map(|id| format!("cluster {id}")).unwrap_or_default())
                } else {
                    let told = "it belongs to another cluster than the broker before it: fix `brokers`";
                    Finding::problem(What::Server, broker, told)
                }
            }
            Err(Refusal::Settings(told)) => Finding::problem(What::Settings, broker, &told),
            Err(Refusal::Server(told)) => Finding::problem(What::Server, broker, &told),
            Err(Refusal::Login(told)) => {
                refused_login = Some(told);
                Finding::ok(What::Server, broker, "it answers")
            }
        });
    }
    findings.push(match (refused_login, &first) {
        (Some(told), _) => Finding::problem(What::Login, "", &told),
        (None, Some(_)) => Finding::ok(What::Login, "", login(settings)),
        (None, None) => Finding::unknown(What::Login, "", "no broker was reached"),
    });
    first.map(|_| ())
}

/// Says how the client makes itself known, from its settings.
fn login(settings: &KafkaSettings) -> String {
    let setting = |key: &str| settings.client.get(key).map(|value| value.shown());
    let protocol = setting("security.protocol").unwrap_or("plaintext").to_uppercase();
    let certificates = ["ssl.certificate.location", "ssl.certificate.pem", "ssl.keystore.location"];
    if protocol == "SSL" && certificates.iter().any(|key| settings.client.contains_key(*key)) {
        return format!("{protocol}, by the client's certificate");
    }
    if !protocol.starts_with("SASL") {
        return format!("{protocol}: no user and password are asked for");
    }
    let default = if settings.oauth_token.is_some() { "OAUTHBEARER" } else { "GSSAPI" };
    let mechanism = setting("sasl.mechanism").or(setting("sasl.mechanisms")).unwrap_or(default);
    match setting("sasl.username") {
        Some(user) => format!("{protocol}, {mechanism} as `{user}`"),
        None => format!("{protocol}, {mechanism}"),
    }
}

/// Why a client does not get in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    Settings(String),
    Server(String),
    Login(String),
}

/// A connection to one address: the cluster's id, where it has one.
fn enter(settings: &KafkaSettings, broker: &str, limit: Duration) -> Result<Option<String>, Refusal> {
    let mut config = config(settings);
    config.set("bootstrap.servers", broker);
    let client = open(settings, &config, None, limit)?;
    let cluster = client.client().fetch_cluster_id(Duration::ZERO);
    close(client);
    Ok(cluster)
}

/// What every client here has: the user's settings, and over them what keeps it from changing anything.
fn config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = client::configure(settings, &[]);
    config
        .set("allow.auto.create.topics", "false")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // So that the end of a partition answers a question at once.
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        .set("statistics.interval.ms", "0");
    config
}

type Client = BaseConsumer<Listener>;

/// A client that a broker has let in. One with a group waits for a second before it connects, unless it is asked for a
/// topic.
fn open(
    settings: &KafkaSettings,
    config: &ClientConfig,
    topic: Option<&str>,
    limit: Duration,
) -> Result<Client, Refusal> {
    let listener = Listener { heard: Mutex::default(), oauth_token: settings.oauth_token.clone() };
    let client: Client =
        config.create_with_context(listener).map_err(|error| Refusal::Settings(client::creation_error(&error)))?;
    let deadline = Instant::now() + limit;
    let refusal = loop {
        // Messages cannot come: nothing is assigned. Errors come through the context.
        drop(client.poll(LISTEN));
        if client.client().fetch_cluster_id(Duration::ZERO).is_some() {
            return Ok(client);
        }
        if let Some(refusal) = client.context().heard().refusal(Instant::now()) {
            break refusal;
        }
        if Instant::now() >= deadline {
            break client.context().heard().silence(limit);
        }
        if let Some(topic) = topic {
            // The answer is asked for again; errors come through the context.
            drop(client.fetch_metadata(Some(topic), LISTEN));
        }
    };
    close(client);
    Err(refusal)
}

/// Lets a client go, on a thread of its own: looking up a name may hold it for long.
fn close(client: Client) {
    let (done, closed) = std::sync::mpsc::sync_channel::<()>(1);
    let closing = thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
        drop(client);
        drop(done);
    });
    // Where no thread can be started, the client was dropped in the attempt. It sends nothing: it ends or takes long.
    if closing.is_ok() {
        let _ = closed.recv_timeout(CLOSE_TIMEOUT);
    }
}

/// What a client says of itself.
#[derive(Debug)]
struct Listener {
    heard: Mutex<Heard>,
    oauth_token: Option<OauthToken>,
}

impl Listener {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        oauth::token(self.oauth_token.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        client::log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.heard().note(code, reason);
        }
    }
}

impl ConsumerContext for Listener {}

/// The errors that a client has reported.
#[derive(Debug, Default)]
struct Heard {
    first: Option<Instant>,
    last: Option<(RDKafkaErrorCode, String)>,
}

impl Heard {
    fn note(&mut self, code: RDKafkaErrorCode, reason: &str) {
        // That all are down is a consequence, and the reason before it says more.
        if code != RDKafkaErrorCode::AllBrokersDown || self.last.is_none() {
            self.first.get_or_insert_with(Instant::now);
            self.last = Some((code, reason.to_owned()));
        }
    }

    /// Whether there is no use in waiting for longer.
    fn refusal(&self, now: Instant) -> Option<Refusal> {
        use RDKafkaErrorCode as Code;
        let (code, reason) = self.last.as_ref()?;
        let told = client::explain(*code, reason);
        match code {
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState => Some(Refusal::Login(told)),
            Code::SSL | Code::Resolve | Code::Fatal => Some(Refusal::Server(told)),
            _ => {
                let failing = self.first.map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
                (failing >= SECOND_CHANCE).then_some(Refusal::Server(told))
            }
        }
    }

    /// What to say when the time is over.
    fn silence(&self, limit: Duration) -> Refusal {
        let told = self.last.as_ref().map_or_else(
            || format!("no answer within {}: check `brokers` and `security.protocol`", lasting(limit)),
            |(code, reason)| client::explain(*code, reason),
        );
        Refusal::Server(told)
    }
}

/// Asks for topics with one client, and for each group with one of its own.
fn ask(settings: &KafkaSettings, plan: &Plan, findings: &mut Vec<Finding>) {
    let client = match open(settings, &config(settings), None, plan.limit) {
        Ok(client) => client,
        Err(Refusal::Settings(told) | Refusal::Server(told) | Refusal::Login(told)) => {
            findings.push(Finding::problem(What::Server, "", &told));
            return findings.extend(unasked(plan));
        }
    };
    let asker = Asker { client: &client, deadline: Instant::now() + plan.limit };
    let groups_topic = asker.partitions(GROUPS_TOPIC);
    let has_groups = !matches!(groups_topic, Err(Missing::Topic));
    let found: Vec<(&Reading, Vec<Topic>)> = plan
        .readings
        .iter()
        .map(|reading| {
            (reading, reading.topics.iter().map(|topic| asker.topic(What::Topic, topic, "topics")).collect())
        })
        .collect();
    let written: Vec<Finding> = plan
        .writings
        .iter()
        .filter_map(|writing| match &writing.target {
            Target::Topic(topic) => Some(asker.topic(writing.what, topic, "topic").finding),
            _ => None,
        })
        .collect();
    close(client);
    let asked: Vec<Vec<Finding>> = thread::scope(|scope| {
        let threads: Vec<_> = found
            .into_iter()
            .map(|(reading, topics)| {
                scope.spawn(move || {
                    if has_groups { ask_group(settings, plan, reading, topics) } else { group_untold(reading, topics) }
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    findings.extend(asked.into_iter().flatten());
    findings.extend(written);
}

/// On a cluster without any group, the question would create the topic for them.
fn group_untold(reading: &Reading, topics: Vec<Topic>) -> Vec<Finding> {
    let told = format!(
        "the cluster shows no `{GROUPS_TOPIC}`, which asking for a group would create; a new group begins at {}",
        group::start_word(reading.start)
    );
    let mut findings: Vec<Finding> = topics.into_iter().map(|topic| topic.finding).collect();
    findings.push(Finding::unknown(What::Group, &reading.group, told));
    findings
}

/// A topic as it was found, with the partitions that can be asked for.
#[derive(Debug)]
struct Topic {
    finding: Finding,
    partitions: Vec<Spot>,
}

/// Why a topic has no partitions for us.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    Topic,
    /// In words.
    Answer(String),
}

/// A client with the time it may take.
struct Asker<'a> {
    client: &'a Client,
    deadline: Instant,
}

impl Asker<'_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The partitions of a topic, each with whether somebody leads it.
    fn partitions(&self, topic: &str) -> Result<Vec<(i32, bool)>, Missing> {
        let answer = |error: &KafkaError| match error.rdkafka_error_code() {
            Some(code) => Missing::Answer(client::explain(code, &code.to_string())),
            None => Missing::Answer(error.to_string()),
        };
        let metadata = self.client.fetch_metadata(Some(topic), self.left()).map_err(|error| answer(&error))?;
        let found = metadata.topics().first().ok_or(Missing::Topic)?;
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Err(Missing::Topic);
            }
            Some(code) => return Err(Missing::Answer(client::explain(code, &code.to_string()))),
        }
        Ok(found.partitions().iter().map(|partition| (partition.id(), partition.leader() >= 0)).collect())
    }

    /// Looks for a topic that is named under `key`. Answers its partitions if it can be read.
    fn topic(&self, what: What, topic: &str, key: &str) -> Topic {
        let problem = |told: &str| Topic { finding: Finding::problem(what, topic, told), partitions: Vec::new() };
        let partitions = match self.partitions(topic) {
            Ok(partitions) => partitions,
            Err(Missing::Topic) => {
                let told = format!("it does not exist: create it, or fix `{key}`");
                return problem(&told);
            }
            Err(Missing::Answer(told)) => return problem(&told),
        };
        let all = counted(partitions.len() as i64, "partition");
        let leaderless = partitions.iter().filter(|(_, is_led)| !is_led).count();
        if leaderless > 0 {
            let told = format!("{all}, of which {leaderless} have no leader: see to the brokers that hold them");
            return problem(&told);
        }
        let spots = partitions.iter().map(|(partition, _)| Spot { topic: topic.into(), partition: *partition });
        Topic { finding: Finding::ok(what, topic, all.to_string()), partitions: spots.collect() }
    }
}

/// Everything in the plan, when no broker can be asked.
fn unasked(plan: &Plan) -> Vec<Finding> {
    let told = "no broker could be asked";
    let read = plan.readings.iter().flat_map(|reading| {
        let topics = reading.topics.iter().map(|topic| Finding::unknown(What::Topic, topic, told));
        topics.chain([Finding::unknown(What::Group, &reading.group, told)])
    });
    let written = plan.writings.iter().map(|writing| Finding::unknown(writing.what, writing.target.name(), told));
    read.chain(written).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_told_at_once_and_a_silent_broker_after_a_second_chance() {
        let mut heard = Heard::default();
        let soon = Instant::now();
        assert_eq!(heard.refusal(soon), None);
        heard.note(RDKafkaErrorCode::BrokerTransportFailure, "refused");
        heard.note(RDKafkaErrorCode::AllBrokersDown, "1/1 down");
        assert_eq!(heard.refusal(soon), None);
        let later = Instant::now() + SECOND_CHANCE;
        assert!(matches!(heard.refusal(later), Some(Refusal::Server(told)) if told.contains("refused")));
        heard.note(RDKafkaErrorCode::Authentication, "no");
        assert!(matches!(heard.refusal(soon), Some(Refusal::Login(_))));
    }
}
