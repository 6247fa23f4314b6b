//! The books of one isolate: batches taken in, events in hand, and what is reported of them.
//!
//! Shared by the isolate's loop and the functions that JavaScript calls, on one thread. No borrow is held while
//! JavaScript runs: each method ends before the next call into V8.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lagless_protocol::frames::{Failure, FailureClass, Level};

use super::event::{BatchObjects, Events};
use super::report::Outbox;
use crate::batch::Batch;
use crate::runner::Process;
use crate::watchdog::{EventId, Fired, Watch, timeout_failure};

/// Names an event in hand; never used twice in an isolate, so that a late answer finds nothing.
pub type Slot = u64;

/// A batch of which not every event has been started.
pub struct OpenBatch {
    pub batch: Rc<Batch>,
    pub objects: BatchObjects,
    next: Cell<u32>,
    in_hand: Cell<u32>,
}

impl OpenBatch {
    fn is_startable(&self) -> bool {
        self.next.get() < self.batch.len() && !(self.batch.ordered && self.in_hand.get() > 0)
    }
}

struct InHand {
    open: Rc<OpenBatch>,
    index: u32,
    started: Instant,
    deadline: Instant,
    has_signal: bool,
}

impl InHand {
    fn id(&self) -> EventId {
        EventId { batch: self.open.batch.id, event: self.index }
    }
}

/// What a `ctx.signal` that is touched now is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalState {
    /// The event is in hand: it may abort.
    Open = 0,
    /// The event is over.
    Over = 1,
}

pub struct Desk {
    pub watch: Arc<Watch>,
    pub events: Events,
    pub process: Arc<Process>,
    outbox: RefCell<Outbox>,
    queue: RefCell<VecDeque<Rc<OpenBatch>>>,
    /// Ordered by start, and so by deadline: the limit is the same for all.
    in_hand: RefCell<BTreeMap<Slot, InHand>>,
    next_slot: Cell<Slot>,
    /// The event whose handler runs its synchronous part.
    current: Cell<Option<Slot>>,
    /// Settled events whose signal JavaScript still keeps.
    forgotten: RefCell<Vec<Slot>>,
}

impl Desk {
    pub fn new(process: Arc<Process>, watch: Arc<Watch>) -> Rc<Self> {
        Rc::new(Self {
            outbox: RefCell::new(Outbox::new(watch.isolate)),
            watch,
            events: Events::default(),
            process,
            queue: Default::default(),
            in_hand: Default::default(),
            next_slot: Cell::new(1),
            current: Cell::new(None),
            forgotten: Default::default(),
        })
    }

    pub fn accept(&self, batch: Rc<Batch>, objects: BatchObjects) {
        if batch.len() > 0 {
            let open = OpenBatch { batch, objects, next: Cell::new(0), in_hand: Cell::new(0) };
            self.queue.borrow_mut().push_back(Rc::new(open));
        }
    }

    /// Reports every event of a batch that V8 has no room for.
    pub fn refuse(&self, batch: &Batch) {
        let failure = Failure::new(FailureClass::Memory, "OutOfMemory", "V8 has no room for the batch");
        for event in 0..batch.len() {
            let id = EventId { batch: batch.id, event };
            self.outbox.borrow_mut().outcome(id, Duration::ZERO, Err(failure.clone()));
        }
    }

    /// Takes the next event that may start into hand.
    pub fn start(&self, now: Instant) -> Option<(Slot, Rc<OpenBatch>, EventId, Instant)> {
        if !self.has_room() {
            return None;
        }
        let mut queue = self.queue.borrow_mut();
        let place = queue.iter().position(|open| open.is_startable())?;
        let open = queue[place].clone();
        let index = open.next.get();
        open.next.set(index + 1);
        open.in_hand.set(open.in_hand.get() + 1);
        if index + 1 == open.batch.len() {
            queue.remove(place);
        }
        let slot = self.next_slot.get();
        self.next_slot.set(slot + 1);
        let deadline = now + Duration::from_millis(self.watch.limits.timeout_ms);
        let event = InHand { open: open.clone(), index, started: now, deadline, has_signal: false };
        let id = event.id();
        self.in_hand.borrow_mut().insert(slot, event);
        Some((slot, open, id, deadline))
    }

    pub fn can_start(&self) -> bool {
        self.has_room() && self.queue.borrow().iter().any(|open| open.is_startable())
    }

    fn has_room(&self) -> bool {
        self.in_hand.borrow().len() < self.watch.limits.concurrency.max(1) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.in_hand.borrow().is_empty() && self.queue.borrow().is_empty()
    }

    pub fn has_in_hand(&self) -> bool {
        !self.in_hand.borrow().is_empty()
    }

    pub fn wants_result(&self, slot: Slot) -> bool {
        self.in_hand.borrow().get(&slot).is_some_and(|event| event.open.batch.want_results)
    }

    /// The only event in hand, if it is the only one.
    pub fn only(&self) -> Option<Slot> {
        let in_hand = self.in_hand.borrow();
        if in_hand.len() == 1 { in_hand.keys().next().copied() } else { None }
    }

    /// When the first of the events in hand is due.
    pub fn first_deadline(&self) -> Option<Instant> {
        self.in_hand.borrow().values().next().map(|event| event.deadline)
    }

    pub fn set_current(&self, slot: Option<Slot>) {
        self.current.set(slot);
    }

