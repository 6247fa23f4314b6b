//! The shop's other programs: one that publishes orders, and one that reads results and dead letters. They are plain
//! Kafka clients on threads of their own and know nothing of the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use super::account::{Audit, Published};
use super::orders::{Kind, Mix, number_of};
use super::pace::Pace;
use super::shop::Names;
use crate::cli::embedded::{self, PARTITIONS, Quiet};

/// How many orders may be published and not settled: the embedded broker forgets the oldest when it holds too many.
const BACKLOG_MAX: u64 = 20_000;
const TICK: Duration = Duration::from_millis(10);
/// How long the broker may take for an order, and for the last ones.
const DELIVERY_MS: &str = "10000";
const FLUSH_MAX: Duration = Duration::from_secs(12);
/// How long reading to the ends of the topics may take.
const READ_MAX: Duration = Duration::from_secs(20);
const ASK_MAX: Duration = Duration::from_secs(5);

/// Counts of orders by what the broker said.
#[derive(Debug, Default)]
struct Receipts {
    /// By place in [`Kind::ALL`].
    acknowledged: [AtomicU64; Kind::ALL.len()],
    refused: AtomicU64,
}

impl Receipts {
    fn published(&self) -> Published {
        let [placed, gifts, viewed, poison] = self.acknowledged.each_ref().map(|count| count.load(Ordering::Relaxed));
        Published { placed, gifts, viewed, poison, refused: self.refused.load(Ordering::Relaxed) }
    }
}

/// Takes what the broker says to each order.
struct Counting(Arc<Receipts>);

impl ClientContext for Counting {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Quiet.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ProducerContext for Counting {
    /// The order's place in [`Kind::ALL`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, kind: usize) {
        let count = if result.is_ok() { &self.0.acknowledged[kind] } else { &self.0.refused };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes orders at a steady rate until stopped.
#[derive(Debug)]
pub struct Publisher {
    receipts: Arc<Receipts>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Publisher {
    /// Starts publishing to `topic`, `rate` orders a second. `settled` tells how many are settled so far.
    pub fn start(
        bootstrap: &str,
        topic: &str,
        rate: u32,
        settled: impl Fn() -> u64 + Send + 'static,
    ) -> Result<Self, String> {
        let (receipts, stop) = (Arc::<Receipts>::default(), Arc::<AtomicBool>::default());
        let mut config = embedded::client(bootstrap);
        config.set("enable.idempotence", "true").set("message.timeout.ms", DELIVERY_MS);
        let producer: ThreadedProducer<Counting> =
            config.create_with_context(Counting(receipts.clone())).map_err(|error| error.to_string())?;
        let mut press = Press { producer, topic: topic.to_owned(), mix: Mix::of_rate(rate), number: 0 };
        let stopped = stop.clone();
        let publish = move || {
            let mut pace = Pace::new(rate, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let room = BACKLOG_MAX.saturating_sub(press.number.saturating_sub(settled()));
                let due = pace.due(Instant::now()).min(room);
                pace.take(press.send(due)?);
                thread::sleep(TICK);
            }
            press.producer.flush(FLUSH_MAX).map_err(|error| error.to_string())
        };
        let thread = thread::Builder::new().name("demo-orders".to_owned()).spawn(publish);
        Ok(Self { receipts, stop, thread: thread.map_err(|error| error.to_string())? })
    }

    /// How many orders the broker has acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.receipts.published().acknowledged()
    }

