//! Lanes: which deliveries must wait for which others.
//!
//! With order by partition, each assignment is one lane: its deliveries are handed out in the order they were read, and
//! nothing more is handed out while a batch of it is out, in backoff or stopped. Without order, deliveries are handed
//! out as they come, and one in backoff waits alone.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::{Delivery, Phase};

/// A lane by name: [`super::Assignment::id`] with order by partition, nothing without order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LaneId {
    Assignment(u64),
    Unordered,
}

/// Deliveries to be handled together: in order, where the lane is ordered.
#[derive(Debug)]
pub struct Batch {
    pub lane: LaneId,
    pub deliveries: Vec<Delivery>,
}

/// A batch is not filled beyond this, in bytes of its messages: it travels in one frame, whose length is limited, and is
/// held once more by the runner. A single larger message goes alone.
const BATCH_BYTES: usize = 16 << 20;

/// The lanes of one trigger. An ordered lane exists while something waits in it or is out.
#[derive(Debug)]
pub struct Lanes {
    kind: Kind,
    batch_max: usize,
}

#[derive(Debug)]
enum Kind {
    Ordered(Ordered),
    Unordered(Unordered),
}

impl Lanes {
    /// One lane per assignment; batches of up to `batch_max`.
    pub fn by_partition(batch_max: usize) -> Self {
        Self { kind: Kind::Ordered(Ordered::default()), batch_max }
    }

    /// No order at all.
    pub fn without_order(batch_max: usize) -> Self {
        Self { kind: Kind::Unordered(Unordered::default()), batch_max }
    }

    pub fn is_ordered(&self) -> bool {
        matches!(self.kind, Kind::Ordered(_))
    }

    /// Takes deliveries in, in the order they were read. Those of an assignment that is no longer active are dropped,
    /// which releases them.
    pub fn push(&mut self, deliveries: impl IntoIterator<Item = Delivery>) {
        let active = deliveries.into_iter().filter(is_active);
        match &mut self.kind {
            Kind::Ordered(lanes) => active.for_each(|delivery| lanes.push(delivery)),
            Kind::Unordered(lane) => lane.queue.extend(active),
        }
    }

    /// Whether the next batch is a suspect, which goes alone and wants an isolate to itself.
    pub fn is_suspect_next(&mut self, now: Instant) -> bool {
        match &mut self.kind {
            Kind::Ordered(lanes) => lanes.is_suspect_next(now),
            Kind::Unordered(lane) => lane.is_suspect_next(now),
        }
    }

    /// Hands out the next batch, if one is ready at `now`.
    pub fn take(&mut self, now: Instant) -> Option<Batch> {
        match &mut self.kind {
            Kind::Ordered(lanes) => lanes.take(now, self.batch_max),
            Kind::Unordered(lane) => lane.take(now, self.batch_max),
        }
    }

    /// Takes a delivery back that is to be tried again at `at`. In an ordered lane it comes before all others there; of
    /// several, the one given back last comes first. The lane stays out until [`Lanes::finish`].
    pub fn give_back(&mut self, delivery: Delivery, at: Instant) {
        match &mut self.kind {
            Kind::Ordered(lanes) => lanes.give_back(delivery, at),
            Kind::Unordered(lane) => lane.give_back(delivery, at),
        }
    }

    /// Says that the batch of this lane is back: the lane may go on.
    pub fn finish(&mut self, lane: LaneId) {
        if let (Kind::Ordered(lanes), LaneId::Assignment(id)) = (&mut self.kind, lane) {
            lanes.finish(id);
        }
    }

    /// Keeps a delivery that may be neither retried nor let go. An ordered lane stops with it; without order it is kept
    /// aside and the others go on. Where its assignment is no longer active it is dropped, which releases it.
    pub fn stop(&mut self, delivery: Delivery) {
        if !is_active(&delivery) {
            return;
        }
        match &mut self.kind {
            Kind::Ordered(lanes) => lanes.stop(delivery),
            Kind::Unordered(lane) => lane.stopped.push(delivery),
        }
    }

    /// Lets go of everything that waits for an assignment which is no longer active; dropping it releases it.
    pub fn release_ended(&mut self) {
        match &mut self.kind {
            Kind::Ordered(lanes) => lanes.release_ended(),
            Kind::Unordered(lane) => lane.release_ended(),
        }
    }

