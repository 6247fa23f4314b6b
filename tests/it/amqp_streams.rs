//! Streams: where reading begins, that it goes on where it was, and that one worker of a group reads.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::wait::{SOON, eventually, throughout};
use crate::harness::worker::{Worker, until_gone};

const SETTLED: &str = "lagless_subscription_settled_total";
const LAG: &str = "lagless_subscription_lag_messages";

fn stream(name: &str) -> Queues {
    Queues::with_input(&Rabbit::shared(), name, &[("x-queue-type", "stream")])
}

/// A worker that reads the stream as these lines say; the project must outlive it.
macro_rules! start {
    ($run:expr, $function:expr, $lines:expr) => {{
        let project = $run.project($function, &format!("queue_type = \"stream\"\n{}", $lines));
        let text = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
        project.write("lagless.toml", &text.replace("kind = \"amqp\"", "kind = \"amqp\"\ncommit_interval = \"50ms\""));
        let worker = $run.start(&project);
        (project, worker)
    }};
}

fn stop(worker: Worker) {
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0);
}

/// The position that the worker goes on from.
#[track_caller]
fn kept(worker: &mut Worker) -> u64 {
    place(worker, "Kept(")
}

#[track_caller]
fn place(worker: &mut Worker, before: &str) -> u64 {
    let line = worker.until_logged(before);
    line.split(before).nth(1).and_then(|rest| rest.split(')').next()?.parse().ok()).expect(&line)
}

/// The numbers of all results, in order.
fn results(run: &Queues) -> Vec<u64> {
    let seq = |message: &lapin::message::Delivery| {
        serde_json::from_slice::<Value>(&message.data).unwrap()["seq"].as_u64().unwrap()
    };
    run.rabbit.take_all(&run.output()).iter().map(seq).collect()
}

#[test]
fn reading_begins_where_the_group_says() {
    let run = stream("starts");
    run.produce(0..60);
    let begin = |start: &str, group: &str| {
        let (project, mut worker) = start!(run, "echo.ts", format!("group = \"{group}\"\nstart = {start}"));
        worker.until_logged("consuming");
        (project, worker)
    };
    let (_project, mut worker) = begin("\"earliest\"", "a");
    worker.until_metric(SETTLED, "", |settled| settled >= 60.0);
    worker.until_metric(LAG, "", |lag| lag == 0.0);
    stop(worker);
    assert_eq!(results(&run), (0..60).collect::<Vec<_>>());

    let (_project, mut worker) = begin("{ offset = 55 }", "b");
    worker.until_metric(SETTLED, "", |settled| settled >= 5.0);
    stop(worker);
    assert_eq!(results(&run), (55..60).collect::<Vec<_>>());

    let (_project, mut worker) = begin("\"latest\"", "c");
    throughout("nothing read", Duration::from_millis(300), || match worker.metric(SETTLED, "") {
        0.0 => Ok(()),
        settled => Err(format!("{settled} settled")),
    });
    // What comes while nobody reads is not missed, though nothing was read before.
    stop(worker);
    let second = || jiff::Timestamp::now().as_second();
    let published = second();
    eventually("another second", SOON, || if second() > published + 1 { Ok(()) } else { Err(String::new()) });
    run.produce(60..70);
    let (_project, mut worker) = begin("\"latest\"", "c");
    worker.until_metric(SETTLED, "", |settled| settled >= 10.0);
    stop(worker);
    assert_eq!(results(&run), (60..70).collect::<Vec<_>>());

    let (_project, mut worker) = begin("\"last\"", "d");
    let from = place(&mut worker, "Offset(");
    assert!((60..70).contains(&from), "{from}");
    worker.until_metric(SETTLED, "", |settled| settled >= (70 - from) as f64);
    stop(worker);
    assert_eq!(results(&run), (from..70).collect::<Vec<_>>());

    let time = jiff::Timestamp::from_second(published + 1).unwrap();
    let (_project, mut worker) = begin(&format!("{{ time = \"{time}\" }}"), "e");
    worker.until_metric(SETTLED, "", |settled| settled >= 10.0);
    worker.until_metric(LAG, "", |lag| lag == 0.0);
    stop(worker);
    assert_eq!(results(&run), (60..70).collect::<Vec<_>>());
}

#[test]
fn a_restart_goes_on_where_it_was_and_a_crash_repeats_little() {
    let run = stream("restart");
    run.produce(0..100);
    let (_project, mut worker) = start!(run, "echo.ts", "");
    worker.until_metric(SETTLED, "", |settled| settled >= 100.0);
    stop(worker);
    run.produce(100..3_000);
    let (project, mut worker) = start!(run, "slow.ts", "");
    worker.until_metric(SETTLED, "", |settled| settled >= 300.0);
    until_gone(&worker.kill());
    let mut worker = run.start(&project);
    let kept = kept(&mut worker);
    assert!(kept > 200, "{kept}");
    worker.until_metric(SETTLED, "", |settled| settled >= 3_000.0 - kept as f64);
    stop(worker);
    let report = run.report(3_000);
    assert!(report.is_complete() && report.is_in_order(), "{report}");
    assert!(report.repeated.len() < 1_000, "{report}");
}

