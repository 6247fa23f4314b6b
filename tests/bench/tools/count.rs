//! The ceiling: what rdkafka alone can read, without looking at the messages.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::figures::Figures;
use super::{PATIENCE, Subject, procfs};

const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Messages between two looks at the clock.
const LOOK: u64 = 64;

#[derive(Debug, Args)]
pub struct Count {
    #[command(flatten)]
    subject: Subject,
}

/// The sum over the partitions; the topic's offsets begin at 0, so this is a number of messages.
pub fn committed(offsets: &TopicPartitionList) -> i64 {
    let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
    offsets.elements().iter().map(|partition| offset(partition.offset())).sum()
}

impl Count {
    pub fn run(self) -> Result<()> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.subject.brokers)
            .set("group.id", &self.subject.group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .context("create a consumer")?;
        consumer.subscribe(&[&self.subject.topic])?;
        let begun = Instant::now();
        let (mut counted, mut committed) = (0, 0);
        let mut start = None;
        let mut next_commit = begun;
        while committed < self.subject.messages {
            let message = consumer.poll(Duration::from_millis(5)).transpose()?;
            if start.is_none() && consumer.assignment()?.count() > 0 {
                start = Some((Instant::now(), procfs::own_cpu()?));
            }
            if message.is_some() {
                counted += 1;
                if counted % LOOK != 0 {
                    continue;
                }
            }
            let now = Instant::now();
            if now.duration_since(begun) > PATIENCE {
                bail!("counted {counted} messages of {} in {PATIENCE:?}", self.subject.messages);
            }
            if counted > committed && now >= next_commit {
                next_commit = now + COMMIT_INTERVAL;
                commit(&consumer)?;
                committed = counted;
            }
        }
        let (since, cpu) = start.context("the group has got no partitions")?;
        let figures = Figures {
            messages: counted,
            seconds: since.elapsed().as_secs_f64(),
            cpu_seconds: (procfs::own_cpu()? - cpu).as_secs_f64(),
            resident_bytes: procfs::resident(std::process::id())?.peak,
        };
        figures.print()
    }
}

/// Commits what has been handed out, and waits for the broker's word.
fn commit(consumer: &BaseConsumer) -> Result<()> {
    match consumer.commit_consumer_state(CommitMode::Sync) {
        // All is committed already.
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
