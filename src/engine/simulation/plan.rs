//! The shape of one run, all of it drawn from the seed.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::config::Order;
use crate::scale::Bounds;

/// One message for one trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    pub trigger: usize,
    pub partition: usize,
    pub offset: i64,
}

/// What happens to an event whose attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    DeadLetter,
    Drop,
    Stop,
}

#[derive(Debug, Clone)]
pub struct TriggerPlan {
    pub function: usize,
    /// Its index among the function's triggers.
    pub index: usize,
    pub order: Order,
    pub batch_size: usize,
    pub attempts: u32,
    pub backoff: Duration,
    /// Whether results go to a sink.
    pub results: bool,
    pub last: Last,
    /// How many events in a thousand always fail.
    pub poison: u64,
    /// How probably an attempt fails by chance.
    pub flaky: f64,
}

/// A fault built into the model, to show that the checks can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    CommitPastOpen,
    SkipMessage,
    ForgetDelivery,
    SettleWithoutRun,
    SettleTwice,
    IgnoreFence,
    Reorder,
    ReadWithoutBound,
    SilentSink,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub partitions: usize,
    pub workers: usize,
    pub messages: usize,
    /// Messages in flight per worker.
    pub in_flight: usize,
    pub functions: usize,
    pub concurrency: u32,
    pub bounds: Bounds,
    pub triggers: Vec<TriggerPlan>,
    /// Steps during which things go wrong.
    pub chaos_steps: usize,
    /// How much goes wrong, 0 to 1.
    pub trouble: f64,
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        let functions = rng.random_range(1..=2);
        let mut indices = vec![0; functions];
        let triggers = (0..rng.random_range(functions..=3))
            .map(|number| {
                let function = number % functions;
                indices[function] += 1;
                TriggerPlan {
                    function,
                    index: indices[function] - 1,
                    order: if rng.random_bool(0.65) { Order::Partition } else { Order::None },
                    batch_size: if rng.random_bool(0.2) { 1 } else { rng.random_range(2..=20) },
                    attempts: rng.random_range(1..=4),
                    backoff: Duration::from_millis(rng.random_range(1..200)),
                    results: rng.random_bool(0.7),
                    last: [Last::DeadLetter, Last::DeadLetter, Last::Drop, Last::Stop][rng.random_range(0..4)],
                    poison: if rng.random_bool(0.5) { rng.random_range(0..80) } else { 0 },
                    flaky: if rng.random_bool(0.6) { rng.random_range(0.0..0.3) } else { 0.0 },
                }
            })
            .collect();
        let min = rng.random_range(0..=1);
        Self {
            seed,
            partitions: rng.random_range(1..=4),
            workers: rng.random_range(1..=2),
            messages: rng.random_range(10..=70),
            in_flight: rng.random_range(4..=40),
            functions,
            concurrency: rng.random_range(1..=5),
            bounds: Bounds { min, max: rng.random_range(1..=3), idle: Duration::from_secs(2) },
            triggers,
            chaos_steps: rng.random_range(80..=250),
            trouble: if rng.random_bool(0.1) { 0.0 } else { rng.random_range(0.1..1.0) },
            sabotage: None,
        }
    }

    /// A number that depends on the seed and the event only, for each `purpose`.
    pub fn lot(&self, event: Event, purpose: u64) -> u64 {
        let mut mixed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (purpose << 56);
        for part in [event.trigger as u64, event.partition as u64, event.offset as u64] {
            mixed = (mixed ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^= mixed >> 29;
        }
        mixed
    }

    /// Whether every attempt of this event fails.
    pub fn is_poison(&self, event: Event) -> bool {
        self.lot(event, 1) % 1000 < self.triggers[event.trigger].poison
    }

    /// Whether the sink does not take the event's result, or dead letter.
    pub fn is_refused(&self, event: Event, is_result: bool) -> bool {
        self.trouble > 0.0 && self.lot(event, if is_result { 2 } else { 3 }) % 1000 < 10
    }
}