#[test]
fn one_worker_of_a_group_reads_and_another_takes_over_when_it_is_killed() {
    let run = stream("standby");
    run.produce(0..3_000);
    let (_first_project, mut first) = start!(run, "slow.ts", "");
    first.until_metric(SETTLED, "", |settled| settled >= 100.0);
    let (_second_project, mut second) = start!(run, "slow.ts", "");
    second.until_logged("standing by");
    assert!(!second.log().contains("ERROR"), "{}", second.log());
    first.until_metric(SETTLED, "", |settled| settled >= 300.0);
    assert_eq!(second.metric(SETTLED, ""), 0.0);
    until_gone(&first.kill());
    let left = 3_000 - kept(&mut second);
    second.until_metric(SETTLED, "", |settled| settled >= left as f64);
    let (_third_project, mut third) = start!(run, "slow.ts", "");
    third.until_logged("standing by");
    run.produce(3_000..3_100);
    second.until_metric(SETTLED, "", |settled| settled >= (left + 100) as f64);
    // An orderly end hands over at the very message.
    stop(second);
    assert_eq!(kept(&mut third), 3_100);
    run.produce(3_100..3_200);
    third.until_metric(SETTLED, "", |settled| settled >= 100.0);
    stop(third);
    let report = run.report(3_200);
    assert!(report.is_complete() && report.is_in_order(), "{report}");
}

#[test]
fn each_group_reads_all_of_a_stream_and_a_rule_needs_no_word_on_the_rest() {
    let run = stream("groups");
    run.produce(0..20);
    let other = format!(
        "rule = {{ data = {{ seq = [3] }} }}\n[service.it.trigger.u]\nfunction = \"f\"\nsource = \"rabbit\"\nqueue = \
         \"{}\"\nqueue_type = \"stream\"\ngroup = \"other\"\non_success = {{ amqp = \"rabbit\", routing_key = \"{}\" }}",
        run.input(),
        run.output()
    );
    let (_project, mut worker) = start!(run, "echo.ts", other);
    worker.until_metric(SETTLED, "@it", |settled| settled >= 20.0);
    worker.until_metric(SETTLED, "@other", |settled| settled >= 20.0);
    stop(worker);
    assert_eq!(results(&run).len(), 21);
}

#[test]
fn what_retention_has_removed_is_told() {
    let run = Queues::on(&Rabbit::shared(), "retention");
    run.rabbit.delete_queue(&run.input());
    let lines = "declare = \"create\"\narguments = { \"x-max-length-bytes\" = 20000, \"x-stream-max-segment-size-bytes\" = 10000 }";
    let (project, mut worker) = start!(run, "echo.ts", lines);
    worker.until_logged("consuming");
    run.produce(0..10);
    worker.until_metric(SETTLED, "", |settled| settled >= 10.0);
    stop(worker);
    let body = |seq: u64| format!(r#"{{"key":"k","seq":{seq},"pad":"{}"}}"#, "x".repeat(2_000));
    for round in 0..20 {
        run.rabbit.publish("", &run.input(), (round * 5..round * 5 + 5).map(|seq| body(seq + 10)));
    }
    let mut worker = run.start(&project);
    let line = worker.until_logged("removed from the stream before they were read");
    assert!(line.contains("missing=") && line.contains("next=10"), "{line}");
    worker.until_metric(LAG, "", |lag| lag == 0.0);
    stop(worker);
    assert_eq!(results(&run).last(), Some(&109));
}

#[test]
fn a_stream_that_was_made_anew_is_not_read_on_in_silence() {
    let run = stream("anew");
    run.produce(0..50);
    let (project, mut worker) = start!(run, "echo.ts", "group = \"g\"");
    worker.until_metric(SETTLED, "", |settled| settled >= 50.0);
    stop(worker);
    run.rabbit.delete_queue(&run.input());
    run.rabbit.create_queue(&run.input(), &[("x-queue-type", "stream")]);
    run.produce(50..55);
    let mut worker = run.start(&project);
    let line = worker.until_logged("lies beyond the end of the stream");
    let kept = format!("lagless.position.g.{}", run.input());
    assert!(line.contains(&kept) && line.contains("50"), "{line}");
    run.rabbit.delete_queue(&kept);
    worker.until_metric(SETTLED, "", |settled| settled >= 5.0);
    stop(worker);
    assert_eq!(results(&run), (0..55).collect::<Vec<_>>());
}

#[test]
fn a_header_of_a_publisher_is_not_taken_for_an_offset() {
    let run = stream("forged");
    let mut headers = FieldTable::default();
    headers.insert("x-stream-offset".into(), AMQPValue::LongLongInt(4_000));
    let message = |seq: u64| {
        let body = format!(r#"{{"key":"k{seq}","seq":{seq}}}"#);
        (body, BasicProperties::default().with_headers(headers.clone()))
    };
    run.rabbit.publish_with("", &run.input(), (0..3).map(message));
    let (project, mut worker) = start!(run, "echo.ts", "");
    worker.until_metric(SETTLED, "", |settled| settled >= 3.0);
    stop(worker);
    run.produce(3..5);
    let mut worker = run.start(&project);
    worker.until_logged("Kept(3)");
    worker.until_metric(SETTLED, "", |settled| settled >= 2.0);
    stop(worker);
    assert_eq!(results(&run), (0..5).collect::<Vec<_>>());
}
