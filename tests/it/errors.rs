//! What a user gets wrong, and what the world does: a clear word and the right exit code, or a retry with a log line.

use std::net::TcpListener;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::kafka::{Kafka, OwnKafka};
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::worker::Worker;

const CONFIG: &str = r#"
admin = "off"
[source.lines]
kind = "memory"
[service.it.function.f]
code = "f.ts"
[service.it.trigger.t]
function = "f"
source = "lines"
"#;

const CODE: &str = "export default () => 1;\n";

/// `run` and `check` must both refuse with exit code 78 and these words.
#[track_caller]
fn check_refused(project: &Project, words: &[&str]) {
    for verb in ["check", "run"] {
        project.lagless(&[verb]).expect_code(78).expect_told(words);
    }
}

#[test]
fn a_bad_configuration_is_refused_with_file_line_key_and_a_guess() {
    let config = CONFIG.replace("code =", "cod =");
    check_refused(&Project::new(&config), &["lagless.toml:6", "service.it.function.f.cod", "did you mean \"code\""]);
    let config = CONFIG.replace("source = \"lines\"", "source = \"line\"");
    let words = ["lagless.toml:9", "service.it.trigger.t.source", "\"line\"", "did you mean \"lines\""];
    check_refused(&Project::new(&config), &words);
    check_refused(&Project::new("[source.x\n"), &["lagless.toml:1", "not valid TOML"]);
}

#[test]
fn a_missing_configuration_is_named() {
    let project = Project::new(CONFIG).with("f.ts", CODE);
    project.lagless(&["run", "-c", "other.toml"]).expect_code(78).expect_told(&["other.toml", "cannot be read"]);
}

#[test]
fn a_rule_that_means_nothing_is_refused() {
    let config = format!("{CONFIG}rule = {{ data = {{ a = [{{ numerik = [\">\", 0] }}] }} }}\n");
    check_refused(&Project::new(&config).with("f.ts", CODE), &["service.it.trigger.t.rule", "numerik"]);
}

#[test]
fn missing_code_is_refused_with_function_and_path() {
    check_refused(&Project::new(CONFIG), &["service.it.function.f", "f.ts"]);
}

#[test]
fn a_syntax_error_is_refused_with_file_and_line() {
    let code = "interface A { a: number }\n\nexport default function () {\n  const a = = 1;\n}\n";
    check_refused(&Project::new(CONFIG).with("f.ts", code), &["service.it.function.f", "f.ts:4"]);
}

#[test]
fn a_function_that_does_not_load_is_told_and_tried_again() {
    let config = format!("{CONFIG}on_exhausted = \"drop\"\n");
    let project = Project::new(&config).with("f.ts", "export const other = 1;\n").with("lines", "{}\n");
    let mut worker = Worker::start(project.command(&["run", "--set", "source.lines.input=lines"]), Stdio::null());
    let line = worker.until_logged("the function does not load");
    assert!(line.contains("it.f") && line.contains("retry_in"), "{line}");
    worker.signal(Signal::SIGTERM);
    let ended = worker.end();
    assert!(matches!(ended.code, Some(0 | 75)), "{ended:?}");
}

#[test]
fn an_admin_port_that_is_taken_ends_the_worker() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let project = Project::new(CONFIG).with("f.ts", CODE);
    let ended = project.lagless(&["run", "--set", &format!("admin={address}")]);
    ended.expect_code(1).expect_told(&["admin", &address]);
}

fn kafka_project(brokers: &str, client: &str) -> Project {
    let config = format!(
        r#"
        admin = "off"
        [source.kafka]
        kind = "kafka"
        brokers = "{brokers}"
        client = {{ {client} }}
        [service.it.function.f]
        code = "f.ts"
        [service.it.trigger.t]
        function = "f"
        source = "kafka"
        topics = ["nothing"]
        group = "it-errors"
        "#
    );
    Project::new(&config).with("f.ts", CODE)
}

#[test]
fn a_setting_that_the_client_library_does_not_know_is_refused() {
    let ended = kafka_project("127.0.0.1:1", "\"session.timeout.mss\" = 6000").lagless(&["run"]);
    ended.expect_code(78).expect_told(&["session.timeout.mss"]);
}

