//! The inside of a JavaScript runner: V8 isolates with Deno's runtime, each loaded with one function.
//!
//! A runner is a child process of the worker. It reads frames from its socket, runs batches of events in isolates, and
//! writes outcomes, log lines and its own usage back. It knows nothing of queues, triggers or config files. Read in
//! this order:
//!
//! - [`package`]: a function's files become modules (this part runs in the worker, at deploy);
//! - [`runner`]: the process: the socket's reader, and which isolate a frame is for;
//! - `spare`: threads with an isolate that waits for its function; `isolate`: the life of one;
//! - `watchdog`: deadlines, seen from outside; `outgoing`: the socket's writer.
//!
//! Invariants: one isolate has one thread and dies with it; an isolate whose JavaScript was terminated runs no other
//! event; every event of a batch gets exactly one outcome, unless its isolate closes first; the process ends when its
//! socket does.

pub mod package;
pub mod runner;

mod batch;
mod isolate;
mod outgoing;
mod spare;
mod watchdog;
