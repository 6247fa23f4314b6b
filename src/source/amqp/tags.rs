//! The delivery tags of one channel: which messages are open, and how what is settled is told to the server.
//!
//! What holds here: each tag is answered once; an acknowledgement of many never covers a tag that is open; a message
//! that takes long does not hold back those behind it for longer than [`GAP_PATIENCE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::delivery::Settled;

/// How long finished messages wait for an open one before them, so that one answer may serve for all.
pub(super) const GAP_PATIENCE: Duration = Duration::from_millis(20);

/// What to tell the server, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not wanted: the queue's dead-letter policy has it.
    Reject(u64),
    /// Not begun: the queue has it back.
    Requeue(u64),
    /// Failed: the queue has it back, and counts it.
    Return(u64),
    /// This tag, and all unanswered ones below it.
    AckUpTo(u64),
    Ack(u64),
}

/// The tags of a channel, in the order they came: 1, 2, 3, and so on.
#[derive(Debug, Default)]
pub(super) struct Tags {
    window: VecDeque<Slot>,
    /// The first tag of the window.
    first: u64,
    waiting: usize,
    bytes: usize,
    /// Settled, but not to be acknowledged; the answers are due.
    refused: Vec<Answer>,
    /// Acknowledgeable slots behind an open one.
    behind: usize,
    /// Since when there have been such slots.
    behind_since: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    /// Deliveries that are not settled yet.
    open: u32,
    bytes: usize,
    /// The worst of what was settled so far.
    settled: Settled,
    answered: bool,
}

impl Slot {
    fn is_finished(&self) -> bool {
        self.open == 0 && !self.answered
    }
}

impl Tags {
    /// Notes a message that makes `deliveries` deliveries which hold `bytes` together. Without deliveries it is settled
    /// already, as `otherwise` says.
    pub(super) fn read(&mut self, tag: u64, deliveries: u32, bytes: usize, otherwise: Settled) {
        if self.window.is_empty() {
            self.first = tag;
        }
        debug_assert_eq!(tag, self.first + self.window.len() as u64, "tags are consecutive");
        let settled = if deliveries == 0 { otherwise } else { Settled::Finished };
        self.window.push_back(Slot { open: deliveries, bytes, settled, answered: false });
        if deliveries == 0 {
            self.close(self.window.len() - 1);
        } else {
            self.waiting += 1;
            self.bytes += bytes;
        }
    }

    /// Notes the settlement of one delivery. Answers what has become of the message, once all of its are settled.
    pub(super) fn settle(&mut self, tag: u64, settled: Settled) -> Option<Settled> {
        let index = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        let slot = self.window.get_mut(index).filter(|slot| slot.open > 0)?;
        slot.open -= 1;
        // Let go by one, it must be seen again by all; refused by one, it must not be lost.
        slot.settled = match (slot.settled, settled) {
            (Settled::Returned, _) | (_, Settled::Returned) => Settled::Returned,
            (Settled::Released, _) | (_, Settled::Released) => Settled::Released,
            (Settled::Rejected, _) | (_, Settled::Rejected) => Settled::Rejected,
            (Settled::Finished, Settled::Finished) => Settled::Finished,
        };
        if slot.open > 0 {
            return None;
        }
        let outcome = slot.settled;
        self.waiting -= 1;
        self.bytes -= slot.bytes;
        self.close(index);
        Some(outcome)
    }

    fn close(&mut self, index: usize) {
        let tag = self.first + index as u64;
        let slot = &mut self.window[index];
        let refusal = match slot.settled {
            Settled::Finished => {
                self.behind += 1;
                return;
            }
            Settled::Rejected => Answer::Reject(tag),
            Settled::Released => Answer::Requeue(tag),
            Settled::Returned => Answer::Return(tag),
        };
        slot.answered = true;
        self.refused.push(refusal);
    }

    /// What to tell the server now.
    pub(super) fn answers(&mut self, now: Instant) -> Vec<Answer> {
        let mut answers = std::mem::take(&mut self.refused);
        let mut last_finished = None;
        while let Some(slot) = self.window.front().filter(|slot| slot.open == 0) {
            if slot.is_finished() {
                last_finished = Some(self.first);
                self.behind -= 1;
            }
            self.window.pop_front();
            self.first += 1;
        }
        answers.extend(last_finished.map(Answer::AckUpTo));
        if self.behind == 0 {
            self.behind_since = None;
        } else if now.duration_since(*self.behind_since.get_or_insert(now)) >= GAP_PATIENCE {
            for (tag, slot) in (self.first..).zip(&mut self.window) {
                if slot.is_finished() {
                    slot.answered = true;
                    answers.push(Answer::Ack(tag));
                }
            }
            self.behind = 0;
            self.behind_since = None;
        }
        answers
    }

    /// Whether finished messages wait for an open one before them.
    pub(super) fn has_gap(&self) -> bool {
        self.behind > 0
    }

