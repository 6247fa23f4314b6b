//! The partitions that a subscription holds, and what is on its way in them. Only the polling thread touches this, also
//! from within the client's callbacks.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::committer::Answer;
use super::lend::lend;
use super::partition::{Hold, Partition, Share, Spot};
use crate::delivery::{Assignment, Delivery, Phase, Report, Reports, Settled, Ticket};
use crate::event::Message;
use crate::source::{Ended, Stage, Subscription};

/// How long a used-up share waits for settlements before its partition is paused, where all the others wait as well.
/// Pausing throws away what the client has fetched ahead.
const PAUSE_DELAY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Assigned {
    pub partitions: Vec<Partition>,
    /// Messages settled since the subscription began.
    pub settled: u64,
    /// The subscription is ending: partitions that still come are not read.
    pub leaving: bool,
    pub(super) subscription: Arc<Subscription>,
    reports: Reports,
    reported: mpsc::Receiver<Vec<Report>>,
    topics: Vec<Arc<str>>,
    /// The number of the last assignment.
    last: u64,
    /// Where the last partition was found: messages and reports come in runs.
    pub(super) recent: usize,
    /// Deliveries of this turn, per route.
    outbox: Vec<Vec<Delivery>>,
    matched: Vec<u32>,
    /// A commit is on its way.
    is_committing: bool,
}

/// What taking one message has cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    pub bytes: usize,
    /// The partition's share is used up: end the turn.
    pub used_up: bool,
}

/// How to spend the time until something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Wait for a message.
    Messages(Duration),
    /// Wait for settlements, then look after the client without waiting.
    Reports(Duration),
    /// Wait for settlements only: there is hope that pausing can be avoided.
    Room(Duration),
}

impl Assigned {
    pub(super) fn new(subscription: Arc<Subscription>) -> Self {
        let (reports, reported) = Reports::channel();
        Self {
            partitions: Vec::new(),
            settled: 0,
            leaving: false,
            topics: subscription.topics.iter().map(|topic| topic.as_str().into()).collect(),
            outbox: subscription.routes.iter().map(|_| Vec::new()).collect(),
            subscription,
            reports,
            reported,
            last: 0,
            recent: 0,
            matched: Vec::new(),
            is_committing: false,
        }
    }

    /// Takes a message that the client lends: matches it and copies it for the triggers that it fires.
    pub(super) fn take(&mut self, message: &BorrowedMessage<'_>) -> Taken {
        let (topic, offset) = (message.topic(), message.offset());
        let Some(index) = self.index_of(|partition| {
            partition.assignment.partition == message.partition() && *partition.assignment.topic == *topic
        }) else {
            // A message that was fetched before its partition went away.
            return Taken::default();
        };
        let share = Share::of(self.subscription.in_flight, self.partitions.len());
        let partition = &mut self.partitions[index];
        if partition.hold != Hold::Open || partition.next.is_some_and(|next| offset < next) {
            return Taken::default();
        }
        let lent = lend(message);
        self.matched.clear();
        let scanned = self.subscription.triggers.matching(&lent, &mut self.matched);
        let mut held = 0;
        for &trigger in &self.matched {
            let message = Message::copy_of(&lent, partition.assignment.topic.clone());
            held += message.size();
            let ticket = Ticket::new(partition.assignment.clone(), offset, self.reports.clone());
            self.outbox[trigger as usize].push(Delivery { message, failed_attempts: 0, is_suspect: false, ticket });
        }
        partition.tracker.read(offset, self.matched.len() as u32, held);
        partition.next = Some(offset + 1);
        partition.mark(offset, lent.timestamp);
        let used_up = share.is_used_up(&partition.tracker);
        let bytes = lent.key.map_or(0, <[u8]>::len) + lent.value.map_or(0, <[u8]>::len);
        let metrics = &self.subscription.metrics;
        metrics.messages.inc();
        metrics.read.inc_by(bytes as u64);
        metrics.scanned.inc_by(scanned as u64);
        if self.matched.is_empty() {
            metrics.not_matched.inc();
            metrics.settled.inc();
            self.settled += 1;
        }
        Taken { bytes, used_up }
    }

    /// Hands this turn's deliveries to the engines.
    pub(super) fn send(&mut self) {
        for (route, deliveries) in self.subscription.routes.iter().zip(&mut self.outbox) {
            if !deliveries.is_empty() {
                route.send(std::mem::take(deliveries));
            }
        }
    }

    /// Settles all that has been reported.
    pub(super) fn settle_reported(&mut self) {
        while let Ok(batch) = self.reported.try_recv() {
            self.settle(&batch);
        }
    }

    /// Waits for reports and settles them.
    pub(super) fn await_reports(&mut self, timeout: Duration) {
        match self.reported.recv_timeout(timeout) {
            Ok(batch) => {
                self.settle(&batch);
                self.settle_reported();
            }
            // The other end is held here, so it cannot be disconnected.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    fn settle(&mut self, batch: &[Report]) {
        for report in batch {
            let Some(index) = self.index_of(|partition| partition.assignment.id == report.assignment) else {
                continue;
            };
            let partition = &mut self.partitions[index];
            match partition.tracker.settle(report.offset, report.settled) {
                Some(Settled::Finished | Settled::Rejected) => {
                    self.settled += 1;
                    self.subscription.metrics.settled.inc();
                }
                Some(Settled::Released | Settled::Returned) => partition.released += 1,
                None => {}
            }
        }
    }

    fn index_of(&mut self, is_it: impl Fn(&Partition) -> bool) -> Option<usize> {
        if !self.partitions.get(self.recent).is_some_and(&is_it) {
            self.recent = self.partitions.iter().position(is_it)?;
        }
        Some(self.recent)
    }

    pub(super) fn get_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        self.partitions.iter_mut().find(|it| it.assignment.partition == partition && *it.assignment.topic == *topic)
    }

