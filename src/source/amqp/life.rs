//! One connection of a subscription, from the first message to the last answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery as Received;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::{Channel, Connection, Consumer};

use super::lend::Lent;
use super::link::{Servers, explain};
use super::tags::{Answer, GAP_PATIENCE, Tags};
use super::{Supervisor, declare};
use crate::config::{OnNoMatch, QueueSettings};
use crate::delivery::{Assignment, Delivery, Phase, Settled, Ticket};
use crate::event::Message;
use crate::source::{Stage, Subscription};

/// Messages taken in one turn, so that answers do not wait for long.
const TURN_MAX: usize = 256;
/// How long the server may take to take an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a parting may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what runs may finish after its queue was deleted.
const CANCELLED_PATIENCE: Duration = Duration::from_secs(30);
/// How often the queue's length is asked for.
const DEPTH_INTERVAL: Duration = Duration::from_secs(2);
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
enum Leaving {
    Drain,
    NoMatch,
    /// The server has cancelled the consumer; give up on what runs at this time.
    Cancelled(Instant),
}

/// A connection with a consumer on it.
#[derive(Debug)]
pub(super) struct Life {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    /// For questions: an error there must not close the consumer's channel.
    observer: Channel,
    asked: Instant,
    /// Messages ready in the queue, as last heard.
    ready: u32,
    assignment: Arc<Assignment>,
    tags: Tags,
    leaving: Option<Leaving>,
    /// Deliveries of this turn, per route.
    outbox: Vec<Vec<Delivery>>,
    matched: Vec<u32>,
}

impl Life {
    /// Connects, sees to the queue, and begins to consume.
    pub(super) async fn open(
        servers: &mut Servers,
        subscription: &Subscription,
        queue: &QueueSettings,
        epoch: u64,
    ) -> Result<Self, String> {
        let name = &subscription.group;
        let connection = servers.connect().await?;
        let setup = async {
            let channel = connection.create_channel().await?;
            let observer = connection.create_channel().await?;
            let ready = declare::declare(&channel, name, queue).await?;
            let prefetch = u16::try_from(subscription.in_flight.messages).unwrap_or(u16::MAX);
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let consumer = channel
                .basic_consume(
                    name.as_str().into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    declare::consumer_arguments(queue),
                )
                .await?;
            Ok::<_, lapin::Error>((channel, observer, consumer, ready))
        };
        let (channel, observer, consumer, ready) =
            setup.await.map_err(|error| format!("queue `{name}`: {}", declare::explain_refusal(&error)))?;
        tracing::info!(source = subscription.source, queue = name, ready, "consuming");
        servers.succeeded();
        subscription.metrics.partitions.set(1);
        Ok(Self {
            connection,
            channel,
            consumer,
            observer,
            asked: Instant::now(),
            ready,
            assignment: Assignment::new(epoch, name.as_str().into(), 0),
            tags: Tags::default(),
            leaving: None,
            outbox: subscription.routes.iter().map(|_| Vec::new()).collect(),
            matched: Vec::new(),
        })
    }

    fn is_connected(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Tells the server what is settled.
    async fn answer(&mut self) -> Result<(), String> {
        let answers = self.tags.answers(Instant::now());
        let sending = async {
            for answer in answers {
                match answer {
                    Answer::AckUpTo(tag) => self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?,
                    Answer::Ack(tag) => self.channel.basic_ack(tag, BasicAckOptions::default()).await?,
                    Answer::Reject(tag) => {
                        self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await?
                    }
                    Answer::Requeue(tag) => {
                        let options = BasicNackOptions { requeue: true, multiple: false };
                        self.channel.basic_nack(tag, options).await?;
                    }
                }
            }
            Ok(())
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, sending).await {
            Ok(result) => result.map_err(|error| explain(&error)),
            Err(_) => Err("the server takes no acknowledgements; still trying".to_owned()),
        }
    }

    /// Stops consuming; what has been sent already is given back when the channel closes.
    async fn cancel(&self) {
        let cancelling = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_TIMEOUT, cancelling).await {
            tracing::debug!(%error, "the consumer could not be cancelled: the connection ends anyway");
        }
    }

