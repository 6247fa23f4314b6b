//! Connections with TLS and logins: messages go through each kind of them both ways, and whoever is not let in is told
//! why and which key to look at.

use std::fs;
use std::time::{Duration, Instant};

use openssl::rsa::Rsa;

use crate::harness::numbered::Numbered;
use crate::harness::project::Project;
use crate::harness::rabbit::Queues;
use crate::harness::secured::{Certificates, SecuredKafka, SecuredRabbit};
use crate::harness::wait::{SOON, eventually};
use crate::harness::worker::Worker;

const HOUR: Duration = Duration::from_secs(3600);
/// A name of 127.0.0.1 that no certificate here is for.
const OTHER_NAME: &str = "127.1";

fn start(project: &Project) -> Worker {
    Worker::start(project.command(&["run"]), std::process::Stdio::null())
}

/// The worker must say all of this in one line.
#[track_caller]
fn check_told(project: &Project, words: &[&str]) {
    let mut worker = start(project);
    let line = worker.until_logged(words[0]);
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line}");
    }
    assert!(!worker.log().contains("panicked"), "{}", worker.log());
}

// --- Kafka --------------------------------------------------------------------------------------------------------------

/// Messages go from a topic through a function to another topic, by this listener alone.
#[track_caller]
fn check_kafka_passes(kafka: &SecuredKafka, name: &str, brokers: &str, source: &str) {
    let run = Numbered::on(&kafka.plain, name, 2);
    run.produce(0..50);
    let project = SecuredKafka::project(&run, brokers, source);
    let mut worker = start(&project);
    run.until_complete(&mut worker);
    run.expect_none_lost(50);
}

fn kafka_project(kafka: &SecuredKafka, name: &str, brokers: &str, source: &str) -> Project {
    SecuredKafka::project(&Numbered::on(&kafka.plain, name, 1), brokers, source)
}

fn login<'a>(mechanism: &'a str, password: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", mechanism),
        ("sasl.username", "lagless"),
        ("sasl.password", password),
    ]
}

#[test]
fn kafka_with_tls_and_a_scram_password() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let client = kafka.client(&login("SCRAM-SHA-512", "secret"));
    check_kafka_passes(&kafka, "scram", &kafka.sasl_ssl, &client);
}

#[test]
fn kafka_with_tls_and_a_plain_password() {
    let Some(kafka) = SecuredKafka::find() else { return };
    check_kafka_passes(&kafka, "plain", &kafka.sasl_ssl, &kafka.client(&login("PLAIN", "secret")));
}

fn certificate<'a>(certificate: &'a str, key: &'a str) -> [(&'a str, &'a str); 3] {
    [("security.protocol", "SSL"), ("ssl.certificate.location", certificate), ("ssl.key.location", key)]
}

#[test]
fn kafka_with_certificates_on_both_sides() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let (client, key) = (kafka.certificates.path("client.pem"), kafka.certificates.path("client.key"));
    check_kafka_passes(&kafka, "mutual", &kafka.ssl, &kafka.client(&certificate(&client, &key)));
}

#[test]
fn kafka_with_a_token_from_a_file() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let run = Numbered::on(&kafka.plain, "token-file", 2);
    run.produce(0..50);
    let client = kafka.client(&[("security.protocol", "SASL_SSL")]);
    let source = format!("{client}\noauth_token = {{ file = \"token\" }}");
    let project = SecuredKafka::project(&run, &kafka.sasl_ssl, &source);
    let mut worker = start(&project);
    let line = worker.until_logged("authentication failed");
    assert!(line.contains("`oauth_token`") && line.contains("token cannot be read"), "{line}");
    project.write("token", &format!("{}\n", kafka.certificates.token(Ok(HOUR))));
    run.until_complete(&mut worker);
    run.expect_none_lost(50);
}

#[test]
fn kafka_with_tokens_from_a_command_that_follow_each_other() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let run = Numbered::on(&kafka.plain, "token-command", 2);
    run.produce(0..50);
    let client = kafka.client(&[("security.protocol", "SASL_SSL")]);
    let script = "#!/bin/sh\ncat token\necho run >> runs\n";
    let source = format!("{client}\noauth_token = {{ command = [\"sh\", \"./token.sh\"] }}");
    let project = SecuredKafka::project(&run, &kafka.sasl_ssl, &source).with("token.sh", script);
    let until_asked = |times: usize| {
        eventually("the command has run", SOON, || {
            let runs = fs::read_to_string(project.path().join("runs")).unwrap_or_default().lines().count();
            if runs >= times { Ok(()) } else { Err(format!("{runs} times, not {times}")) }
        });
    };
    let short = Duration::from_secs(12);
    let dead_at = Instant::now() + short;
    project.write("token", &kafka.certificates.token(Ok(short)));
    let mut worker = start(&project);
    // Once by the consumer and once by the producer, and then by both again before the first token dies.
    until_asked(2);
    project.write("token", &kafka.certificates.token(Ok(HOUR)));
    run.until_complete(&mut worker);
    until_asked(4);
    // The server closes connections whose token has died: what comes now needs the one that followed.
    eventually("the end of the first token", SOON, || {
        if Instant::now() > dead_at { Ok(()) } else { Err("it lives".to_owned()) }
    });
    run.produce(50..100);
    run.until_complete(&mut worker);
    run.expect_none_lost(100);
    assert!(!worker.log().contains("authentication failed"), "{}", worker.log());
}

