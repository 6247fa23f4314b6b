//! The comparison itself, result by result: of each message it remembers one bit, so that a run of millions fits anywhere.
//!
//! Messages are numbered from 0 in the order in which they were sent; each belongs to a lane, within which order counts.

use std::collections::HashMap;

/// What a result turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The message's first, after those of all earlier messages of its lane that came.
    First,
    /// The message's first, after that of a later message of its lane.
    Overtaken,
    /// The message had one before.
    Repeated,
}

/// What came out so far.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// One bit for each number.
    seen: Vec<u64>,
    /// The largest number seen of a lane in a partition of the output.
    furthest: HashMap<(i32, i32), u64>,
}

impl Stream {
    /// Takes in the next result: of the message `number` of a lane, found in a partition of the output. Order is judged
    /// between the messages of one lane whose results share a partition: nothing else has an order. What counts is the
    /// first result of each message, since a crash may repeat.
    pub fn take(&mut self, number: u64, lane: i32, partition: i32) -> Verdict {
        if !self.mark(number) {
            return Verdict::Repeated;
        }
        let reached = self.furthest.entry((lane, partition)).or_insert(number);
        let is_overtaken = number < *reached;
        *reached = number.max(*reached);
        if is_overtaken { Verdict::Overtaken } else { Verdict::First }
    }

    /// Whether the number is new.
    fn mark(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    fn is_seen(&self, number: u64) -> bool {
        self.seen.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// The messages among the first `sent` that have no result.
    pub fn lost(&self, sent: u64) -> impl Iterator<Item = u64> {
        (0..sent).filter(|number| !self.is_seen(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANES: u64 = 7;

    fn verdicts(numbers: impl IntoIterator<Item = u64>) -> (Stream, Vec<Verdict>) {
        let mut stream = Stream::default();
        let take = |number| stream.take(number, (number % LANES) as i32, 0);
        let verdicts = numbers.into_iter().map(take).collect();
        (stream, verdicts)
    }

    fn lost(numbers: impl IntoIterator<Item = u64>, sent: u64) -> Vec<u64> {
        verdicts(numbers).0.lost(sent).collect()
    }

    fn at(wanted: Verdict, numbers: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let verdicts = verdicts(numbers).1.into_iter().enumerate();
        verdicts.filter(|(_, verdict)| *verdict == wanted).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_faultless_stream_shows_nothing() {
        assert_eq!(at(Verdict::First, 0..1000).len(), 1000);
        assert!(lost(0..1000, 1000).is_empty());
    }

    #[test]
    fn a_loss_is_seen_also_at_the_end() {
        assert_eq!(lost((0..1000).filter(|number| *number != 321), 1000), [321]);
        assert_eq!(lost(0..100, 103), [100, 101, 102]);
        assert_eq!(lost([], 2), [0, 1]);
    }

    #[test]
    fn a_swap_within_a_lane_is_seen_and_none_between_lanes() {
        let mut numbers: Vec<u64> = (0..100).collect();
        numbers.swap(70, 77);
        assert_eq!(at(Verdict::Overtaken, numbers), [77]);
        let mut numbers: Vec<u64> = (0..100).collect();
        numbers.swap(70, 71);
        assert_eq!(at(Verdict::First, numbers).len(), 100);
    }

    #[test]
    fn a_repeat_is_seen_and_overtakes_nothing() {
        assert_eq!(at(Verdict::Repeated, (0..100).chain([7, 7])), [100, 101]);
        assert!(at(Verdict::Overtaken, (0..100).chain([7, 7])).is_empty());
    }

    #[test]
    fn partitions_of_the_output_have_no_order_between_them() {
        let mut stream = Stream::default();
        let taken = [(7, 1), (0, 2), (14, 2), (0, 1)].map(|(number, partition)| stream.take(number, 0, partition));
        assert_eq!(taken, [Verdict::First, Verdict::First, Verdict::First, Verdict::Repeated]);
    }
}
