//! A runner's process: reads frames and passes each to the isolate it is for.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use deno_runtime::deno_core::{JsRuntime, v8_set_flags};
use lagless_protocol::frames::{Deploy, Failure, FailureClass, FromRunner, ToRunner, VERSION};
use lagless_protocol::wire::split_frame;
use tokio::sync::mpsc::UnboundedSender;

use crate::batch::Batch;
use crate::isolate::{Command, Open};
use crate::outgoing::{Outgoing, end_process};
use crate::spare::Spares;
use crate::watchdog::Watchdog;

/// The exit code after frames that no worker of this version sends.
const EXIT_PROTOCOL: i32 = 70;
/// How much is read from the socket at once; a batch of 100 events of 1 KB fits.
const READ_BYTES: usize = 256 << 10;

/// V8's unrolling pass also drops the check for termination from loops that it takes for short, such as those inside
/// `while (true) kept.push(new Array(1000).fill(1))`: neither a timeout nor the heap limit could end that code, and the
/// process would have to be killed with all the neighbours.
const ENDABLE_LOOPS: &str = "--no-turboshaft-loop-unrolling";

/// What all threads of the process share.
pub(crate) struct Process {
    pub outgoing: Outgoing,
    pub watchdog: Watchdog,
}

/// Prepares V8. Must be the first thing that a runner's `main` does: on processors with memory protection keys, a
/// thread that is older than V8 may crash when it first runs JavaScript.
pub fn init() {
    let flags = ["lagless", "--stack-size=1024", ENDABLE_LOOPS];
    let unknown = v8_set_flags(flags.map(str::to_owned).to_vec());
    debug_assert_eq!(unknown.len(), 1, "V8 does not know {unknown:?}");
    JsRuntime::init_platform(None);
}

/// Serves the worker at the other end of the socket until that end closes.
///
/// Ends the process rather than returning, whether the worker is gone or spoke another protocol: isolates may be
/// running on other threads, and the ordinary way out of `main` would tear V8 down under them.
pub fn run(socket: UnixStream) -> ExitCode {
    match serve(socket) {
        Ok(()) => end_process(0),
        Err(error) => {
            // Nobody is left to tell when standard error is closed too.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("lagless runner: {error}\n").as_bytes());
            end_process(EXIT_PROTOCOL)
        }
    }
}

fn serve(mut socket: UnixStream) -> Result<(), String> {
    ignore_broken_pipes()?;
    let outgoing = socket.try_clone().map_err(|error| format!("cannot share the socket: {error}"))?;
    let process = Arc::new(Process { outgoing: Outgoing::new(outgoing), watchdog: Watchdog::default() });
    let watching = process.clone();
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || watching.watchdog.run(&watching.outgoing))
        .map_err(|error| format!("cannot start the watchdog: {error}"))?;
    let mut runner =
        Runner { spares: Spares::new(process.clone()), process, functions: HashMap::new(), isolates: HashMap::new() };

    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        let filled = buffer.len();
        buffer.resize(filled + READ_BYTES, 0);
        let count = match socket.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            // The worker died in the middle of a frame: the same as an end.
            Err(_) => return Ok(()),
        };
        buffer.truncate(filled + count);
        let mut taken = 0;
        while let Some((kind, body, length)) = split_frame(&buffer[taken..]).map_err(|error| error.to_string())? {
            runner.take(kind, body)?;
            taken += length;
        }
        buffer.drain(..taken);
        buffer.shrink_to(4 * READ_BYTES);
    }
}

/// A write to a worker that is gone must be an error, not a signal, so that it is one place that decides what follows.
fn ignore_broken_pipes() -> Result<(), String> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal installs no handler that could run in a bad moment.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }
        .map(|_| ())
        .map_err(|error| format!("cannot ignore SIGPIPE: {error}"))
}

struct Runner {
    process: Arc<Process>,
    spares: Spares,
    functions: HashMap<u32, Arc<Deploy>>,
    /// Unbounded, since this thread must never wait for one isolate while others starve: what the worker sends is the
    /// bound (it keeps few batches per isolate in flight).
    isolates: HashMap<u32, UnboundedSender<Command>>,
}

impl Runner {
    fn take(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        match ToRunner::decode(kind, body).map_err(|error| error.to_string())? {
            ToRunner::Hello { version: VERSION, .. } => {
                self.process.outgoing.send(&FromRunner::Ready { version: VERSION, pid: std::process::id() });
            }
            ToRunner::Hello { version, .. } => {
                return Err(format!("the worker speaks version {version} of the protocol, this runner {VERSION}"));
            }
            ToRunner::Deploy(deploy) => {
                self.functions.insert(deploy.function, Arc::new(deploy));
            }
            ToRunner::Open { isolate, function } => self.open(isolate, function),
            ToRunner::Invoke(invoke) => {
                let batch = Batch::copy(&invoke, body).ok_or("a batch refers to a key list that it does not have")?;
                self.pass(invoke.isolate, Command::Batch(Box::new(batch)));
            }
            ToRunner::Abort { isolate, batch } => self.pass(isolate, Command::Abort(batch)),
            ToRunner::Close { isolate } => self.pass(isolate, Command::Close),
        }
        Ok(())
    }

    fn open(&mut self, isolate: u32, function: u32) {
        let since = Instant::now();
        let refused = |message: String| {
            let error = Some(Failure::new(FailureClass::Load, "Load", message));
            self.process.outgoing.send(&FromRunner::Closed { isolate, error });
        };
        let Some(deploy) = self.functions.get(&function).cloned() else {
            return refused(format!("function {function} is not deployed"));
        };
        let spare = match self.spares.take() {
            Ok(spare) => spare,
            Err(error) => return refused(format!("cannot start a thread for the isolate: {error}")),
        };
        let open = Open { isolate, deploy, from_spare: spare.is_ready(), since };
        self.isolates.insert(isolate, spare.commands);
        self.pass(isolate, Command::Open(open));
        self.spares.refill();
    }

    /// An isolate that has closed by itself takes nothing more; the worker has its `Closed`, or will have it soon.
    fn pass(&mut self, isolate: u32, command: Command) {
        let closes = matches!(command, Command::Close);
        if let Some(commands) = self.isolates.get(&isolate) {
            let gone = commands.send(command).is_err();
            if gone || closes {
                self.isolates.remove(&isolate);
            }
        }
    }
}
