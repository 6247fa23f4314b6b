//! Lost queues, and what a user gets wrong: it is said aloud.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::project::Project;
use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::worker::Worker;

const SETTLED: &str = "lagless_subscription_settled_total";

#[test]
fn a_deleted_queue_is_told_and_taken_up_when_it_is_back() {
    let run = Queues::on(&Rabbit::shared(), "deleted");
    run.produce(0..10);
    let project = run.project("echo.ts", "");
    let mut worker = run.start(&project);
    worker.until_metric(SETTLED, "", |settled| settled >= 10.0);
    run.rabbit.delete_queue(&run.input());
    worker.until_logged("the server has cancelled the consumer");
    worker.until_logged("no queue");
    run.rabbit.create_queue(&run.input(), &[]);
    run.produce(10..20);
    worker.until_metric(SETTLED, "", |settled| settled >= 20.0);
    run.expect_none_lost(20);
}

#[test]
fn a_queue_that_is_otherwise_is_told() {
    let run = Queues::on(&Rabbit::shared(), "mismatch");
    let project = run.project("echo.ts", "declare = \"create\"\nqueue_type = \"quorum\"");
    let mut worker = run.start(&project);
    let line = worker.until_logged("it exists with other properties");
    assert!(line.contains(&run.input()) && line.contains("x-queue-type"), "{line}");
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0);
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let run = Queues::on(&Rabbit::shared(), "password");
    let project = run.project("echo.ts", "");
    let url = run.rabbit.url.replace("guest:guest", "guest:guessed-it");
    project.replace(&format!("\"{}\"", run.rabbit.url), "{ env = \"IT_URL\" }");
    let mut command = project.command(&["run"]);
    command.env("IT_URL", &url);
    let mut worker = Worker::start(command, Stdio::null());
    worker.until_logged("check user and password");
    worker.signal(Signal::SIGTERM);
    let ended = worker.end();
    ended.expect_code(0);
    assert!(!ended.stderr.contains("guessed-it"), "{}", ended.stderr);
}

#[test]
fn the_second_server_is_tried_when_the_first_is_gone() {
    let run = Queues::on(&Rabbit::shared(), "second");
    run.produce(0..1);
    let project = run.project("echo.ts", "");
    let urls = format!("urls = [\"amqp://127.0.0.1:1\", \"{}\"]", run.rabbit.url);
    project.replace(&format!("url = \"{}\"", run.rabbit.url), &urls);
    let mut worker = run.start(&project);
    worker.until_logged("not reachable");
    run.rabbit.until_ready(&run.output(), 1);
    run.until_complete(&mut [worker]);
    run.expect_none_lost(1);
}

#[test]
fn keys_of_the_other_broker_and_a_rule_without_its_policy_are_refused() {
    let project = |source: &str, trigger: &str| {
        let config = format!(
            "[source.s]\n{source}\n[service.it.function.f]\ncode = \"f.ts\"\n[service.it.trigger.t]\nfunction = \"f\"\n\
             source = \"s\"\n{trigger}\n"
        );
        Project::new(&config).with("f.ts", "export default () => 1;")
    };
    let rabbit = "kind = \"amqp\"\nurl = \"amqp://me:hush@127.0.0.1\"";
    let kafka = "kind = \"kafka\"\nbrokers = [\"127.0.0.1:1\"]";
    let check = |project: Project, words: &[&str]| {
        let ended = project.lagless(&["check"]);
        ended.expect_code(78).expect_told(words);
        assert!(!ended.stderr.contains("hush"), "{}", ended.stderr);
    };
    check(project(rabbit, "queue = \"q\"\nrule = { data = { a = [1] } }"), &["on_no_match", "missing"]);
    check(project(rabbit, "queue = \"q\"\ntopics = [\"t\"]"), &["trigger.t.topics", "kafka"]);
    check(project(rabbit, "queue = \"q\"\nstart = \"latest\""), &["trigger.t.start"]);
    check(project(rabbit, ""), &["\"queue\" is missing"]);
    check(project(kafka, "topics = [\"t\"]\non_no_match = \"ack\""), &["trigger.t.on_no_match", "amqp"]);
    check(project(kafka, "topics = [\"t\"]\non_exhausted = \"reject\""), &["trigger.t.on_exhausted"]);
    check(project(&format!("{rabbit}\nbrokers = [\"a:1\"]"), "queue = \"q\""), &["source.s.brokers"]);
    check(project(&format!("{kafka}\nurl = \"amqp://a\""), "topics = [\"t\"]"), &["source.s.url"]);
    check(project("kind = \"amqp\"\nurl = \"http://me:hush@a\"", "queue = \"q\""), &["source.s.url", "amqps://"]);
    let many = format!("{rabbit}\nin_flight = {{ messages = 65536 }}");
    check(project(&many, "queue = \"q\""), &["in_flight.messages", "65535"]);
    check(project(rabbit, "queue = \"q\"\nretry = { backoff = \"1h\" }"), &["trigger.t.retry", "wait 25m at most"]);
    let ended = project(rabbit, "queue = \"q\"").lagless(&["check"]);
    ended.expect_code(0);
    assert!(!ended.stdout.contains("hush") && ended.stdout.contains("queue = \"q\""), "{}", ended.stdout);
}
