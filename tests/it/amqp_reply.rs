//! Requests over a queue: who sends a message with `reply_to` gets the function's result, or learns that there is none.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::harness::project::Project;
use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::wait::SOON;
use crate::harness::worker::Worker;

const DIRECT: &str = "amq.rabbitmq.reply-to";
const ODD_FAIL: &str = "export default (event) => {
    if (event.data.n % 2) throw new RangeError(`${event.data.n} is odd`);
    return { double: event.data.n * 2 };
}";

/// A client that sends requests and listens for answers, on one channel.
struct Client {
    runtime: Runtime,
    channel: Channel,
    reply_to: String,
    answers: Consumer,
    _connection: Connection,
}

impl Client {
    /// Answers come to `reply_to`: the direct way, or a queue of this connection's own.
    fn new(rabbit: &Rabbit, reply_to: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (connection, channel, answers) = runtime.block_on(async {
            let connection = Connection::connect(&rabbit.url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            if reply_to != DIRECT {
                let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(reply_to.into(), options, FieldTable::default()).await.unwrap();
            }
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let consuming = channel.basic_consume(reply_to.into(), "".into(), options, FieldTable::default());
            let answers = consuming.await.unwrap();
            (connection, channel, answers)
        });
        Self { runtime, channel, reply_to: reply_to.to_owned(), answers, _connection: connection }
    }

    /// Sends the numbers of a range, each with its text as the correlation id.
    fn ask(&self, queue: &str, numbers: std::ops::Range<u32>) {
        self.runtime.block_on(async {
            for n in numbers {
                let properties = BasicProperties::default()
                    .with_reply_to(self.reply_to.as_str().into())
                    .with_correlation_id(n.to_string().into())
                    .with_message_id(format!("m-{n}").into());
                let (options, body) = (BasicPublishOptions::default(), json!({ "n": n }).to_string());
                let sending = self.channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
                sending.await.unwrap();
            }
        });
    }

    /// So many answers, by correlation id.
    #[track_caller]
    fn hear(&mut self, count: usize) -> BTreeMap<u32, Delivery> {
        let mut heard = BTreeMap::new();
        self.runtime.block_on(async {
            while heard.len() < count {
                let next = tokio::time::timeout(SOON, self.answers.next()).await;
                let answer = next.unwrap_or_else(|_| panic!("{} of {count} answers", heard.len())).unwrap().unwrap();
                let id = short(answer.properties.correlation_id()).unwrap().parse().unwrap();
                assert!(heard.insert(id, answer).is_none(), "{id} is answered twice");
            }
        });
        heard
    }

    fn hears_nothing_more(&mut self) {
        let more = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_millis(300), self.answers.next()).await });
        assert!(more.is_err(), "{more:?}");
    }
}

fn short(text: &Option<ShortString>) -> Option<&str> {
    text.as_ref().map(ShortString::as_str)
}

fn json_of(answer: &Delivery) -> Value {
    serde_json::from_slice(&answer.data).unwrap()
}

/// A project that answers, without any other sink for results but the one given; two attempts.
fn project(run: &Queues, code: &str, trigger: &str) -> Project {
    let project = run.project_with(code, "", &format!("reply = true\n{trigger}"));
    let text = fs::read_to_string(project.path().join("lagless.toml")).unwrap();
    let usual = format!("on_success = {{ amqp = \"rabbit\", routing_key = \"{}\" }}", run.output());
    assert!(text.contains(&usual), "{text}");
    project.write("lagless.toml", &text.replacen(&usual, "", 1).replace("attempts = 20", "attempts = 2"));
    project
}

fn start(project: &Project) -> Worker {
    Worker::start(project.command(&["run"]), Stdio::null())
}

#[test]
fn a_hundred_requests_get_a_hundred_answers_each_its_own() {
    let rabbit = Rabbit::shared();
    let code = "export default (event) => ({ double: event.data.n * 2 });";
    for name in ["direct", "named"] {
        let run = Queues::on(&rabbit, name);
        let project =
            project(&run, code, &format!("on_success = {{ amqp = \"rabbit\", routing_key = \"{}\" }}", run.output()));
        let mut workers = [start(&project)];
        let to = if name == "direct" { DIRECT.to_owned() } else { format!("{}.answers", run.name) };
        let mut client = Client::new(&rabbit, &to);
        client.ask(&run.input(), 0..100);
        for (n, answer) in client.hear(100) {
            assert_eq!(json_of(&answer), json!({ "double": n * 2 }));
            assert_eq!(short(answer.properties.content_type()), Some("application/json"));
            assert_eq!(short(answer.properties.message_id()).unwrap(), format!("m-{n}/it.t"));
        }
        run.until_complete(&mut workers);
        client.hears_nothing_more();
        run.rabbit.until_ready(&run.output(), 100);
        assert_eq!(workers[0].metric("lagless_trigger_replies_total", ""), 100.0);
        assert_eq!(workers[0].metric("lagless_trigger_replies_lost_total", ""), 0.0);
        assert_eq!(workers[0].metric("lagless_trigger_done_total", ""), 100.0);
    }
}

