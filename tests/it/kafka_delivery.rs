//! From topic to topic through a function: nothing is lost, order holds, offsets are complete.

use std::process::Stdio;

use rdkafka::Message;
use rdkafka::message::Headers;

use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::worker::Worker;
use crate::verifier::topic;

#[test]
fn a_hundred_thousand_messages_through_a_flaky_function_keep_their_order_and_none_is_lost() {
    let run = Numbered::on(&Kafka::shared(), "flaky", 8);
    run.produce(0..100_000);
    let project = run.project("flaky.ts", &Extra::default());
    let mut worker = run.start(&project);
    run.until_complete(&mut worker);
    let report = run.expect_none_lost(100_000);
    assert_eq!(report.repeated, [], "{report}");
    assert!(report.retried > 500, "one attempt in a hundred should have failed: {report}");
    assert_eq!(run.committed(), 100_000);
    assert_eq!(worker.metric("lagless_trigger_done_total", ""), 100_000.0);
}

#[test]
fn without_order_none_is_lost_either() {
    let run = Numbered::on(&Kafka::shared(), "unordered", 3);
    run.produce(0..10_000);
    let project = run.project("flaky.ts", &Extra { trigger: "order = \"none\"", ..Extra::default() });
    let mut worker = run.start(&project);
    run.until_complete(&mut worker);
    let report = run.report();
    assert!(report.is_complete() && report.repeated.is_empty(), "{report}");
}

#[test]
fn a_restarted_worker_goes_on_where_the_last_one_ended() {
    let run = Numbered::on(&Kafka::shared(), "resume", 2);
    let project = run.project("echo.ts", &Extra::default());
    for round in 0..3 {
        run.produce(round * 500..(round + 1) * 500);
        let mut worker = run.start(&project);
        run.until_complete(&mut worker);
        worker.signal(nix::sys::signal::Signal::SIGTERM);
        worker.end().expect_code(0);
    }
    let report = run.expect_none_lost(1500);
    assert_eq!(report.repeated, [], "{report}");
    assert!(report.starts >= 3, "{report}");
}

#[test]
fn what_cannot_succeed_goes_to_the_dead_letter_topic_as_it_was() {
    let kafka = Kafka::shared();
    let run = Numbered::on(&kafka, "dead", 2);
    let dead = format!("{}.dead", run.name);
    kafka.create_topic(&dead, 1);
    let extra = format!("on_failure = {{ kafka = \"sink\", topic = \"{dead}\" }}");
    let code = "export default (event) => { throw new RangeError('cannot ' + event.data.seq); }";
    let project = run.project("echo.ts", &Extra { trigger: &extra, ..Extra::default() }).with("f.ts", code);
    run.produce(0..20);
    let mut worker =
        Worker::start(project.command(&["run", "--set", "service.it.trigger.t.retry.attempts=2"]), Stdio::null());
    run.until_complete(&mut worker);

    let letters = topic::read(&kafka.brokers, &dead, |message| {
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
        let headers = message.headers().ok_or("no headers")?;
        let header = |name| text(headers.iter().find(|header| header.key == name).and_then(|header| header.value));
        let reason = [header("lagless-reason"), header("lagless-error"), header("lagless-attempts")];
        Ok((text(message.key()), text(message.payload()), reason, header("lagless-offset")))
    })
    .unwrap();
    assert_eq!(letters.len(), 20);
    for (key, value, reason, offset) in letters {
        let sent: serde_json::Value = serde_json::from_str(&value).unwrap();
        assert_eq!(sent["key"], *key);
        assert_eq!(reason, ["exception".to_owned(), format!("RangeError: cannot {}", sent["seq"]), "2".to_owned()]);
        assert!(offset.parse::<u64>().is_ok(), "{offset:?}");
    }
    assert_eq!(run.report().returned, 0);
}
