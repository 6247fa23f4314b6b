//! How far behind a subscription is, and whether a broker can be reached at all.
//!
//! Lag in messages is the broker's end of each assigned partition minus the offset that may be committed. Lag in
//! seconds is the age of the oldest message that is not settled; see [`Partition::lag_age`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::assigned::Assigned;
use super::partition::{Hold, Partition};
use crate::telemetry::SubscriptionMetrics;

/// How long no broker may answer before that is told, and how often it is told again.
const PATIENCE: Duration = Duration::from_secs(3);
const REMINDER: Duration = Duration::from_secs(10);

/// Sets the gauges.
pub(super) fn observe(assigned: &mut Assigned, metrics: &SubscriptionMetrics) {
    #[expect(clippy::disallowed_methods, reason = "a message's age is told by the kind of clock that stamped it")]
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let (messages, bytes) = assigned.in_flight();
    metrics.in_flight.set(messages as i64);
    metrics.in_flight_memory.set(bytes as i64);
    metrics.partitions.set(assigned.partitions.len() as i64);
    let count = |is_meant: fn(&Hold) -> bool| {
        assigned.partitions.iter().filter(|partition| is_meant(&partition.hold)).count() as i64
    };
    metrics.partitions_paused.set(count(|hold| *hold == Hold::Full));
    metrics.partitions_stopped.set(count(|hold| matches!(hold, Hold::Stopped { .. })));
    metrics.lag_messages.set(assigned.partitions.iter().map(Partition::lag).sum());
    let age = assigned.partitions.iter_mut().map(|partition| partition.lag_age(now_ms)).max();
    metrics.lag.set(age.unwrap_or_default().as_secs_f64());
}

/// Whether any broker is connected, from the client's statistics.
#[derive(Debug)]
pub(super) enum Reach {
    Reached,
    /// No broker is connected since the first instant; told last at the second.
    Lost {
        since: Instant,
        told: Option<Instant>,
    },
}

impl Reach {
    pub(super) fn begin(now: Instant) -> Self {
        Self::Lost { since: now, told: None }
    }

    pub(super) fn is_reached(&self) -> bool {
        matches!(self, Self::Reached)
    }

    /// For how long no broker has been connected.
    pub(super) fn lost_for(&self, now: Instant) -> Duration {
        match self {
            Self::Reached => Duration::ZERO,
            Self::Lost { since, .. } => now.saturating_duration_since(*since),
        }
    }

    /// Notes whether a broker is connected. Answers what is worth telling: connected again, or still nothing.
    pub(super) fn note(&mut self, is_up: bool, now: Instant) -> Option<bool> {
        match self {
            Self::Lost { told, .. } if is_up => {
                let was_told = told.is_some();
                *self = Self::Reached;
                was_told.then_some(true)
            }
            Self::Reached if !is_up => {
                *self = Self::begin(now);
                None
            }
            Self::Lost { since, told } => {
                let is_due = match told {
                    Some(told) => now.duration_since(*told) >= REMINDER,
                    None => now.duration_since(*since) >= PATIENCE,
                };
                is_due.then(|| *told = Some(now)).map(|()| false)
            }
            Self::Reached => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_of_all_brokers_is_told_after_a_while_and_so_is_their_return() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reach = Reach::begin(start);
        assert_eq!(reach.note(false, at(1)), None);
        assert_eq!(reach.note(false, at(3)), Some(false));
        assert_eq!(reach.note(false, at(12)), None);
        assert_eq!(reach.note(false, at(13)), Some(false));
        assert_eq!(reach.lost_for(at(13)), Duration::from_secs(13));
        assert_eq!(reach.note(true, at(14)), Some(true));
        assert_eq!(reach.lost_for(at(14)), Duration::ZERO);
        assert_eq!(reach.note(false, at(15)), None);
        assert_eq!(reach.note(true, at(16)), None);
        assert!(reach.is_reached());
    }
}