    async fn close(self) {
        let closing = self.connection.close(200, "done".into());
        if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, closing).await, Ok(Ok(()))) {
            tracing::debug!("the connection could not be closed in order");
        }
    }

    /// Asks how long the queue is, now and then. No answer is no news.
    async fn ask_depth(&mut self, queue: &str) {
        if self.asked.elapsed() < DEPTH_INTERVAL || !self.observer.status().connected() {
            return;
        }
        self.asked = Instant::now();
        if let Ok(Ok(ready)) = tokio::time::timeout(LOOK, declare::depth(&self.observer, queue)).await {
            self.ready = ready;
        }
    }
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
        self.show(&Tags::default(), 0);
        if life.is_connected() {
            life.close().await;
        }
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
            life.ask_depth(&self.queue_name).await;
            self.show(&life.tags, life.ready);
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
        let pause = if life.tags.has_gap() { GAP_PATIENCE } else { LOOK };
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
                Some(Ok(message)) => self.take(life, &message),
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

    fn take(&mut self, life: &mut Life, message: &Received) {
        let tag = message.delivery_tag;
        let lent = Lent::of(message);
        let seen = lent.message(&self.queue_name);
        life.matched.clear();
        let scanned = self.subscription.triggers.matching(&seen, &mut life.matched);
        let mut held = 0;
        for &trigger in &life.matched {
            let message = Message::copy_of(&seen, life.assignment.topic.clone());
            held += message.size();
            let ticket = Ticket::new(life.assignment.clone(), seen.offset, self.reports.clone());
            life.outbox[trigger as usize].push(Delivery { message, failed_attempts: 0, ticket });
        }
        let metrics = &self.subscription.metrics;
        metrics.messages.inc();
        metrics.read.inc_by(message.data.len() as u64);
        metrics.scanned.inc_by(scanned as u64);
        let otherwise = match self.queue.on_no_match {
            Some(OnNoMatch::Ack) => Settled::Finished,
            Some(OnNoMatch::Reject) => Settled::Rejected,
            Some(OnNoMatch::Stop) | None => Settled::Released,
        };
        life.tags.read(tag, life.matched.len() as u32, held, otherwise);
        if !life.matched.is_empty() {
            return;
        }
        metrics.not_matched.inc();
        if otherwise == Settled::Released {
            let (source, queue, properties) = (&self.subscription.source, &*self.queue_name, &message.routing_key);
            tracing::error!(
                source,
                queue,
                routing_key = properties.as_str(),
                "no trigger matches a message, and `on_no_match` is \"stop\": the queue is read no further; widen a rule \
                 or say \"ack\" or \"reject\", and restart"
            );
            life.leaving = Some(Leaving::NoMatch);
        } else {
            metrics.settled.inc();
            self.ended.settled += 1;
        }
    }

    fn settle_reported(&mut self, life: &mut Life) {
        while let Ok(batch) = self.reported.try_recv() {
            for report in batch {
                if report.assignment != life.assignment.id {
                    continue;
                }
                match life.tags.settle(report.offset.cast_unsigned(), report.settled) {
                    Some(Settled::Finished | Settled::Rejected) => {
                        self.ended.settled += 1;
                        self.subscription.metrics.settled.inc();
                    }
                    Some(Settled::Released) => self.ended.released += 1,
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
                self.ended.abandoned += life.tags.waiting() as u64;
                return Some(Exit::Ended);
            }
        }
        let at_rest = life.tags.waiting() == 0 && !life.tags.has_gap();
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
            self.subscription.routes.iter().for_each(crate::source::Route::phase_changed);
        }
    }

    fn show(&self, tags: &Tags, ready: u32) {
        let metrics = &self.subscription.metrics;
        metrics.in_flight.set(tags.waiting() as i64);
        metrics.in_flight_memory.set(tags.bytes() as i64);
        metrics.lag_messages.set(tags.waiting() as i64 + i64::from(ready));
    }
}