    /// Whether it has ended by itself, which is an error that [`Publisher::stop`] tells.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops, and waits until the broker has answered for every order. Blocks.
    pub fn stop(self) -> Result<Published, String> {
        self.stop.store(true, Ordering::Relaxed);
        joined(self.thread)?;
        Ok(self.receipts.published())
    }
}

/// Where orders come from.
struct Press {
    producer: ThreadedProducer<Counting>,
    topic: String,
    mix: Mix,
    /// Of the next order.
    number: u64,
}

impl Press {
    /// Sends up to `due` orders, fewer where the client's queue is full. Answers how many.
    fn send(&mut self, due: u64) -> Result<u64, String> {
        for sent in 0..due {
            let order = self.mix.order(self.number);
            let record =
                BaseRecord::with_opaque_to(&self.topic, order.kind as usize).key(&order.key).payload(&order.value);
            match self.producer.send(record) {
                Ok(()) => self.number += 1,
                Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => return Ok(sent),
                Err((error, _)) => return Err(error.to_string()),
            }
        }
        Ok(due)
    }
}

/// Reads the topics of results and dead letters as they are written, since the embedded broker does not keep them.
#[derive(Debug)]
pub struct Auditor {
    finish: Arc<AtomicBool>,
    thread: JoinHandle<Result<Audit, String>>,
}

impl Auditor {
    pub fn start(bootstrap: &str, names: &Names, mix: Mix) -> Result<Self, String> {
        let consumer = embedded::consumer(bootstrap).map_err(|error| error.to_string())?;
        let topics = [names.results.clone(), names.dead_letters.clone()];
        let everything = embedded::whole(&topics).map_err(|error| error.to_string())?;
        consumer.assign(&everything).map_err(|error| error.to_string())?;
        let reading = Reading { topics, mix, next: Default::default(), audit: Audit::default() };
        let finish = Arc::<AtomicBool>::default();
        let finishing = finish.clone();
        let thread = thread::Builder::new()
            .name("demo-audit".to_owned())
            .spawn(move || reading.run(&consumer, &finishing))
            .map_err(|error| error.to_string())?;
        Ok(Self { finish, thread })
    }

    /// Reads to the present ends of the topics and tells what was in them. Blocks.
    pub fn finish(self) -> Result<Audit, String> {
        self.finish.store(true, Ordering::Relaxed);
        joined(self.thread)
    }
}

/// An offset for each partition of the two topics.
type Offsets = [[i64; PARTITIONS as usize]; 2];

struct Reading {
    /// Results, dead letters.
    topics: [String; 2],
    mix: Mix,
    /// The offsets to be read next.
    next: Offsets,
    audit: Audit,
}

impl Reading {
    fn run(mut self, consumer: &BaseConsumer<Quiet>, finish: &AtomicBool) -> Result<Audit, String> {
        while !finish.load(Ordering::Relaxed) {
            self.poll(consumer);
        }
        let ends = self.ends(consumer).map_err(|error| format!("cannot ask for the ends of the topics: {error}"))?;
        let deadline = Instant::now() + READ_MAX;
        while !self.has_reached(&ends) {
            if Instant::now() >= deadline {
                return Err(format!("the topics could not be read to their ends within {READ_MAX:?}"));
            }
            self.poll(consumer);
        }
        Ok(self.audit)
    }

    fn poll(&mut self, consumer: &BaseConsumer<Quiet>) {
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => self.note(&message),
            // The client tries again by itself; what never comes is missed at the end.
            Some(Err(error)) => tracing::debug!(%error, "reading back"),
            None => {}
        }
    }

    fn note(&mut self, message: &BorrowedMessage<'_>) {
        let topic = usize::from(message.topic() != self.topics[0]);
        let Some(next) = usize::try_from(message.partition()).ok().and_then(|at| self.next[topic].get_mut(at)) else {
            return;
        };
        // What lies between has been dropped by the broker.
        self.audit.dropped += u64::try_from(message.offset() - *next).unwrap_or(0);
        *next = message.offset() + 1;
        let number = number_of(message.payload().unwrap_or_default());
        match topic {
            0 => self.audit.note_result(number, self.mix),
            _ => self.audit.note_dead_letter(number, self.mix),
        }
    }

    fn ends(&self, consumer: &BaseConsumer<Quiet>) -> Result<Offsets, KafkaError> {
        let mut ends = Offsets::default();
        for (topic, ends) in self.topics.iter().zip(&mut ends) {
            for (partition, end) in (0..PARTITIONS).zip(ends) {
                (_, *end) = consumer.fetch_watermarks(topic, partition, ASK_MAX)?;
            }
        }
        Ok(ends)
    }

    fn has_reached(&self, ends: &Offsets) -> bool {
        self.next.iter().flatten().zip(ends.iter().flatten()).all(|(next, end)| next >= end)
    }
}

fn joined<T>(thread: JoinHandle<Result<T, String>>) -> Result<T, String> {
    thread.join().unwrap_or_else(|_| Err("a thread of the demo has panicked".to_owned()))
}
