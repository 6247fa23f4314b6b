//! The frames between a worker and its runners, and how a runner is started, watched and killed.
//!
//! A worker and a runner share one Unix socket pair. Both write whole frames ([`frames`]) whenever they like; neither
//! waits for an answer before the next. A runner ends when the socket does, however the worker died, so no runner
//! outlives its worker. This crate knows nothing of V8, queues or triggers.

pub mod frames;
pub mod process;
pub mod wire;

#[cfg(test)]
mod tests;
