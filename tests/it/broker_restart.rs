//! Brokers go away and come back; workers wait for them.

use std::time::Duration;

use crate::harness::kafka::{Kafka, OwnKafka};
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::rabbit::{OwnRabbit, Queues};
use crate::harness::run::Run;
use crate::harness::wait::throughout;

const SETTLED: &str = "lagless_subscription_settled_total";
const IN_FLIGHT: &str = "lagless_subscription_in_flight";

/// Stops the broker of some runs in the middle of their work on so many messages, and starts it again.
fn check_restart<R: Run>(runs: &[(R, Project)], count: u64, stop: impl Fn(), start: impl Fn()) {
    let mut workers: Vec<_> = runs
        .iter()
        .map(|(run, project)| {
            run.produce(0..count);
            run.start(project)
        })
        .collect();
    for worker in &mut workers {
        worker.until_metric(SETTLED, "", |settled| settled >= 1000.0);
        let in_flight = worker.metric(IN_FLIGHT, "");
        assert!(in_flight >= 1000.0, "the work was over before the broker was stopped: {in_flight} in flight");
    }
    stop();
    for worker in &mut workers {
        worker.until_logged("still trying");
        assert_eq!(worker.page("/healthz").0, 200);
    }
    start();
    for ((run, _), worker) in runs.iter().zip(&mut workers) {
        run.until_complete(worker);
        run.produce(count..count + 1000);
        run.until_complete(worker);
        run.expect_none_lost(count + 1000);
    }
}

#[test]
fn a_broker_stopped_and_started_in_the_middle_costs_nothing_but_time() {
    let own = OwnKafka::start();
    let run = Numbered::on(&own.kafka, "restart", 4);
    let project = run.project("slow.ts", &Extra { service: "env = { WAIT_MS = \"2\" }", ..Extra::default() });
    check_restart(&[(run, project)], 10_000, || own.node.stop(), || own.node.start_again());
}

#[test]
fn neither_do_classic_and_quorum_queues_lose_anything_with_their_server() {
    let own = OwnRabbit::start();
    let runs = ["classic", "quorum"].map(|queue_type| {
        let run = Queues::with_input(&own.rabbit, queue_type, &[("x-queue-type", queue_type)]);
        let project = run.project("slow.ts", "");
        project.replace("kind = \"amqp\"", "kind = \"amqp\"\nin_flight = { messages = 4000 }");
        (run, project)
    });
    check_restart(&runs, 4000, || own.node.stop(), || own.node.start_again());
}

#[test]
fn while_the_output_topic_is_down_nothing_is_committed_past_unsent_results() {
    let down = OwnKafka::start();
    let run = Numbered::between(&Kafka::shared(), &down.kafka, "down", 4);
    let project = run.project("echo.ts", &Extra::default());
    run.produce(0..1000);
    let mut worker = run.start(&project);
    run.until_complete(&mut worker);
    down.node.stop();
    run.produce(1000..3000);
    worker.until_metric("lagless_trigger_attempts_total", "outcome=\"ok\"", |succeeded| succeeded >= 3000.0);
    throughout("nothing is committed whose result is not written", Duration::from_secs(5), || {
        let committed = run.committed();
        if committed == 1000 { Ok(()) } else { Err(format!("{committed} are committed, 1000 are written")) }
    });
    assert_eq!(worker.metric(IN_FLIGHT, ""), 2000.0);
    down.node.start_again();
    run.until_complete(&mut worker);
    let report = run.expect_none_lost(3000);
    assert_eq!(report.repeated, [], "{report}");
}
