//! Scaling: pure rules from what is observed to what is wanted. Knows nothing of how isolates come to be.

use std::time::Duration;

/// What a function's engine sees when it asks how many isolates it should have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Isolates that are open or opening.
    pub isolates: u32,
    /// Isolates that are opening.
    pub opening: u32,
    /// Batches that are ready and found no isolate with room.
    pub ready_batches: usize,
    /// Deliveries that wait in lanes, ready or not.
    pub waiting: usize,
    /// CPU time that the isolates used per second of wall-clock time, in all.
    pub cpu_share: f64,
    /// Whether anything was in hand or waiting during the last `idle` period.
    pub idle_for: Duration,
}

/// The bounds that the settings give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
    /// How long isolates above `min` may sit idle.
    pub idle: Duration,
}

/// Above this share of one core each, isolates are busy: more lanes on them would only queue.
const BUSY: f64 = 0.7;

/// How many isolates a function should have: one more while ready batches find no room, or while the isolates there are
/// burn CPU and deliveries wait behind them; back to the minimum after a time without work.
pub fn isolates_wanted(load: &Load, bounds: &Bounds) -> u32 {
    let held = load.isolates.clamp(bounds.min, bounds.max.max(bounds.min));
    if load.opening > 0 {
        return held;
    }
    let busy = load.isolates > 0 && load.waiting > 0 && load.cpu_share > BUSY * f64::from(load.isolates);
    if load.ready_batches > 0 || busy {
        return (load.isolates + 1).clamp(bounds.min, bounds.max.max(bounds.min));
    }
    if load.idle_for >= bounds.idle { bounds.min } else { held }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { min: 0, max: 4, idle: Duration::from_secs(60) };
    const QUIET: Load =
        Load { isolates: 2, opening: 0, ready_batches: 0, waiting: 0, cpu_share: 0.1, idle_for: Duration::ZERO };

    #[test]
    fn scales_with_what_waits_and_back_to_zero() {
        let cases = [
            ("nothing to do keeps what there is", QUIET, 2),
            ("ready batches ask for one more", Load { ready_batches: 5, ..QUIET }, 3),
            ("from zero too", Load { isolates: 0, ready_batches: 1, ..QUIET }, 1),
            ("one opens at a time", Load { ready_batches: 5, opening: 1, ..QUIET }, 2),
            ("never above the maximum", Load { isolates: 4, ready_batches: 5, ..QUIET }, 4),
            ("busy isolates with work behind them", Load { waiting: 9, cpu_share: 1.6, ..QUIET }, 3),
            ("busy isolates with nothing behind them", Load { cpu_share: 1.9, ..QUIET }, 2),
            ("lanes in backoff are no reason", Load { waiting: 9, ..QUIET }, 2),
            ("idle long enough", Load { idle_for: Duration::from_secs(60), ..QUIET }, 0),
        ];
        for (name, load, wanted) in cases {
            assert_eq!(isolates_wanted(&load, &BOUNDS), wanted, "{name}");
        }
    }

    #[test]
    fn the_minimum_is_held() {
        let bounds = Bounds { min: 1, ..BOUNDS };
        assert_eq!(isolates_wanted(&Load { isolates: 0, ..QUIET }, &bounds), 1);
        let idle = Load { idle_for: Duration::from_secs(61), ..QUIET };
        assert_eq!(isolates_wanted(&idle, &bounds), 1);
    }
}
