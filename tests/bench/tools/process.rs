//! A Lagless worker and its runners: started, watched, and what they use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATIENCE, metrics, procfs};

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

    /// The most memory that it and its runners held, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let mut peak = 0;
        for id in self.family()? {
            peak += procfs::resident(id)?.peak;
        }
        Ok(peak)
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
pub struct Cpu {
    total: Duration,
    /// By process and thread.
    threads: HashMap<(u32, u32), (String, Duration)>,
}

impl Cpu {
    pub fn of(process: &Process) -> Result<Self> {
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

    pub fn seconds_since(&self, before: &Self) -> f64 {
        (self.total - before.total).as_secs_f64()
    }

    /// The costliest first, threads of one name together.
    pub fn print_threads_since(&self, before: &Self, messages: u64) {
        let mut by_name: HashMap<&str, Duration> = HashMap::new();
        for (id, (name, time)) in &self.threads {
            let earlier = before.threads.get(id).map_or(Duration::ZERO, |(_, time)| *time);
            *by_name.entry(name).or_default() += time.saturating_sub(earlier);
        }
        let mut rows: Vec<_> = by_name.into_iter().filter(|(_, time)| !time.is_zero()).collect();
        rows.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        eprintln!("| thread | CPU-seconds per million | share |\n|---|--:|--:|");
        for (name, time) in rows {
            let share = 100.0 * time.as_secs_f64() / self.seconds_since(before);
            eprintln!("| {name} | {:.2} | {share:.0} % |", time.as_secs_f64() * 1e6 / messages as f64);
        }
    }
}
