//! Spare isolates: threads whose isolate is made from the snapshot already and waits for its function.
//!
//! Making one takes milliseconds; giving it a function takes a fraction of one. So one is always in the making or
//! waiting, and the way through a spare is the only way to open an isolate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::isolate::{self, Command};
use crate::outgoing::end_process;
use crate::runner::Process;

/// Stack of an isolate's thread, in bytes: well above V8's own limit, since Rust frames stand between JavaScript's.
const STACK_BYTES: usize = 8 << 20;

/// The exit code after a panic that no isolate's life contains; the one that Rust uses for a panic in `main`.
const EXIT_PANIC: i32 = 101;

/// A thread with an isolate that has no function yet.
pub struct Spare {
    pub commands: UnboundedSender<Command>,
    ready: Arc<AtomicBool>,
}

impl Spare {
    #[expect(
        clippy::disallowed_methods,
        reason = "the reader must not wait for one isolate while others starve; the worker bounds what is in flight"
    )]
    fn start(process: &Arc<Process>) -> std::io::Result<Self> {
        let (commands, inbox) = unbounded_channel();
        let ready = Arc::new(AtomicBool::new(false));
        let (process, made) = (process.clone(), ready.clone());
        std::thread::Builder::new().name("isolate".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            // Whoever asked for the isolate would wait for ever: the worker sees the end of the process instead.
            let lived = AssertUnwindSafe(|| isolate::thread(&process, inbox, &made));
            if catch_unwind(lived).is_err() {
                end_process(EXIT_PANIC);
            }
        })?;
        Ok(Self { commands, ready })
    }

    /// Whether the isolate is made, not only in the making.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// The spare of a process.
pub struct Spares {
    process: Arc<Process>,
    waiting: Option<Spare>,
}

impl Spares {
    /// Starts the first.
    pub fn new(process: Arc<Process>) -> Self {
        let mut spares = Self { process, waiting: None };
        spares.refill();
        spares
    }

    /// The one that waits, or else a new one.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn take(&mut self) -> std::io::Result<Spare> {
        match self.waiting.take() {
            Some(spare) => Ok(spare),
            None => Spare::start(&self.process),
        }
    }

    /// Starts one unless one waits. No thread to be had means no spare now; the next `take` reports it.
    pub fn refill(&mut self) {
        if self.waiting.is_none() {
            self.waiting = Spare::start(&self.process).ok();
        }
    }
}
