//! One connection of a subscription: how it begins, what is told on it, how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::{Channel, Connection, Consumer};

use super::declare;
use super::in_hand::InHand;
use super::link::{Servers, explain};
use super::position::Position;
use super::stream::{self, From, Reading};
use super::tags::{Answer, Tags};
use super::turns::Leaving;
use crate::config::{QueueSettings, QueueType};
use crate::delivery::{Assignment, Delivery};
use crate::source::Subscription;

/// How long the server may take to take an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a parting may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the queue's length is asked for.
const DEPTH_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is asked how far a stream reaches: the server counts anew every five seconds.
const END_INTERVAL: Duration = Duration::from_secs(5);
/// How long that may take.
const DEPTH_TIMEOUT: Duration = Duration::from_millis(250);

/// A connection with a consumer on it.
#[derive(Debug)]
pub(super) struct Life {
    connection: Connection,
    channel: Channel,
    pub(super) consumer: Consumer,
    /// For questions: an error there must not close the consumer's channel.
    observer: Channel,
    asked: Instant,
    /// Messages ready in the queue, as last heard.
    pub(super) ready: u32,
    pub(super) assignment: Arc<Assignment>,
    pub(super) in_hand: InHand,
    /// Whether the queue is known to count what is returned to it.
    pub(super) counts: bool,
    pub(super) leaving: Option<Leaving>,
    /// Deliveries of this turn, per route.
    pub(super) outbox: Vec<Vec<Delivery>>,
    pub(super) matched: Vec<u32>,
}

impl Life {
    /// Connects, sees to the queue, and begins to consume; a stream only once nobody else of the group reads it.
    pub(super) async fn open(
        servers: &mut Servers,
        subscription: &Subscription,
        queue: &QueueSettings,
        epoch: u64,
    ) -> Result<Self, String> {
        let name = subscription.topics.first().map_or("", String::as_str);
        let refused = |error: lapin::Error| format!("queue `{name}`: {}", declare::explain_refusal(&error));
        let connection = servers.connect().await?;
        let channel = connection.create_channel().await.map_err(refused)?;
        let observer = connection.create_channel().await.map_err(refused)?;
        let ready = declare::declare(&channel, name, queue).await.map_err(refused)?;
        let mut arguments = declare::consumer_arguments(queue);
        let in_hand = match &queue.reader {
            Some(group) => {
                let position = Position::open(servers, name, group, subscription.keep_max).await?;
                let from = match position.kept() {
                    Some(kept) => From::Kept(kept),
                    None => From::of(subscription.start, &connection, name).await.map_err(refused)?,
                };
                arguments.insert("x-stream-offset".into(), from.argument());
                tracing::info!(source = subscription.source, queue = name, group, ?from, "reading the stream");
                let (prefetch, interval) = (subscription.in_flight.messages, subscription.commit_interval);
                InHand::Stream(Box::new(Reading::new(position, from, prefetch, interval)))
            }
            None => InHand::Queue(Tags::default()),
        };
        let consuming = async {
            let prefetch = u16::try_from(subscription.in_flight.messages).unwrap_or(u16::MAX);
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            channel.basic_consume(name.into(), "".into(), BasicConsumeOptions::default(), arguments).await
        };
        let consumer = consuming.await.map_err(refused)?;
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
            assignment: Assignment::new(epoch, name.into(), 0),
            in_hand,
            counts: queue.queue_type == Some(QueueType::Quorum),
            leaving: None,
            outbox: subscription.routes.iter().map(|_| Vec::new()).collect(),
            matched: Vec::new(),
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Tells the server what is settled. The frames are written in order: once the last is, all are.
    pub(super) async fn answer(&mut self) -> Result<(), String> {
        let answers = self.in_hand.answers(Instant::now());
        let Some((last, others)) = answers.split_last() else { return Ok(()) };
        for answer in others {
            if let Some(Err(error)) = self.tell(*answer).now_or_never() {
                return Err(explain(&error));
            }
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, self.tell(*last)).await {
            Ok(result) => result.map_err(|error| explain(&error)),
            Err(_) => Err("the server takes no acknowledgements; still trying".to_owned()),
        }
    }

    async fn tell(&self, answer: Answer) -> Result<(), lapin::Error> {
        match answer {
            Answer::AckUpTo(tag) => self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await,
            Answer::Ack(tag) => self.channel.basic_ack(tag, BasicAckOptions::default()).await,
            Answer::Return(tag) => self.channel.basic_reject(tag, BasicRejectOptions { requeue: true }).await,
            Answer::Reject(tag) => self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await,
            Answer::Requeue(tag) => {
                self.channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await
            }
        }
    }

    /// Stops consuming; what has been sent already is given back when the channel closes.
    pub(super) async fn cancel(&self) {
        let cancelling = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_TIMEOUT, cancelling).await {
            tracing::debug!(%error, "the consumer could not be cancelled: the connection ends anyway");
        }
    }

    /// Ends what is left of it; the right to read a stream goes last.
    pub(super) async fn close(self) {
        if self.is_connected() {
            let closing = self.connection.close(200, "done".into());
            if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, closing).await, Ok(Ok(()))) {
                tracing::debug!("the connection could not be closed in order");
            }
        }
        if let InHand::Stream(reading) = self.in_hand {
            reading.leave().await;
        }
    }

    /// Asks how long the queue is, now and then. No answer is no news.
    pub(super) async fn ask_depth(&mut self, queue: &str) {
        let interval = match self.in_hand {
            InHand::Queue(_) => DEPTH_INTERVAL,
            InHand::Stream(_) => END_INTERVAL,
        };
        if self.asked.elapsed() < interval || !self.observer.status().connected() {
            return;
        }
        self.asked = Instant::now();
        match &mut self.in_hand {
            InHand::Queue(_) => {
                if let Ok(Ok(ready)) = tokio::time::timeout(DEPTH_TIMEOUT, declare::depth(&self.observer, queue)).await
                {
                    self.ready = ready;
                }
            }
            InHand::Stream(reading) => {
                if let Ok(Ok(end)) = tokio::time::timeout(DEPTH_TIMEOUT, stream::end(&self.connection, queue)).await {
                    reading.reaches(end);
                }
            }
        }
    }
}
