//! The AMQP source: one connection and one channel per subscription, on a thread of its own.
//!
//! What holds here: the prefetch is the bound on what is in flight; messages are matched on the client's own bytes and
//! copied only where a trigger fires; a message is acknowledged when all its deliveries are settled, and each tag is
//! answered once. Every connection is an assignment of its own: when it is lost, what runs is fenced, since the server
//! hands its messages out again, and reports of it count for nothing.
//!
//! A stream is read by one worker of a group at a time, whose position the server keeps for us; an acknowledgement there
//! destroys nothing, so what counts is the position, which never passes an open offset.
//!
//! What heals by itself (a server that restarts, a queue that is not there yet, a refused login) is tried until it does,
//! with waits that grow to ten seconds, and said aloud. This room knows nothing of functions or V8.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};

use self::life::Life;
use self::link::Servers;
use self::turns::Exit;
use super::kafka::client::Notices;
use super::{Ended, Fault, Stage, Subscription};
use crate::config::{AmqpSettings, QueueSettings};
use crate::delivery::{Report, Reports};

mod declare;
mod greeting;
mod in_hand;
mod lend;
mod life;
pub(crate) mod link;
mod position;
pub mod probe;
mod secure;
mod stream;
mod strides;
mod tags;
mod turns;

/// A smaller prefetch would have the server wait for acknowledgements while a socket rests between two strides.
const STRIDES_PREFETCH_MIN: usize = 250;

/// Starts a subscription to the queue that is its topic. It does not wait for the server: one that cannot be reached is
/// tried until it comes.
///
/// # Errors
/// When an address cannot be understood, or there are no threads left.
pub fn spawn(
    subscription: Subscription,
    settings: &AmqpSettings,
    queue: QueueSettings,
) -> Result<oneshot::Receiver<Ended>, Fault> {
    let source_name = subscription.source.clone();
    // The name that the server's operator sees.
    let name = format!("lagless {source_name}/{}", subscription.group);
    let mut servers = Servers::new(&source_name, settings, name)?;
    if subscription.in_flight.messages >= STRIDES_PREFETCH_MIN {
        servers = servers.in_strides();
    }
    let fault = |reason: String| Fault::Client { source_name: source_name.clone(), reason };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fault(format!("cannot start a runtime: {error}")))?;
    let (tell, ended) = oneshot::channel();
    let wake = Arc::new(Notify::new());
    let waker = wake.clone();
    let (reports, reported) = Reports::waking(move || waker.notify_one());
    let supervisor = Supervisor {
        queue_name: subscription.topics.first().map_or("", String::as_str).into(),
        stage: subscription.stage.clone(),
        subscription,
        queue,
        servers,
        reports,
        reported,
        wake,
        ended: Ended::default(),
        epoch: 0,
        notices: Notices::default(),
    };
    thread::Builder::new()
        .name(format!("amqp-{source_name}"))
        .spawn(move || {
            let ended = runtime.block_on(supervisor.run());
            // The client's own tasks have nothing left to do.
            runtime.shutdown_timeout(Duration::from_millis(200));
            // Nobody may be waiting for the end any more.
            let _ = tell.send(ended);
        })
        .map_err(|error| fault(format!("cannot start a thread: {error}")))?;
    Ok(ended)
}

/// A subscription through all the connections it may need.
#[derive(Debug)]
struct Supervisor {
    subscription: Subscription,
    queue: QueueSettings,
    queue_name: Arc<str>,
    servers: Servers,
    stage: watch::Receiver<Stage>,
    reports: Reports,
    reported: std::sync::mpsc::Receiver<Vec<Report>>,
    /// Told when there are reports.
    wake: Arc<Notify>,
    ended: Ended,
    /// The number of the last assignment.
    epoch: u64,
    notices: Notices,
}

impl Supervisor {
    async fn run(mut self) -> Ended {
        while self.subscription.stage() == Stage::Run {
            let trouble = match self.connect().await {
                None => break,
                Some(Ok(life)) => match Box::pin(self.serve(life)).await {
                    Exit::Ended => break,
                    Exit::Stopped => {
                        self.stand_still().await;
                        break;
                    }
                    Exit::Lost(reason) => reason,
                },
                Some(Err(reason)) => reason,
            };
            self.subscription.metrics.partitions.set(0);
            self.complain(&trouble);
            let wait = self.servers.backoff();
            // Whichever comes first; the stage is looked at in either case.
            let _ = tokio::time::timeout(wait, self.stage.changed()).await;
        }
        self.subscription.metrics.partitions.set(0);
        self.ended
    }

    /// `None` when the subscription ends meanwhile.
    async fn connect(&mut self) -> Option<Result<Life, String>> {
        self.epoch += 1;
        let mut stage = self.stage.clone();
        let opening = Life::open(&mut self.servers, &self.subscription, &self.queue, self.epoch);
        tokio::select! {
            life = opening => Some(life),
            _ = stage.wait_for(|stage| *stage > Stage::Run) => None,
        }
    }

    fn complain(&mut self, trouble: &str) {
        if self.notices.is_due(trouble, std::time::Instant::now()) {
            let (source, queue) = (&self.subscription.source, &*self.queue_name);
            tracing::error!(source, queue, "{trouble}");
        }
    }

    /// A message came that nobody wanted, and the policy is to stop.
    async fn stand_still(&mut self) {
        self.subscription.metrics.partitions_stopped.set(1);
        // An error means that the worker is gone.
        let _ = self.stage.wait_for(|stage| *stage > Stage::Run).await;
    }
}
