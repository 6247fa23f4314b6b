//! What a worker and its runner hold in memory while there is nothing to do.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use super::process::Process;
use super::procfs::{self, Resident};

/// Time for what a start leaves behind to be given back.
const CALM: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);
/// Further isolates over which the cost of one is averaged.
const FURTHER: u64 = 10;

#[derive(Debug, Args)]
pub struct Memory {
    /// The key that says how many isolates are held
    #[arg(long, default_value = "service.bench.function.order.isolates")]
    isolates: String,
    /// The worker's command, on a topic where nothing comes
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Memory {
    pub fn run(self) -> Result<()> {
        let (worker, one) = self.hold(1)?;
        let (_, many) = self.hold(1 + FURTHER)?;
        println!("| memory of the idle worker | {} |", show(worker));
        println!("| memory of a runner with its spare and one isolate | {} |", show(one));
        let further = Resident {
            now: many.now.saturating_sub(one.now) / FURTHER,
            own: many.own.saturating_sub(one.own) / FURTHER,
            peak: 0,
        };
        println!("| memory of each further isolate | {} |", show(further));
        Ok(())
    }

    /// Memory of the worker and of its runner with this many isolates.
    fn hold(&self, isolates: u64) -> Result<(Resident, Resident)> {
        let mut command = self.command.clone();
        for bound in ["min", "max"] {
            command.extend(["--set".to_owned(), format!("{}.{bound}={isolates}", self.isolates)]);
        }
        let mut process = Process::start(&command)?;
        process.wait_until(LOOK, |process| process.metric("lagless_function_isolates") >= isolates)?;
        sleep(CALM);
        let family = process.family()?;
        let runner = family.get(1).context("the worker has no runner")?;
        let memory = (procfs::resident(process.id())?, procfs::resident(*runner)?);
        process.stop()?;
        Ok(memory)
    }
}

/// Resident memory, and how much of it is the process's own.
fn show(memory: Resident) -> String {
    format!("{:.1} MB ({:.1} MB its own)", memory.now as f64 / 1e6, memory.own as f64 / 1e6)
}
