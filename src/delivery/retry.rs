//! When a failed delivery is tried again.

use std::time::{Duration, Instant};

use super::{Keep, Overdue};

/// Exponential backoff with jitter, up to a number of attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least 1.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Done,
    /// Try again in its lane after this time.
    Retry(Duration),
    /// The attempts are used up.
    Exhausted,
    /// Try again once the source hands the message out anew: it cannot be kept until then.
    Returned,
    /// The attempts count as used up: the message cannot be kept until the next one.
    Overdue,
}

impl Fate {
    /// The fate of a message that can be kept for so long, at `now`: a retry that would begin later is none.
    pub fn within(self, keep: Option<Keep>, now: Instant) -> Self {
        match (self, keep) {
            (Self::Retry(wait), Some(Keep { until, then })) if now + wait > until => match then {
                Overdue::Return => Self::Returned,
                Overdue::Exhaust => Self::Overdue,
            },
            (fate, _) => fate,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Succeeded,
    /// The function's own doing: it counts.
    Failed,
    /// Somebody else's doing: it does not count, and need not wait.
    Interrupted,
}

/// The one place where the end of an attempt becomes a fate. `failed_attempts` includes this one, if it failed; `jitter`
/// is a random number in 0..=1 that takes up to half of the wait away, so that failures do not come back in step.
pub fn fate_of(attempt: Attempt, failed_attempts: u32, policy: &RetryPolicy, jitter: f64) -> Fate {
    match attempt {
        Attempt::Succeeded => Fate::Done,
        Attempt::Interrupted => Fate::Retry(Duration::ZERO),
        Attempt::Failed if failed_attempts >= policy.attempts => Fate::Exhausted,
        Attempt::Failed => {
            let doublings = failed_attempts.saturating_sub(1).min(31);
            let wait = policy.backoff.saturating_mul(1 << doublings).min(policy.max_backoff);
            Fate::Retry(wait.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts: 5, backoff: Duration::from_millis(200), max_backoff: Duration::from_millis(700) };

    #[test]
    fn waits_double_up_to_the_bound_and_end_with_the_attempts() {
        let fates: Vec<Fate> = (1..=5).map(|failed| fate_of(Attempt::Failed, failed, &POLICY, 0.0)).collect();
        let waits = [200, 400, 700, 700].map(|ms| Fate::Retry(Duration::from_millis(ms)));
        assert_eq!(fates[..4], waits);
        assert_eq!(fates[4], Fate::Exhausted);
    }

    #[test]
    fn jitter_takes_at_most_half() {
        assert_eq!(fate_of(Attempt::Failed, 1, &POLICY, 1.0), Fate::Retry(Duration::from_millis(100)));
    }

    #[test]
    fn interruptions_are_free() {
        assert_eq!(fate_of(Attempt::Interrupted, 4, &POLICY, 0.5), Fate::Retry(Duration::ZERO));
    }

    #[test]
    fn a_retry_that_would_begin_too_late_is_none() {
        let now = Instant::now();
        let keep = |then| Some(Keep { until: now + Duration::from_secs(5), then });
        let (early, late) = (Fate::Retry(Duration::from_secs(5)), Fate::Retry(Duration::from_secs(6)));
        assert_eq!(early.within(keep(Overdue::Exhaust), now), early);
        assert_eq!(late.within(None, now), late);
        assert_eq!(late.within(keep(Overdue::Exhaust), now), Fate::Overdue);
        assert_eq!(late.within(keep(Overdue::Return), now), Fate::Returned);
        assert_eq!(Fate::Exhausted.within(keep(Overdue::Return), now), Fate::Exhausted);
    }

    #[test]
    fn a_huge_number_of_failures_does_not_overflow() {
        let patient = RetryPolicy { attempts: u32::MAX, ..POLICY };
        let fate = fate_of(Attempt::Failed, u32::MAX - 1, &patient, 0.0);
        assert_eq!(fate, Fate::Retry(POLICY.max_backoff));
    }
}
