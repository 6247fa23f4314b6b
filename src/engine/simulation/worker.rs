//! A worker: one subscription, the real engines of its functions, the real keeper of its runner.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

use super::checks::Check;
use super::plan::{Last, Plan, Sabotage, TriggerPlan};
use super::runner::Runner;
use super::sink::{Lines, Outages, Pending, Producer};
use super::source::Source;
use super::world::Scene;
use crate::config::{LogLevel, OnExhausted};
use crate::delivery::lanes::LaneId;
use crate::delivery::retry::RetryPolicy;
use crate::delivery::{Settled, Settlement};
use crate::engine::function::{Arrivals, FunctionEngine, FunctionSetup, TURN_MAX, TriggerSetup, Ways};
use crate::engine::service::{IsolateEvent, Keeper, ServiceRunner};
use crate::event::{Envelope, Shape};
use crate::sink::memory::{MemorySink, Output};
use crate::sink::{Receipt, Sink};
use crate::source::{Intake, Route};
use crate::telemetry::Metrics;

/// An engine and the other ends of its channels.
struct Seat {
    engine: FunctionEngine,
    inbox: mpsc::Receiver<Intake>,
    heard: mpsc::UnboundedReceiver<(u32, IsolateEvent)>,
    receipts: mpsc::UnboundedReceiver<Receipt>,
    lines: Lines,
    producer: Producer,
    answers: VecDeque<Receipt>,
    look: Instant,
    /// The function's triggers, by their numbers in the plan.
    triggers: Vec<usize>,
    /// Deliveries taken out of the inbox.
    taken: usize,
}

pub struct Worker {
    pub source: Source,
    seats: Vec<Seat>,
    handle: ServiceRunner,
    keeper: Keeper,
    runner: Runner,
}

impl Worker {
    pub fn start(scene: &mut Scene) -> Self {
        let (handle, keeper) = ServiceRunner::held(scene.metrics.runner("s"));
        let mut routes: Vec<Option<Route>> = scene.plan.triggers.iter().map(|_| None).collect();
        let mut seats = Vec::new();
        for function in 0..scene.plan.functions {
            let (seat, inbox) = seat(function, &handle, scene);
            for &trigger in &seat.triggers {
                routes[trigger] = Some(Route::new(inbox.clone(), scene.plan.triggers[trigger].index));
            }
            seats.push(seat);
        }
        let source = Source::new(routes.into_iter().flatten().collect(), scene.now);
        Self { source, seats, handle, keeper, runner: Runner::new(scene.now) }
    }

    /// Everything does some of what it could do.
    pub fn step(&mut self, outages: Outages, scene: &mut Scene) {
        if scene.acts() {
            self.source.step(scene);
        }
        for seat in &mut self.seats {
            if scene.acts() {
                seat.turn(scene);
                // Reports first, so that what comes out of this turn is seen together.
                self.source.collect(scene);
                scene.ledger.end_turn();
            }
        }
        if scene.acts() {
            let seats = &self.seats;
            let lane_of = |isolate: u32, batch: u64| seats.iter().find_map(|seat| seat.lane_of(isolate, batch));
            self.runner.step(&mut self.keeper, &lane_of, scene);
        }
        for seat in &mut self.seats {
            let receipts = seat.producer.progress(outages, scene);
            if scene.plan.sabotage != Some(Sabotage::SilentSink) {
                seat.answers.extend(receipts);
            }
        }
    }

    /// Kills the runner.
    pub fn kill_runner(&mut self, scene: &mut Scene) {
        let seats = &self.seats;
        let lane_of = |isolate: u32, batch: u64| seats.iter().find_map(|seat| seat.lane_of(isolate, batch));
        self.runner.kill(&mut self.keeper, &lane_of, scene);
    }

    /// An engine's task dies; another takes its place.
    pub fn lose_engine(&mut self, number: usize, scene: &mut Scene) {
        scene.note(|_| format!("engine {number} dies"));
        let (mut new, inbox) = seat(number, &self.handle, scene);
        let open = self.held();
        std::mem::swap(&mut self.seats[number], &mut new);
        for &trigger in &new.triggers {
            self.source.exits[trigger].route = Route::new(inbox.clone(), scene.plan.triggers[trigger].index);
            self.source.exits[trigger].handed = 0;
        }
        new.producer.abandon(&mut scene.ledger, &mut scene.rng);
        drop((new.engine, new.inbox));
        debug_assert!(open >= self.held());
        // Nothing new may come in before what was let go is read again.
        self.source.collect(scene);
        self.source.settle(scene);
        scene.ledger.end_turn();
    }

