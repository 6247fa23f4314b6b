//! Sinks: where results and dead letters go.
//!
//! A [`Sink`] is one topic of one source, or one exchange and routing key. A record handed to it is answered by exactly
//! one [`Receipt`]: written and acknowledged, or refused for good. What can heal is retried inside, for as long as it
//! takes; nothing is given up in silence. Sinks know nothing of functions or V8.

use std::sync::Arc;

use tokio::sync::mpsc;

pub mod amqp;
pub mod kafka;
pub mod memory;

/// A record to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    /// `None` writes a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The number that the sender gave the record.
    pub ticket: u64,
    /// An error is final: the record cannot be written as it is (too large, not authorised, ...).
    pub written: Result<(), String>,
}

/// Where a sender receives its receipts. The sender bounds what it has outstanding.
pub type Receipts = mpsc::UnboundedSender<Receipt>;

/// One place to write to, shared by all who write there.
#[derive(Debug, Clone)]
pub enum Sink {
    Kafka(Arc<kafka::KafkaSink>),
    Amqp(Arc<amqp::AmqpSink>),
    Memory(Arc<memory::MemorySink>),
}

impl Sink {
    /// Queues a record; the answer comes through `receipts`. Records of one sender and key stay in order.
    pub fn send(&self, record: Record, ticket: u64, receipts: &Receipts) {
        match self {
            Self::Kafka(sink) => sink.send(record, ticket, receipts),
            Self::Amqp(sink) => sink.send(record, ticket, receipts),
            Self::Memory(sink) => sink.send(record, ticket, receipts),
        }
    }

    /// `source/topic` or `source/exchange/routing_key`, for logs and headers.
    pub fn name(&self) -> &str {
        match self {
            Self::Kafka(sink) => sink.name(),
            Self::Amqp(sink) => sink.name(),
            Self::Memory(sink) => sink.name(),
        }
    }

    /// The largest record that the sink takes, in bytes.
    pub fn record_max(&self) -> usize {
        match self {
            Self::Kafka(sink) => sink.record_max(),
            Self::Amqp(sink) => sink.record_max(),
            Self::Memory(_) => usize::MAX,
        }
    }
}
