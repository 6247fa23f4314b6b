//! Settings that are one word of a few, with the words that later versions will bring.

use serde::{Deserialize, Deserializer, de};

use super::settings::{
    Declare, LineFormat, LogLevel, Login, OnExhausted, OnNoMatch, Order, OutOfRange, QueueType, ShapeKind, Start,
};
use super::suggest;

/// A setting written as one of a few words.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// Every value with the word for it.
    const ALL: &'static [(&'static str, Self)];
    /// Words that have a meaning in the design but cannot be honoured yet.
    const PLANNED: &'static [&'static str] = &[];
}

/// The word for `value`.
pub(super) fn word<T: Choice>(value: T) -> &'static str {
    T::ALL.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}

/// For `deserialize_with`.
pub(super) fn choice<'de, D: Deserializer<'de>, T: Choice>(deserializer: D) -> Result<T, D::Error> {
    chosen(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// The value of a word, or what is allowed.
pub(super) fn chosen<T: Choice>(found: &str) -> Result<T, String> {
    if let Some((_, value)) = T::ALL.iter().find(|(word, _)| *word == found) {
        return Ok(*value);
    }
    let words = T::ALL.iter().map(|(word, _)| *word);
    let allowed = words.clone().collect::<Vec<_>>().join(", ");
    Err(if T::PLANNED.contains(&found) {
        format!("found {found:?}, which is not supported yet; allowed: {allowed}")
    } else {
        format!("found {found:?}{} allowed: {allowed}", suggest::hint(found, words))
    })
}

/// For `deserialize_with`, where the absent value means something of its own.
pub(super) fn optional_choice<'de, D: Deserializer<'de>, T: Choice>(deserializer: D) -> Result<Option<T>, D::Error> {
    choice(deserializer).map(Some)
}

/// What a source speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Apache Kafka, or anything that speaks its protocol.
    Kafka,
    /// RabbitMQ, or anything that speaks AMQP 0.9.1.
    Amqp,
    /// JSON lines from a file or standard input.
    Memory,
}

impl Choice for Kind {
    const ALL: &'static [(&'static str, Self)] =
        &[("kafka", Self::Kafka), ("amqp", Self::Amqp), ("memory", Self::Memory)];
}

impl Choice for Declare {
    const ALL: &'static [(&'static str, Self)] = &[("passive", Self::Passive), ("create", Self::Create)];
}

impl Choice for QueueType {
    const ALL: &'static [(&'static str, Self)] =
        &[("classic", Self::Classic), ("quorum", Self::Quorum), ("stream", Self::Stream)];
}

impl Choice for OnNoMatch {
    const ALL: &'static [(&'static str, Self)] = &[("ack", Self::Ack), ("reject", Self::Reject), ("stop", Self::Stop)];
}

impl Choice for Login {
    const ALL: &'static [(&'static str, Self)] = &[("plain", Self::Plain), ("external", Self::External)];
}

impl Choice for LineFormat {
    const ALL: &'static [(&'static str, Self)] = &[("value", Self::Value), ("message", Self::Message)];
}

impl Choice for OutOfRange {
    const ALL: &'static [(&'static str, Self)] =
        &[("stop", Self::Stop), ("earliest", Self::Earliest), ("latest", Self::Latest)];
}

impl Choice for LogLevel {
    const ALL: &'static [(&'static str, Self)] =
        &[("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug)];
}

impl Choice for Start {
    const ALL: &'static [(&'static str, Self)] =
        &[("earliest", Self::Earliest), ("latest", Self::Latest), ("last", Self::Last)];
}

impl Choice for ShapeKind {
    const ALL: &'static [(&'static str, Self)] = &[("lagless", Self::Lagless), ("cloudevents", Self::CloudEvents)];
    const PLANNED: &'static [&'static str] =
        &["aws", "alibaba", "tencent", "azure", "gcp", "jd", "knative", "cloudflare"];
}

impl Choice for Order {
    const ALL: &'static [(&'static str, Self)] = &[("partition", Self::Partition), ("none", Self::None)];
    const PLANNED: &'static [&'static str] = &["key"];
}

impl Choice for OnExhausted {
    const ALL: &'static [(&'static str, Self)] =
        &[("stop", Self::Stop), ("drop", Self::Drop), ("reject", Self::Reject)];
}
