//! Sinks: where results and dead letters go.
//!
//! A [`Sink`] is one topic of one source, or one address of an AMQP server. A record handed to it is answered by exactly
//! one [`Receipt`]: written and acknowledged, or refused for good. What can heal is retried inside, for as long as it
//! takes; nothing is given up in silence. Sinks know nothing of functions or V8.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::event::Message;

pub mod amqp;
pub mod kafka;
pub mod memory;

/// A record to write.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    /// `None` writes a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// What AMQP sinks set besides; the header `content-type` is a property there too.
    pub properties: Option<Box<Properties>>,
    /// For AMQP sinks whose records bring one.
    pub routing_key: Option<String>,
}

/// What a record brings to an AMQP sink besides its headers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub content_encoding: Option<String>,
    /// The property `type`.
    pub kind: Option<String>,
    pub app_id: Option<String>,
    pub priority: Option<u8>,
    /// Seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The headers that are not text, as what they are; the record's headers hold them too, as text.
    pub typed_headers: serde_json::Map<String, serde_json::Value>,
}

/// How large a record may be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All of it.
    pub record: usize,
    /// The names and values of its headers.
    pub headers: usize,
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
    /// Queues a record about a message; the answer comes through `receipts`. Records of one sender and key stay in order.
    pub fn send(&self, message: &Message, record: Record, ticket: u64, receipts: &Receipts) {
        match self {
            Self::Kafka(sink) => sink.send(record, ticket, receipts),
            Self::Amqp(sink) => sink.send(message, record, ticket, receipts),
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

    /// How large records may be.
    pub fn limits(&self) -> Limits {
        match self {
            Self::Kafka(sink) => Limits { record: sink.record_max(), headers: usize::MAX },
            Self::Amqp(sink) => sink.limits(),
            Self::Memory(_) => Limits { record: usize::MAX, headers: usize::MAX },
        }
    }

    /// Whether records have [`Properties`].
    pub fn has_properties(&self) -> bool {
        matches!(self, Self::Amqp(_))
    }
}
