//! The status line of a running demo.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shop::Names;
use crate::telemetry::{FunctionMetrics, Metrics, SubscriptionMetrics, TriggerMetrics};

/// How often the line is written anew on a terminal, and where lines are kept.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const IN_A_LOG: Duration = Duration::from_secs(2);
/// Over what time the rate is told.
const RATE_SPAN: Duration = Duration::from_secs(1);

/// The metrics of the demo's only subscription, trigger and function.
#[derive(Debug, Clone)]
pub struct Gauges {
    pub subscription: Arc<SubscriptionMetrics>,
    pub trigger: Arc<TriggerMetrics>,
    pub function: Arc<FunctionMetrics>,
}

impl Gauges {
    pub fn of(metrics: &Metrics, names: &Names) -> Self {
        Self {
            subscription: metrics.subscription(&names.source, &names.group),
            trigger: metrics.trigger(&names.service, &names.trigger),
            function: metrics.function(&names.service, &names.function),
        }
    }

    /// Messages whose fate is settled.
    pub fn settled(&self) -> u64 {
        self.subscription.settled.get()
    }
}

/// What the line says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    published: u64,
    /// Messages settled per second.
    rate: u64,
    /// Messages published and not settled.
    lag: u64,
    /// Messages read and not settled.
    in_flight: u64,
    isolates: i64,
    done: u64,
    dead: u64,
    /// Attempts that failed, whether tried again or not.
    failures: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, rate, lag, in_flight, isolates, done, dead, failures } = self;
        write!(f, "published {published:>6}  {rate:>5}/s  lag {lag:>5}  in flight {in_flight:>4}  ")?;
        write!(f, "isolates {isolates}  done {done:>6}  dead-lettered {dead:>3}  failures {failures:>3}")
    }
}

/// Writes the line: in place on a terminal, otherwise one below the other and less often.
#[derive(Debug)]
pub struct Status {
    gauges: Gauges,
    in_place: bool,
    /// The rate, and the count and time since which the next one is measured.
    rate: u64,
    settled: u64,
    since: Instant,
}

impl Status {
    pub fn new(gauges: Gauges) -> Self {
        let in_place = io::stdout().is_terminal();
        Self { gauges, in_place, rate: 0, settled: 0, since: Instant::now() }
    }

    /// How often [`Status::show`] should be called.
    pub fn interval(&self) -> Duration {
        if self.in_place { ON_TERMINAL } else { IN_A_LOG }
    }

    /// Writes the line; `published` is what the broker has acknowledged.
    pub fn show(&mut self, published: u64) {
        let figures = self.figures(published, Instant::now());
        let mut stdout = io::stdout().lock();
        // Without a line wrap the terminal cuts the line where it is too narrow. Nobody may be reading any more.
        let _ = if self.in_place {
            write!(stdout, "\r\x1b[?7l{figures}\x1b[K\x1b[?7h").and_then(|()| stdout.flush())
        } else {
            writeln!(stdout, "{figures}")
        };
    }

    /// Leaves the last line standing.
    pub fn end(&self) {
        if self.in_place {
            println!();
        }
    }

    fn figures(&mut self, published: u64, now: Instant) -> Figures {
        let Gauges { subscription, trigger, function } = &self.gauges;
        let settled = subscription.settled.get();
        let span = now.duration_since(self.since);
        if span >= RATE_SPAN {
            let newly = settled.saturating_sub(self.settled);
            self.rate = (newly as f64 / span.as_secs_f64()).round() as u64;
            (self.settled, self.since) = (settled, now);
        }
        let dead = trigger.dead_lettered.get();
        Figures {
            published,
            rate: self.rate,
            lag: published.saturating_sub(settled),
            // The gauge of that name is renewed only now and then.
            in_flight: subscription.messages.get().saturating_sub(settled),
            isolates: function.isolates.get(),
            done: trigger.done.get(),
            dead,
            failures: trigger.retried.get() + dead + trigger.dropped.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_the_metrics() {
        let metrics = Metrics::default();
        let gauges = Gauges {
            subscription: metrics.subscription("kafka", "shop"),
            trigger: metrics.trigger("shop", "placed"),
            function: metrics.function("shop", "total"),
        };
        let mut status = Status::new(gauges.clone());
        gauges.subscription.settled.inc_by(50);
        gauges.subscription.messages.inc_by(57);
        gauges.trigger.done.inc_by(30);
        gauges.trigger.retried.inc_by(2);
        gauges.trigger.dead_lettered.inc();
        gauges.function.isolates.set(2);
        let figures = status.figures(60, status.since + Duration::from_millis(500));
        let expected =
            Figures { published: 60, rate: 0, lag: 10, in_flight: 7, isolates: 2, done: 30, dead: 1, failures: 3 };
        assert_eq!(figures, expected);
        let figures = status.figures(60, status.since + Duration::from_secs(2));
        assert_eq!(figures, Figures { rate: 25, ..expected });
    }
}
