//! Brokers go away and come back; workers wait for them.

use std::time::Duration;

use crate::harness::kafka::{Kafka, OwnKafka};
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::wait::throughout;

const SOURCE: &str = "source=\"kafka\"";

#[test]
fn a_broker_stopped_and_started_in_the_middle_costs_nothing_but_time() {
    let own = OwnKafka::start();
    let run = Numbered::on(&own.kafka, "restart", 4);
    let extra = Extra { service: "env = { WAIT_MS = \"2\" }", ..Extra::default() };
    let project = run.project("slow.ts", &extra);
    run.produce(0..10_000);
    let mut worker = run.start(&project);
    worker.until_metric("lagless_subscription_settled_total", SOURCE, |settled| settled >= 1000.0);
    own.stop();
    worker.until_logged("still trying");
    assert_eq!(worker.page("/healthz").0, 200);
    own.start_again();
    run.until_complete(&mut worker);
    run.produce(10_000..11_000);
    run.until_complete(&mut worker);
    run.expect_none_lost(11_000);
}

#[test]
fn while_the_output_topic_is_down_nothing_is_committed_past_unsent_results() {
    let down = OwnKafka::start();
    let run = Numbered::between(&Kafka::shared(), &down.kafka, "down", 4);
    let project = run.project("echo.ts", &Extra::default());
    run.produce(0..1000);
    let mut worker = run.start(&project);
    run.until_complete(&mut worker);
    down.stop();
    run.produce(1000..3000);
    worker.until_metric("lagless_trigger_attempts_total", "outcome=\"ok\"", |succeeded| succeeded >= 3000.0);
    throughout("nothing is committed whose result is not written", Duration::from_secs(5), || {
        let committed = run.committed();
        if committed == 1000 { Ok(()) } else { Err(format!("{committed} are committed, 1000 are written")) }
    });
    assert_eq!(worker.metric("lagless_subscription_in_flight", SOURCE), 2000.0);
    down.start_again();
    run.until_complete(&mut worker);
    let report = run.expect_none_lost(3000);
    assert_eq!(report.repeated, [], "{report}");
}
