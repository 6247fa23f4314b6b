//! The validated settings: what the rest of the program sees. Everything here can be honoured as it stands.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::routing_key::RoutingKey;
use super::tls::TlsSettings;

/// Everything a worker needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    pub sources: IndexMap<String, SourceSettings>,
    pub services: IndexMap<String, ServiceSettings>,
    /// Where health, readiness and metrics are served; `None` serves nothing.
    pub admin: Option<SocketAddr>,
    /// How long deliveries in flight may finish after a stop.
    pub drain_timeout: Duration,
    /// Files the settings were read from, for watching.
    pub files: Vec<PathBuf>,
}

/// A configured broker connection.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    pub kind: SourceKind,
    /// How often finished offsets are committed.
    pub commit_interval: Duration,
    /// Bound on deliveries that are read but not yet settled, per subscription.
    pub in_flight: InFlight,
    /// How long deliveries in flight may finish when a partition is taken away.
    pub revoke_timeout: Duration,
    /// What to do where the committed offset no longer exists.
    pub on_out_of_range: OutOfRange,
    /// AMQP: after which the server closes the channel of whoever keeps a message.
    pub consumer_timeout: Duration,
}

impl SourceSettings {
    /// How long a message may be kept where the server takes it back after `consumer_timeout`: some is left for the
    /// attempt that has begun by then.
    pub fn keep_max(consumer_timeout: Duration) -> Duration {
        consumer_timeout * 5 / 6
    }
}

#[derive(Debug, Clone)]
pub enum SourceKind {
    Kafka(KafkaSettings),
    Amqp(AmqpSettings),
    Memory(MemorySettings),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpSettings {
    /// `amqp://user:password@host:port/vhost` each; at least one. `amqps` is TLS.
    pub urls: Vec<Secret>,
    pub tls: TlsSettings,
    pub login: Login,
}

/// How a client says who it is to an AMQP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// By the user and password of the URL.
    Plain,
    /// By the certificate that it shows.
    External,
}

#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// librdkafka settings, passed through to every client of this source.
    pub client: IndexMap<String, Secret>,
    /// Logs in with OAUTHBEARER.
    pub oauth_token: Option<OauthToken>,
    /// Static membership: librdkafka's `group.instance.id`.
    pub instance_id: Option<String>,
}

/// Where tokens come from, each time that one is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OauthToken {
    File(PathBuf),
    /// The program and its arguments; at least the program.
    Command(Vec<String>),
}

/// Messages as JSON lines from a file or standard input, and results as JSON lines to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySettings {
    /// `None` is standard input.
    pub input: Option<PathBuf>,
    /// `None` is standard output.
    pub output: Option<PathBuf>,
    pub format: LineFormat,
}

/// What one line of a memory source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// The line is the message's value.
    Value,
    /// The line is a JSON object: `value` or `text` or `base64`, and optionally `topic`, `key`, `headers`, `timestamp`.
    Message,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    pub messages: usize,
    pub bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfRange {
    /// Leave the partition alone and say so until somebody decides.
    Stop,
    Earliest,
    Latest,
}

/// A group of functions that share settings.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// What functions see as `ctx.env`.
    pub env: IndexMap<String, Secret>,
    /// Log lines of functions below this level are dropped.
    pub log_level: LogLevel,
    pub functions: IndexMap<String, FunctionSettings>,
    pub triggers: IndexMap<String, TriggerSettings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone)]
pub struct FunctionSettings {
    /// The entry file, resolved against the folder of the file that named it.
    pub code: PathBuf,
    /// Name of the export to call.
    pub handler: String,
    /// Heap of one isolate, in bytes.
    pub memory: u64,
    /// Wall-clock time of one event.
    pub timeout: Duration,
    /// Wall-clock time for loading and evaluating the code.
    pub start_timeout: Duration,
    /// Events in flight in one isolate.
    pub concurrency: u32,
    pub isolates: Isolates,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isolates {
    pub min: u32,
    pub max: u32,
    /// How long an isolate above `min` may sit idle.
    pub idle: Duration,
}

/// Which messages fire which function, and how their deliveries are handled.
#[derive(Debug, Clone)]
pub struct TriggerSettings {
    pub function: String,
    pub source: String,
    /// For AMQP: the queue.
    pub topics: Vec<String>,
    /// Kafka consumer group; default: the service's name. For AMQP: the queue; for a stream `QUEUE@GROUP`.
    pub group: String,
    /// For AMQP.
    pub queue: Option<QueueSettings>,
    pub start: Start,
    /// The pattern, as JSON; `None` matches every message.
    pub rule: Option<serde_json::Value>,
    pub shape: ShapeKind,
    pub order: Order,
    /// How many events travel to an isolate at once.
    pub batch_size: usize,
    pub retry: RetrySettings,
    pub on_success: Option<SinkSettings>,
    pub on_failure: Option<SinkSettings>,
    /// AMQP: whether results answer the message.
    pub reply: bool,
    pub on_exhausted: OnExhausted,
}

/// What a trigger says of its queue; `None` leaves it to the queue's other triggers, or to the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueSettings {
    pub declare: Option<Declare>,
    pub queue_type: Option<QueueType>,
    pub bind: Vec<Binding>,
    /// Of the queue, where it is declared.
    pub arguments: Map<String, Value>,
    pub consumer_priority: Option<i32>,
    pub on_no_match: Option<OnNoMatch>,
    /// Of a stream: whose position is kept.
    pub reader: Option<String>,
}

