//! What is read from a queue or a stream and not settled, and what the server is told of it.

use std::time::Instant;

use super::stream::Reading;
use super::tags::{Answer, Tags};
use crate::delivery::Settled;

/// Deliveries are known by their tag on a queue, and by their offset on a stream.
#[derive(Debug)]
pub(super) enum InHand {
    Queue(Tags),
    Stream(Box<Reading>),
}

impl InHand {
    /// Notes the settlement of one delivery. Answers what has become of the message, once all of its are settled.
    pub(super) fn settle(&mut self, known_by: i64, settled: Settled) -> Option<Settled> {
        match self {
            Self::Queue(tags) => tags.settle(known_by.cast_unsigned(), settled),
            Self::Stream(reading) => reading.settle(known_by, settled),
        }
    }

    /// What to tell the server now.
    pub(super) fn answers(&mut self, now: Instant) -> Vec<Answer> {
        match self {
            Self::Queue(tags) => tags.answers(now),
            Self::Stream(reading) => reading.answers(),
        }
    }

    /// Whether finished messages wait for an open one before them, and must be answered soon.
    pub(super) fn has_gap(&self) -> bool {
        match self {
            Self::Queue(tags) => tags.has_gap(),
            Self::Stream(_) => false,
        }
    }

    /// Messages that are not settled.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Queue(tags) => tags.waiting(),
            Self::Stream(reading) => reading.waiting(),
        }
    }

    /// Memory held by them.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Queue(tags) => tags.bytes(),
            Self::Stream(reading) => reading.bytes(),
        }
    }

    /// Messages published and not settled, where `ready` are in the queue.
    pub(super) fn lag(&self, ready: u32) -> i64 {
        match self {
            Self::Queue(tags) => tags.waiting() as i64 + i64::from(ready),
            Self::Stream(reading) => reading.lag(),
        }
    }
}