    /// Batches that could be handed out at `now`; at least 1 when one is ready, and an estimate beyond.
    pub fn ready(&self, now: Instant) -> usize {
        match &self.kind {
            Kind::Ordered(lanes) => {
                let is_due = |Reverse((at, id)): &&Reverse<(Instant, u64)>| {
                    *at <= now && lanes.lanes.get(id).is_some_and(|lane| lane.state == LaneState::Waiting)
                };
                lanes.ready.len() + lanes.due.iter().filter(is_due).count()
            }
            Kind::Unordered(lane) => {
                let due = lane.due.iter().filter(|Reverse(later)| later.at <= now).count();
                (lane.queue.len() + due).div_ceil(self.batch_max)
            }
        }
    }

    /// When the earliest backoff ends.
    pub fn next_due(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Ordered(lanes) => lanes.due.peek().map(|Reverse((at, _))| *at),
            Kind::Unordered(lane) => lane.due.peek().map(|Reverse(later)| later.at),
        }
    }

    /// Deliveries that wait here: queued, in backoff or stopped.
    pub fn waiting(&self) -> usize {
        match &self.kind {
            Kind::Ordered(lanes) => lanes.lanes.values().map(|lane| lane.queue.len()).sum(),
            Kind::Unordered(lane) => lane.queue.len() + lane.due.len() + lane.stopped.len(),
        }
    }

    /// Lanes (or, without order, deliveries) that stand still.
    pub fn stopped(&self) -> usize {
        match &self.kind {
            Kind::Ordered(lanes) => lanes.lanes.values().filter(|lane| lane.state == LaneState::Stopped).count(),
            Kind::Unordered(lane) => lane.stopped.len(),
        }
    }
}

#[derive(Debug, Default)]
struct Ordered {
    lanes: BTreeMap<u64, Lane>,
    ready: VecDeque<u64>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
}

#[derive(Debug)]
struct Lane {
    queue: VecDeque<Delivery>,
    state: LaneState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    /// In the list of ready lanes.
    Ready,
    /// A batch of it is being handled; with a time, if it must wait after that.
    Out {
        wait_until: Option<Instant>,
    },
    /// In backoff.
    Waiting,
    Stopped,
}

impl Ordered {
    fn push(&mut self, delivery: Delivery) {
        let id = delivery.ticket.assignment().id;
        match self.lanes.entry(id) {
            Entry::Occupied(mut lane) => lane.get_mut().queue.push_back(delivery),
            Entry::Vacant(new) => {
                new.insert(Lane { queue: [delivery].into(), state: LaneState::Ready });
                self.ready.push_back(id);
            }
        }
    }

    /// Lanes whose backoff has ended are ready.
    fn wake(&mut self, now: Instant) {
        while let Some(Reverse((_, id))) = self.due.peek().filter(|Reverse((at, _))| *at <= now).copied() {
            self.due.pop();
            if let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.state == LaneState::Waiting) {
                lane.state = LaneState::Ready;
                self.ready.push_back(id);
            }
        }
    }

    fn is_suspect_next(&mut self, now: Instant) -> bool {
        self.wake(now);
        let next = self.ready.iter().find_map(|id| {
            let lane = self.lanes.get(id).filter(|lane| lane.state == LaneState::Ready)?;
            lane.queue.front().filter(|delivery| is_active(delivery))
        });
        next.is_some_and(|delivery| delivery.is_suspect)
    }

    fn take(&mut self, now: Instant, batch_max: usize) -> Option<Batch> {
        self.wake(now);
        loop {
            let id = self.ready.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.state == LaneState::Ready) else { continue };
            if !lane.queue.front().is_some_and(is_active) {
                // One that failed meanwhile has been released: what waits behind it must not overtake it.
                self.lanes.remove(&id);
                continue;
            }
            // An event that has failed before goes alone, so that those behind it are not sent in vain.
            let length = batch_length(&lane.queue, batch_max);
            let retried = lane.queue.iter().take(length).position(|delivery| delivery.failed_attempts > 0);
            let count = retried.unwrap_or(length).max(1);
            let deliveries = lane.queue.drain(..count).collect();
            lane.state = LaneState::Out { wait_until: None };
            return Some(Batch { lane: LaneId::Assignment(id), deliveries });
        }
    }

    fn give_back(&mut self, delivery: Delivery, at: Instant) {
        let Some(lane) = self.lanes.get_mut(&delivery.ticket.assignment().id) else { return };
        if !is_active(&delivery) {
            return;
        }
        lane.queue.push_front(delivery);
        if let LaneState::Out { wait_until } = &mut lane.state {
            *wait_until = (*wait_until).max(Some(at));
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let LaneState::Out { wait_until } = lane.state else { return };
        match wait_until {
            _ if lane.queue.is_empty() => {
                self.lanes.remove(&id);
            }
            Some(at) => {
                lane.state = LaneState::Waiting;
                self.due.push(Reverse((at, id)));
            }
            None => {
                lane.state = LaneState::Ready;
                self.ready.push_back(id);
            }
        }
    }

    /// Its batch may be long back, and the lane ready, in backoff or gone: a sink refuses when it pleases.
    fn stop(&mut self, delivery: Delivery) {
        let id = delivery.ticket.assignment().id;
        let lane = self.lanes.entry(id).or_insert(Lane { queue: VecDeque::new(), state: LaneState::Stopped });
        lane.queue.push_front(delivery);
        lane.state = LaneState::Stopped;
        self.ready.retain(|ready| *ready != id);
    }

    fn release_ended(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.queue.retain(is_active);
        }
        // A lane that is out keeps its entry until its batch is back.
        self.lanes.retain(|_, lane| !lane.queue.is_empty() || matches!(lane.state, LaneState::Out { .. }));
        let lanes = &self.lanes;
        self.ready.retain(|id| lanes.contains_key(id));
    }
}

