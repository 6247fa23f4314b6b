//! The polling thread: one client, polled for as long as the subscription lives.
//!
//! Each turn takes a bounded number of messages, hands them on, settles what has been reported, pauses and resumes
//! partitions, and commits. Nothing in it waits for a function.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;

use super::assigned::Pace;
use super::client::explain;
use super::committer::Committer;
use super::context::Context;
use super::lag;
use super::moves::STOPPED_INTERVAL;
use super::partition::{Hold, Spot};
use super::position::{self, Placement, place};
use crate::delivery::Phase;
use crate::source::{Ended, Stage, Subscription};

/// Bounds of one turn.
const TURN_MESSAGES: usize = 512;
const TURN_BYTES: usize = 4 << 20;
const TURN_TIME: Duration = Duration::from_millis(5);

/// How long the thread may stand still for a question to the broker between two polls.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a seek may take: the client's own threads answer it, not the broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often gauges are set and slow troubles looked after.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the last commit may take once the deadline has passed.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client without partitions that has reached no broker for this long is replaced: once in a while one does not find
/// back to a broker that was away, however long that has been back.
const STRANDED_AFTER: Duration = Duration::from_secs(30);

/// How a client's life ended.
#[derive(Debug)]
pub(super) enum Exit {
    /// The subscription has come to its end.
    Ended(Ended),
    /// The client is of no use any more; another one may be.
    Fatal(RDKafkaErrorCode),
}

pub(super) struct Reader {
    consumer: Arc<BaseConsumer<Context>>,
    committer: Committer,
    subscription: Arc<Subscription>,
    commit_at: Instant,
    observe_at: Instant,
    /// An offset was refused while reading; the client does not say of which partition.
    check_ranges: bool,
    check_topics: bool,
    /// Which paused partition's end is asked for next.
    lag_turn: usize,
}

impl Reader {
    pub(super) fn new(
        consumer: Arc<BaseConsumer<Context>>,
        committer: Committer,
        subscription: Arc<Subscription>,
    ) -> Self {
        let now = Instant::now();
        Self {
            consumer,
            committer,
            subscription,
            commit_at: now,
            observe_at: now,
            check_ranges: false,
            check_topics: false,
            lag_turn: 0,
        }
    }

    /// Reads until the subscription ends or the client fails for good. The committer is handed back: it may still
    /// wait for an answer.
    pub(super) fn run(mut self) -> (Exit, Committer) {
        let exit = loop {
            let stage = self.assigned().stage();
            if stage == Stage::End {
                break self.end();
            }
            if stage == Stage::Drain && !self.assigned().leaving {
                self.leave();
            }
            if let ControlFlow::Break(code) = self.turn() {
                self.assigned().advance(Phase::Fenced, |_| true);
                self.assigned().give_up();
                break Exit::Fatal(code);
            }
            if stage == Stage::Drain && self.assigned().is_at_rest() {
                break self.end();
            }
        };
        (exit, self.committer)
    }

