//! From outcomes to fates: what happens to a delivery after an attempt, and after its sink has answered.

use std::time::{Duration, Instant};

use lagless_protocol::frames::{Failure, FailureClass};
use rand::Rng;

use super::answer;
use super::dead_letter::{self, Obituary};
use super::function::FunctionEngine;
use super::isolates::InHand;
use super::service::OwnedOutcome;
use crate::config::OnExhausted;
use crate::delivery::retry::{Attempt, Fate, fate_of};
use crate::delivery::{Delivery, Phase, Settled, Ticket};
use crate::sink::{Receipt, Record};

/// How often it is said aloud that answers are not taken.
const LOST_REPLY_INTERVAL: Duration = Duration::from_secs(60);

/// A delivery whose record is on its way to a sink.
#[derive(Debug)]
pub struct Awaiting {
    trigger: usize,
    pub(super) delivery: Delivery,
    what: Sent,
}

/// Where an event is in hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub isolate: u32,
    pub batch: u64,
    /// Index in the batch.
    pub event: usize,
}

/// A record, and what comes after it.
#[derive(Debug)]
enum Sent {
    /// Then its sender is answered, where there is an answer.
    Result(Option<Box<Record>>),
    /// Likewise.
    DeadLetter(Option<Box<Record>>),
    /// Then the delivery is settled.
    Answer(End),
}

/// What a delivery comes to in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    DeadLettered,
    Dropped,
    /// Given back for the queue's own dead-letter policy.
    Rejected,
}

impl FunctionEngine {
    /// Takes in what an isolate reported.
    pub(super) fn outcomes(&mut self, isolate: u32, outcomes: Vec<OwnedOutcome>, now: Instant) {
        for outcome in outcomes {
            let Some(held) = self.isolates.all.get_mut(&isolate) else { return };
            let Some(in_hand) = held.batches.get_mut(&outcome.batch) else { continue };
            let Some(delivery) = in_hand.take(outcome.event as usize) else { continue };
            in_hand.has_failed |= outcome.result.is_err();
            let over = in_hand.is_over();
            self.measure(&outcome);
            let place = Place { isolate, batch: outcome.batch, event: outcome.event as usize };
            self.conclude(place, delivery, outcome.result, now);
            if over {
                self.end_batch(isolate, outcome.batch, now);
            }
        }
    }

    fn measure(&mut self, outcome: &OwnedOutcome) {
        let metrics = &self.setup.metrics;
        // The isolate's time is shared out over all that it reports together, also over what was never started.
        metrics.cpu.inc_by(outcome.cpu.as_secs_f64());
        self.isolates.used_cpu(outcome.cpu);
        let is_own = outcome.result.as_ref().err().is_none_or(|failure| failure.class.is_blamed());
        if is_own {
            metrics.invocations.inc();
            metrics.duration.observe(outcome.wall.as_secs_f64());
        }
    }

    /// Decides what becomes of a delivery after an attempt.
    pub(super) fn conclude(
        &mut self,
        place: Place,
        delivery: Delivery,
        result: Result<Vec<u8>, Failure>,
        now: Instant,
    ) {
        let Some(trigger) = self.in_hand(place.isolate, place.batch).map(|in_hand| in_hand.trigger) else { return };
        if delivery.ticket.assignment().phase() == Phase::Fenced {
            // Void: somebody else owns the partition by now, and handles the message again.
            return;
        }
        match result {
            Ok(json) => {
                self.triggers[trigger].setup.metrics.succeeded();
                self.deliver_result(trigger, delivery, json);
            }
            Err(failure) => self.failed(place, delivery, failure, now),
        }
    }

    fn deliver_result(&mut self, trigger: usize, delivery: Delivery, json: Vec<u8>) {
        let setup = &self.triggers[trigger].setup;
        let message = &delivery.message;
        let reply = setup.reply.as_ref().and_then(|_| answer::reply(message, &setup.name, &json));
        match &setup.on_success {
            Some(sink) if !json.is_empty() => {
                let record = answer::result(message, &setup.name, json, sink.has_properties());
                sink.send(message, record, self.next_ticket, &self.ways.receipts);
                self.await_receipt(Awaiting { trigger, delivery, what: Sent::Result(reply) });
            }
            _ => self.finish(trigger, delivery, End::Done, reply),
        }
    }

