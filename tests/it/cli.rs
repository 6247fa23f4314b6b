//! The verbs beside `run`, as a new user tries them.

use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::project::Project;
use crate::harness::wait::{SOON, eventually};
use crate::harness::worker::{Ended, Worker};

/// An empty folder in which `init` has written the project `shop`.
fn written() -> Project {
    let project = Project::new("");
    project.lagless(&["init", "shop"]).expect_code(0);
    project
}

#[test]
fn what_init_writes_checks_runs_and_invokes() {
    let project = written();
    let config = ["-c", "shop/lagless.toml"];
    let checked = project.lagless(&[&["check"][..], &config].concat());
    checked.expect_code(0);
    assert!(checked.stdout.contains("timeout") && checked.stdout.contains("orders"), "{}", checked.stdout);

    let messages = std::fs::read_to_string(project.path().join("shop/messages.jsonl")).unwrap();
    let ran = project.run_stdin(&config, &messages);
    ran.expect_code(0);
    let topics: Vec<Value> = ran.lines().into_iter().map(|mut line| line["topic"].take()).collect();
    let count = |topic: &str| topics.iter().filter(|found| *found == topic).count();
    assert_eq!((count("totals"), count("orders.dead")), (4, 1), "{}", ran.stdout);

    let invoked = project.lagless(&[&["invoke", "shop.total", "-e", "shop/events/placed.json"][..], &config].concat());
    invoked.expect_code(0);
    let result: Value = serde_json::from_str(&invoked.stdout).unwrap();
    assert_eq!(result, json!({ "id": "order-1", "customer": "customer-7", "total": 43.49 }));
}

#[test]
fn init_overwrites_nothing() {
    let project = written();
    project.write("shop/functions/total.ts", "mine");
    project.lagless(&["init", "shop"]).expect_code(1).expect_told(&["total.ts"]);
    assert_eq!(std::fs::read_to_string(project.path().join("shop/functions/total.ts")).unwrap(), "mine");
}

#[test]
fn the_effective_settings_never_show_a_secret() {
    let project = written();
    let set = ["--set", "source.kafka.client.\"sasl.password\".env=IT_SECRET"];
    let mut command = project.command(&[&["check", "-c", "shop/lagless.toml"][..], &set].concat());
    command.env("IT_SECRET", "tell-nobody");
    let shown = Worker::start(command, Stdio::null()).end();
    shown.expect_code(0);
    assert!(shown.stdout.contains("sasl.password") && shown.stdout.contains("***"), "{}", shown.stdout);
    assert!(!shown.stdout.contains("tell-nobody") && !shown.stderr.contains("tell-nobody"));
}

fn invoke_json(code: &str, event: &str) -> (Ended, Value) {
    let config = r#"
        [source.lines]
        kind = "memory"
        [service.it.function.f]
        code = "f.ts"
        timeout = "1s"
        [service.it.trigger.t]
        function = "f"
        source = "lines"
        "#;
    let project = Project::new(config).with("f.ts", code).with("event.json", event);
    let ended = project.lagless(&["invoke", "it.f", "-e", "event.json", "--json"]);
    let line: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    for figure in ["duration_ms", "cpu_ms", "memory_bytes"] {
        assert!(line[figure].as_f64().is_some_and(|figure| figure >= 0.0), "{figure} in {line}");
    }
    (ended, line)
}

