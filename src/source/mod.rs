//! Sources: from a broker to deliveries, and from fates back to the broker.
//!
//! A [`Subscription`] is one consumer with its own thread (or task). It reads messages, asks [`Triggers`] which triggers
//! they fire, tracks their offsets, and hands deliveries to the [`Route`] of each trigger. It learns their fates through
//! [`Reports`](crate::delivery::Reports). It never waits for a function: when too much is in flight it stops taking, and
//! it keeps polling.
//!
//! Sources know nothing of functions, isolates or V8. Each broker is a room of its own; the next ones come in by
//! offering a `spawn` like [`kafka::spawn`] and a [`Fault`] where they cannot start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::{InFlight, OutOfRange, Start};
use crate::delivery::Delivery;
use crate::telemetry::SubscriptionMetrics;
use crate::trigger::Triggers;

pub mod amqp;
pub mod kafka;
pub mod memory;
pub mod probe;

/// What a source needs to know to serve all triggers that share a consumer.
#[derive(Debug)]
pub struct Subscription {
    /// Name of the source.
    pub source: String,
    /// For AMQP: the queue.
    pub group: String,
    /// Every topic that one of the triggers names.
    pub topics: Vec<String>,
    pub start: Start,
    pub in_flight: InFlight,
    pub commit_interval: Duration,
    pub revoke_timeout: Duration,
    pub on_out_of_range: OutOfRange,
    /// AMQP: how long a message may be kept before its next attempt begins.
    pub keep_max: Duration,
    /// The triggers, and the way to each by the same index.
    pub triggers: Triggers,
    pub routes: Vec<Route>,
    pub metrics: Arc<SubscriptionMetrics>,
    /// What to do as life goes on: run, drain, end.
    pub stage: watch::Receiver<Stage>,
}

impl Subscription {
    /// The stage that it is in; where nobody is left to say so, it has to end.
    pub fn stage(&self) -> Stage {
        if self.stage.has_changed().is_err() { Stage::End } else { *self.stage.borrow() }
    }
}

/// The stages of a subscription's life, set from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Run,
    /// Read nothing new; settle and commit what is in flight; end when nothing is left.
    Drain,
    /// The deadline has passed: fence, commit what is finished, end now.
    End,
}

/// The way from a subscription to one trigger.
#[derive(Debug, Clone)]
pub struct Route {
    inbox: mpsc::Sender<Intake>,
    trigger: usize,
}

/// What a function's engine receives.
#[derive(Debug)]
pub enum Intake {
    /// Deliveries for the function's trigger of this index, in the order they were read.
    Deliveries { trigger: usize, deliveries: Vec<Delivery> },
    /// An assignment has moved to another phase: look at your lanes.
    PhaseChanged,
}

impl Route {
    /// `inbox` is the engine of the trigger's function, `trigger` the trigger's index there. The inbox must have room
    /// for as many entries as there may be deliveries in flight: a source never waits for it.
    pub fn new(inbox: mpsc::Sender<Intake>, trigger: usize) -> Self {
        Self { inbox, trigger }
    }

    /// Hands deliveries over. Where nobody takes them any more they are dropped, which releases them.
    pub fn send(&self, deliveries: Vec<Delivery>) {
        let _ = self.inbox.try_send(Intake::Deliveries { trigger: self.trigger, deliveries });
    }

    /// Tells the engine that an assignment is draining or fenced.
    pub fn phase_changed(&self) {
        // A full inbox means that the engine is about to run anyway, and it looks at phases whenever it runs.
        let _ = self.inbox.try_send(Intake::PhaseChanged);
    }
}

/// How a subscription ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Messages settled in all.
    pub settled: u64,
    /// Messages read and let go in the drain before they were started: they will be read again.
    pub released: u64,
    /// Messages that were still being handled when the deadline passed, and messages that nobody can read again.
    pub abandoned: u64,
}

/// Why a subscription cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("source {source_name}: {reason}")]
    Client { source_name: String, reason: String },
    #[error("source {source_name}: {path}: {reason}")]
    File { source_name: String, path: String, reason: String },
}
