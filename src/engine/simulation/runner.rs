//! A runner process and its isolates, as the frames describe them: it gets the bytes that a real one would get, and what
//! it says goes through the real keeper.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lagless_protocol::frames::{Failure, FailureClass, FromRunner, Invoke, Outcome, ToRunner};
use lagless_protocol::wire::split_frame;
use rand::Rng;
use tokio::sync::mpsc;

use super::plan::{Event, Last};
use super::world::Scene;
use crate::engine::service::{End, Keeper, Outcomes};

/// What one attempt at an event comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Succeed,
    Throw,
    TimeOut,
    /// The heap limit: the isolate goes with it.
    Exhaust,
    /// The whole runner dies, without a word.
    Kill,
    /// The runner asks to be killed; it may not know for which event.
    Stick {
        is_known: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running { until: Instant, verdict: Verdict },
    Over,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    attempt: u32,
    state: State,
}

#[derive(Debug)]
struct Batch {
    id: u64,
    /// The lane, where there is one.
    assignment: Option<u64>,
    ordered: bool,
    want_results: bool,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Unsent {
    batch: u64,
    index: u32,
    event: Event,
    result: Result<Vec<u8>, Failure>,
}

#[derive(Debug)]
struct Isolate {
    /// While it opens.
    opening: Option<Instant>,
    is_closing: bool,
    batches: Vec<Batch>,
    /// Outcomes that have not been written to the socket.
    unsent: Vec<Unsent>,
}

pub struct Runner {
    up_at: Instant,
    isolates: BTreeMap<u32, Isolate>,
    outbox: mpsc::UnboundedSender<Vec<u8>>,
    outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
}

/// Which assignment a batch in hand belongs to, if its lane is one.
pub type LaneOf<'a> = &'a dyn Fn(u32, u64) -> Option<u64>;

impl Runner {
    pub fn new(now: Instant) -> Self {
        #[expect(clippy::disallowed_methods, reason = "as in the keeper")]
        let (outbox, outgoing) = mpsc::unbounded_channel();
        Self { up_at: now, isolates: BTreeMap::new(), outbox, outgoing }
    }

    pub fn step(&mut self, keeper: &mut Keeper, lane_of: LaneOf<'_>, scene: &mut Scene) {
        if scene.now < self.up_at {
            return;
        }
        self.receive(keeper, lane_of, scene);
        let numbers: Vec<u32> = self.isolates.keys().copied().collect();
        for number in numbers {
            if let Some(end) = self.work(number, keeper, scene) {
                self.die(end, keeper, lane_of, scene);
                return;
            }
        }
    }

    /// The process is killed from outside.
    pub fn kill(&mut self, keeper: &mut Keeper, lane_of: LaneOf<'_>, scene: &mut Scene) {
        if scene.now >= self.up_at {
            self.die(End::Died("killed".to_owned()), keeper, lane_of, scene);
        }
    }

    fn receive(&mut self, keeper: &mut Keeper, lane_of: LaneOf<'_>, scene: &mut Scene) {
        while let Ok(command) = keeper.commands.try_recv() {
            keeper.forward(command, &self.outbox);
        }
        while let Ok(frames) = self.outgoing.try_recv() {
            let mut rest = &frames[..];
            while let Some((kind, body, length)) = split_frame(rest).expect("a whole frame") {
                self.hear(ToRunner::decode(kind, body).expect("a known frame"), lane_of, scene);
                rest = &rest[length..];
            }
        }
    }

