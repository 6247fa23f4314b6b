//! TLS, logins and tokens.

use super::*;
use crate::config::tls::tests::pair;

/// A folder with certificate and key.
fn folder(source: &str) -> Folder {
    let (certificate, key) = pair();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (certificate, key) = (text(certificate), text(key.private_key_to_pem_pkcs8().unwrap()));
    let config = format!("[source.r]\nkind = 'amqp'\n{source}\n");
    Folder::with(&[("lagless.toml", &config), ("a.pem", &certificate), ("a.key", &key), ("empty.pem", "")])
}

#[track_caller]
fn check_refused(source: &str, expected: &[&str]) {
    let error = folder(source).load(&["lagless.toml"], &[], &[]).unwrap_err().to_string();
    for words in expected {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
}

const URL: &str = "url = 'amqps://host'\n";
const CLIENT: &str = "tls = { certificate = 'a.pem', key = 'a.key' }\n";

#[test]
fn files_of_tls_belong_to_the_folder_of_the_file_that_names_them() {
    let folder =
        folder(&format!("{URL}login = 'external'\ntls = {{ ca = 'a.pem', certificate = 'a.pem', key = 'a.key' }}"));
    let settings = folder.load(&["lagless.toml"], &[], &[]).unwrap();
    let SourceKind::Amqp(amqp) = &settings.sources["r"].kind else { panic!() };
    assert_eq!(amqp.login, Login::External);
    assert_eq!(amqp.tls.ca, Some(folder.path().join("a.pem")));
    assert_eq!(amqp.tls.client.as_ref().unwrap().key, folder.path().join("a.key"));

    let shown = show(&settings);
    let again = Folder::with(&[("lagless.toml", &shown)]).load(&["lagless.toml"], &[], &[]).unwrap();
    assert_eq!(format!("{:?}", again.sources), format!("{:?}", settings.sources));
}

#[test]
fn tls_without_certificates_trusts_the_system() {
    let settings = folder(URL).load(&["lagless.toml"], &[], &[]).unwrap();
    let SourceKind::Amqp(amqp) = &settings.sources["r"].kind else { panic!() };
    assert_eq!((&amqp.tls, amqp.login), (&TlsSettings::default(), Login::Plain));
}

#[test]
fn files_that_are_missing_or_hold_something_else_are_named() {
    check_refused(&format!("{URL}tls = {{ ca = 'b.pem' }}"), &["source.r.tls.ca: ", "b.pem cannot be read"]);
    check_refused(&format!("{URL}tls = {{ ca = 'empty.pem' }}"), &["tls.ca: ", "empty.pem holds no certificate"]);
    let swapped = "tls = { certificate = 'a.key', key = 'a.pem' }";
    check_refused(&format!("{URL}{swapped}"), &["tls.certificate: ", "a.key holds no certificate"]);
    check_refused(&format!("{URL}tls = {{ certificate = 'a.pem' }}"), &["source.r.tls: the key \"key\" is missing"]);
    check_refused(&format!("{URL}tls = {{ key = 'a.key' }}"), &["tls: the key \"certificate\" is missing"]);
    check_refused(&format!("{URL}tls = {{ cert = 'a.pem' }}"), &["tls.cert: unknown key"]);
}

#[test]
fn certificates_without_tls_are_refused() {
    check_refused(&format!("url = 'amqp://host'\n{CLIENT}"), &["source.r.tls: has no use without TLS; ", "amqps://"]);
    check_refused(
        "url = 'http://host'",
        &["source.r.url: has another scheme; expected amqp://user:password@host:port/vhost, or amqps://"],
    );
}

#[test]
fn the_external_login_wants_a_certificate_and_no_user() {
    let external = "login = 'external'\n";
    check_refused(&format!("{URL}{external}"), &["source.r.login: ", "there is no certificate to log in with"]);
    let urls = "urls = ['amqps://host', 'amqp://host']\n";
    check_refused(&format!("{urls}{external}{CLIENT}"), &["source.r.urls: login = \"external\" needs TLS"]);
    let url = "url = 'amqps://me:hush@host/%2f'\n";
    check_refused(&format!("{url}{external}{CLIENT}"), &["source.r.url: names a user", "remove the user"]);
    check_refused(&format!("{URL}login = 'extern'"), &["source.r.login: found \"extern\"; did you mean \"external\"?"]);
}

fn kafka(lines: &str) -> String {
    format!("[source.k]\nkind = 'kafka'\nbrokers = 'k:1'\n{lines}\n")
}

const SASL_SSL: &str = "client = { 'security.protocol' = 'SASL_SSL' }";

#[test]
fn tokens_come_from_a_file_or_a_command() {
    let token = |lines: &str| {
        let folder = Folder::with(&[("lagless.toml", &kafka(&format!("{SASL_SSL}\noauth_token = {lines}")))]);
        let settings = folder.load(&["lagless.toml"], &[], &[]).unwrap();
        let again = Folder::with(&[("lagless.toml", &show(&settings))]).load(&["lagless.toml"], &[], &[]).unwrap();
        assert_eq!(format!("{:?}", again.sources), format!("{:?}", settings.sources));
        let SourceKind::Kafka(kafka) = &settings.sources["k"].kind else { panic!() };
        (folder.path().to_owned(), kafka.oauth_token.clone().unwrap())
    };
    let command = |program: String| OauthToken::Command(vec![program, "a".to_owned()]);
    let (folder, found) = token("{ file = 'token' }");
    assert_eq!(found, OauthToken::File(folder.join("token")));
    let (_, found) = token("{ command = ['print-token', 'a'] }");
    assert_eq!(found, command("print-token".to_owned()));
    let (folder, found) = token("{ command = ['./print-token', 'a'] }");
    assert_eq!(found, command(folder.join("./print-token").to_string_lossy().into_owned()));
}

#[test]
fn tokens_that_would_not_be_used_are_refused() {
    let check = |lines: &str, expected: &str| check_error(&kafka(lines), expected);
    let file = "oauth_token = { file = 't' }";
    check(file, "source.k.client.\"security.protocol\": without a login");
    check(&format!("{file}\nclient = {{ 'security.protocol' = 'ssl' }}"), "\"security.protocol\": without a login");
    for other in ["'sasl.mechanism' = 'PLAIN'", "'sasl.mechanisms' = 'SCRAM-SHA-512'"] {
        let client = format!("client = {{ 'security.protocol' = 'SASL_SSL', {other} }}");
        check(&format!("{file}\n{client}"), "and oauth_token logs in with OAUTHBEARER; remove the key");
    }
    for other in
        ["'sasl.oauthbearer.config' = 'a=b'", "'sasl.password' = 'x'", "'enable.sasl.oauthbearer.unsecure.jwt' = true"]
    {
        let client = format!("client = {{ 'security.protocol' = 'SASL_SSL', {other} }}");
        check(&format!("{file}\n{client}"), "has no use beside oauth_token; remove the key, or oauth_token");
    }
    check(&format!("{SASL_SSL}\noauth_token = {{}}"), "source.k.oauth_token: expected { file = ");
    check(&format!("{SASL_SSL}\noauth_token = {{ command = [] }}"), "oauth_token: expected { file = ");
    check(&format!("{SASL_SSL}\noauth_token = {{ file = 't', command = ['c'] }}"), "has both file and command");
    let memory = "[source.m]\nkind = 'memory'\n";
    check_error(&format!("{memory}{file}"), "source.m.oauth_token: belongs to sources of kind \"kafka\"");
    check_error(&format!("{memory}tls = {{}}"), "source.m.tls: belongs to sources of kind \"amqp\"");
}