#[test]
fn a_function_without_a_result_answers_null() {
    let run = Queues::on(&Rabbit::shared(), "null");
    let project = project(&run, "export default () => {};", "");
    let _worker = start(&project);
    let mut client = Client::new(&run.rabbit, DIRECT);
    client.ask(&run.input(), 0..1);
    assert_eq!(json_of(&client.hear(1)[&0]), Value::Null);
}

#[track_caller]
fn check_failures_are_answered(trigger: &str, ready: impl Fn(&Queues)) {
    let run = Queues::on(&Rabbit::shared(), "failing");
    let project = project(&run, ODD_FAIL, &trigger.replace("DEAD", &run.output()));
    let mut workers = [start(&project)];
    let mut client = Client::new(&run.rabbit, DIRECT);
    client.ask(&run.input(), 0..10);
    for (n, answer) in client.hear(10) {
        let header = |name: &str| answer.properties.headers().as_ref().and_then(|all| all.inner().get(name));
        if n % 2 == 0 {
            assert_eq!((json_of(&answer), header("lagless-error")), (json!({ "double": n * 2 }), None));
            continue;
        }
        let told = format!("{n} is odd");
        let expected = json!({ "error": { "class": "exception", "name": "RangeError", "message": told } });
        assert_eq!(json_of(&answer), expected);
        let told = format!("RangeError: {told}");
        assert_eq!(header("lagless-reason"), Some(&AMQPValue::LongString("exception".into())));
        assert_eq!(header("lagless-error"), Some(&AMQPValue::LongString(told.as_str().into())));
    }
    run.until_complete(&mut workers);
    client.hears_nothing_more();
    ready(&run);
}

#[test]
fn a_last_failure_is_answered_whatever_becomes_of_the_message() {
    check_failures_are_answered("on_exhausted = \"drop\"", |_| {});
    check_failures_are_answered("on_exhausted = \"reject\"", |_| {});
    let on_failure = "on_failure = { amqp = \"rabbit\", routing_key = \"DEAD\" }";
    check_failures_are_answered(on_failure, |run| run.rabbit.until_ready(&run.output(), 5));
}

#[test]
fn a_result_that_is_refused_and_a_lane_that_stops_are_answered_too() {
    let run = Queues::on(&Rabbit::shared(), "refused");
    let on_success = "on_success = { amqp = \"rabbit\", routing_key = \"${header:to}\" }";
    let project = project(&run, "export default (event) => event.data;", on_success);
    let mut worker = start(&project);
    let mut client = Client::new(&run.rabbit, DIRECT);
    client.ask(&run.input(), 0..1);
    let answer = json_of(&client.hear(1)[&0]);
    assert_eq!((&answer["error"]["class"], &answer["error"]["name"]), (&json!("result"), &json!("ResultRefused")));
    worker.until_logged("lane stopped");
}

#[test]
fn an_answer_that_nobody_takes_is_counted_and_the_message_is_done() {
    let run = Queues::on(&Rabbit::shared(), "gone");
    let project = project(&run, "export default (event) => ({ secret: event.data });", "");
    let mut worker = start(&project);
    let asking = |to: &str| BasicProperties::default().with_reply_to(to.into());
    let nowhere = format!("{}.nowhere", run.name);
    let messages = [asking(&nowhere), asking(&nowhere), asking(""), BasicProperties::default()];
    let messages = messages.into_iter().map(|properties| ("\"hush\"".to_owned(), properties));
    run.rabbit.publish_with("", &run.input(), messages);
    worker.until_metric("lagless_trigger_done_total", "", |done| done >= 4.0);
    assert_eq!(worker.metric("lagless_trigger_replies_lost_total", ""), 2.0);
    assert_eq!(worker.metric("lagless_trigger_replies_total", ""), 0.0);
    let log = worker.log();
    assert_eq!(log.matches("nobody takes the answer").count(), 1, "{log}");
    assert!(!log.contains("hush") && !log.contains("Server returned us"), "{log}");
    run.until_complete(&mut [worker]);
}

/// Some of these are no more to the server than a queue that is not there; over others it fails.
const MADE_UP: [&str; 8] = [".", ".x", ".x.y", ".g2.x", ".g2.!.!", ".AAAA.AAAA", ".g1hk.AAAA", "."];

#[test]
fn an_address_for_direct_replies_that_is_made_up_holds_nobody_up() {
    let run = Queues::on(&Rabbit::shared(), "madeup");
    let project = project(&run, "export default (event) => event.data;", "");
    let mut worker = start(&project);
    let mut client = Client::new(&run.rabbit, DIRECT);
    let messages = MADE_UP.iter().map(|end| {
        let to = format!("{DIRECT}{end}");
        (json!({ "n": 1 }).to_string(), BasicProperties::default().with_reply_to(to.as_str().into()))
    });
    run.rabbit.publish_with("", &run.input(), messages);
    client.ask(&run.input(), 0..10);
    assert_eq!(client.hear(10).len(), 10);
    worker.until_metric("lagless_trigger_done_total", "", |done| done >= 18.0);
    assert!(worker.metric("lagless_trigger_replies_lost_total", "") >= 1.0);
    worker.until_logged("the server fails over it");
    run.until_complete(&mut [worker]);
}
