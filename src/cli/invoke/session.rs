//! One runner, one isolate, one event: from the start of the process to its end.

use std::io;
use std::time::Duration;

use lagless_protocol::frames::{Deploy, Failure, FailureClass, FromRunner, Level, Limits, Outcome, ToRunner, VERSION};
use lagless_protocol::process::{self, FrameReader, FrameWriter, RunnerCommand, RunnerProcess};
use tokio::time::Instant;

/// How long a process may take to start and set V8 up.
const BOOT_MAX: Duration = Duration::from_secs(30);
/// What the runner's own watchdog gets on top of the limits it watches, before the runner is taken for dead.
const MARGIN: Duration = Duration::from_secs(2);

pub const ISOLATE: u32 = 0;
pub const BATCH: u64 = 0;

/// What became of the event, and what it took.
#[derive(Debug)]
pub struct Ran {
    /// The result as JSON text; empty for undefined.
    pub result: Result<Vec<u8>, Failure>,
    /// Wall-clock time of the handler, or the wait for it when it has no outcome.
    pub wall: Duration,
    /// CPU time of the isolate; of the whole runner when there is no outcome.
    pub cpu: Duration,
    /// Heap of the isolate in use; memory of the whole runner when there is no outcome.
    pub memory_bytes: u64,
}

impl Ran {
    /// A function that did not get as far as to run.
    pub fn not_started(failure: Failure) -> Self {
        Self { result: Err(failure), wall: Duration::ZERO, cpu: Duration::ZERO, memory_bytes: 0 }
    }
}

/// Runs the frame `invoke`, which is for [`ISOLATE`] and [`BATCH`], in a runner of its own. `log` gets each line that
/// the function logs, as it comes.
///
/// # Errors
/// When no runner can be started. What goes wrong later is the event's failure.
pub async fn run(
    command: &RunnerCommand,
    deploy: Deploy,
    invoke: &[u8],
    log: impl FnMut(Level, &str),
) -> io::Result<Ran> {
    let (process, reader, writer) = process::spawn(command)?;
    let mut session = Session { process, reader, writer, log, limits: deploy.limits, cpu_us: 0, resident_bytes: 0 };
    let ran = session.converse(deploy, invoke).await;
    // It may have ended already; either way it has nothing to lose.
    let _ = session.process.kill();
    let _ = session.process.wait().await;
    Ok(ran)
}

struct Session<L> {
    process: RunnerProcess,
    reader: FrameReader,
    writer: FrameWriter,
    log: L,
    limits: Limits,
    /// What the runner has last said of itself.
    cpu_us: u64,
    resident_bytes: u64,
}

/// What ends a wait.
enum Heard {
    Opened,
    Ran(Ran),
    Failed(Failure),
}

impl<L: FnMut(Level, &str)> Session<L> {
    async fn converse(&mut self, deploy: Deploy, invoke: &[u8]) -> Ran {
        let started = Instant::now();
        let mut hello = Vec::new();
        let service = deploy.name.split('.').next().unwrap_or_default().to_owned();
        ToRunner::Hello { version: VERSION, service: &service }.encode(&mut hello);
        let function = deploy.function;
        ToRunner::Deploy(deploy).encode(&mut hello);
        ToRunner::Open { isolate: ISOLATE, function }.encode(&mut hello);

        let limits = self.limits;
        let patience = |limit_ms: u64| Duration::from_millis(limit_ms.saturating_add(limits.grace_ms)) + MARGIN;
        match self.ask(&hello, BOOT_MAX + patience(limits.start_ms)).await {
            Heard::Opened => {}
            Heard::Ran(ran) => return ran,
            Heard::Failed(failure) => return self.failed(failure, started),
        }
        let started = Instant::now();
        match self.ask(invoke, patience(limits.timeout_ms)).await {
            Heard::Ran(ran) => ran,
            Heard::Failed(failure) => self.failed(failure, started),
            Heard::Opened => self.failed(lost("the runner does not keep to the protocol"), started),
        }
    }

