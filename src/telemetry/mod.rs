//! Metrics and logs. Knows nothing of the other rooms: they hold handles from here.

pub mod log;
mod metrics;

pub use metrics::{FunctionMetrics, Metrics, RunnerMetrics, SubscriptionMetrics, TriggerMetrics};
