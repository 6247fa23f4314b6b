//! How many orders are due at a steady rate.

use std::time::{Duration, Instant};

/// What could not be published in time is made up for, but not more than what one second brings.
const DEBT_MAX: Duration = Duration::from_secs(1);

/// A debt that grows with time and shrinks with what is published.
#[derive(Debug)]
pub struct Pace {
    per_second: f64,
    owed: f64,
    seen: Instant,
}

impl Pace {
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second: f64::from(per_second), owed: 0.0, seen: now }
    }

    /// How many are due at `now`.
    pub fn due(&mut self, now: Instant) -> u64 {
        let passed = now.duration_since(self.seen).as_secs_f64();
        self.seen = now;
        self.owed = (self.owed + passed * self.per_second).min(DEBT_MAX.as_secs_f64() * self.per_second);
        self.owed as u64
    }

    /// Notes that `count` have been published.
    pub fn take(&mut self, count: u64) {
        self.owed -= count as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_rate_is_kept_over_uneven_ticks() {
        let start = Instant::now();
        let mut pace = Pace::new(150, start);
        let mut published = 0;
        for ms in [3, 10, 11, 40, 300, 301, 777, 1000] {
            let due = pace.due(at(start, ms));
            pace.take(due);
            published += due;
        }
        assert!((149..=150).contains(&published), "{published}");
    }

    #[test]
    fn a_long_silence_is_made_up_for_by_one_second_at_most() {
        let start = Instant::now();
        let mut pace = Pace::new(100, start);
        assert_eq!(pace.due(at(start, 60_000)), 100);
        pace.take(40);
        assert_eq!(pace.due(at(start, 60_000)), 60);
    }
}