    fn assigned(&self) -> std::sync::MutexGuard<'_, super::assigned::Assigned> {
        self.consumer.context().assigned()
    }

    fn turn(&mut self) -> ControlFlow<RDKafkaErrorCode> {
        let pace = self.assigned().pace();
        let flow = match pace {
            Pace::Messages(wait) => self.read(wait),
            Pace::Reports(wait) => {
                self.assigned().await_reports(wait);
                self.read(Duration::ZERO)
            }
            Pace::Room(wait) => {
                self.assigned().await_reports(wait);
                ControlFlow::Continue(())
            }
        };
        let mut assigned = self.assigned();
        assigned.send();
        assigned.settle_reported();
        drop(assigned);
        self.mend(Instant::now());
        self.balance(Instant::now());
        self.commit(Instant::now());
        flow?;
        if self.is_stranded(Instant::now()) {
            let Subscription { source, group, .. } = &*self.subscription;
            tracing::warn!(source, group, "no broker has answered for {STRANDED_AFTER:?}: trying with a new client");
            return ControlFlow::Break(RDKafkaErrorCode::AllBrokersDown);
        }
        ControlFlow::Continue(())
    }

    /// Whether the client has nothing to lose and reaches nobody.
    fn is_stranded(&self, now: Instant) -> bool {
        let lost_for = self.consumer.context().lost_for(now);
        let assigned = self.assigned();
        lost_for >= STRANDED_AFTER && assigned.partitions.is_empty() && !assigned.leaving
    }

    /// Takes messages until the client has none at hand or the turn is long enough.
    fn read(&mut self, wait: Duration) -> ControlFlow<RDKafkaErrorCode> {
        let (mut messages, mut bytes) = (0, 0);
        let mut started = None;
        let mut wait = wait;
        while let Some(polled) = self.consumer.poll(wait) {
            wait = Duration::ZERO;
            match polled {
                Ok(message) => {
                    let taken = self.consumer.context().assigned().take(&message);
                    messages += 1;
                    bytes += taken.bytes;
                    if taken.used_up {
                        break;
                    }
                }
                Err(error) => self.note_error(&error)?,
            }
            let started = *started.get_or_insert_with(Instant::now);
            let is_long = messages % 32 == 0 && started.elapsed() >= TURN_TIME;
            if is_long || messages >= TURN_MESSAGES || bytes >= TURN_BYTES {
                break;
            }
        }
        ControlFlow::Continue(())
    }

    fn note_error(&mut self, error: &KafkaError) -> ControlFlow<RDKafkaErrorCode> {
        use RDKafkaErrorCode as Code;
        if let Some((code, reason)) = self.consumer.client().fatal_error() {
            let Subscription { source, group, .. } = &*self.subscription;
            tracing::error!(source, group, "the consumer cannot go on: {}", explain(code, &reason));
            return ControlFlow::Break(code);
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset | Code::LogTruncation) => {
                self.check_ranges = true;
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => self.check_topics = true,
            // The client has told of it through its context.
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Pauses and resumes partitions by what is in flight.
    fn balance(&mut self, now: Instant) {
        let (pause, resume) = self.assigned().balance(now);
        self.pause(&pause);
        self.resume(&resume);
    }

    /// Looks after partitions that are not simply read: those let go, misplaced or standing still.
    fn mend(&mut self, now: Instant) {
        let rewinds = self.assigned().begin_rewinds(now);
        if !rewinds.is_empty() {
            let Subscription { source, group, .. } = &*self.subscription;
            if self.consumer.context().is_due("rewind") {
                tracing::warn!(
                    source,
                    group,
                    partitions = rewinds.len(),
                    "deliveries were let go unfinished: their partitions are read again"
                );
            }
            self.pause(&rewinds);
        }
        let ended = self.assigned().end_rewinds(now);
        for (spot, offset) in ended {
            self.restart(&spot, offset, now);
        }
        if now >= self.observe_at {
            self.observe_at = now + OBSERVE_INTERVAL;
            self.place_unplaced(now);
            if self.check_ranges {
                self.check_ranges(now);
            }
            if std::mem::take(&mut self.check_topics) {
                self.check_topics();
            }
            self.remind(now);
            self.ask_end();
            lag::observe(&mut self.assigned(), &self.subscription.metrics);
        }
    }

    /// Asks again for positions that are not known.
    fn place_unplaced(&mut self, now: Instant) {
        let spots = self.assigned().spots(|it| matches!(it.hold, Hold::Unplaced { retry_at } if retry_at <= now));
        let found = match position::find(&self.consumer, &spots, QUESTION_TIMEOUT) {
            Ok(found) => found,
            Err(error) => {
                if self.consumer.context().is_due("position") {
                    let Subscription { source, group, .. } = &*self.subscription;
                    tracing::warn!(source, group, %error, partitions = spots.len(),
                        "the broker does not tell where to read from: asking again");
                }
                spots.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (spot, found) in spots.iter().zip(found) {
            let placed = self.assigned().settle_place(spot, found, now);
            if let Some(offset) = placed {
                self.restart(spot, offset, now);
            }
        }
    }

    /// Has the client read a partition from `offset` on.
    fn restart(&mut self, spot: &Spot, offset: i64, now: Instant) {
        let sought = self
            .consumer
            .seek(&spot.topic, spot.partition, Offset::Offset(offset), SEEK_TIMEOUT)
            // A partition that has failed cannot be sought in, only assigned anew.
            .or_else(|_| self.reassign(spot, offset));
        match sought {
            Ok(()) => self.resume(std::slice::from_ref(spot)),
            Err(error) => {
                tracing::warn!(topic = %spot.topic, partition = spot.partition, %error, "cannot move: trying again");
                self.pause(std::slice::from_ref(spot));
                if let Some(partition) = self.assigned().get_mut(&spot.topic, spot.partition) {
                    partition.hold = Hold::Unplaced { retry_at: now + OBSERVE_INTERVAL };
                }
            }
        }
    }

    fn reassign(&self, spot: &Spot, offset: i64) -> KafkaResult<()> {
        let alone = position::list(std::slice::from_ref(spot), Offset::Offset(offset))?;
        if matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            self.consumer.incremental_unassign(&alone)?;
            return self.consumer.incremental_assign(&alone);
        }
        let mut all = alone;
        for partition in &self.assigned().partitions {
            if partition.spot() != *spot {
                let offset = partition.next.map_or(Offset::End, Offset::Offset);
                all.add_partition_offset(&partition.assignment.topic, partition.assignment.partition, offset)?;
            }
        }
        self.consumer.assign(&all)
    }

    /// Compares every position with what the broker holds, after it has refused one of them.
    fn check_ranges(&mut self, now: Instant) {
        let spots = self.assigned().spots(|it| matches!(it.hold, Hold::Open | Hold::Full) && it.next.is_some());
        let Ok(ranges) = position::ranges(&self.consumer, &spots, QUESTION_TIMEOUT) else { return };
        self.check_ranges = ranges.iter().any(Result::is_err);
        for (spot, range) in spots.iter().zip(ranges) {
            let Ok(range) = range else { continue };
            let mut assigned = self.assigned();
            let Some(partition) = assigned.get_mut(&spot.topic, spot.partition) else { continue };
            partition.high = Some(range.high);
            let Subscription { source, group, start, on_out_of_range, .. } = &*self.subscription;
            match place(partition.next, range, *start, *on_out_of_range) {
                // Any of those in range may be the one that has stopped for another reason.
                Placement::Resume(offset) | Placement::Begin(offset) => {
                    partition.hold = Hold::Open;
                    drop(assigned);
                    self.restart(spot, offset, now);
                }
                Placement::Jump { to, gap } => {
                    tracing::warn!(source, group, topic = %spot.topic, partition = spot.partition,
                        "{gap}; going on from {to} as `on_out_of_range` says: {}", gap.consequence(to));
                    assigned.begin_rewind(spot, Some(to), now);
                    drop(assigned);
                    self.pause(std::slice::from_ref(spot));
                }
                Placement::Stop(gap) => {
                    partition.hold = Hold::Stopped { why: gap.to_string(), told: now };
                    assigned.tell_stopped(spot);
                    drop(assigned);
                    self.pause(std::slice::from_ref(spot));
                }
            }
        }
    }

    /// Names the topics that do not exist.
    fn check_topics(&self) {
        let Subscription { source, group, topics, .. } = &*self.subscription;
        for topic in topics {
            let Ok(metadata) = self.consumer.fetch_metadata(Some(topic), QUESTION_TIMEOUT) else { return };
            let Some(error) = metadata.topics().first().and_then(|found| found.error()) else { continue };
            let code = RDKafkaErrorCode::from(error);
            if !self.consumer.context().is_due(&format!("topic {topic}")) {
                continue;
            }
            match code {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => tracing::error!(
                    source,
                    group,
                    "topic `{topic}` does not exist on source `{source}`: create it, or fix `topics`; still trying"
                ),
                code => tracing::error!(source, group, "topic `{topic}`: {}", explain(code, &code.to_string())),
            }
        }
    }

    /// Says again which partitions stand still.
    fn remind(&self, now: Instant) {
        let mut assigned = self.assigned();
        let due = assigned.spots(|partition| match partition.hold {
            Hold::Stopped { told, .. } => now.duration_since(told) >= STOPPED_INTERVAL,
            _ => false,
        });
        for spot in due {
            assigned.tell_stopped(&spot);
            if let Some(partition) = assigned.get_mut(&spot.topic, spot.partition)
                && let Hold::Stopped { told, .. } = &mut partition.hold
            {
                *told = now;
            }
        }
    }

    /// Asks for the end of one paused partition: the client learns ends only where it fetches.
    fn ask_end(&mut self) {
        let paused = self.assigned().spots(|partition| !matches!(partition.hold, Hold::Open));
        if paused.is_empty() || !self.consumer.context().is_reached() {
            return;
        }
        self.lag_turn = (self.lag_turn + 1) % paused.len();
        let spot = &paused[self.lag_turn];
        // Where the broker does not answer, the last known end stays.
        if let Ok((_, high)) = self.consumer.fetch_watermarks(&spot.topic, spot.partition, QUESTION_TIMEOUT)
            && let Some(partition) = self.assigned().get_mut(&spot.topic, spot.partition)
        {
            partition.high = Some(high);
        }
    }

    /// Commits what has been settled since the last commit.
    fn commit(&mut self, now: Instant) {
        while let Some(answer) = self.committer.answer() {
            self.consumer.context().note_commit(&answer);
        }
        if now < self.commit_at {
            return;
        }
        self.commit_at = now + self.subscription.commit_interval;
        let list = self.assigned().begin_commit();
        if let Some(Err(refused)) = list.map(|list| self.committer.commit(list)) {
            self.consumer.context().note_commit(&refused);
        }
    }

    fn leave(&mut self) {
        let spots = self.assigned().leave();
        self.pause(&spots);
        self.commit_at = Instant::now();
    }

    /// Ends the subscription: what is not settled by now is void; what is settled is committed.
    fn end(&mut self) -> Exit {
        self.assigned().advance(Phase::Fenced, |_| true);
        self.assigned().settle_reported();
        let deadline = Instant::now() + LAST_COMMIT_TIMEOUT;
        let is_committed = |reader: &Self| reader.assigned().partitions.iter().all(|it| it.uncommitted().is_none());
        while !is_committed(self) && Instant::now() < deadline {
            self.commit_at = Instant::now();
            self.commit(self.commit_at);
            // Only to keep the client served: what comes now is void.
            drop(self.consumer.poll(Duration::from_millis(20)));
        }
        if !is_committed(self) {
            let Subscription { source, group, .. } = &*self.subscription;
            tracing::warn!(source, group, "the last commit was not answered: some settled messages may be repeated");
        }
        let mut assigned = self.assigned();
        let ended = assigned.ended();
        assigned.give_up();
        lag::observe(&mut assigned, &self.subscription.metrics);
        drop(assigned);
        Exit::Ended(ended)
    }

    fn pause(&self, spots: &[Spot]) {
        self.switch(spots, |list| self.consumer.pause(list));
    }

    fn resume(&self, spots: &[Spot]) {
        self.switch(spots, |list| self.consumer.resume(list));
    }

    fn switch(&self, spots: &[Spot], set: impl Fn(&rdkafka::TopicPartitionList) -> KafkaResult<()>) {
        if spots.is_empty() {
            return;
        }
        if let Err(error) = position::list(spots, Offset::Invalid).and_then(|list| set(&list)) {
            let Subscription { source, group, .. } = &*self.subscription;
            tracing::warn!(source, group, %error, "cannot pause or resume");
        }
    }
}
