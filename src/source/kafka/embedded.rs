//! An embedded Kafka-compatible broker for trying things out: `lagless demo`, `lagless dev` and tests.
//!
//! It is the mock cluster of librdkafka. Its bounds: messages live in memory only, and each partition keeps about 5 MB
//! or 100,000 messages and drops older ones, read or not; there is no security, no topic administration over the wire,
//! no compaction; a group's first members wait 3 s for each other. Clients should set `fetch.wait.max.ms` to
//! 10 to 50, since the mock answers a fetch that finds nothing only when that time is over: see [`CLIENT_SETTINGS`].

use std::sync::mpsc;
use std::thread;

use rdkafka::mocking::MockCluster;

/// Client settings that suit the embedded broker.
pub const CLIENT_SETTINGS: [(&str, &str); 1] = [("fetch.wait.max.ms", "20")];

/// A running broker. It ends when dropped.
#[derive(Debug)]
pub struct EmbeddedBroker {
    bootstrap: String,
    orders: mpsc::SyncSender<Order>,
}

/// What the broker's thread can be asked to do.
#[derive(Debug)]
enum Order {
    CreateTopic {
        name: String,
        partitions: i32,
        done: mpsc::SyncSender<Result<(), String>>,
    },
    #[cfg(test)]
    SetUp {
        is_up: bool,
        done: mpsc::SyncSender<Result<(), String>>,
    },
    #[cfg(test)]
    RefuseFetch {
        done: mpsc::SyncSender<Result<(), String>>,
    },
}

impl EmbeddedBroker {
    /// Starts a broker on a free port of the loopback interface.
    ///
    /// # Errors
    /// When it cannot be started, with the reason.
    pub fn start() -> Result<Self, String> {
        let (orders, inbox) = mpsc::sync_channel(1);
        let (ready, started) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(move || serve(&ready, &inbox))
            .map_err(|error| error.to_string())?;
        let bootstrap = started.recv().map_err(|_| "the broker's thread has ended".to_owned())??;
        Ok(Self { bootstrap, orders })
    }

    /// `host:port` of the broker.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// When the topic exists or its name is not allowed.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), String> {
        self.ask(|done| Order::CreateTopic { name: name.to_owned(), partitions, done })
    }

    /// Cuts the broker off, or lets it be reached again.
    #[cfg(test)]
    pub(crate) fn set_up(&self, is_up: bool) {
        self.ask(|done| Order::SetUp { is_up, done }).expect("the mock obeys");
    }

    /// Answers the next fetch of every partition in it with "offset out of range".
    #[cfg(test)]
    pub(crate) fn refuse_fetch(&self) {
        self.ask(|done| Order::RefuseFetch { done }).expect("the mock obeys");
    }

    fn ask(&self, order: impl FnOnce(mpsc::SyncSender<Result<(), String>>) -> Order) -> Result<(), String> {
        let (done, answer) = mpsc::sync_channel(1);
        let gone = |_| "the broker's thread has ended".to_owned();
        self.orders.send(order(done)).map_err(|_| gone(mpsc::RecvError))?;
        answer.recv().map_err(gone)?
    }
}

/// Holds the mock cluster, which must stay on the thread that made it, until nobody can send orders any more.
fn serve(ready: &mpsc::SyncSender<Result<String, String>>, inbox: &mpsc::Receiver<Order>) {
    let cluster = match MockCluster::new(1) {
        Ok(cluster) => cluster,
        Err(error) => {
            // Without a listener there is nobody to tell.
            let _ = ready.send(Err(error.to_string()));
            return;
        }
    };
    if ready.send(Ok(cluster.bootstrap_servers())).is_err() {
        return;
    }
    while let Ok(order) = inbox.recv() {
        let (result, done) = match order {
            Order::CreateTopic { name, partitions, done } => (cluster.create_topic(&name, partitions, 1), done),
            #[cfg(test)]
            Order::SetUp { is_up: true, done } => (cluster.broker_up(1), done),
            #[cfg(test)]
            Order::SetUp { is_up: false, done } => (cluster.broker_down(1), done),
            #[cfg(test)]
            Order::RefuseFetch { done } => {
                use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
                let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
                cluster.request_errors(RDKafkaApiKey::Fetch, &[error]);
                (Ok(()), done)
            }
        };
        // Whoever asked may have gone away.
        let _ = done.send(result.map_err(|error| error.to_string()));
    }
}
