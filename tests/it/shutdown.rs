//! Workers are asked to stop: politely, in vain, and twice.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::worker::{Worker, until_gone};

#[test]
fn a_drain_finishes_and_commits_what_is_in_hand() {
    let run = Numbered::on(&Kafka::shared(), "drain", 4);
    let extra = Extra {
        root: "drain_timeout = \"60s\"",
        source: "in_flight = { messages = 2000 }",
        service: "env = { WAIT_MS = \"3\" }",
        ..Extra::default()
    };
    let project = run.project("slow.ts", &extra);
    run.produce(0..10_000);
    let mut worker = run.start(&project);
    worker.until_metric("lagless_subscription_settled_total", "", |settled| settled >= 500.0);
    let runners = worker.runners();
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0).expect_told(&["draining", "drained", "abandoned=0"]);
    until_gone(&runners);

    let (report, committed) = (run.report(), run.committed());
    assert!((500..10_000).contains(&committed), "{committed}");
    assert_eq!((report.returned as i64, report.repeated.len()), (committed, 0), "{report}");
    assert!(report.is_in_order(), "{report}");
}

/// A worker with one event in hand that takes longer than any test, and input that stays open.
fn stuck(drain_timeout: &str) -> Worker {
    let project = Project::new(&format!(
        r#"
        drain_timeout = "{drain_timeout}"
        [source.lines]
        kind = "memory"
        [service.it.function.f]
        code = "f.ts"
        timeout = "1h"
        [service.it.trigger.t]
        function = "f"
        source = "lines"
        "#
    ))
    .with("f.ts", "export default async (_, ctx) => { ctx.log.info('in hand'); await new Promise(() => {}); }");
    let mut worker = Worker::start(project.command(&["run", "--stdin"]), Stdio::piped());
    worker.stdin().write_all(b"{}\n").unwrap();
    worker.until_logged("in hand");
    worker
}

#[test]
fn a_drain_past_its_deadline_abandons_and_says_so() {
    let mut worker = stuck("300ms");
    let runners = worker.runners();
    worker.signal(Signal::SIGTERM);
    let ended = worker.end_within(Duration::from_secs(20));
    ended.expect_code(75).expect_told(&["deadline has passed", "abandoned=1"]);
    until_gone(&runners);
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut worker = stuck("1h");
    let runners = worker.runners();
    worker.signal(Signal::SIGINT);
    worker.until_logged("draining; a second signal exits at once");
    worker.signal(Signal::SIGTERM);
    worker.end_within(Duration::from_secs(10)).expect_code(1);
    until_gone(&runners);
}
