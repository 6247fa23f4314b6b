//! CPU time and memory of processes, read from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The kernel counts CPU time for user programs in hundredths of a second, on every architecture in use.
const TICK: Duration = Duration::from_millis(10);

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    pub now: u64,
    /// Without pages of files, which processes of one program share.
    pub own: u64,
    pub peak: u64,
}

/// CPU time of this process so far.
pub fn own_cpu() -> Result<Duration> {
    cpu(std::process::id())
}

/// CPU time of a process so far, with its children that have ended and were waited for.
pub fn cpu(process: u32) -> Result<Duration> {
    let fields = stat(&format!("/proc/{process}/stat"))?;
    ticks(&fields, 11..15)
}

/// CPU time by thread: the thread's number, name and time.
pub fn threads(process: u32) -> Result<Vec<(u32, String, Duration)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let path = entry?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // A thread may end while it is looked at.
        let Ok(fields) = stat(&path.join("stat").display().to_string()) else { continue };
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        threads.push((id, name.trim_end().to_owned(), ticks(&fields, 11..13)?));
    }
    Ok(threads)
}

/// The processes that `parent` has started and that still run.
pub fn children(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // A process may end while it is looked at.
        let Ok(fields) = stat(&path.join("stat").display().to_string()) else { continue };
        if fields.get(1).and_then(|field| field.parse().ok()) == Some(parent) {
            children.push(id);
        }
    }
    Ok(children)
}

pub fn resident(process: u32) -> Result<Resident> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kilobytes = |key: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number =
            line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {key} in {path}"))?;
        Ok(number.parse::<u64>()? * 1024)
    };
    Ok(Resident { now: kilobytes("VmRSS")?, own: kilobytes("RssAnon")?, peak: kilobytes("VmHWM")? })
}

/// The fields of a `stat` file that follow the name, which may hold spaces and parentheses itself.
fn stat(path: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let (_, fields) = text.rsplit_once(") ").with_context(|| format!("{path} has another form"))?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn ticks(fields: &[String], range: std::ops::Range<usize>) -> Result<Duration> {
    let mut sum = 0;
    for field in fields.get(range).context("stat has too few fields")? {
        sum += field.parse::<u32>()?;
    }
    Ok(TICK * sum)
}
