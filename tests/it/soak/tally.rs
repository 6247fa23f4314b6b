//! What has come out of a run so far, in numbers.

use std::collections::HashMap;

use crate::verifier::stream::{Stream, Verdict};

/// How many numbers are kept of those that show a fault.
const SAMPLES: usize = 5;

/// Counts results as they come; what is done to the run divides its time, so that repeats have a cause.
#[derive(Debug, Default)]
pub struct Tally {
    stream: Stream,
    distinct: u64,
    overtaken: u64,
    unknown: u64,
    /// The first of each fault.
    samples: HashMap<&'static str, Vec<u64>>,
    /// Repeats since each strike; the first are those before any.
    repeats: Vec<u64>,
    /// Results that came, repeats included.
    taken: u64,
}

/// A result: which message's, of which lane, and where it was found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub number: u64,
    pub lane: i32,
    pub partition: i32,
}

impl Tally {
    /// Takes in a result of a run that sends `count` messages.
    pub fn take(&mut self, found: Found, count: u64) {
        self.taken += 1;
        if found.number >= count {
            self.unknown += 1;
            self.sample("unknown", found.number);
            return;
        }
        match self.stream.take(found.number, found.lane, found.partition) {
            Verdict::First => self.distinct += 1,
            Verdict::Overtaken => {
                self.distinct += 1;
                self.overtaken += 1;
                self.sample("overtaken", found.number);
            }
            Verdict::Repeated => {
                self.sample("repeated", found.number);
                self.repeats_now(1);
            }
        }
    }

    fn sample(&mut self, fault: &'static str, number: u64) {
        let samples = self.samples.entry(fault).or_default();
        if samples.len() < SAMPLES {
            samples.push(number);
        }
    }

    fn repeats_now(&mut self, more: u64) {
        match self.repeats.last_mut() {
            Some(current) => *current += more,
            None => self.repeats.push(more),
        }
    }

    /// Something is done to the run that may make it repeat: repeats from here on are counted for it.
    pub fn strike(&mut self) {
        self.repeats_now(0);
        self.repeats.push(0);
    }

    /// Everything will come again from the first result on; which strike a repeat belongs to is not known then.
    pub fn start_again(&mut self) {
        let repeats = vec![0; self.repeats.len()];
        *self = Self { repeats, ..Self::default() };
    }

    pub fn strikes(&self) -> usize {
        self.repeats.len().saturating_sub(1)
    }

    /// Messages that have a result.
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }

    /// Results that belong to no message.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    pub fn repeats(&self) -> u64 {
        self.repeats.iter().sum()
    }

    /// The most repeats that a strike had.
    pub fn repeats_max(&self) -> u64 {
        self.repeats.iter().skip(1).copied().max().unwrap_or(0)
    }

    pub fn lost(&self, count: u64) -> u64 {
        self.stream.lost(count).count() as u64
    }

    /// Some numbers of each fault, for whoever looks for its cause.
    pub fn faults(&self, count: u64) -> String {
        let lost: Vec<u64> = self.stream.lost(count).take(SAMPLES).collect();
        format!("lost {lost:?}, first of others {:?}", self.samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(tally: &mut Tally, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            tally.take(Found { number, lane: (number % 7) as i32, partition: 0 }, 100);
        }
    }

    #[test]
    fn a_loss_a_swap_a_repeat_and_a_stranger_are_counted() {
        let mut tally = Tally::default();
        take(&mut tally, (0..99).filter(|number| ![21, 35, 28].contains(number)));
        assert_eq!((tally.lost(100), tally.distinct(), tally.overtaken(), tally.repeats()), (4, 96, 0, 0));
        take(&mut tally, [21, 35, 7, 100]);
        assert_eq!((tally.lost(100), tally.overtaken(), tally.repeats(), tally.unknown()), (2, 2, 1, 1));
        assert_eq!(tally.taken(), 100);
        assert!(tally.faults(100).contains("lost [28, 99]"), "{}", tally.faults(100));
    }

    #[test]
    fn repeats_are_counted_for_the_strike_before_them() {
        let mut tally = Tally::default();
        take(&mut tally, (0..10).chain([3]));
        tally.strike();
        tally.strike();
        take(&mut tally, [4, 5, 10, 5]);
        tally.strike();
        assert_eq!((tally.repeats.as_slice(), tally.strikes(), tally.repeats_max()), (&[1, 0, 3, 0][..], 3, 3));
        assert_eq!((tally.repeats(), tally.lost(11)), (4, 0));
        tally.start_again();
        take(&mut tally, [0, 0]);
        assert_eq!((tally.repeats.as_slice(), tally.distinct(), tally.lost(2)), (&[0, 0, 0, 1][..], 1, 1));
    }
}
