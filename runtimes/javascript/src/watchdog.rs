//! Watches isolates from outside: a thread that runs JavaScript cannot look at a clock.
//!
//! Each isolate says through its [`Watch`] when it enters and leaves JavaScript. One thread looks at all of them every
//! few milliseconds, terminates what runs past its deadline, and when that does not bite within the grace (some
//! built-ins of V8 never look) asks the worker to kill the process.
//!
//! A termination is decided and requested while the isolate's state is locked, and leaving JavaScript takes the same
//! lock: so it either hits the very call it was meant for, or is not made at all. An isolate that was hit is discarded.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use deno_runtime::deno_core::v8;
use lagless_protocol::frames::{Failure, FailureClass, FromRunner, Limits};

use crate::outgoing::Outgoing;

/// How often deadlines are looked at.
const SCAN: Duration = Duration::from_millis(5);
/// How often the worker hears what the process has used.
const USAGE: Duration = Duration::from_millis(500);
/// What an isolate that is busy with something else may be late in expiring an event that waits.
const LATE: Duration = Duration::from_millis(25);

/// What an isolate's thread does just now.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Not in JavaScript.
    Idle,
    /// Evaluates the function's modules.
    Starting { deadline: Instant },
    /// Inside the handler's synchronous part for one event.
    Running { event: EventId, deadline: Instant },
    /// Microtasks, timers, I/O: code of any of the events in hand, the first of which is due at `deadline`.
    Busy { since: Instant, deadline: Option<Instant> },
}

/// An event in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    pub batch: u64,
    pub event: u32,
}

/// Why an isolate was terminated.
#[derive(Debug, Clone)]
pub struct Fired {
    at: Instant,
    /// The event that ran, if that is known.
    pub event: Option<EventId>,
    pub failure: Failure,
    told: bool,
}

struct State {
    phase: Phase,
    fired: Option<Fired>,
    handle: Option<v8::IsolateHandle>,
}

/// One isolate, as the watchdog sees it.
pub struct Watch {
    pub isolate: u32,
    pub limits: Limits,
    state: Mutex<State>,
}

impl Watch {
    pub fn new(isolate: u32, limits: Limits) -> Arc<Self> {
        Arc::new(Self { isolate, limits, state: Mutex::new(State { phase: Phase::Idle, fired: None, handle: None }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From here on the isolate can be terminated.
    pub fn arm(&self, handle: v8::IsolateHandle) {
        self.lock().handle = Some(handle);
    }

    pub fn enter_start(&self, deadline: Instant) {
        self.lock().phase = Phase::Starting { deadline };
    }

    pub fn enter_event(&self, event: EventId, deadline: Instant) {
        self.lock().phase = Phase::Running { event, deadline };
    }

    /// `deadline`: of the event in hand that is due first.
    pub fn enter_busy(&self, deadline: Option<Instant>) {
        self.lock().phase = Phase::Busy { since: Instant::now(), deadline };
    }

    /// Out of JavaScript again. Whatever it returns was decided before, and nothing is decided after.
    pub fn leave(&self) -> Option<Fired> {
        let mut state = self.lock();
        state.phase = Phase::Idle;
        state.fired.clone()
    }

    /// Called on the isolate's own thread, by V8, when the heap limit is reached.
    pub fn memory_exhausted(&self, used: usize) {
        let limit = self.limits.memory_bytes;
        let mut state = self.lock();
        let failure = Failure::new(
            FailureClass::Memory,
            "OutOfMemory",
            format!("the heap reached {used} bytes (limit memory = {})", bytes_text(limit)),
        );
        state.fire(failure, Instant::now());
    }

    /// Terminates the isolate if what it runs is overdue. Returns what to tell the worker if that did not bite.
    fn scan(&self, now: Instant) -> Option<FromRunner<'static>> {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Idle) {
            return None;
        }
        if state.fired.is_none() {
            if let Some(failure) = state.phase.overdue(now, &self.limits) {
                state.fire(failure, now);
            }
            return None;
        }
        let grace = Duration::from_millis(self.limits.grace_ms);
        let fired = state.fired.as_mut()?;
        if fired.told || now.duration_since(fired.at) < grace {
            return None;
        }
        fired.told = true;
        let batch = fired.event.map_or(0, |event| event.batch);
        let event = fired.event.map(|event| event.event);
        let mut error = fired.failure.clone();
        error.message.push_str(&format!("; it could not be stopped within {} ms", self.limits.grace_ms));
        Some(FromRunner::Stuck { isolate: self.isolate, batch, event, error })
    }
}

impl State {
    fn fire(&mut self, failure: Failure, now: Instant) {
        if self.fired.is_some() {
            return;
        }
        let event = match self.phase {
            Phase::Running { event, .. } => Some(event),
            _ => None,
        };
        self.fired = Some(Fired { at: now, event, failure, told: false });
        if let Some(handle) = &self.handle {
            // False means that the isolate is gone, and then there is nothing to stop.
            let _ = handle.terminate_execution();
        }
    }
}

impl Phase {
    fn overdue(&self, now: Instant, limits: &Limits) -> Option<Failure> {
        match *self {
            Phase::Idle => None,
            Phase::Starting { deadline } => (now >= deadline).then(|| start_failure(limits)),
            Phase::Running { deadline, .. } => (now >= deadline).then(|| timeout_failure(limits)),
            Phase::Busy { since, deadline } => {
                // With no event in hand it is code that one has left behind, a timer say; it gets an event's time.
                let due = match deadline {
                    Some(deadline) => deadline.max(since) + LATE,
                    None => since + Duration::from_millis(limits.timeout_ms),
                };
                (now >= due).then(|| timeout_failure(limits))
            }
        }
    }
}

/// The failure of an event that took longer than its function's `timeout`.
pub fn timeout_failure(limits: &Limits) -> Failure {
    let message =
        format!("timed out after {} ms (limit timeout = {})", limits.timeout_ms, time_text(limits.timeout_ms));
    Failure::new(FailureClass::Timeout, "Timeout", message)
}

/// The failure of a function whose modules took longer than `start` to load.
pub fn start_failure(limits: &Limits) -> Failure {
    let message =
        format!("the module was not ready after {} ms (limit start = {})", limits.start_ms, time_text(limits.start_ms));
    Failure::new(FailureClass::Load, "Load", message)
}

fn time_text(milliseconds: u64) -> String {
    match milliseconds % 1000 {
        0 => format!("{}s", milliseconds / 1000),
        _ => format!("{milliseconds}ms"),
    }
}

fn bytes_text(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("{}MiB", bytes >> 20),
        _ => format!("{bytes}B"),
    }
}

/// Every isolate of the process, and how many spares wait.
#[derive(Default)]
pub struct Watchdog {
    watches: Mutex<Vec<Weak<Watch>>>,
    pub spares: AtomicU32,
    /// Bytes of event data that functions have touched.
    pub parsed_bytes: AtomicU64,
}

impl Watchdog {
    pub fn add(&self, watch: &Arc<Watch>) {
        self.watches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Arc::downgrade(watch));
    }

