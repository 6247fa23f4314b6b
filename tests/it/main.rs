//! Tests of the whole program, in one binary. Modules are named for the behaviour they show.
//!
//! The program runs as a user runs it: a process with a configuration file. Tests that need Kafka use the server in
//! `KAFKA_BROKERS` with topics and groups of their own, those that need RabbitMQ the one in `AMQP_URL`; those that stop a server start one for themselves.

mod harness;
#[path = "../verifier/mod.rs"]
mod verifier;

mod admin;
mod amqp_delivery;
mod amqp_life;
mod amqp_queues;
mod amqp_reply;
mod amqp_sink;
mod amqp_sink_life;
mod amqp_streams;
mod amqp_trouble;
mod broker_restart;
mod cases;
mod check;
mod cli;
mod crash;
mod errors;
mod examples;
mod isolation;
mod kafka_delivery;
mod kafka_network;
mod memory;
mod readme;
mod rebalance;
mod rooms;
mod secured;
mod shutdown;
mod soak;
