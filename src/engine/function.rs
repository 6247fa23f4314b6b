//! The engine of one function: a task that owns its lanes, its isolates and what is in hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lagless_protocol::frames::{Failure, FailureClass, Level, ToRunner};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;

use super::invoke::{self, Call};
use super::isolates::{InHand, Isolates, Phase};
use super::outcome::{Awaiting, Place};
use super::service::{Fault, IsolateEvent, IsolateEvents, LogLine, ServiceRunner};
use crate::config::{LogLevel, OnExhausted, Order};
use crate::delivery::lanes::{Lanes, next_look};
use crate::delivery::retry::RetryPolicy;
use crate::delivery::{self, Settlement};
use crate::event::Envelope;
use crate::scale::{self, Bounds, Load};
use crate::sink::{Receipt, Receipts, Sink};
use crate::source::Intake;
use crate::telemetry::{FunctionMetrics, TriggerMetrics};

/// What an engine needs to know of its function.
#[derive(Debug)]
pub struct FunctionSetup {
    /// `service.function`.
    pub name: String,
    /// The number by which the runner knows it.
    pub id: u32,
    pub concurrency: u32,
    pub bounds: Bounds,
    pub log_level: LogLevel,
    pub metrics: Arc<FunctionMetrics>,
}

/// What an engine needs to know of a trigger.
#[derive(Debug)]
pub struct TriggerSetup {
    /// `service.trigger`.
    pub name: String,
    pub order: Order,
    pub batch_size: usize,
    pub retry: RetryPolicy,
    pub envelope: Envelope,
    pub on_success: Option<Sink>,
    pub on_failure: Option<Sink>,
    /// Where answers go, each by its own routing key.
    pub reply: Option<Sink>,
    pub on_exhausted: OnExhausted,
    pub metrics: Arc<TriggerMetrics>,
}

/// Starts the engine of a function. It ends when all senders of `inbox` are gone and nothing is in hand.
pub fn start(
    setup: FunctionSetup,
    triggers: Vec<TriggerSetup>,
    runner: ServiceRunner,
    inbox: mpsc::Receiver<Intake>,
) -> tokio::task::JoinHandle<()> {
    #[expect(clippy::disallowed_methods, reason = "bounded by what is in hand: one receipt for each record sent")]
    let (receipts, receipts_in) = mpsc::unbounded_channel();
    #[expect(clippy::disallowed_methods, reason = "bounded by what is in hand, and by what the runner may log")]
    let (events, events_in) = mpsc::unbounded_channel();
    let ways = Ways { runner, events, receipts };
    let engine = FunctionEngine::new(setup, triggers, ways, SmallRng::from_os_rng(), Instant::now());
    tokio::spawn(engine.run(inbox, events_in, receipts_in))
}

/// The ways out of an engine, and those by which answers come back.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) runner: ServiceRunner,
    pub(super) events: IsolateEvents,
    pub(super) receipts: Receipts,
}

/// What came in since the last turn.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pub(super) intakes: Vec<Intake>,
    pub(super) heard: Vec<(u32, IsolateEvent)>,
    pub(super) receipts: Vec<Receipt>,
}

/// The state of one function.
#[derive(Debug)]
pub struct FunctionEngine {
    pub(super) setup: FunctionSetup,
    pub(super) triggers: Vec<TriggerState>,
    pub(super) isolates: Isolates,
    pub(super) ways: Ways,
    /// Deliveries whose record a sink has not answered yet, by ticket.
    pub(super) awaiting: HashMap<u64, Awaiting>,
    pub(super) next_ticket: u64,
    next_batch: u64,
    /// The trigger that is served first in the next turn, so that none starves.
    first_trigger: usize,
    pub(super) settlement: Settlement,
    /// For the jitter of backoffs.
    pub(super) rng: SmallRng,
    last_work: Instant,
    /// Isolates that failed to open in a row, and when the next may be tried.
    open_failures: u32,
    open_after: Instant,
}

#[derive(Debug)]
pub(super) struct TriggerState {
    pub(super) setup: TriggerSetup,
    pub(super) lanes: Lanes,
    /// When it was last said aloud that nobody takes an answer.
    pub(super) lost_reply_told: Option<Instant>,
}

/// Entries taken from a channel in one turn, so that no channel starves another.
pub(super) const TURN_MAX: usize = 256;
const OPEN_BACKOFF_MIN: Duration = Duration::from_millis(250);
const OPEN_BACKOFF_MAX: Duration = Duration::from_secs(30);