    /// Runs for as long as the process does.
    pub fn run(&self, outgoing: &Outgoing) {
        let mut reported = Instant::now();
        loop {
            std::thread::sleep(SCAN);
            let now = Instant::now();
            let watches = self.living();
            for watch in &watches {
                if let Some(stuck) = watch.scan(now) {
                    outgoing.send(&stuck);
                }
            }
            // A writer that is blocked must not stop the watch; the next round tries again.
            if now.duration_since(reported) >= USAGE && outgoing.try_send(&self.usage(watches.len() as u32)) {
                reported = now;
            }
        }
    }

    fn living(&self) -> Vec<Arc<Watch>> {
        let mut watches = self.watches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.iter().filter_map(Weak::upgrade).collect()
    }

    fn usage(&self, isolates: u32) -> FromRunner<'static> {
        FromRunner::Usage {
            resident_bytes: resident_bytes(),
            cpu_us: process_cpu_us(),
            parsed_bytes: self.parsed_bytes.load(Ordering::Relaxed),
            isolates,
            spares: self.spares.load(Ordering::Relaxed),
        }
    }
}

/// Resident memory of the process; 0 where the system does not tell in this way.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or_default();
    // SAFETY: `sysconf` has no preconditions.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * page_bytes.max(0) as u64
}

fn process_cpu_us() -> u64 {
    let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) else {
        return 0;
    };
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    micros(usage.user_time()) + micros(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: EventId = EventId { batch: 1, event: 2 };

    #[test]
    fn an_event_past_its_deadline_fires_once_and_is_told_after_the_grace() {
        let watch = Watch::new(7, Limits { timeout_ms: 1500, grace_ms: 100, ..Limits::default() });
        let start = Instant::now();
        watch.enter_event(EVENT, start + Duration::from_secs(1));
        assert!(watch.scan(start).is_none());
        assert!(watch.scan(start + Duration::from_secs(1)).is_none());
        assert!(watch.scan(start + Duration::from_millis(1050)).is_none());
        let Some(FromRunner::Stuck { isolate: 7, batch: 1, event: Some(2), error }) =
            watch.scan(start + Duration::from_millis(1100))
        else {
            panic!("not stuck");
        };
        assert_eq!(error.class, FailureClass::Timeout);
        assert!(error.message.starts_with("timed out after 1500 ms (limit timeout = 1500ms)"), "{}", error.message);
        assert!(watch.scan(start + Duration::from_secs(9)).is_none());
        assert_eq!(watch.leave().unwrap().event, Some(EVENT));
    }

    #[test]
    fn a_call_that_ended_in_time_is_not_hit() {
        let watch = Watch::new(7, Limits::default());
        let start = Instant::now();
        watch.enter_event(EVENT, start);
        assert!(watch.leave().is_none());
        assert!(watch.scan(start + Duration::from_secs(60)).is_none());
        assert!(watch.leave().is_none());
    }

    #[test]
    fn what_waits_too_long_behind_a_busy_neighbour_gets_some_slack() {
        let watch = Watch::new(7, Limits::default());
        let start = Instant::now();
        watch.enter_busy(Some(start - Duration::from_secs(1)));
        watch.scan(start + LATE / 2);
        assert!(watch.leave().is_none());
        watch.enter_busy(Some(start - Duration::from_secs(1)));
        watch.scan(Instant::now() + LATE);
        assert!(watch.leave().is_some());
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!((time_text(5000), time_text(1500)), ("5s".to_owned(), "1500ms".to_owned()));
        assert_eq!((bytes_text(64 << 20), bytes_text(1000)), ("64MiB".to_owned(), "1000B".to_owned()));
    }
}
