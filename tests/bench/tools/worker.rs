//! A Lagless worker, measured from outside.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::figures::Figures;
use super::{PATIENCE, Subject, count, metrics, procfs};

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
        let mut resident_bytes = 0;
        for id in process.family()? {
            resident_bytes += procfs::resident(id)?.peak;
        }
        process.stop()?;
        if self.threads {
            after.print_threads_since(&before, self.subject.messages);
        }
        let cpu_seconds = (after.total - before.total).as_secs_f64();
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

/// A worker that runs; it is killed when this is dropped.
pub struct Process {
    child: Child,
    admin: SocketAddr,
}

impl Process {
    /// Starts it with its metrics page on a free port.
    pub fn start(command: &[String]) -> Result<Self> {
        let (program, arguments) = command.split_first().context("no command given")?;
        let admin = metrics::free_address()?;
        let child = Command::new(program)
            .args(arguments)
            .args(["--set", &format!("admin={admin}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        Ok(Self { child, admin })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn metric(&self, name: &str) -> u64 {
        metrics::sum(self.admin, name)
    }

    /// The worker and its runners.
    pub fn family(&self) -> Result<Vec<u32>> {
        let mut family = procfs::children(self.id())?;
        family.insert(0, self.id());
        Ok(family)
    }

    /// Asks again and again until the answer is yes.
    pub fn wait_until(&mut self, pause: Duration, mut is_so: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the worker has ended: {status}");
            }
            ensure!(Instant::now() < deadline, "the worker is not done after {PATIENCE:?}");
            sleep(pause);
        }
        Ok(())
    }

    /// Ends it the regular way.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.id())?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the worker has not drained: {status}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may just have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// CPU time of the worker and its runners so far.
struct Cpu {
    total: Duration,
    /// By process and thread.
    threads: HashMap<(u32, u32), (String, Duration)>,
}

impl Cpu {
    fn of(process: &Process) -> Result<Self> {
        let mut cpu = Self { total: Duration::ZERO, threads: HashMap::new() };
        for id in process.family()? {
            cpu.total += procfs::cpu(id)?;
            let role = if id == process.id() { "worker" } else { "runner" };
            for (thread, name, time) in procfs::threads(id)? {
                cpu.threads.insert((id, thread), (format!("{role}: {name}"), time));
            }
        }
        Ok(cpu)
    }

    /// The costliest first, threads of one name together.
    fn print_threads_since(&self, before: &Self, messages: u64) {
        let mut by_name: HashMap<&str, Duration> = HashMap::new();
        for (id, (name, time)) in &self.threads {
            let earlier = before.threads.get(id).map_or(Duration::ZERO, |(_, time)| *time);
            *by_name.entry(name).or_default() += time.saturating_sub(earlier);
        }
        let mut rows: Vec<_> = by_name.into_iter().filter(|(_, time)| !time.is_zero()).collect();
        rows.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        eprintln!("| thread | CPU-seconds per million | share |\n|---|--:|--:|");
        for (name, time) in rows {
            let share = 100.0 * time.as_secs_f64() / (self.total - before.total).as_secs_f64();
            eprintln!("| {name} | {:.2} | {share:.0} % |", time.as_secs_f64() * 1e6 / messages as f64);
        }
    }
}
