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
fn later_layers_lie_over_earlier_ones() {
    let more = "[service.shop.function.total]\ntimeout = '3s'\nmemory = '16MiB'\nhandler = 'more'";
    let folder = Folder::with(&[("lagless.toml", SMALL), ("more.toml", more)]);
    let settings = folder
        .load(
            &["lagless.toml", "more.toml"],
            &[
                ("LAGLESS__SERVICE__SHOP__FUNCTION__TOTAL__TIMEOUT", "4s"),
                ("LAGLESS__SERVICE__SHOP__FUNCTION__TOTAL__MEMORY", "32MiB"),
            ],
            &["service.shop.function.total.timeout=5s"],
        )
        .unwrap();
    let function = &settings.services["shop"].functions["total"];
    assert_eq!(function.handler, "more");
    assert_eq!(function.memory, 32 << 20);
    assert_eq!(function.timeout, Duration::from_secs(5));
    assert_eq!(function.code, folder.path().join("functions/total.ts"));
}

#[test]
fn secrets_and_rules_are_replaced_whole() {
    let base = trigger("rule = { data = { a = [1] } }").replace("REGION = \"eu\"", "KEY = { file = \"key\" }");
    let more =
        "[service.shop]\nenv = { KEY = { env = 'X' } }\n[service.shop.trigger.placed]\nrule = { data = { b = [2] } }";
    let folder = Folder::with(&[("lagless.toml", &base), ("more.toml", more)]);
    let settings = folder.load(&["lagless.toml", "more.toml"], &[("X", "hush")], &[]).unwrap();
    let service = &settings.services["shop"];
    assert_eq!(service.env["KEY"], Secret::hidden("hush"));
    assert_eq!(service.triggers["placed"].rule, Some(serde_json::json!({ "data": { "b": [2] } })));
}

