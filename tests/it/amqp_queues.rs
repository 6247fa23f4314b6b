//! Queues as they are declared and read: exchanges, arguments, priorities, and one consumer at a time.

use std::process::Stdio;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::worker::{Worker, until_gone};

const SETTLED: &str = "lagless_subscription_settled_total";

/// Queues of which the input is to be declared by the worker.
fn undeclared(name: &str) -> Queues {
    let run = Queues::on(&Rabbit::shared(), name);
    run.rabbit.delete_queue(&run.input());
    run
}

fn stop(worker: Worker) {
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0);
}

#[test]
fn exchanges_of_every_type_are_declared_and_bound() {
    let run = undeclared("exchanges");
    let name = &run.name;
    let trigger = format!(
        r#"
        declare = "create"
        bind = [
            {{ exchange = "{name}.direct", type = "direct", routing_key = "a" }},
            {{ exchange = "{name}.topic", type = "topic", routing_key = "order.*" }},
            {{ exchange = "{name}.fanout", type = "fanout" }},
            {{ exchange = "{name}.headers", type = "headers", arguments = {{ "x-match" = "all", region = "eu", size = 3 }} }},
        ]
        "#
    );
    let project = run.project_with("export default (event) => event.properties.exchange;", "", &trigger);
    let mut worker = run.start(&project);
    worker.until_logged("consuming");
    let send = |kind: &str, key: &str, headers: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (key, value) in headers {
            table.insert((*key).into(), value.clone());
        }
        let message = ("{}".to_owned(), BasicProperties::default().with_headers(table));
        run.rabbit.publish_with(&format!("{name}.{kind}"), key, [message].into_iter());
    };
    send("direct", "a", &[]);
    send("topic", "order.new", &[]);
    send("fanout", "whatever", &[]);
    send("headers", "", &[("region", AMQPValue::LongString("eu".into())), ("size", AMQPValue::LongInt(3))]);
    run.rabbit.until_ready(&run.output(), 4);
    let text = |message: &lapin::message::Delivery| serde_json::from_slice::<String>(&message.data).unwrap();
    let mut seen: Vec<String> = run.rabbit.take_all(&run.output()).iter().map(text).collect();
    seen.sort();
    assert_eq!(seen, ["direct", "fanout", "headers", "topic"].map(|kind| format!("{name}.{kind}")));
    stop(worker);

    let text = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
    project.write("lagless.toml", &text.replace("type = \"fanout\"", "type = \"direct\""));
    let line = run.start(&project).until_logged("it exists with other properties");
    assert!(line.contains(&format!("{name}.fanout")) && line.contains("'type'"), "{line}");
}

#[test]
fn the_arguments_of_a_queue_reach_the_server_and_others_are_told() {
    let run = undeclared("arguments");
    let dead = format!("{}.dead", run.name);
    run.rabbit.create_queue(&dead, &[]);
    let arguments = |most: u32| {
        format!(
            "declare = \"create\"\non_exhausted = \"reject\"\narguments = {{ \"x-dead-letter-exchange\" = \"\", \
             \"x-dead-letter-routing-key\" = \"{dead}\", \"x-max-priority\" = {most} }}"
        )
    };
    let code = "export default () => { throw new Error('never'); }";
    let project = run.project_with(code, "", &arguments(5));
    let mut worker = Worker::start(project.command(&["run", "--set", ATTEMPTS]), Stdio::null());
    worker.until_logged("consuming");
    run.produce(0..1);
    run.rabbit.until_ready(&dead, 1);
    stop(worker);
    let other = run.project_with(code, "", &arguments(6));
    let line = run.start(&other).until_logged("it exists with other properties");
    assert!(line.contains(&run.input()) && line.contains("x-max-priority") && line.contains("passive"), "{line}");
}

const ATTEMPTS: &str = "service.it.trigger.t.retry={ attempts = 2, backoff = \"1ms\" }";

