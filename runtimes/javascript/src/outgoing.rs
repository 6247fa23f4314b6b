//! The runner's half of the socket that writes: whole frames, one writer at a time.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use lagless_protocol::frames::FromRunner;

/// Ends the process at once. No destructor and no exit handler runs: isolates may be running on other threads, and
/// nothing in a runner needs saving.
pub fn end_process(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Writes frames to the worker. A worker that is gone ends the process: there is nobody left to work for.
pub struct Outgoing(Mutex<UnixStream>);

impl Outgoing {
    pub fn new(stream: UnixStream) -> Self {
        Self(Mutex::new(stream))
    }

    /// Writes bytes that hold whole frames. Blocks while the worker does not read, which is what bounds the memory of
    /// a function that logs or answers faster than the worker takes it.
    pub fn write(&self, frames: &[u8]) {
        let mut stream = self.0.lock().unwrap_or_else(|_| end_process(0));
        if stream.write_all(frames).is_err() {
            end_process(0);
        }
    }

    pub fn send(&self, frame: &FromRunner<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.write(&bytes);
    }

    /// Like `send`, unless somebody else is writing, perhaps blocked. Returns whether it was sent.
    pub fn try_send(&self, frame: &FromRunner<'_>) -> bool {
        let Ok(mut stream) = self.0.try_lock() else {
            return false;
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        if stream.write_all(&bytes).is_err() {
            end_process(0);
        }
        true
    }
}