    fn hear(&mut self, frame: ToRunner<'_>, lane_of: LaneOf<'_>, scene: &mut Scene) {
        match frame {
            ToRunner::Open { isolate, .. } => {
                let opening = Some(scene.now + Duration::from_millis(scene.rng.random_range(0..30)));
                let new = Isolate { opening, is_closing: false, batches: Vec::new(), unsent: Vec::new() };
                assert!(self.isolates.insert(isolate, new).is_none(), "isolate {isolate} is opened twice");
            }
            ToRunner::Invoke(invoke) => {
                let ids = || invoke.events.iter().map(|event| (event.id, event.attempt)).collect::<Vec<_>>();
                scene.note(|_| format!("trigger {}, batch {}: {:?}", invoke.trigger, invoke.batch, ids()));
                let assignment = lane_of(invoke.isolate, invoke.batch);
                if let Some(isolate) = self.isolates.get_mut(&invoke.isolate) {
                    assert!(isolate.opening.is_none() && !isolate.is_closing, "only a ready isolate is given work");
                    isolate.batches.push(Batch::of(&invoke, assignment));
                }
            }
            ToRunner::Abort { isolate, batch } => {
                if let Some(isolate) = self.isolates.get_mut(&isolate) {
                    isolate.abort(batch);
                }
            }
            ToRunner::Close { isolate } => {
                if let Some(isolate) = self.isolates.get_mut(&isolate) {
                    isolate.is_closing = true;
                }
            }
            ToRunner::Hello { .. } | ToRunner::Deploy(_) => {}
        }
    }

    fn work(&mut self, number: u32, keeper: &mut Keeper, scene: &mut Scene) -> Option<End> {
        let isolate = self.isolates.get_mut(&number)?;
        let mut outcomes = Outcomes::default();
        if let Some(at) = isolate.opening {
            if scene.now < at {
                return None;
            }
            if scene.trouble(0.05) {
                let error = Failure::new(FailureClass::Load, "Error", "it does not load");
                keeper.take_frame(FromRunner::Closed { isolate: number, error: Some(error) }, &mut outcomes);
                self.isolates.remove(&number);
                return None;
            }
            isolate.opening = None;
            keeper.take_frame(FromRunner::Opened { isolate: number, from_spare: false, micros: 1 }, &mut outcomes);
        }
        let end = loop {
            isolate.start(scene);
            match isolate.finish(scene) {
                None => break None,
                Some(Verdict::Succeed | Verdict::Throw | Verdict::TimeOut) => {}
                Some(verdict) => break Some(verdict),
            }
        };
        let count = if scene.calm || scene.rng.random_bool(0.85) {
            isolate.unsent.len()
        } else {
            scene.rng.random_range(0..=isolate.unsent.len())
        };
        isolate.send(count, number, keeper, scene);
        let is_done = isolate.is_closing && isolate.batches.is_empty() && isolate.unsent.is_empty();
        match end {
            None if is_done || scene.trouble(0.001) => {
                keeper.take_frame(FromRunner::Closed { isolate: number, error: None }, &mut outcomes);
                self.isolates.remove(&number);
                None
            }
            None => None,
            Some(Verdict::Exhaust) => {
                isolate.send(isolate.unsent.len(), number, keeper, scene);
                let error = Failure::new(FailureClass::Memory, "Memory", "the heap limit was reached");
                keeper.take_frame(FromRunner::Closed { isolate: number, error: Some(error) }, &mut outcomes);
                self.isolates.remove(&number);
                None
            }
            Some(Verdict::Stick { is_known }) => {
                let (batch, event) = isolate.stuck()?;
                let event = is_known.then_some(event);
                let error = Failure::new(FailureClass::Timeout, "Timeout", "it does not stop");
                keeper.take_frame(FromRunner::Stuck { isolate: number, batch, event, error }, &mut outcomes)
            }
            Some(_) => Some(End::Died("signal 11".to_owned())),
        }
    }

