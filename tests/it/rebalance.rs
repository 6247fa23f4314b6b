//! Workers join and leave a group while others work.

use nix::sys::signal::Signal;

use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::worker::Worker;

const COUNT: u64 = 30_000;
const SETTLED: &str = "lagless_subscription_settled_total";
const IN_FLIGHT: &str = "lagless_subscription_in_flight";
const PARTITIONS: &str = "lagless_subscription_partitions";
const SOURCE: &str = "source=\"kafka\"";

fn until_in_flight(worker: &mut Worker) {
    worker.until_metric(IN_FLIGHT, SOURCE, |in_flight| in_flight >= 1000.0);
}

#[test]
fn a_second_worker_joins_and_leaves_with_a_thousand_in_flight_and_no_partition_stalls() {
    let run = Numbered::on(&Kafka::shared(), "rebalance", 8);
    let extra = Extra {
        // Leaving does not wait for the backlog: it lets go of it.
        root: "drain_timeout = \"500ms\"",
        source: "in_flight = { messages = 4000 }",
        service: "env = { WAIT_MS = \"3\" }",
        ..Extra::default()
    };
    let project = run.project("slow.ts", &extra);
    run.produce(0..COUNT);
    let mut first = run.start(&project);
    first.until_metric(PARTITIONS, SOURCE, |partitions| partitions == 8.0);
    for _ in 0..2 {
        until_in_flight(&mut first);
        let mut second = run.start(&project);
        second.until_metric(PARTITIONS, SOURCE, |partitions| partitions == 4.0);
        first.until_metric(PARTITIONS, SOURCE, |partitions| partitions == 4.0);
        until_in_flight(&mut second);
        second.signal(Signal::SIGTERM);
        // 75 where something was still running at the deadline; either way the first worker takes over.
        let ended = second.end();
        assert!(matches!(ended.code, Some(0 | 75)), "{ended:?}");
        first.until_metric(PARTITIONS, SOURCE, |partitions| partitions == 8.0);
    }
    assert!(run.committed() < COUNT as i64, "the work was over before the second worker left");
    run.until_complete(&mut first);
    run.expect_none_lost(COUNT as usize);
    assert_eq!(first.metric("lagless_subscription_partitions_stopped", ""), 0.0);
}

#[test]
fn a_killed_worker_is_succeeded_by_another_when_its_session_expires() {
    let run = Numbered::on(&Kafka::shared(), "succeed", 4);
    let extra =
        Extra { source: "in_flight = { messages = 2000 }", service: "env = { WAIT_MS = \"3\" }", ..Extra::default() };
    let project = run.project("slow.ts", &extra);
    run.produce(0..8000);
    let mut first = run.start(&project);
    let mut second = run.start(&project);
    for worker in [&mut first, &mut second] {
        worker.until_metric(PARTITIONS, SOURCE, |partitions| partitions == 2.0);
        until_in_flight(worker);
    }
    first.kill();
    second.until_metric(PARTITIONS, SOURCE, |partitions| partitions == 4.0);
    run.until_complete(&mut second);
    run.expect_none_lost(8000);
}

/// Fifty thousand messages; what a worker that leaves has in hand is the other one's.
fn check_queue(queue_type: &str) {
    const MANY: u64 = 50_000;
    let run = Queues::with_input(&Rabbit::shared(), &format!("join-{queue_type}"), &[("x-queue-type", queue_type)]);
    let project = run.project("slow.ts", "order = \"none\"");
    project.replace("kind = \"amqp\"", "kind = \"amqp\"\nin_flight = { messages = 4000 }");
    project.replace("admin = ", "drain_timeout = \"500ms\"\nadmin = ");
    run.produce(0..MANY);
    let mut first = run.start(&project);
    for _ in 0..2 {
        let mut second = run.start(&project);
        for worker in [&mut first, &mut second] {
            worker.until_metric(IN_FLIGHT, "", |in_flight| in_flight >= 1000.0);
        }
        second.until_metric(SETTLED, "", |settled| settled >= 500.0);
        second.signal(Signal::SIGTERM);
        // 75 where something was still running at the deadline; either way the first worker takes over.
        let ended = second.end();
        assert!(matches!(ended.code, Some(0 | 75)), "{ended:?}");
    }
    let settled = first.metric(SETTLED, "");
    assert!(settled < MANY as f64 - 4000.0, "the work was over before the second worker left");
    let mut workers = [first];
    run.until_complete(&mut workers);
    run.expect_none_lost(MANY);
}

#[test]
fn a_second_worker_joins_and_leaves_a_classic_queue_with_a_thousand_in_flight() {
    check_queue("classic");
}

#[test]
fn a_second_worker_joins_and_leaves_a_quorum_queue_with_a_thousand_in_flight() {
    check_queue("quorum");
}
