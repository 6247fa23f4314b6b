//! Where to read a partition from: the committed offset, the configured start, or what the policy for offsets out of
//! range says. Deciding is pure; asking the broker is bounded in time, and where it does not answer nothing is guessed.

use std::fmt;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use super::partition::Spot;
use crate::config::{OutOfRange, Start};

/// The offsets that a partition holds: `low` is the first, `high` the one that the next message will get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub low: i64,
    pub high: i64,
}

/// What to do with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// Go on where the group left off.
    Resume(i64),
    /// The group has no offset here: begin at this one, and commit it so that a restart begins there too.
    Begin(i64),
    /// The offset is out of range and the policy says to go on from `to`.
    Jump { to: i64, gap: Gap },
    /// The offset is out of range and the policy says to stand still.
    Stop(Gap),
}

/// An offset that is not within its partition's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub wanted: i64,
    pub range: Range,
}

/// Decides where to read from.
pub(super) fn place(committed: Option<i64>, range: Range, start: Start, policy: OutOfRange) -> Placement {
    let Some(wanted) = committed else {
        return Placement::Begin(match start {
            // Only streams know the other ones.
            Start::Earliest | Start::Last | Start::Offset(_) | Start::Time(_) => range.low,
            Start::Latest => range.high,
        });
    };
    if (range.low..=range.high).contains(&wanted) {
        return Placement::Resume(wanted);
    }
    let gap = Gap { wanted, range };
    match policy {
        OutOfRange::Stop => Placement::Stop(gap),
        OutOfRange::Earliest => Placement::Jump { to: range.low, gap },
        OutOfRange::Latest => Placement::Jump { to: range.high, gap },
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, range: Range { low, high } } = self;
        write!(f, "the group's offset {wanted} is out of range: the partition holds {low} to {high}")
    }
}

impl Gap {
    /// What going on from `to` means, for the log.
    pub(super) fn consequence(&self, to: i64) -> String {
        if to >= self.wanted {
            format!("{} offsets are skipped", to - self.wanted)
        } else {
            format!("{} offsets below the group's are read again", self.range.high.min(self.wanted) - to)
        }
    }
}

/// What the broker says of one partition.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub committed: Option<i64>,
    pub range: Range,
}

/// Asks for committed offsets and ranges. Each of the three questions takes at most `timeout`.
pub(super) fn find<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    spots: &[Spot],
    timeout: Duration,
) -> KafkaResult<Vec<KafkaResult<Found>>> {
    if spots.is_empty() {
        return Ok(Vec::new());
    }
    let committed = consumer.committed_offsets(list(spots, Offset::Invalid)?, timeout)?;
    let ranges = ranges(consumer, spots, timeout)?;
    Ok(spots
        .iter()
        .zip(ranges)
        .map(|(spot, range)| {
            let element = committed.find_partition(&spot.topic, spot.partition).ok_or(KafkaError::NoMessageReceived)?;
            element.error()?;
            let committed = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok(Found { committed, range: range? })
        })
        .collect())
}

/// Asks for the ranges of partitions, with two questions per broker however many partitions there are.
pub(super) fn ranges<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    spots: &[Spot],
    timeout: Duration,
) -> KafkaResult<Vec<KafkaResult<Range>>> {
    if spots.is_empty() {
        return Ok(Vec::new());
    }
    // The logical offsets are the wire protocol's timestamps for the first and the next offset.
    let lows = consumer.offsets_for_times(list(spots, Offset::Beginning)?, timeout)?;
    let highs = consumer.offsets_for_times(list(spots, Offset::End)?, timeout)?;
    Ok(spots.iter().map(|spot| Ok(Range { low: offset_of(&lows, spot)?, high: offset_of(&highs, spot)? })).collect())
}

fn offset_of(list: &TopicPartitionList, spot: &Spot) -> KafkaResult<i64> {
    let element = list.find_partition(&spot.topic, spot.partition).ok_or(KafkaError::NoMessageReceived)?;
    element.error()?;
    match element.offset() {
        Offset::Offset(offset) => Ok(offset),
        _ => Err(KafkaError::OffsetFetch(rdkafka::types::RDKafkaErrorCode::NoOffset)),
    }
}

/// The partitions as the client library wants them, all with the same offset.
pub(super) fn list(spots: &[Spot], offset: Offset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(spots.len());
    for spot in spots {
        list.add_partition_offset(&spot.topic, spot.partition, offset)?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { low: 100, high: 200 };

    #[track_caller]
    fn check_place(committed: Option<i64>, start: Start, policy: OutOfRange, expected: Placement) {
        assert_eq!(place(committed, RANGE, start, policy), expected);
    }

    #[test]
    fn a_committed_offset_in_range_is_taken_over() {
        for offset in [100, 150, 200] {
            check_place(Some(offset), Start::Latest, OutOfRange::Stop, Placement::Resume(offset));
        }
    }

    #[test]
    fn without_a_committed_offset_the_start_decides() {
        check_place(None, Start::Earliest, OutOfRange::Stop, Placement::Begin(100));
        check_place(None, Start::Latest, OutOfRange::Stop, Placement::Begin(200));
    }

    #[test]
    fn out_of_range_follows_the_policy_and_never_the_start() {
        for wanted in [99, 201] {
            let gap = Gap { wanted, range: RANGE };
            check_place(Some(wanted), Start::Latest, OutOfRange::Stop, Placement::Stop(gap));
            check_place(Some(wanted), Start::Latest, OutOfRange::Earliest, Placement::Jump { to: 100, gap });
            check_place(Some(wanted), Start::Earliest, OutOfRange::Latest, Placement::Jump { to: 200, gap });
        }
    }

    #[test]
    fn the_log_says_what_is_skipped_or_repeated() {
        let behind = Gap { wanted: 90, range: RANGE };
        assert_eq!(behind.consequence(100), "10 offsets are skipped");
        assert_eq!(behind.consequence(200), "110 offsets are skipped");
        let ahead = Gap { wanted: 300, range: RANGE };
        assert_eq!(ahead.consequence(100), "100 offsets below the group's are read again");
        assert_eq!(ahead.consequence(200), "0 offsets below the group's are read again");
    }
}
