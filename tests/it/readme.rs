//! What the README shows is what the program does.

use std::path::Path;

use crate::harness::project::Project;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The first code block of a language.
fn block<'a>(readme: &'a str, language: &str) -> &'a str {
    let fence = format!("```{language}\n");
    let start = readme.find(&fence).unwrap_or_else(|| panic!("the README has no {language} block")) + fence.len();
    let end = readme[start..].find("```").expect("a block ends");
    &readme[start..start + end]
}

#[test]
fn the_configuration_and_the_function_of_the_readme_work_together() {
    let readme = readme();
    let project = Project::new(block(&readme, "toml")).with("functions/total.ts", block(&readme, "ts"));
    project.lagless(&["check"]).expect_code(0);

    let order =
        r#"{"id":"o1","type":"order.placed","amount":5,"items":[{"price":2,"quantity":2},{"price":1,"quantity":1}]}"#;
    let viewed = r#"{"id":"o2","type":"order.viewed","amount":5,"items":[]}"#;
    let ended = project.run_stdin(&[], &format!("{order}\n{viewed}\n"));
    ended.expect_code(0);
    let results: Vec<_> = ended.lines().into_iter().map(|line| line["value"].clone()).collect();
    assert_eq!(results, [serde_json::json!({ "id": "o1", "total": 5 })]);
}

#[test]
fn the_commands_that_the_readme_names_exist() {
    let readme = readme();
    let makefile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
    let project = Project::new("");
    let (mut targets, mut verbs) = (0, 0);
    for line in readme.lines() {
        let line = line.trim_start_matches(['`', ' ']);
        let word = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '-').next().unwrap_or("").to_owned();
        if let Some(target) = line.strip_prefix("make ").map(word) {
            assert!(makefile.lines().any(|rule| rule.starts_with(&format!("{target}:"))), "make {target}");
            targets += 1;
        }
        if let Some(verb) = line.strip_prefix("lagless ").map(word) {
            project.lagless(&[&verb, "--help"]).expect_code(0);
            verbs += 1;
        }
    }
    assert!(targets >= 2 && verbs >= 6, "{targets} targets, {verbs} verbs");
}
