//! Commits, on a thread of their own.
//!
//! The client library answers a commit made without waiting only through a callback that rust-rdkafka never installs, so
//! a refusal would go unheard. Here commits are made one at a time and waited for, beside the polling thread, which
//! must not stand still while a broker is away.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};

use super::context::Context;

/// What became of a commit.
#[derive(Debug)]
pub(super) struct Answer {
    pub result: KafkaResult<()>,
    pub offsets: TopicPartitionList,
}

pub(super) struct Committer {
    orders: mpsc::SyncSender<TopicPartitionList>,
    answers: mpsc::Receiver<Answer>,
    thread: JoinHandle<()>,
}

impl Committer {
    pub(super) fn start(consumer: Arc<BaseConsumer<Context>>) -> std::io::Result<Self> {
        // One commit is made at a time, so neither end ever waits for room.
        let (orders, inbox) = mpsc::sync_channel(1);
        let (outbox, answers) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("kafka-commit".to_owned()).spawn(move || {
            while let Ok(offsets) = inbox.recv() {
                let result = consumer.commit(&offsets, CommitMode::Sync);
                if outbox.send(Answer { result, offsets }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders, answers, thread })
    }

    /// Commits `offsets`; the answer comes by [`answer`](Self::answer).
    ///
    /// # Errors
    /// Hands back the offsets where the thread has ended.
    pub(super) fn commit(&self, offsets: TopicPartitionList) -> Result<(), Answer> {
        self.orders
            .send(offsets)
            .map_err(|mpsc::SendError(offsets)| Answer { result: Err(KafkaError::Canceled), offsets })
    }

    /// The next answer, if one has come.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    /// Ends the thread once the commit that it waits for is answered.
    pub(super) fn end(self) {
        drop(self.orders);
        // It does nothing that can panic.
        let _ = self.thread.join();
    }
}
