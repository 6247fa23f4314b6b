//! Lagless: functions on message queues.
//!
//! The rooms, in the order a message passes through them: a [`source`] reads it, a [`trigger`] rule decides whether it
//! fires a function, it becomes a [`delivery`] with exactly one fate, the [`engine`] hands it as an [`event`] to an
//! isolate of a runner process, and what the [`function`] returns goes to a [`sink`]. Each room's first lines say what it
//! is, what always holds in it, and what it does not know. [`app`] wires them together.

#![forbid(unsafe_code)]

pub mod event;
pub mod trigger;

pub mod delivery;
pub mod sink;
pub mod source;

pub mod function;
pub mod scale;

pub mod engine;

pub mod admin;
pub mod config;
pub mod telemetry;

pub mod app;
pub mod cli;
