//! What the README shows is what the program does.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::X509;

use crate::harness::project::Project;
use crate::harness::worker::Worker;

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn readme() -> String {
    read("README.md")
}

/// The first code block of a language.
fn block<'a>(readme: &'a str, language: &str) -> &'a str {
    let fence = format!("```{language}\n");
    let start = readme.find(&fence).unwrap_or_else(|| panic!("the README has no {language} block")) + fence.len();
    let end = readme[start..].find("```").expect("a block ends");
    &readme[start..start + end]
}

/// All code blocks of a language.
fn blocks<'a>(readme: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("a block ends")).collect()
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

/// A certificate and its key, as PEM.
fn certificate() -> (String, String) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let text = |pem| String::from_utf8(pem).unwrap();
    (text(builder.build().to_pem().unwrap()), text(key.private_key_to_pem_pkcs8().unwrap()))
}

#[test]
fn the_secured_sources_of_the_readme_are_taken() {
    let readme = readme();
    let section = &readme[readme.find("## Secured connections").expect("a section on them")..];
    let (certificate, key) = certificate();
    let project = Project::new(block(section, "toml")).with("password", "hush\n");
    let project = project.with("ca.pem", &certificate).with("client.pem", &certificate).with("client.key", &key);
    let checked = project.lagless(&["check"]);
    checked.expect_code(0);
    assert_eq!(checked.stdout.matches("kind = ").count(), 5, "{}", checked.stdout);
    assert!(!checked.stdout.contains("hush") && !checked.stdout.contains("shop:secret"), "{}", checked.stdout);

    project.write("client.key", "");
    project.lagless(&["check"]).expect_code(78).expect_told(&["tls.key", "client.key holds no private key"]);
}

#[test]
fn every_configuration_of_the_readme_is_taken_with_every_key_in_it() {
    let readme = readme();
    let (certificate, key) = certificate();
    for config in blocks(&readme, "toml") {
        let files = [("functions/total.ts", block(&readme, "ts")), ("password", "hush\n"), ("client.key", &key)];
        let certificates = [("ca.pem", &*certificate), ("client.pem", &*certificate)];
        let project = Project::new(config);
        files.iter().chain(&certificates).for_each(|(file, text)| project.write(file, text));
        project.lagless(&["check"]).expect_code(0);
    }
}

#[test]
fn a_key_is_overridden_in_both_ways_that_the_readme_shows() {
    let readme = readme();
    let project = Project::new(block(&readme, "toml")).with("functions/total.ts", block(&readme, "ts"));
    let quoted: Vec<&str> = readme.split('`').collect();
    let shown = |start: &str| *quoted.iter().find(|text| text.starts_with(start)).expect("it is shown");
    let (name, value) = shown("LAGLESS__SERVICE__").split_once('=').unwrap();
    let mut by_variable = project.command(&["check"]);
    by_variable.env(name, value);
    let by_flag = project.command(&[&["check"][..], &shown("--set ").split(' ').collect::<Vec<_>>()].concat());
    assert!(!project.lagless(&["check"]).stdout.contains("timeout = \"2s\""));
    for command in [by_variable, by_flag] {
        let checked = Worker::start(command, Stdio::null()).end();
        assert!(checked.expect_code(0).stdout.contains("timeout = \"2s\""), "{}", checked.stdout);
    }
}

/// The indented commands below a heading, without their remarks.
fn commands<'a>(readme: &'a str, heading: &str) -> Vec<&'a str> {
    let section = &readme[readme.find(heading).unwrap_or_else(|| panic!("no heading {heading:?}"))..];
    let lines = section.lines().skip(2).take_while(|line| line.starts_with("    "));
    lines.map(|line| line.split(" #").next().unwrap().trim()).collect()
}

#[test]
fn the_first_project_goes_as_the_readme_says() {
    let readme = readme();
    let program = Path::new(env!("CARGO_BIN_EXE_lagless")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let project = Project::new("");
    let mut folder = project.path().to_owned();
    let mut tried = Vec::new();
    for line in commands(&readme, "## A project of your own") {
        tried.push(line);
        if let Some(deeper) = line.strip_prefix("cd ") {
            folder.push(deeper);
            continue;
        }
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]).current_dir(&folder).env("PATH", &path);
        // No broker is meant to be at the usual address, and other tests may serve at that of the admin pages.
        command
            .env("LAGLESS__SOURCE__KAFKA__BROKERS", "127.0.0.1:1")
            .env("LAGLESS__ADMIN", "127.0.0.1:0")
            .env_remove("RUST_LOG");
        let mut worker = Worker::start(command, Stdio::null());
        let awaited = match line {
            "lagless dev" => Some("partitions assigned"),
            "lagless run" => Some("still trying"),
            _ => None,
        };
        if let Some(text) = awaited {
            worker.until_logged(text);
            worker.signal(Signal::SIGTERM);
        }
        let code = if line.ends_with("--connect") { 1 } else { 0 };
        let ended = worker.end();
        assert!(ended.expect_code(code).stdout.len() + ended.stderr.len() > 0, "{line}");
    }
    let verbs = ["init", "check", "check --connect", "invoke", "run --stdin", "dev", "run"];
    for verb in verbs {
        assert!(tried.iter().any(|line| line.starts_with(&format!("lagless {verb}"))), "{verb} in {tried:?}");
    }
}

#[test]
fn the_targets_that_the_readme_names_exist() {
    let (readme, makefile) = (readme(), read("Makefile"));
    let named: BTreeSet<&str> = readme
        .split(['`', '\n'])
        .filter_map(|text| text.trim_start().split("make ").nth(1).filter(|_| is_command(text)))
        .map(|rest| rest.split(' ').next().unwrap())
        .collect();
    assert!(named.len() >= 4, "{named:?}");
    for target in named {
        assert!(makefile.lines().any(|rule| rule.starts_with(&format!("{target}:"))), "make {target}");
    }
}

/// Whether `make` comes first, or after variables only.
fn is_command(text: &str) -> bool {
    text.split_whitespace().find(|word| !word.contains('=')) == Some("make")
}

#[test]
fn the_verbs_that_the_readme_names_exist() {
    let readme = readme();
    let project = Project::new("");
    let named: BTreeSet<&str> = readme
        .split(['`', '\n'])
        .filter_map(|text| text.trim_start().strip_prefix("lagless "))
        .map(|rest| rest.split(' ').next().unwrap())
        .collect();
    assert!(named.len() >= 5, "{named:?}");
    for verb in named {
        project.lagless(&[verb, "--help"]).expect_code(0);
    }
}

#[test]
fn the_rooms_of_the_map_are_there() {
    let readme = readme();
    let map = &readme[readme.find("## Map").expect("a map")..];
    let rows = map.lines().filter(|line| line.starts_with("| `"));
    let rooms: Vec<&str> = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    assert!(rooms.len() >= 12, "{rooms:?}");
    for room in rooms {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(room).is_dir(), "{room}");
    }
}
