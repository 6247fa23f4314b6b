//! The Kafka sink: one idempotent producer per source, shared by all topics that are written to.
//!
//! What holds here: a record is kept until the broker has acknowledged it or refused it for good, and it is answered
//! once. What may heal (a topic that does not exist yet, a full queue, a producer that has failed) is tried again for as
//! long as it takes, in the order the records came. Sending never waits.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext};

use super::{Receipt, Receipts, Record};
use crate::config::{KafkaSettings, OauthToken};
use crate::source::Fault;
use crate::source::kafka::client::{Notices, configure, creation_error, explain, log_line};
use crate::source::kafka::oauth;

/// The largest record that the client library takes, unless `message.max.bytes` says otherwise.
const RECORD_MAX: usize = 1_000_000;

/// What a record's framing takes of [`RECORD_MAX`], generously.
const FRAMING: usize = 512;

/// How long a topic that has refused records is left alone before they are tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long the polling thread listens for acknowledgements at a stretch.
const POLL: Duration = Duration::from_millis(50);

/// How long records wait without any news of them before it is looked whether a broker can be reached at all. A client
/// that was told of no brokers, as one that starts may say, forgets those it knows and never asks again
/// (<https://github.com/confluentinc/librdkafka/issues/5301>).
const STRANDED_AFTER: Duration = Duration::from_secs(30);

/// How long a broker may take to answer then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client that is replaced may take to give back what it holds.
const PURGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a producer that is dropped goes on to deliver what it holds.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// A place to write to: one topic of one source.
pub struct KafkaSink {
    producer: Arc<KafkaProducer>,
    name: String,
    topic: Arc<str>,
    /// What every record gets.
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// The producer of one source.
pub struct KafkaProducer {
    shared: Arc<Shared>,
    record_max: usize,
    /// Closed when the polling thread has ended.
    finished: Mutex<mpsc::Receiver<()>>,
}

/// A record on its way.
struct Parcel {
    /// The order in which records were handed over.
    number: u64,
    topic: Arc<str>,
    record: Record,
    ticket: u64,
    receipts: Receipts,
}

/// The records of a topic that must be sent again, in their order.
#[derive(Default)]
struct Waiting {
    parcels: BTreeMap<u64, Arc<Parcel>>,
    retry_at: Option<Instant>,
}

struct State {
    producer: Arc<BaseProducer<Context>>,
    /// The number of the last record.
    last: u64,
    /// Topics with records that wait; new records queue up behind them.
    waiting: BTreeMap<Arc<str>, Waiting>,
    /// Records not answered yet.
    open: u64,
    /// When there was last news of a record, or the first of those that wait was sent.
    heard: Instant,
    /// The producer has failed for good and must be replaced.
    is_broken: bool,
}

struct Shared {
    source_name: String,
    config: ClientConfig,
    oauth_token: Option<OauthToken>,
    state: Mutex<Option<State>>,
    notices: Mutex<Notices>,
    is_ending: AtomicBool,
}

/// What the client calls back.
struct Context(Arc<Shared>);

impl KafkaSink {
    /// `source` is the name of the source that `producer` belongs to.
    pub fn new(producer: Arc<KafkaProducer>, source: String, topic: String) -> Self {
        Self { producer, name: format!("{source}/{topic}"), topic: topic.into(), headers: Vec::new() }
    }

    /// The sink, giving every record these headers after its own.
    pub fn with_headers(self, headers: Vec<(String, Option<Vec<u8>>)>) -> Self {
        Self { headers, ..self }
    }

    /// `source/topic`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Queues a record; see [`Sink::send`](super::Sink::send).
    pub fn send(&self, mut record: Record, ticket: u64, receipts: &Receipts) {
        let receipts = receipts.clone();
        record.headers.extend_from_slice(&self.headers);
        self.producer.shared.send(Parcel { number: 0, topic: self.topic.clone(), record, ticket, receipts });
    }

    /// The largest record that can be written: bytes of key, value, and names and values of headers together.
    pub fn record_max(&self) -> usize {
        let length = |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len) + 10;
        self.producer.record_max.saturating_sub(self.headers.iter().map(length).sum())
    }
}

