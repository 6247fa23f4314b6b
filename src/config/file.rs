//! What can be written in a configuration file. The comments here are the reference; every key has a default unless
//! its comment says "required".

mod secured;
mod sink;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;

pub use self::secured::{OauthTokenFile, TlsFile};
pub use self::sink::{PropertiesFile, SinkFile};
pub use super::choice::Kind;
use super::choice::{choice, optional_choice};
use super::settings::{
    Declare, LineFormat, LogLevel, Login, OnExhausted, OnNoMatch, Order, OutOfRange, QueueType, ShapeKind, Start,
};
use super::units::{
    count, duration, listen_address, optional_count, optional_duration, optional_size, optional_start, size, texts,
};
pub use super::values::{RuleFile, SecretFile};

/// The root of a file, beside its `[source.NAME]` and `[service.NAME]` tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerFile {
    /// Where health, readiness and metrics are served: an IP address with a port, or `"off"`. Default
    /// `"127.0.0.1:9464"`.
    #[serde(default = "admin", deserialize_with = "listen_address")]
    pub admin: Option<SocketAddr>,
    /// How long deliveries in flight may finish after a stop. Default `"25s"`.
    #[serde(default = "drain_timeout", deserialize_with = "duration")]
    pub drain_timeout: Duration,
}

/// `[source.NAME]`: a connection to a broker, or a stand-in for one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// `"kafka"`, `"amqp"` or `"memory"`, required.
    #[serde(deserialize_with = "choice")]
    pub kind: Kind,
    /// Kafka, required: `host:port` of some of the servers, as a list or with commas between.
    #[serde(default, deserialize_with = "texts")]
    pub brokers: Option<Vec<String>>,
    /// Kafka: settings of librdkafka by their own names, such as `"security.protocol" = "SASL_SSL"`. Values may be
    /// secrets. Those that Lagless decides itself, such as `group.id`, are refused.
    #[serde(default)]
    pub client: IndexMap<String, SecretFile>,
    /// Kafka: log in with OAUTHBEARER, by a token from a file or a command. It is asked for again when four fifths of
    /// the token's life have passed. A JWT says by itself how long it lives; any other token is taken to live for five
    /// minutes.
    pub oauth_token: Option<OauthTokenFile>,
    /// Kafka: static membership. A worker that returns under the same name within the session timeout gets its
    /// partitions back without a rebalance. Must differ between the workers of a group.
    pub instance_id: Option<String>,
    /// AMQP, required: where the server is, such as `"amqp://user:password@host:5672/%2f"`, or `"amqps://..."` for TLS.
    /// May be a secret; a password in it is never shown. The path is the virtual host, `%2f` being the usual one, `/`.
    pub url: Option<SecretFile>,
    /// AMQP, in the place of `url`: several servers of a cluster, tried in turn.
    #[serde(default)]
    pub urls: Vec<SecretFile>,
    /// AMQP, with `amqps://`: certificates. The files are read anew for each connection, so that those which have been
    /// renewed are taken. Default: the system's authorities are trusted, and no certificate is shown.
    pub tls: Option<TlsFile>,
    /// AMQP: `"plain"`, by user and password of the URL, or `"external"`, by the certificate that `tls.certificate`
    /// shows. Default `"plain"`.
    #[serde(default, deserialize_with = "optional_choice")]
    pub login: Option<Login>,
    /// Memory: the file with the lines to read, or `"-"` for standard input. Default `"-"`.
    pub input: Option<PathBuf>,
    /// Memory: the file that results are appended to, or `"-"` for standard output. Default `"-"`.
    pub output: Option<PathBuf>,
    /// Memory: what a line holds. `"value"`: the message's value; `"message"`: a JSON object with `value`, `text` or
    /// `base64`, and optionally `topic`, `key`, `headers` and `timestamp`. Default `"value"`.
    #[serde(default, deserialize_with = "optional_choice")]
    pub format: Option<LineFormat>,
    /// AMQP: the server's consumer timeout, after which it closes the channel of whoever keeps a message. A message whose
    /// next attempt would begin after 5/6 of it goes back to a quorum queue, which counts that, and has used up its
    /// attempts elsewhere. Default `"30m"`, as RabbitMQ's.
    #[serde(default, deserialize_with = "optional_duration")]
    pub consumer_timeout: Option<Duration>,
    /// How often finished offsets are committed; with AMQP those of streams. Default `"1s"`.
    #[serde(default, deserialize_with = "optional_duration")]
    pub commit_interval: Option<Duration>,
    /// Bound on what is read but not yet settled, for each group or queue.
    #[serde(default)]
    pub in_flight: InFlightFile,
    /// Kafka: how long deliveries in flight may finish when a partition is taken away. Polling stands still meanwhile,
    /// so it must be below the session timeout. Default `"3s"`.
    #[serde(default, deserialize_with = "optional_duration")]
    pub revoke_timeout: Option<Duration>,
    /// Kafka: what to do where the committed offset no longer exists. `"stop"` leaves the partition alone until
    /// somebody decides; `"earliest"` and `"latest"` go on from there. Default `"stop"`.
    #[serde(default, deserialize_with = "optional_choice")]
    pub on_out_of_range: Option<OutOfRange>,
}