#[test]
fn variables_find_keys_and_names_whatever_their_case() {
    let settings = loaded(
        &SMALL.replace("REGION", "camelCase"),
        &[
            ("LAGLESS__ADMIN", "off"),
            ("LAGLESS__SOURCE__SHOP_KAFKA__COMMIT_INTERVAL", "100ms"),
            ("LAGLESS__SOURCE__SHOP_KAFKA__CLIENT__SASL_PASSWORD", "{ env = \"PASSWORD\" }"),
            ("LAGLESS__SOURCE__SHOP_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "7000"),
            ("LAGLESS__SERVICE__SHOP__ENV__camelCase", "1.0"),
            ("LAGLESS__SERVICE__SHOP__ENV__MY__VARIABLE", "007"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__TOPICS", "[\"a\", \"b\"]"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__RULE", "{\"data\": {\"x\": [null]}}"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__BATCH__SIZE", "7"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__GROUP", "12"),
            ("LAGLESS_HOME", "/nowhere"),
            ("JSON_LOGS", "1"),
            ("PASSWORD", "hush"),
        ],
        &[],
    );
    assert_eq!(settings.admin, None);
    let source = &settings.sources["shop-kafka"];
    assert_eq!(source.commit_interval, Duration::from_millis(100));
    let SourceKind::Kafka(kafka) = &source.kind else { panic!("expected kafka") };
    assert_eq!(kafka.client["sasl.password"], Secret::hidden("hush"));
    assert_eq!(kafka.client["session.timeout.ms"], Secret::plain("7000"));
    let service = &settings.services["shop"];
    assert_eq!(service.env["camelCase"].reveal(), "1.0");
    assert_eq!(service.env["MY__VARIABLE"].reveal(), "007");
    let trigger = &service.triggers["placed"];
    assert_eq!(trigger.topics, ["a", "b"]);
    assert_eq!(trigger.rule, Some(serde_json::json!({ "data": { "x": [null] } })));
    assert_eq!(trigger.batch_size, 7);
    assert_eq!(trigger.group, "12");
}

#[test]
fn variables_that_name_nothing_are_refused() {
    for (name, expected) in [
        (
            "LAGLESS__SERVICE__SHOP__FUNCTON__TOTAL__TIMEOUT",
            "environment variable LAGLESS__SERVICE__SHOP__FUNCTON__TOTAL__TIMEOUT: service.shop.functon: unknown key; \
             did you mean \"function\"? Allowed: env, log, function, trigger",
        ),
        (
            "LAGLESS__SERVICE__SHOP__FUNCTION__TOTL__TIMEOUT",
            "service.shop.function.TOTL: no function of this name in the configuration files; did you mean \"total\"?",
        ),
        ("LAGLESS__ADMIN__PORT", "admin: takes a value, there are no keys below it"),
        ("LAGLESS__SERVICE__SHOP__PERMISSIONS", "service.shop.permissions: not supported yet"),
        ("LAGLESS__", "unknown key"),
    ] {
        let errors = errors_of(SMALL, &[(name, "1s")], &[]);
        assert!(errors.contains(expected), "expected: {expected}\nfound: {errors}");
    }
}

#[test]
fn a_variable_that_fits_two_names_is_refused() {
    let text = "[source.a-b]\nkind = 'memory'\n[source.A_b]\nkind = 'memory'";
    let errors = errors_of(text, &[("LAGLESS__SOURCE__A_B__FORMAT", "value")], &[]);
    assert!(errors.contains("the variable fits several names: a-b, A_b"), "{errors}");
}

#[test]
fn overrides_take_exact_keys_and_new_names() {
    let settings = loaded(
        SMALL,
        &[],
        &[
            "source.shop-kafka.client.sasl.username=me",
            "source.shop-kafka.client.\"client.id\"='me too'",
            "source.lines.kind=memory",
            "service.shop.function.total.isolates={ min = 1, max = 2 }",
        ],
    );
    let SourceKind::Kafka(kafka) = &settings.sources["shop-kafka"].kind else { panic!("expected kafka") };
    assert_eq!(kafka.client["sasl.username"].reveal(), "me");
    assert_eq!(kafka.client["client.id"].reveal(), "me too");
    assert!(settings.sources.contains_key("lines"));
    assert_eq!(settings.services["shop"].functions["total"].isolates.max, 2);

    let errors = errors_of(SMALL, &[], &["service.shop.function.total.tiemout=2s", "nonsense"]);
    assert!(errors.contains("--set service.shop.function.total.tiemout: service.shop.function.total.tiemout: unknown key; did you mean \"timeout\"?"), "{errors}");
    assert!(errors.contains("--set number 2: no \"=\" in it"), "{errors}");
}

#[test]
fn what_cannot_be_read_names_file_line_and_column() {
    check_error("admin = \"off\"\ndrain_timeout = = 3", "lagless.toml:2:17: not valid TOML: ");
    let folder = Folder::with(&[]);
    let errors = folder.load(&["none.toml"], &[], &[]).unwrap_err().to_string();
    assert!(errors.contains("none.toml: cannot be read: No such file"), "{errors}");
}

#[test]
fn syntax_errors_do_not_show_the_line() {
    let errors = errors_of("[source.a]\nclient = { \"sasl.password\" = \"hush }", &[], &[]);
    assert!(errors.contains("not valid TOML") && !errors.contains("hush"), "{errors}");
}

#[test]
fn keys_that_do_not_belong_are_refused() {
    check_error(
        &function("tiemout = '2s'"),
        "lagless.toml:12: service.shop.function.total.tiemout: unknown key; did you mean \"timeout\"? Allowed: code, \
         handler, memory, timeout, start_timeout, concurrency, isolates",
    );
    check_error(
        "[sorce.a]",
        "sorce: unknown key; did you mean \"source\"? Allowed: admin, drain_timeout, source, service",
    );
    check_error(&trigger("retry = { tries = 3 }"), "retry.tries: unknown key; Allowed: attempts, backoff, max_backoff");
    check_error(&function("cpu = '2s'"), "total.cpu: not supported yet. Allowed: code");
    check_error(&trigger("when = 'true'"), "placed.when: not supported yet");
    check_error(&trigger("retry = { bisect = true }"), "retry.bisect: not supported yet");
    check_error(&trigger("batch = { window = '1s' }"), "batch.window: not supported yet");
    check_error("[source.'a b']\nkind = 'memory'", "source.\"a b\": not fit for the name of a source");
}

#[test]
fn missing_keys_are_named() {
    check_error("[source.a]", "lagless.toml:1: source.a: the key \"kind\" is missing");
    check_error("\n[source.a]\nkind = 'kafka'", "lagless.toml:2: source.a: the key \"brokers\" is missing");
    check_error("[service.s.function.f]", "service.s.function.f: the key \"code\" is missing");
    check_error("[service.s.trigger.t]", "service.s.trigger.t: the key \"source\" is missing");
    check_error(&SMALL.replace("topics = [\"orders\"]", ""), "placed: the key \"topics\" is missing");
    check_error(&trigger("on_success = { kafka = 'shop-kafka' }"), "on_success: the key \"topic\" is missing");
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    check_error(&function("timeout = '2 sekunden'"), "total.timeout: found \"2 sekunden\"");
    check_error(&function("timeout = 2"), "total.timeout: invalid type: integer `2`, expected a duration such as");
    check_error(&function("timeout = '0s'"), "total.timeout: found no time at all");
    check_error(&function("memory = '1 pound'"), "total.memory: found \"1 pound\"; allowed: a size such as");
    check_error(&function("concurrency = '16'"), "invalid type: string \"16\", expected a whole number");
    check_error(&function("concurrency = 1.5"), "expected a whole number");
    check_error(&function("concurrency = -1"), "found -1; allowed: 0 or more");
    check_error(&function("handler = 3"), "total.handler: invalid type: integer `3`, expected a string");
    check_error(&function("isolates = 3"), "total.isolates: found a whole number; expected a table with the keys min");
    check_error("source = 3", "source: found a whole number; expected a table for each source");
    check_error("[service.s]\nenv = 'A=b'", "service.s.env: found a string; expected a table of keys and values");
    check_error("admin = 'localhost'", "admin: found \"localhost\"; allowed: an IP address with a port");
    check_error("drain_timeout = nan", "only finite numbers");
    check_error(
        &trigger("start = 'erliest'"),
        "found \"erliest\"; did you mean \"earliest\"? allowed: earliest, latest",
    );
    check_error(&trigger("order = 'key'"), "found \"key\", which is not supported yet; allowed: partition, none");
    check_error(&trigger("shape = 'aws'"), "not supported yet; allowed: lagless, cloudevents");
    check_error("[source.a]\nkind = 'nats'", "found \"nats\"; allowed: kafka, amqp, memory");
    check_error("[source.a]\nkind = 'amqp'", "source.a: the key \"url\" is missing");
    check_error(&trigger("rule = 3"), "placed.rule: expected a table, JSON text, or { file");
    check_error(&trigger("rule = '[]'"), "placed.rule: is JSON but not an object");
    check_error(&trigger("rule = '{'"), "placed.rule: not valid JSON: ");
    check_error(&trigger("rule = { file = 'gone.json' }"), "gone.json cannot be read");
}

#[test]
fn bounds_are_kept() {
    check_error(&function("memory = '1MiB'"), "total.memory: found 1MiB; allowed: 8MiB to 4GiB");
    check_error(&function("memory = '5GiB'"), "allowed: 8MiB to 4GiB");
    check_error(&function("concurrency = 0"), "total.concurrency: found 0; allowed: 1 or more");
    check_error(&function("isolates = { min = 3, max = 2 }"), "total.isolates: min is 3 and max is 2");
    check_error(&function("isolates = { max = 0 }"), "isolates.max: found 0; allowed: 1 or more");
    check_error(&trigger("batch = { size = 0 }"), "batch.size: found 0; allowed: 1 to 10000");
    check_error(&trigger("batch = { size = 10001 }"), "batch.size: found 10001; allowed: 1 to 10000");
    check_error(&trigger("retry = { attempts = 0 }"), "retry.attempts: found 0; allowed: 1 or more");
    check_error(
        &trigger("retry = { backoff = '2s', max_backoff = '1s' }"),
        "placed.retry: backoff is 2s and max_backoff is 1s",
    );
    check_error(&source("in_flight = { messages = 0 }"), "in_flight.messages: found 0; allowed: 1 or more");
    check_error(&source("revoke_timeout = '6s'"), "revoke_timeout: 6s is not below the session timeout of 6s");
    check_error(&source("commit_interval = '0s'"), "commit_interval: found no time at all");
    check_error(&client("x = 1").replace("6000", "'soon'"), "\"session.timeout.ms\": expected a whole number");
    check_error(&SMALL.replace("127.0.0.1:9092", "localhost"), "found \"localhost\"; expected host:port");
    check_error(&SMALL.replace("[\"127.0.0.1:9092\"]", "[]"), "brokers: is empty");
    check_error(&SMALL.replace("[\"orders\"]", "[]"), "topics: is empty");
    check_error(&SMALL.replace("[\"orders\"]", "['^or.*']"), "found the topic \"^or.*\"");
    check_error(&SMALL.replace("[\"orders\"]", "['a', 'a']"), "found \"a\" twice");
}

#[test]
fn librdkafka_settings_that_lagless_decides_are_refused() {
    for key in ["group.id", "enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "bootstrap.servers"]
    {
        check_error(&client(&format!("{key:?} = 'x'")), &format!("client.{key:?}: cannot be set here: "));
    }
    check_error(&client("'enable.idempotence' = false"), "cannot be set here: results are always written idempotently");
}

#[test]
fn references_must_lead_somewhere() {
    check_error(
        &SMALL.replace("function = \"total\"", "function = \"totl\""),
        "placed.function: there is no function in service \"shop\" called \"totl\"; did you mean \"total\"? Defined: total",
    );
    check_error(
        &SMALL.replace("source = \"shop-kafka\"", "source = \"shop-kafak\""),
        "placed.source: there is no source called \"shop-kafak\"; did you mean \"shop-kafka\"?",
    );
    check_error(
        &trigger("on_failure = { kafka = 'x', topic = 't' }"),
        "on_failure.kafka: there is no source called \"x\"",
    );
    check_error(
        &trigger("on_success = { memory = 'shop-kafka', topic = 't' }"),
        "on_success.memory: the source \"shop-kafka\" is of kind \"kafka\"; write kafka = \"shop-kafka\"",
    );
    check_error(&trigger("on_success = { topic = 't' }"), "on_success: names no source, or several");
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    check_error(
        &trigger("on_exhausted = 'drop'\non_failure = { kafka = 'shop-kafka', topic = 't' }"),
        "on_exhausted: says what happens without on_failure",
    );
    check_error(&source("input = 'x'"), "input: belongs to sources of kind \"memory\"");
    check_error("[source.a]\nkind = 'memory'\nbrokers = 'a:1'", "brokers: belongs to sources of kind \"kafka\"");
    let second = "[service.shop.trigger.again]\nfunction = 'total'\nsource = 'shop-kafka'\ntopics = ['x']\n";
    check_error(
        &trigger(&format!("{second}start = 'latest'")),
        "again.start: differs from the start of service.shop.trigger.placed, which has the same group",
    );
    loaded(&trigger(&format!("{second}start = 'latest'\ngroup = 'other'")), &[], &[]);
}

#[test]
fn a_memory_source_is_read_once() {
    let trigger = |name: &str, source: &str, group: &str| {
        format!("[service.s.trigger.{name}]\nfunction = 'f'\nsource = '{source}'\ngroup = '{group}'\n")
    };
    let base = "[service.s.function.f]\ncode = 'f.ts'\n[source.a]\nkind = 'memory'\n[source.b]\nkind = 'memory'\n";
    let both = |second: &str| format!("{base}{}{second}", trigger("one", "a", "x"));
    check_error(&both(&trigger("two", "a", "y")), "two.group: service.s.trigger.one reads the memory source \"a\"");
    check_error(&both(&trigger("two", "b", "x")), "source.b.input: the source \"a\" reads standard input already");
    check_error(&both("start = 'latest'"), "one.start: a memory source has no latest position");
    loaded(&both(&trigger("two", "a", "x")), &[], &[]);
}

#[test]
fn many_errors_come_at_once() {
    let text = function("timeout = 'x'\nmemory = 'y'\ntiemout = '1s'").replace("[\"orders\"]", "3");
    let errors = errors_of(&text, &[("LAGLESS__NOTHING", "1")], &[]);
    assert_eq!(errors.split("\n\n").count(), 5, "{errors}");
    let text = function("concurrency = 0\nmemory = '1KiB'").replace("function = \"total\"", "function = \"x\"");
    let errors = errors_of(&text, &[], &[]);
    assert_eq!(errors.split("\n\n").count(), 3, "{errors}");
}

#[test]
fn a_required_key_of_the_wrong_kind_is_one_error() {
    let errors = errors_of("[service.s.function.f]\ncode = 3", &[], &[]);
    assert_eq!(errors.split("\n\n").count(), 1, "{errors}");
}

#[test]
fn secrets_come_from_variables_and_files() {
    let text = client("'sasl.password' = { env = 'KAFKA_PASSWORD' }, 'ssl.key.password' = { file = 'key' }");
    let folder = Folder::with(&[("lagless.toml", &text), ("key", "from file\n")]);
    let settings = folder.load(&["lagless.toml"], &[("KAFKA_PASSWORD", "from env")], &[]).unwrap();
    let SourceKind::Kafka(kafka) = &settings.sources["shop-kafka"].kind else { panic!("expected kafka") };
    assert_eq!(kafka.client["sasl.password"], Secret::hidden("from env"));
    assert_eq!(kafka.client["ssl.key.password"], Secret::hidden("from file"));
    assert!(settings.files.contains(&folder.path().join("key")));

    check_error(
        &client("'sasl.password' = { env = 'KAFKA_PASSWORD' }"),
        "source.shop-kafka.client.\"sasl.password\": the environment variable KAFKA_PASSWORD is not set",
    );
    check_error(&client("'sasl.password' = { file = 'gone' }"), "gone cannot be read: No such file");
    check_error(&client("'sasl.password' = { enw = 'X' }"), "found a table of another form; expected a string");
}

#[test]
fn no_secret_is_ever_shown() {
    let text =
        client("'sasl.password' = { env = 'A' }, 'ssl.key.password' = 'hush open', 'ssl.ca.pem' = { file = 'key' }")
            .replace("REGION = \"eu\"", "API_TOKEN = 'hush token', OTHER = { env = 'A' }, REGION = 'eu'");
    let folder = Folder::with(&[("lagless.toml", &text), ("key", "hush file")]);
    let settings = folder.load(&["lagless.toml"], &[("A", "hush env")], &[]).unwrap();
    let shown = show(&settings);
    assert!(!shown.contains("hush"), "{shown}");
    assert!(!format!("{settings:?}").contains("hush"));
    assert!(shown.contains("REGION = \"eu\"") && shown.contains("\"sasl.password\" = \"***\""), "{shown}");

    let errors = errors_of(&text.replace("env = 'A'", "env = ['hush']"), &[], &[]);
    assert!(!errors.contains("hush"), "{errors}");
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