    fn die(&mut self, end: End, keeper: &mut Keeper, lane_of: LaneOf<'_>, scene: &mut Scene) {
        scene.note(|_| "the runner dies".to_owned());
        // What is on its way counts as handed over: nobody can tell how far the runner got.
        self.receive(keeper, lane_of, scene);
        for (number, isolate) in &self.isolates {
            match &end {
                End::Stuck { isolate: at_fault, .. } if at_fault != number => {}
                End::Stuck { batch, event: Some(event), .. } => {
                    let batch = isolate.batches.iter().find(|known| known.id == *batch);
                    batch.iter().for_each(|batch| scene.ledger.fail(batch.entries[*event as usize].event));
                }
                _ => isolate.suspects().for_each(|event| scene.ledger.fail(event)),
            }
        }
        keeper.report_lost(&end);
        self.isolates.clear();
        self.up_at = scene.now + Duration::from_millis(scene.rng.random_range(10..300));
    }
}

impl Batch {
    fn of(invoke: &Invoke<'_>, assignment: Option<u64>) -> Self {
        let entry = |event: &lagless_protocol::frames::Event<'_>| {
            let mut parts = event.id.split('/').skip(1).map(|part| part.parse().expect("a number"));
            let mut part = || parts.next().expect("topic/partition/offset");
            let trigger = invoke.trigger.parse().expect("the trigger's number");
            let event_of_model = Event { trigger, partition: part() as usize, offset: part() };
            Entry { event: event_of_model, attempt: event.attempt, state: State::Waiting }
        };
        Self {
            id: invoke.batch,
            assignment,
            ordered: invoke.ordered,
            want_results: invoke.want_results,
            entries: invoke.events.iter().map(entry).collect(),
        }
    }

    fn first_open(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.state != State::Over)
    }
}

impl Isolate {
    /// Starts what there is room for, in the order it came.
    fn start(&mut self, scene: &mut Scene) {
        let is_running = |entry: &&Entry| matches!(entry.state, State::Running { .. });
        let running = self.batches.iter().flat_map(|batch| &batch.entries).filter(is_running).count();
        let mut room = (scene.plan.concurrency as usize).saturating_sub(running);
        for batch in &mut self.batches {
            let alone = batch.entries.len() == 1;
            let first_open = batch.first_open();
            for (index, entry) in batch.entries.iter_mut().enumerate() {
                let may_start = !batch.ordered || Some(index) == first_open;
                if room > 0 && may_start && entry.state == State::Waiting {
                    room -= 1;
                    scene.ledger.start(batch.assignment, entry.event, entry.attempt, alone);
                    let (wait, verdict) = verdict(entry.event, scene);
                    entry.state = State::Running { until: scene.now + wait, verdict };
                }
            }
        }
    }

    /// Ends the next event that is due.
    fn finish(&mut self, scene: &mut Scene) -> Option<Verdict> {
        let now = scene.now;
        let (at, index) = self.batches.iter().enumerate().find_map(|(at, batch)| {
            let is_due = |entry: &Entry| matches!(entry.state, State::Running { until, .. } if until <= now);
            Some((at, batch.entries.iter().position(is_due)?))
        })?;
        let batch = &mut self.batches[at];
        let event = batch.entries[index].event;
        let State::Running { verdict, .. } = batch.entries[index].state else { return None };
        let failure = |class: FailureClass| Err(Failure::new(class, "Error", "no"));
        let result = match verdict {
            Verdict::Succeed if batch.want_results => {
                Ok(format!("[{},{},{}]", event.trigger, event.partition, event.offset).into_bytes())
            }
            Verdict::Succeed => Ok(Vec::new()),
            Verdict::Throw => failure(FailureClass::Exception),
            Verdict::TimeOut => failure(FailureClass::Timeout),
            Verdict::Exhaust => failure(FailureClass::Memory),
            Verdict::Kill | Verdict::Stick { .. } => return Some(verdict),
        };
        let has_failed = result.is_err();
        if let (Ok(_), Some(assignment)) = (&result, batch.assignment) {
            scene.ledger.over(assignment, event);
        }
        self.conclude(at, index, result);
        if has_failed && self.batches[at].ordered {
            for later in index + 1..self.batches[at].entries.len() {
                self.conclude(at, later, failure(FailureClass::Skipped));
            }
        }
        self.batches.retain(|batch| batch.first_open().is_some());
        Some(verdict)
    }

    fn conclude(&mut self, at: usize, index: usize, result: Result<Vec<u8>, Failure>) {
        let batch = &mut self.batches[at];
        let entry = &mut batch.entries[index];
        entry.state = State::Over;
        self.unsent.push(Unsent { batch: batch.id, index: index as u32, event: entry.event, result });
    }

