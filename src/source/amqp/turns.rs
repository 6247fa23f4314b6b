//! The life of a subscription on one connection, turn by turn: messages in, answers out, and what makes it end.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery as Received;

use super::Supervisor;
use super::in_hand::InHand;
use super::lend::{Lent, delivery_count, stream_offset};
use super::life::Life;
use super::link::explain;
use super::stream::Found;
use super::tags::GAP_PATIENCE;
use crate::config::OnNoMatch;
use crate::delivery::{Delivery, Keep, Overdue, Phase, Settled, Ticket};
use crate::event::Message;
use crate::source::{Route, Stage};

/// Messages taken in one turn, so that answers do not wait for long.
const TURN_MAX: usize = 256;
/// How long what runs may finish after its queue was deleted.
const CANCELLED_PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked at what makes no noise of its own.
const LOOK: Duration = Duration::from_millis(250);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Exit {
    /// By the stage.
    Ended,
    /// By a message that nobody wanted.
    Stopped,
    /// By what the words say: there must be another.
    Lost(String),
}

/// Why nothing new is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    Drain,
    NoMatch,
    /// The server has cancelled the consumer; give up on what runs at this time.
    Cancelled(Instant),
}

/// What the consumer yields; `None` when it has ended.
type Next = Option<Result<Received, lapin::Error>>;

impl Supervisor {
    /// Serves a connection to its end. On any end but an orderly one, what still runs is void.
    pub(super) async fn serve(&mut self, mut life: Life) -> Exit {
        let outcome = self.turns(&mut life).await;
        if let Exit::Lost(_) = outcome {
            self.enter(&life, Phase::Fenced);
        }
        let metrics = &self.subscription.metrics;
        for gauge in [&metrics.in_flight, &metrics.in_flight_memory, &metrics.lag_messages] {
            gauge.set(0);
        }
        life.close().await;
        outcome
    }

    async fn turns(&mut self, life: &mut Life) -> Exit {
        loop {
            if let Some(first) = self.heard(life).await
                && let Err(lost) = self.take_in(life, first)
            {
                return Exit::Lost(lost);
            }
            self.settle_reported(life);
            if let Err(lost) = life.answer().await {
                return Exit::Lost(lost);
            }
            if let Err(lost) = self.keep_position(life) {
                return Exit::Lost(lost);
            }
            life.ask_depth(&self.queue_name).await;
            self.show(life);
            if let Some(exit) = self.look_at_stage(life).await {
                return exit;
            }
            if !life.is_connected() {
                return Exit::Lost(self.reason_of_loss(life).await);
            }
        }
    }

    /// Waits for the first thing that happens: a message; or reports, a stage, or nothing for a while. Reports go before
    /// messages, so that answers do not pile up.
    async fn heard(&mut self, life: &mut Life) -> Option<Next> {
        let pause = if life.in_hand.has_gap() { GAP_PATIENCE } else { LOOK };
        tokio::select! {
            biased;
            () = self.wake.notified() => None,
            // An error means that the worker is gone, which the stage says as well.
            _ = self.stage.changed(), if life.leaving.is_none() => None,
            message = life.consumer.next(), if life.leaving.is_none() => Some(message),
            () = tokio::time::sleep(pause) => None,
        }
    }

    /// Takes the message that came, and those that are there already.
    fn take_in(&mut self, life: &mut Life, first: Next) -> Result<(), String> {
        let mut next = first;
        for turn in 1.. {
            match next {
                Some(Ok(message)) => self.take(life, &message)?,
                Some(Err(error)) => return Err(explain(&error)),
                None if life.is_connected() => {
                    let (source, queue) = (&self.subscription.source, &*self.queue_name);
                    tracing::error!(
                        source,
                        queue,
                        "the server has cancelled the consumer: the queue was deleted or moved"
                    );
                    life.leaving = Some(Leaving::Cancelled(Instant::now() + CANCELLED_PATIENCE));
                }
                // The channel or the connection is gone: the turn sees to that.
                None => break,
            }
            // What is taken from the client must be taken in: it comes once.
            if life.leaving.is_some() || turn == TURN_MAX {
                break;
            }
            match life.consumer.next().now_or_never() {
                Some(there) => next = there,
                None => break,
            }
        }
        for (route, deliveries) in self.subscription.routes.iter().zip(&mut life.outbox) {
            if !deliveries.is_empty() {
                route.send(std::mem::take(deliveries));
            }
        }
        Ok(())
    }

    fn take(&mut self, life: &mut Life, message: &Received) -> Result<(), String> {
        let offset = self.offset_of(life, message)?;
        let lent = Lent::of(message, offset);
        let seen = lent.message(&self.queue_name);
        let metrics = &self.subscription.metrics;
        metrics.messages.inc();
        metrics.read.inc_by(message.data.len() as u64);
        life.matched.clear();
        let is_known = match (&mut life.in_hand, offset) {
            (InHand::Stream(reading), Some(offset)) => match reading.find(offset) {
                Found::Take => false,
                Found::Known => true,
                Found::Other => return Err(reading.misplaced()),
            },
            _ => false,
        };
        if !is_known {
            let scanned = self.subscription.triggers.matching(&seen, &mut life.matched);
            metrics.scanned.inc_by(scanned as u64);
        }
        let failed_attempts = delivery_count(message);
        life.counts |= failed_attempts > 0;
        let then = if life.counts { Overdue::Return } else { Overdue::Exhaust };
        let keep = Keep { until: Instant::now() + self.subscription.keep_max, then };
        let mut held = 0;
        for &trigger in &life.matched {
            let message = Message::copy_of(&seen, life.assignment.topic.clone());
            held += message.size();
            let ticket = Ticket::new(life.assignment.clone(), seen.offset, self.reports.clone()).keeping(keep);
            life.outbox[trigger as usize].push(Delivery { message, failed_attempts, is_suspect: false, ticket });
        }
        let (tag, deliveries) = (message.delivery_tag, life.matched.len() as u32);
        let otherwise = match (&mut life.in_hand, self.queue.on_no_match) {
            (InHand::Stream(reading), _) => {
                reading.read(tag, seen.offset, deliveries, held);
                Settled::Finished
            }
            (InHand::Queue(tags), on_no_match) => {
                let otherwise = match on_no_match {
                    Some(OnNoMatch::Ack) => Settled::Finished,
                    Some(OnNoMatch::Reject) => Settled::Rejected,
                    Some(OnNoMatch::Stop) | None => Settled::Released,
                };
                tags.read(tag, deliveries, held, otherwise);
                otherwise
            }
        };
        if deliveries == 0 && !is_known {
            self.pass_over(life, message, otherwise);
        }
        Ok(())
    }

