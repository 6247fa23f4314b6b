//! Compares what went in with what came out: which messages were lost, repeated, or overtaken.
//!
//! Messages carry a key and a sequence number, and the function under test returns both, with the attempt and the start
//! time of its runner, to a topic keyed like the input. Comparing is pure: [`stream`] takes results one by one,
//! [`compare`] takes lists; [`topic`] reads records from Kafka.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use self::stream::{Stream, Verdict};

pub mod stream;
pub mod topic;

/// What tells messages apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub key: String,
    pub seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.key, self.seq)
    }
}

/// A message of the input topic. Those of one partition come in the order of their offsets; no two have the same id.
#[derive(Debug, Clone)]
pub struct Sent {
    pub partition: i32,
    pub id: Id,
}

/// A result in the output topic. Those of one partition come in the order of their offsets.
#[derive(Debug, Clone)]
pub struct Returned {
    pub partition: i32,
    pub id: Id,
    pub attempt: u32,
    /// When the runner's isolate was started, in microseconds since 1970.
    pub started_us: u64,
}

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub sent: usize,
    pub returned: usize,
    /// Messages without a result.
    pub lost: Vec<Id>,
    /// Results beyond a message's first, each once.
    pub repeated: Vec<Id>,
    /// Messages whose first result came after that of a later message of their partition.
    pub out_of_order: Vec<Id>,
    /// Results of messages that nobody sent.
    pub unknown: Vec<Id>,
    /// Results of a second or later attempt.
    pub retried: usize,
    /// How many different runners and isolates returned something.
    pub starts: usize,
}

/// Compares. Order is judged between the messages of one input partition whose results share an output partition:
/// nothing else has an order. What counts is the first result of each message, since a crash may repeat.
pub fn compare(input: &[Sent], output: &[Returned]) -> Report {
    let numbers: HashMap<&Id, (i32, u64)> =
        input.iter().zip(0..).map(|(sent, number)| (&sent.id, (sent.partition, number))).collect();
    let mut report = Report { sent: input.len(), returned: output.len(), ..Report::default() };
    let mut stream = Stream::default();
    let mut starts = BTreeSet::new();
    for result in output {
        starts.insert(result.started_us);
        report.retried += usize::from(result.attempt > 1);
        let Some(&(lane, number)) = numbers.get(&result.id) else {
            report.unknown.push(result.id.clone());
            continue;
        };
        match stream.take(number, lane, result.partition) {
            Verdict::First => {}
            Verdict::Overtaken => report.out_of_order.push(result.id.clone()),
            Verdict::Repeated => report.repeated.push(result.id.clone()),
        }
    }
    report.starts = starts.len();
    report.lost = stream.lost(input.len() as u64).map(|number| input[number as usize].id.clone()).collect();
    report
}

impl Report {
    /// Whether every message has a result, and every result a message.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.unknown.is_empty()
    }

    pub fn is_in_order(&self) -> bool {
        self.out_of_order.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, returned, retried, starts, .. } = self;
        writeln!(f, "{sent} sent, {returned} returned by {starts} isolates, {retried} of a later attempt")?;
        for (what, ids) in [
            ("lost", &self.lost),
            ("repeated", &self.repeated),
            ("out of order", &self.out_of_order),
            ("unknown", &self.unknown),
        ] {
            let some: Vec<String> = ids.iter().take(5).map(ToString::to_string).collect();
            let colon = if some.is_empty() { "" } else { ": " };
            let more = if ids.len() > some.len() { ", ..." } else { "" };
            writeln!(f, "{} {what}{colon}{}{more}", ids.len(), some.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u64 = 5;
    const PARTITIONS: u64 = 3;

    fn id(seq: u64) -> Id {
        Id { key: format!("k{}", seq % KEYS), seq }
    }

    fn partition(seq: u64) -> i32 {
        ((seq % KEYS) % PARTITIONS) as i32
    }

    fn input(count: u64) -> Vec<Sent> {
        (0..count).map(|seq| Sent { partition: partition(seq), id: id(seq) }).collect()
    }

    fn result(seq: u64) -> Returned {
        Returned { partition: partition(seq), id: id(seq), attempt: 1, started_us: 1 }
    }

    fn output(count: u64) -> Vec<Returned> {
        (0..count).map(result).collect()
    }

    #[test]
    fn a_faultless_run_shows_nothing() {
        let report = compare(&input(100), &output(100));
        assert_eq!(report, Report { sent: 100, returned: 100, starts: 1, ..Report::default() });
        assert!(report.is_complete() && report.is_in_order());
    }

    #[test]
    fn a_loss_is_seen() {
        let mut output = output(100);
        output.remove(42);
        let report = compare(&input(100), &output);
        assert_eq!(report.lost, [id(42)]);
        assert!(!report.is_complete());
    }

    #[test]
    fn a_repeat_is_seen() {
        let mut output = output(100);
        output.push(Returned { attempt: 2, started_us: 2, ..result(42) });
        let report = compare(&input(100), &output);
        assert_eq!((&report.repeated[..], report.retried, report.starts), (&[id(42)][..], 1, 2));
        assert!(report.is_complete() && report.is_in_order());
    }

    #[test]
    fn a_swap_within_a_partition_is_seen() {
        let mut output = output(100);
        // Five keys: these two share one, and with it a partition.
        output.swap(40, 45);
        let report = compare(&input(100), &output);
        assert!(report.out_of_order.contains(&id(40)), "{report}");
        assert!(!report.is_in_order() && report.is_complete());
    }

    #[test]
    fn different_keys_of_one_partition_have_an_order_too() {
        let mut output = output(100);
        assert_eq!(partition(40), partition(43));
        output.swap(40, 43);
        assert_eq!(compare(&input(100), &output).out_of_order, [id(40)]);
    }

    #[test]
    fn partitions_have_no_order_between_them() {
        let mut output = output(100);
        output.swap(40, 41);
        assert!(compare(&input(100), &output).is_in_order());
    }

    #[test]
    fn a_result_that_nobody_asked_for_is_seen() {
        let report = compare(&input(10), &output(11));
        assert_eq!(report.unknown, [id(10)]);
        assert!(!report.is_complete());
    }

    #[test]
    fn an_empty_output_has_lost_everything() {
        assert_eq!(compare(&input(10), &[]).lost.len(), 10);
    }

    proptest! {
        /// What a crash does: the run goes on from an earlier place.
        #[test]
        fn going_back_repeats_but_neither_loses_nor_overtakes(backs in prop::collection::vec((0..100u64, 0..100u64), 0..5)) {
            let (mut output, mut next) = (Vec::new(), 0);
            for (at, back) in backs {
                output.extend((next..at.max(next)).map(result));
                next = at.max(next).saturating_sub(back);
            }
            output.extend((next..100).map(result));
            let report = compare(&input(100), &output);
            prop_assert!(report.is_complete() && report.is_in_order(), "{report}");
            prop_assert_eq!(report.repeated.len(), output.len() - 100);
        }
    }
}
