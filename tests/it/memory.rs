//! `run --stdin` from end to end: lines in, lines out, no broker.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::project::Project;
use crate::harness::worker::{Ended, Worker};

/// A configuration for Kafka: `--stdin` puts lines in the place of its topics.
fn config(trigger: &str) -> String {
    format!(
        r#"
        [source.kafka]
        kind = "kafka"
        brokers = ["127.0.0.1:1"]
        [service.it.function.f]
        code = "f.ts"
        timeout = "1s"
        [service.it.trigger.t]
        function = "f"
        source = "kafka"
        topics = ["orders", "other"]
        retry = {{ attempts = 3, backoff = "1ms" }}
        on_success = {{ kafka = "kafka", topic = "results" }}
        {trigger}
        "#
    )
}

#[track_caller]
fn run(trigger: &str, code: &str, lines: &str) -> Ended {
    Project::new(&config(trigger)).with("f.ts", code).run_stdin(&[], lines)
}

fn values(ended: &Ended) -> Vec<Value> {
    ended.lines().into_iter().map(|mut line| line["value"].take()).collect()
}

#[test]
fn lines_become_results_in_their_order() {
    let lines: String = (0..500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let code = "export default async (event) => {
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 2));
        return event.data.n;
    }";
    let ended = run("", code, &lines);
    ended.expect_code(0);
    assert_eq!(values(&ended), (0..500).map(Value::from).collect::<Vec<_>>());
    assert!(ended.lines().iter().all(|line| line["topic"] == "results"), "{}", ended.stdout);
}

#[test]
fn what_no_rule_matches_is_settled_without_a_function() {
    let rule = r#"rule = { data = { type = ["order.placed"], amount = [{ numeric = [">", 10] }] } }"#;
    let lines = r#"{"type":"order.placed","amount":11}
{"type":"order.placed","amount":9}
{"type":"order.paid","amount":11}
not json
{"type":"order.placed","amount":12}
"#;
    let ended = run(rule, "export default (event) => event.data.amount", lines);
    ended.expect_code(0).expect_told(&["settled=5", "abandoned=0"]);
    assert_eq!(values(&ended), [11, 12]);
}

#[test]
fn exhausted_messages_are_dropped_where_that_is_configured() {
    let code = "export default (event) => { if (event.data % 2) throw new Error('odd'); return event.data; }";
    let ended = run("on_exhausted = \"drop\"", code, "0\n1\n2\n3\n");
    ended.expect_code(0).expect_told(&["failed for the last time", "settled=4"]);
    assert_eq!(values(&ended), [0, 2]);
}

#[test]
fn exhausted_messages_stop_their_lane_by_default_and_are_not_settled() {
    let code = "export default (event) => { if (event.data === 1) throw new Error('bad'); return event.data; }";
    let project = Project::new(&config("")).with("f.ts", code).with("lines", "0\n1\n2\n");
    let input = std::fs::File::open(project.path().join("lines")).unwrap();
    let mut worker = Worker::start(project.command(&["run", "--stdin"]), input.into());
    worker.until_logged("lane stopped");
    worker.signal(Signal::SIGTERM);
    let ended = worker.end();
    ended.expect_code(75).expect_told(&["on_failure", "settled=1", "abandoned=2"]);
    assert_eq!(values(&ended), [0]);
}

