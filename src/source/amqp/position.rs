//! The position of a stream's reader: which offset is next, kept by the server, since AMQP 0.9.1 has no place for it.
//!
//! It stands as a note in a queue of its own, which has a single active consumer: being that consumer is the right to
//! read the stream for the group. The others of the group stand by with nothing to do, and the server hands the right on
//! the moment its holder is gone. A quorum queue, so that the position is as safe as the stream.
//!
//! What holds here: of the notes that name a position there is at least one in the queue at any time, settled only once a
//! later one has come back from the server; a position is written after what it covers is settled, so of several the
//! highest is true; as long as somebody consumes there is a note in the queue, so that whoever is handed the right hears
//! of it. The connection is not that of the stream: a server that is short of memory stops reading from those who publish.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer};
use serde::{Deserialize, Serialize};

use super::declare::explain_refusal;
use super::link::{Servers, explain};
use crate::config::QueueSettings;

/// After this long without the right somebody else has it.
const STANDING_BY: Duration = Duration::from_secs(2);
/// A note that takes longer is told of: a server that is short of memory or disk takes nothing.
const NOTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a last note may take.
const LAST_NOTE: Duration = Duration::from_secs(2);

/// What stands in the queue.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// By whom, and which of that reader's.
    by: String,
    /// The offset to read next; without it the note says only that somebody is there.
    next: Option<i64>,
}

