//! From queue to queue through a function: nothing is lost, order holds, and what cannot be done is told.

use std::process::Stdio;

use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::project::Project;
use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::wait::{SOON, eventually};
use crate::harness::worker::Worker;

const SETTLED: &str = "lagless_subscription_settled_total";

#[test]
fn fifty_thousand_messages_through_a_flaky_function_keep_their_order_and_none_is_lost() {
    let run = Queues::on(&Rabbit::shared(), "flaky");
    run.produce(0..50_000);
    let project = run.project("flaky.ts", "");
    let mut workers = [run.start(&project)];
    run.until_complete(&mut workers);
    let report = run.expect_none_lost(50_000);
    assert!(report.is_in_order() && report.repeated.is_empty(), "{report}");
    assert!(report.retried > 250, "one attempt in a hundred should have failed: {report}");
}

#[test]
fn without_order_a_quorum_queue_loses_nothing_either() {
    let run = Queues::with_input(&Rabbit::shared(), "unordered", &[("x-queue-type", "quorum")]);
    run.produce(0..50_000);
    let project = run.project("flaky.ts", "order = \"none\"\ndeclare = \"create\"\nqueue_type = \"quorum\"");
    let mut workers = [run.start(&project)];
    run.until_complete(&mut workers);
    let report = run.expect_none_lost(50_000);
    assert!(report.repeated.is_empty(), "{report}");
}

#[test]
fn two_workers_share_a_queue() {
    let run = Queues::on(&Rabbit::shared(), "shared");
    run.produce(0..5_000);
    let project = run.project("slow.ts", "");
    let mut workers = [run.start(&project), run.start(&project)];
    run.until_complete(&mut workers);
    for worker in &mut workers {
        assert!(worker.metric(SETTLED, "") > 100.0);
    }
    let report = run.expect_none_lost(5_000);
    assert!(report.repeated.is_empty(), "{report}");
}

#[test]
fn a_drain_finishes_what_is_in_hand_and_gives_the_rest_back() {
    let run = Queues::on(&Rabbit::shared(), "drain");
    run.produce(0..10_000);
    let project = run.project("slow.ts", "");
    let mut worker = run.start(&project);
    worker.until_metric(SETTLED, "", |settled| settled >= 300.0);
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0).expect_told(&["draining", "drained", "abandoned=0"]);
    let report = run.report(10_000);
    // The server gives back what a channel held a moment after it has closed.
    eventually("what was not handled in the queue", SOON, || match run.rabbit.ready(&run.input()) {
        Some(left) if report.returned as u32 + left == 10_000 => Ok(()),
        left => Err(format!("{left:?} left, {report}")),
    });
    assert!(report.repeated.is_empty() && report.is_in_order(), "{report}");
}

#[test]
fn a_drain_past_its_deadline_abandons_and_the_queue_has_it_again() {
    let run = Queues::on(&Rabbit::shared(), "late");
    run.produce(0..3);
    let code = "export default async (_, ctx) => { ctx.log.info('in hand'); await new Promise(() => {}); }";
    let project = run.project_with(code, "", "");
    let set = ["run", "--set", "drain_timeout=300ms"];
    let mut worker = Worker::start(project.command(&set), Stdio::null());
    worker.until_logged("in hand");
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(75).expect_told(&["deadline has passed"]);
    run.rabbit.until_ready(&run.input(), 3);
}

