//! The worker's end: a runner process and the socket to it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use crate::frames::FromRunner;
use crate::wire::{WireError, split_frame};

/// How a runner is started: the socket is its standard input, its environment is empty.
#[derive(Debug, Clone)]
pub struct RunnerCommand {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl RunnerCommand {
    /// This very program with the hidden verb `runner`.
    pub fn of_this_program() -> io::Result<Self> {
        // The link stays valid when the file is replaced by an upgrade while the worker runs.
        let link = PathBuf::from("/proc/self/exe");
        let program = if link.exists() { link } else { std::env::current_exe()? };
        Ok(Self { program, args: vec!["runner".into()] })
    }
}

/// Why nothing more comes from a runner.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("reading from the runner: {0}")]
    Io(#[from] io::Error),
    #[error("the runner does not keep to the protocol: {0}")]
    Wire(#[from] WireError),
}

/// Starts a runner in a process group of its own, so that a terminal's Ctrl-C reaches only the worker.
pub fn spawn(command: &RunnerCommand) -> io::Result<(RunnerProcess, FrameReader, FrameWriter)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let (read, write) = UnixStream::from_std(ours)?.into_split();
    let reader = FrameReader { socket: read, buffer: Vec::with_capacity(READ_CHUNK), consumed: 0 };
    Ok((RunnerProcess { child }, reader, FrameWriter { socket: write }))
}

/// A running runner; dropping it kills it.
#[derive(Debug)]
pub struct RunnerProcess {
    child: Child,
}

impl RunnerProcess {
    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills the process at once; [`wait`](Self::wait) then returns.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.start_kill()
    }

    /// Waits for the process to end.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

/// Bytes asked for by one read.
const READ_CHUNK: usize = 256 << 10;

/// Reads frames that a runner sends.
#[derive(Debug)]
pub struct FrameReader {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
    consumed: usize,
}

impl FrameReader {
    /// Waits for more bytes. `false`: the runner has closed its end. Safe to cancel.
    pub async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.reserve(READ_CHUNK);
        Ok(self.socket.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next whole frame among the bytes read so far.
    pub fn next_frame(&mut self) -> Result<Option<FromRunner<'_>>, WireError> {
        match split_frame(&self.buffer[self.consumed..])? {
            Some((kind, body, length)) => {
                self.consumed += length;
                FromRunner::decode(kind, body).map(Some)
            }
            None => Ok(None),
        }
    }
}

/// Writes frames to a runner.
#[derive(Debug)]
pub struct FrameWriter {
    socket: OwnedWriteHalf,
}

impl FrameWriter {
    /// Writes whole frames.
    pub async fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        self.socket.write_all(frames).await
    }
}

/// What a process's end looks like to people.
pub fn describe_end(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (_, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("killed by {name}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}