    fn failed(&mut self, place: Place, mut delivery: Delivery, failure: Failure, now: Instant) {
        let Some(trigger) = self.in_hand(place.isolate, place.batch).map(|in_hand| in_hand.trigger) else { return };
        let jitter = self.rng.random();
        let setup = &self.triggers[trigger].setup;
        let attempt = if failure.class.is_blamed() {
            delivery.failed_attempts = delivery.failed_attempts.saturating_add(1);
            setup.metrics.failed(failure.class.as_str());
            Attempt::Failed
        } else {
            Attempt::Interrupted
        };
        let mut fate = fate_of(attempt, delivery.failed_attempts, &setup.retry, jitter);
        if attempt == Attempt::Failed {
            fate = fate.within(delivery.ticket.keep(), now);
        }
        match fate {
            // Only a success is done.
            Fate::Done => {}
            Fate::Retry(wait) => {
                if attempt == Attempt::Failed {
                    setup.metrics.retried.inc();
                    self.log_failure(trigger, &delivery, &failure, Some(wait));
                }
                if let Some(in_hand) = self.in_hand(place.isolate, place.batch) {
                    in_hand.returned.push((place.event, delivery, now + wait));
                }
            }
            Fate::Returned => {
                setup.metrics.retried.inc();
                let failure = overdue(failure, "it goes back to its queue");
                self.log_failure(trigger, &delivery, &failure, Some(Duration::ZERO));
                delivery.ticket.settle(Settled::Returned, &mut self.settlement);
            }
            Fate::Exhausted | Fate::Overdue => {
                let failure = match fate {
                    Fate::Overdue => overdue(failure, "its attempts count as used up"),
                    _ => failure,
                };
                self.log_failure(trigger, &delivery, &failure, None);
                if let Some(stopped) = self.exhausted(trigger, delivery, &failure)
                    && let Some(in_hand) = self.in_hand(place.isolate, place.batch)
                {
                    in_hand.stopped.push(stopped);
                }
            }
        }
    }

    fn log_failure(&self, trigger: usize, delivery: &Delivery, failure: &Failure, retry_in: Option<Duration>) {
        let setup = &self.triggers[trigger].setup;
        let message = &delivery.message;
        let event = format!("{}/{}/{}", message.topic(), message.partition(), message.offset());
        let (function, trigger) = (&self.setup.name, &setup.name);
        let attempts = delivery.failed_attempts;
        let (class, name, reason, stack) = (failure.class.as_str(), &failure.name, &failure.message, &failure.stack);
        match retry_in {
            Some(wait) => {
                tracing::warn!(
                    function,
                    trigger,
                    event,
                    attempts,
                    class,
                    name,
                    reason,
                    stack,
                    ?wait,
                    "failed, will retry"
                );
            }
            None => {
                tracing::error!(
                    function,
                    trigger,
                    event,
                    attempts,
                    class,
                    name,
                    reason,
                    stack,
                    "failed for the last time"
                );
            }
        }
    }

    /// What the trigger says about a delivery whose attempts are used up; a delivery given back stops its lane.
    fn exhausted(&mut self, trigger: usize, delivery: Delivery, failure: &Failure) -> Option<Delivery> {
        let setup = &self.triggers[trigger].setup;
        let message = &delivery.message;
        let reply = setup.reply.as_ref().and_then(|_| answer::error(message, &setup.name, failure));
        match (&setup.on_failure, setup.on_exhausted) {
            (Some(sink), _) => {
                let obituary = Obituary {
                    source: &setup.envelope.source,
                    trigger: &setup.name,
                    function: &self.setup.name,
                    failure,
                    attempts: delivery.failed_attempts,
                    time: jiff::Timestamp::now().to_string(),
                };
                let properties = sink.has_properties();
                let record = dead_letter::record(message, &obituary, sink.limits(), properties);
                sink.send(message, record, self.next_ticket, &self.ways.receipts);
                self.await_receipt(Awaiting { trigger, delivery, what: Sent::DeadLetter(reply) });
                None
            }
            (None, OnExhausted::Drop) => {
                self.finish(trigger, delivery, End::Dropped, reply);
                None
            }
            (None, OnExhausted::Reject) => {
                self.finish(trigger, delivery, End::Rejected, reply);
                None
            }
            (None, OnExhausted::Stop) => {
                self.answer_all_the_same(trigger, &delivery, reply);
                Some(delivery)
            }
        }
    }

    /// Answers the sender of the message, where there is an answer, and settles the delivery after that.
    fn finish(&mut self, trigger: usize, delivery: Delivery, end: End, reply: Option<Box<Record>>) {
        match (&self.triggers[trigger].setup.reply, reply) {
            (Some(sink), Some(reply)) => {
                sink.send(&delivery.message, *reply, self.next_ticket, &self.ways.receipts);
                self.await_receipt(Awaiting { trigger, delivery, what: Sent::Answer(end) });
            }
            _ => self.end(trigger, delivery.ticket, end),
        }
    }

    /// Answers the sender of a message that is kept: nothing waits for the answer.
    fn answer_all_the_same(&mut self, trigger: usize, delivery: &Delivery, reply: Option<Box<Record>>) {
        if let (Some(sink), Some(reply)) = (&self.triggers[trigger].setup.reply, reply) {
            sink.send(&delivery.message, *reply, self.next_ticket, &self.ways.receipts);
            self.next_ticket += 1;
        }
    }