    /// The worker is gone with all it had in memory.
    pub fn crash(self, scene: &mut Scene) {
        for seat in self.seats {
            seat.producer.abandon(&mut scene.ledger, &mut scene.rng);
            drop((seat.engine, seat.inbox));
        }
        self.source.crash(scene);
    }

    /// Deliveries that the engines hold, or will once they look into their inboxes.
    pub fn held(&self) -> usize {
        let in_engines = |seat: &Seat| {
            let handed: usize = seat.triggers.iter().map(|trigger| self.source.exits[*trigger].handed).sum();
            seat.held() + handed - seat.taken
        };
        self.seats.iter().map(in_engines).sum()
    }

    pub fn has_stopped_lanes(&self) -> bool {
        let lanes = |seat: &Seat| seat.engine.triggers.iter().any(|trigger| trigger.lanes.stopped() > 0);
        self.seats.iter().any(lanes)
    }

    /// Whether nothing is left to do, and only what must be kept is kept.
    pub fn is_at_rest(&self, plan: &Plan) -> bool {
        self.held() == 0
            && self.seats.iter().all(|seat| {
                seat.inbox.is_empty()
                    && seat.answers.is_empty()
                    && seat.engine.isolates.all.len() == plan.bounds.min as usize
                    && !seat.engine.isolates.in_hand()
            })
    }
}

impl Seat {
    fn lane_of(&self, isolate: u32, batch: u64) -> Option<u64> {
        match self.engine.isolates.all.get(&isolate)?.batches.get(&batch)?.lane {
            LaneId::Assignment(id) => Some(id),
            LaneId::Unordered => None,
        }
    }

    fn held(&self) -> usize {
        let engine = &self.engine;
        let in_lanes: usize = engine.triggers.iter().map(|trigger| trigger.lanes.waiting()).sum();
        let batches = engine.isolates.all.values().flat_map(|isolate| isolate.batches.values());
        let in_hand: usize = batches.map(super::held_by_batch).sum();
        in_lanes + in_hand + engine.awaiting.len()
    }

    /// A turn with some of what has come, if there is reason for one.
    fn turn(&mut self, scene: &mut Scene) {
        let mut arrivals = Arrivals::default();
        // As in the engine's task, what comes by one channel may be seen long before what waits in another.
        let count = |rng: &mut SmallRng| if rng.random_bool(0.5) { rng.random_range(0..4) } else { TURN_MAX };
        for _ in 0..count(&mut scene.rng) {
            let Ok(intake) = self.inbox.try_recv() else { break };
            self.taken += if let Intake::Deliveries { deliveries, .. } = &intake { deliveries.len() } else { 0 };
            arrivals.intakes.push(tampered(intake, scene));
        }
        for _ in 0..count(&mut scene.rng) {
            let Ok(event) = self.heard.try_recv() else { break };
            arrivals.heard.push(event);
        }
        let answers = count(&mut scene.rng).min(self.answers.len());
        arrivals.receipts.extend(self.answers.drain(..answers));
        let has_come = !(arrivals.intakes.is_empty() && arrivals.heard.is_empty() && arrivals.receipts.is_empty());
        if !has_come && scene.now < self.look {
            return;
        }
        self.engine.turn(&mut arrivals, scene.now);
        self.look = self.engine.next_look(scene.now);
        self.sent(scene);
        let isolates = self.engine.isolates.count();
        if isolates > scene.plan.bounds.max.max(scene.plan.bounds.min) {
            scene.ledger.broken(Check::Memory, format!("{isolates} isolates are open"));
        }
    }