#[test]
fn an_unreachable_broker_is_tried_again_until_the_worker_is_told_to_stop() {
    let project = kafka_project("127.0.0.1:1", "");
    let mut worker = Worker::start(project.command(&["run"]), Stdio::null());
    worker.until_logged("still trying");
    worker.signal(Signal::SIGTERM);
    worker.end_within(std::time::Duration::from_secs(20)).expect_code(0).expect_told(&["still trying", "drained"]);
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let (address, _own): (String, Option<OwnKafka>) = Kafka::with_password();
    let client = |password: &str| {
        format!(
            "\"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"PLAIN\", \
             \"sasl.username\" = \"lagless\", \"sasl.password\" = {password}"
        )
    };
    let project = kafka_project(&address, &client("{ env = \"IT_PASSWORD\" }"));
    let mut command = project.command(&["run"]);
    command.env("IT_PASSWORD", "guessed-it");
    let mut worker = Worker::start(command, Stdio::null());
    let line = worker.until_logged("authentication failed");
    assert!(line.contains("sasl.password"), "{line}");
    worker.signal(Signal::SIGTERM);
    let ended = worker.end();
    ended.expect_code(0);
    assert!(!ended.stderr.contains("guessed-it"), "{}", ended.stderr);

    // The right one gets as far as to see that there is no such topic.
    let project = kafka_project(&address, &client("\"secret\""));
    Worker::start(project.command(&["run"]), Stdio::null()).until_logged("topic `nothing` does not exist");
}

#[test]
fn a_missing_topic_is_told_and_taken_up_when_it_is_there() {
    let run = Numbered::on(&Kafka::shared(), "missing", 1);
    let late = format!("{}.late", run.name);
    let trigger = "order = \"partition\"";
    let project = run.project("echo.ts", &Extra { trigger, ..Extra::default() });
    let set = format!("service.it.trigger.t.topics={late}");
    let mut worker = Worker::start(project.command(&["run", "--set", &set]), Stdio::null());
    worker.until_logged(&format!("topic `{late}` does not exist"));
    run.kafka.create_topic(&late, 2);
    run.kafka.produce(&late, [("k".to_owned(), r#"{"key":"k","seq":1}"#.to_owned())].into_iter());
    worker.until_metric("lagless_trigger_done_total", "", |done| done == 1.0);
}

#[test]
fn a_missing_output_topic_holds_results_back_until_it_is_there() {
    let run = Numbered::on(&Kafka::shared(), "no-output", 1);
    let late = format!("{}.late", run.name);
    run.produce(0..10);
    let project = run.project("echo.ts", &Extra::default());
    let set = format!("service.it.trigger.t.on_success.topic={late}");
    let mut worker = Worker::start(project.command(&["run", "--set", &set]), Stdio::null());
    worker.until_logged(&format!("cannot write to topic `{late}`"));
    assert_eq!(run.committed(), 0);
    run.kafka.create_topic(&late, 1);
    run.until_complete(&mut worker);
    assert_eq!(worker.metric("lagless_trigger_done_total", ""), 10.0);
}

#[test]
fn an_offset_out_of_range_stands_still_or_jumps_as_configured_but_never_in_silence() {
    let run = Numbered::on(&Kafka::shared(), "range", 1);
    run.produce(0..10);
    run.kafka.commit(&run.name, &run.input(), (0, 500));
    let project = run.project("echo.ts", &Extra::default());
    let mut worker = run.start(&project);
    worker.until_logged("the partition stands still");
    worker.until_metric("lagless_subscription_partitions_stopped", "", |stopped| stopped == 1.0);
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0).expect_told(&["500 is out of range", "on_out_of_range"]);

    let set = ["run", "--set", "source.kafka.on_out_of_range=earliest"];
    let mut worker = Worker::start(project.command(&set), Stdio::null());
    run.until_complete(&mut worker);
    worker.until_logged("going on from 0");
    run.expect_none_lost(10);
}

#[test]
fn messages_that_retention_takes_away_from_a_slow_worker_are_not_passed_over_in_silence() {
    let run = Numbered::on(&Kafka::shared(), "retention", 1);
    run.produce(0..5000);
    let source = "in_flight = { messages = 10 }";
    let service = "env = { WAIT_MS = \"5\" }";
    let project = run.project("slow.ts", &Extra { source, service, ..Extra::default() });
    let mut worker = run.start(&project);
    worker.until_metric("lagless_trigger_done_total", "", |done| done >= 20.0);
    run.kafka.forget(&run.input(), (0, 4000));
    worker.until_logged("the partition stands still");
    let committed = run.committed();
    assert!(committed < 4000, "{committed}");

    // Once somebody has decided, it goes on.
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0);
    let set = ["run", "--set", "source.kafka.on_out_of_range=earliest"];
    let mut worker = Worker::start(project.command(&set), Stdio::null());
    worker.until_logged("going on from 4000");
    run.until_complete(&mut worker);
}
