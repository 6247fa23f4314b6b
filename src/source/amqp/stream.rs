//! Reading a stream: from where, how far it has got, and how much more the server may send.
//!
//! On a stream an acknowledgement destroys nothing; it only lets the server send more. So it is the number of settled
//! messages that is acknowledged, whichever they are, and what is done is kept by [`Position`].

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};

use super::declare;
use super::lend::stream_offset;
use super::position::Position;
use super::tags::Answer;
use crate::config::Start;
use crate::delivery::{OffsetTracker, Settled};

/// A finished window may grow to this many times the prefetch while its oldest message is not settled.
const WINDOW_FACTOR: usize = 8;
/// How long messages may take that are there: the server begins to send with its word that we consume.
const SILENCE: Duration = Duration::from_secs(1);
/// A message from before the kept position comes at once, unless it does not exist.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    First,
    /// The piece that holds this time, in seconds since the Unix epoch.
    Time(i64),
    Offset(i64),
    /// As kept: what is before it has been read.
    Kept(i64),
}

/// The last piece of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastPiece {
    pub first: i64,
    /// The offset after its last message.
    pub end: i64,
}

impl From {
    /// Where `start` says. What changes with time is taken as a number, and an empty stream is read from its beginning: so
    /// that nothing is missed that comes before the first position is kept.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) async fn of(start: Start, connection: &Connection, stream: &str) -> Result<Self, lapin::Error> {
        Ok(match start {
            Start::Earliest => Self::First,
            Start::Latest => Self::Offset(last_piece(connection, stream).await?.map_or(0, |last| last.end)),
            Start::Last => Self::Offset(last_piece(connection, stream).await?.map_or(0, |last| last.first)),
            Start::Offset(offset) => Self::Offset(offset),
            Start::Time(seconds) => Self::Time(seconds),
        })
    }

    /// For the server. From a kept position one message more is asked for: if it comes, the stream is still the one that
    /// the position was kept of.
    pub(super) fn argument(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::Time(seconds) => AMQPValue::Timestamp(seconds.cast_unsigned()),
            Self::Offset(offset) => AMQPValue::LongLongInt(offset),
            Self::Kept(next) => AMQPValue::LongLongInt((next - 1).max(0)),
        }
    }

    /// The first offset to take.
    fn wanted(self) -> i64 {
        match self {
            Self::First | Self::Time(_) => 0,
            Self::Offset(offset) | Self::Kept(offset) => offset,
        }
    }
}

/// A stream for the time of one connection.
#[derive(Debug)]
pub(super) struct Reading {
    position: Position,
    tracker: OffsetTracker,
    from: From,
    began: Instant,
    /// The offset after the last message, as far as is known.
    end: i64,
    /// When the last message came.
    heard: Instant,
    /// The last tag that came, and the last that was acknowledged.
    read: u64,
    acknowledged: u64,
    prefetch: usize,
    interval: Duration,
    /// When the position was looked at last; a chosen one is kept at once.
    kept_at: Option<Instant>,
}

/// What to do with a message of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Take,
    /// From before the position.
    Known,
    /// The stream is not the one that the position was kept of.
    Other,
}

impl Reading {
    pub(super) fn new(position: Position, from: From, prefetch: usize, interval: Duration) -> Self {
        Self {
            position,
            tracker: OffsetTracker::default(),
            from,
            began: Instant::now(),
            end: 0,
            heard: Instant::now(),
            read: 0,
            acknowledged: 0,
            prefetch,
            interval,
            kept_at: None,
        }
    }

    /// Looks at an offset before its message is read.
    pub(super) fn find(&mut self, offset: i64) -> Found {
        self.end = self.end.max(offset + 1);
        self.heard = Instant::now();
        let is_first = self.read == 0;
        match self.from {
            From::Kept(next) if is_first && offset > next => {
                tracing::warn!(
                    queue = self.position.queue(),
                    missing = offset - next,
                    next,
                    first = offset,
                    "messages were removed from the stream before they were read, by its retention"
                );
                Found::Take
            }
            From::Kept(next) if is_first && offset < next - 1 => Found::Other,
            from if offset < from.wanted() => Found::Known,
            _ => Found::Take,
        }
    }

    pub(super) fn read(&mut self, tag: u64, offset: i64, deliveries: u32, bytes: usize) {
        self.read = tag;
        self.tracker.read(offset, deliveries, bytes);
    }

    pub(super) fn settle(&mut self, offset: i64, settled: Settled) -> Option<Settled> {
        self.tracker.settle(offset, settled)
    }

    /// As many are acknowledged as are settled, as long as what a crash would repeat stays bounded.
    pub(super) fn answers(&mut self) -> Vec<Answer> {
        let settled = self.read - self.tracker.waiting() as u64;
        if settled <= self.acknowledged || self.tracker.window() >= self.prefetch.saturating_mul(WINDOW_FACTOR) {
            return Vec::new();
        }
        self.acknowledged = settled;
        vec![Answer::AckUpTo(settled)]
    }

