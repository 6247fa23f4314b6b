//! One assigned partition: its tracker, what holds it back, and how far its commits have got.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::InFlight;
use crate::delivery::{Assignment, OffsetTracker};

/// A finished window may grow to this many times the share while its oldest message is not settled.
const WINDOW_FACTOR: usize = 8;

/// How many timestamps are kept of messages in the window.
const MARKS_MAX: usize = 4096;

/// A partition by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    pub topic: Arc<str>,
    pub partition: i32,
}

/// A partition's part of the subscription's bound on what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    messages: usize,
    bytes: usize,
}

impl Share {
    pub(super) fn of(in_flight: InFlight, partitions: usize) -> Self {
        let partitions = partitions.max(1);
        Self { messages: (in_flight.messages / partitions).max(1), bytes: (in_flight.bytes / partitions).max(1) }
    }

    /// Whether nothing more may be taken.
    pub(super) fn is_used_up(self, tracker: &OffsetTracker) -> bool {
        tracker.waiting() >= self.messages
            || tracker.bytes() >= self.bytes
            || tracker.window() >= self.messages.saturating_mul(WINDOW_FACTOR)
    }

    /// Whether enough has been settled to go on after a pause. Half is far enough from full that a partition does not
    /// pause and resume for every message, which would throw away what the client has fetched ahead.
    pub(super) fn has_room(self, tracker: &OffsetTracker) -> bool {
        tracker.waiting() * 2 <= self.messages
            && tracker.bytes() * 2 <= self.bytes
            && tracker.window() * 2 <= self.messages.saturating_mul(WINDOW_FACTOR)
    }
}

/// What holds a partition back. In every state but `Open` the client is paused on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hold {
    /// Messages are taken.
    Open,
    /// Enough is in flight.
    Full,
    /// Where to read from is not known yet, because the broker did not answer.
    Unplaced { retry_at: Instant },
    /// What is in flight ends (until the instant, at the latest); then the partition is read again from `to`, or from
    /// its committable offset.
    Rewinding { until: Instant, not_before: Instant, to: Option<i64> },
    /// Out of range, and the policy is to stand still.
    Stopped { why: String, told: Instant },
    /// The subscription is ending: nothing new is taken.
    Leaving,
}

/// How far commits have got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Commits {
    /// The offset that the broker holds, as far as is known.
    pub acknowledged: Option<i64>,
    /// The offset of the commit on its way.
    pub sent: Option<i64>,
}

/// A partition for the time of one assignment.
#[derive(Debug)]
pub(super) struct Partition {
    pub assignment: Arc<Assignment>,
    pub tracker: OffsetTracker,
    pub hold: Hold,
    /// The offset to read next; messages below it have been read already. `None` while not placed.
    pub next: Option<i64>,
    /// What may be committed before anything is read: a position that was chosen, not taken over.
    pub chosen: Option<i64>,
    pub commits: Commits,
    /// The broker's end of the partition, as last heard.
    pub high: Option<i64>,
    /// Deliveries that were let go since the assignment began.
    pub released: u64,
    /// Since when the share has been used up while the partition is open.
    pub used_up_since: Option<Instant>,
    /// (offset, timestamp in ms) of some messages, a second apart at least: from them follows the age of the oldest
    /// open message. The first is at or below the committable offset.
    marks: VecDeque<(i64, i64)>,
}

impl Partition {
    pub(super) fn new(assignment: Arc<Assignment>, hold: Hold) -> Self {
        Self {
            assignment,
            tracker: OffsetTracker::default(),
            hold,
            next: None,
            chosen: None,
            commits: Commits::default(),
            high: None,
            released: 0,
            used_up_since: None,
            marks: VecDeque::new(),
        }
    }

    pub(super) fn spot(&self) -> Spot {
        Spot { topic: self.assignment.topic.clone(), partition: self.assignment.partition }
    }

    /// The offset that a commit may name.
    pub(super) fn committable(&self) -> Option<i64> {
        self.tracker.committable().or(self.chosen)
    }

    /// The offset to commit now, if there is news.
    pub(super) fn uncommitted(&self) -> Option<i64> {
        self.committable().filter(|offset| self.commits.acknowledged != Some(*offset))
    }

    /// Begins a new assignment of the same partition at `offset`; `adopted` says that the offset is to be committed
    /// even before anything is read.
    pub(super) fn renew(&mut self, assignment: Arc<Assignment>, offset: i64, adopted: bool) {
        let (commits, high) = (self.commits, self.high);
        *self = Self::new(assignment, Hold::Open);
        (self.commits, self.high, self.next) = (commits, high, Some(offset));
        self.chosen = adopted.then_some(offset);
    }

    /// Notes when a message was published.
    pub(super) fn mark(&mut self, offset: i64, timestamp: Option<i64>) {
        let Some(timestamp) = timestamp else { return };
        // Producers stamp as they like: one clock that is ahead must not keep all later messages from being noted.
        let is_news = self.marks.back().is_none_or(|(_, last)| timestamp.abs_diff(*last) >= 1000);
        if is_news && self.marks.len() < MARKS_MAX {
            self.marks.push_back((offset, timestamp));
        }
    }