    /// Looks at what the turn has handed to sinks.
    fn sent(&mut self, scene: &mut Scene) {
        let lines = self.lines.take();
        let mut lines = lines.lines();
        while let Ok(receipt) = self.receipts.try_recv() {
            let line = lines.next().expect("a line for each receipt");
            assert_eq!(receipt.written, Ok(()), "memory takes everything");
            // An engine may not have waited for the receipt: then nothing is known of the delivery.
            let Some(awaiting) = self.engine.awaiting.get(&receipt.ticket) else { continue };
            let (ticket, message) = (&awaiting.delivery.ticket, &awaiting.delivery.message);
            let name = line.strip_prefix(r#"{"topic":""#).and_then(|rest| rest.split('"').next()).expect("a topic");
            let (kind, trigger) = name.split_once('-').expect("kind-trigger");
            let (is_result, trigger) = (kind == "result", trigger.parse().expect("a number"));
            let (partition, offset) = (message.partition() as usize, message.offset());
            let value = if is_result {
                format!(r#""value":[{trigger},{partition},{offset}]"#)
            } else {
                format!(r#""value":[{partition},{offset}]"#)
            };
            assert!(line.contains(&value), "{value} is not in {line}");
            let event = super::plan::Event { trigger, partition, offset };
            scene.note(|_| format!("{event:?} is sent to {name}"));
            scene.ledger.send(ticket.assignment().id, event, is_result);
            self.producer.send(Pending { ticket: receipt.ticket, event, is_result }, scene.now, &mut scene.rng);
        }
    }
}

/// What an engine would be given by a faulty source, where one is wanted.
fn tampered(intake: Intake, scene: &mut Scene) -> Intake {
    let Intake::Deliveries { trigger, mut deliveries } = intake else { return intake };
    if scene.sabotages(Sabotage::Reorder) {
        deliveries.reverse();
    }
    if scene.sabotages(Sabotage::ForgetDelivery) {
        deliveries.pop().into_iter().for_each(std::mem::forget);
    }
    if scene.sabotages(Sabotage::SettleWithoutRun)
        && let Some(delivery) = deliveries.pop()
    {
        delivery.ticket.settle(Settled::Finished, &mut Settlement::default());
    }
    Intake::Deliveries { trigger, deliveries }
}

/// A new engine of a function, and the way into its inbox.
fn seat(function: usize, handle: &ServiceRunner, scene: &mut Scene) -> (Seat, mpsc::Sender<Intake>) {
    let plan = &scene.plan;
    let triggers: Vec<usize> =
        (0..plan.triggers.len()).filter(|trigger| plan.triggers[*trigger].function == function).collect();
    let (sender, inbox) = mpsc::channel(triggers.len() * (plan.in_flight + 1024));
    #[expect(clippy::disallowed_methods, reason = "as in `start`")]
    let ((events, heard), (receipts, receipts_in)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let lines = Lines::default();
    let output = Output::to(Box::new(lines.clone()));
    let setup = FunctionSetup {
        name: format!("s.f{function}"),
        id: function as u32,
        concurrency: plan.concurrency,
        bounds: plan.bounds,
        log_level: LogLevel::Error,
        metrics: scene.metrics.function("s", "f"),
    };
    let trigger_setups =
        triggers.iter().map(|number| trigger_setup(*number, &plan.triggers[*number], &output, &scene.metrics));
    let trigger_setups = trigger_setups.collect();
    let ways = Ways { runner: handle.clone(), events, receipts };
    let rng = SmallRng::seed_from_u64(scene.rng.random());
    let engine = FunctionEngine::new(setup, trigger_setups, ways, rng, scene.now);
    let (producer, answers) = (Producer::default(), VecDeque::new());
    let look = scene.now;
    let seat = Seat { engine, inbox, heard, receipts: receipts_in, lines, producer, answers, look, triggers, taken: 0 };
    (seat, sender)
}

fn trigger_setup(number: usize, plan: &TriggerPlan, output: &Output, metrics: &Metrics) -> TriggerSetup {
    let sink = |kind: &str| Sink::Memory(Arc::new(MemorySink::new("sim", &format!("{kind}-{number}"), output.clone())));
    TriggerSetup {
        name: number.to_string(),
        order: plan.order,
        batch_size: plan.batch_size,
        retry: RetryPolicy { attempts: plan.attempts, backoff: plan.backoff, max_backoff: plan.backoff * 8 },
        envelope: Envelope { shape: Shape::Lagless, source: "sim".to_owned(), trigger: number.to_string() },
        on_success: plan.results.then(|| sink("result")),
        on_failure: (plan.last == Last::DeadLetter).then(|| sink("dead")),
        reply: None,
        on_exhausted: if plan.last == Last::Drop { OnExhausted::Drop } else { OnExhausted::Stop },
        metrics: metrics.trigger("s", "t"),
    }
}
