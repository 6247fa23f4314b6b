//! A run: numbered messages are written, workers work, results are counted as they come, and a line now and then says
//! how far it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::road::Road;
use super::scale::Scale;
use super::table::{self, Row};
use super::tally::Tally;
use crate::harness::wait::eventually;
use crate::harness::worker::{Worker, tail};

/// Written, and waited for, at once; but never more than a small part of all.
const CHUNK: u64 = 5_000;
const CHUNKS_MIN: u64 = 40;
/// How often a line says how far it is.
const REPORT: Duration = Duration::from_secs(5);
/// An output without a new result for so long after the end has none.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub scenario: &'static str,
    pub count: u64,
    /// Whether results of a lane must come in order.
    pub is_ordered: bool,
}

/// The test's own two ends, at work on threads of their own.
pub struct Flow {
    road: Arc<dyn Road>,
    plan: Plan,
    patience: Duration,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
}

#[derive(Default)]
struct Shared {
    /// How many may be written so far.
    wanted: AtomicU64,
    sent: AtomicU64,
    tally: Mutex<Tally>,
    is_over: AtomicBool,
    /// Both ends hold it to read while they talk to the broker. Counts the times that the broker was away.
    outages: RwLock<u32>,
}

impl Flow {
    /// Starts to read results; nothing is written yet.
    pub fn start(road: Arc<dyn Road>, plan: Plan, scale: Scale) -> Self {
        let shared = Arc::new(Shared::default());
        let ends: [fn(&dyn Road, &Shared, Plan); 2] = [write, read];
        let spawn = |end: fn(&dyn Road, &Shared, Plan)| {
            let (road, shared) = (road.clone(), shared.clone());
            std::thread::spawn(move || end(&*road, &shared, plan))
        };
        let threads = ends.map(spawn).into();
        Self { road, plan, patience: scale.patience(), shared, threads, started: Instant::now() }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the messages below this number written, and does not wait for it.
    pub fn send(&self, below: u64) {
        self.shared.wanted.store(below.min(self.plan.count), Ordering::Relaxed);
    }

    /// Has the messages below this number written, and waits for it.
    #[track_caller]
    pub fn fill(&self, below: u64) {
        self.send(below);
        self.moving("messages written", || {
            let sent = self.shared.sent.load(Ordering::Relaxed);
            (sent, sent >= below)
        });
    }

    /// Waits for results of so many messages.
    #[track_caller]
    pub fn until_seen(&self, count: u64) {
        self.moving("messages with a result", || {
            let seen = self.tally().distinct();
            (seen, seen >= count)
        });
    }

    pub fn seen(&self) -> u64 {
        self.tally().distinct()
    }

    /// Waits while a number grows.
    #[track_caller]
    fn moving(&self, what: &str, look: impl Fn() -> (u64, bool)) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let (number, is_enough) = look();
            if is_enough {
                return;
            }
            if number > last {
                (last, since) = (number, Instant::now());
            }
            let has_ended = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!has_ended, "one of the test's own ends has failed, see above");
            let scenario = self.plan.scenario;
            assert!(since.elapsed() < self.patience, "{scenario}: stuck at {number} {what}: {}", self.faults());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn faults(&self) -> String {
        self.tally().faults(self.shared.sent.load(Ordering::Relaxed))
    }

    /// Repeats from here on are counted for what happens now.
    pub fn strike(&self) {
        self.tally().strike();
    }

    /// Both ends let go of the broker, until the guard is dropped.
    pub fn outage(&self) -> RwLockWriteGuard<'_, u32> {
        let mut outages = self.shared.outages.write().unwrap_or_else(PoisonError::into_inner);
        *outages += 1;
        outages
    }

    /// Waits until everything is done, ends the workers, and notes and judges the run.
    #[track_caller]
    pub fn finish(mut self, mut workers: Vec<Worker>) -> Row {
        self.fill(self.plan.count);
        let is_stuck = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.until_seen(self.plan.count)));
        if is_stuck.is_ok() {
            eventually("all is settled", self.patience, || self.road.is_settled(&mut workers));
        }
        for worker in &workers {
            worker.signal(Signal::SIGTERM);
        }
        let ended: Vec<_> = workers.into_iter().map(Worker::end).collect();
        self.until_quiet();
        let seconds = self.started.elapsed().as_secs_f64();
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let row = Row::of(self.road.broker(), &self.plan, seconds, &self.tally());
        table::note(&row);
        let logs = || ended.iter().map(|ended| tail(&ended.stderr)).collect::<String>();
        assert!(row.is_faultless(), "{row}: {}\n{}", self.faults(), logs());
        ended.iter().for_each(|ended| _ = ended.expect_code(0).expect_told(&["drained"]));
        row
    }

    /// Waits until no further result comes: one that comes late would be a repeat.
    fn until_quiet(&self) {
        let (mut last, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET {
            let taken = self.tally().taken();
            if taken > last {
                (last, since) = (taken, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

fn write(road: &dyn Road, shared: &Shared, plan: Plan) {
    let (mut writer, mut outages) = (road.writer(), 0);
    let chunk = CHUNK.min(plan.count / CHUNKS_MIN + 1);
    while !shared.is_over.load(Ordering::Relaxed) {
        let (sent, wanted) = (shared.sent.load(Ordering::Relaxed), shared.wanted.load(Ordering::Relaxed));
        if sent >= wanted {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let now = shared.outages.read().unwrap_or_else(PoisonError::into_inner);
        if *now != outages {
            outages = *now;
            writer.reconnect();
        }
        let end = wanted.min(sent + chunk);
        writer.write(sent..end);
        shared.sent.store(end, Ordering::Relaxed);
    }
}

fn read(road: &dyn Road, shared: &Shared, plan: Plan) {
    let (mut reader, mut outages, mut reported) = (road.reader(), 0, Instant::now());
    while !shared.is_over.load(Ordering::Relaxed) {
        let now = shared.outages.read().unwrap_or_else(PoisonError::into_inner);
        if *now != outages {
            outages = *now;
            if reader.reconnect() {
                shared.tally.lock().unwrap_or_else(PoisonError::into_inner).start_again();
            }
        }
        reader.read(&mut |found| {
            shared.tally.lock().unwrap_or_else(PoisonError::into_inner).take(found, plan.count);
        });
        drop(now);
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            let (broker, scenario) = (road.broker(), plan.scenario);
            let (sent, tally) = (shared.sent.load(Ordering::Relaxed), shared.tally.lock().unwrap());
            let (seen, strikes, repeats) = (tally.distinct(), tally.strikes(), tally.repeats());
            let lag = sent.saturating_sub(seen);
            println!(
                "soak: {broker} {scenario}: {sent} sent, {seen} seen, lag {lag}, {strikes} strikes, {repeats} repeats"
            );
        }
    }
}
