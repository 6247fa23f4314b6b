//! The runner of one service: started, watched, killed, started again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lagless_protocol::frames::{Deploy, Failure, FailureClass, FromRunner, Level, ToRunner, VERSION};
use lagless_protocol::process::{self, FrameReader, FrameWriter, ReadError, RunnerCommand, RunnerProcess};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::telemetry::RunnerMetrics;

/// How long a runner may say nothing at all before it is taken for dead; it reports its usage twice a second.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Log lines that may wait for the engines; beyond that nothing more is read from the runner, which then waits too.
const LOG_LINES_MAX: usize = 1024;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A runner that lived this long was a good one: the next backoff starts from the beginning.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// A handle to the runner of a service. The runner ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct ServiceRunner {
    commands: mpsc::UnboundedSender<Command>,
    next_isolate: Arc<AtomicU32>,
}

/// What a function's engine hears of one of its isolates.
#[derive(Debug)]
pub enum IsolateEvent {
    Opened {
        from_spare: bool,
        took: Duration,
    },
    Outcomes(Vec<OwnedOutcome>),
    Log(LogLine),
    /// The isolate has ended by itself: as asked, or with an error.
    Closed(Option<Failure>),
    /// The isolate went down with its runner.
    Lost {
        failure: Failure,
        fault: Fault,
    },
}

/// A line that a function logged; `event` is `None` outside of any event.
#[derive(Debug)]
pub struct LogLine {
    pub batch: u64,
    pub event: Option<u32>,
    pub level: Level,
    pub text: String,
    /// Its place among the lines that wait, given free when it has been dealt with.
    _room: Option<OwnedSemaphorePermit>,
}

/// Who is to blame for the end of a runner, as seen from one isolate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An event of another isolate.
    Elsewhere,
    /// This event of this isolate.
    Event { batch: u64, event: u32 },
    /// Not known: whatever was running, of the batches up to this one. Later ones never reached the runner.
    Unknown { reached: Option<u64> },
}

/// What became of one event, on its own.
#[derive(Debug)]
pub struct OwnedOutcome {
    pub batch: u64,
    pub event: u32,
    pub wall: Duration,
    pub cpu: Duration,
    pub result: Result<Vec<u8>, Failure>,
}

/// The way of isolate events to the engine that opened the isolate.
pub type IsolateEvents = mpsc::UnboundedSender<(u32, IsolateEvent)>;

#[derive(Debug)]
pub(super) enum Command {
    Open { isolate: u32, function: u32, events: IsolateEvents },
    Invoke { isolate: u32, batch: u64, frames: Vec<u8> },
    Frames { isolate: u32, frames: Vec<u8> },
}

impl ServiceRunner {
    /// Starts the runner of `service` and keeps one alive until all handles are gone.
    pub fn start(
        service: String,
        command: RunnerCommand,
        functions: Vec<Deploy>,
        metrics: Arc<RunnerMetrics>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        #[expect(clippy::disallowed_methods, reason = "engines bound what they send by what isolates have in hand")]
        let (commands, received) = mpsc::unbounded_channel();
        let mut hello = Vec::new();
        ToRunner::Hello { version: VERSION, service: &service }.encode(&mut hello);
        for deploy in functions {
            ToRunner::Deploy(deploy).encode(&mut hello);
        }
        let keeper = Keeper {
            service,
            command,
            hello,
            commands: received,
            isolates: BTreeMap::new(),
            reached: BTreeMap::new(),
            log_room: Arc::new(Semaphore::new(LOG_LINES_MAX)),
            metrics,
        };
        let task = tokio::spawn(keeper.keep_alive());
        (Self { commands, next_isolate: Arc::default() }, task)
    }

    /// A runner whose keeper is driven by hand.
    #[cfg(test)]
    pub(super) fn held(metrics: Arc<RunnerMetrics>) -> (Self, Keeper) {
        #[expect(clippy::disallowed_methods, reason = "as in `start`")]
        let (commands, received) = mpsc::unbounded_channel();
        let keeper = Keeper {
            service: "simulation".to_owned(),
            command: RunnerCommand { program: Default::default(), args: Vec::new() },
            hello: Vec::new(),
            commands: received,
            isolates: BTreeMap::new(),
            reached: BTreeMap::new(),
            log_room: Arc::new(Semaphore::new(LOG_LINES_MAX)),
            metrics,
        };
        (Self { commands, next_isolate: Arc::default() }, keeper)
    }

    /// Asks for an isolate of the function. What becomes of it comes through `events`, by the number returned.
    pub fn open(&self, function: u32, events: &IsolateEvents) -> u32 {
        let isolate = self.next_isolate.fetch_add(1, Ordering::Relaxed);
        // Without a keeper nothing will come through `events` either: the worker is ending.
        let _ = self.commands.send(Command::Open { isolate, function, events: events.clone() });
        isolate
    }