    /// Writes frames and waits for what they lead to, both within the time given.
    async fn ask(&mut self, frames: &[u8], patience: Duration) -> Heard {
        let answer = async {
            // When the socket is broken, reading says it, and finds what the runner had to say before.
            let _ = self.writer.write(frames).await;
            self.hear().await
        };
        match tokio::time::timeout(patience, answer).await {
            Ok(heard) => heard,
            Err(_) => {
                let message =
                    format!("no outcome within {}; the runner was killed", humantime::format_duration(patience));
                Heard::Failed(Failure::new(FailureClass::Timeout, "Timeout", message))
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        loop {
            loop {
                match self.reader.next_frame() {
                    Ok(None) => break,
                    Ok(Some(FromRunner::Log { level, text, .. })) => (self.log)(level, text),
                    Ok(Some(FromRunner::Usage { resident_bytes, cpu_us, .. })) => {
                        (self.resident_bytes, self.cpu_us) = (resident_bytes, cpu_us);
                    }
                    Ok(Some(FromRunner::Ready { .. })) => {}
                    Ok(Some(FromRunner::Opened { .. })) => return Heard::Opened,
                    Ok(Some(FromRunner::Outcome(outcome))) => return Heard::Ran(ran(outcome)),
                    Ok(Some(FromRunner::Stuck { error, .. })) => return Heard::Failed(error),
                    Ok(Some(FromRunner::Closed { error, .. })) => {
                        return Heard::Failed(error.unwrap_or_else(|| lost("the isolate was closed")));
                    }
                    Err(error) => {
                        return Heard::Failed(lost(format!("the runner does not keep to the protocol: {error}")));
                    }
                }
            }
            if !matches!(self.reader.fill().await, Ok(true)) {
                return Heard::Failed(self.died().await);
            }
        }
    }

    async fn died(&mut self) -> Failure {
        // The socket closes a moment before the process can be waited for.
        let ended = match tokio::time::timeout(Duration::from_secs(1), self.process.wait()).await {
            Ok(Ok(status)) => process::describe_end(status),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its socket is closed".to_owned(),
        };
        lost(format!("the runner died while it ran this: {ended}"))
    }

    fn failed(&self, failure: Failure, started: Instant) -> Ran {
        Ran {
            result: Err(failure),
            wall: started.elapsed(),
            cpu: Duration::from_micros(self.cpu_us),
            memory_bytes: self.resident_bytes,
        }
    }
}

fn ran(outcome: Outcome<'_>) -> Ran {
    Ran {
        result: outcome.result.map(<[u8]>::to_vec),
        wall: Duration::from_micros(outcome.wall_us),
        cpu: Duration::from_micros(outcome.cpu_us),
        memory_bytes: outcome.heap_bytes,
    }
}

fn lost(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::RunnerLost, "RunnerLost", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_lost(program: &str, args: &[&str], reason: &str) {
        let command = RunnerCommand { program: program.into(), args: args.iter().map(Into::into).collect() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ran = runtime.block_on(run(&command, Deploy::default(), b"", |_, _| {})).unwrap();
        let failure = ran.result.unwrap_err();
        assert_eq!(failure.class, FailureClass::RunnerLost);
        assert!(failure.message.contains(reason), "{}", failure.message);
    }

    #[test]
    fn a_runner_that_dies_is_a_failure_that_says_how() {
        check_lost("/bin/sh", &["-c", "exit 3"], "exit code 3");
        check_lost("/bin/sh", &["-c", "kill -9 $$"], "killed by SIGKILL");
    }

    #[test]
    fn a_runner_that_speaks_another_language_is_a_failure() {
        check_lost("/bin/sh", &["-c", "printf '\\1\\0\\0\\0\\1' >&0"], "does not keep to the protocol");
    }

    #[test]
    fn a_runner_that_cannot_be_started_is_an_error() {
        let command = RunnerCommand { program: "/nowhere/runner".into(), args: Vec::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(runtime.block_on(run(&command, Deploy::default(), b"", |_, _| {})).is_err());
    }
}
