//! The isolates of one function, and what each has in hand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::service::Fault;
use crate::delivery::Delivery;
use crate::delivery::lanes::{Batch, LaneId};

/// A batch that an isolate is working on.
#[derive(Debug)]
pub struct InHand {
    pub trigger: usize,
    pub lane: LaneId,
    pub ordered: bool,
    /// A suspect, which is alone in its isolate.
    is_suspect: bool,
    /// By index in the batch; `None` once its outcome is known.
    deliveries: Vec<Option<Delivery>>,
    open: usize,
    /// One of its events has failed: of an ordered batch nothing more is started.
    pub has_failed: bool,
    /// Deliveries that go back to the lane when the batch has ended: index, delivery, when to try again.
    pub returned: Vec<(usize, Delivery, Instant)>,
    /// Deliveries with which the lane must stop; without order there may be several.
    pub stopped: Vec<Delivery>,
}

impl InHand {
    pub fn new(trigger: usize, ordered: bool, batch: Batch) -> Self {
        let open = batch.deliveries.len();
        let is_suspect = batch.deliveries.first().is_some_and(|delivery| delivery.is_suspect);
        let deliveries = batch.deliveries.into_iter().map(Some).collect();
        Self {
            trigger,
            lane: batch.lane,
            ordered,
            is_suspect,
            deliveries,
            open,
            has_failed: false,
            returned: Vec::new(),
            stopped: Vec::new(),
        }
    }

    /// Takes the delivery of an event whose outcome is known; `None` when that is already so.
    pub fn take(&mut self, event: usize) -> Option<Delivery> {
        let delivery = self.deliveries.get_mut(event)?.take()?;
        self.open -= 1;
        Some(delivery)
    }

    /// The delivery of an event that is open, for logs.
    pub fn get(&self, event: usize) -> Option<&Delivery> {
        self.deliveries.get(event)?.as_ref()
    }

    pub fn is_over(&self) -> bool {
        self.open == 0
    }

    /// The open deliveries, in order.
    pub fn open(&self) -> impl Iterator<Item = (usize, &Delivery)> {
        self.deliveries.iter().enumerate().filter_map(|(index, delivery)| Some((index, delivery.as_ref()?)))
    }

    /// Events that may have been running: those whose outcome is not known. Of an ordered batch in which one has failed
    /// nothing more is started.
    fn suspects(&self) -> impl Iterator<Item = usize> {
        let is_over = self.ordered && self.has_failed;
        self.open().map(|(index, _)| index).filter(move |_| !is_over)
    }

