//! The Kafka source: one consumer per subscription, polled on a thread of its own.
//!
//! What holds here: the thread never waits for a function and never stops polling; messages are matched while they are
//! still borrowed from the client and copied only where a trigger fires; an offset is committed only when everything
//! below it is settled; when a partition is taken away, what runs in it may finish for a bounded time, then it is
//! fenced, and reports of an assignment that has ended count for nothing. The start of a partition is always resolved to
//! a number: an offset that does not exist any more is never skipped in silence.
//!
//! This room knows nothing of functions or V8.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::oneshot;

use self::assigned::Assigned;
use self::committer::Committer;
use self::consumer::{Exit, Reader};
use self::context::Context;
use super::{Ended, Fault, Stage, Subscription};
use crate::config::{KafkaSettings, OauthToken};

mod assigned;
pub(crate) mod client;
mod committer;
mod consumer;
mod context;
pub mod embedded;
mod lag;
mod lend;
mod moves;
pub(crate) mod oauth;
mod partition;
mod position;
pub mod probe;
mod rebalance;
#[cfg(test)]
mod tests;

/// How long leaving the group may take before the subscription counts as ended without it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits before a new client follows one that failed for good: doubled each time, up to the second.
const REBUILD_DELAY: Duration = Duration::from_secs(1);
const REBUILD_DELAY_MAX: Duration = Duration::from_secs(30);

/// A subscription that has been started. It ends by its stage.
#[derive(Debug)]
pub struct Running {
    /// Comes when everything is settled and committed, and the consumer has left its group or has had three seconds
    /// to do so.
    pub ended: oneshot::Receiver<Ended>,
}

/// Starts a subscription on a thread of its own. It does not wait for the broker: one that cannot be reached is tried
/// until it comes.
///
/// # Errors
/// When the client library refuses the settings.
pub fn spawn(subscription: Subscription, settings: &KafkaSettings) -> Result<Running, Fault> {
    let config = consumer_config(&subscription, settings);
    let source_name = subscription.source.clone();
    let subscription = Arc::new(subscription);
    let assigned = Arc::new(Mutex::new(Assigned::new(subscription.clone())));
    let life = Life { subscription, config, oauth_token: settings.oauth_token.clone(), assigned };
    let first = life
        .client()
        .map_err(|error| Fault::Client { source_name: source_name.clone(), reason: client::creation_error(&error) })?;
    let (tell, ended) = oneshot::channel();
    thread::Builder::new()
        .name(format!("kafka-{}", life.subscription.group))
        .spawn(move || {
            // Nobody may be waiting for the end any more.
            let _ = tell.send(life.run(first));
        })
        .map_err(|error| Fault::Client { source_name, reason: format!("cannot start a thread: {error}") })?;
    Ok(Running { ended })
}

fn consumer_config(subscription: &Subscription, settings: &KafkaSettings) -> ClientConfig {
    let mut config = client::configure(
        settings,
        &[
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("allow.auto.create.topics", "false"),
            // What the client fetches ahead, per consumer; a queue that is full is looked at again soon.
            ("queued.max.messages.kbytes", "16384"),
            ("queued.min.messages", "20000"),
            ("fetch.queue.backoff.ms", "10"),
            ("statistics.interval.ms", "1000"),
        ],
    );
    config
        .set("group.id", &subscription.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "false");
    if let Some(instance) = &settings.instance_id {
        config.set("group.instance.id", instance);
    }
    config
}

/// A subscription through all the clients it may need.
struct Life {
    subscription: Arc<Subscription>,
    config: ClientConfig,
    oauth_token: Option<OauthToken>,
    assigned: Arc<Mutex<Assigned>>,
}

impl Life {
    fn client(&self) -> KafkaResult<BaseConsumer<Context>> {
        let oauth_token = self.oauth_token.clone();
        let context = Context::new(self.subscription.clone(), oauth_token, self.assigned.clone());
        self.config.create_with_context(context)
    }

    fn run(self, first: BaseConsumer<Context>) -> Ended {
        let mut next = Some(first);
        let mut delay = REBUILD_DELAY;
        loop {
            let began = Instant::now();
            let failed = match next.take().map_or_else(|| self.client(), Ok) {
                Ok(client) => match self.read(client) {
                    Exit::Ended(ended) => return ended,
                    Exit::Fatal(code) => Some(code),
                },
                Err(error) => {
                    let Subscription { source, group, .. } = &*self.subscription;
                    tracing::error!(source, group, "{}", client::creation_error(&error));
                    None
                }
            };
            if began.elapsed() >= REBUILD_DELAY_MAX {
                // It was good for a while: this is another trouble than the last one.
                delay = REBUILD_DELAY;
            }
            if failed == Some(RDKafkaErrorCode::FencedInstanceId) {
                // Whoever has taken the name keeps it, unless it goes away again.
                delay = REBUILD_DELAY_MAX;
            }
            if self.is_stopped_within(delay) {
                let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
                return Ended { settled: assigned.settled, ..Ended::default() };
            }
            delay = (delay * 2).min(REBUILD_DELAY_MAX);
        }
    }

    fn read(&self, client: BaseConsumer<Context>) -> Exit {
        let topics: Vec<&str> = self.subscription.topics.iter().map(String::as_str).collect();
        if let Err(error) = client.subscribe(&topics) {
            let Subscription { source, group, .. } = &*self.subscription;
            tracing::error!(source, group, %error, "cannot subscribe");
            close(Arc::new(client), None);
            return Exit::Fatal(RDKafkaErrorCode::InvalidTopic);
        }
        let client = Arc::new(client);
        match Committer::start(client.clone()) {
            Ok(committer) => {
                let reader = Reader::new(client.clone(), committer, self.subscription.clone());
                let (exit, committer) = reader.run();
                close(client, Some(committer));
                exit
            }
            Err(error) => {
                tracing::error!(%error, "cannot start a thread");
                close(client, None);
                Exit::Fatal(RDKafkaErrorCode::CriticalSystemResource)
            }
        }
    }

    /// Waits, unless told to stop.
    fn is_stopped_within(&self, delay: Duration) -> bool {
        let step = Duration::from_millis(50);
        let mut left = delay;
        loop {
            if self.assigned.lock().unwrap_or_else(PoisonError::into_inner).stage() > Stage::Run {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            thread::sleep(step.min(left));
            left = left.saturating_sub(step);
        }
    }
}

/// Closes a client, which leaves its group. That may hang when the broker is gone, so it has a thread of its own.
fn close(client: Arc<BaseConsumer<Context>>, committer: Option<Committer>) {
    let (done, closed) = mpsc::sync_channel::<()>(1);
    let closing = thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
        committer.into_iter().for_each(Committer::end);
        drop(client);
        drop(done);
    });
    // Where no thread can be started, the client was dropped in the attempt.
    if closing.is_ok() && closed.recv_timeout(CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
        tracing::debug!("leaving the group takes long: not waiting for it");
    }
}
