//! What results and dead letters look like on a real RabbitMQ, and which of them come back.

use std::collections::BTreeSet;
use std::process::Stdio;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Value, json};

use crate::harness::project::Project;
use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::worker::Worker;

const ECHO: &str = "export default (event) => event.data;";

/// A project whose results go to the sink with these keys.
fn project(run: &Queues, code: &str, sink: &str, trigger: &str) -> Project {
    let project = run.project_with(code, "", trigger);
    let text = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
    let usual = format!("on_success = {{ amqp = \"rabbit\", routing_key = \"{}\" }}", run.output());
    assert!(text.contains(&usual), "{text}");
    project.write("lagless.toml", &text.replace(&usual, &format!("on_success = {{ amqp = \"rabbit\", {sink} }}")));
    project
}

fn start(project: &Project) -> Worker {
    Worker::start(project.command(&["run"]), Stdio::null())
}

fn headers(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn short(text: &Option<ShortString>) -> Option<&str> {
    text.as_ref().map(ShortString::as_str)
}

fn header<'a>(message: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    message.properties.headers().as_ref()?.inner().get(name)
}

/// A queue for what is refused, and the trigger's line that names it.
fn dead_letters(run: &Queues) -> (String, String) {
    let dead = format!("{}.dead", run.name);
    run.rabbit.create_queue(&dead, &[]);
    let line = format!("on_failure = {{ amqp = \"rabbit\", routing_key = \"{dead}\" }}");
    (dead, line)
}

#[test]
fn results_have_the_headers_and_properties_of_the_sink_and_a_key_of_the_message() {
    let run = Queues::on(&Rabbit::shared(), "dressed");
    let sink = format!(
        "routing_key = \"{}.${{header:to}}\", headers = {{ region = \"eu\", version = 2, share = 0.5, vip = true, \
         tags = [\"a\"], deep = {{ a = 1 }} }}, properties = {{ type = \"order.total\", app_id = \"shop\", priority = 5, \
         expiration = \"1h\", user_id = \"guest\", content_encoding = \"utf-8\" }}",
        run.name
    );
    let project = project(&run, ECHO, &sink, "");
    let _worker = start(&project);
    let properties = BasicProperties::default()
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_headers(headers(&[("to", text("out"))]));
    // The second is a repetition of the first.
    let twice = [("{\"a\":1}".to_owned(), properties.clone()), ("{\"a\":1}".to_owned(), properties)];
    run.rabbit.publish_with("", &run.input(), twice.into_iter());
    run.rabbit.until_ready(&run.output(), 2);
    let results = run.rabbit.take_all(&run.output());
    for result in &results {
        let own = &result.properties;
        assert_eq!(result.data, b"{\"a\":1}");
        assert_eq!((short(own.message_id()), short(own.correlation_id())), (Some("m-1/it.t"), Some("c-1")));
        assert_eq!((short(own.kind()), short(own.app_id())), (Some("order.total"), Some("shop")));
        assert_eq!(
            (short(own.content_type()), short(own.content_encoding())),
            (Some("application/json"), Some("utf-8"))
        );
        assert_eq!((short(own.user_id()), short(own.expiration())), (Some("guest"), Some("3600000")));
        assert_eq!((*own.priority(), *own.delivery_mode()), (Some(5), Some(2)));
        assert!(own.timestamp().is_some_and(|seconds| (1_700_000_000..10_000_000_000).contains(&seconds)), "{own:?}");
        let expected = headers(&[
            ("region", text("eu")),
            ("version", AMQPValue::LongLongInt(2)),
            ("share", AMQPValue::Double(0.5)),
            ("vip", AMQPValue::Boolean(true)),
            ("tags", AMQPValue::FieldArray(vec![text("a")].into())),
            ("deep", AMQPValue::FieldTable(headers(&[("a", AMQPValue::LongLongInt(1))]))),
        ]);
        assert_eq!(own.headers().as_ref(), Some(&expected));
    }
}

/// The numbers in the messages' bodies.
fn numbers(messages: &[Delivery]) -> BTreeSet<u64> {
    let number = |message: &Delivery| serde_json::from_slice::<Value>(&message.data).unwrap()["seq"].as_u64().unwrap();
    messages.iter().map(number).collect()
}

#[test]
fn of_many_results_only_those_that_no_queue_takes_are_dead_lettered() {
    let run = Queues::on(&Rabbit::shared(), "sorted");
    let (dead, on_failure) = dead_letters(&run);
    let sink = format!("routing_key = \"{}.${{header:to}}\"", run.name);
    let project = project(&run, ECHO, &sink, &format!("order = \"none\"\n{on_failure}"));
    let to = |seq: u64| match seq % 10 {
        0 => headers(&[("to", text("nowhere"))]),
        1 => headers(&[("other", text("out"))]),
        2 => headers(&[("to", text(&"x".repeat(250)))]),
        _ => headers(&[("to", text("out"))]),
    };
    let messages = (0..3000)
        .map(|seq| (json!({ "key": "k", "seq": seq }).to_string(), BasicProperties::default().with_headers(to(seq))));
    run.rabbit.publish_with("", &run.input(), messages);
    let mut workers = [start(&project)];
    run.until_complete(&mut workers);
    let (results, letters) = (run.rabbit.take_all(&run.output()), run.rabbit.take_all(&dead));
    assert_eq!((results.len(), letters.len()), (2100, 900));
    assert_eq!(numbers(&results), (0..3000).filter(|seq| seq % 10 > 2).collect());
    assert_eq!(numbers(&letters), (0..3000).filter(|seq| seq % 10 <= 2).collect());
    for letter in &letters {
        let told = match header(letter, "lagless-error") {
            Some(AMQPValue::LongString(told)) => told.to_string(),
            other => panic!("{other:?}"),
        };
        let expected = match numbers(std::slice::from_ref(letter)).first().unwrap() % 10 {
            0 => "ResultRefused: unroutable: NO_ROUTE (exchange ``, routing key `sorted-",
            1 => "the message has no header `to`",
            _ => "bytes; allowed: 255",
        };
        assert!(told.contains(expected), "{told}");
    }
    assert!(!workers[0].log().contains("Server returned us a message"), "messages do not belong into logs");
}

