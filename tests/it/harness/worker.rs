//! The program as a process: started, watched, asked, signalled, killed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::wait::{SOON, WORK, eventually};

/// A process of the program; dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    ended: Option<ExitStatus>,
    written: TempDir,
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A process by number and start time, so that a number given out again is not mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    started: String,
}

impl Worker {
    #[track_caller]
    pub fn start(mut command: Command, stdin: Stdio) -> Self {
        let written = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(written.path().join(name)).unwrap();
        let child = command.stdin(stdin).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child, ended: None, written }
    }

    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Log lines and errors so far.
    pub fn log(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.written.path().join(name)).unwrap()).into_owned()
    }

    /// The way into the process, where its input was a pipe; dropping it ends the input.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("the input was not a pipe, or was taken before")
    }

    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended.is_none()
    }

    /// Looks until there is a value, as long as the process runs.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, within: Duration, mut look: impl FnMut(&Self) -> Result<T, String>) -> T {
        eventually(what, within, || {
            assert!(self.is_running(), "{what}: the worker has ended; its log:\n{}", tail(&self.log()));
            look(self).map_err(|seen| format!("{seen}; the worker's log:\n{}", tail(&self.log())))
        })
    }

    /// Waits for a text in the log, and returns its line.
    #[track_caller]
    pub fn until_logged(&mut self, text: &str) -> String {
        self.until(&format!("{text:?} in the log"), SOON, |worker| {
            worker.log().lines().find(|line| line.contains(text)).map(str::to_owned).ok_or_else(String::new)
        })
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        self.end_within(WORK)
    }

    #[track_caller]
    pub fn end_within(&mut self, within: Duration) -> Ended {
        eventually("the end of the process", within, || {
            if self.is_running() { Err(format!("it runs; its log:\n{}", tail(&self.log()))) } else { Ok(()) }
        });
        Ended { code: self.ended.and_then(|status| status.code()), stdout: self.stdout(), stderr: self.log() }
    }

    pub fn signal(&self, signal: Signal) {
        signal::kill(self.pid(), signal).unwrap();
    }

    /// Ends it as a power cut would, and returns the runners that it had.
    pub fn kill(mut self) -> Vec<Process> {
        let runners = self.runners();
        self.end_by_force();
        runners
    }

    fn end_by_force(&mut self) {
        if self.is_running() {
            // It may have ended meanwhile.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// The processes that this one has started.
    pub fn runners(&self) -> Vec<Process> {
        let parent = self.pid().to_string();
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers
            .filter_map(|pid| {
                let stat = Stat::of(pid)?;
                (stat.parent == parent && !stat.is_zombie).then_some(Process { pid, started: stat.started })
            })
            .collect()
    }

    /// The address where the process says it serves health and metrics.
    #[track_caller]
    pub fn admin(&mut self) -> SocketAddr {
        let line = self.until_logged("health and metrics at http://");
        line.rsplit("http://").next().and_then(|address| address.trim().parse().ok()).expect("an address ends the line")
    }

    /// Status and body of a page of the admin server.
    #[track_caller]
    pub fn page(&mut self, path: &str) -> (u16, String) {
        let address = self.admin();
        self.until(path, SOON, |_| get(address, path).map_err(|error| error.to_string()))
    }

    /// The sum of a metric over all its labels that contain `label`; 0 where there is none.
    #[track_caller]
    pub fn metric(&mut self, name: &str, label: &str) -> f64 {
        sum_of(&self.page("/metrics").1, name, label)
    }

    /// Waits for a metric to be as wanted.
    #[track_caller]
    pub fn until_metric(&mut self, name: &str, label: &str, is_wanted: impl Fn(f64) -> bool) -> f64 {
        let address = self.admin();
        self.until(name, WORK, |_| {
            let page = get(address, "/metrics").map_err(|error| error.to_string())?.1;
            let value = sum_of(&page, name, label);
            if is_wanted(value) { Ok(value) } else { Err(format!("{name} is {value} in\n{page}")) }
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end_by_force();
    }
}

impl Ended {
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", tail(&self.stdout), tail(&self.stderr));
        self
    }

    /// The errors must hold each of these.
    #[track_caller]
    pub fn expect_told(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} is not in\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Standard output as JSON, line by line.
    #[track_caller]
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl Process {
    /// Whether it is there. One that has ended and was not waited for is gone: what it held is free.
    pub fn is_alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && !stat.is_zombie)
    }

    pub fn kill(&self) {
        assert!(self.is_alive());
        signal::kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }
}

/// Waits until none of the processes is left.
#[track_caller]
pub fn until_gone(processes: &[Process]) {
    eventually("the end of all runners", SOON, || {
        let left: Vec<_> = processes.iter().filter(|process| process.is_alive()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

struct Stat {
    parent: String,
    is_zombie: bool,
    started: String,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything; after it come state, parent, and, 20th, start time.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            is_zombie: *fields.first()? == "Z",
            parent: (*fields.get(1)?).to_owned(),
            started: (*fields.get(19)?).to_owned(),
        })
    }
}

/// One request of plain HTTP/1.1.
fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| std::io::Error::other(format!("not an answer: {answer:?}")))
}

fn sum_of(page: &str, name: &str, label: &str) -> f64 {
    let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{').unwrap_or((series, ""));
        (found == name && labels.contains(label)).then(|| value.parse::<f64>().ok()).flatten()
    });
    samples.sum()
}

/// The end of a long text.
pub fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(8_000);
    &text[text.ceil_char_boundary(from)..]
}
