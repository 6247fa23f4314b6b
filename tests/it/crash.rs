//! Processes die without a word; what they had in hand is done again by who comes after.

use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::worker::{Worker, until_gone};

const COUNT: u64 = 20_000;
const SETTLED: &str = "lagless_subscription_settled_total";
const IN_FLIGHT: &str = "lagless_subscription_in_flight";

/// A worker that comes back under the same name need not wait for its predecessor's session to expire.
const SOURCE: &str = "instance_id = \"w1\"\nin_flight = { messages = 4000 }";
const SERVICE: &str = "env = { WAIT_MS = \"2\" }";

fn until_busy(worker: &mut Worker) {
    worker.until_metric(SETTLED, "source=\"kafka\"", |settled| settled >= 300.0);
    worker.until_metric(IN_FLIGHT, "source=\"kafka\"", |in_flight| in_flight >= 1000.0);
}

#[test]
fn a_worker_killed_five_times_with_a_thousand_in_flight_loses_nothing_and_leaves_no_runner() {
    let run = Numbered::on(&Kafka::shared(), "killed", 8);
    let project = run.project("slow.ts", &Extra { source: SOURCE, service: SERVICE, ..Extra::default() });
    run.produce(0..COUNT);
    for round in 0..5 {
        let mut worker = run.start(&project);
        until_busy(&mut worker);
        assert!(run.committed() < COUNT as i64 - 1000, "round {round} is not in the middle of the work any more");
        let runners = worker.kill();
        assert_ne!(runners, [], "round {round}: the worker has no runner");
        until_gone(&runners);
    }
    let mut worker = run.start(&project);
    run.until_complete(&mut worker);
    let report = run.expect_none_lost(COUNT as usize);
    assert!(report.starts >= 5, "{report}");
}

#[test]
fn a_killed_runner_is_replaced_and_nothing_is_lost() {
    let run = Numbered::on(&Kafka::shared(), "runner", 8);
    let source = "in_flight = { messages = 4000 }";
    let project = run.project("slow.ts", &Extra { source, service: SERVICE, ..Extra::default() });
    run.produce(0..COUNT / 2);
    let mut worker = run.start(&project);
    let mut dead = Vec::new();
    for round in 1..=3 {
        until_busy(&mut worker);
        let runners = worker.runners();
        runners.iter().for_each(|runner| runner.kill());
        dead.extend(runners);
        worker.until_metric("lagless_runner_starts_total", "", |starts| starts > f64::from(round));
    }
    run.until_complete(&mut worker);
    run.expect_none_lost(COUNT as usize / 2);
    until_gone(&dead);
    worker.until_logged("runner died; starting another");
    assert_eq!(worker.page("/healthz").0, 200);
}
