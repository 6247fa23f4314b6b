//! Trigger rules: which messages fire which triggers.
//!
//! A rule is a pattern in the manner of Amazon EventBridge over this document:
//!
//! ```json
//! {"data": {"the body": "if it is JSON"}, "topic": "orders", "partition": 3, "offset": 42, "timestamp": 1767225599007,
//!  "key": "k1", "headers": {"region": "eu"}, "source": "shop-kafka"}
//! ```
//!
//! Messages of a queue have `properties` besides, an object with `exchange`, `routing_key`, `message_id`,
//! `correlation_id`, `reply_to`, `content_type` and the other properties of AMQP; there `topic` is the queue, and a
//! header that is no text compares as its JSON text.
//!
//! How values match:
//!
//! - An object matches when all its fields match; a list when any of its tests does: `"text"`, `1`, `true`, `null`,
//!   `{"prefix": ".."}`, `{"suffix": ".."}`, `{"numeric": [">", 0, "<=", 5]}`, `{"exists": true}`,
//!   `{"anything-but": ..}` (a value, a list of values, or `{"prefix": ".."}`).
//! - Tests look at leaves: strings, numbers, booleans, null. A field whose value is an object has no leaf.
//! - An array stands for its elements, at any depth: a test passes when it does for one of them, an object pattern
//!   when one of them matches all of it. `exists` asks whether there is any leaf.
//! - Numbers compare by value: `1`, `1.0` and `1e0` are one. Integers of up to 38 digits compare exactly, others as
//!   doubles.
//! - `anything-but` passes for any leaf with another value, never for an absent field.
//! - The body is JSON or it is not, whatever its content type says; where it is not, `data` is absent. A tombstone's
//!   `data` is null. Of a key that repeats in an object the last counts, as in JavaScript. A byte order mark in front
//!   is skipped.
//! - `key` and header values compare as bytes. A message without key or timestamp lacks that field; a header that
//!   repeats stands for all its values; a header without a value is null.
//!
//! The body is scanned once for all rules of a subscription, without recursion, and only when the other fields of
//! some rule let the message through. This room knows nothing of async, brokers or V8.

mod document;
mod fields;
mod leaf;
mod rule;
mod scan;
mod strings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::event::MessageRef;

use self::document::MetadataField;
use self::fields::{Bound, Fields};
use self::leaf::Test;
pub use self::rule::{Rule, RuleError};
use self::scan::Picked;

/// When one trigger fires.
#[derive(Debug, Clone)]
pub struct TriggerEntry {
    /// The topics it listens to; none means every topic of the subscription.
    pub topics: Vec<String>,
    /// `None` matches every message.
    pub rule: Option<Rule>,
}

/// An index over all triggers of a subscription: from a message to those it fires.
#[derive(Debug)]
pub struct Triggers {
    source: String,
    entries: Vec<Entry>,
    /// Ascending indexes of the entries that listen to a topic.
    by_topic: HashMap<String, Vec<u32>>,
    /// Ascending indexes of the entries that listen to every topic.
    anywhere: Vec<u32>,
    /// The fields of the body that any rule names.
    fields: Fields,
}

#[derive(Debug)]
struct Entry {
    metadata: Vec<(MetadataField, Vec<Test>)>,
    body: Option<Bound>,
}

impl Triggers {
    /// Indexes the triggers of a subscription to `source`; the order of `entries` gives their indexes.
    pub fn new(source: &str, entries: Vec<TriggerEntry>) -> Self {
        let anywhere = positions(&entries, |entry| entry.topics.is_empty());
        let by_topic = entries
            .iter()
            .flat_map(|entry| &entry.topics)
            .map(|topic| {
                let listens = |entry: &TriggerEntry| entry.topics.is_empty() || entry.topics.contains(topic);
                (topic.clone(), positions(&entries, listens))
            })
            .collect();
        let mut fields = Fields::new();
        let entries = entries
            .into_iter()
            .map(|entry| entry.rule.unwrap_or_default())
            .map(|rule| Entry { metadata: rule.metadata, body: rule.body.map(|pattern| fields.bind_root(pattern)) })
            .collect();
        Self { source: source.to_owned(), entries, by_topic, anywhere, fields }
    }

    /// Appends the indexes of the entries that `message` fires to `matched`, ascending. Returns how many bytes of its
    /// body were scanned: 0 when no rule had to look.
    pub fn matching(&self, message: &MessageRef<'_>, matched: &mut Vec<u32>) -> usize {
        let candidates = self.by_topic.get(message.topic).unwrap_or(&self.anywhere);
        let mut picked = None;
        for &index in candidates {
            let entry = &self.entries[index as usize];
            if !entry.metadata.iter().all(|(field, tests)| field.passes(tests, message, &self.source)) {
                continue;
            }
            let is_match = entry.body.as_ref().is_none_or(|pattern| {
                picked.get_or_insert_with(|| Picked::from_body(message.value, &self.fields)).matches(pattern)
            });
            if is_match {
                matched.push(index);
            }
        }
        picked.map_or(0, |_| message.value.map_or(0, <[u8]>::len))
    }
}

fn positions(entries: &[TriggerEntry], predicate: impl Fn(&TriggerEntry) -> bool) -> Vec<u32> {
    (0..).zip(entries).filter(|(_, entry)| predicate(entry)).map(|(index, _)| index).collect()
}