impl QueueSettings {
    /// The queue that keeps the position of a stream's group.
    pub fn position_queue(group: &str, stream: &str) -> String {
        format!("lagless.position.{group}.{stream}")
    }

    /// Adds what another trigger of the same queue says; what was said before stands.
    pub fn add(&mut self, said: &Self) {
        self.declare = self.declare.or(said.declare);
        self.queue_type = self.queue_type.or(said.queue_type);
        self.consumer_priority = self.consumer_priority.or(said.consumer_priority);
        self.on_no_match = self.on_no_match.or(said.on_no_match);
        self.reader = self.reader.take().or_else(|| said.reader.clone());
        if self.arguments.is_empty() {
            self.arguments.clone_from(&said.arguments);
        }
        for binding in &said.bind {
            if !self.bind.contains(binding) {
                self.bind.push(binding.clone());
            }
        }
    }
}

/// How a queue comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declare {
    /// It must be there.
    Passive,
    Create,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    Classic,
    Quorum,
    /// A log: reading takes nothing off, and the reader's position is kept.
    Stream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub exchange: String,
    /// Where the exchange is to be declared.
    pub exchange_type: Option<String>,
    pub routing_key: String,
    pub arguments: Map<String, Value>,
}

/// What becomes of a queue's message that no trigger matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNoMatch {
    Ack,
    /// Rejected without requeue: the queue's dead-letter policy has it.
    Reject,
    /// It goes back, and the queue is read no further.
    Stop,
}

/// Where a group without committed offsets begins. Kafka and memory know the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    /// With the last piece that the server has written.
    Last,
    Offset(i64),
    /// With the piece that holds this time, in seconds since the Unix epoch.
    Time(i64),
}

/// The form of the event that a function is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShapeKind {
    Lagless,
    CloudEvents,
}

/// What must be handled one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Partition,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrySettings {
    /// Attempts in all, the first included.
    pub attempts: u32,
    pub backoff: Duration,
    pub max_backoff: Duration,
}

/// A place to write to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SinkSettings {
    pub source: String,
    pub target: Target,
    /// What every record gets; texts alone unless the target is an exchange.
    pub headers: Vec<(String, serde_json::Value)>,
}

/// Where in a source records go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Of Kafka, or of a memory source.
    Topic(String),
    /// Of AMQP.
    Exchange { exchange: String, routing_key: RoutingKey, properties: PropertySettings },
}

impl Target {
    /// The topic's name, or the exchange and the routing key.
    pub fn name(&self) -> String {
        match self {
            Self::Topic(topic) => topic.clone(),
            Self::Exchange { exchange, routing_key, .. } => format!("{exchange}/{routing_key}"),
        }
    }
}

/// AMQP properties that every record of a sink gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PropertySettings {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// The property `type`.
    pub kind: Option<String>,
    pub app_id: Option<String>,
    pub user_id: Option<String>,
    pub priority: Option<u8>,
    /// Whole milliseconds.
    pub expiration: Option<Duration>,
    pub persistent: bool,
}

impl Default for PropertySettings {
    fn default() -> Self {
        Self {
            content_type: None,
            content_encoding: None,
            kind: None,
            app_id: None,
            user_id: None,
            priority: None,
            expiration: None,
            persistent: true,
        }
    }
}

/// What becomes of a delivery after the last attempt when there is no dead-letter sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// The lane stops and says so.
    Stop,
    Drop,
    /// AMQP: rejected without requeue.
    Reject,
}

/// A value that is never printed when it came by reference.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    hidden: bool,
}

impl Secret {
    pub fn hidden(value: impl Into<String>) -> Self {
        Self { value: value.into(), hidden: true }
    }

    pub fn plain(value: impl Into<String>) -> Self {
        Self { value: value.into(), hidden: false }
    }

    pub fn reveal(&self) -> &str {
        &self.value
    }

    /// What may be shown to people.
    pub fn shown(&self) -> &str {
        if self.hidden { "***" } else { &self.value }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.shown(), f)
    }
}
