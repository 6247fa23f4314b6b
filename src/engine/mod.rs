//! The engine: the one join between deliveries, isolates and sinks.
//!
//! Each function has one task, its `FunctionEngine`, which owns the lanes of the function's triggers, its
//! isolates and what is in hand there; so nothing in it needs a lock. Each service has one task that keeps its runner
//! process alive. What always holds: a delivery is in exactly one place (a lane, a batch in hand, a sink
//! awaiting its receipt), and it leaves through its ticket. The engine knows nothing of rdkafka, lapin or deno_core.

mod answer;
mod dead_letter;
mod function;
mod invoke;
mod isolates;
mod outcome;
mod service;
#[cfg(test)]
mod simulation;

pub use function::{FunctionSetup, TriggerSetup, start};
pub use service::{IsolateEvent, ServiceRunner};