/// `in_flight = { messages = 50000, bytes = "64MiB" }`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InFlightFile {
    /// Messages, at least 1. Default 50000. AMQP: the prefetch of a queue, at most 65535, default 1000. A server closes
    /// the channel of whoever keeps a message for longer than its `consumer_timeout`: this many messages must not take
    /// longer.
    #[serde(default, deserialize_with = "optional_count")]
    pub messages: Option<u32>,
    /// Kafka and memory: bytes of their keys, values and headers. Default `"64MiB"`.
    #[serde(default, deserialize_with = "optional_size")]
    pub bytes: Option<u64>,
}

/// `[service.NAME]`: functions that share settings and a runner, beside its `function.NAME` and `trigger.NAME` tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    /// What functions see as `ctx.env`. Values may be secrets.
    #[serde(default)]
    pub env: IndexMap<String, SecretFile>,
    #[serde(default)]
    pub log: LogFile,
}

/// `log = { level = "info" }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFile {
    /// Log lines of functions below this level are dropped: `"error"`, `"warn"`, `"info"` or `"debug"`. Default
    /// `"info"`.
    #[serde(default = "log_level", deserialize_with = "choice")]
    pub level: LogLevel,
}

impl Default for LogFile {
    fn default() -> Self {
        Self { level: log_level() }
    }
}

/// `[service.NAME.function.NAME]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionFile {
    /// The TypeScript or JavaScript file to run, required.
    pub code: PathBuf,
    /// Name of the export to call. Default `"default"`.
    #[serde(default = "handler")]
    pub handler: String,
    /// Heap of one isolate, from `"8MiB"` to `"4GiB"`. Default `"128MiB"`.
    #[serde(default = "memory", deserialize_with = "size")]
    pub memory: u64,
    /// Wall-clock time that one event may take. Default `"30s"`.
    #[serde(default = "timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// Wall-clock time that loading and evaluating the code may take. Default `"10s"`.
    #[serde(default = "start_timeout", deserialize_with = "duration")]
    pub start_timeout: Duration,
    /// Events in flight in one isolate, at least 1. Default 16.
    #[serde(default = "concurrency", deserialize_with = "count")]
    pub concurrency: u32,
    #[serde(default)]
    pub isolates: IsolatesFile,
}

/// `isolates = { min = 0, max = 8, idle = "60s" }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsolatesFile {
    /// Isolates that stay, busy or not. Default 0.
    #[serde(default, deserialize_with = "count")]
    pub min: u32,
    /// The most there may be, at least 1. Default: the number of processor cores (or `min`, where that is more).
    #[serde(default, deserialize_with = "optional_count")]
    pub max: Option<u32>,
    /// How long an isolate above `min` may sit idle. Default `"60s"`.
    #[serde(default = "isolate_idle", deserialize_with = "duration")]
    pub idle: Duration,
}

impl Default for IsolatesFile {
    fn default() -> Self {
        Self { min: 0, max: None, idle: isolate_idle() }
    }
}

