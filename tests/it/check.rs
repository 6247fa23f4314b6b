//! `lagless check --connect`: it says how things stand at the brokers, and changes nothing there.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use lapin::ExchangeKind;
use serde_json::Value;

use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::rabbit::{Queues, Rabbit};
use crate::harness::secured::{SecuredKafka, SecuredRabbit};
use crate::harness::worker::{Ended, Worker};

const FUNCTION: &str = "[service.it.function.f]\ncode = \"f.ts\"\n";

fn project(config: &str) -> Project {
    Project::new(&format!("{config}\n{FUNCTION}")).with("f.ts", "export default () => 1;\n")
}

fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// What a check has found, from its JSON form.
struct Found(Value);

impl Found {
    /// Runs the check, which must end with this code.
    #[track_caller]
    fn by(project: &Project, args: &[&str], code: i32) -> Self {
        let ended = project.lagless(&[&["check", "--connect", "--format", "json"], args].concat());
        ended.expect_code(code);
        assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
        Self(serde_json::from_str(&ended.stdout).unwrap())
    }

    /// The only line about a thing must have this result, and these words in its detail.
    #[track_caller]
    fn expect(&self, (what, name): (&str, &str), result: &str, words: &[&str]) -> &Self {
        let lines: Vec<&Value> = self.0["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|line| line["what"] == what && line["name"] == name)
            .collect();
        assert_eq!(lines.len(), 1, "{what} {name:?} in {:#}", self.0);
        assert_eq!(lines[0]["result"], result, "{}", lines[0]);
        let detail = lines[0]["detail"].as_str().unwrap();
        for word in words {
            assert!(detail.contains(word), "{word:?} is not in {detail:?}");
        }
        assert!(!detail.contains("still trying"), "{detail}");
        self
    }
}

fn kafka_config(brokers: &str, name: &str) -> String {
    format!(
        r#"
        [source.kafka]
        kind = "kafka"
        brokers = ["{brokers}"]
        [service.it.trigger.k]
        function = "f"
        source = "kafka"
        topics = ["{name}.in"]
        group = "{name}"
        on_success = {{ kafka = "kafka", topic = "{name}.out" }}
        on_failure = {{ kafka = "kafka", topic = "{name}.dead" }}
        "#
    )
}

fn rabbit_config(url: &str, name: &str) -> String {
    format!(
        r#"
        [source.rabbit]
        kind = "amqp"
        url = "{url}"
        [service.it.trigger.r]
        function = "f"
        source = "rabbit"
        queue = "{name}.in"
        on_success = {{ amqp = "rabbit", exchange = "{name}.x", routing_key = "done" }}
        on_failure = {{ amqp = "rabbit", routing_key = "{name}.dead" }}
        [service.it.trigger.made]
        function = "f"
        source = "rabbit"
        queue = "{name}.made"
        declare = "create"
        bind = [{{ exchange = "{name}.x", routing_key = "a" }}, {{ exchange = "{name}.x", routing_key = "b" }}]
        on_exhausted = "reject"
        [service.it.trigger.kept]
        function = "f"
        source = "rabbit"
        queue = "{name}.kept"
        declare = "create"
        arguments = {{ "x-dead-letter-exchange" = "", "x-dead-letter-routing-key" = "{name}.dead" }}
        on_exhausted = "reject"
        "#
    )
}

/// The address without user, password and virtual host.
fn place(url: &str) -> &str {
    let place = url.rsplit('@').next().unwrap().trim_start_matches("amqp://");
    place.split('/').next().unwrap()
}

#[test]
fn what_is_there_is_ok_with_partitions_lag_and_messages_ready() {
    let (kafka, rabbit, name) = (Kafka::shared(), Rabbit::shared(), unique("check"));
    for (topic, partitions) in [("in", 3), ("out", 2), ("dead", 1)] {
        kafka.create_topic(&format!("{name}.{topic}"), partitions);
    }
    let input = format!("{name}.in");
    kafka.produce(&input, (0..30).map(|seq| (format!("k{seq}"), "{}".to_owned())));
    for partition in 0..3 {
        kafka.commit(&name, &input, (partition, 0));
    }
    rabbit.create_exchange(&format!("{name}.x"), ExchangeKind::Topic);
    for queue in ["in", "dead"] {
        rabbit.create_queue(&format!("{name}.{queue}"), &[]);
    }
    rabbit.publish("", &input, (0..5).map(|seq| format!("{{\"seq\":{seq}}}")));

    let both = kafka_config(&kafka.brokers, &name) + &rabbit_config(&rabbit.url, &name);
    let project = project(&both);
    let found = Found::by(&project, &[], 0);
    found
        .expect(("server", &kafka.brokers), "ok", &["cluster "])
        .expect(("topic", &input), "ok", &["3 partitions", "readable"])
        .expect(("group", &name), "ok", &["committed for 3 partitions", "30 messages to read"])
        .expect(("results", &format!("{name}.out")), "ok", &["2 partitions"])
        .expect(("dead-letters", &format!("{name}.dead")), "ok", &["1 partition"])
        .expect(("server", place(&rabbit.url)), "ok", &["RabbitMQ "])
        .expect(("login", place(&rabbit.url)), "ok", &["guest", "`/`"])
        .expect(("queue", &input), "ok", &["5 messages ready", "0 consumers"])
        .expect(("queue", &format!("{name}.made")), "ok", &["a worker makes it"])
        .expect(("exchange", &format!("{name}.x")), "ok", &["binds"])
        .expect(("results", &format!("{name}.x/done")), "ok", &["exchange"])
        .expect(("dead-letters", &format!("/{name}.dead")), "ok", &["0 messages ready"])
        .expect(("dead-letters", &format!("{name}.kept")), "ok", &["queue", ".dead"])
        // Rejected messages, rights and clocks are beyond what a look can tell, and are said to be.
        .expect(("dead-letters", &format!("{name}.made")), "unknown", &["policy"]);
    let results: Vec<&Value> = found.0["checks"].as_array().unwrap().iter().map(|line| &line["what"]).collect();
    for what in ["rights", "clock"] {
        assert_eq!(results.iter().filter(|found| **found == what).count(), 2, "{what}: {results:?}");
    }

    let set = "service.it.trigger.r.on_success={ amqp = \"rabbit\", exchange = \"\", routing_key = \"${header:to}\" }";
    let made_of_messages = Found::by(&project, &["--set", set], 0);
    made_of_messages.expect(("results", "/${header:to}"), "unknown", &["parts of each message"]);

    let table = project.lagless(&["check", "--connect"]);
    table.expect_code(0);
    assert!(table.stdout.starts_with("SOURCE") && table.stdout.contains(" 0 problem"), "{}", table.stdout);
    let quiet = project.lagless(&["check", "--connect", "--quiet"]);
    assert_eq!((quiet.expect_code(0).stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    // The queue's messages were not taken, and the one to be made was not.
    assert_eq!((rabbit.ready(&input), rabbit.ready(&format!("{name}.made"))), (Some(5), None));
}

#[test]
fn what_is_missing_is_a_problem_and_is_not_made() {
    let (kafka, rabbit, name) = (Kafka::shared(), Rabbit::shared(), unique("check-missing"));
    // Some group must be known to the cluster, or it is not asked for one.
    let other = unique("check-other");
    kafka.create_topic(&other, 1);
    kafka.commit(&other, &other, (0, 0));
    let found =
        Found::by(&project(&(kafka_config(&kafka.brokers, &name) + &rabbit_config(&rabbit.url, &name))), &[], 1);
    let missing = |name: &str, part: &str| format!("{name}.{part}");
    found
        .expect(("topic", &missing(&name, "in")), "problem", &["does not exist", "`topics`"])
        .expect(("group", &name), "unknown", &["none of its topics"])
        .expect(("results", &missing(&name, "out")), "problem", &["does not exist", "`topic`"])
        .expect(("dead-letters", &missing(&name, "dead")), "problem", &["does not exist"])
        .expect(("queue", &missing(&name, "in")), "problem", &["does not exist", "declare"])
        .expect(("exchange", &missing(&name, "x")), "problem", &["does not exist", "`bind`"])
        .expect(("results", &missing(&name, "x/done")), "problem", &["exchange", "does not exist"])
        .expect(("dead-letters", &format!("/{name}.dead")), "problem", &["queue", "does not exist"])
        .expect(("dead-letters", &missing(&name, "kept")), "problem", &["queue", "does not exist"]);
    assert_eq!(found.0["problem"], 8, "{:#}", found.0);

    let made: Vec<String> = kafka.topics().into_iter().filter(|topic| topic.starts_with(&name)).collect();
    assert_eq!(made, Vec::<String>::new());
    for queue in ["in", "dead", "made", "kept"] {
        assert_eq!(rabbit.ready(&missing(&name, queue)), None, "{queue}");
    }
    assert!(!rabbit.has_exchange(&missing(&name, "x")));
    assert_eq!(kafka.group(&name).1, Vec::<String>::new());
}

#[test]
fn a_group_at_work_keeps_its_members_and_offsets() {
    let run = Numbered::on(&Kafka::shared(), "check-live", 2);
    run.produce(0..20);
    let project = run.project("echo.ts", &Extra::default());
    let mut worker = run.start(&project);
    run.until_complete(&mut worker);
    let before = (run.kafka.group(&run.name), run.committed());
    assert_eq!((before.0.0.as_str(), before.0.1.len()), ("Stable", 1));
    Found::by(&project, &[], 0).expect(
        ("group", &run.name),
        "ok",
        &["committed for 2 partitions", "0 messages to read"],
    );
    assert_eq!((run.kafka.group(&run.name), run.committed()), before);
    // A rebalance would have been told.
    assert_eq!(worker.log().matches("partitions assigned").count(), 1, "{}", worker.log());
}

#[test]
fn an_offset_that_is_gone_is_foretold() {
    let run = Numbered::on(&Kafka::shared(), "check-range", 1);
    run.produce(0..10);
    run.kafka.commit(&run.name, &run.input(), (0, 500));
    let project = run.project("echo.ts", &Extra::default());
    let group = ("group", run.name.as_str());
    Found::by(&project, &[], 1).expect(
        group,
        "problem",
        &["will stand still", "500 is out of range", "on_out_of_range"],
    );
    let set = ["--set", "source.kafka.on_out_of_range=earliest"];
    Found::by(&project, &set, 0).expect(group, "ok", &["goes on from 0", "10 messages to read"]);
}

#[test]
fn an_unreachable_server_and_a_refused_login_are_told_apart() {
    let rabbit = Rabbit::shared();
    let address = place(&rabbit.url);
    let config = |url: &str| rabbit_config(url, "check-nothing");
    let wrong = Found::by(&project(&config(&format!("amqp://guest:guessed-it@{address}/%2f"))), &[], 1);
    wrong
        .expect(("server", address), "ok", &["RabbitMQ"])
        .expect(("login", address), "problem", &["ACCESS_REFUSED", "user and password"])
        .expect(("queue", "check-nothing.in"), "unknown", &["no server"]);
    assert!(!wrong.0.to_string().contains("guessed-it"));
    let host = Found::by(&project(&config(&format!("amqp://guest:guest@{address}/nowhere"))), &[], 1);
    host.expect(("login", address), "problem", &["vhost nowhere not found", "virtual host"]);
    let down = Found::by(&project(&config("amqp://127.0.0.1:1/%2f")), &[], 1);
    down.expect(("server", "127.0.0.1:1"), "problem", &["not reachable", "`url`"]).expect(
        ("login", "127.0.0.1:1"),
        "unknown",
        &[],
    );

    let (listener, _own) = Kafka::with_password();
    let client = |password: &str| {
        format!(
            "client = {{ \"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"PLAIN\", \
             \"sasl.username\" = \"lagless\", \"sasl.password\" = \"{password}\" }}\n[service.it.trigger.k]"
        )
    };
    let config = |brokers: &str, password: &str| {
        kafka_config(brokers, "check-nothing").replace("[service.it.trigger.k]", &client(password))
    };
    Found::by(&project(&config(&listener, "guessed-it")), &[], 1)
        .expect(("server", &listener), "ok", &["it answers"])
        .expect(("login", ""), "problem", &["authentication failed", "`sasl.password`"])
        .expect(("group", "check-nothing"), "unknown", &["no broker"]);
    Found::by(&project(&config(&listener, "secret")), &[], 1)
        .expect(("login", ""), "ok", &["PLAIN", "`lagless`"])
        .expect(("topic", "check-nothing.in"), "problem", &["does not exist"]);
    let one_of_two = format!("127.0.0.1:1\", \"{listener}");
    Found::by(&project(&config(&one_of_two, "secret")), &[], 1)
        .expect(("server", "127.0.0.1:1"), "problem", &["not reachable"])
        .expect(("server", &listener), "ok", &["cluster"]);
}

#[test]
fn a_secured_kafka_is_looked_at_by_the_same_login_as_a_worker_has() {
    let Some(kafka) = SecuredKafka::find() else { return };
    let run = Numbered::on(&kafka.plain, "check-secured", 2);
    run.kafka.commit(&run.name, &run.input(), (0, 0));
    let token = format!("{}\noauth_token = {{ file = \"token\" }}", kafka.client(&[("security.protocol", "SASL_SSL")]));
    let project = SecuredKafka::project(&run, &kafka.sasl_ssl, &token);
    project.write("token", &kafka.certificates.token(Ok(Duration::from_secs(3600))));
    let group = ("group", run.name.as_str());
    Found::by(&project, &[], 0)
        .expect(("login", ""), "ok", &["SASL_SSL, OAUTHBEARER"])
        .expect(("topic", &run.input()), "ok", &["2 partitions, readable"])
        .expect(group, "ok", &["committed for 1 of 2 partitions"]);
    project.write("token", &kafka.certificates.token(Err(Duration::from_secs(3600))));
    Found::by(&project, &[], 1).expect(("login", ""), "problem", &["expired", "`oauth_token`"]);

    let path = |file: &str| kafka.certificates.path(file);
    let (certificate, key) = (path("client.pem"), path("client.key"));
    let tls = [("security.protocol", "SSL"), ("ssl.certificate.location", &*certificate), ("ssl.key.location", &*key)];
    let project = SecuredKafka::project(&run, &kafka.ssl, &kafka.client(&tls));
    Found::by(&project, &[], 0).expect(("login", ""), "ok", &["by the client's certificate"]).expect(
        group,
        "ok",
        &["committed for 1 of 2 partitions"],
    );
}

#[test]
fn a_secured_rabbitmq_is_looked_at_by_the_same_login_as_a_worker_has() {
    let Some(rabbit) = SecuredRabbit::find() else { return };
    let run = Queues::on(&rabbit.plain, "check-secured");
    let external = format!("{}\nlogin = \"external\"", rabbit.tls(Some("client")));
    let place = format!("127.0.0.1:{}", rabbit.port);
    Found::by(&rabbit.project(&run, "127.0.0.1", &external), &[], 0)
        .expect(("login", &place), "ok", &["by the client's certificate", "virtual host `/`"])
        .expect(("queue", &run.input()), "ok", &["0 messages ready"]);
    let closed = rabbit.project(&run, "guest:guest@127.0.0.1/closed", &rabbit.tls(None));
    Found::by(&closed, &[], 1)
        .expect(("server", &place), "ok", &[])
        .expect(("login", &place), "problem", &["closed", "the user's rights"])
        .expect(("queue", &run.input()), "unknown", &["no server"]);
}

#[test]
fn a_server_that_says_nothing_is_given_up_and_waiting_for_it_is_told() {
    // The system accepts for them, and nobody ever reads.
    let (one, two) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let (kafka, rabbit) = (address(&one), address(&two));
    let config = kafka_config(&kafka, "check-mute") + &rabbit_config(&format!("amqp://{rabbit}/%2f"), "check-mute");
    let project = project(&config);
    let ended: Ended = project.lagless(&["check", "--connect", "--timeout", "1500ms"]);
    ended.expect_code(1).expect_told(&["waiting for kafka, rabbit"]);
    assert_eq!(ended.stdout.matches("no answer within 1s 500ms").count(), 2, "{}", ended.stdout);
}

#[test]
fn something_else_than_a_broker_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let project = project(&rabbit_config(&format!("amqp://{address}/%2f"), "check-http"));
    let answering = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 8]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    Found::by(&project, &[], 1).expect(("server", &address), "problem", &["does not speak AMQP"]);
    answering.join().unwrap();
}

#[test]
fn files_of_a_memory_source_are_looked_at() {
    let config = "[source.lines]\nkind = \"memory\"\ninput = \"in.jsonl\"\noutput = \"out.jsonl\"\n\
         [service.it.trigger.t]\nfunction = \"f\"\nsource = \"lines\"\non_success = { memory = \"lines\", topic = \"out\" }\n";
    let project = project(config);
    let name = |file: &str| std::fs::canonicalize(project.path()).unwrap().join(file).display().to_string();
    let ended = project.lagless(&["check", "--connect", "--format", "json"]);
    ended.expect_code(1);
    assert!(ended.stdout.contains("in.jsonl") && ended.stdout.contains("cannot be read"), "{}", ended.stdout);
    assert!(!std::path::Path::new(&name("out.jsonl")).exists());
    project.write("in.jsonl", "{}\n");
    project.write("out.jsonl", "kept\n");
    let ended = project.lagless(&["check", "--connect"]);
    ended.expect_code(0);
    assert_eq!(std::fs::read_to_string(project.path().join("out.jsonl")).unwrap(), "kept\n");
}

#[test]
fn flags_belong_to_connect_and_bad_settings_end_before_it() {
    let project =
        project("[source.lines]\nkind = \"memory\"\n[service.it.trigger.t]\nfunction = \"f\"\nsource = \"lines\"\n");
    project.lagless(&["check", "--format", "json"]).expect_code(2).expect_told(&["--connect"]);
    project.lagless(&["check", "--connect", "--timeout", "soon"]).expect_code(2).expect_told(&["10s"]);
    project.lagless(&["check", "--connect", "--set", "service.it.trigger.t.source=line"]).expect_code(78);
    let script = project.lagless(&["completions", "bash"]);
    assert!(script.stdout.contains("--connect"), "{}", script.stdout);
    let mut command = project.command(&["check", "--connect"]);
    command.env("LAGLESS__SOURCE__LINES__KIND", "nothing");
    Worker::start(command, Stdio::null()).end().expect_code(78);
}