#[test]
fn a_dead_letter_is_the_message_with_headers_that_say_why() {
    let project = Project::new(&config("on_failure = { kafka = \"kafka\", topic = \"dead\" }"))
        .with("f.ts", "export default () => { throw new TypeError('no such order'); }");
    let line = r#"{"topic":"orders","key":"k1","headers":[["trace","t1"]],"value":{"id": 1.50}}"#;
    let ended = project.run_stdin(&["--stdin-format", "message"], &format!("{line}\n"));
    ended.expect_code(0);
    assert!(ended.stdout.contains(r#""value":{"id": 1.50}"#), "the bytes have changed: {}", ended.stdout);
    let [dead] = &ended.lines()[..] else { panic!("{}", ended.stdout) };
    assert_eq!((&dead["topic"], &dead["key"]), (&json!("dead"), &json!("k1")));
    let headers = dead["headers"].as_array().unwrap();
    for (name, value) in [
        ("trace", "t1"),
        ("lagless-reason", "exception"),
        ("lagless-error", "TypeError: no such order"),
        ("lagless-attempts", "3"),
        ("lagless-topic", "orders"),
        ("lagless-trigger", "it.t"),
        ("lagless-function", "it.f"),
    ] {
        assert!(headers.contains(&json!([name, value])), "{name}={value} is not in {headers:?}");
    }
}

#[test]
fn a_failed_attempt_is_logged_with_the_line_of_the_source() {
    let code = "interface Order {\n  id: number;\n}\n\nexport default function (event: { data: Order }) {\n  \
                throw new Error(`order ${event.data.id} is bad`);\n}\n";
    let ended = run("on_exhausted = \"drop\"", code, "{\"id\":7}\n");
    ended.expect_code(0).expect_told(&["order 7 is bad", "f.ts:6", "it.f", "it.t", "exception"]);
}

#[test]
fn what_a_function_logs_comes_with_its_name_and_event() {
    let code = "export default (event, ctx) => {
        console.log('from console');
        ctx.log.warn('from ctx', { id: event.data });
        return event.data;
    }";
    let ended = run("", code, "5\n");
    let line_with = |text: &str| {
        ended.stderr.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{}", ended.stderr))
    };
    for (text, level) in [("from console", "INFO"), ("from ctx {\"id\":5}", "WARN")] {
        let line = line_with(text);
        assert!(line.contains(level) && line.contains("it.f") && line.contains("orders/0/0"), "{line}");
    }
}

#[test]
fn several_triggers_of_one_group_each_get_the_message() {
    let config = config("").replace(
        "[service.it.trigger.t]",
        r#"[service.it.function.g]
        code = "g.ts"
        [service.it.trigger.u]
        function = "g"
        source = "kafka"
        topics = ["orders"]
        on_success = { kafka = "kafka", topic = "more" }
        [service.it.trigger.t]"#,
    );
    let project = Project::new(&config)
        .with("f.ts", "export default (event) => event.data")
        .with("g.ts", "export default (event) => event.data * 10");
    let ended = project.run_stdin(&[], "1\n2\n");
    ended.expect_code(0).expect_told(&["settled=2"]);
    let of = |topic: &str| -> Vec<Value> {
        ended.lines().into_iter().filter(|line| line["topic"] == topic).map(|mut line| line["value"].take()).collect()
    };
    assert_eq!((of("results"), of("more")), (vec![json!(1), json!(2)], vec![json!(10), json!(20)]));
}

#[test]
fn a_line_that_is_no_message_is_told_and_counts_as_abandoned() {
    let project = Project::new(&config("")).with("f.ts", "export default () => 1");
    let ended = project.run_stdin(&["--stdin-format", "message"], "{\"value\":1}\nnonsense\n");
    ended.expect_code(75).expect_told(&["this line is not a message", "line=2"]);
}

#[test]
fn results_wait_for_nobody_when_the_input_is_a_pipe() {
    use std::io::Write;
    let project = Project::new(&config("")).with("f.ts", "export default (event) => event.data + 1");
    let mut worker = Worker::start(project.command(&["run", "--stdin"]), Stdio::piped());
    let mut input = worker.stdin();
    for n in 0..3 {
        writeln!(input, "{n}").unwrap();
        worker.until("its result", crate::harness::wait::SOON, |worker| {
            let written = worker.stdout();
            if written.lines().count() == n + 1 { Ok(()) } else { Err(written) }
        });
    }
    drop(input);
    worker.end().expect_code(0);
}
