//! The life of one isolate: a thread, an event loop, and one function.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use deno_runtime::UnconfiguredRuntime;
use deno_runtime::deno_core::futures::FutureExt;
use lagless_protocol::frames::{Deploy, Failure, FailureClass, FromRunner};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::batch::Batch;
use crate::runner::Process;
use crate::watchdog::Watch;
use desk::Desk;

mod desk;
mod event;
mod loader;
mod natives;
mod open;
mod refuse;
mod report;
mod work;

/// What an isolate's thread is told. The first is `Open`.
pub enum Command {
    Open(Open),
    Batch(Box<Batch>),
    Abort(u64),
    Close,
}

/// The function that an isolate is for.
pub struct Open {
    pub isolate: u32,
    pub deploy: Arc<Deploy>,
    pub from_spare: bool,
    /// When the worker's frame was read.
    pub since: Instant,
}

/// The whole life of an isolate's thread: makes the isolate, waits for its function, runs it to the end.
pub fn thread(process: &Arc<Process>, mut inbox: UnboundedReceiver<Command>, ready: &AtomicBool) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        // Without file descriptors the runner is of no use; its worker starts another.
        Err(error) => panic!("no runtime for an isolate: {error}"),
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let unconfigured = open::unconfigured();
        ready.store(true, Ordering::Release);
        process.watchdog.spares.fetch_add(1, Ordering::Relaxed);
        let first = inbox.recv().await;
        process.watchdog.spares.fetch_sub(1, Ordering::Relaxed);
        if let Some(Command::Open(open)) = first {
            live(process, unconfigured, open, inbox).await;
        }
    });
}

/// Opens, works and closes, and says so. A panic on the way is a fault of the runner, reported like a termination.
async fn live(
    process: &Arc<Process>,
    unconfigured: UnconfiguredRuntime,
    open: Open,
    inbox: UnboundedReceiver<Command>,
) {
    let isolate = open.isolate;
    let watch = Watch::new(isolate, open.deploy.limits);
    process.watchdog.add(&watch);
    let desk = Desk::new(process.clone(), watch.clone());
    let lived = std::panic::AssertUnwindSafe(open_and_work(unconfigured, open, inbox, &desk));
    let error = match lived.catch_unwind().await {
        Ok(error) => error,
        Err(_) => {
            let fired = watch.leave();
            if let Some(fired) = &fired {
                desk.condemn(fired);
            }
            desk.flush();
            let broken = || Failure::new(FailureClass::RunnerLost, "Panic", "the isolate's thread panicked");
            Some(fired.map_or_else(broken, |fired| fired.failure))
        }
    };
    process.outgoing.send(&FromRunner::Closed { isolate, error });
}

/// Returns why the isolate closed, if nobody asked for it.
async fn open_and_work(
    unconfigured: UnconfiguredRuntime,
    open: Open,
    inbox: UnboundedReceiver<Command>,
    desk: &Rc<Desk>,
) -> Option<Failure> {
    let opened = match open::open(unconfigured, &open.deploy, desk).await {
        Ok(opened) => opened,
        Err(failure) => {
            desk.flush();
            return Some(failure);
        }
    };
    desk.flush();
    let micros = open.since.elapsed().as_micros() as u64;
    desk.process.outgoing.send(&FromRunner::Opened { isolate: open.isolate, from_spare: open.from_spare, micros });

    let mut work = work::Work::new(opened, desk.clone(), inbox);
    let fired = work.run().await;
    if let Some(fired) = &fired {
        desk.condemn(fired);
    }
    desk.flush();
    open::close(work.into_worker(), desk);
    fired.map(|fired| fired.failure)
}