impl FunctionEngine {
    pub(super) fn new(
        setup: FunctionSetup,
        triggers: Vec<TriggerSetup>,
        ways: Ways,
        rng: SmallRng,
        now: Instant,
    ) -> Self {
        let triggers = triggers
            .into_iter()
            .map(|setup| TriggerState {
                lanes: match setup.order {
                    Order::Partition => Lanes::by_partition(setup.batch_size),
                    Order::None => Lanes::without_order(setup.batch_size),
                },
                setup,
                lost_reply_told: None,
            })
            .collect();
        Self {
            isolates: Isolates::new(setup.concurrency, now),
            setup,
            triggers,
            ways,
            awaiting: HashMap::new(),
            next_ticket: 0,
            // Log lines outside of any batch name batch 0.
            next_batch: 1,
            first_trigger: 0,
            settlement: Settlement::default(),
            rng,
            last_work: now,
            open_failures: 0,
            open_after: now,
        }
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Intake>,
        mut events: mpsc::UnboundedReceiver<(u32, IsolateEvent)>,
        mut receipts: mpsc::UnboundedReceiver<Receipt>,
    ) {
        let mut arrivals = Arrivals::default();
        let mut wanted = true;
        while wanted || self.isolates.in_hand() || !self.awaiting.is_empty() {
            let look = self.next_look(Instant::now());
            tokio::select! {
                count = inbox.recv_many(&mut arrivals.intakes, TURN_MAX), if wanted => wanted = count > 0,
                _ = events.recv_many(&mut arrivals.heard, TURN_MAX) => {}
                _ = receipts.recv_many(&mut arrivals.receipts, TURN_MAX) => {}
                () = tokio::time::sleep_until(look.into()) => {}
            }
            self.turn(&mut arrivals, Instant::now());
        }
    }

    /// One turn of work: takes in what has come, hands out what is ready. Never waits.
    pub(super) fn turn(&mut self, arrivals: &mut Arrivals, now: Instant) {
        // Where the inbox may have been full, a change of phase may not have found room in it.
        if arrivals.intakes.len() == TURN_MAX {
            arrivals.intakes.push(Intake::PhaseChanged);
        }
        arrivals.intakes.drain(..).for_each(|intake| self.take_in(intake));
        arrivals.heard.drain(..).for_each(|(isolate, event)| self.hear(isolate, event, now));
        arrivals.receipts.drain(..).for_each(|receipt| self.receipt(receipt, now));
        self.dispatch(now);
        self.scale(now);
        self.settlement.send();
        self.show();
    }

