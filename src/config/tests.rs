//! Whole configurations in, settings or errors out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::file::{
    BatchFile, FunctionFile, InFlightFile, IsolatesFile, LogFile, OauthTokenFile, PropertiesFile, RetryFile,
    ServiceFile, SinkFile, SourceFile, TlsFile, TriggerFile, WorkerFile,
};
use super::schema::{Node, ROOT};
use super::*;

mod layers;
mod refused;
mod secrets;
mod secured;

const SMALL: &str = r#"
[source.shop-kafka]
kind = "kafka"
brokers = ["127.0.0.1:9092"]
client = { "security.protocol" = "SASL_SSL", "session.timeout.ms" = 6000 }

[service.shop]
env = { REGION = "eu" }

[service.shop.function.total]
code = "functions/total.ts"

[service.shop.trigger.placed]
function = "total"
source = "shop-kafka"
topics = ["orders"]
"#;

/// A folder with the files given, `lagless.toml` among them.
struct Folder(TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn load(&self, files: &[&str], env: &[(&str, &str)], overrides: &[&str]) -> Result<Settings, ConfigErrors> {
        load(&Sources {
            files: files.iter().map(|file| self.path().join(file)).collect(),
            overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        })
    }
}

fn loaded(text: &str, env: &[(&str, &str)], overrides: &[&str]) -> Settings {
    let folder = Folder::with(&[("lagless.toml", text)]);
    folder.load(&["lagless.toml"], env, overrides).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors_of(text: &str, env: &[(&str, &str)], overrides: &[&str]) -> String {
    let folder = Folder::with(&[("lagless.toml", text)]);
    let errors = folder.load(&["lagless.toml"], env, overrides).expect_err("the configuration must be refused");
    errors.to_string().replace(&format!("{}/", folder.path().display()), "")
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    let errors = errors_of(text, &[], &[]);
    assert!(errors.contains(expected), "expected: {expected}\nfound: {errors}");
}

/// [`SMALL`] with lines added to its trigger.
fn trigger(lines: &str) -> String {
    format!("{SMALL}{lines}\n")
}

fn function(lines: &str) -> String {
    SMALL.replace("code = \"functions/total.ts\"", &format!("code = \"functions/total.ts\"\n{lines}"))
}

fn source(lines: &str) -> String {
    SMALL.replace("kind = \"kafka\"\n", &format!("kind = \"kafka\"\n{lines}\n"))
}

fn client(entry: &str) -> String {
    SMALL.replace("\"security.protocol\" = \"SASL_SSL\"", entry)
}

#[test]
fn defaults_fill_what_is_left_out() {
    let folder = Folder::with(&[("lagless.toml", SMALL)]);
    let settings = folder.load(&["lagless.toml"], &[], &[]).unwrap();
    assert_eq!(settings.admin.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(settings.drain_timeout, Duration::from_secs(25));
    assert_eq!(settings.files, [folder.path().join("lagless.toml")]);
    let source = &settings.sources["shop-kafka"];
    assert_eq!(source.commit_interval, Duration::from_secs(1));
    assert_eq!(source.in_flight, InFlight { messages: 50_000, bytes: 64 << 20 });
    assert_eq!(source.on_out_of_range, OutOfRange::Stop);
    let SourceKind::Kafka(kafka) = &source.kind else { panic!("expected kafka") };
    assert_eq!(kafka.client["session.timeout.ms"].reveal(), "6000");
    let service = &settings.services["shop"];
    let function = &service.functions["total"];
    assert_eq!(function.code, folder.path().join("functions/total.ts"));
    assert_eq!(function.handler, "default");
    assert_eq!(function.memory, 128 << 20);
    assert!(function.isolates.max >= 1);
    let trigger = &service.triggers["placed"];
    assert_eq!(trigger.group, "shop");
    assert_eq!(trigger.batch_size, 100);
    assert_eq!(trigger.retry.max_backoff, Duration::from_secs(30));
    assert_eq!(trigger.on_exhausted, OnExhausted::Stop);
}

#[test]
fn an_empty_configuration_is_one() {
    assert!(load(&Sources::default()).unwrap().services.is_empty());
}

#[test]
fn lists_may_be_texts_with_commas() {
    let text = SMALL.replace("[\"127.0.0.1:9092\"]", "\"a:1, b:2\"").replace("[\"orders\"]", "\"x,y\"");
    let settings = loaded(&text, &[], &[]);
    let SourceKind::Kafka(kafka) = &settings.sources["shop-kafka"].kind else { panic!("expected kafka") };
    assert_eq!(kafka.brokers, ["a:1", "b:2"]);
    assert_eq!(settings.services["shop"].triggers["placed"].topics, ["x", "y"]);
}

#[test]
fn memory_sources_have_files_and_a_topic_of_their_own() {
    let text = "
        [source.lines]
        kind = 'memory'
        input = 'in.jsonl'
        [service.s.function.f]
        code = 'f.ts'
        [service.s.trigger.t]
        function = 'f'
        source = 'lines'
        on_success = { memory = 'lines', topic = 'out' }";
    let folder = Folder::with(&[("lagless.toml", text)]);
    let settings = folder.load(&["lagless.toml"], &[], &[]).unwrap();
    let SourceKind::Memory(memory) = &settings.sources["lines"].kind else { panic!("expected memory") };
    assert_eq!(memory.input, Some(folder.path().join("in.jsonl")));
    assert_eq!(memory.output, None);
    assert_eq!(settings.services["s"].triggers["t"].topics, ["memory"]);
}

#[test]
fn names_keep_the_order_of_the_file() {
    let text = "[source.z]\nkind = 'memory'\n[source.a]\nkind = 'memory'\n[source.m]\nkind = 'memory'";
    let settings = loaded(text, &[], &[]);
    assert_eq!(settings.sources.keys().collect::<Vec<_>>(), ["z", "a", "m"]);
}

#[test]
fn what_is_shown_loads_again() {
    let text = trigger(
        "rule = { data = { a = [1, \"q\\\"uote\"] } }\non_success = { kafka = 'shop-kafka', topic = 't' }\n\
         on_failure = { memory = 'lines', topic = 'dead' }\n[source.lines]\nkind = 'memory'\nformat = 'message'\n\
         in_flight = { messages = 3, bytes = 1500 }",
    )
    .replace("REGION = \"eu\"", "'odd key' = \"tab\\t\\u007f\", PASSWORD = { env = 'A' }");
    let mut first = loaded(&text, &[("A", "hush")], &["admin=off"]);
    let mut second = loaded(&show(&first), &[], &[]);
    first.files.clear();
    second.files.clear();
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

#[test]
fn what_is_shown_of_a_queue_loads_again() {
    let text = "[source.r]\nkind = 'amqp'\nurls = ['amqp://a', 'amqp://b']\nin_flight = { messages = 7 }\n\
                [service.s.function.f]\ncode = 'f.ts'\n[service.s.trigger.t]\nfunction = 'f'\nsource = 'r'\n\
                queue = 'q'\ndeclare = 'create'\nqueue_type = 'quorum'\non_no_match = 'reject'\n\
                arguments = { 'x-max-length' = 5, 'x.y' = [true, { a = 'b' }] }\nconsumer_priority = -3\n\
                bind = [{ exchange = 'e', type = 'topic', routing_key = 'a.#', arguments = { 'x-match' = 'all' } }]\nrule = { topic = ['q'] }\n\
                reply = true\non_exhausted = 'reject'\n\
                on_success = { amqp = 'r', exchange = 'e', routing_key = 'a.${header:b c}$${', headers = { region = 'eu', \
                version = 2, 'a b' = [1.5, true, { c = 'd' }] }, properties = { type = 't', app_id = 'a', priority = 5, \
                expiration = '1h', persistent = false, content_type = 'x/y', content_encoding = 'z', user_id = 'u' } }\n";
    let mut first = loaded(text, &[], &[]);
    let mut second = loaded(&show(&first), &[], &[]);
    first.files.clear();
    second.files.clear();
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

/// A queue with one trigger `t` that has these lines.
fn queue(lines: &str) -> String {
    format!(
        "[source.r]\nkind = 'amqp'\nurl = 'amqp://a'\n[service.s.function.f]\ncode = 'f.ts'\n[service.s.trigger.t]\n\
         function = 'f'\nsource = 'r'\nqueue = 'q'\n{lines}\n"
    )
}

#[test]
fn what_is_declared_must_be_sound() {
    let other = |queue: &str| format!("[service.s.trigger.u]\nfunction = 'f'\nsource = 'r'\nqueue = '{queue}'");
    let declared = |lines: &str| queue(&format!("declare = 'create'\n{lines}"));
    check_error(&queue("bind = [{ exchange = 'e' }]"), "t.bind: is for a queue that is declared");
    check_error(&queue("arguments = { a = 1 }"), "t.arguments: is for a queue that is declared");
    check_error(&declared("arguments = { x-queue-type = 'quorum' }"), "use the trigger's key \"queue_type\"");
    check_error(&declared("arguments = { a = [1.5] }"), "t.arguments.a: found 1.5; expected strings");
    check_error(&declared("bind = [{ exchange = '' }]"), "t.bind: names no exchange");
    check_error(&declared("bind = [{ exchange = 'e', type = '' }]"), "t.bind: type is empty");
    let same = other("q");
    let differs = format!("arguments = {{ a = 1 }}\n{same}\narguments = {{ a = 2 }}");
    check_error(&declared(&differs), "u.arguments: differs from what");
    let bind = |kind: &str| format!("declare = 'create'\nbind = [{{ exchange = 'e', type = '{kind}' }}]");
    check_error(
        &queue(&format!("{}\n{}\n{}", bind("topic"), other("q2"), bind("direct"))),
        "u.bind: declares the exchange \"e\" with the type \"direct\", and service.s.trigger.t with \"topic\"",
    );
    loaded(&declared(&format!("arguments = {{ a = 1 }}\nbind = [{{ exchange = 'e' }}]\n{same}")), &[], &[]);
}

#[track_caller]
fn check_amqp_sink(sink: &str, expected: &str) {
    let text = format!(
        "[source.r]\nkind = 'amqp'\nurl = 'amqp://a'\n[service.s.function.f]\ncode = 'f.ts'\n[service.s.trigger.t]\n\
         function = 'f'\nsource = 'r'\nqueue = 'q'\non_success = {{ amqp = 'r', {sink} }}\n"
    );
    check_error(&text, expected);
}

#[test]
fn what_a_server_would_refuse_of_an_amqp_sink_is_refused_here() {
    check_amqp_sink(
        "routing_key = 'a.${keys}'",
        "on_success.routing_key: found \"${keys}\"; allowed: ${key}, ${topic}",
    );
    check_amqp_sink("routing_key = 'a.${key'", "on_success.routing_key: found \"${\" without \"}\"");
    check_amqp_sink(&format!("routing_key = '{}'", "x".repeat(256)), "found 256 bytes; allowed: 255");
    let with = |more: &str| format!("routing_key = 'k', {more}");
    check_amqp_sink(&with("properties = { priority = 256 }"), "properties.priority: found 256; allowed: 0 to 255");
    check_amqp_sink(
        &with("properties = { expiration = '0s' }"),
        "properties.expiration: found less than a millisecond",
    );
    check_amqp_sink(&with("properties = { kind = 'x' }"), "properties.kind: unknown key");
    check_amqp_sink(&with("properties = { persistent = 'yes' }"), "properties.persistent: invalid type: string");
    let long = with(&format!("properties = {{ app_id = '{}' }}", "x".repeat(256)));
    check_amqp_sink(&long, "properties.app_id: found 256 bytes; allowed: 255");
    check_amqp_sink(&with("headers = { lagless-time = 'x' }"), "lagless-time: headers of this name are set by Lagless");
    check_amqp_sink(&with("headers = { Content-Type = 'x' }"), "write properties = { content_type = .. }");
    check_amqp_sink(
        &with("headers = { CC = 'x' }"),
        "headers.CC: found \"x\"; the server takes a list of routing keys",
    );
    let long = with(&format!("headers = {{ a = '{}' }}", "x".repeat(9000)));
    check_amqp_sink(&long, "on_success.headers: found 9003 bytes; allowed: 8192");
}

#[test]
fn kafka_has_headers_of_texts_and_neither_properties_nor_answers() {
    let sink = |more: &str| trigger(&format!("on_success = {{ kafka = 'shop-kafka', topic = 't', {more} }}"));
    check_error(&sink("headers = { a = 1 }"), "headers.a: found 1; headers are texts, write \"..\"");
    check_error(&sink("properties = { type = 'x' }"), "properties: belong to AMQP; give headers instead");
    check_error(&trigger("reply = true"), "placed.reply: belongs to triggers of sources of kind \"amqp\"");
    let settings = loaded(&sink("headers = { a = 'x' }"), &[], &[]);
    let on_success = settings.services["shop"].triggers["placed"].on_success.as_ref().unwrap();
    assert_eq!(on_success.headers, [("a".to_owned(), serde_json::json!("x"))]);
}

#[test]
fn streams_have_a_start_and_a_group_and_queues_have_none() {
    let stream = |lines: &str| queue(&format!("queue_type = 'stream'\n{lines}"));
    for (written, start) in [
        ("'latest'", Start::Latest),
        ("'last'", Start::Last),
        ("{ offset = 42 }", Start::Offset(42)),
        ("{ time = '2026-11-21T10:00:00Z' }", Start::Time(1_795_255_200)),
    ] {
        let mut settings = loaded(&stream(&format!("start = {written}\ngroup = 'g'")), &[], &[]);
        let trigger = &settings.services["s"].triggers["t"];
        assert_eq!((trigger.start, trigger.group.as_str()), (start, "q@g"));
        let mut shown = loaded(&show(&settings), &[], &[]);
        settings.files.clear();
        shown.files.clear();
        assert_eq!(format!("{settings:?}"), format!("{shown:?}"));
    }
    loaded(&stream("rule = { topic = ['q'] }"), &[], &[]);
    check_error(&stream("start = { offset = -1 }"), "t.start: found the offset -1; allowed: whole numbers from 0 on");
    check_error(&stream("start = { time = 'noon' }"), "t.start: found the time \"noon\"; expected one like 2026");
    check_error(&stream("start = { place = 1 }"), "t.start: expected a word such as \"earliest\", { offset = 42 }");
    check_error(&stream("group = ''"), "t.group: is empty");
    check_error(&stream(&format!("group = '{}'", "g".repeat(250))), "t.group: found 269 bytes; allowed: 255");
    check_error(&stream("on_no_match = 'ack'"), "t.on_no_match: has no meaning for a stream");
    check_error(&stream("on_exhausted = 'reject'"), "t.on_exhausted: has no meaning for a stream");
    check_error(&stream("consumer_priority = 1"), "t.consumer_priority: has no meaning for a stream");
    check_error(&queue("start = 'latest'"), "t.start: is for streams and for Kafka");
    check_error(&queue("group = 'g'"), "t.group: is for streams and for Kafka");
    check_error(&trigger("start = 'last'"), "placed.start: is for AMQP streams");
    let other = "[service.s.trigger.u]\nfunction = 'f'\nsource = 'r'\nqueue = 'q'";
    check_error(&stream(other), "u.queue_type: differs from what service.s.trigger.t says");
    check_error(&stream(&format!("{other}\nqueue_type = 'stream'\nstart = 'latest'")), "u.start: differs");
    loaded(&stream(&format!("{other}\nqueue_type = 'stream'\nstart = 'latest'\ngroup = 'h'")), &[], &[]);
}

/// The keys that a type of [`file`] takes, learnt from the error for one that it does not take.
fn keys_of<T: DeserializeOwned>() -> Vec<String> {
    let error = serde_json::from_str::<T>("{\"\": 0}").err().expect("unknown keys are refused").to_string();
    error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[track_caller]
fn check_keys<T: DeserializeOwned>(path: &[&str], apart: &[&str]) {
    let node = path.iter().fold(&ROOT, |node: &'static Node, key| node.below(key).unwrap());
    let Node::Table(table) = node else { panic!("{path:?} is no table") };
    let known: Vec<_> = table.names().into_iter().filter(|key| !apart.contains(key)).collect();
    assert_eq!(known, keys_of::<T>(), "{path:?}");
}

#[test]
fn schema_and_types_know_the_same_keys() {
    check_keys::<WorkerFile>(&[], &["source", "service"]);
    check_keys::<SourceFile>(&["source", "x"], &[]);
    check_keys::<OauthTokenFile>(&["source", "x", "oauth_token"], &[]);
    check_keys::<TlsFile>(&["source", "x", "tls"], &[]);
    check_keys::<InFlightFile>(&["source", "x", "in_flight"], &[]);
    check_keys::<ServiceFile>(&["service", "x"], &["function", "trigger"]);
    check_keys::<LogFile>(&["service", "x", "log"], &[]);
    check_keys::<FunctionFile>(&["service", "x", "function", "x"], &[]);
    check_keys::<IsolatesFile>(&["service", "x", "function", "x", "isolates"], &[]);
    check_keys::<TriggerFile>(&["service", "x", "trigger", "x"], &[]);
    check_keys::<BatchFile>(&["service", "x", "trigger", "x", "batch"], &[]);
    check_keys::<RetryFile>(&["service", "x", "trigger", "x", "retry"], &[]);
    check_keys::<PropertiesFile>(&["service", "x", "trigger", "x", "on_success", "properties"], &[]);
    check_keys::<SinkFile>(&["service", "x", "trigger", "x", "on_failure"], &[]);
}
