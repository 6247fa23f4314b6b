//! Long runs under everything that goes wrong: a short form of each scenario here, the long one with `make soak`.
//!
//! Messages are numbered; every number must come out at least once, those of one lane in order. What is done to a run is
//! a strike, and repeats are counted for the strike before them. See [`scale`] for the sizes, [`flow`] for how a run goes.

mod broker;
mod churn;
mod crashes;
mod flow;
mod mail;
mod network;
mod poison;
mod post;
mod queues;
mod road;
mod scale;
mod table;
mod tally;
mod topics;
