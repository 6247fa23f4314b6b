//! Numbered messages through one function: topics, group and configuration, and what the verifier makes of it.

use std::ops::Range;
use std::process::Stdio;

use super::kafka::Kafka;
use super::project::{Project, case};
use super::wait::WORK;
use super::worker::Worker;
use crate::verifier::{self, Report};

/// How many different keys messages have.
const KEYS: u64 = 97;

/// One input topic, one output topic, one group.
#[derive(Debug)]
pub struct Numbered {
    pub kafka: Kafka,
    /// Where results go.
    pub sink: Kafka,
    /// Of the group; the topics' names begin with it.
    pub name: String,
}

/// Lines of configuration beyond what every test has.
#[derive(Debug, Default)]
pub struct Extra<'a> {
    pub root: &'a str,
    pub source: &'a str,
    pub service: &'a str,
    pub function: &'a str,
    pub trigger: &'a str,
}

impl Numbered {
    /// Both topics on the same server.
    pub fn on(kafka: &Kafka, name: &str, partitions: i32) -> Self {
        Self::between(kafka, kafka, name, partitions)
    }

    pub fn between(kafka: &Kafka, sink: &Kafka, name: &str, partitions: i32) -> Self {
        let numbered =
            Self { kafka: kafka.clone(), sink: sink.clone(), name: format!("{name}-{:08x}", rand::random::<u32>()) };
        kafka.create_topic(&numbered.input(), partitions);
        sink.create_topic(&numbered.output(), partitions);
        numbered
    }

    pub fn input(&self) -> String {
        format!("{}.in", self.name)
    }

    pub fn output(&self) -> String {
        format!("{}.out", self.name)
    }

    /// A project with a function of `tests/cases`.
    pub fn project(&self, function: &str, extra: &Extra<'_>) -> Project {
        let Extra { root, source, service, function: function_lines, trigger } = extra;
        let (brokers, sink) = (&self.kafka.brokers, &self.sink.brokers);
        let (name, input, output) = (&self.name, self.input(), self.output());
        let config = format!(
            r#"
            admin = "127.0.0.1:0"
            {root}
            [source.kafka]
            kind = "kafka"
            brokers = "{brokers}"
            commit_interval = "100ms"
            client = {{ "session.timeout.ms" = 6000, "heartbeat.interval.ms" = 1000 }}
            {source}
            [source.sink]
            kind = "kafka"
            brokers = "{sink}"
            [service.it]
            {service}
            [service.it.function.f]
            code = "f.ts"
            {function_lines}
            [service.it.trigger.t]
            function = "f"
            source = "kafka"
            topics = ["{input}"]
            group = "{name}"
            retry = {{ attempts = 20, backoff = "5ms" }}
            on_success = {{ kafka = "sink", topic = "{output}" }}
            {trigger}
            "#
        );
        Project::new(&config).with("f.ts", &case(function))
    }

    pub fn start(&self, project: &Project) -> Worker {
        Worker::start(project.command(&["run"]), Stdio::null())
    }

    /// Writes the messages with these numbers.
    pub fn produce(&self, seqs: Range<u64>) {
        let record = |seq| {
            let key = format!("k{}", seq % KEYS);
            let value = format!(r#"{{"key":"{key}","seq":{seq}}}"#);
            (key, value)
        };
        self.kafka.produce(&self.input(), seqs.map(record));
    }

    /// How many messages the group has committed, over all partitions.
    pub fn committed(&self) -> i64 {
        self.kafka.progress(&self.name, &self.input()).unwrap().iter().map(|(committed, _)| committed).sum()
    }

    /// Waits until the group's offsets are at the end of every partition.
    #[track_caller]
    pub fn until_complete(&self, worker: &mut Worker) {
        worker.until("committed offsets at the end of all partitions", WORK, |_| {
            let progress = self.kafka.progress(&self.name, &self.input()).map_err(|error| error.to_string())?;
            if progress.iter().all(|(committed, end)| committed == end) { Ok(()) } else { Err(format!("{progress:?}")) }
        });
    }

    /// What the verifier says.
    pub fn report(&self) -> Report {
        let input = verifier::topic::sent(&self.kafka.brokers, &self.input()).unwrap();
        let output = verifier::topic::returned(&self.sink.brokers, &self.output()).unwrap();
        verifier::compare(&input, &output)
    }

    /// Every message has a result, and the order of each partition was kept.
    #[track_caller]
    pub fn expect_none_lost(&self, sent: usize) -> Report {
        let report = self.report();
        assert!(report.sent == sent && report.is_complete() && report.is_in_order(), "{}: {report}", self.name);
        report
    }
}