impl KafkaProducer {
    /// Makes the producer of a source. It does not wait for the broker.
    ///
    /// # Errors
    /// When the client library refuses the settings.
    pub fn connect(source_name: &str, settings: &KafkaSettings) -> Result<Self, Fault> {
        let fault = |reason| Fault::Client { source_name: source_name.to_owned(), reason };
        let config = producer_config(settings);
        let record_max = config.get("message.max.bytes").and_then(|max| max.parse().ok()).unwrap_or(RECORD_MAX);
        let shared = Arc::new(Shared {
            source_name: source_name.to_owned(),
            config,
            oauth_token: settings.oauth_token.clone(),
            state: Mutex::new(None),
            notices: Mutex::default(),
            is_ending: AtomicBool::new(false),
        });
        let producer = shared.client().map_err(|error| fault(creation_error(&error)))?;
        let (waiting, heard) = (BTreeMap::new(), Instant::now());
        *shared.state() = Some(State { producer, last: 0, waiting, open: 0, heard, is_broken: false });
        let (alive, finished) = mpsc::sync_channel::<()>(1);
        let served = shared.clone();
        thread::Builder::new()
            .name(format!("kafka-sink-{source_name}"))
            .spawn(move || {
                served.serve();
                drop(alive);
            })
            .map_err(|error| fault(format!("cannot start a thread: {error}")))?;
        Ok(Self { shared, record_max: record_max.saturating_sub(FRAMING), finished: Mutex::new(finished) })
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Release);
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.recv_timeout(FLUSH_TIMEOUT + Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(source = self.shared.source_name, "the producer does not come to an end: leaving it");
        }
    }
}

fn producer_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = configure(
        settings,
        &[
            ("linger.ms", "5"),
            ("compression.type", "lz4"),
            ("queue.buffering.max.messages", "1000000"),
            // A client library that gives up on a topic too late would hold the records of others meanwhile.
            ("topic.metadata.propagation.max.ms", "10000"),
        ],
    );
    // Never given up, never twice, never out of order: the promises rest on these.
    config.set("enable.idempotence", "true").set("acks", "all").set("message.timeout.ms", "0");
    config
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        // A panic while it was held leaves at worst one record to be sent again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(self: &Arc<Self>) -> KafkaResult<Arc<BaseProducer<Context>>> {
        self.config.create_with_context(Context(self.clone())).map(Arc::new)
    }

    /// Numbers a record and sends it, or keeps it for later.
    fn send(&self, mut parcel: Parcel) {
        let mut guard = self.state();
        let Some(state) = guard.as_mut() else {
            // The producer has ended: unanswered records are abandoned, like all that were on their way.
            return;
        };
        if state.open == 0 {
            state.heard = Instant::now();
        }
        state.last += 1;
        state.open += 1;
        parcel.number = state.last;
        let parcel = Arc::new(parcel);
        if state.is_broken || state.waiting.contains_key(&parcel.topic) {
            state.put_back(parcel, None);
        } else if let Err(refused) = state.produce(&parcel) {
            self.note_refusal(state, parcel, &refused);
        }
    }

    /// Listens for acknowledgements and sends again what waits, until told to end.
    fn serve(self: Arc<Self>) {
        let mut flush_until = None;
        loop {
            let Some(producer) = self.state().as_ref().map(|state| state.producer.clone()) else { return };
            producer.poll(POLL);
            let is_stranded = self.is_stranded(&producer);
            drop(producer);
            if is_stranded || self.state().as_ref().is_some_and(|state| state.is_broken) {
                self.rebuild();
            }
            self.send_waiting(Instant::now());
            if self.is_ending.load(Ordering::Acquire) {
                let until = *flush_until.get_or_insert_with(|| Instant::now() + FLUSH_TIMEOUT);
                let open = self.state().as_ref().map_or(0, |state| state.open);
                if open == 0 || Instant::now() >= until {
                    // Taken out first: dropping the client calls back.
                    let last = self.state().take();
                    drop(last);
                    if open > 0 {
                        tracing::warn!(source = self.source_name, open, "records were not acknowledged before the end");
                    }
                    return;
                }
            }
        }
    }

    /// Whether records wait in a client that reaches nobody.
    fn is_stranded(&self, producer: &BaseProducer<Context>) -> bool {
        let waits = |state: &State| state.open > 0 && state.heard.elapsed() >= STRANDED_AFTER;
        if !self.state().as_ref().is_some_and(waits) || self.is_ending.load(Ordering::Acquire) {
            return false;
        }
        let answer = producer.client().fetch_metadata(None, ANSWER_TIMEOUT);
        if let Some(state) = self.state().as_mut() {
            state.heard = Instant::now();
        }
        match answer {
            Ok(metadata) => metadata.brokers().is_empty(),
            Err(error) => {
                tracing::debug!(source = self.source_name, %error, "no broker answers the sink");
                true
            }
        }
    }

    /// Sends again the records of topics whose time has come.
    fn send_waiting(&self, now: Instant) {
        let mut guard = self.state();
        let Some(state) = guard.as_mut().filter(|state| !state.is_broken) else { return };
        let due: Vec<Arc<str>> = state
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.retry_at.is_none_or(|at| at <= now))
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in due {
            let Some(waiting) = state.waiting.remove(&topic) else { continue };
            let mut parcels = waiting.parcels.into_values();
            for parcel in parcels.by_ref() {
                if let Err(refused) = state.produce(&parcel) {
                    self.note_refusal(state, parcel, &refused);
                }
                if state.is_broken || state.waiting.contains_key(&topic) {
                    break;
                }
            }
            for parcel in parcels {
                state.put_back(parcel, None);
            }
        }
    }

    /// What a refused or failed record comes to: answered for good, or put back to be sent again.
    fn note_refusal(&self, state: &mut State, parcel: Arc<Parcel>, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        match code {
            Code::QueueFull => state.put_back(parcel, None),
            Code::PurgeQueue | Code::PurgeInflight => state.put_back(parcel, None),
            Code::Fatal | Code::GaplessGuarantee | Code::Fenced | Code::OutOfOrderSequenceNumber => {
                state.is_broken = true;
                state.put_back(parcel, None);
            }
            _ if is_final(code) => {
                state.open -= 1;
                parcel.answer(Err(format!("{}: {code}", parcel.topic)));
            }
            _ => {
                if self.is_due(&format!("{} {code:?}", parcel.topic)) {
                    let what = match code {
                        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                            "it does not exist: create it, or fix the sink's `topic`".to_owned()
                        }
                        code => explain(code, &code.to_string()),
                    };
                    tracing::error!(source = self.source_name, topic = %parcel.topic,
                        "cannot write to topic `{}`: {what}; the records are kept and sent again", parcel.topic);
                }
                state.put_back(parcel, Some(Instant::now() + RETRY_DELAY));
            }
        }
    }

    /// Replaces a producer that has failed for good, and sends what it has not delivered.
    fn rebuild(self: &Arc<Self>) {
        if self.is_due("rebuild") {
            tracing::error!(
                source = self.source_name,
                "the producer has failed, or has heard of no broker for {STRANDED_AFTER:?}: making another one; \
                 unacknowledged records are sent again and may be written twice"
            );
        }
        match self.client() {
            Ok(client) => {
                let Some(old) = self.state().as_mut().map(|state| std::mem::replace(&mut state.producer, client))
                else {
                    return;
                };
                // Without the lock: what it still holds comes back through its context, to be sent again.
                old.purge(PurgeConfig::default().queue().inflight());
                let until = Instant::now() + PURGE_TIMEOUT;
                while old.in_flight_count() > 0 && Instant::now() < until {
                    old.poll(POLL);
                }
                drop(old);
                if let Some(state) = self.state().as_mut() {
                    state.is_broken = false;
                }
            }
            Err(error) => {
                if self.is_due("create") {
                    tracing::error!(source = self.source_name, "{}", creation_error(&error));
                }
            }
        }
    }

    fn is_due(&self, what: &str) -> bool {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).is_due(what, Instant::now())
    }
}

