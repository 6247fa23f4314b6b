//! How long programs take to start.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::figures::Spread;

#[derive(Debug, Args)]
pub struct Start {
    /// What the table's row says
    #[arg(long)]
    label: String,
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// A line for its standard input; then what counts is the time to the first line that comes back
    #[arg(long)]
    line: Option<String>,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Start {
    pub fn run(self) -> Result<()> {
        // The first run finds the program on the disk, the others in memory.
        self.time()?;
        let mut times = Vec::new();
        for _ in 0..self.runs {
            times.push(self.time()?.as_secs_f64() * 1e3);
        }
        let spread = Spread::of(times).context("--runs must be 1 or more")?;
        println!("| {} | {} ms |", self.label, spread.show(1));
        Ok(())
    }

    fn time(&self) -> Result<Duration> {
        let (program, arguments) = self.command.split_first().context("no command given")?;
        let begun = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut answer = None;
        if let (Some(line), Some(mut input)) = (&self.line, input) {
            writeln!(input, "{line}")?;
            output.read_line(&mut String::new())?;
            answer = Some(begun.elapsed());
        }
        let status = child.wait()?;
        ensure!(status.success(), "{program} ended with {status}");
        Ok(answer.unwrap_or_else(|| begun.elapsed()))
    }
}
