//! Processes die without a word; what they had in hand is done again by who comes after.

use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::run::Run;
use crate::harness::worker::{Worker, until_gone};

const COUNT: u64 = 20_000;
const SETTLED: &str = "lagless_subscription_settled_total";
const IN_FLIGHT: &str = "lagless_subscription_in_flight";

/// A worker that comes back under the same name need not wait for its predecessor's session to expire.
const SOURCE: &str = "instance_id = \"w1\"\nin_flight = { messages = 4000 }";
const SERVICE: &str = "env = { WAIT_MS = \"2\" }";

/// Until it has done some more, and has much in hand.
fn until_busy(worker: &mut Worker) {
    let before = worker.metric(SETTLED, "");
    worker.until_metric(SETTLED, "", |settled| settled >= before + 300.0);
    worker.until_metric(IN_FLIGHT, "", |in_flight| in_flight >= 1000.0);
}

/// Kills five workers, one after the other.
fn kill_workers(run: &impl Run, project: &Project) {
    for round in 0..5 {
        let mut worker = run.start(project);
        until_busy(&mut worker);
        let runners = worker.kill();
        assert_ne!(runners, [], "round {round}: the worker has no runner");
        until_gone(&runners);
        run.until_left(1000);
    }
}

/// Kills the runners of one worker three times.
fn kill_runners(worker: &mut Worker) {
    let mut dead = Vec::new();
    for round in 1..=3 {
        until_busy(worker);
        let runners = worker.runners();
        runners.iter().for_each(|runner| runner.kill());
        dead.extend(runners);
        worker.until_metric("lagless_runner_starts_total", "", |starts| starts > f64::from(round));
    }
    until_gone(&dead);
    worker.until_logged("runner died; starting another");
}

#[test]
fn a_worker_killed_five_times_with_a_thousand_in_flight_loses_nothing_and_leaves_no_runner() {
    let run = Numbered::on(&Kafka::shared(), "killed", 8);
    let project = run.project("slow.ts", &Extra { source: SOURCE, service: SERVICE, ..Extra::default() });
    run.produce(0..COUNT);
    kill_workers(&run, &project);
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
    kill_runners(&mut worker);
    run.until_complete(&mut worker);
    run.expect_none_lost(COUNT as usize / 2);
    assert_eq!(worker.page("/healthz").0, 200);
}

/// Fifty thousand messages, one attempt in a hundred fails, five workers and three runners are killed.
fn check_queue(queue_type: &str) {
    const MANY: u64 = 50_000;
    let run = Queues::with_input(&Rabbit::shared(), &format!("killed-{queue_type}"), &[("x-queue-type", queue_type)]);
    let project = run.project("flaky.ts", "");
    project.replace("kind = \"amqp\"", "kind = \"amqp\"\nin_flight = { messages = 4000 }");
    run.produce(0..MANY);
    kill_workers(&run, &project);
    let mut worker = run.start(&project);
    kill_runners(&mut worker);
    Run::until_complete(&run, &mut worker);
    let report = Run::expect_none_lost(&run, MANY);
    assert!(report.starts >= 6 && report.retried > 250, "{report}");
    assert_eq!(worker.page("/healthz").0, 200);
}

#[test]
fn a_classic_queue_loses_neither_messages_nor_order_when_workers_and_runners_are_killed() {
    check_queue("classic");
}

#[test]
fn a_quorum_queue_loses_neither_messages_nor_order_when_workers_and_runners_are_killed() {
    check_queue("quorum");
}
