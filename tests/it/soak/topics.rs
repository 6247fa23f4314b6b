//! The road through Kafka: from topic to topic.

use std::net::SocketAddr;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::road::{KEYS, Lines, Reader, Road, Writer, body, key, number};
use super::tally::Found;
use crate::harness::kafka::Kafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::worker::Worker;

/// How long the broker may take, a restart included.
const PATIENCE: Duration = Duration::from_secs(120);

/// For the listener with passwords; a broker that is silent for so long is given up.
const LOGIN: &str = r#""security.protocol" = "SASL_PLAINTEXT", "sasl.mechanism" = "PLAIN", "sasl.username" = "lagless", "sasl.password" = "secret", "socket.timeout.ms" = 5000"#;

pub struct Topics {
    pub run: Numbered,
    pub partitions: i32,
    /// A proxy before the listener with passwords, which the worker is to use.
    pub detour: Option<SocketAddr>,
}

impl Topics {
    pub fn on(kafka: &Kafka, name: &str, partitions: i32) -> Self {
        Self { run: Numbered::on(kafka, name, partitions), partitions, detour: None }
    }
}

/// The partition that a message is written to: messages of one key share it.
fn lane(number: u64, partitions: i32) -> i32 {
    (number % KEYS) as i32 % partitions
}

impl Road for Topics {
    fn broker(&self) -> &'static str {
        "Kafka"
    }

    fn writer(&self) -> Box<dyn Writer> {
        let producer = self.run.kafka.config().set("enable.idempotence", "true").set("linger.ms", "5").create();
        Box::new(TopicWriter { producer: producer.unwrap(), topic: self.run.input(), partitions: self.partitions })
    }

    fn reader(&self) -> Box<dyn Reader> {
        let consumer: BaseConsumer =
            self.run.kafka.config().set("group.id", "soak").set("enable.auto.commit", "false").create().unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..self.partitions {
            assignment.add_partition_offset(&self.run.output(), partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        Box::new(TopicReader { consumer, partitions: self.partitions })
    }

    fn project(&self, lines: &Lines<'_>) -> Project {
        let source = format!("in_flight = {{ messages = {} }}\n{}", lines.in_flight, lines.source);
        let service = format!("env = {{ WAIT_MS = \"{}\" }}", lines.wait_ms);
        let extra = Extra { source: &source, service: &service, trigger: lines.trigger, ..Extra::default() };
        let project = self.run.project(lines.function, &extra);
        if let Some(detour) = self.detour {
            let config = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
            let config = config
                .replace(&self.run.kafka.brokers, &detour.to_string())
                .replace("client = { ", &format!("client = {{ {LOGIN}, "))
                .replace("[source.sink]", &format!("[source.sink]\nclient = {{ {LOGIN} }}"));
            project.write("lagless.toml", &config);
        }
        project
    }

    fn is_settled(&self, _workers: &mut [Worker]) -> Result<(), String> {
        let progress = self.run.kafka.progress(&self.run.name, &self.run.input()).map_err(|error| error.to_string())?;
        if progress.iter().all(|(committed, end)| committed == end) { Ok(()) } else { Err(format!("{progress:?}")) }
    }
}

struct TopicWriter {
    producer: BaseProducer,
    topic: String,
    partitions: i32,
}

impl Writer for TopicWriter {
    fn write(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let (key, body) = (key(number), body(number));
            let partition = lane(number, self.partitions);
            let mut record = BaseRecord::to(&self.topic).partition(partition).key(&key).payload(&body);
            while let Err((error, refused)) = self.producer.send(record) {
                assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
                self.producer.poll(Duration::from_millis(50));
                record = refused;
            }
        }
        self.producer.flush(PATIENCE).unwrap();
    }
}

struct TopicReader {
    consumer: BaseConsumer,
    partitions: i32,
}

impl Reader for TopicReader {
    fn read(&mut self, take: &mut dyn FnMut(Found)) {
        for _ in 0..10_000 {
            match self.consumer.poll(Duration::from_millis(100)) {
                None => return,
                Some(Ok(message)) => {
                    let number = number(message.payload().unwrap_or_default());
                    take(Found { number, lane: lane(number, self.partitions), partition: message.partition() });
                }
                // A broker that is away comes back; the client goes on by itself.
                Some(Err(error)) => assert!(is_passing(&error), "{error}"),
            }
        }
    }
}

fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownTopicOrPartition
        )
    )
}