type Writing = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A reader's hold on its position.
pub(super) struct Position {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    queue: String,
    /// Chosen by chance.
    reader: u64,
    /// Notes written so far.
    written: u64,
    /// What the server is known to keep.
    kept: Option<i64>,
    /// The note on its way, with its position.
    writing: Option<(Option<i64>, Writing)>,
    wrote_at: Instant,
    /// Whether it was told that the note on its way takes long.
    told_late: bool,
    /// A note is written anew after this long at the latest: servers take back what a consumer holds for long.
    refresh: Duration,
    /// The tag of the last note that came and is not settled; 0 where there is none.
    open: u64,
}

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Position").field("queue", &self.queue).field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Position {
    /// Waits until the right to read `stream` for `group` is ours, and learns the position. A note may be held for
    /// `keep_max`.
    ///
    /// # Errors
    /// What has gone wrong, in words.
    pub(super) async fn open(
        servers: &mut Servers,
        stream: &str,
        group: &str,
        keep_max: Duration,
    ) -> Result<Self, String> {
        let queue = QueueSettings::position_queue(group, stream);
        let connection = connect(servers).await?;
        let setup = async {
            let channel = connection.create_channel().await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.as_str().into(), options, arguments).await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let (name, options) = (queue.as_str().into(), BasicConsumeOptions::default());
            let consumer = channel.basic_consume(name, "".into(), options, FieldTable::default()).await?;
            Ok::<_, lapin::Error>((channel, consumer))
        };
        let (channel, consumer) =
            setup.await.map_err(|error| format!("queue `{queue}`: {}", explain_refusal(&error)))?;
        let mut position = Self {
            connection,
            channel,
            consumer,
            queue,
            reader: rand::random(),
            written: 0,
            kept: None,
            writing: None,
            wrote_at: Instant::now(),
            told_late: false,
            refresh: keep_max / 5,
            open: 0,
        };
        position.take_over(stream, group).await?;
        Ok(position)
    }

    /// The offset to read next, as the server keeps it.
    pub(super) fn kept(&self) -> Option<i64> {
        self.kept
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Waits for the right, then for a note of our own: what came before it is all there was.
    async fn take_over(&mut self, stream: &str, group: &str) -> Result<(), String> {
        self.write(None).await?;
        let first = match tokio::time::timeout(STANDING_BY, self.consumer.next()).await {
            Ok(first) => first,
            Err(_) => {
                tracing::info!(queue = stream, group, "another worker of the group reads the stream: standing by");
                self.consumer.next().await
            }
        };
        let mut found = self.note_of(first)?.next;
        self.write(None).await?;
        let last = self.mark(self.written);
        loop {
            let next = self.consumer.next().await;
            let note = self.note_of(next)?;
            if note.by == last {
                break;
            }
            found = found.max(note.next);
        }
        if found.is_some() {
            // A fresh note: servers count how often one was handed out, and drop it in the end.
            self.write(found).await?;
        }
        self.kept = found;
        Ok(())
    }

    /// Looks after the notes, without waiting: writes that `next` is to be read next, where that is news, and settles
    /// notes that are overtaken.
    ///
    /// # Errors
    /// When the right is lost.
    pub(super) fn keep(&mut self, next: Option<i64>) -> Result<(), String> {
        self.settle_overtaken()?;
        if let Some((_, writing)) = &mut self.writing {
            let Some(written) = writing.as_mut().now_or_never() else {
                if !self.told_late && self.wrote_at.elapsed() >= NOTE_TIMEOUT {
                    self.told_late = true;
                    tracing::warn!(
                        queue = self.queue,
                        "{}",
                        too_late("reading goes on, and a crash would repeat more")
                    );
                }
                return Ok(());
            };
            written?;
            self.told_late = false;
            self.kept = self.writing.take().and_then(|(next, _)| next).or(self.kept);
        }
        if next.is_some_and(|next| self.kept != Some(next)) || self.wrote_at.elapsed() >= self.refresh {
            let next = next.or(self.kept);
            let mut writing = self.writing_of(next);
            // A first push, so that it is on its way.
            match writing.as_mut().now_or_never() {
                Some(written) => {
                    written?;
                    self.kept = next;
                }
                None => self.writing = Some((next, writing)),
            }
        }
        Ok(())
    }

    /// Writes the last position of a reader that leaves, and lets go of the right.
    pub(super) async fn leave(mut self, next: Option<i64>) {
        let last = async {
            if let Some((next, writing)) = self.writing.take() {
                writing.await?;
                self.kept = next.or(self.kept);
            }
            if next.is_some_and(|next| self.kept != Some(next)) {
                self.write(next).await?;
            }
            Ok::<_, String>(())
        };
        match tokio::time::timeout(LAST_NOTE, last).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(queue = self.queue, "the last position could not be kept: {error}"),
            Err(_) => tracing::warn!(queue = self.queue, "the server did not confirm the last position"),
        }
        let closing = self.connection.close(200, "done".into());
        if !matches!(tokio::time::timeout(LAST_NOTE, closing).await, Ok(Ok(()))) {
            tracing::debug!("the position's connection could not be closed in order");
        }
    }

    /// Settles all notes before the last one of our own; those of readers that stand by one by one.
    fn settle_overtaken(&mut self) -> Result<(), String> {
        while let Some(next) = self.consumer.next().now_or_never() {
            let message = received(next)?;
            let is_own = read(&message).by.starts_with(&format!("{:016x}.", self.reader));
            let tag = message.delivery_tag;
            let overtaken = if is_own { std::mem::replace(&mut self.open, tag) } else { tag };
            // No tag is settled twice, and 0 would mean all of them.
            if overtaken > 0 {
                let acking = self.channel.basic_ack(overtaken, BasicAckOptions { multiple: is_own });
                if let Some(Err(error)) = acking.now_or_never() {
                    return Err(explain(&error));
                }
            }
        }
        Ok(())
    }

    /// A note that stays unsettled for now.
    fn note_of(&mut self, next: Option<Result<Delivery, lapin::Error>>) -> Result<Note, String> {
        let message = received(next)?;
        self.open = message.delivery_tag;
        let note = read(&message);
        if note.by.is_empty() {
            tracing::warn!(queue = self.queue, "a message that is no note of a position is passed over");
        }
        Ok(note)
    }

    async fn write(&mut self, next: Option<i64>) -> Result<(), String> {
        let writing = tokio::time::timeout(NOTE_TIMEOUT, self.writing_of(next)).await;
        writing.map_err(|_| too_late("still trying"))??;
        self.kept = next.or(self.kept);
        Ok(())
    }

    /// Publishes a note, and waits until the server has it.
    fn writing_of(&mut self, next: Option<i64>) -> Writing {
        self.written += 1;
        self.wrote_at = Instant::now();
        let note = Note { by: self.mark(self.written), next };
        let (channel, queue) = (self.channel.clone(), self.queue.clone());
        Box::pin(async move {
            let body = serde_json::to_vec(&note).map_err(|error| error.to_string())?;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
            let publishing = channel.basic_publish("".into(), queue.as_str().into(), options, &body, properties);
            let confirm = publishing.await.map_err(|error| explain(&error))?;
            match confirm.await.map_err(|error| explain(&error))? {
                Confirmation::Ack(None) => Ok(()),
                _ => Err(format!("the server did not take the position into `{queue}`; still trying")),
            }
        })
    }

    fn mark(&self, number: u64) -> String {
        format!("{:016x}.{number}", self.reader)
    }
}

/// One server after the other, so that two of which one is down serve as well.
async fn connect(servers: &mut Servers) -> Result<Connection, String> {
    let mut last = Err("there is no server".to_owned());
    for _ in 0..servers.count() {
        last = servers.connect().await;
        if last.is_ok() {
            break;
        }
    }
    last
}

fn received(next: Option<Result<Delivery, lapin::Error>>) -> Result<Delivery, String> {
    match next {
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(explain(&error)),
        None => Err("reading the position has ended, as when its queue is deleted: beginning again".to_owned()),
    }
}

fn too_late(meanwhile: &str) -> String {
    format!(
        "the server has not taken the position for {NOTE_TIMEOUT:?}, as when it is short of memory or disk: {meanwhile}"
    )
}

/// What cannot be read is nobody's and says nothing.
fn read(message: &Delivery) -> Note {
    serde_json::from_slice(&message.data).unwrap_or(Note { by: String::new(), next: None })
}
