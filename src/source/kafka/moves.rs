//! How assigned partitions come, move and go: placed where the group left off, rewound when deliveries were let go,
//! released when they are revoked.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaResult;

use super::assigned::Assigned;
use super::partition::{Hold, Partition, Spot};
use super::position::{Found, Placement, place};
use crate::delivery::Phase;
use crate::source::{Stage, Subscription};

/// When to ask again for a position that the broker did not tell.
const PLACE_RETRY: Duration = Duration::from_secs(2);

/// A partition whose deliveries were let go is read again no sooner than this.
const REWIND_DELAY: Duration = Duration::from_millis(500);

/// How often a partition that stands still says so.
pub(super) const STOPPED_INTERVAL: Duration = Duration::from_secs(60);

impl Assigned {
    /// Notes a partition that has come, and where it is. Answers the offset to read from; `None` leaves it paused.
    pub(super) fn arrive(&mut self, spot: &Spot, found: KafkaResult<Found>, now: Instant) -> Option<i64> {
        let assignment = self.assignment(spot);
        // There is none to let go of, unless the client has not said that it went away.
        self.release(std::slice::from_ref(spot), None);
        if self.leaving {
            assignment.advance(Phase::Draining);
            self.partitions.push(Partition::new(assignment, Hold::Leaving));
            return None;
        }
        self.partitions.push(Partition::new(assignment, Hold::Unplaced { retry_at: now }));
        self.settle_place(spot, found, now)
    }

    /// Notes what the broker says of a partition's position. Answers the offset to read from; `None` leaves it paused.
    pub(super) fn settle_place(&mut self, spot: &Spot, found: KafkaResult<Found>, now: Instant) -> Option<i64> {
        let subscription = self.subscription.clone();
        let Subscription { source, group, start, on_out_of_range, .. } = &*subscription;
        let Spot { topic, partition: number } = spot;
        let partition = self.get_mut(topic, *number)?;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(source, group, %topic, partition = number, %error, "no position yet: asking again");
                partition.hold = Hold::Unplaced { retry_at: now + PLACE_RETRY };
                return None;
            }
        };
        partition.high = Some(found.range.high);
        partition.commits.acknowledged = found.committed;
        let (offset, is_chosen) = match place(found.committed, found.range, *start, *on_out_of_range) {
            Placement::Resume(offset) => (offset, false),
            Placement::Begin(offset) => (offset, true),
            Placement::Jump { to, gap } => {
                tracing::warn!(source, group, %topic, partition = number,
                    "{gap}; going on from {to} as `on_out_of_range` says: {}", gap.consequence(to));
                (to, true)
            }
            Placement::Stop(gap) => {
                partition.hold = Hold::Stopped { why: gap.to_string(), told: now };
                self.tell_stopped(spot);
                return None;
            }
        };
        partition.hold = Hold::Open;
        partition.next = Some(offset);
        partition.chosen = is_chosen.then_some(offset);
        Some(offset)
    }

    /// Says that a partition stands still, and what can be done.
    pub(super) fn tell_stopped(&mut self, spot: &Spot) {
        let (source, group) = (self.subscription.source.clone(), self.subscription.group.clone());
        let Spot { topic, partition: number } = spot;
        if let Some(Partition { hold: Hold::Stopped { why, .. }, .. }) = self.get_mut(topic, *number) {
            tracing::error!(source, group, %topic, partition = number,
                "the partition stands still: {why}; set the group's offset with the broker's tools, or set \
                 `on_out_of_range` to \"earliest\" or \"latest\", then restart");
        }
    }

    /// Ends assignments: nothing new is started, what runs may finish for `grace`, then it is void. The partitions are
    /// no longer held afterwards. Without `grace` what runs is void at once.
    pub(super) fn release(&mut self, spots: &[Spot], grace: Option<Duration>) -> Vec<Partition> {
        let phase = if grace.is_some() { Phase::Draining } else { Phase::Fenced };
        self.advance(phase, |partition| spots.contains(&partition.spot()));
        let deadline = Instant::now() + grace.unwrap_or_default();
        while self.partitions.iter().any(|it| it.tracker.waiting() > 0 && spots.contains(&it.spot())) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stage() == Stage::End {
                break;
            }
            self.await_reports(left.min(Duration::from_millis(50)));
        }
        self.settle_reported();
        self.advance(Phase::Fenced, |partition| spots.contains(&partition.spot()));
        self.recent = 0;
        self.partitions.extract_if(.., |partition| spots.contains(&partition.spot())).collect()
    }

    /// Begins to rewind partitions whose deliveries were let go although nobody asked for it (an engine's task has
    /// died): what else is in flight of them ends first, so that order holds. Answers the partitions to pause.
    pub(super) fn begin_rewinds(&mut self, now: Instant) -> Vec<Spot> {
        let spots = self.spots(|it| matches!(it.hold, Hold::Open | Hold::Full) && it.tracker.has_released());
        for spot in &spots {
            self.begin_rewind(spot, None, now);
        }
        spots
    }

    pub(super) fn begin_rewind(&mut self, spot: &Spot, to: Option<i64>, now: Instant) {
        let until = now + self.subscription.revoke_timeout;
        if let Some(partition) = self.get_mut(&spot.topic, spot.partition) {
            partition.used_up_since = None;
            partition.hold = Hold::Rewinding { until, not_before: now + REWIND_DELAY, to };
        }
        self.advance(Phase::Draining, |partition| partition.spot() == *spot);
    }

    /// Ends the rewinds whose time has come. Answers the partitions and where to read them from.
    pub(super) fn end_rewinds(&mut self, now: Instant) -> Vec<(Spot, i64)> {
        let due = self.spots(|partition| match partition.hold {
            Hold::Rewinding { until, not_before, .. } => {
                now >= not_before && (partition.tracker.waiting() == 0 || now >= until)
            }
            _ => false,
        });
        if due.is_empty() {
            return Vec::new();
        }
        self.advance(Phase::Fenced, |partition| due.contains(&partition.spot()));
        let mut placed = Vec::new();
        for spot in due {
            let assignment = self.assignment(&spot);
            let Some(partition) = self.get_mut(&spot.topic, spot.partition) else { continue };
            let Hold::Rewinding { to, .. } = partition.hold else { continue };
            match to.or(partition.committable()).or(partition.next) {
                Some(offset) => {
                    partition.renew(assignment, offset, to.is_some());
                    placed.push((spot, offset));
                }
                None => partition.hold = Hold::Unplaced { retry_at: now },
            }
        }
        placed
    }

    /// Stops taking for good: what runs may finish, what waits is let go. Answers the partitions to pause.
    pub(super) fn leave(&mut self) -> Vec<Spot> {
        self.leaving = true;
        for partition in &mut self.partitions {
            partition.used_up_since = None;
            partition.hold = Hold::Leaving;
        }
        self.advance(Phase::Draining, |_| true);
        self.spots(|_| true)
    }
}