#[test]
fn check_connects_by_a_token() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let client = kafka.client(&[("security.protocol", "SASL_SSL")]);
    let source = format!("{client}\noauth_token = {{ file = \"token\" }}");
    let project = kafka_project(&kafka, "check-token", &kafka.sasl_ssl, &source);
    let refused = project.lagless(&["check", "--connect"]);
    assert!(refused.expect_code(1).stdout.contains("token cannot be read"), "{}", refused.stdout);
    project.write("token", &kafka.certificates.token(Ok(HOUR)));
    let taken = project.lagless(&["check", "--connect"]);
    assert!(taken.expect_code(0).stdout.contains("SASL_SSL, OAUTHBEARER"), "{}", taken.stdout);
}

#[test]
fn a_token_that_is_not_taken_is_told_and_never_shown() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let client = kafka.client(&[("security.protocol", "SASL_SSL")]);
    let key = String::from_utf8(Rsa::generate(2048).unwrap().private_key_to_pem().unwrap()).unwrap();
    let forged = Certificates::token_signed_by(&key, Ok(HOUR));
    let source = format!("{client}\noauth_token = {{ file = \"token\" }}");
    let project = kafka_project(&kafka, "forged", &kafka.sasl_ssl, &source).with("token", &forged);
    let mut worker = start(&project);
    let line = worker.until_logged("authentication failed");
    assert!(line.contains("`oauth_token`") && !worker.log().contains(&forged), "{}", worker.log());

    let dead = kafka.certificates.token(Err(HOUR));
    let project = kafka_project(&kafka, "dead", &kafka.sasl_ssl, &source).with("token", &dead);
    check_told(&project, &["authentication failed", "gives a token that has expired 1h", "`oauth_token`"]);

    let source = format!("{client}\noauth_token = {{ command = [\"sh\", \"-c\", \"echo no luck >&2; exit 4\"] }}");
    let project = kafka_project(&kafka, "no-luck", &kafka.sasl_ssl, &source);
    check_told(&project, &["authentication failed", "sh failed (exit status: 4): no luck", "`oauth_token`"]);
}

#[test]
fn a_wrong_password_over_tls_is_told() {
    let Some(kafka) = SecuredKafka::find() else { return };
    for (name, mechanism) in [("wrong-scram", "SCRAM-SHA-512"), ("wrong-plain", "PLAIN")] {
        let project = kafka_project(&kafka, name, &kafka.sasl_ssl, &kafka.client(&login(mechanism, "guessed-it")));
        check_told(&project, &["authentication failed", "`sasl.password`"]);
    }
}

#[test]
fn a_kafka_server_that_is_not_trusted_is_told() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let words = ["TLS failed", "`ssl.", "certificate verify failed"];
    let foreign = kafka.client(&login("PLAIN", "secret")).replace("/ca.pem", "/foreign-ca.pem");
    check_told(&kafka_project(&kafka, "untrusted", &kafka.sasl_ssl, &foreign), &words);

    let port = kafka.sasl_ssl.rsplit(':').next().unwrap();
    let other_name = format!("{OTHER_NAME}:{port}");
    check_told(&kafka_project(&kafka, "other-name", &other_name, &kafka.client(&login("PLAIN", "secret"))), &words);
}

#[test]
fn a_kafka_client_that_is_not_trusted_is_told() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let (foreign, key) = (kafka.certificates.path("foreign.pem"), kafka.certificates.path("foreign.key"));
    for (name, client, alert) in [
        ("foreign", kafka.client(&certificate(&foreign, &key)), "alert bad certificate"),
        ("nobody", kafka.client(&[("security.protocol", "SSL")]), "alert"),
    ] {
        let project = kafka_project(&kafka, name, &kafka.ssl, &client);
        check_told(
            &project,
            &["broker not reachable", alert, "check `brokers`, and `security.protocol` and the `ssl."],
        );
    }
}

// --- RabbitMQ -----------------------------------------------------------------------------------------------------------

