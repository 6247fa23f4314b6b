//! The thread of an AMQP sink: connects, publishes, hears confirmations, and begins again where a connection is lost.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::{Channel, Connection, ErrorKind, Event};
use tokio::sync::mpsc;

use super::confirms::{Confirmed, Heard, Unconfirmed};
use super::message::{self, Form};
use super::{CLOSE_TIMEOUT, Parcel};
use crate::source::amqp::link::{Servers, explain};
use crate::source::kafka::client::Notices;

/// Unconfirmed messages; beyond this, confirmations come first.
const UNCONFIRMED_MAX: usize = 4096;
/// How long the server may take to take a message that is published.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// How often is looked whether the server blocks publishers, while it takes none.
const BLOCKED_LOOK: Duration = Duration::from_millis(500);
/// How long to wait for the reason of a failure.
const CAUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a sink that is dropped goes on to deliver what it holds.
pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Publisher {
    name: String,
    form: Form,
    servers: Servers,
    /// `None` once nothing more can come.
    inbox: Option<mpsc::UnboundedReceiver<Parcel>>,
    /// Not published yet, or to be published again.
    queued: VecDeque<Parcel>,
    /// How many of those in front are published one by one, since the server has failed over one of them.
    suspects: usize,
    flush_until: Option<Instant>,
    notices: Notices,
}

/// Why a connection is given up.
#[derive(Debug)]
pub(super) struct Trouble {
    reason: String,
    /// The server itself has failed, over something that it was sent.
    is_internal: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self { reason, is_internal: false }
    }
}

impl From<&lapin::Error> for Trouble {
    fn from(error: &lapin::Error) -> Self {
        let is_internal = matches!(error.kind(), ErrorKind::ProtocolError(told)
            if *told.kind() == AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR));
        Self { reason: explain(error), is_internal }
    }
}

impl Publisher {
    pub(super) fn new(name: String, form: Form, servers: Servers, inbox: mpsc::UnboundedReceiver<Parcel>) -> Self {
        let (inbox, queued) = (Some(inbox), VecDeque::new());
        Self { name, form, servers, inbox, queued, suspects: 0, flush_until: None, notices: Notices::default() }
    }

    pub(super) async fn run(mut self) {
        while !self.is_over() {
            if self.queued.is_empty() && self.inbox.is_some() {
                self.receive().await;
                continue;
            }
            let outcome = match self.open().await {
                Ok((connection, channel)) => {
                    let outcome = self.publish_all(&connection, &channel).await;
                    // One that is lost already needs no closing.
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await;
                    outcome
                }
                Err(trouble) => Err(trouble),
            };
            if let Err(Trouble { reason, .. }) = outcome {
                if self.notices.is_due(&reason, Instant::now()) {
                    tracing::error!(sink = self.name, "cannot publish: {reason}; messages are kept and sent again");
                }
                let wait = self.servers.backoff();
                tokio::time::sleep(wait).await;
                self.take_waiting();
            }
        }
        if !self.queued.is_empty() {
            let open = self.queued.len();
            tracing::warn!(sink = self.name, open, "messages were not confirmed before the end");
        }
    }

    /// Whether nothing is left to do, or no time.
    fn is_over(&self) -> bool {
        self.inbox.is_none()
            && (self.queued.is_empty() || self.flush_until.is_some_and(|until| Instant::now() >= until))
    }

    async fn receive(&mut self) {
        let Some(inbox) = &mut self.inbox else { return };
        match inbox.recv().await {
            Some(parcel) => self.queued.push_back(parcel),
            None => self.end_of_inbox(),
        }
    }

    fn end_of_inbox(&mut self) {
        self.inbox = None;
        self.flush_until.get_or_insert(Instant::now() + FLUSH_TIMEOUT);
    }

    /// Takes what is there without waiting.
    fn take_waiting(&mut self) {
        while let Some(inbox) = &mut self.inbox {
            match inbox.try_recv() {
                Ok(parcel) => self.queued.push_back(parcel),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => self.end_of_inbox(),
            }
        }
    }

    async fn open(&mut self) -> Result<(Connection, Channel), Trouble> {
        let connection = self.servers.connect().await?;
        let setup = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = setup.await.map_err(|error| Trouble::from(&error))?;
        Ok((connection, channel))
    }

    /// Publishes until nothing can come any more. After an error, what is unconfirmed is queued again.
    async fn publish_all(&mut self, connection: &Connection, channel: &Channel) -> Result<(), Trouble> {
        let mut events = Box::pin(connection.events_listener());
        let mut unconfirmed = Unconfirmed::default();
        let outcome = loop {
            if let Err(trouble) = self.publish_queued(connection, channel, &mut unconfirmed).await {
                break Err(self.cause(channel, &mut unconfirmed).await.unwrap_or(trouble));
            }
            if self.is_over() && unconfirmed.is_empty() {
                break Ok(());
            }
            let expired = self
                .flush_until
                .map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
            let heard = tokio::select! {
                biased;
                heard = unconfirmed.hear(channel) => self.heard(heard),
                parcel = next_parcel(&mut self.inbox), if unconfirmed.len() < UNCONFIRMED_MAX => {
                    match parcel {
                        Some(parcel) => self.queued.push_back(parcel),
                        None => self.end_of_inbox(),
                    }
                    Ok(())
                }
                event = events.next() => self.heed(event),
                () = tokio::time::sleep(expired) => Err("no time is left".to_owned().into()),
            };
            if let Err(trouble) = heard {
                break Err(trouble);
            }
        };
        if let Err(trouble) = &outcome
            && trouble.is_internal
        {
            self.suspect(&mut unconfirmed, trouble);
        }
        for parcel in unconfirmed.into_parcels().rev() {
            self.queued.push_front(parcel);
        }
        outcome
    }

