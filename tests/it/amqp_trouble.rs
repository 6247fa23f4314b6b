//! Crashes, lost servers and lost queues, and what a user gets wrong: nothing is lost, and it is said aloud.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::project::Project;
use crate::harness::rabbit::{OwnRabbit, Queues, Rabbit};
use crate::harness::worker::{Worker, until_gone};

const SETTLED: &str = "lagless_subscription_settled_total";

#[test]
fn workers_and_runners_that_are_killed_lose_nothing() {
    let run = Queues::on(&Rabbit::shared(), "killed");
    run.produce(0..10_000);
    let project = run.project("slow.ts", "");
    for _ in 0..3 {
        let mut worker = run.start(&project);
        worker.until_metric(SETTLED, "", |settled| settled >= 300.0);
        until_gone(&worker.kill());
    }
    let mut worker = run.start(&project);
    for round in 1..=2 {
        worker.until_metric(SETTLED, "", |settled| settled >= 300.0 * f64::from(round));
        worker.runners().iter().for_each(|runner| runner.kill());
        worker.until_metric("lagless_runner_starts_total", "", |starts| starts > f64::from(round));
    }
    run.until_complete(&mut [worker]);
    let report = run.expect_none_lost(10_000);
    assert!(report.is_in_order(), "{report}");
}

#[test]
fn a_server_that_restarts_costs_nothing_but_time() {
    let own = OwnRabbit::start();
    let run = Queues::on(&own.rabbit, "restart");
    run.produce(0..5_000);
    let project = run.project("slow.ts", "");
    let mut worker = run.start(&project);
    worker.until_metric(SETTLED, "", |settled| settled >= 500.0);
    own.stop();
    worker.until_logged("still trying");
    assert_eq!(worker.page("/healthz").0, 200);
    own.start_again();
    let mut workers = [worker];
    run.until_complete(&mut workers);
    run.produce(5_000..5_500);
    run.until_complete(&mut workers);
    let report = run.expect_none_lost(5_500);
    assert!(report.is_in_order(), "{report}");
}

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
    let text = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
    project.write("lagless.toml", &text.replace(&format!("\"{}\"", run.rabbit.url), "{ env = \"IT_URL\" }"));
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
    let text = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
    let urls = format!("urls = [\"amqp://127.0.0.1:1\", \"{}\"]", run.rabbit.url);
    project.write("lagless.toml", &text.replace(&format!("url = \"{}\"", run.rabbit.url), &urls));
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
    check(project("kind = \"amqp\"\nurl = \"amqps://me:hush@a\"", "queue = \"q\""), &["TLS is not supported yet"]);
    let many = format!("{rabbit}\nin_flight = {{ messages = 65536 }}");
    check(project(&many, "queue = \"q\""), &["in_flight.messages", "65535"]);
    check(project(rabbit, "queue = \"q\"\nretry = { backoff = \"1h\" }"), &["trigger.t.retry", "10 minutes"]);
    let ended = project(rabbit, "queue = \"q\"").lagless(&["check"]);
    ended.expect_code(0);
    assert!(!ended.stdout.contains("hush") && ended.stdout.contains("queue = \"q\""), "{}", ended.stdout);
}
