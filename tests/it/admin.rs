//! Health, readiness and metrics over HTTP.

use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::wait::{SOON, eventually};
use crate::harness::worker::Worker;

#[test]
fn metrics_account_for_a_run() {
    let run = Numbered::on(&Kafka::shared(), "metrics", 2);
    let code = r#"export default (event) => {
        if (event.data.seq === 7) throw new Error("seven");
        return { key: event.data.key, seq: event.data.seq };
    }"#;
    let rule = "rule = { data = { seq = [{ numeric = [\"<\", 50] }] } }\non_exhausted = \"drop\"";
    let project = run.project("echo.ts", &Extra { trigger: rule, ..Extra::default() }).with("f.ts", code);
    run.produce(0..60);
    let mut worker =
        Worker::start(project.command(&["run", "--set", "service.it.trigger.t.retry.attempts=3"]), Stdio::null());
    run.until_complete(&mut worker);
    for (name, label, value) in [
        ("lagless_subscription_messages_total", "source=\"kafka\"", 60.0),
        ("lagless_subscription_not_matched_total", "source=\"kafka\"", 10.0),
        ("lagless_subscription_settled_total", "source=\"kafka\"", 60.0),
        ("lagless_subscription_in_flight", "source=\"kafka\"", 0.0),
        ("lagless_subscription_partitions", "source=\"kafka\"", 2.0),
        ("lagless_trigger_matched_total", "trigger=\"t\"", 50.0),
        ("lagless_trigger_done_total", "trigger=\"t\"", 49.0),
        ("lagless_trigger_dropped_total", "trigger=\"t\"", 1.0),
        ("lagless_trigger_retried_total", "trigger=\"t\"", 2.0),
        ("lagless_trigger_attempts_total", "outcome=\"ok\"", 49.0),
        ("lagless_trigger_attempts_total", "outcome=\"exception\"", 3.0),
        ("lagless_function_invocations_total", "function=\"f\"", 52.0),
        ("lagless_function_duration_seconds_count", "function=\"f\"", 52.0),
        ("lagless_runner_starts_total", "service=\"it\"", 1.0),
    ] {
        worker.until_metric(name, label, |found| found == value);
    }
    for (name, label) in [
        ("lagless_function_cpu_seconds_total", "function=\"f\""),
        ("lagless_function_isolates", "function=\"f\""),
        ("lagless_subscription_scanned_bytes_total", "source=\"kafka\""),
        ("lagless_runner_parsed_bytes", "service=\"it\""),
        ("lagless_runner_resident_memory_bytes", "service=\"it\""),
    ] {
        worker.until_metric(name, label, |found| found > 0.0);
    }
    worker.until_metric("lagless_subscription_lag_messages", "source=\"kafka\"", |lag| lag == 0.0);
}

#[test]
fn lag_shows_what_is_published_and_not_settled() {
    let run = Numbered::on(&Kafka::shared(), "lag", 2);
    run.produce(0..500);
    let code = "export default () => new Promise(() => {});";
    let extra =
        Extra { root: "drain_timeout = \"100ms\"", source: "in_flight = { messages = 20 }", ..Extra::default() };
    let project = run.project("echo.ts", &extra).with("f.ts", code);
    let mut worker = run.start(&project);
    worker.until_metric("lagless_subscription_lag_messages", "source=\"kafka\"", |lag| lag == 500.0);
    worker.until_metric("lagless_subscription_lag_seconds", "source=\"kafka\"", |age| age > 1.0);
    worker.until_metric("lagless_subscription_partitions_paused", "source=\"kafka\"", |paused| paused >= 1.0);
    let in_flight = worker.metric("lagless_subscription_in_flight", "source=\"kafka\"");
    assert!(in_flight > 0.0 && in_flight < 500.0, "the bound of 20 does not hold: {in_flight}");
}

#[test]
fn readiness_ends_with_the_drain_and_health_does_not() {
    let project = Project::new(
        r#"
        admin = "127.0.0.1:0"
        drain_timeout = "1h"
        [source.lines]
        kind = "memory"
        [service.it.function.f]
        code = "f.ts"
        timeout = "1h"
        [service.it.trigger.t]
        function = "f"
        source = "lines"
        "#,
    )
    .with("f.ts", "export default async (_, ctx) => { ctx.log.info('in hand'); await new Promise(() => {}); }");
    let mut worker = Worker::start(project.command(&["run"]), Stdio::piped());
    let mut input = worker.stdin();
    writeln!(input, "1").unwrap();
    worker.until_logged("in hand");
    assert_eq!(worker.page("/healthz").0, 200);
    assert_eq!(worker.page("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(worker.page("/nothing").0, 404);
    worker.signal(Signal::SIGTERM);
    worker.until_logged("draining");
    eventually("readiness ends", SOON, || match worker.page("/readyz") {
        (503, body) if body == "draining\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(worker.page("/healthz").0, 200);
}