    /// Sends a batch to an isolate. Batches of one isolate have ascending numbers.
    pub fn invoke(&self, isolate: u32, batch: u64, frames: Vec<u8>) {
        let _ = self.commands.send(Command::Invoke { isolate, batch, frames });
    }

    /// Sends frames that concern an isolate; nothing happens if it is gone.
    pub fn send(&self, isolate: u32, frames: Vec<u8>) {
        let _ = self.commands.send(Command::Frames { isolate, frames });
    }
}

/// Keeps the runner alive.
pub(super) struct Keeper {
    service: String,
    command: RunnerCommand,
    /// The frames that every new runner gets first.
    hello: Vec<u8>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) isolates: BTreeMap<u32, IsolateEvents>,
    /// The last batch that was written to each isolate.
    reached: BTreeMap<u32, u64>,
    log_room: Arc<Semaphore>,
    metrics: Arc<RunnerMetrics>,
}

/// Why a runner is over.
pub(super) enum End {
    /// No handle is left.
    Unwanted,
    Died(String),
    /// It had to be killed because an event does not stop.
    Stuck {
        isolate: u32,
        batch: u64,
        event: Option<u32>,
        failure: Failure,
    },
}

impl Keeper {
    async fn keep_alive(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let started = Instant::now();
            let end = match process::spawn(&self.command) {
                Ok((process, reader, writer)) => self.live(process, reader, writer).await,
                Err(error) => End::Died(format!("cannot start {}: {error}", self.command.program.display())),
            };
            match &end {
                End::Unwanted => return,
                End::Died(reason) => tracing::error!(service = self.service, reason, "runner died; starting another"),
                End::Stuck { failure, .. } => {
                    tracing::error!(
                        service = self.service,
                        reason = failure.message,
                        "runner killed; starting another"
                    );
                }
            }
            self.report_lost(&end);
            if started.elapsed() >= GOOD_LIFE {
                backoff = BACKOFF_MIN;
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn live(&mut self, mut process: RunnerProcess, mut reader: FrameReader, writer: FrameWriter) -> End {
        self.metrics.starts.inc();
        tracing::info!(service = self.service, pid = process.pid(), "runner started");
        #[expect(clippy::disallowed_methods, reason = "bounded by what isolates have in hand, as the commands are")]
        let (outbox, outgoing) = mpsc::unbounded_channel();
        let writing = tokio::spawn(write_all(writer, outgoing));
        let _ = outbox.send(self.hello.clone());
        let mut silence = Instant::now() + SILENCE_MAX;
        let end = loop {
            tokio::select! {
                // In this order: a worker that stood still itself first hears what the runner said meanwhile.
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.forward(command, &outbox),
                    None => break End::Unwanted,
                },
                filled = reader.fill() => {
                    silence = Instant::now() + SILENCE_MAX;
                    match self.take_frames(filled, &mut reader).await {
                        Ok(None) => {}
                        Ok(Some(stuck)) => break stuck,
                        // The socket closes a moment before the process can be waited for.
                        Err(ReadError::Io(_)) => break End::Died(ended(&mut process).await),
                        Err(error) => break End::Died(error.to_string()),
                    }
                }
                _ = tokio::time::sleep_until(silence) => {
                    break End::Died(format!("no sign of life for {SILENCE_MAX:?}"));
                }
            }
        };
        writing.abort();
        // It may have ended already.
        let _ = process.kill();
        let _ = process.wait().await;
        end
    }

    pub(super) fn forward(&mut self, command: Command, outbox: &mpsc::UnboundedSender<Vec<u8>>) {
        let frames = match command {
            Command::Open { isolate, function, events } => {
                self.isolates.insert(isolate, events);
                let mut frames = Vec::new();
                ToRunner::Open { isolate, function }.encode(&mut frames);
                frames
            }
            Command::Invoke { isolate, batch, frames } if self.isolates.contains_key(&isolate) => {
                self.reached.insert(isolate, batch);
                frames
            }
            Command::Frames { isolate, frames } if self.isolates.contains_key(&isolate) => frames,
            Command::Invoke { .. } | Command::Frames { .. } => return,
        };
        // When the writer has failed, so has the socket, and reading says it.
        let _ = outbox.send(frames);
    }

    /// Hands on what the runner said. An isolate's outcomes that arrived together are handed on together.
    async fn take_frames(
        &mut self,
        filled: std::io::Result<bool>,
        reader: &mut FrameReader,
    ) -> Result<Option<End>, ReadError> {
        if !filled? {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let mut outcomes = Outcomes::default();
        let end = loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    if let Some(end) = self.take_frame(frame, &mut outcomes) {
                        break Ok(Some(end));
                    }
                }
                Ok(None) => break Ok(None),
                Err(error) => break Err(error.into()),
            }
            if self.log_room.available_permits() == 0 {
                // Nobody closes it; what matters is that there is room again.
                drop(self.log_room.acquire().await);
            }
        };
        // What was said before the runner broke the protocol stands.
        outcomes.flush(&self.isolates);
        end
    }

    /// Hands on one frame; an outcome may wait in `outcomes` for its neighbours.
    pub(super) fn take_frame(&mut self, frame: FromRunner<'_>, outcomes: &mut Outcomes) -> Option<End> {
        if !matches!(frame, FromRunner::Outcome(_)) {
            outcomes.flush(&self.isolates);
        }
        match frame {
            FromRunner::Outcome(outcome) => {
                let owned = OwnedOutcome {
                    batch: outcome.batch,
                    event: outcome.event,
                    wall: Duration::from_micros(outcome.wall_us),
                    cpu: Duration::from_micros(outcome.cpu_us),
                    result: outcome.result.map(<[u8]>::to_vec),
                };
                outcomes.add(outcome.isolate, owned, &self.isolates);
            }
            FromRunner::Usage { resident_bytes, cpu_us, parsed_bytes, .. } => {
                self.metrics.resident_memory.set(resident_bytes as i64);
                self.metrics.cpu.set(Duration::from_micros(cpu_us).as_secs_f64());
                self.metrics.parsed.set(parsed_bytes as i64);
            }
            FromRunner::Ready { version, pid } => {
                tracing::debug!(service = self.service, version, pid, "runner ready");
            }
            FromRunner::Stuck { isolate, batch, event, error } => {
                return Some(End::Stuck { isolate, batch, event, failure: error });
            }
            FromRunner::Opened { isolate, from_spare, micros } => {
                let opened = IsolateEvent::Opened { from_spare, took: Duration::from_micros(micros) };
                self.tell(isolate, opened);
            }
            FromRunner::Log { isolate, batch, event, level, text } => {
                let _room = self.log_room.clone().try_acquire_owned().ok();
                let line = LogLine { batch, event, level, text: text.to_owned(), _room };
                self.tell(isolate, IsolateEvent::Log(line));
            }
            FromRunner::Closed { isolate, error } => {
                self.tell(isolate, IsolateEvent::Closed(error));
                self.isolates.remove(&isolate);
                self.reached.remove(&isolate);
            }
        }
        None
    }

    fn tell(&self, isolate: u32, event: IsolateEvent) {
        if let Some(events) = self.isolates.get(&isolate) {
            // An engine that is gone has let go of all it had.
            let _ = events.send((isolate, event));
        }
    }

    pub(super) fn report_lost(&mut self, end: &End) {
        let mut reached = std::mem::take(&mut self.reached);
        for (isolate, events) in std::mem::take(&mut self.isolates) {
            let unknown = Fault::Unknown { reached: reached.remove(&isolate) };
            let (failure, fault) = match end {
                End::Unwanted => return,
                End::Died(reason) => {
                    let message = format!("the runner of service {:?} died while it ran this: {reason}", self.service);
                    (Failure::new(FailureClass::RunnerLost, "RunnerLost", message), unknown)
                }
                End::Stuck { isolate: at_fault, batch, event, failure } => {
                    let fault = match event {
                        _ if *at_fault != isolate => Fault::Elsewhere,
                        Some(event) => Fault::Event { batch: *batch, event: *event },
                        None => unknown,
                    };
                    (failure.clone(), fault)
                }
            };
            let _ = events.send((isolate, IsolateEvent::Lost { failure, fault }));
        }
    }
}