    /// When to take a turn although nothing has come.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        let asleep = self.isolates.all.is_empty() && self.triggers.iter().all(|trigger| trigger.lanes.waiting() == 0);
        let at_most = if asleep { Duration::from_secs(5) } else { Duration::from_millis(250) };
        let opening = (self.open_after > now).then_some(self.open_after);
        let due = self.triggers.iter().map(|trigger| trigger.lanes.next_due().filter(|due| *due > now));
        next_look(now, at_most, due.chain([opening]))
    }

    fn take_in(&mut self, intake: Intake) {
        match intake {
            Intake::Deliveries { trigger, mut deliveries } => {
                let state = &mut self.triggers[trigger];
                // Whatever was counted before, a message is tried once more.
                let most = state.setup.retry.attempts.saturating_sub(1);
                for delivery in &mut deliveries {
                    delivery.failed_attempts = delivery.failed_attempts.min(most);
                }
                state.setup.metrics.matched.inc_by(deliveries.len() as u64);
                state.lanes.push(deliveries);
            }
            Intake::PhaseChanged => {
                for trigger in &mut self.triggers {
                    trigger.lanes.release_ended();
                }
                self.abort_fenced();
            }
        }
    }

    /// Gives up the batches whose partitions now belong to somebody else.
    fn abort_fenced(&mut self) {
        for (isolate, held) in &self.isolates.all {
            for (batch, in_hand) in &held.batches {
                let mut open = in_hand.open().peekable();
                let void = open.peek().is_some()
                    && open.all(|(_, delivery)| delivery.ticket.assignment().phase() == delivery::Phase::Fenced);
                if void {
                    let mut frame = Vec::new();
                    ToRunner::Abort { isolate: *isolate, batch: *batch }.encode(&mut frame);
                    self.ways.runner.send(*isolate, frame);
                }
            }
        }
    }

    fn hear(&mut self, isolate: u32, event: IsolateEvent, now: Instant) {
        match event {
            IsolateEvent::Opened { from_spare, took } => self.opened(isolate, from_spare, took, now),
            IsolateEvent::Outcomes(outcomes) => self.outcomes(isolate, outcomes, now),
            IsolateEvent::Log(line) => self.log(isolate, &line),
            IsolateEvent::Closed(error) => {
                let failure = error.unwrap_or_else(|| {
                    Failure::new(FailureClass::Interrupted, "Interrupted", "the isolate was closed")
                });
                // The runner has reported all that it knows, unless its own code has failed: then it was one of those
                // that ran, and nobody blamed would mean to try for ever.
                let is_broken = failure.class == FailureClass::RunnerLost;
                let fault = if is_broken { Fault::Unknown { reached: Some(u64::MAX) } } else { Fault::Elsewhere };
                self.closed(isolate, &failure, &fault, now);
            }
            IsolateEvent::Lost { failure, fault } => self.closed(isolate, &failure, &fault, now),
        }
    }

    fn opened(&mut self, isolate: u32, from_spare: bool, took: Duration, now: Instant) {
        let Some(held) = self.isolates.all.get_mut(&isolate) else { return };
        if let Phase::Opening { since } = held.phase {
            self.setup.metrics.cold_start.observe(now.saturating_duration_since(since).as_secs_f64());
        }
        held.phase = Phase::Ready;
        held.idle_since = now;
        self.open_failures = 0;
        self.setup.metrics.isolates_opened.inc();
        tracing::debug!(function = self.setup.name, isolate, from_spare, ?took, "isolate opened");
    }

    /// An isolate is gone. Whoever is at fault has failed; all others in hand are retried without blame. Where it is not
    /// known which of several it was, none has failed: each is tried alone, in an isolate to itself, until one is seen.
    fn closed(&mut self, isolate: u32, failure: &Failure, fault: &Fault, now: Instant) {
        let Some(held) = self.isolates.all.get(&isolate) else { return };
        if let Phase::Opening { .. } = held.phase {
            self.open_failures = self.open_failures.saturating_add(1);
            let doublings = (self.open_failures - 1).min(16);
            let backoff = (OPEN_BACKOFF_MIN * (1 << doublings)).min(OPEN_BACKOFF_MAX);
            self.open_after = now + backoff;
            let (class, name, reason, stack) =
                (failure.class.as_str(), &failure.name, &failure.message, &failure.stack);
            let function = &self.setup.name;
            tracing::error!(function, class, name, reason, stack, retry_in = ?backoff, "the function does not load");
        } else if held.phase != Phase::Closing {
            let (function, class, reason) = (&self.setup.name, failure.class.as_str(), &failure.message);
            tracing::warn!(function, isolate, class, reason, "isolate lost");
        }
        if held.phase != Phase::Closing {
            self.setup.metrics.isolates_lost.inc();
        }
        let culprits = held.culprits(fault);
        let is_certain = culprits.len() == 1;
        let in_hand: Vec<(u64, Vec<usize>)> =
            held.batches.iter().map(|(id, batch)| (*id, batch.open().map(|(index, _)| index).collect())).collect();
        let bystander = Failure::new(FailureClass::Interrupted, "Interrupted", failure.message.clone());
        for (batch, events) in in_hand {
            for (nth, event) in events.into_iter().enumerate() {
                let Some(in_hand) = self.in_hand(isolate, batch) else { continue };
                let is_behind = in_hand.ordered && nth > 0;
                let Some(mut delivery) = in_hand.take(event) else { continue };
                let is_culprit = culprits.contains(&(batch, event));
                let mut blamed = is_culprit && (is_certain || delivery.is_suspect);
                delivery.is_suspect |= is_culprit && !is_certain;
                if blamed && is_behind {
                    // Nothing is known of those before it, so it must not come to its end before they do: it goes back
                    // behind them, to be tried alone.
                    delivery.failed_attempts = delivery.failed_attempts.saturating_add(1);
                    blamed = false;
                }
                let failure = if blamed { failure.clone() } else { bystander.clone() };
                self.conclude(Place { isolate, batch, event }, delivery, Err(failure), now);
            }
            self.end_batch(isolate, batch, now);
        }
        self.isolates.all.remove(&isolate);
    }

    fn log(&mut self, isolate: u32, line: &LogLine) {
        let at = match line.level {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
        };
        if at > self.setup.log_level {
            return;
        }
        let in_hand = self.in_hand(isolate, line.batch);
        let trigger = in_hand.as_ref().map(|in_hand| in_hand.trigger);
        let event = in_hand.zip(line.event).and_then(|(in_hand, event)| in_hand.get(event as usize)).map(|delivery| {
            let message = &delivery.message;
            format!("{}/{}/{}", message.topic(), message.partition(), message.offset())
        });
        let trigger = trigger.map(|trigger| self.triggers[trigger].setup.name.as_str());
        let (function, text) = (&self.setup.name, &line.text);
        match line.level {
            Level::Error => tracing::error!(target: "lagless::log", function, trigger, event, "{text}"),
            Level::Warn => tracing::warn!(target: "lagless::log", function, trigger, event, "{text}"),
            Level::Info => tracing::info!(target: "lagless::log", function, trigger, event, "{text}"),
            Level::Debug => tracing::debug!(target: "lagless::log", function, trigger, event, "{text}"),
        }
    }

    /// Hands suspects to isolates that have nothing in hand; whether one still waits for such an isolate.
    fn dispatch_suspects(&mut self, now: Instant) -> bool {
        for trigger in 0..self.triggers.len() {
            while self.triggers[trigger].lanes.is_suspect_next(now) {
                let Some((isolate, _)) = self.isolates.idle() else { return true };
                if !self.invoke(isolate, trigger, now) {
                    break;
                }
            }
        }
        false
    }

    /// Hands ready batches to isolates with room, turn and turn about between the triggers. While a suspect waits, nothing
    /// else is handed out, so that an isolate becomes free.
    fn dispatch(&mut self, now: Instant) {
        if self.dispatch_suspects(now) {
            return;
        }
        let count = self.triggers.len();
        let mut without_work = 0;
        while without_work < count {
            let Some(isolate) = self.isolates.with_room() else { return };
            let trigger = self.first_trigger % count;
            self.first_trigger = (trigger + 1) % count;
            let is_suspect_next = self.triggers[trigger].lanes.is_suspect_next(now);
            if !is_suspect_next && self.invoke(isolate, trigger, now) {
                without_work = 0;
            } else {
                without_work += 1;
            }
        }
    }

    fn invoke(&mut self, isolate: u32, trigger: usize, now: Instant) -> bool {
        let state = &mut self.triggers[trigger];
        let Some(batch) = state.lanes.take(now) else { return false };
        let ordered = state.lanes.is_ordered();
        let id = self.next_batch;
        self.next_batch += 1;
        let call = Call {
            isolate,
            batch: id,
            ordered,
            want_results: state.setup.on_success.is_some() || state.setup.reply.is_some(),
            trigger: &state.setup.name,
            envelope: &state.setup.envelope,
        };
        self.ways.runner.invoke(isolate, id, invoke::frame(call, &batch.deliveries));
        if let Some(held) = self.isolates.all.get_mut(&isolate) {
            held.batches.insert(id, InHand::new(trigger, ordered, batch));
        }
        true
    }

    fn scale(&mut self, now: Instant) {
        let waiting: usize = self.triggers.iter().map(|trigger| trigger.lanes.waiting()).sum();
        let ready_batches = self.triggers.iter().map(|trigger| trigger.lanes.ready(now)).sum();
        if waiting > 0 || self.isolates.in_hand() {
            self.last_work = now;
        }
        let load = Load {
            isolates: self.isolates.count(),
            opening: self.isolates.count_opening(),
            ready_batches,
            waiting,
            cpu_share: self.isolates.cpu_share(now),
            idle_for: self.isolates.idle().map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since)),
        };
        let wanted = scale::isolates_wanted(&load, &self.setup.bounds);
        if wanted > load.isolates && now >= self.open_after {
            let isolate = self.ways.runner.open(self.setup.id, &self.ways.events);
            self.isolates.opening(isolate, now);
        } else if wanted < load.isolates
            && let Some((isolate, _)) = self.isolates.idle()
        {
            let mut frame = Vec::new();
            ToRunner::Close { isolate }.encode(&mut frame);
            self.ways.runner.send(isolate, frame);
            if let Some(held) = self.isolates.all.get_mut(&isolate) {
                held.phase = Phase::Closing;
            }
        }
    }

    fn show(&self) {
        self.setup.metrics.isolates.set(i64::from(self.isolates.count() - self.isolates.count_opening()));
        for trigger in &self.triggers {
            let metrics = &trigger.setup.metrics;
            metrics.waiting.set(trigger.lanes.waiting() as i64);
            metrics.lanes_stopped.set(trigger.lanes.stopped() as i64);
        }
    }
}
