//! What a group may read and how far it has come, asked by somebody who does not join it.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::{Client, Refusal, Topic, close, config, open};
use crate::config::{KafkaSettings, OutOfRange, Start};
use crate::source::kafka::client;
use crate::source::kafka::partition::Spot;
use crate::source::kafka::position::{self, Found, Placement, Range, place};
use crate::source::probe::{Finding, Plan, Reading, Verdict, What, counted};

/// The word that the configuration has for it.
pub(super) fn start_word(start: Start) -> &'static str {
    match start {
        // Only streams know the other ones.
        Start::Earliest | Start::Last | Start::Offset(_) | Start::Time(_) => "the earliest message",
        Start::Latest => "the latest message",
    }
}

/// Completes what is known of a group's topics by whether they can be read, and says how far the group has come.
pub(super) fn ask_group(settings: &KafkaSettings, plan: &Plan, reading: &Reading, topics: Vec<Topic>) -> Vec<Finding> {
    let mut config = config(settings);
    config.set("group.id", &reading.group);
    let group = |verdict, told: &str| Finding { verdict, ..Finding::problem(What::Group, &reading.group, told) };
    let first = topics.iter().find_map(|topic| topic.partitions.first()).map(|spot| spot.topic.clone());
    let client = match open(settings, &config, first.as_deref(), plan.limit) {
        Ok(client) => client,
        Err(Refusal::Settings(told) | Refusal::Server(told) | Refusal::Login(told)) => {
            let known = topics.into_iter().map(|topic| topic.finding);
            return known.chain([group(Verdict::Problem, &told)]).collect();
        }
    };
    let spots: Vec<Spot> = topics.iter().flat_map(|topic| topic.partitions.iter().cloned()).collect();
    let found = position::find(&client, &spots, plan.limit);
    let deadline = Instant::now() + plan.limit;
    let mut findings: Vec<Finding> = topics
        .into_iter()
        .map(|Topic { finding, partitions }| match partitions.first() {
            Some(sample) => read(&client, finding, (sample, end_of(sample, &spots, &found)), deadline),
            None => finding,
        })
        .collect();
    findings.push(match found {
        Ok(found) if found.is_empty() => group(Verdict::Unknown, "none of its topics can be read"),
        Ok(found) => {
            let progress = Progress::of(&spots, found, reading.start, plan.on_out_of_range);
            group(progress.verdict(), &progress.told(reading.start))
        }
        Err(error) => group(Verdict::Problem, &words(&error)),
    });
    close(client);
    findings
}

/// Where a partition ends: by number if it is known, since the client takes half a second to look for it.
fn end_of(sample: &Spot, spots: &[Spot], found: &KafkaResult<Vec<KafkaResult<Found>>>) -> Offset {
    let index = spots.iter().position(|spot| spot == sample);
    let found = index.zip(found.as_ref().ok()).and_then(|(index, found)| found.get(index)?.as_ref().ok());
    found.map_or(Offset::End, |found| Offset::Offset(found.range.high))
}

/// Reads at the end of one partition: the right to do so is the same for all of a topic.
fn read(client: &Client, topic: Finding, (sample, end): (&Spot, Offset), deadline: Instant) -> Finding {
    let answer = read_at(client, (sample, end), deadline);
    // Nothing is read from here on; a client that refuses this has assigned nothing either.
    let _ = client.assign(&TopicPartitionList::new());
    match answer {
        Ok(true) => Finding { detail: format!("{}, readable", topic.detail), ..topic },
        Ok(false) => {
            let told = format!("{}, but the broker that leads one did not let it be read in time", topic.detail);
            Finding::problem(What::Topic, topic.name, &told)
        }
        Err(error) => Finding::problem(What::Topic, topic.name, &words(&error)),
    }
}

/// Whether the end was reached, or a message came, in time.
fn read_at(client: &Client, (sample, end): (&Spot, Offset), deadline: Instant) -> KafkaResult<bool> {
    client.assign(&position::list(std::slice::from_ref(sample), end)?)?;
    while Instant::now() < deadline {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(true),
            Some(Err(error)) if is_refusal(&error) => return Err(error),
            // Connections to brokers that are not needed may fail meanwhile.
            Some(Err(_)) | None => {}
        }
    }
    Ok(false)
}

fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed)
    )
}

fn words(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => client::explain(code, &code.to_string()),
        None => error.to_string(),
    }
}