    /// A message that no trigger matches.
    fn pass_over(&mut self, life: &mut Life, message: &Received, otherwise: Settled) {
        let metrics = &self.subscription.metrics;
        metrics.not_matched.inc();
        if otherwise == Settled::Released {
            let (source, queue, routing_key) = (&self.subscription.source, &*self.queue_name, &message.routing_key);
            tracing::error!(
                source,
                queue,
                routing_key = routing_key.as_str(),
                "no trigger matches a message, and `on_no_match` is \"stop\": the queue is read no further; widen a rule \
                 or say \"ack\" or \"reject\", and restart"
            );
            life.leaving = Some(Leaving::NoMatch);
        } else {
            metrics.settled.inc();
            self.ended.settled += 1;
        }
    }

    /// The offset of a message of a stream; none of a queue's.
    fn offset_of(&mut self, life: &Life, message: &Received) -> Result<Option<i64>, String> {
        let offset = stream_offset(message);
        match (&life.in_hand, offset) {
            (InHand::Stream(_), Some(_)) => Ok(offset),
            (InHand::Stream(_), None) => Err(format!(
                "queue `{}` is no stream: remove `queue_type = \"stream\"` or name another queue",
                self.queue_name
            )),
            (InHand::Queue(_), Some(_)) if message.delivery_tag == 1 => {
                let (source, queue) = (&self.subscription.source, &*self.queue_name);
                tracing::warn!(
                    source,
                    queue,
                    "a message has an offset: if this is a stream, say `queue_type = \"stream\"`, or its position is not \
                     kept and messages are missed"
                );
                Ok(None)
            }
            (InHand::Queue(_), _) => Ok(None),
        }
    }

    /// Of a stream: keeps its position, and sees to what must be read again.
    fn keep_position(&mut self, life: &mut Life) -> Result<(), String> {
        let InHand::Stream(reading) = &mut life.in_hand else { return Ok(()) };
        reading.keep()?;
        if reading.has_released() && life.leaving.is_none() {
            return Err("a message of the stream was let go: reading again from there".to_owned());
        }
        if let Some(doubt) = reading.doubt() {
            self.complain(&doubt);
        }
        Ok(())
    }

    fn settle_reported(&mut self, life: &mut Life) {
        while let Ok(batch) = self.reported.try_recv() {
            for report in batch {
                if report.assignment != life.assignment.id {
                    continue;
                }
                match life.in_hand.settle(report.offset, report.settled) {
                    Some(Settled::Finished | Settled::Rejected) => {
                        self.ended.settled += 1;
                        self.subscription.metrics.settled.inc();
                    }
                    Some(Settled::Released | Settled::Returned) => self.ended.released += 1,
                    None => {}
                }
            }
        }
    }

    /// Acts on the stage, and on what makes this connection leave.
    async fn look_at_stage(&mut self, life: &mut Life) -> Option<Exit> {
        match self.subscription.stage() {
            Stage::Run => {}
            Stage::Drain => {
                if life.leaving != Some(Leaving::Drain) {
                    life.leaving = Some(Leaving::Drain);
                    life.cancel().await;
                    self.enter(life, Phase::Draining);
                }
            }
            Stage::End => {
                self.enter(life, Phase::Fenced);
                self.ended.abandoned += life.in_hand.waiting() as u64;
                return Some(Exit::Ended);
            }
        }
        let at_rest = life.in_hand.waiting() == 0 && !life.in_hand.has_gap();
        match life.leaving {
            Some(Leaving::Drain) if at_rest => Some(Exit::Ended),
            Some(Leaving::NoMatch) if at_rest => Some(Exit::Stopped),
            Some(Leaving::Cancelled(until)) if at_rest || Instant::now() >= until => {
                Some(Exit::Lost("consuming again after the consumer was cancelled".to_owned()))
            }
            _ => None,
        }
    }

    /// What the client knows of the end of a channel or connection.
    async fn reason_of_loss(&self, life: &mut Life) -> String {
        while let Some(Some(message)) = life.consumer.next().now_or_never() {
            if let Err(error) = message {
                return explain(&error);
            }
        }
        "connection lost; still trying".to_owned()
    }

    fn enter(&self, life: &Life, phase: Phase) {
        if life.assignment.phase() < phase {
            life.assignment.advance(phase);
            self.subscription.routes.iter().for_each(Route::phase_changed);
        }
    }

    fn show(&self, life: &Life) {
        let metrics = &self.subscription.metrics;
        metrics.in_flight.set(life.in_hand.waiting() as i64);
        metrics.in_flight_memory.set(life.in_hand.bytes() as i64);
        metrics.lag_messages.set(life.in_hand.lag(life.ready));
    }
}
