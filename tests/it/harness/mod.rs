//! What tests of the whole program have in common: projects, worker processes, Kafka, and waiting for things.

pub mod kafka;
pub mod node;
pub mod numbered;
pub mod project;
pub mod proxy;
pub mod rabbit;
pub mod run;
pub mod secured;
pub mod wait;
pub mod worker;
