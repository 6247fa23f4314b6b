//! What is to be looked at: everything that the triggers of a configuration want of one source.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Finding, What, quoted};
use crate::config::{OnExhausted, OnNoMatch, OutOfRange, QueueSettings, Settings, SinkSettings, Start, Target};

/// What the triggers want of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub readings: Vec<Reading>,
    pub writings: Vec<Writing>,
    pub on_out_of_range: OutOfRange,
    /// How long one connection may take for its answers.
    pub limit: Duration,
}

/// A subscription of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// For AMQP: the queue, and of a stream also whose position it is.
    pub group: String,
    /// For AMQP: the queue.
    pub topics: Vec<String>,
    pub start: Start,
    /// For AMQP.
    pub queue: QueueSettings,
    /// Whether messages may be rejected, for the queue's own policy to keep.
    pub rejects: bool,
}

impl Reading {
    /// For AMQP.
    pub fn queue_name(&self) -> &str {
        self.topics.first().unwrap_or(&self.group)
    }
}

/// A place that is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writing {
    /// [`What::Results`] or [`What::DeadLetters`].
    pub what: What,
    pub target: Target,
}

impl Plan {
    /// Gathers what concerns the source of this name.
    pub fn of(source: &str, settings: &Settings, limit: Duration) -> Self {
        let on_out_of_range = settings.sources.get(source).map_or(OutOfRange::Stop, |found| found.on_out_of_range);
        let mut plan = Self { readings: Vec::new(), writings: Vec::new(), on_out_of_range, limit };
        for trigger in settings.services.values().flat_map(|service| service.triggers.values()) {
            if trigger.source == source {
                let queue = trigger.queue.clone().unwrap_or_default();
                plan.read(Reading {
                    group: trigger.group.clone(),
                    topics: trigger.topics.clone(),
                    start: trigger.start,
                    rejects: trigger.on_exhausted == OnExhausted::Reject
                        || queue.on_no_match == Some(OnNoMatch::Reject),
                    queue,
                });
            }
            plan.write(source, What::Results, trigger.on_success.as_ref());
            plan.write(source, What::DeadLetters, trigger.on_failure.as_ref());
        }
        plan
    }

    /// The rights that the plan needs and that show only in use; `read` and `write` say how.
    pub(in crate::source) fn untold_rights(&self, read: &str, write: &str) -> Option<Finding> {
        let mut rights = Vec::new();
        if !self.readings.is_empty() {
            rights.push(format!("{read} {}", quoted(self.readings.iter().map(|reading| &*reading.group))));
        }
        if !self.writings.is_empty() {
            let names: BTreeSet<String> = self.writings.iter().map(|writing| writing.target.name()).collect();
            rights.push(format!("{write} {}", quoted(names.iter().map(String::as_str))));
        }
        let told = format!("whether it may {} shows only when a worker does it", rights.join(" and "));
        (!rights.is_empty()).then(|| Finding::unknown(What::Rights, "", told))
    }

    /// Triggers of one group or queue share a subscription.
    fn read(&mut self, wanted: Reading) {
        let Some(known) = self.readings.iter_mut().find(|known| known.group == wanted.group) else {
            return self.readings.push(wanted);
        };
        known.queue.add(&wanted.queue);
        known.rejects |= wanted.rejects;
        add_missing(&mut known.topics, wanted.topics);
    }

    fn write(&mut self, source: &str, what: What, sink: Option<&SinkSettings>) {
        if let Some(sink) = sink.filter(|sink| sink.source == source) {
            add_missing(&mut self.writings, vec![Writing { what, target: sink.target.clone() }]);
        }
    }
}

fn add_missing<T: PartialEq>(known: &mut Vec<T>, wanted: Vec<T>) {
    for item in wanted {
        if !known.contains(&item) {
            known.push(item);
        }
    }
}