/// `[service.NAME.trigger.NAME]`: which messages fire which function.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerFile {
    /// A function of the same service, required.
    pub function: String,
    /// The source to read from, required.
    pub source: String,
    /// Topics to read, as a list or with commas between; required for Kafka. Default for memory: `["memory"]`.
    #[serde(default, deserialize_with = "texts")]
    pub topics: Option<Vec<String>>,
    /// AMQP, required: the queue to read. All triggers of a source that name the same queue share one channel.
    pub queue: Option<String>,
    /// AMQP: `"passive"` uses a queue that is there, and says so while it is not; `"create"` declares it, durable, with
    /// its bindings; one that exists otherwise is an error. Default `"passive"`.
    #[serde(default, deserialize_with = "optional_choice")]
    pub declare: Option<Declare>,
    /// AMQP: `"classic"`, `"quorum"` or `"stream"`; what is declared with `declare = "create"`, and for a stream required
    /// in either case. Reading takes nothing off a stream; the position of its `group` is kept in a queue of its own,
    /// `lagless.position.GROUP.QUEUE`, and one worker of the group reads while others stand by. Default `"classic"`.
    #[serde(default, deserialize_with = "optional_choice")]
    pub queue_type: Option<QueueType>,
    /// AMQP, with `declare = "create"`: what the queue is bound to.
    #[serde(default)]
    pub bind: Vec<BindFile>,
    /// AMQP, with `declare = "create"`: arguments of the queue, such as `{ "x-dead-letter-exchange" = "dead" }`. Values
    /// are strings, booleans, whole numbers, lists and tables. All triggers of a queue agree.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// AMQP: the server hands messages to consumers of the highest priority first, as long as these have room. Default:
    /// the server's, 0.
    pub consumer_priority: Option<i32>,
    /// AMQP, required with a `rule` but not for a stream: what becomes of a message that no trigger of the queue matches. `"ack"`: it is
    /// taken off the queue and gone; `"reject"`: the queue's dead-letter policy has it (without one it is gone);
    /// `"stop"`: it goes back, and the queue is read no further.
    #[serde(default, deserialize_with = "optional_choice")]
    pub on_no_match: Option<OnNoMatch>,
    /// Kafka consumer group; committed offsets of an existing group are taken over. Of a stream: whose position it is.
    /// Default: the service's name.
    pub group: Option<String>,
    /// Kafka and streams: where a group without a committed position begins: `"earliest"` or `"latest"`; of a stream also
    /// `"last"` (the last piece that was written), `{ offset = 42 }`, and `{ time = "2026-11-21T10:00:00Z" }` (the piece
    /// that holds it, so that some messages may be older). All triggers of a group agree. Default `"earliest"`.
    #[serde(default, deserialize_with = "optional_start")]
    pub start: Option<Start>,
    /// The pattern that messages must match, as a table, as JSON text, or as `{ file = "rule.json" }`; the last two
    /// can say `null`. Default: every message matches.
    pub rule: Option<RuleFile>,
    /// The form of the event that the function is handed: `"lagless"` or `"cloudevents"`. Default `"lagless"`.
    #[serde(default = "shape", deserialize_with = "choice")]
    pub shape: ShapeKind,
    /// What is handled one after the other: the messages of a `"partition"` (AMQP: of the queue, as far as one worker
    /// reads it), or `"none"`. Default `"partition"`.
    #[serde(default = "order", deserialize_with = "choice")]
    pub order: Order,
    #[serde(default)]
    pub batch: BatchFile,
    #[serde(default)]
    pub retry: RetryFile,
    /// Where results go. Default: nowhere.
    pub on_success: Option<SinkFile>,
    /// Where messages go whose last attempt failed. Default: see `on_exhausted`.
    pub on_failure: Option<SinkFile>,
    /// AMQP: whether the function's result also answers the message: it is published to the queue that the message's
    /// `reply_to` names (direct reply-to too), with its `correlation_id`. A last failure is answered as well, with
    /// `{ "error": { "class": .., "name": .., "message": .. } }` and the headers `lagless-reason` and `lagless-error`.
    /// A message without `reply_to` gets no answer. Whoever may write to the queue can thus have results sent to any other
    /// queue of the virtual host. Default `false`.
    #[serde(default)]
    pub reply: bool,
    /// Without `on_failure`: what becomes of a message whose last attempt failed. `"stop"`: its lane stops and says so;
    /// `"drop"`: it is counted and forgotten; `"reject"` (AMQP): the queue's own dead-letter policy has it, and without
    /// one it is gone. Default `"stop"`.
    #[serde(default, deserialize_with = "optional_choice")]
    pub on_exhausted: Option<OnExhausted>,
}

