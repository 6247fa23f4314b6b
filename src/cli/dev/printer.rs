//! Shows what arrives in the topics that results and dead letters go to.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;

use crate::cli::embedded::{self, Quiet};

/// How many lists of topics may wait to be noticed.
const LISTS_MAX: usize = 16;
/// How soon a new list is noticed.
const POLL_MAX: Duration = Duration::from_millis(100);

/// A reader on a thread of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct Printer {
    topics: SyncSender<Vec<String>>,
}

impl Printer {
    pub fn start(bootstrap: &str) -> Result<Self, String> {
        let consumer = embedded::consumer(bootstrap).map_err(|error| error.to_string())?;
        let (topics, lists) = sync_channel(LISTS_MAX);
        thread::Builder::new()
            .name("dev-printer".to_owned())
            .spawn(move || print_all(&consumer, &lists))
            .map_err(|error| error.to_string())?;
        Ok(Self { topics })
    }

    /// Also reads these topics, which must exist and not be read yet.
    pub fn add(&self, topics: Vec<String>) {
        if !topics.is_empty() {
            // A thread that has ended has said why.
            let _ = self.topics.send(topics);
        }
    }
}

fn print_all(consumer: &BaseConsumer<Quiet>, lists: &Receiver<Vec<String>>) {
    loop {
        match lists.try_recv() {
            Ok(topics) => {
                if let Err(error) = read_also(consumer, &topics) {
                    tracing::error!(?topics, %error, "what arrives in these topics cannot be shown");
                }
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        match consumer.poll(POLL_MAX) {
            Some(Ok(message)) => {
                let line = line(message.topic(), message.key(), message.payload());
                // Nobody may be reading any more.
                let _ = writeln!(io::stdout(), "{line}");
            }
            Some(Err(error)) => tracing::debug!(%error, "reading what arrives"),
            None => {}
        }
    }
}

fn read_also(consumer: &BaseConsumer<Quiet>, topics: &[String]) -> Result<(), KafkaError> {
    consumer.incremental_assign(&embedded::whole(topics)?)
}

/// What is shown of a record; a key or value that is missing is a dash.
fn line(topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) -> String {
    let text =
        |bytes: Option<&[u8]>| bytes.map_or_else(|| "-".into(), |bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("-> {topic} {} {}", text(key), text(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line() {
        assert_eq!(line("totals", Some(b"a"), Some(b"{\"total\":3}")), "-> totals a {\"total\":3}");
        assert_eq!(line("totals", None, None), "-> totals - -");
        assert_eq!(line("totals", None, Some(b"\xff")), "-> totals - \u{fffd}");
    }
}
