//! Waiting for the thing itself, with a deadline and a word on what was seen instead.

use std::time::{Duration, Instant};

/// How long anything may take that does not depend on an amount of work.
pub const SOON: Duration = Duration::from_secs(60);
/// How long working through a whole topic may take, on a machine that runs other tests beside.
pub const WORK: Duration = Duration::from_secs(240);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until there is a value; `Err` says what was seen instead.
///
/// # Panics
/// When `within` has passed.
pub fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if started.elapsed() >= within => panic!("{what}: not within {within:?}; last seen: {seen}"),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Looks again and again for a span of time; `Err` is what must not happen.
///
/// # Panics
/// When it happens.
pub fn throughout(what: &str, span: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while started.elapsed() < span {
        if let Err(seen) = look() {
            panic!("{what}: after {:?}: {seen}", started.elapsed());
        }
        std::thread::sleep(LOOK);
    }
}