/// Messages go from a queue through a function to another queue, by this listener alone.
#[track_caller]
fn check_rabbit_passes(rabbit: &SecuredRabbit, name: &str, at: &str, source: &str) {
    // Enough for sockets to be busy, which are read in another way then.
    const MESSAGES: u64 = 5_000;
    let run = Queues::on(&rabbit.plain, name);
    run.produce(0..MESSAGES);
    let project = rabbit.project(&run, at, source);
    let worker = start(&project);
    run.until_complete(&mut [worker]);
    let report = run.expect_none_lost(MESSAGES);
    assert!(report.is_in_order(), "{report}");
}

#[track_caller]
fn check_rabbit_told(rabbit: &SecuredRabbit, at: &str, source: &str, words: &[&str]) {
    let run = Queues::on(&rabbit.plain, "refused");
    check_told(&rabbit.project(&run, at, source), words);
}

#[test]
fn rabbitmq_with_tls_and_a_password() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    check_rabbit_passes(&rabbit, "amqps", "guest:guest@127.0.0.1", &rabbit.tls(None));
    check_rabbit_passes(&rabbit, "amqps-name", "guest:guest@localhost", &rabbit.tls(Some("client")));
}

#[test]
fn rabbitmq_with_certificates_on_both_sides_and_no_password() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    let source = format!("{}\nlogin = \"external\"", rabbit.tls(Some("client")));
    check_rabbit_passes(&rabbit, "external", "127.0.0.1", &source);
}

#[test]
fn check_connects_by_a_certificate() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    for (client, code, words) in [("client", 0, "by the client's certificate"), ("stranger", 1, "`tls.certificate`")] {
        let source = format!("{}\nlogin = \"external\"", rabbit.tls(Some(client)));
        let project = rabbit.project(&Queues::on(&rabbit.plain, "check"), "127.0.0.1", &source);
        let checked = project.lagless(&["check", "--connect"]);
        assert!(checked.expect_code(code).stdout.contains(words), "{}", checked.stdout);
    }
}

#[test]
fn a_rabbitmq_server_that_is_not_trusted_is_told() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    let words = ["the server's certificate is not trusted", "`tls.ca`"];
    check_rabbit_told(&rabbit, "guest:guest@127.0.0.1", "", &words);
    let foreign = rabbit.tls(None).replace("/ca.pem", "/foreign-ca.pem");
    check_rabbit_told(&rabbit, "guest:guest@127.0.0.1", &foreign, &words);
}

#[test]
fn tls_at_a_port_without_is_told() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    let authority = rabbit.plain.url.rsplit('@').next().unwrap();
    let port = authority.split([':', '/']).nth(1).unwrap().to_owned();
    let rabbit = SecuredRabbit { port, ..rabbit };
    check_rabbit_told(&rabbit, "guest:guest@127.0.0.1", &rabbit.tls(None), &["TLS failed", "the port in `url`"]);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    let words = ["certificate is for another name than 127.1", "check the host in `url`"];
    check_rabbit_told(&rabbit, &format!("guest:guest@{OTHER_NAME}"), &rabbit.tls(None), &words);
}

#[test]
fn a_client_certificate_that_is_refused_is_told_and_its_successor_taken() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    let run = Queues::on(&rabbit.plain, "renewed");
    run.produce(0..50);
    let ca = rabbit.certificates.path("ca.pem");
    let source = format!("login = \"external\"\ntls = {{ ca = {ca:?}, certificate = \"own.pem\", key = \"own.key\" }}");
    let project = rabbit.project(&run, "127.0.0.1", &source);
    let write = |name: &str| {
        // The key first: between the two the pair does not fit, which is said and heals.
        project.write("own.key", &rabbit.certificates.text(&format!("{name}.key")));
        project.write("own.pem", &rabbit.certificates.text(&format!("{name}.pem")));
    };
    write("foreign");
    let mut worker = start(&project);
    let line = worker.until_logged("has refused the client");
    assert!(line.contains("`tls.certificate`"), "{line}");
    fs::remove_file(project.path().join("own.key")).unwrap();
    let line = worker.until_logged("own.key cannot be read");
    assert!(line.contains("`tls.key`"), "{line}");
    write("client");
    run.until_complete(&mut [worker]);
    run.expect_none_lost(50);
}

#[test]
fn logins_that_are_refused_are_told_and_never_shown() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    let wrong = ["check user and password in `url`"];
    check_rabbit_told(&rabbit, "guest:guessed-it@127.0.0.1", &rabbit.tls(None), &wrong);
    let stranger = format!("{}\nlogin = \"external\"", rabbit.tls(Some("stranger")));
    check_rabbit_told(&rabbit, "127.0.0.1", &stranger, &["the name in `tls.certificate` is one of its users"]);
}

#[test]
fn virtual_hosts_that_are_closed_or_missing_are_told() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    for vhost in ["closed", "no-such-vhost"] {
        let words = ["check the virtual host in `url` and the user's rights", vhost];
        check_rabbit_told(&rabbit, &format!("guest:guest@127.0.0.1/{vhost}"), &rabbit.tls(None), &words);
    }
}