#[test]
fn messages_that_wait_come_in_the_order_of_their_priority() {
    let run = undeclared("priority");
    let project = run.project("echo.ts", "declare = \"create\"\narguments = { \"x-max-priority\" = 9 }");
    let mut worker = run.start(&project);
    worker.until_logged("consuming");
    stop(worker);
    let message = |seq: u8| {
        let body = format!(r#"{{"key":"k","seq":{seq}}}"#);
        (body, BasicProperties::default().with_delivery_mode(2).with_priority(seq % 3))
    };
    run.rabbit.publish_with("", &run.input(), (0..9).map(message));
    let mut workers = [run.start(&project)];
    run.until_complete(&mut workers);
    let seq = |message: &lapin::message::Delivery| {
        serde_json::from_slice::<Value>(&message.data).unwrap()["seq"].as_u64().unwrap()
    };
    let seen: Vec<u64> = run.rabbit.take_all(&run.output()).iter().map(seq).collect();
    assert_eq!(seen, [2, 5, 8, 1, 4, 7, 0, 3, 6]);
}

#[test]
fn the_consumer_of_higher_priority_gets_the_messages_while_it_has_room() {
    let run = Queues::on(&Rabbit::shared(), "consumers");
    let low_project = run.project("echo.ts", "consumer_priority = -1");
    let mut low = run.start(&low_project);
    low.until_logged("consuming");
    let high_project = run.project("echo.ts", "consumer_priority = 10");
    let mut high = run.start(&high_project);
    high.until_logged("consuming");
    run.produce(0..50);
    high.until_metric(SETTLED, "", |settled| settled >= 50.0);
    assert_eq!(low.metric(SETTLED, ""), 0.0);
    stop(high);
    run.produce(50..60);
    low.until_metric(SETTLED, "", |settled| settled >= 10.0);
    run.until_complete(&mut [low]);
    run.expect_none_lost(60);
}

#[test]
fn of_two_workers_on_a_queue_with_a_single_active_consumer_one_reads_until_it_is_killed() {
    let run = undeclared("single");
    let trigger = "declare = \"create\"\narguments = { \"x-single-active-consumer\" = true }";
    let project = run.project("slow.ts", trigger);
    let mut first = run.start(&project);
    first.until_logged("consuming");
    run.produce(0..3_000);
    let mut second = run.start(&project);
    second.until_logged("consuming");
    first.until_metric(SETTLED, "", |settled| settled >= 300.0);
    assert_eq!(second.metric(SETTLED, ""), 0.0);
    until_gone(&first.kill());
    let mut workers = [second];
    run.until_complete(&mut workers);
    let report = run.expect_none_lost(3_000);
    assert!(report.is_in_order(), "{report}");
}

/// A worker that can keep messages for a short while only; the project must outlive it.
macro_rules! start_impatient {
    ($run:expr, $code:expr, $lines:expr) => {{
        let project = $run.project_with($code, "", $lines);
        let text = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
        let source = "kind = \"amqp\"\nconsumer_timeout = \"1500ms\"";
        let text = text.replace("kind = \"amqp\"", source).replace("backoff = \"5ms\"", "backoff = \"1s\"");
        project.write("lagless.toml", &text);
        let worker = $run.start(&project);
        (project, worker)
    }};
}

#[test]
fn what_a_quorum_queue_has_counted_is_counted_on_and_leaves_one_attempt() {
    let attempt_after = |returns: u32, attempts: u32| {
        let run = Queues::with_input(&Rabbit::shared(), "counted", &[("x-queue-type", "quorum")]);
        run.produce(0..1);
        run.rabbit.hand_back(&run.input(), returns);
        let project = run.project("echo.ts", "");
        let set = format!("service.it.trigger.t.retry.attempts={attempts}");
        let mut workers = [Worker::start(project.command(&["run", "--set", &set]), Stdio::null())];
        run.rabbit.until_ready(&run.output(), 1);
        run.until_complete(&mut workers);
        let result: Value = serde_json::from_slice(&run.rabbit.take_all(&run.output())[0].data).unwrap();
        result["attempt"].as_u64().unwrap()
    };
    assert_eq!(attempt_after(2, 20), 3);
    assert_eq!(attempt_after(5, 2), 2);
}

#[test]
fn what_cannot_be_kept_until_its_next_attempt_goes_back_to_a_quorum_queue() {
    let run = Queues::with_input(&Rabbit::shared(), "returned", &[("x-queue-type", "quorum")]);
    run.produce(0..1);
    let code = "export default (event) => {
        if ((event.headers['x-delivery-count'] ?? 0) < 2) throw new Error('not yet');
        return event.headers;
    }";
    let (_project, mut worker) =
        start_impatient!(run, code, "declare = \"create\"\nqueue_type = \"quorum\"\norder = \"none\"");
    worker.until_logged("it goes back to its queue");
    run.rabbit.until_ready(&run.output(), 1);
    let headers: Value = serde_json::from_slice(&run.rabbit.take_all(&run.output())[0].data).unwrap();
    assert_eq!(headers["x-delivery-count"], 2);
    run.until_complete(&mut [worker]);
}

#[test]
fn what_cannot_be_kept_until_its_next_attempt_is_a_dead_letter_of_a_classic_queue() {
    let run = Queues::on(&Rabbit::shared(), "overdue");
    run.produce(0..1);
    let dead = format!("on_failure = {{ amqp = \"rabbit\", routing_key = \"{}\" }}", run.output());
    let (_project, worker) = start_impatient!(run, "export default () => { throw new Error('never'); }", &dead);
    run.rabbit.until_ready(&run.output(), 1);
    let letter = run.rabbit.take_all(&run.output()).remove(0);
    let headers = letter.properties.headers().clone().unwrap();
    let text = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    assert!(text("lagless-error").contains("never (its source cannot keep"), "{}", text("lagless-error"));
    assert!(text("lagless-attempts").parse::<u32>().unwrap() < 5, "{}", text("lagless-attempts"));
    run.until_complete(&mut [worker]);
}