/// Outcomes gathered per isolate, as long as they come in a row.
#[derive(Default)]
pub(super) struct Outcomes {
    isolate: u32,
    gathered: Vec<OwnedOutcome>,
}

impl Outcomes {
    fn add(&mut self, isolate: u32, outcome: OwnedOutcome, isolates: &BTreeMap<u32, IsolateEvents>) {
        if isolate != self.isolate {
            self.flush(isolates);
            self.isolate = isolate;
        }
        self.gathered.push(outcome);
    }

    pub(super) fn flush(&mut self, isolates: &BTreeMap<u32, IsolateEvents>) {
        let outcomes = std::mem::take(&mut self.gathered);
        if let (false, Some(events)) = (outcomes.is_empty(), isolates.get(&self.isolate)) {
            let _ = events.send((self.isolate, IsolateEvent::Outcomes(outcomes)));
        }
    }
}

async fn write_all(mut writer: FrameWriter, mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frames) = outgoing.recv().await {
        if writer.write(&frames).await.is_err() {
            // The reader sees the same broken socket and says so.
            return;
        }
    }
}

/// How the process ended, or that it did not although its socket is closed.
async fn ended(process: &mut RunnerProcess) -> String {
    match tokio::time::timeout(Duration::from_secs(1), process.wait()).await {
        Ok(Ok(status)) => process::describe_end(status),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its socket is closed".to_owned(),
    }
}
