//! The AMQP sink: one connection per exchange and routing key, on a thread of its own.
//!
//! What holds here: every message is published `mandatory` and persistent, and kept until the server has confirmed it.
//! One that no queue takes comes back, and is refused. What is unconfirmed when a connection is lost is published again
//! on the next one, in its order, and may then be there twice. Sending never waits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event, PublisherConfirm};
use tokio::sync::mpsc;

use super::{Receipt, Receipts, Record};
use crate::config::AmqpSettings;
use crate::source::Fault;
use crate::source::amqp::link::{Servers, explain};
use crate::source::kafka::client::Notices;

/// What servers take by default, less some room.
const RECORD_MAX: usize = (128 << 20) - (1 << 20);
/// Headers travel in one frame, of 128 KiB by default.
const HEADERS_MAX: usize = 100 << 10;
const HEADER_NAME_MAX: usize = 255;
/// Unconfirmed messages; beyond this, confirmations come first.
const UNCONFIRMED_MAX: usize = 4096;
/// How long the server may take to take a message that is published.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a sink that is dropped goes on to deliver what it holds.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// What AMQP calls persistent.
const PERSISTENT: u8 = 2;

/// One exchange and routing key of one source.
#[derive(Debug)]
pub struct AmqpSink {
    name: String,
    /// `None` while it is dropped.
    parcels: Option<mpsc::UnboundedSender<Parcel>>,
    /// Closed when the thread has ended.
    finished: Mutex<Receiver<()>>,
}

/// A message on its way.
#[derive(Debug)]
struct Parcel {
    record: Record,
    ticket: u64,
    receipts: Receipts,
}

impl AmqpSink {
    /// Starts the sink. It does not wait for the server.
    ///
    /// # Errors
    /// When an address cannot be understood, or there are no threads left.
    pub fn start(source: &str, settings: &AmqpSettings, exchange: &str, routing_key: &str) -> Result<Self, Fault> {
        let name = format!("{source}/{exchange}/{routing_key}");
        let servers = Servers::new(source, settings, format!("lagless sink {name}"))?;
        let fault = |reason: String| Fault::Client { source_name: source.to_owned(), reason };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| fault(format!("cannot start a runtime: {error}")))?;
        #[expect(clippy::disallowed_methods, reason = "senders bound what they have outstanding")]
        let (parcels, inbox) = mpsc::unbounded_channel();
        let (alive, finished) = sync_channel::<()>(1);
        let publisher = Publisher {
            name: name.clone(),
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            servers,
            inbox: Some(inbox),
            queued: VecDeque::new(),
            failed: None,
            flush_until: None,
            notices: Notices::default(),
        };
        thread::Builder::new()
            .name(format!("amqp-sink-{source}"))
            .spawn(move || {
                runtime.block_on(publisher.run());
                // The client's own tasks have nothing left to do.
                runtime.shutdown_timeout(Duration::from_millis(200));
                drop(alive);
            })
            .map_err(|error| fault(format!("cannot start a thread: {error}")))?;
        Ok(Self { name, parcels: Some(parcels), finished: Mutex::new(finished) })
    }

    /// `source/exchange/routing_key`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Queues a record; see [`Sink::send`](super::Sink::send). AMQP has no keys: the record's key is left out.
    pub fn send(&self, record: Record, ticket: u64, receipts: &Receipts) {
        let parcel = Parcel { record, ticket, receipts: receipts.clone() };
        if let Some(reason) = parcel.flaw() {
            parcel.answer(Err(reason));
        } else if let Some(parcels) = &self.parcels {
            // A thread that has ended abandons what comes after, like what was on its way.
            let _ = parcels.send(parcel);
        }
    }

    /// The largest record that can be written, in bytes.
    pub fn record_max(&self) -> usize {
        RECORD_MAX
    }
}