    fn abort(&mut self, batch: u64) {
        let Some(at) = self.batches.iter().position(|known| known.id == batch) else { return };
        for index in 0..self.batches[at].entries.len() {
            if self.batches[at].entries[index].state != State::Over {
                self.conclude(at, index, Err(Failure::new(FailureClass::Interrupted, "Aborted", "given up")));
            }
        }
        self.batches.remove(at);
    }

    /// Writes the first `count` outcomes.
    fn send(&mut self, count: usize, number: u32, keeper: &mut Keeper, scene: &mut Scene) {
        let mut outcomes = Outcomes::default();
        for unsent in self.unsent.drain(..count) {
            let Unsent { batch, index, event, result } = unsent;
            scene.note(|_| format!("{event:?}: {:?}", result.as_ref().map_err(|failure| failure.class)));
            match &result {
                Ok(_) => scene.ledger.succeed(event),
                Err(failure) if failure.class.is_blamed() => scene.ledger.fail(event),
                Err(_) => {}
            }
            let result = result.as_deref().map_err(Failure::clone);
            let outcome =
                Outcome { isolate: number, batch, event: index, wall_us: 10, cpu_us: 10, heap_bytes: 0, result };
            keeper.take_frame(FromRunner::Outcome(outcome), &mut outcomes);
        }
        outcomes.flush(&keeper.isolates);
    }

    /// The event that does not stop.
    fn stuck(&self) -> Option<(u64, u32)> {
        self.batches.iter().find_map(|batch| {
            let is_stuck = |entry: &Entry| matches!(entry.state, State::Running { verdict: Verdict::Stick { .. }, .. });
            Some((batch.id, batch.entries.iter().position(is_stuck)? as u32))
        })
    }

    /// The events that may be taken to have been running: never one behind another in an ordered batch, nor one that
    /// was skipped.
    fn suspects(&self) -> impl Iterator<Item = Event> {
        let in_hand = self.batches.iter().flat_map(|batch| {
            let first_open = batch.first_open();
            let may_run = move |index: usize| !batch.ordered || Some(index) == first_open;
            let entries = batch.entries.iter().enumerate();
            entries.filter(move |(index, entry)| entry.state != State::Over && may_run(*index)).map(|(_, it)| it.event)
        });
        let is_skipped = |failure: &Failure| failure.class == FailureClass::Skipped;
        let unsent = self.unsent.iter().filter(move |unsent| !unsent.result.as_ref().is_err_and(is_skipped));
        in_hand.chain(unsent.map(|unsent| unsent.event))
    }
}

/// How long an attempt takes and what it comes to.
fn verdict(event: Event, scene: &mut Scene) -> (Duration, Verdict) {
    let is_slow = !scene.calm && scene.rng.random_bool(0.04);
    let wait = if is_slow { scene.rng.random_range(200..2500) } else { scene.rng.random_range(0..20) };
    let trigger = &scene.plan.triggers[event.trigger];
    let verdict = if scene.plan.is_poison(event) {
        match scene.plan.lot(event, 4) % 12 {
            // The operator has mended what made lanes stop.
            _ if scene.calm && trigger.last == Last::Stop => Verdict::Succeed,
            0 if !scene.calm => Verdict::Kill,
            1 if !scene.calm => Verdict::Stick { is_known: true },
            2 if !scene.calm => Verdict::Stick { is_known: false },
            3 => Verdict::Exhaust,
            _ => Verdict::Throw,
        }
    } else if scene.calm || !scene.rng.random_bool(trigger.flaky) {
        Verdict::Succeed
    } else {
        match scene.rng.random_range(0..100) {
            0 => Verdict::Kill,
            1 => Verdict::Stick { is_known: true },
            2 => Verdict::Stick { is_known: false },
            3..8 => Verdict::Exhaust,
            8..20 => Verdict::TimeOut,
            _ => Verdict::Throw,
        }
    };
    (Duration::from_millis(wait), verdict)
}