    /// Messages that are not settled.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Memory held by them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn read(count: u64) -> Tags {
        let mut tags = Tags::default();
        (1..=count).for_each(|tag| tags.read(tag, 1, 10, Settled::Finished));
        tags
    }

    #[test]
    fn a_finished_prefix_is_one_answer() {
        let (mut tags, now) = (read(5), Instant::now());
        for tag in [2, 1, 3] {
            tags.settle(tag, Settled::Finished);
        }
        assert_eq!(tags.answers(now), [Answer::AckUpTo(3)]);
        assert_eq!((tags.answers(now), tags.waiting(), tags.bytes()), (vec![], 2, 20));
    }

    #[test]
    fn what_is_behind_a_slow_one_is_answered_singly_and_once() {
        let (mut tags, now) = (read(4), Instant::now());
        tags.settle(2, Settled::Finished);
        tags.settle(4, Settled::Finished);
        assert_eq!(tags.answers(now), []);
        assert!(tags.has_gap());
        assert_eq!(tags.answers(now + GAP_PATIENCE), [Answer::Ack(2), Answer::Ack(4)]);
        tags.settle(1, Settled::Finished);
        assert_eq!(tags.answers(now + GAP_PATIENCE), [Answer::AckUpTo(1)]);
        tags.settle(3, Settled::Finished);
        assert_eq!(tags.answers(now + GAP_PATIENCE), [Answer::AckUpTo(3)]);
        assert_eq!((tags.waiting(), tags.window.len()), (0, 0));
    }

    #[test]
    fn refusals_go_before_the_answer_that_would_cover_them() {
        let (mut tags, now) = (read(3), Instant::now());
        tags.settle(1, Settled::Finished);
        tags.settle(2, Settled::Rejected);
        tags.settle(3, Settled::Finished);
        assert_eq!(tags.answers(now), [Answer::Reject(2), Answer::AckUpTo(3)]);
    }

    #[test]
    fn one_of_several_deliveries_decides_for_the_message() {
        let now = Instant::now();
        let mut tags = Tags::default();
        tags.read(1, 2, 1, Settled::Finished);
        assert_eq!(tags.settle(1, Settled::Rejected), None);
        assert_eq!(tags.settle(1, Settled::Finished), Some(Settled::Rejected));
        tags.read(2, 2, 1, Settled::Finished);
        tags.settle(2, Settled::Released);
        tags.settle(2, Settled::Rejected);
        tags.read(3, 0, 1, Settled::Rejected);
        tags.read(4, 2, 1, Settled::Finished);
        tags.settle(4, Settled::Returned);
        tags.settle(4, Settled::Rejected);
        let expected = [Answer::Reject(1), Answer::Requeue(2), Answer::Reject(3), Answer::Return(4)];
        assert_eq!(tags.answers(now), expected);
    }

    proptest! {
        /// A server that holds us to the protocol.
        #[test]
        fn every_tag_is_answered_once_and_never_while_it_is_open(
            steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>(), 0u32..4), 0..200),
        ) {
            let mut tags = Tags::default();
            let (mut open, mut unanswered) = (BTreeMap::<u64, u32>::new(), BTreeMap::<u64, ()>::new());
            let (mut last, mut now) = (0, Instant::now());
            for (step, pick, deliveries) in steps {
                match step {
                    0 | 1 => {
                        last += 1;
                        tags.read(last, deliveries, 1, Settled::Finished);
                        unanswered.insert(last, ());
                        if deliveries > 0 {
                            open.insert(last, deliveries);
                        }
                    }
                    2 | 3 if !open.is_empty() => {
                        let known: Vec<u64> = open.keys().copied().collect();
                        let tag = *pick.get(&known);
                        let how = [Settled::Finished, Settled::Rejected, Settled::Released, Settled::Returned][deliveries as usize];
                        tags.settle(tag, how);
                        let left = open.get_mut(&tag).unwrap();
                        *left -= 1;
                        if *left == 0 {
                            open.remove(&tag);
                        }
                    }
                    _ => {
                        now += GAP_PATIENCE / 2;
                        for answer in tags.answers(now) {
                            let (tag, many) = match answer {
                                Answer::AckUpTo(tag) => (tag, true),
                                Answer::Ack(tag) | Answer::Reject(tag) | Answer::Requeue(tag) | Answer::Return(tag) => (tag, false),
                            };
                            prop_assert!(unanswered.contains_key(&tag), "{answer:?}");
                            let covered: Vec<u64> =
                                unanswered.range(if many { 0 } else { tag }..=tag).map(|(tag, ())| *tag).collect();
                            for tag in covered {
                                prop_assert!(!open.contains_key(&tag), "{answer:?} covers {tag}");
                                unanswered.remove(&tag);
                            }
                        }
                    }
                }
                prop_assert_eq!(tags.waiting(), open.len());
            }
            while let Some((&tag, _)) = open.first_key_value() {
                (0..open[&tag]).for_each(|_| { tags.settle(tag, Settled::Finished); });
                open.remove(&tag);
            }
            for answer in tags.answers(now) {
                match answer {
                    Answer::AckUpTo(tag) => unanswered = unanswered.split_off(&(tag + 1)),
                    Answer::Ack(tag) | Answer::Reject(tag) | Answer::Requeue(tag) | Answer::Return(tag) => _ = unanswered.remove(&tag),
                }
            }
            prop_assert!(unanswered.is_empty(), "{unanswered:?}");
        }
    }
}
