//! A Lagless worker on a Kafka topic, measured from outside.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::figures::Figures;
use super::process::{Cpu, Process};
use super::{Subject, count};

/// How often a worker is asked whether it has partitions, before it does.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// How often the broker is asked what is committed. Nothing is asked of the worker meanwhile.
const LOOK: Duration = Duration::from_millis(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Worker {
    #[command(flatten)]
    subject: Subject,
    /// Also print the CPU time of each thread, to standard error
    #[arg(long)]
    threads: bool,
    /// The command to run; the address of its metrics page is added to it
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Worker {
    pub fn run(self) -> Result<()> {
        let committed = Committed::new(&self.subject)?;
        let mut process = Process::start(&self.command)?;
        process.wait_until(FIRST_LOOK, |process| process.metric("lagless_subscription_partitions") > 0)?;
        let (since, before) = (Instant::now(), Cpu::of(&process)?);
        process.wait_until(LOOK, |_| committed.messages().is_ok_and(|messages| messages >= self.subject.messages))?;
        let (seconds, after) = (since.elapsed().as_secs_f64(), Cpu::of(&process)?);
        let done = process.metric("lagless_trigger_done_total");
        ensure!(done >= self.subject.messages, "all is committed, but only {done} deliveries are done");
        let resident_bytes = process.peak_memory()?;
        process.stop()?;
        if self.threads {
            after.print_threads_since(&before, self.subject.messages);
        }
        let cpu_seconds = after.seconds_since(&before);
        Figures { messages: self.subject.messages, seconds, cpu_seconds, resident_bytes }.print()
    }
}

/// What the group has committed, by the broker's word.
struct Committed {
    consumer: BaseConsumer,
    partitions: TopicPartitionList,
}

impl Committed {
    fn new(subject: &Subject) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &subject.brokers)
            .set("group.id", &subject.group)
            .create()
            .context("create a consumer")?;
        let metadata = consumer.fetch_metadata(Some(&subject.topic), REQUEST_TIMEOUT)?;
        let mut partitions = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            partitions.add_partition(&subject.topic, partition.id());
        }
        let committed = Self { consumer, partitions };
        // Finds the group's coordinator, so that the first question that counts is a quick one.
        committed.messages()?;
        Ok(committed)
    }

    fn messages(&self) -> Result<u64> {
        let offsets = self.consumer.committed_offsets(self.partitions.clone(), REQUEST_TIMEOUT)?;
        Ok(u64::try_from(count::committed(&offsets))?)
    }
}