    fn end(&mut self, trigger: usize, ticket: Ticket, end: End) {
        let metrics = &self.triggers[trigger].setup.metrics;
        let (counter, settled) = match end {
            End::Done => (&metrics.done, Settled::Finished),
            End::DeadLettered => (&metrics.dead_lettered, Settled::Finished),
            End::Dropped => (&metrics.dropped, Settled::Finished),
            End::Rejected => (&metrics.dead_lettered, Settled::Rejected),
        };
        counter.inc();
        ticket.settle(settled, &mut self.settlement);
    }

    fn await_receipt(&mut self, awaiting: Awaiting) {
        self.awaiting.insert(self.next_ticket, awaiting);
        self.next_ticket += 1;
    }

    /// Takes in the answer of a sink.
    pub(super) fn receipt(&mut self, receipt: Receipt, now: Instant) {
        let Some(Awaiting { trigger, delivery, what }) = self.awaiting.remove(&receipt.ticket) else { return };
        if delivery.ticket.assignment().phase() == Phase::Fenced {
            return;
        }
        match (receipt.written, what) {
            (Ok(()), Sent::Result(reply)) => self.finish(trigger, delivery, End::Done, reply),
            (Ok(()), Sent::DeadLetter(reply)) => self.finish(trigger, delivery, End::DeadLettered, reply),
            (Err(reason), Sent::Result(_)) => {
                // Running the function again would make the same result: the attempts are used up at once.
                let failure = Failure::new(FailureClass::Result, "ResultRefused", reason);
                self.log_failure(trigger, &delivery, &failure, None);
                if let Some(delivery) = self.exhausted(trigger, delivery, &failure) {
                    self.stop_lane(trigger, delivery);
                }
            }
            (Err(reason), Sent::DeadLetter(reply)) => {
                let failure = Failure::new(FailureClass::Result, "DeadLetterRefused", reason);
                self.log_failure(trigger, &delivery, &failure, None);
                self.answer_all_the_same(trigger, &delivery, reply);
                self.stop_lane(trigger, delivery);
            }
            (written, Sent::Answer(end)) => {
                self.answered(trigger, &delivery, written, now);
                self.end(trigger, delivery.ticket, end);
            }
        }
    }

    /// An answer that nobody takes any more is no failure of the message.
    fn answered(&mut self, trigger: usize, delivery: &Delivery, written: Result<(), String>, now: Instant) {
        let state = &mut self.triggers[trigger];
        let Err(reason) = written else {
            state.setup.metrics.replies.inc();
            return;
        };
        state.setup.metrics.replies_lost.inc();
        let (trigger, offset) = (&state.setup.name, delivery.message.offset());
        if state.lost_reply_told.is_none_or(|told| now.saturating_duration_since(told) >= LOST_REPLY_INTERVAL) {
            state.lost_reply_told = Some(now);
            tracing::warn!(trigger, offset, reason, "nobody takes the answer; more of these are logged as debug");
        } else {
            tracing::debug!(trigger, offset, reason, "nobody takes the answer");
        }
    }

    fn stop_lane(&mut self, trigger: usize, delivery: Delivery) {
        let state = &mut self.triggers[trigger];
        let assignment = delivery.ticket.assignment().clone();
        tracing::error!(
            trigger = state.setup.name,
            topic = &*assignment.topic,
            partition = assignment.partition,
            offset = delivery.ticket.offset(),
            "lane stopped: fix the function or give the trigger `on_failure` or `on_exhausted = \"drop\"`, and restart"
        );
        state.lanes.stop(delivery);
    }

    /// Gives the lane back what must be tried again, and lets it go on.
    pub(super) fn end_batch(&mut self, isolate: u32, batch: u64, now: Instant) {
        let Some(held) = self.isolates.all.get_mut(&isolate) else { return };
        let Some(mut in_hand) = held.batches.remove(&batch) else { return };
        held.idle_since = now;
        in_hand.returned.sort_by_key(|(index, ..)| std::cmp::Reverse(*index));
        let lanes = &mut self.triggers[in_hand.trigger].lanes;
        for (_, delivery, at) in in_hand.returned {
            lanes.give_back(delivery, at);
        }
        for delivery in in_hand.stopped {
            self.stop_lane(in_hand.trigger, delivery);
        }
        self.triggers[in_hand.trigger].lanes.finish(in_hand.lane);
    }

    pub(super) fn in_hand(&mut self, isolate: u32, batch: u64) -> Option<&mut InHand> {
        self.isolates.all.get_mut(&isolate)?.batches.get_mut(&batch)
    }
}

/// The failure of a message that cannot be kept until its next attempt.
fn overdue(mut failure: Failure, consequence: &str) -> Failure {
    failure.message =
        format!("{} (its source cannot keep the message until the next attempt: {consequence})", failure.message);
    failure
}

#[cfg(test)]
mod tests;