    /// How much of an isolate's concurrency the batch takes up.
    fn slots(&self, concurrency: usize) -> usize {
        match self.ordered {
            _ if self.is_suspect => concurrency,
            true => 1,
            false => self.open.min(concurrency),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Opening { since: Instant },
    Ready,
    Closing,
}

#[derive(Debug)]
pub struct Isolate {
    pub phase: Phase,
    pub batches: BTreeMap<u64, InHand>,
    pub idle_since: Instant,
}

impl Isolate {
    fn slots(&self, concurrency: usize) -> usize {
        self.batches.values().map(|batch| batch.slots(concurrency)).sum()
    }

    /// The events that a lost isolate may be blamed on: the one named, or all that may have been running.
    pub fn culprits(&self, fault: &Fault) -> Vec<(u64, usize)> {
        match fault {
            Fault::Elsewhere => Vec::new(),
            Fault::Event { batch, event } => vec![(*batch, *event as usize)],
            Fault::Unknown { reached } => self
                .batches
                .iter()
                .filter(|(id, _)| Some(**id) <= *reached)
                .flat_map(|(id, batch)| batch.suspects().map(|event| (*id, event)))
                .collect(),
        }
    }
}

/// The isolates of one function.
#[derive(Debug)]
pub struct Isolates {
    /// Sorted, so that the same events always have the same effects.
    pub all: BTreeMap<u32, Isolate>,
    concurrency: usize,
    /// CPU time reported since the last look, and when that was.
    cpu: (Duration, Instant),
    cpu_share: f64,
}

/// CPU shares are taken over at least this long.
const CPU_SPAN: Duration = Duration::from_millis(250);

impl Isolates {
    pub fn new(concurrency: u32, now: Instant) -> Self {
        Self { all: BTreeMap::new(), concurrency: concurrency as usize, cpu: (Duration::ZERO, now), cpu_share: 0.0 }
    }

    pub fn opening(&mut self, id: u32, now: Instant) {
        let isolate = Isolate { phase: Phase::Opening { since: now }, batches: BTreeMap::new(), idle_since: now };
        self.all.insert(id, isolate);
    }

    /// The least busy isolate that has room for another batch.
    pub fn with_room(&self) -> Option<u32> {
        self.all
            .iter()
            .filter(|(_, isolate)| isolate.phase == Phase::Ready)
            .map(|(id, isolate)| (isolate.slots(self.concurrency), *id))
            .min()
            .filter(|(slots, _)| *slots < self.concurrency)
            .map(|(_, id)| id)
    }

    /// Isolates that are there or coming.
    pub fn count(&self) -> u32 {
        self.all.values().filter(|isolate| isolate.phase != Phase::Closing).count() as u32
    }

    pub fn count_opening(&self) -> u32 {
        self.all.values().filter(|isolate| matches!(isolate.phase, Phase::Opening { .. })).count() as u32
    }

    /// The ready isolate that has been idle for the longest time, and since when.
    pub fn idle(&self) -> Option<(u32, Instant)> {
        self.all
            .iter()
            .filter(|(_, isolate)| isolate.phase == Phase::Ready && isolate.batches.is_empty())
            .map(|(id, isolate)| (*id, isolate.idle_since))
            .min_by_key(|(_, since)| *since)
    }

    pub fn in_hand(&self) -> bool {
        self.all.values().any(|isolate| !isolate.batches.is_empty())
    }

    pub fn used_cpu(&mut self, time: Duration) {
        self.cpu.0 += time;
    }

    /// CPU time per second of wall-clock time, lately.
    pub fn cpu_share(&mut self, now: Instant) -> f64 {
        let span = now.saturating_duration_since(self.cpu.1);
        if span >= CPU_SPAN {
            self.cpu_share = self.cpu.0.as_secs_f64() / span.as_secs_f64();
            self.cpu = (Duration::ZERO, now);
        }
        self.cpu_share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Assignment, Reports, Ticket};
    use crate::event::{Message, MessageRef};

    fn in_hand(ordered: bool, count: i64) -> InHand {
        let assignment = Assignment::new(1, "t".into(), 0);
        let (reports, _) = Reports::channel();
        let delivery = |offset| {
            let message = MessageRef {
                topic: "t",
                partition: 0,
                offset,
                timestamp: None,
                key: None,
                value: None,
                headers: Vec::new(),
                properties: None,
            };
            let ticket = Ticket::new(assignment.clone(), offset, reports.clone());
            Delivery { message: Message::copy_of(&message, "t".into()), failed_attempts: 0, is_suspect: false, ticket }
        };
        InHand::new(0, ordered, Batch { lane: LaneId::Unordered, deliveries: (0..count).map(delivery).collect() })
    }

    fn isolate(batches: impl IntoIterator<Item = (u64, InHand)>) -> Isolate {
        Isolate { phase: Phase::Ready, batches: batches.into_iter().collect(), idle_since: Instant::now() }
    }

    #[test]
    fn who_never_reached_the_runner_is_not_to_blame() {
        let isolate = isolate([(3, in_hand(true, 2)), (4, in_hand(false, 3))]);
        let all = vec![(3, 0), (3, 1), (4, 0), (4, 1), (4, 2)];
        let cases = [(None, vec![]), (Some(3), all[..2].to_vec()), (Some(4), all)];
        for (reached, expected) in cases {
            assert_eq!(isolate.culprits(&Fault::Unknown { reached }), expected, "{reached:?}");
        }
    }

    #[test]
    fn a_suspect_has_its_isolate_to_itself() {
        let mut isolates = Isolates::new(3, Instant::now());
        let of = |is_suspect| InHand { is_suspect, ..in_hand(true, 1) };
        isolates.all.insert(7, isolate([(0, of(false))]));
        assert_eq!(isolates.with_room(), Some(7));
        isolates.all.insert(7, isolate([(0, of(true))]));
        assert_eq!(isolates.with_room(), None);
    }

    #[test]
    fn what_was_not_started_after_a_failure_is_not_to_blame() {
        let mut batch = in_hand(true, 3);
        assert!(batch.take(0).is_some());
        batch.has_failed = true;
        assert_eq!(isolate([(0, batch)]).culprits(&Fault::Unknown { reached: Some(0) }), vec![]);
    }
}
