//! What is refused, and in which words.

use super::*;

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