#[test]
fn invoke_prints_a_result_as_one_line_of_json() {
    let (ended, line) = invoke_json("export default (event) => ({ twice: event.data * 2 });", r#"{"data": 21}"#);
    ended.expect_code(0);
    assert_eq!(line["result"], json!({ "twice": 42 }));
    assert!(line.get("error").is_none() && line["memory_bytes"].as_u64() > Some(0), "{line}");
}

#[track_caller]
fn check_invoke_error(code: &str, exit: i32, class: &str, name: &str) -> Value {
    let (ended, mut line) = invoke_json(code, r#"{"data": 1}"#);
    ended.expect_code(exit);
    let error = line["error"].take();
    assert_eq!((&error["class"], &error["name"]), (&json!(class), &json!(name)), "{error}");
    error
}

#[test]
fn invoke_prints_failures_by_class() {
    let code = "interface A {\n  a: number;\n}\nexport default () => {\n  throw new TypeError('wrong');\n};\n";
    let error = check_invoke_error(code, 1, "exception", "TypeError");
    assert_eq!(error["message"], "wrong");
    assert!(error["stack"].as_str().is_some_and(|stack| stack.contains("f.ts:5")), "{error}");
    check_invoke_error("export default () => { for (;;) {} };", 1, "timeout", "Timeout");
    check_invoke_error("export default () => 10n;", 1, "result", "TypeError");
    check_invoke_error("export const other = 1;", 1, "load", "Load");
    check_invoke_error("export default (", 78, "load", "SyntaxError");
}

#[test]
fn invoke_guesses_which_function_was_meant() {
    let project = written();
    let args = ["invoke", "shop.totl", "-c", "shop/lagless.toml", "-e", "shop/events/placed.json"];
    project.lagless(&args).expect_code(1).expect_told(&["shop.totl", "Did you mean \"shop.total\""]);
}

#[test]
fn help_has_examples_and_completions_are_there() {
    let project = Project::new("");
    let help = project.lagless(&["--help"]);
    help.expect_code(0);
    assert!(help.stdout.contains("Examples:") && help.stdout.contains("Exit codes:"), "{}", help.stdout);
    assert!(!help.stdout.contains("runner"), "the hidden verb shows: {}", help.stdout);
    for verb in ["run", "check", "init", "invoke", "dev", "demo"] {
        let help = project.lagless(&[verb, "--help"]);
        help.expect_code(0);
        assert!(help.stdout.contains("Example"), "{verb}: {}", help.stdout);
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = project.lagless(&["completions", shell]);
        script.expect_code(0);
        assert!(script.stdout.contains("invoke"), "{shell}: {}", script.stdout);
    }
    project.lagless(&["rnu"]).expect_code(2);
}

#[test]
fn the_demo_accounts_for_every_message() {
    let ended = Project::new("").lagless(&["demo", "--seconds", "2", "--rate", "300"]);
    ended.expect_code(0);
    let told = format!("{}{}", ended.stdout, ended.stderr);
    for word in ["published", "not matched", "done", "dead-lettered"] {
        assert!(told.contains(word), "{word} is not in\n{told}");
    }
}

#[test]
fn dev_runs_on_an_embedded_broker_and_takes_up_changes() {
    let project = written();
    let args = ["dev", "-c", "shop/lagless.toml", "--set", "admin=off"];
    let mut dev = Worker::start(project.command(&args), Stdio::piped());
    let mut input = dev.stdin();
    let order =
        r#"{"id":"o1","type":"order.placed","customer":"c","amount":3,"items":[{"sku":"a","price":3,"quantity":1}]}"#;
    writeln!(input, "{order}").unwrap();
    let mut until_shown = |text: &str| {
        dev.until(text, SOON, |dev| {
            let shown = dev.stdout() + &dev.log();
            if shown.contains(text) { Ok(()) } else { Err(shown) }
        });
    };
    until_shown("\"total\":3}");

    project.write("shop/functions/total.ts", "export default (");
    until_shown("total.ts:1");
    project.write("shop/functions/total.ts", "export default (event) => ({ changed: event.data.id })");
    // Which version gets a message that is published during the change is open; those after it are the new one's.
    eventually("a result of the new version", SOON, || {
        writeln!(input, "{order}").unwrap();
        if dev.stdout().contains("\"changed\":\"o1\"") { Ok(()) } else { Err(dev.log()) }
    });
    dev.signal(Signal::SIGTERM);
    dev.end().expect_code(0);
}
