//! What functions see and return, as data. Each folder of `tests/cases/functions` holds `function.ts`, `events.jsonl`
//! (messages, as `--stdin-format message` reads them) and `expected.jsonl` (what comes out, in order); and, where
//! needed, `function.toml` and `trigger.toml` with more lines for the two tables.

use std::fs;

use serde_json::Value;

use crate::harness::project::{Project, case, case_path};

fn project(name: &str) -> Project {
    let lines = |file: &str| fs::read_to_string(case_path(&format!("functions/{name}/{file}"))).unwrap_or_default();
    let config = format!(
        r#"
        [source.lines]
        kind = "memory"
        [service.it]
        env = {{ REGION = "eu" }}
        [service.it.trigger.t]
        function = "f"
        source = "lines"
        topics = ["t"]
        retry = {{ attempts = 2, backoff = "1ms" }}
        on_success = {{ memory = "lines", topic = "done" }}
        on_failure = {{ memory = "lines", topic = "dead" }}
        {}
        [service.it.function.f]
        code = "function.ts"
        {}
        "#,
        lines("trigger.toml"),
        lines("function.toml")
    );
    let project = Project::new(&config);
    for file in fs::read_dir(case_path(&format!("functions/{name}"))).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        project.write(&file, &case(&format!("functions/{name}/{file}")));
    }
    project
}

/// Leaves of the headers only what a case can foretell.
fn foretold(mut line: Value) -> Value {
    const KEPT: [&str; 3] = ["lagless-reason", "lagless-error", "lagless-attempts"];
    if let Some(headers) = line["headers"].as_array_mut() {
        headers.retain(|header| header[0].as_str().is_some_and(|name| KEPT.contains(&name)));
    }
    if line["headers"].as_array().is_none_or(Vec::is_empty) {
        line.as_object_mut().unwrap().remove("headers");
    }
    line
}

fn check_case(name: &str) {
    let events = case(&format!("functions/{name}/events.jsonl"));
    let ended = project(name).run_stdin(&["--stdin-format", "message"], &events);
    ended.expect_code(0);
    let found: Vec<Value> = ended.lines().into_iter().map(foretold).collect();
    let expected: Vec<Value> = case(&format!("functions/{name}/expected.jsonl"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {line}: {error}")))
        .collect();
    let text = |lines: &[Value]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    assert_eq!(found, expected, "{name}\nfound:\n{}expected:\n{}{}", text(&found), text(&expected), ended.stderr);
}

#[test]
fn every_case_gives_what_it_expects() {
    let mut names: Vec<String> = fs::read_dir(case_path("functions"))
        .unwrap()
        .map(|folder| folder.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let failed: Vec<&String> =
        names.iter().filter(|name| std::panic::catch_unwind(|| check_case(name)).is_err()).collect();
    assert!(failed.is_empty() && !names.is_empty(), "{failed:?} of {names:?}; each is reported above");
}