#[test]
fn dead_letters_keep_properties_and_the_types_of_headers() {
    let run = Queues::on(&Rabbit::shared(), "kept");
    let (dead, on_failure) = dead_letters(&run);
    let retry = "retry = { attempts = 20, backoff = \"5ms\" }";
    let project =
        project(&run, "export default () => { throw new Error('never'); }", "routing_key = \"x\"", &on_failure);
    let text_of = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
    project.write("lagless.toml", &text_of.replace(retry, "retry = { attempts = 1 }"));
    let own = [
        ("tries", AMQPValue::LongInt(3)),
        ("vip", AMQPValue::Boolean(true)),
        ("name", text("\u{e9}")),
        ("bytes", AMQPValue::LongString(vec![0xff].into())),
        // Would send copies, if it were passed on under its name.
        ("CC", AMQPValue::FieldArray(vec![text(&run.output())].into())),
    ];
    let properties = BasicProperties::default()
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_type("order.placed".into())
        .with_app_id("shop".into())
        .with_user_id("guest".into())
        .with_content_type("text/plain".into())
        .with_priority(3)
        .with_expiration("600000".into())
        .with_timestamp(1_700_000_000)
        .with_headers(headers(&own));
    run.rabbit.publish_with("", &run.input(), [("poison".to_owned(), properties)].into_iter());
    // The copy that the publisher itself has asked for.
    run.rabbit.until_ready(&run.output(), 1);
    let mut workers = [start(&project)];
    run.until_complete(&mut workers);
    run.rabbit.until_ready(&dead, 1);
    let letters = run.rabbit.take_all(&dead);
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!(letter.data, b"poison");
    let kept = &letter.properties;
    assert_eq!((short(kept.message_id()), short(kept.correlation_id())), (Some("m-1"), Some("c-1")));
    assert_eq!((short(kept.kind()), short(kept.app_id())), (Some("order.placed"), Some("shop")));
    assert_eq!((short(kept.content_type()), short(kept.reply_to())), (Some("text/plain"), Some("answers")));
    assert_eq!((*kept.priority(), *kept.timestamp()), (Some(3), Some(1_700_000_000)));
    assert_eq!((short(kept.expiration()), short(kept.user_id())), (None, None), "it would be gone, or refused");
    for (name, expected) in [
        ("tries", AMQPValue::LongLongInt(3)),
        ("vip", AMQPValue::Boolean(true)),
        ("name", text("\u{e9}")),
        ("bytes", AMQPValue::LongString(vec![0xff].into())),
        ("lagless-CC", AMQPValue::FieldArray(vec![text(&run.output())].into())),
        ("lagless-expiration", text("600000")),
        ("lagless-user-id", text("guest")),
        ("lagless-reason", text("exception")),
    ] {
        assert_eq!(header(letter, name), Some(&expected), "{name}");
    }
    assert_eq!((header(letter, "CC"), run.rabbit.ready(&run.output())), (None, Some(1)));
}

#[test]
fn a_cloud_event_in_binary_mode_reaches_the_function_as_itself() {
    let run = Queues::on(&Rabbit::shared(), "cloud");
    let code = "export default (event) => event;";
    let project = project(&run, code, &format!("routing_key = \"{}\"", run.output()), "shape = \"cloudevents\"");
    let _worker = start(&project);
    for prefix in ["cloudEvents:", "cloudEvents_"] {
        let names = ["specversion", "id", "source", "type", "time", "count"].map(|name| format!("{prefix}{name}"));
        let values = [
            text("1.0"),
            text("A-1"),
            text("/shop"),
            text("order.placed"),
            AMQPValue::Timestamp(1_700_000_000),
            AMQPValue::LongInt(7),
        ];
        let entries: Vec<_> = names.iter().map(String::as_str).zip(values).collect();
        let properties =
            BasicProperties::default().with_content_type("application/json".into()).with_headers(headers(&entries));
        run.rabbit.publish_with("", &run.input(), [("{\"total\":3}".to_owned(), properties)].into_iter());
        run.rabbit.until_ready(&run.output(), 1);
        let event: Value = serde_json::from_slice(&run.rabbit.take_all(&run.output())[0].data).unwrap();
        let expected = json!({
            "specversion": "1.0", "id": "A-1", "source": "/shop", "type": "order.placed",
            "time": "2023-11-14T22:13:20.000Z", "count": 7, "datacontenttype": "application/json",
            "laglesstrigger": "it.t", "laglessattempt": 1, "data": { "total": 3 },
        });
        assert_eq!(event, expected);
    }
}

#[test]
fn a_user_that_the_server_does_not_accept_is_told_and_nothing_is_lost() {
    let run = Queues::on(&Rabbit::shared(), "user");
    let sink = |user: &str| format!("routing_key = \"{}\", properties = {{ user_id = \"{user}\" }}", run.output());
    let wrong = project(&run, ECHO, &sink("somebody"), "");
    run.produce(0..3);
    let mut worker = start(&wrong);
    worker.until_logged("user_id property set to 'somebody'");
    worker.kill();
    let right = project(&run, ECHO, &sink("guest"), "");
    let mut workers = [start(&right)];
    run.until_complete(&mut workers);
    assert_eq!(numbers(&run.rabbit.take_all(&run.output())), (0..3).collect());
}