    /// The event whose handler runs its synchronous part.
    pub fn current_id(&self) -> Option<EventId> {
        self.in_hand.borrow().get(&self.current.get()?).map(InHand::id)
    }

    /// `ctx.signal` is touched for the first time.
    pub fn keep_signal(&self, slot: Slot) -> SignalState {
        match self.in_hand.borrow_mut().get_mut(&slot) {
            Some(event) => {
                event.has_signal = true;
                SignalState::Open
            }
            None => SignalState::Over,
        }
    }

    /// Signals that JavaScript need not keep any longer.
    pub fn take_forgotten(&self) -> Vec<Slot> {
        std::mem::take(&mut *self.forgotten.borrow_mut())
    }

    /// Reports an event; `result` is JSON text. A late answer, to an event that is no longer in hand, is ignored.
    pub fn settle(&self, slot: Slot, result: Result<&str, Failure>) {
        let Some(event) = self.in_hand.borrow_mut().remove(&slot) else {
            return;
        };
        if event.has_signal {
            self.forgotten.borrow_mut().push(slot);
        }
        let now = Instant::now();
        let failed = result.is_err();
        event.open.in_hand.set(event.open.in_hand.get() - 1);
        self.outbox.borrow_mut().outcome(event.id(), now.duration_since(event.started), result);
        if failed && event.open.batch.ordered {
            self.give_up_rest(&event.open, FailureClass::Skipped, "an earlier event of the ordered batch failed");
        }
        self.flush_when_due(now);
    }

    /// Reports the events of a batch that have not been started.
    fn give_up_rest(&self, open: &OpenBatch, class: FailureClass, message: &str) {
        let mut outbox = self.outbox.borrow_mut();
        for event in open.next.get()..open.batch.len() {
            let id = EventId { batch: open.batch.id, event };
            outbox.outcome(id, Duration::ZERO, Err(Failure::new(class, "Error", message)));
        }
        open.next.set(open.batch.len());
        self.queue.borrow_mut().retain(|other| other.next.get() < other.batch.len());
    }

    /// Settles what is past its deadline; the signals of these are to be aborted.
    pub fn expire(&self, now: Instant) -> Vec<Slot> {
        let is_due = |(slot, event): (&Slot, &InHand)| (event.deadline <= now).then_some(*slot);
        let due: Vec<Slot> = self.in_hand.borrow().iter().map_while(is_due).collect();
        for slot in &due {
            self.settle(*slot, Err(timeout_failure(&self.watch.limits)));
        }
        due
    }

    /// Gives a batch up; the signals of the events returned are to be aborted.
    pub fn abort(&self, batch: u64) -> Vec<Slot> {
        let message = "the batch was given up";
        let waiting = self.queue.borrow().iter().find(|open| open.batch.id == batch).cloned();
        if let Some(open) = waiting {
            self.give_up_rest(&open, FailureClass::Interrupted, message);
        }
        let is_of_batch = |(slot, event): (&Slot, &InHand)| (event.open.batch.id == batch).then_some(*slot);
        let slots: Vec<Slot> = self.in_hand.borrow().iter().filter_map(is_of_batch).collect();
        for slot in &slots {
            self.settle(*slot, Err(Failure::new(FailureClass::Interrupted, "Error", message)));
        }
        slots
    }

    /// The isolate was terminated: blames who is at fault, and reports the others as bystanders.
    ///
    /// At fault is the event whose handler ran, if it is known. Otherwise, for time, those past their deadline; for
    /// memory, all in hand, since any of them may hold it and nobody blamed would mean to try for ever.
    pub fn condemn(&self, fired: &Fired) {
        let now = Instant::now();
        let is_memory = fired.failure.class == FailureClass::Memory;
        let in_hand: Vec<(Slot, bool)> = self
            .in_hand
            .borrow()
            .iter()
            .map(|(slot, event)| {
                let is_blamed = match fired.event {
                    Some(culprit) => culprit == event.id(),
                    None => is_memory || event.deadline <= now,
                };
                (*slot, is_blamed)
            })
            .collect();
        for (slot, is_blamed) in in_hand {
            let failure = match is_blamed {
                true => fired.failure.clone(),
                false => Failure::new(FailureClass::Interrupted, "Error", "the isolate was ended by another event"),
            };
            self.settle(slot, Err(failure));
        }
        self.queue.borrow_mut().clear();
    }

    pub fn log(&self, event: Option<EventId>, level: Level, text: &str) {
        self.outbox.borrow_mut().log(event, level, text);
        self.flush_when_due(Instant::now());
    }

    /// The event of a slot, for a log line.
    pub fn id_of(&self, slot: Slot) -> Option<EventId> {
        self.in_hand.borrow().get(&slot).map(InHand::id)
    }

    pub fn begin_turn(&self, now: Instant) {
        self.outbox.borrow_mut().begin_turn(now);
    }

    /// Adds to the process's count of event data that functions have touched.
    pub fn count_parsed(&self) {
        let bytes = self.events.take_parsed_bytes();
        if bytes > 0 {
            self.process.watchdog.parsed_bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }

    pub fn sampled_heap(&self, bytes: u64) {
        self.outbox.borrow_mut().heap_bytes = bytes;
    }

    fn flush_when_due(&self, now: Instant) {
        let mut outbox = self.outbox.borrow_mut();
        if outbox.is_due(now) {
            outbox.flush(&self.process.outgoing, now);
        }
    }

    pub fn flush(&self) {
        self.outbox.borrow_mut().flush(&self.process.outgoing, Instant::now());
    }
}