impl State {
    /// Hands a record to the client. It is copied there; ours is kept in case it must be sent again.
    fn produce(&self, parcel: &Arc<Parcel>) -> KafkaResult<()> {
        let mut headers = OwnedHeaders::new_with_capacity(parcel.record.headers.len());
        for (name, value) in &parcel.record.headers {
            headers = headers.insert(Header { key: name, value: value.as_ref() });
        }
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&parcel.topic, parcel.clone());
        record.key = parcel.record.key.as_deref();
        record.payload = parcel.record.value.as_deref();
        record.headers = (!parcel.record.headers.is_empty()).then_some(headers);
        self.producer.send(record).map_err(|(error, _)| error)
    }

    fn put_back(&mut self, parcel: Arc<Parcel>, retry_at: Option<Instant>) {
        let waiting = self.waiting.entry(parcel.topic.clone()).or_default();
        waiting.retry_at = waiting.retry_at.max(retry_at);
        waiting.parcels.insert(parcel.number, parcel);
    }
}

impl Parcel {
    fn answer(&self, written: Result<(), String>) {
        // A sender that has gone has no use for receipts.
        let _ = self.receipts.send(Receipt { ticket: self.ticket, written });
    }
}

/// Whether a record can never be written as it is.
fn is_final(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::InvalidTopic
            | Code::InvalidArgument
            | Code::PolicyViolation
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::UnsupportedForMessageFormat
    )
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        oauth::token(self.0.oauth_token.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if code == RDKafkaErrorCode::Fatal {
            if let Some(state) = self.0.state().as_mut() {
                state.is_broken = true;
            }
        } else if self.0.is_due(&format!("{code:?}")) {
            tracing::error!(source = self.0.source_name, "sink: {}", explain(code, reason));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Parcel>;

    fn delivery(&self, result: &DeliveryResult<'_>, parcel: Arc<Parcel>) {
        let mut guard = self.0.state();
        let Some(state) = guard.as_mut() else { return };
        state.heard = Instant::now();
        match result {
            Ok(_) => {
                state.open -= 1;
                parcel.answer(Ok(()));
            }
            Err((error, _)) => self.0.note_refusal(state, parcel, error),
        }
    }
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaProducer").field("source", &self.shared.source_name).finish_non_exhaustive()
    }
}
