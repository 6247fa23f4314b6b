//! The effective settings as TOML that can be loaded again, secrets apart.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::choice::word;
use super::place::is_bare;
use super::settings::{
    Binding, FunctionSettings, OauthToken, PropertySettings, QueueSettings, Secret, ServiceSettings, Settings,
    SinkSettings, SourceKind, SourceSettings, Start, Target, TriggerSettings,
};
use super::tls::TlsSettings;
use super::units::size_text;

/// Every setting with the value in force, secrets as `***`.
pub fn show(settings: &Settings) -> String {
    let mut page = Page::default();
    let admin = settings.admin.map_or_else(|| "off".to_owned(), |address| address.to_string());
    page.set("admin", quoted(&admin));
    page.set("drain_timeout", duration(settings.drain_timeout));
    for (name, source) in &settings.sources {
        page.section(&format!("source.{name}"));
        show_source(&mut page, source);
    }
    for (name, service) in &settings.services {
        show_service(&mut page, name, service, settings);
    }
    page.text
}

/// Lines of TOML.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn section(&mut self, name: &str) {
        self.line(format_args!("\n[{name}]"));
    }

    /// `value` is TOML.
    fn set(&mut self, key: &str, value: String) {
        self.line(format_args!("{key} = {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a string cannot fail");
    }
}

fn show_source(page: &mut Page, source: &SourceSettings) {
    match &source.kind {
        SourceKind::Kafka(kafka) => {
            page.set("kind", quoted("kafka"));
            page.set("brokers", list(&kafka.brokers));
            page.set("client", secrets(kafka.client.iter()));
            if let Some(token) = &kafka.oauth_token {
                page.set("oauth_token", oauth_token(token));
            }
            if let Some(id) = &kafka.instance_id {
                page.set("instance_id", quoted(id));
            }
            page.set("revoke_timeout", duration(source.revoke_timeout));
            page.set("on_out_of_range", quoted(word(source.on_out_of_range)));
        }
        SourceKind::Amqp(amqp) => {
            page.set("kind", quoted("amqp"));
            page.set("urls", list(&amqp.urls.iter().map(|url| url.shown().to_owned()).collect::<Vec<_>>()));
            if amqp.tls != TlsSettings::default() {
                page.set("tls", tls(&amqp.tls));
            }
            page.set("login", quoted(word(amqp.login)));
            page.set("consumer_timeout", duration(source.consumer_timeout));
            page.set("commit_interval", duration(source.commit_interval));
            page.set("in_flight", format!("{{ messages = {} }}", source.in_flight.messages));
            return;
        }
        SourceKind::Memory(memory) => {
            page.set("kind", quoted("memory"));
            page.set("input", stream(memory.input.as_deref()));
            page.set("output", stream(memory.output.as_deref()));
            page.set("format", quoted(word(memory.format)));
        }
    }
    page.set("commit_interval", duration(source.commit_interval));
    let bytes = quoted(&size_text(source.in_flight.bytes as u64));
    page.set("in_flight", format!("{{ messages = {}, bytes = {bytes} }}", source.in_flight.messages));
}

fn oauth_token(token: &OauthToken) -> String {
    match token {
        OauthToken::File(file) => format!("{{ file = {} }}", quoted(&file.to_string_lossy())),
        OauthToken::Command(command) => format!("{{ command = {} }}", list(command)),
    }
}

fn tls(tls: &TlsSettings) -> String {
    let client = tls.client.as_ref();
    let files = [
        ("ca", tls.ca.as_ref()),
        ("certificate", client.map(|client| &client.certificate)),
        ("key", client.map(|client| &client.key)),
    ];
    let given =
        files.iter().filter_map(|(key, file)| Some(format!("{key} = {}", quoted(&file.as_ref()?.to_string_lossy()))));
    format!("{{ {} }}", given.collect::<Vec<_>>().join(", "))
}

fn show_service(page: &mut Page, name: &str, service: &ServiceSettings, settings: &Settings) {
    page.section(&format!("service.{name}"));
    page.set("env", secrets(service.env.iter()));
    page.set("log", format!("{{ level = {} }}", quoted(word(service.log_level))));
    for (function_name, function) in &service.functions {
        page.section(&format!("service.{name}.function.{function_name}"));
        show_function(page, function);
    }
    for (trigger_name, trigger) in &service.triggers {
        page.section(&format!("service.{name}.trigger.{trigger_name}"));
        show_trigger(page, trigger, settings);
    }
}

fn show_function(page: &mut Page, function: &FunctionSettings) {
    page.set("code", quoted(&function.code.to_string_lossy()));
    page.set("handler", quoted(&function.handler));
    page.set("memory", quoted(&size_text(function.memory)));
    page.set("timeout", duration(function.timeout));
    page.set("start_timeout", duration(function.start_timeout));
    page.set("concurrency", function.concurrency.to_string());
    let isolates = function.isolates;
    let idle = duration(isolates.idle);
    page.set("isolates", format!("{{ min = {}, max = {}, idle = {idle} }}", isolates.min, isolates.max));
}

