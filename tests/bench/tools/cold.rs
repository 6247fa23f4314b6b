//! How long isolates take to open, by the worker's own log.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::figures::Spread;

/// Between two events: the isolates of the first have gone, and the next spare is made.
const PAUSE: Duration = Duration::from_millis(1500);
const EVENTS: usize = 15;

#[derive(Debug, Args)]
pub struct Cold {
    /// The worker's command, on `starts.toml`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Cold {
    pub fn run(self) -> Result<()> {
        let (program, arguments) = self.command.split_first().context("no command given")?;
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--stdin", "--log-format", "json", "--log", "lagless=debug"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let mut input = child.stdin.take().context("no standard input")?;
        let feed = std::thread::spawn(move || -> std::io::Result<()> {
            for seq in 0..EVENTS {
                sleep(PAUSE);
                writeln!(input, r#"{{"seq":{seq},"amount":1.5}}"#)?;
            }
            Ok(())
        });
        let (mut spare, mut made) = (Vec::new(), Vec::new());
        for line in BufReader::new(child.stderr.take().context("no standard error")?).lines() {
            let line = line?;
            if let Some(opened) = Opened::from_log(&line) {
                if opened.from_spare { &mut spare } else { &mut made }.push(opened.took.as_secs_f64() * 1e3);
            }
        }
        let status = child.wait()?;
        ensure!(status.success(), "{program} ended with {status}");
        feed.join().map_err(|_| anyhow::anyhow!("the feed has panicked"))??;
        for (label, times) in [("with a spare", spare), ("without a spare", made)] {
            let spread = Spread::of(times).with_context(|| format!("no isolate was opened {label}"))?;
            println!("| cold start of an isolate {label}, code loaded | {} ms |", spread.show(2));
        }
        Ok(())
    }
}

struct Opened {
    from_spare: bool,
    took: Duration,
}

impl Opened {
    /// `None` of other lines.
    fn from_log(line: &str) -> Option<Self> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let from_spare = line.get("from_spare")?.as_bool()?;
        Some(Self { from_spare, took: duration(line.get("took")?.as_str()?)? })
    }
}

/// Reads what `Duration`'s `Debug` writes.
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * seconds))
}