/// Two messages, of which the rule matches the second.
fn no_match(policy: &str, arguments: &[(&str, &str)]) -> (Queues, Project, Worker) {
    let run = Queues::with_input(&Rabbit::shared(), "nomatch", arguments);
    run.rabbit.publish("", &run.input(), [r#"{"key":"k0","seq":1000}"#.to_owned()].into_iter());
    run.produce(0..1);
    let trigger = format!("rule = {{ data = {{ seq = [0] }} }}\non_no_match = \"{policy}\"");
    let project = run.project("echo.ts", &trigger);
    let worker = run.start(&project);
    (run, project, worker)
}

#[test]
fn a_message_that_nobody_wants_is_acknowledged_rejected_or_kept() {
    let (run, _project, worker) = no_match("ack", &[]);
    let mut workers = [worker];
    run.until_complete(&mut workers);
    run.rabbit.until_ready(&run.output(), 1);
    run.expect_none_lost(1);

    let dead = format!("nomatch.dead.{:08x}", rand::random::<u32>());
    Rabbit::shared().create_queue(&dead, &[]);
    let policy = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", &dead)];
    let (run, _project, worker) = no_match("reject", &policy);
    run.rabbit.until_ready(&dead, 1);
    run.until_complete(&mut [worker]);
    run.rabbit.until_ready(&run.output(), 1);
    run.expect_none_lost(1);

    let (run, _project, mut worker) = no_match("stop", &[]);
    worker.until_logged("the queue is read no further");
    run.rabbit.until_ready(&run.input(), 2);
    assert_eq!(worker.metric("lagless_subscription_partitions_stopped", ""), 1.0);
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0);
}

#[test]
fn what_cannot_succeed_is_dead_lettered_by_us_or_by_the_queue() {
    let failing = "export default () => { throw new Error('never'); }";
    let dead = format!("dead.{:08x}", rand::random::<u32>());
    let rabbit = Rabbit::shared();
    rabbit.create_queue(&dead, &[]);
    let run = Queues::on(&rabbit, "dead");
    let retry = "retry = { attempts = 2, backoff = \"1ms\" }";
    let project = |run: &Queues, lines: &str| {
        let project = run.project_with(failing, "", lines);
        project.replace("retry = { attempts = 20, backoff = \"5ms\" }", retry);
        project
    };
    let properties = BasicProperties::default().with_message_id("m-1".into()).with_content_type("text/plain".into());
    rabbit.publish_with("", &run.input(), [("poison".to_owned(), properties)].into_iter());
    let on_failure = format!("on_failure = {{ amqp = \"rabbit\", exchange = \"\", routing_key = \"{dead}\" }}");
    let ours = project(&run, &on_failure);
    let _worker = run.start(&ours);
    rabbit.until_ready(&dead, 1);
    let letter = rabbit.take_all(&dead).remove(0);
    assert_eq!(letter.data, b"poison");
    let headers = letter.properties.headers().clone().unwrap();
    let header = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    let message_id = letter.properties.message_id().as_ref().map(ToString::to_string);
    assert_eq!((header("lagless-reason"), message_id), ("exception".into(), Some("m-1".into())));
    assert_eq!((header("lagless-routing-key"), header("lagless-attempts")), (run.input(), "2".into()));
    assert_eq!(letter.properties.content_type().as_ref().map(ToString::to_string).as_deref(), Some("text/plain"));

    let policy = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", dead.as_str())];
    let run = Queues::with_input(&rabbit, "rejected", &policy);
    run.produce(0..1);
    let queues = project(&run, "on_exhausted = \"reject\"");
    let _worker = run.start(&queues);
    rabbit.until_ready(&dead, 1);
    let letter = rabbit.take_all(&dead).remove(0);
    assert!(letter.properties.headers().clone().unwrap().contains_key("x-death"));
}

#[test]
fn a_result_that_no_queue_takes_is_a_failure() {
    let run = Queues::on(&Rabbit::shared(), "unroutable");
    run.produce(0..1);
    let project = run.project("echo.ts", "");
    let set =
        format!("service.it.trigger.t.on_success={{ amqp = \"rabbit\", routing_key = \"{}.nowhere\" }}", run.name);
    let dead = format!("service.it.trigger.t.on_failure={{ amqp = \"rabbit\", routing_key = \"{}\" }}", run.output());
    let args = ["run", "--set", &set, "--set", &dead];
    let mut worker = Worker::start(project.command(&args), Stdio::null());
    worker.until_logged("unroutable");
    run.rabbit.until_ready(&run.output(), 1);
    run.until_complete(&mut [worker]);
}

#[test]
fn rules_and_events_see_exchange_routing_key_properties_and_typed_headers() {
    let rabbit = Rabbit::shared();
    let run = Queues::on(&rabbit, "meta");
    let exchange = format!("{}.topic", run.name);
    rabbit.create_exchange(&exchange, ExchangeKind::Topic);
    let code = "export default (event) => event;";
    let trigger = format!(
        "declare = \"create\"\nbind = [{{ exchange = \"{exchange}\", routing_key = \"order.*.created\" }}]\n\
         rule = {{ properties = {{ exchange = [\"{exchange}\"], routing_key = [{{ prefix = \"order.\" }}], \
         correlation_id = [\"c-1\"] }}, headers = {{ tries = [\"3\"] }} }}\non_no_match = \"reject\""
    );
    let project = run.project_with(code, "", &trigger);
    let mut worker = run.start(&project);
    worker.until_logged("consuming");
    let mut headers = FieldTable::default();
    headers.insert("tries".into(), AMQPValue::LongInt(3));
    headers.insert("vip".into(), AMQPValue::Boolean(true));
    headers.insert("name".into(), AMQPValue::LongString("é".into()));
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_correlation_id("c-1".into())
        .with_message_id("m-1".into())
        .with_reply_to("answers".into())
        .with_content_type("application/json".into())
        .with_timestamp(1_700_000_000);
    rabbit.publish_with(&exchange, "order.eu.created", [(r#"{"a":1}"#.to_owned(), properties)].into_iter());
    rabbit.until_ready(&run.output(), 1);
    let event: Value = serde_json::from_slice(&rabbit.take_all(&run.output())[0].data).unwrap();
    assert_eq!(event["id"], "m-1");
    assert_eq!(event["topic"], json!(run.input()));
    assert_eq!(event["data"], json!({ "a": 1 }));
    assert_eq!(event["time"], "2023-11-14T22:13:20.000Z");
    assert_eq!(event["headers"], json!({ "tries": 3, "vip": true, "name": "é" }));
    let seen = &event["properties"];
    assert_eq!((&seen["exchange"], &seen["routing_key"]), (&json!(exchange), &json!("order.eu.created")));
    assert_eq!(
        (&seen["reply_to"], &seen["redelivered"], &seen["type"]),
        (&json!("answers"), &json!(false), &Value::Null)
    );
}
