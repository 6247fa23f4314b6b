//! What the README shows is what the program does.

use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::X509;

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
