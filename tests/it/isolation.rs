//! Functions that misbehave, each a file in `tests/cases/failures` whose first line says what is to come of it:
//! `// class: timeout`. Every one of them ends as a telling failure of the one event that asked for it; its neighbours
//! in the same isolate and in the same runner succeed, and the worker lives.

use std::fs;

use serde_json::{Value, json};

use crate::harness::project::{Project, case, case_path};

const CONFIG: &str = r#"
[source.lines]
kind = "memory"
[service.it.function.bad]
code = "bad.ts"
timeout = "1s"
memory = "64MiB"
[service.it.function.neighbour]
code = "neighbour.ts"
[service.it.trigger.bad]
function = "bad"
source = "lines"
order = "none"
batch = { size = 5 }
retry = { attempts = 2, backoff = "10ms" }
on_success = { memory = "lines", topic = "done" }
on_failure = { memory = "lines", topic = "dead" }
[service.it.trigger.neighbour]
function = "neighbour"
source = "lines"
on_success = { memory = "lines", topic = "neighbour" }
"#;

const COUNT: u64 = 20;
const BAD: u64 = 7;

fn check_failure(name: &str) {
    let code = case(&format!("failures/{name}"));
    let classes = code.lines().next().and_then(|line| line.strip_prefix("// class: ")).expect("a class in line 1");
    let lines: String = (0..COUNT).map(|n| format!("{{\"n\":{n},\"bad\":{}}}\n", n == BAD)).collect();
    let project = Project::new(CONFIG)
        .with("bad.ts", &code)
        .with("neighbour.ts", "export default (event: { data: { n: number } }) => event.data.n;\n");
    let ended = project.run_stdin(&[], &lines);
    println!("{name}\n{}", ended.stderr);
    ended.expect_code(0).expect_told(&["settled=20"]);

    let written = ended.lines();
    let of = |topic: &str| -> Vec<&Value> { written.iter().filter(|line| line["topic"] == topic).collect() };
    let mut done: Vec<u64> = of("done").iter().map(|line| line["value"].as_u64().unwrap()).collect();
    done.sort_unstable();
    assert_eq!(done, (0..COUNT).filter(|n| *n != BAD).collect::<Vec<_>>(), "neighbours in the same isolate");
    assert_eq!(of("neighbour").len() as u64, COUNT, "neighbours in the same runner");
    let dead = of("dead");
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0]["value"]["n"], json!(BAD));
    let header = |name: &str| {
        let headers = dead[0]["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == name).and_then(|header| header[1].as_str()).unwrap_or_default()
    };
    assert!(classes.split(" | ").any(|class| class == header("lagless-reason")), "{dead:?} instead of {classes}");
    assert_eq!(header("lagless-attempts"), "2");
    assert!(header("lagless-error").len() > 10, "this does not tell much: {:?}", header("lagless-error"));
}

#[test]
fn every_failure_stays_with_the_event_that_asked_for_it() {
    let mut names: Vec<String> = fs::read_dir(case_path("failures"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let failed: Vec<&String> =
        names.iter().filter(|name| std::panic::catch_unwind(|| check_failure(name)).is_err()).collect();
    assert!(failed.is_empty() && names.len() >= 10, "{failed:?} of {names:?}; each is reported above");
}