    pub(super) fn spots(&self, is_wanted: impl Fn(&Partition) -> bool) -> Vec<Spot> {
        self.partitions.iter().filter(|partition| is_wanted(partition)).map(Partition::spot).collect()
    }

    pub(super) fn assignment(&mut self, spot: &Spot) -> Arc<Assignment> {
        self.last += 1;
        Assignment::new(self.last, spot.topic.clone(), spot.partition)
    }

    /// The subscription's own copy of a topic's name.
    pub(super) fn topic(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.topics.iter().find(|topic| ***topic == *name) {
            return known.clone();
        }
        let topic: Arc<str> = name.into();
        self.topics.push(topic.clone());
        topic
    }

    /// Moves assignments on and tells the engines. What was taken in this turn goes out first, so that nothing waits
    /// here while its assignment ends.
    pub(super) fn advance(&mut self, phase: Phase, is_meant: impl Fn(&Partition) -> bool) {
        let mut moved = false;
        for partition in self.partitions.iter().filter(|partition| is_meant(partition)) {
            partition.assignment.advance(phase);
            moved = true;
        }
        self.send();
        if moved {
            for route in &self.subscription.routes {
                route.phase_changed();
            }
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.subscription.stage()
    }

    /// Decides which partitions to pause and which to resume.
    pub(super) fn balance(&mut self, now: Instant) -> (Vec<Spot>, Vec<Spot>) {
        let in_flight = self.subscription.in_flight;
        let share = Share::of(in_flight, self.partitions.len());
        let (waiting, bytes) = self.in_flight();
        let saturated = waiting * 4 >= in_flight.messages * 3 || bytes / 3 >= in_flight.bytes / 4;
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for partition in &mut self.partitions {
            match partition.hold {
                Hold::Open if share.is_used_up(&partition.tracker) => {
                    let since = *partition.used_up_since.get_or_insert(now);
                    if !saturated || now.duration_since(since) >= PAUSE_DELAY {
                        partition.hold = Hold::Full;
                        partition.used_up_since = None;
                        pause.push(partition.spot());
                    }
                }
                Hold::Open => partition.used_up_since = None,
                Hold::Full if share.has_room(&partition.tracker) => {
                    partition.hold = Hold::Open;
                    resume.push(partition.spot());
                }
                _ => {}
            }
        }
        (pause, resume)
    }

    /// Messages and bytes read and not settled.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        self.partitions.iter().fold((0, 0), |(messages, bytes), partition| {
            (messages + partition.tracker.waiting(), bytes + partition.tracker.bytes())
        })
    }

    pub(super) fn pace(&self) -> Pace {
        let waits = self.partitions.iter().any(|partition| partition.tracker.waiting() > 0);
        let open = self.partitions.iter().filter(|partition| partition.hold == Hold::Open).count();
        let millis = Duration::from_millis;
        if self.partitions.iter().any(|partition| partition.used_up_since.is_some()) {
            Pace::Room(millis(5))
        } else if waits && open == 0 {
            Pace::Reports(millis(20))
        } else if waits && open < self.partitions.len() {
            Pace::Messages(millis(3))
        } else if waits || self.leaving {
            Pace::Messages(millis(20))
        } else {
            Pace::Messages(millis(100))
        }
    }

    /// Whether everything read is settled and every settled offset is committed.
    pub(super) fn is_at_rest(&self) -> bool {
        self.partitions.iter().all(|partition| partition.tracker.waiting() == 0 && partition.uncommitted().is_none())
    }

    /// Lets go of everything, as the client is.
    pub(super) fn give_up(&mut self) {
        self.partitions.clear();
        self.is_committing = false;
    }

    /// What has come of the messages that were read, as it stands.
    pub(super) fn ended(&self) -> Ended {
        Ended {
            settled: self.settled,
            released: self.partitions.iter().map(|partition| partition.released).sum(),
            abandoned: self.partitions.iter().map(|partition| partition.tracker.waiting() as u64).sum(),
        }
    }

    /// The offsets to commit now; `None` where there is no news, or while an earlier commit is on its way.
    pub(super) fn begin_commit(&mut self) -> Option<TopicPartitionList> {
        if self.is_committing {
            return None;
        }
        let list = offsets(&mut self.partitions)?;
        self.is_committing = true;
        Some(list)
    }

    /// Notes the answer to a commit.
    pub(super) fn end_commit(&mut self, answer: &Answer) {
        self.is_committing = false;
        for element in answer.offsets.elements() {
            let Offset::Offset(offset) = element.offset() else { continue };
            if let Some(partition) = self.get_mut(element.topic(), element.partition())
                && partition.commits.sent.take() == Some(offset)
                && answer.result.is_ok()
            {
                partition.commits.acknowledged = Some(offset);
            }
        }
    }
}

/// The offsets of `partitions` that are not committed yet.
pub(super) fn offsets(partitions: &mut [Partition]) -> Option<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        let Some(offset) = partition.uncommitted() else { continue };
        let assignment = &partition.assignment;
        // Offsets are never negative, which is the only reason for a refusal.
        if list.add_partition_offset(&assignment.topic, assignment.partition, Offset::Offset(offset)).is_ok() {
            partition.commits.sent = Some(offset);
        }
    }
    (list.count() > 0).then_some(list)
}

/// Whether a refused commit is part of a rebalance and simply comes again.
pub(super) fn is_rebalance(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(
        code,
        Some(
            RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::StaleMemberEpoch
                | RDKafkaErrorCode::AssignmentLost
        )
    )
}