    /// Messages published and not settled.
    pub(super) fn lag(&self) -> i64 {
        match (self.high, self.committable().or(self.next)) {
            (Some(high), Some(settled)) => (high - settled).max(0),
            _ => 0,
        }
    }

    /// Age of the oldest message that is not settled, to about a second, at `now_ms` of the Unix epoch. Where that
    /// message has not been read yet, the last one that was read stands for it.
    pub(super) fn lag_age(&mut self, now_ms: i64) -> Duration {
        let settled = self.committable().unwrap_or_default();
        while self.marks.get(1).is_some_and(|(offset, _)| *offset <= settled) {
            self.marks.pop_front();
        }
        match self.marks.front() {
            Some((_, timestamp)) if self.lag() > 0 => {
                Duration::from_millis(u64::try_from(now_ms.saturating_sub(*timestamp)).unwrap_or_default())
            }
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Settled;

    fn tracker_with(messages: i64, bytes: usize) -> OffsetTracker {
        let mut tracker = OffsetTracker::default();
        for offset in 0..messages {
            tracker.read(offset, 1, bytes);
        }
        tracker
    }

    fn partition() -> Partition {
        Partition::new(Assignment::new(1, "orders".into(), 0), Hold::Open)
    }

    #[test]
    fn a_share_is_never_nothing() {
        let share = Share::of(InFlight { messages: 3, bytes: 2 }, 10);
        assert_eq!(share, Share { messages: 1, bytes: 1 });
        assert!(!share.is_used_up(&tracker_with(0, 0)) && share.is_used_up(&tracker_with(1, 0)));
        assert!(share.has_room(&tracker_with(0, 0)));
    }

    #[test]
    fn messages_and_bytes_both_bound_and_resume_at_half() {
        let share = Share::of(InFlight { messages: 40, bytes: 4000 }, 4);
        assert!(share.is_used_up(&tracker_with(10, 1)) && !share.is_used_up(&tracker_with(9, 1)));
        assert!(share.is_used_up(&tracker_with(2, 500)));
        assert!(share.has_room(&tracker_with(5, 1)) && !share.has_room(&tracker_with(6, 1)));
        assert!(!share.has_room(&tracker_with(2, 400)));
    }

    #[test]
    fn a_stuck_head_cannot_grow_the_window_without_bound() {
        let share = Share::of(InFlight { messages: 10, bytes: 1 << 20 }, 1);
        let mut tracker = tracker_with(80, 1);
        for offset in 1..80 {
            tracker.settle(offset, Settled::Finished);
        }
        assert_eq!((tracker.waiting(), tracker.window()), (1, 80));
        assert!(share.is_used_up(&tracker) && !share.has_room(&tracker));
        tracker.settle(0, Settled::Finished);
        assert!(share.has_room(&tracker));
    }

    #[test]
    fn a_chosen_position_is_committed_before_anything_is_read_and_a_resumed_one_is_not() {
        let mut partition = partition();
        partition.next = Some(7);
        assert_eq!(partition.uncommitted(), None);
        partition.chosen = Some(7);
        assert_eq!(partition.uncommitted(), Some(7));
        partition.commits.acknowledged = Some(7);
        assert_eq!(partition.uncommitted(), None);
        partition.tracker.read(7, 0, 0);
        assert_eq!(partition.uncommitted(), Some(8));
    }

    #[test]
    fn no_timestamp_spoils_the_lag_of_what_comes_after() {
        let mut partition = partition();
        partition.high = Some(10);
        for (offset, timestamp) in [(0, i64::MAX), (1, i64::MIN), (2, i64::MAX - 1), (3, 1_000)] {
            partition.tracker.read(offset, 1, 1);
            partition.mark(offset, Some(timestamp));
            partition.lag_age(5_000);
        }
        for offset in 0..3 {
            partition.tracker.settle(offset, Settled::Finished);
            partition.lag_age(5_000);
        }
        assert_eq!(partition.lag_age(5_000), Duration::from_secs(4));
    }

    #[test]
    fn lag_counts_from_what_is_settled_and_its_age_from_the_oldest_open_message() {
        let mut partition = partition();
        partition.high = Some(10);
        partition.next = Some(4);
        assert_eq!(partition.lag(), 6);
        for (offset, timestamp) in [(4, 1_000), (5, 1_500), (6, 3_000)] {
            partition.tracker.read(offset, 1, 1);
            partition.mark(offset, Some(timestamp));
        }
        assert_eq!((partition.lag(), partition.lag_age(5_000)), (6, Duration::from_secs(4)));
        partition.tracker.settle(4, Settled::Finished);
        partition.tracker.settle(5, Settled::Finished);
        assert_eq!((partition.lag(), partition.lag_age(5_000)), (4, Duration::from_secs(2)));
        partition.tracker.settle(6, Settled::Finished);
        partition.high = Some(7);
        assert_eq!((partition.lag(), partition.lag_age(5_000)), (0, Duration::ZERO));
    }
}