#[derive(Debug, Default)]
struct Unordered {
    queue: VecDeque<Delivery>,
    due: BinaryHeap<Reverse<Later>>,
    stopped: Vec<Delivery>,
    given_back: u64,
}

/// A delivery in backoff, ordered by time and then by the order it was given back in.
#[derive(Debug)]
struct Later {
    at: Instant,
    number: u64,
    delivery: Delivery,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Unordered {
    /// What has waited for long enough comes first.
    fn wake(&mut self, now: Instant) {
        while self.due.peek().is_some_and(|Reverse(later)| later.at <= now) {
            if let Some(Reverse(later)) = self.due.pop() {
                self.queue.push_front(later.delivery);
            }
        }
    }

    fn is_suspect_next(&mut self, now: Instant) -> bool {
        self.wake(now);
        self.queue.front().is_some_and(|delivery| delivery.is_suspect)
    }

    fn take(&mut self, now: Instant, batch_max: usize) -> Option<Batch> {
        self.wake(now);
        if self.queue.is_empty() {
            return None;
        }
        let count = batch_length(&self.queue, batch_max);
        Some(Batch { lane: LaneId::Unordered, deliveries: self.queue.drain(..count).collect() })
    }

    fn give_back(&mut self, delivery: Delivery, at: Instant) {
        if is_active(&delivery) {
            self.given_back += 1;
            self.due.push(Reverse(Later { at, number: self.given_back, delivery }));
        }
    }

    fn release_ended(&mut self) {
        self.queue.retain(is_active);
        self.due.retain(|Reverse(later)| is_active(&later.delivery));
        self.stopped.retain(is_active);
    }
}

/// How many deliveries of a queue make a batch: at least one, if there is one. A suspect is a batch of its own.
fn batch_length(queue: &VecDeque<Delivery>, batch_max: usize) -> usize {
    let mut bytes = 0;
    let batch_max = if queue.front().is_some_and(|delivery| delivery.is_suspect) { 1 } else { batch_max };
    let fits = |(index, delivery): &(usize, &Delivery)| {
        bytes += delivery.message.size();
        *index == 0 || (bytes <= BATCH_BYTES && !delivery.is_suspect)
    };
    queue.iter().take(batch_max).enumerate().take_while(fits).count()
}

fn is_active(delivery: &Delivery) -> bool {
    delivery.ticket.assignment().phase() == Phase::Active
}

/// When to look again: the earliest of several times, no later than `at_most` from `now`.
pub fn next_look(now: Instant, at_most: Duration, times: impl IntoIterator<Item = Option<Instant>>) -> Instant {
    times.into_iter().flatten().min().unwrap_or(now + at_most).min(now + at_most)
}

#[cfg(test)]
mod tests;