fn show_trigger(page: &mut Page, trigger: &TriggerSettings, settings: &Settings) {
    page.set("function", quoted(&trigger.function));
    page.set("source", quoted(&trigger.source));
    match &trigger.queue {
        Some(queue) => {
            page.set("queue", quoted(&trigger.topics.join(",")));
            if let Some(reader) = &queue.reader {
                page.set("group", quoted(reader));
                page.set("start", start(trigger.start));
            }
            show_queue(page, queue);
        }
        None => {
            page.set("topics", list(&trigger.topics));
            page.set("group", quoted(&trigger.group));
            page.set("start", start(trigger.start));
        }
    }
    if let Some(rule) = &trigger.rule {
        // As JSON text, since TOML has no null.
        page.set("rule", quoted(&rule.to_string()));
    }
    page.set("shape", quoted(word(trigger.shape)));
    page.set("order", quoted(word(trigger.order)));
    page.set("batch", format!("{{ size = {} }}", trigger.batch_size));
    let retry = trigger.retry;
    let (backoff, max_backoff) = (duration(retry.backoff), duration(retry.max_backoff));
    let attempts = retry.attempts;
    page.set("retry", format!("{{ attempts = {attempts}, backoff = {backoff}, max_backoff = {max_backoff} }}"));
    if let Some(target) = &trigger.on_success {
        page.set("on_success", sink(target, settings));
    }
    if trigger.queue.is_some() {
        page.set("reply", trigger.reply.to_string());
    }
    match &trigger.on_failure {
        Some(target) => page.set("on_failure", sink(target, settings)),
        None => page.set("on_exhausted", quoted(word(trigger.on_exhausted))),
    }
}

fn start(start: Start) -> String {
    match start {
        Start::Earliest | Start::Latest | Start::Last => quoted(word(start)),
        Start::Offset(offset) => format!("{{ offset = {offset} }}"),
        Start::Time(seconds) => {
            let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
            format!("{{ time = {} }}", quoted(&time.to_string()))
        }
    }
}

fn show_queue(page: &mut Page, queue: &QueueSettings) {
    if let Some(declare) = queue.declare {
        page.set("declare", quoted(word(declare)));
    }
    if let Some(queue_type) = queue.queue_type {
        page.set("queue_type", quoted(word(queue_type)));
    }
    page.set("bind", format!("[{}]", queue.bind.iter().map(binding).collect::<Vec<_>>().join(", ")));
    page.set("arguments", table(&queue.arguments));
    if let Some(priority) = queue.consumer_priority {
        page.set("consumer_priority", priority.to_string());
    }
    if let Some(on_no_match) = queue.on_no_match {
        page.set("on_no_match", quoted(word(on_no_match)));
    }
}

fn binding(binding: &Binding) -> String {
    let declared = binding.exchange_type.as_ref().map(|kind| format!("type = {}, ", quoted(kind))).unwrap_or_default();
    let (exchange, key, arguments) =
        (quoted(&binding.exchange), quoted(&binding.routing_key), table(&binding.arguments));
    format!("{{ exchange = {exchange}, {declared}routing_key = {key}, arguments = {arguments} }}")
}

/// An inline table.
fn table<'a>(entries: impl IntoIterator<Item = (&'a String, &'a Value)>) -> String {
    let entries: Vec<_> =
        entries.into_iter().map(|(key, value)| format!("{} = {}", key_text(key), inline(value))).collect();
    if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
}

/// A value in a line of TOML. There are no nulls, since TOML has none.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => table(entries),
        Value::Bool(_) | Value::Number(_) | Value::Null => value.to_string(),
    }
}

fn key_text(key: &str) -> String {
    if is_bare(key) { key.to_owned() } else { quoted(key) }
}

fn sink(sink: &SinkSettings, settings: &Settings) -> String {
    let kind = match settings.sources.get(&sink.source).map(|source| &source.kind) {
        Some(SourceKind::Memory(_)) => "memory",
        Some(SourceKind::Amqp(_)) => "amqp",
        Some(SourceKind::Kafka(_)) | None => "kafka",
    };
    let mut entries = vec![format!("{kind} = {}", quoted(&sink.source))];
    match &sink.target {
        Target::Topic(topic) => entries.push(format!("topic = {}", quoted(topic))),
        Target::Exchange { exchange, routing_key, properties } => {
            entries.push(format!("exchange = {}", quoted(exchange)));
            entries.push(format!("routing_key = {}", quoted(&routing_key.to_string())));
            entries.push(format!("properties = {}", show_properties(properties)));
        }
    }
    if !sink.headers.is_empty() {
        let headers = sink.headers.iter().map(|(name, value)| (name, value));
        entries.push(format!("headers = {}", table(headers)));
    }
    format!("{{ {} }}", entries.join(", "))
}

fn show_properties(properties: &PropertySettings) -> String {
    let texts = [
        ("content_type", &properties.content_type),
        ("content_encoding", &properties.content_encoding),
        ("type", &properties.kind),
        ("app_id", &properties.app_id),
        ("user_id", &properties.user_id),
    ];
    let mut entries: Vec<String> =
        texts.iter().filter_map(|(key, text)| Some(format!("{key} = {}", quoted(text.as_ref()?)))).collect();
    if let Some(priority) = properties.priority {
        entries.push(format!("priority = {priority}"));
    }
    if let Some(expiration) = properties.expiration {
        entries.push(format!("expiration = {}", duration(expiration)));
    }
    entries.push(format!("persistent = {}", properties.persistent));
    format!("{{ {} }}", entries.join(", "))
}

fn secrets<'a>(secrets: impl Iterator<Item = (&'a String, &'a Secret)>) -> String {
    let entries: Vec<_> =
        secrets.map(|(key, secret)| format!("{} = {}", key_text(key), quoted(secret.shown()))).collect();
    if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn stream(path: Option<&Path>) -> String {
    path.map_or_else(|| quoted("-"), |path| quoted(&path.to_string_lossy()))
}

fn list(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

fn duration(duration: Duration) -> String {
    quoted(&humantime::format_duration(duration).to_string())
}

/// A TOML string on one line.
fn quoted(text: &str) -> String {
    // JSON's escapes are all TOML's too; DEL alone is legal there and not here.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