impl Drop for AmqpSink {
    fn drop(&mut self) {
        self.parcels = None;
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.recv_timeout(FLUSH_TIMEOUT + 2 * CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(sink = self.name, "the publisher does not come to an end: leaving it");
        }
    }
}

impl Parcel {
    fn answer(self, written: Result<(), String>) {
        // A sender that has gone has no use for receipts.
        let _ = self.receipts.send(Receipt { ticket: self.ticket, written });
    }

    /// Why the record can never be published.
    fn flaw(&self) -> Option<String> {
        let Record { value, headers, .. } = &self.record;
        let size: usize = headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) + 6).sum();
        if size > HEADERS_MAX {
            return Some(format!("its headers take {size} bytes; allowed: {HEADERS_MAX}"));
        }
        if let Some((name, _)) = headers.iter().find(|(name, _)| name.len() > HEADER_NAME_MAX) {
            return Some(format!("a header's name has {} bytes; allowed: {HEADER_NAME_MAX}", name.len()));
        }
        let length = value.as_ref().map_or(0, Vec::len);
        (length > RECORD_MAX).then(|| format!("it has {length} bytes; allowed: {RECORD_MAX}"))
    }

    fn properties(&self) -> BasicProperties {
        let mut table = FieldTable::default();
        let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        for (name, value) in &self.record.headers {
            let text = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
            match text {
                Some(text) if name.eq_ignore_ascii_case("content-type") && text.len() <= HEADER_NAME_MAX => {
                    properties = properties.with_content_type(text.into());
                }
                _ => {
                    let value =
                        value.as_ref().map_or(AMQPValue::Void, |bytes| AMQPValue::LongString(bytes.clone().into()));
                    table.insert(name.as_str().into(), value);
                }
            }
        }
        if table.inner().is_empty() { properties } else { properties.with_headers(table) }
    }
}

/// A message that waits for its confirmation.
struct Unconfirmed {
    parcel: Parcel,
    confirm: PublisherConfirm,
}

struct Publisher {
    name: String,
    exchange: ShortString,
    routing_key: ShortString,
    servers: Servers,
    /// `None` once nothing more can come.
    inbox: Option<mpsc::UnboundedReceiver<Parcel>>,
    /// Not published yet, or to be published again.
    queued: VecDeque<Parcel>,
    /// The message whose publishing ended the connection.
    failed: Option<Parcel>,
    flush_until: Option<Instant>,
    notices: Notices,
}