/// How far a group has come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    partitions: u32,
    committed: u32,
    /// Messages to read.
    lag: i64,
    /// The first partition that will stand still, and why.
    stuck: Option<String>,
    /// The first partition that will not go on where the group left off, and where it goes on.
    jump: Option<String>,
    /// The first partition that nothing is known of, and why.
    unanswered: Option<String>,
}

impl Progress {
    fn of(spots: &[Spot], found: Vec<KafkaResult<Found>>, start: Start, policy: OutOfRange) -> Self {
        let mut progress = Self::default();
        for (Spot { topic, partition }, found) in spots.iter().zip(found) {
            progress.partitions += 1;
            let Found { committed, range } = match found {
                Ok(found) => found,
                Err(error) => {
                    progress.unanswered.get_or_insert_with(|| format!("{topic}/{partition}: {}", words(&error)));
                    continue;
                }
            };
            progress.committed += u32::from(committed.is_some());
            let Range { high, .. } = range;
            match place(committed, range, start, policy) {
                Placement::Resume(from) | Placement::Begin(from) => progress.lag += high - from,
                Placement::Jump { to, gap } => {
                    progress.lag += high - to;
                    let told = || format!("{topic}/{partition}: {gap}; it goes on from {to}: {}", gap.consequence(to));
                    progress.jump.get_or_insert_with(told);
                }
                Placement::Stop(gap) => {
                    let told = || {
                        format!(
                            "{topic}/{partition} will stand still: {gap}; set `on_out_of_range`, or commit another offset"
                        )
                    };
                    progress.stuck.get_or_insert_with(told);
                }
            }
        }
        progress
    }

    fn verdict(&self) -> Verdict {
        if self.stuck.is_some() || self.unanswered.is_some() { Verdict::Problem } else { Verdict::Ok }
    }

    fn told(&self, start: Start) -> String {
        let Self { partitions, committed, lag, .. } = self;
        let mut told = match committed {
            0 => format!("nothing committed: it begins at {}", start_word(start)),
            all if all == partitions => format!("committed for {}", counted(*partitions, "partition")),
            some => format!(
                "committed for {some} of {}; the others begin at {}",
                counted(*partitions, "partition"),
                start_word(start)
            ),
        };
        told.push_str(&format!(", {} to read", counted(*lag, "message")));
        for more in [&self.stuck, &self.unanswered, &self.jump].into_iter().flatten() {
            told.push_str("; ");
            told.push_str(more);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(committed: &[Option<i64>], policy: OutOfRange) -> (Verdict, String) {
        let spots: Vec<Spot> =
            (0..).zip(committed).map(|(partition, _)| Spot { topic: "t".into(), partition }).collect();
        let range = Range { low: 10, high: 20 };
        let found = committed.iter().map(|committed| Ok(Found { committed: *committed, range })).collect();
        let progress = Progress::of(&spots, found, Start::Earliest, policy);
        (progress.verdict(), progress.told(Start::Earliest))
    }

    #[test]
    fn the_progress_of_a_group_says_what_a_worker_will_do() {
        let check = |committed: &[Option<i64>], policy, expected: &str| {
            let (verdict, told) = progress(committed, policy);
            assert_eq!((verdict, told.as_str()), (Verdict::Ok, expected));
        };
        check(&[Some(15), Some(20)], OutOfRange::Stop, "committed for 2 partitions, 5 messages to read");
        check(&[None], OutOfRange::Stop, "nothing committed: it begins at the earliest message, 10 messages to read");
        let some = "committed for 1 of 2 partitions; the others begin at the earliest message, 11 messages to read";
        check(&[Some(19), None], OutOfRange::Stop, some);
        let (verdict, told) = progress(&[Some(3)], OutOfRange::Earliest);
        assert!(verdict == Verdict::Ok && told.contains("it goes on from 10: 7 offsets are skipped"), "{told}");
        let (verdict, told) = progress(&[Some(15), Some(3)], OutOfRange::Stop);
        assert!(verdict == Verdict::Problem && told.contains("t/1 will stand still"), "{told}");
    }

    #[test]
    fn a_partition_without_an_answer_is_a_problem() {
        let spots = [Spot { topic: "t".into(), partition: 7 }];
        let found = vec![Err(KafkaError::OffsetFetch(RDKafkaErrorCode::TopicAuthorizationFailed))];
        let progress = Progress::of(&spots, found, Start::Latest, OutOfRange::Stop);
        let told = progress.told(Start::Latest);
        assert!(progress.verdict() == Verdict::Problem && told.contains("t/7: not authorised"), "{told}");
    }
}