/// `{ exchange = "shop", type = "topic", routing_key = "order.*.created" }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindFile {
    /// The exchange, required.
    pub exchange: String,
    /// `"direct"`, `"topic"`, `"fanout"`, `"headers"` or what a plugin of the server brings: the exchange is declared,
    /// durable; one that exists otherwise is an error. Default: the exchange must exist.
    #[serde(rename = "type")]
    pub exchange_type: Option<String>,
    /// The routing key or pattern. Default `""`.
    #[serde(default)]
    pub routing_key: String,
    /// Arguments of the binding, such as what a headers exchange compares: `{ "x-match" = "all", region = "eu" }`. A
    /// number that fits in 32 bits is sent as such, since these exchanges compare types too.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// `batch = { size = 100 }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchFile {
    /// How many events travel to an isolate at once, 1 to 10000. Default 100.
    #[serde(default = "batch_size", deserialize_with = "count")]
    pub size: u32,
}

impl Default for BatchFile {
    fn default() -> Self {
        Self { size: batch_size() }
    }
}

/// `retry = { attempts = 5, backoff = "200ms", max_backoff = "30s" }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryFile {
    /// Attempts in all, the first included; at least 1. Default 5. What a quorum queue counted before is included, but
    /// for one last attempt.
    #[serde(default = "retry_attempts", deserialize_with = "count")]
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each. Default `"200ms"`.
    #[serde(default = "retry_backoff", deserialize_with = "duration")]
    pub backoff: Duration,
    /// The longest wait. Default `"30s"`, or `backoff` where that is more.
    #[serde(default, deserialize_with = "optional_duration")]
    pub max_backoff: Option<Duration>,
}

impl Default for RetryFile {
    fn default() -> Self {
        Self { attempts: retry_attempts(), backoff: retry_backoff(), max_backoff: None }
    }
}

fn admin() -> Option<SocketAddr> {
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)))
}

/// Kubernetes kills after 30 s.
fn drain_timeout() -> Duration {
    Duration::from_secs(25)
}

pub(super) fn commit_interval() -> Duration {
    Duration::from_secs(1)
}

pub(super) fn in_flight_messages() -> u32 {
    50_000
}

/// What keeps a queue's consumer busy; more only grows what a crash repeats.
pub(super) fn prefetch() -> u32 {
    1_000
}

pub(super) fn in_flight_bytes() -> u64 {
    64 << 20
}

/// RabbitMQ's own.
pub(super) fn consumer_timeout() -> Duration {
    Duration::from_secs(30 * 60)
}

/// Far below librdkafka's session timeout of 45 s.
pub(super) fn revoke_timeout() -> Duration {
    Duration::from_secs(3)
}

fn log_level() -> LogLevel {
    LogLevel::Info
}

fn handler() -> String {
    "default".into()
}

fn memory() -> u64 {
    128 << 20
}

fn timeout() -> Duration {
    Duration::from_secs(30)
}

fn start_timeout() -> Duration {
    Duration::from_secs(10)
}

fn concurrency() -> u32 {
    16
}

/// The number of cores that this process may use.
pub(super) fn isolates_max() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

fn isolate_idle() -> Duration {
    Duration::from_secs(60)
}

fn shape() -> ShapeKind {
    ShapeKind::Lagless
}

fn order() -> Order {
    Order::Partition
}

fn batch_size() -> u32 {
    100
}

fn retry_attempts() -> u32 {
    5
}

fn retry_backoff() -> Duration {
    Duration::from_millis(200)
}

pub(super) fn retry_max_backoff() -> Duration {
    Duration::from_secs(30)
}