    /// The server has failed over one of the unconfirmed: they are published one by one from now on. One over which it
    /// fails again although it was alone is refused.
    fn suspect(&mut self, unconfirmed: &mut Unconfirmed, trouble: &Trouble) {
        if self.suspects > 0 && unconfirmed.len() == 1 {
            self.suspects -= 1;
            self.servers.succeeded();
            let culprit = std::mem::take(unconfirmed).into_parcels().next();
            culprit.into_iter().for_each(|parcel| parcel.answer(Err(format!("the server fails over it: {trouble}"))));
        } else {
            self.suspects = self.suspects.max(unconfirmed.len());
        }
    }

    /// Publishes what is queued, as far as the bound on unconfirmed messages goes.
    async fn publish_queued(
        &mut self,
        connection: &Connection,
        channel: &Channel,
        unconfirmed: &mut Unconfirmed,
    ) -> Result<(), Trouble> {
        self.take_waiting();
        let most = if self.suspects > 0 { 1 } else { UNCONFIRMED_MAX };
        while unconfirmed.len() < most {
            let Some(parcel) = self.queued.pop_front() else { break };
            let key = self.form.routing_key(&parcel.record);
            let mandatory = message::is_mandatory(key.as_str());
            let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
            let body = parcel.record.value.as_deref().unwrap_or_default();
            let (exchange, properties) = (self.form.exchange().clone(), self.form.properties(&parcel.record));
            let publishing = channel.basic_publish(exchange, key.clone(), options, body, properties);
            match self.taken(connection, publishing).await {
                Ok(confirm) => unconfirmed.add(parcel, key, confirm),
                Err(trouble) => {
                    self.queued.push_front(parcel);
                    return Err(trouble);
                }
            }
        }
        Ok(())
    }

    /// Waits until a message is on its way. A server that blocks publishers, since it is short of memory or disk, may take
    /// its time: another connection would be blocked as well, and what is unconfirmed on this one would be there twice.
    async fn taken<T>(
        &mut self,
        connection: &Connection,
        publishing: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Trouble> {
        let mut publishing = std::pin::pin!(publishing);
        let mut since = Instant::now();
        loop {
            match tokio::time::timeout(BLOCKED_LOOK, &mut publishing).await {
                Ok(published) => return published.map_err(|error| Trouble::from(&error)),
                Err(_) if connection.status().blocked() => {
                    since = Instant::now();
                    self.tell_blocked("short of memory or disk");
                }
                Err(_) if since.elapsed() < PUBLISH_TIMEOUT => {}
                Err(_) => {
                    return Err(format!("the server took no message for {PUBLISH_TIMEOUT:?}; still trying").into());
                }
            }
        }
    }

    fn tell_blocked(&mut self, reason: &str) {
        let told = "the server blocks publishers: waiting until it has room again";
        if self.notices.is_due(told, Instant::now()) {
            tracing::warn!(sink = self.name, reason, "{told}");
        }
    }

    /// Why nothing can be published any more. A channel that the server closes takes no messages from then on, and only
    /// a moment later says why, to those that wait for a confirmation.
    async fn cause(&mut self, channel: &Channel, unconfirmed: &mut Unconfirmed) -> Option<Trouble> {
        let until = Instant::now() + CAUSE_TIMEOUT;
        while !unconfirmed.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let heard = tokio::time::timeout(left, unconfirmed.hear(channel)).await.ok()?;
            if let Err(trouble) = self.heard(heard) {
                return Some(trouble);
            }
        }
        None
    }

    /// Answers the senders of what is confirmed.
    fn heard(&mut self, heard: Heard) -> Result<(), Trouble> {
        self.suspects = self.suspects.saturating_sub(heard.confirmed.len());
        for Confirmed { parcel, routing_key, returned } in heard.confirmed {
            self.servers.succeeded();
            let exchange = self.form.exchange();
            let written = match returned {
                None => Ok(()),
                Some(told) => Err(format!("unroutable: {told} (exchange `{exchange}`, routing key `{routing_key}`)")),
            };
            parcel.answer(written);
        }
        heard.trouble.map_or(Ok(()), Err)
    }

    fn heed(&mut self, event: Option<Event>) -> Result<(), Trouble> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                self.tell_blocked(&reason.to_string());
                Ok(())
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!(sink = self.name, "the server takes messages again");
                Ok(())
            }
            Some(Event::Error(error)) => Err(Trouble::from(&error)),
            Some(_) => Ok(()),
            None => Err("connection lost; still trying".to_owned().into()),
        }
    }
}

/// The next message from a sender; `None` once no more can come, never after that.
async fn next_parcel(inbox: &mut Option<mpsc::UnboundedReceiver<Parcel>>) -> Option<Parcel> {
    match inbox {
        Some(inbox) => inbox.recv().await,
        None => std::future::pending().await,
    }
}
