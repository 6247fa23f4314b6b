//! The metrics of a worker, in Prometheus' terms.
//!
//! Handles are resolved once, when a subscription, trigger or function is set up; the hot path only adds to atomics.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type FloatGauge = Gauge<f64, AtomicU64>;
type FloatCounter = Counter<f64, AtomicU64>;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SubscriptionLabels {
    source: String,
    group: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TriggerLabels {
    service: String,
    trigger: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    service: String,
    trigger: String,
    /// `ok`, or the class of the failure.
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FunctionLabels {
    service: String,
    function: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

#[derive(Debug, Clone)]
struct DurationBuckets;

impl MetricConstructor<Histogram> for DurationBuckets {
    fn new_metric(&self) -> Histogram {
        // 100 µs to about 100 s.
        Histogram::new(exponential_buckets(0.0001, 4.0, 11))
    }
}

/// All metrics of a worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    subscription: SubscriptionFamilies,
    trigger: TriggerFamilies,
    outcomes: Family<OutcomeLabels, Counter>,
    function: FunctionFamilies,
    runner: RunnerFamilies,
}

macro_rules! families {
    ($(#[$doc:meta])* $handles:ident, $families:ident, $labels:ty, $prefix:literal {
        $($(#[doc = $help:literal])+ $field:ident: $metric:ty $(, unit $unit:ident)? $(, with $constructor:ident)?;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $handles {
            $($(#[doc = $help])+ pub $field: $metric,)*
        }

        #[derive(Debug)]
        struct $families {
            $($field: families!(@family $labels, $metric $(, $constructor)?),)*
        }

        impl $families {
            fn register(registry: &mut Registry) -> Self {
                $(
                    let $field: families!(@family $labels, $metric $(, $constructor)?) =
                        families!(@new $($constructor)?);
                    families!(@register registry, concat!($prefix, "_", stringify!($field)),
                        concat!($($help),+).trim().trim_end_matches('.'), $field $(, $unit)?);
                )*
                Self { $($field,)* }
            }

            fn handles(&self, labels: &$labels) -> $handles {
                $handles { $($field: self.$field.get_or_create_owned(labels),)* }
            }
        }
    };
    (@family $labels:ty, $metric:ty) => { Family<$labels, $metric> };
    (@family $labels:ty, $metric:ty, $constructor:ident) => { Family<$labels, $metric, $constructor> };
    (@new) => { Family::default() };
    (@new $constructor:ident) => { Family::new_with_constructor($constructor) };
    (@register $registry:ident, $name:expr, $help:expr, $field:ident) => {
        $registry.register($name, $help, $field.clone())
    };
    (@register $registry:ident, $name:expr, $help:expr, $field:ident, $unit:ident) => {
        $registry.register_with_unit($name, $help, Unit::$unit, $field.clone())
    };
}

families! {
    /// Metrics of one subscription.
    SubscriptionMetrics, SubscriptionFamilies, SubscriptionLabels, "subscription" {
        /// Messages read from the broker.
        messages: Counter;
        /// Bytes of keys and values read from the broker.
        read: Counter, unit Bytes;
        /// Bytes of message bodies that rules have looked at.
        scanned: Counter, unit Bytes;
        /// Messages that no trigger matched.
        not_matched: Counter;
        /// Messages whose deliveries are all settled.
        settled: Counter;
        /// Messages read and not settled.
        in_flight: Gauge;
        /// Memory held by messages in flight.
        in_flight_memory: Gauge, unit Bytes;
        /// Messages published and not settled, over the assigned partitions.
        lag_messages: Gauge;
        /// Age of the oldest message that is not settled.
        lag: FloatGauge, unit Seconds;
        /// Partitions assigned.
        partitions: Gauge;
        /// Partitions not taken from for the moment, because enough is in flight.
        partitions_paused: Gauge;
        /// Partitions that stand still until somebody decides.
        partitions_stopped: Gauge;
        /// Commits that the broker refused or did not answer.
        commit_failures: Counter;
        /// Assignments that came or went.
        rebalances: Counter;
    }
}

families! {
    /// Metrics of one trigger. Outcomes by class come through [`TriggerMetrics::outcome`].
    TriggerHandles, TriggerFamilies, TriggerLabels, "trigger" {
        /// Messages that matched the rule.
        matched: Counter;
        /// Deliveries whose function succeeded and whose result was acknowledged.
        done: Counter;
        /// Deliveries given to the dead-letter sink.
        dead_lettered: Counter;
        /// Deliveries dropped after their last attempt, as the trigger says.
        dropped: Counter;
        /// Attempts that are to be made again.
        retried: Counter;
        /// Answers to who sent the message, taken by the server.
        replies: Counter;
        /// Answers that nobody takes any more.
        replies_lost: Counter;
        /// Lanes that stand still after a last failed attempt.
        lanes_stopped: Gauge;
        /// Deliveries waiting in lanes.
        waiting: Gauge;
    }
}

families! {
    /// Metrics of one function.
    FunctionMetrics, FunctionFamilies, FunctionLabels, "function" {
        /// Events handed to isolates that came to an outcome of their own.
        invocations: Counter;
        /// Time from the start of the handler to its end.
        duration: Histogram, unit Seconds, with DurationBuckets;
        /// CPU time of the isolates' threads.
        cpu: FloatCounter, unit Seconds;
        /// Isolates that are loaded.
        isolates: Gauge;
        /// Isolates opened so far.
        isolates_opened: Counter;
        /// Isolates lost to a limit, a crash or an error while loading.
        isolates_lost: Counter;
        /// Time from asking for an isolate to its first batch.
        cold_start: Histogram, unit Seconds, with DurationBuckets;
    }
}

families! {
    /// Metrics of the runner of one service.
    RunnerMetrics, RunnerFamilies, ServiceLabels, "runner" {
        /// Runner processes started so far.
        starts: Counter;
        /// Resident memory of the runner process.
        resident_memory: Gauge, unit Bytes;
        /// CPU time of the runner process.
        cpu: FloatGauge, unit Seconds;
        /// Bytes of event data that functions have touched, so that V8 parsed them.
        parsed: Gauge, unit Bytes;
    }
}

/// Metrics of one trigger.
#[derive(Debug)]
pub struct TriggerMetrics {
    handles: TriggerHandles,
    outcomes: Family<OutcomeLabels, Counter>,
    labels: TriggerLabels,
    ok: Counter,
}

impl std::ops::Deref for TriggerMetrics {
    type Target = TriggerHandles;

    fn deref(&self) -> &TriggerHandles {
        &self.handles
    }
}

impl TriggerMetrics {
    /// Counts an attempt that succeeded.
    pub fn succeeded(&self) {
        self.ok.inc();
    }

    /// Counts a failed attempt by its class.
    pub fn failed(&self, class: &'static str) {
        let labels = OutcomeLabels {
            service: self.labels.service.clone(),
            trigger: self.labels.trigger.clone(),
            outcome: class,
        };
        self.outcomes.get_or_create(&labels).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("lagless");
        let outcomes = Family::<OutcomeLabels, Counter>::default();
        registry.register("trigger_attempts", "Attempts by what became of them", outcomes.clone());
        Self {
            subscription: SubscriptionFamilies::register(&mut registry),
            trigger: TriggerFamilies::register(&mut registry),
            outcomes,
            function: FunctionFamilies::register(&mut registry),
            runner: RunnerFamilies::register(&mut registry),
            registry,
        }
    }
}

impl Metrics {
    pub fn subscription(&self, source: &str, group: &str) -> Arc<SubscriptionMetrics> {
        let labels = SubscriptionLabels { source: source.to_owned(), group: group.to_owned() };
        Arc::new(self.subscription.handles(&labels))
    }

    pub fn trigger(&self, service: &str, trigger: &str) -> Arc<TriggerMetrics> {
        let labels = TriggerLabels { service: service.to_owned(), trigger: trigger.to_owned() };
        let succeeded =
            OutcomeLabels { service: labels.service.clone(), trigger: labels.trigger.clone(), outcome: "ok" };
        Arc::new(TriggerMetrics {
            handles: self.trigger.handles(&labels),
            ok: self.outcomes.get_or_create_owned(&succeeded),
            outcomes: self.outcomes.clone(),
            labels,
        })
    }

    pub fn function(&self, service: &str, function: &str) -> Arc<FunctionMetrics> {
        let labels = FunctionLabels { service: service.to_owned(), function: function.to_owned() };
        Arc::new(self.function.handles(&labels))
    }

    pub fn runner(&self, service: &str) -> Arc<RunnerMetrics> {
        Arc::new(self.runner.handles(&ServiceLabels { service: service.to_owned() }))
    }

    /// The page that Prometheus reads, in OpenMetrics text.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a `String` cannot fail.
        let _ = encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_handles_counted() {
        let metrics = Metrics::default();
        let trigger = metrics.trigger("shop", "placed");
        trigger.done.inc_by(3);
        trigger.succeeded();
        trigger.failed("timeout");
        metrics.subscription("kafka", "shop").lag.set(1.5);
        metrics.function("shop", "total").duration.observe(0.02);
        let page = metrics.page();
        for line in [
            "lagless_trigger_done_total{service=\"shop\",trigger=\"placed\"} 3",
            "lagless_trigger_attempts_total{service=\"shop\",trigger=\"placed\",outcome=\"timeout\"} 1",
            "lagless_subscription_lag_seconds{source=\"kafka\",group=\"shop\"} 1.5",
            "lagless_function_duration_seconds_count{service=\"shop\",function=\"total\"} 1",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
