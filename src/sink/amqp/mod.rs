//! The AMQP sink: one connection per place to write to, on a thread of its own.
//!
//! What holds here: every message is published `mandatory` and kept until the server has confirmed it. One that no queue
//! takes comes back, and is refused. What is unconfirmed when a connection is lost is published again on the next one,
//! in its order, and may then be there twice. A message over which the server itself fails, twice, is refused: it would
//! hold up all others. Sending never waits.

mod confirms;
mod message;
mod publisher;
mod routing;

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use self::message::Form;
use self::publisher::{FLUSH_TIMEOUT, Publisher};
use super::{Limits, Receipt, Receipts, Record};
use crate::config::{AmqpSettings, PropertySettings, RoutingKey};
use crate::event::Message;
use crate::source::Fault;
use crate::source::amqp::link::Servers;

const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where an AMQP sink publishes, and what it gives every record.
#[derive(Debug)]
pub struct Address {
    pub exchange: String,
    /// `None` where each record brings its own.
    pub routing_key: Option<RoutingKey>,
    pub properties: PropertySettings,
    pub headers: Vec<(String, serde_json::Value)>,
}

impl Address {
    /// The default exchange, for records that bring the name of a queue.
    pub fn of_replies() -> Self {
        Self {
            exchange: String::new(),
            routing_key: None,
            properties: PropertySettings::default(),
            headers: Vec::new(),
        }
    }
}

/// One address of one source.
#[derive(Debug)]
pub struct AmqpSink {
    name: String,
    routing_key: Option<RoutingKey>,
    limits: Limits,
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
    pub fn start(source: &str, settings: &AmqpSettings, address: Address) -> Result<Self, Fault> {
        let name = match &address.routing_key {
            Some(key) => format!("{source}/{}/{key}", address.exchange),
            None => format!("{source}/{}/replies", address.exchange),
        };
        let servers = Servers::new(source, settings, format!("lagless sink {name}"))?;
        let fault = |reason: String| Fault::Client { source_name: source.to_owned(), reason };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| fault(format!("cannot start a runtime: {error}")))?;
        #[expect(clippy::disallowed_methods, reason = "senders bound what they have outstanding")]
        let (parcels, inbox) = mpsc::unbounded_channel();
        let (alive, finished) = sync_channel::<()>(1);
        let form = Form::of(&address);
        let limits = form.limits();
        let publisher = Publisher::new(name.clone(), form, servers, inbox);
        thread::Builder::new()
            .name(format!("amqp-sink-{source}"))
            .spawn(move || {
                runtime.block_on(publisher.run());
                // The client's own tasks have nothing left to do.
                runtime.shutdown_timeout(Duration::from_millis(200));
                drop(alive);
            })
            .map_err(|error| fault(format!("cannot start a thread: {error}")))?;
        let routing_key = address.routing_key.filter(|key| key.constant().is_none());
        Ok(Self { name, routing_key, limits, parcels: Some(parcels), finished: Mutex::new(finished) })
    }

    /// `source/exchange/routing_key`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Queues a record about a message; see [`Sink::send`](super::Sink::send). AMQP has no keys: the record's key is left
    /// out.
    pub fn send(&self, message: &Message, mut record: Record, ticket: u64, receipts: &Receipts) {
        let routed = match &self.routing_key {
            Some(key) => routing::key_of(key, message).map(|key| record.routing_key = Some(key)),
            None => Ok(()),
        };
        let flaw = routed.err().or_else(|| message::flaw(&record, self.limits));
        let parcel = Parcel { record, ticket, receipts: receipts.clone() };
        if let Some(reason) = flaw {
            parcel.answer(Err(reason));
        } else if let Some(parcels) = &self.parcels {
            // A thread that has ended abandons what comes after, like what was on its way.
            let _ = parcels.send(parcel);
        }
    }

    /// How large records may be.
    pub fn limits(&self) -> Limits {
        self.limits
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
}