impl Publisher {
    async fn run(mut self) {
        while !self.is_over() {
            if self.queued.is_empty() && self.inbox.is_some() {
                self.receive().await;
                continue;
            }
            let trouble = match self.open().await {
                Ok((connection, channel)) => {
                    let outcome = self.publish_all(&connection, &channel).await;
                    // One that is lost already needs no closing.
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await;
                    outcome
                }
                Err(reason) => Err(reason),
            };
            if let Err(reason) = trouble {
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

    async fn open(&mut self) -> Result<(Connection, Channel), String> {
        let connection = self.servers.connect().await?;
        let setup = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = setup.await.map_err(|error| explain(&error))?;
        Ok((connection, channel))
    }

    /// Publishes until nothing can come any more. After an error, what is unconfirmed is queued again.
    async fn publish_all(&mut self, connection: &Connection, channel: &Channel) -> Result<(), String> {
        let mut events = Box::pin(connection.events_listener());
        let mut unconfirmed = VecDeque::new();
        let outcome = loop {
            if let Err(reason) = self.publish_queued(channel, &mut unconfirmed).await {
                break Err(reason);
            }
            if self.is_over() && unconfirmed.is_empty() {
                break Ok(());
            }
            let expired = self
                .flush_until
                .map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
            let heard = tokio::select! {
                biased;
                confirmed = first_confirmed(&mut unconfirmed) => self.confirmed(confirmed),
                parcel = next_parcel(&mut self.inbox), if unconfirmed.len() < UNCONFIRMED_MAX => {
                    match parcel {
                        Some(parcel) => self.queued.push_back(parcel),
                        None => self.end_of_inbox(),
                    }
                    Ok(())
                }
                event = events.next() => self.heed(event),
                () = tokio::time::sleep(expired) => Err("no time is left".to_owned()),
            };
            if let Err(reason) = heard {
                break Err(reason);
            }
        };
        for Unconfirmed { parcel, .. } in unconfirmed.into_iter().rev() {
            self.queued.push_front(parcel);
        }
        // It was the oldest of them.
        if let Some(parcel) = self.failed.take() {
            self.queued.push_front(parcel);
        }
        outcome
    }

    /// Publishes what is queued, as far as the bound on unconfirmed messages goes.
    async fn publish_queued(
        &mut self,
        channel: &Channel,
        unconfirmed: &mut VecDeque<Unconfirmed>,
    ) -> Result<(), String> {
        self.take_waiting();
        while unconfirmed.len() < UNCONFIRMED_MAX {
            let Some(parcel) = self.queued.pop_front() else { break };
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let body = parcel.record.value.as_deref().unwrap_or_default();
            let (exchange, routing_key) = (self.exchange.clone(), self.routing_key.clone());
            let publishing = channel.basic_publish(exchange, routing_key, options, body, parcel.properties());
            let published = tokio::time::timeout(PUBLISH_TIMEOUT, publishing).await;
            match published {
                Ok(Ok(confirm)) => unconfirmed.push_back(Unconfirmed { parcel, confirm }),
                Ok(Err(error)) => {
                    self.queued.push_front(parcel);
                    return Err(explain(&error));
                }
                Err(_) => {
                    self.queued.push_front(parcel);
                    return Err(format!("the server took no message for {PUBLISH_TIMEOUT:?}; still trying"));
                }
            }
        }
        Ok(())
    }

    /// Answers the sender of a message, unless it must be published again.
    fn confirmed(&mut self, (parcel, result): (Parcel, lapin::Result<Confirmation>)) -> Result<(), String> {
        match result {
            Ok(Confirmation::Ack(None)) => {
                self.servers.succeeded();
                parcel.answer(Ok(()));
                Ok(())
            }
            Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
                let (exchange, key) = (&self.exchange, &self.routing_key);
                let told = &returned.reply_text;
                parcel.answer(Err(format!("unroutable: {told} (exchange `{exchange}`, routing key `{key}`)")));
                Ok(())
            }
            Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => {
                self.failed = Some(parcel);
                Err("the server could not keep a message; still trying".to_owned())
            }
            Err(error) => {
                self.failed = Some(parcel);
                Err(explain(&error))
            }
        }
    }

    fn heed(&mut self, event: Option<Event>) -> Result<(), String> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(
                    sink = self.name,
                    reason,
                    "the server blocks publishers: waiting until it has room again"
                );
                Ok(())
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!(sink = self.name, "the server takes messages again");
                Ok(())
            }
            Some(Event::Error(error)) => Err(explain(&error)),
            Some(_) => Ok(()),
            None => Err("connection lost; still trying".to_owned()),
        }
    }
}

/// The oldest unconfirmed message once the server has spoken of it; never where there is none.
async fn first_confirmed(unconfirmed: &mut VecDeque<Unconfirmed>) -> (Parcel, lapin::Result<Confirmation>) {
    let result = match unconfirmed.front_mut() {
        Some(front) => Pin::new(&mut front.confirm).await,
        None => std::future::pending().await,
    };
    match unconfirmed.pop_front() {
        Some(front) => (front.parcel, result),
        None => std::future::pending().await,
    }
}

/// The next message from a sender; `None` once no more can come, never after that.
async fn next_parcel(inbox: &mut Option<mpsc::UnboundedReceiver<Parcel>>) -> Option<Parcel> {
    match inbox {
        Some(inbox) => inbox.recv().await,
        None => std::future::pending().await,
    }
}