    /// Keeps the position, where it is time.
    ///
    /// # Errors
    /// When somebody else reads by now, or what was let go must be read again.
    pub(super) fn keep(&mut self) -> Result<(), String> {
        let is_due = self.kept_at.is_none_or(|at| at.elapsed() >= self.interval);
        if is_due {
            self.kept_at = Some(Instant::now());
        }
        self.position.keep(self.next().filter(|_| is_due))
    }

    /// The offset that may be kept as the next one to read.
    fn next(&self) -> Option<i64> {
        let chosen = match self.from {
            From::Offset(offset) => Some(offset),
            From::First | From::Time(_) | From::Kept(_) => None,
        };
        self.tracker.committable().max(chosen).max(self.position.kept())
    }

    /// What is wrong with the kept position, once it is certain.
    pub(super) fn doubt(&self) -> Option<String> {
        match self.from {
            From::Kept(next) if next > 0 && self.read == 0 && self.began.elapsed() >= PROOF_TIMEOUT => {
                Some(self.misplaced())
            }
            _ => None,
        }
    }

    /// Says that the position belongs to another stream.
    pub(super) fn misplaced(&self) -> String {
        let next = self.from.wanted();
        format!(
            "the kept position {next} lies beyond the end of the stream, which was deleted and made anew, or is \
             incomplete: delete the queue `{}` to begin as `start` says; still waiting",
            self.position.queue()
        )
    }

    pub(super) fn has_released(&self) -> bool {
        self.tracker.has_released()
    }

    pub(super) fn waiting(&self) -> usize {
        self.tracker.waiting()
    }

    pub(super) fn bytes(&self) -> usize {
        self.tracker.bytes()
    }

    /// Notes how far the stream reaches.
    pub(super) fn reaches(&mut self, end: i64) {
        self.end = end;
    }

    /// Messages published and not settled, as far as is known. The server tells how far a stream reaches some seconds
    /// late, and counts entries of its own among the messages; but what it could send it sends at once, so a silence
    /// means that all has been read.
    pub(super) fn lag(&self) -> i64 {
        let waiting = self.tracker.waiting();
        let is_silent = waiting < self.prefetch && self.heard.elapsed() >= SILENCE;
        match self.tracker.next().or(self.next()) {
            Some(next) if !is_silent => waiting as i64 + (self.end - next).max(0),
            _ => waiting as i64,
        }
    }

    /// Lets go of the right to read.
    pub(super) async fn leave(self) {
        let next = self.next();
        self.position.leave(next).await;
    }
}

/// How far a stream reaches, as the server tells it: how many messages there are, and which is the first.
///
/// # Errors
/// When the server does not answer.
pub(super) async fn end(connection: &Connection, stream: &str) -> Result<i64, lapin::Error> {
    let channel = connection.create_channel().await?;
    let mut consumer = peek(&channel, stream, "first", 1).await?;
    let first = offset_of(consumer.next().await)?.unwrap_or_default();
    let messages = declare::depth(&channel, stream).await?;
    channel.close(200, "done".into()).await?;
    Ok(first + i64::from(messages))
}

/// Looks at the last piece of a stream; `None` where the stream is empty.
async fn last_piece(connection: &Connection, stream: &str) -> Result<Option<LastPiece>, lapin::Error> {
    let channel = connection.create_channel().await?;
    let mut consumer = peek(&channel, stream, "last", u16::MAX).await?;
    let mut last = None;
    // While messages keep coming there is a new last piece; what comes after the second look is new in any case.
    let until = Instant::now() + SILENCE * 2;
    while Instant::now() < until {
        let Ok(next) = tokio::time::timeout(SILENCE, consumer.next()).await else { break };
        let Some(offset) = offset_of(next)? else { break };
        let LastPiece { first, .. } = *last.get_or_insert(LastPiece { first: offset, end: offset });
        last = Some(LastPiece { first, end: offset + 1 });
    }
    channel.close(200, "done".into()).await?;
    Ok(last)
}

async fn peek(channel: &Channel, stream: &str, from: &str, prefetch: u16) -> Result<Consumer, lapin::Error> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString(from.into()));
    channel.basic_consume(stream.into(), "".into(), BasicConsumeOptions::default(), arguments).await
}

fn offset_of(next: Option<Result<Delivery, lapin::Error>>) -> Result<Option<i64>, lapin::Error> {
    Ok(next.transpose()?.and_then(|message| stream_offset(&message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_before_the_kept_position_is_asked_for() {
        assert_eq!(From::Kept(12).argument(), AMQPValue::LongLongInt(11));
        assert_eq!(From::Kept(0).argument(), AMQPValue::LongLongInt(0));
        assert_eq!(From::Offset(12).argument(), AMQPValue::LongLongInt(12));
        assert_eq!((From::Kept(12).wanted(), From::Time(12).wanted()), (12, 0));
    }
}
