//! Letters to a broker, and what came of them back from it: one input, one output and one place for dead letters by name.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

use super::mail::{Kind, Letter};
use crate::harness::kafka::Kafka;
use crate::harness::rabbit::Rabbit;
use crate::verifier::topic;

pub const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

pub enum Post {
    Kafka(Kafka),
    Rabbit(Rabbit),
}

/// What an output or the dead letters hold.
#[derive(Debug)]
pub struct Received {
    pub partition: i32,
    pub body: Vec<u8>,
    /// The header `seq`; a dead letter near the limit has lost it, but not the beginning of its body.
    pub seq: Option<u64>,
}

impl Post {
    pub fn broker(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "Kafka",
            Self::Rabbit(_) => "RabbitMQ",
        }
    }

    /// The configuration of the source `s`.
    pub fn source(&self) -> String {
        match self {
            Self::Kafka(kafka) => {
                format!("[source.s]\nkind = \"kafka\"\nbrokers = \"{}\"\ncommit_interval = \"100ms\"\n", kafka.brokers)
            }
            Self::Rabbit(rabbit) => format!("[source.s]\nkind = \"amqp\"\nurl = \"{}\"\n", rabbit.url),
        }
    }

    /// Makes `name.in`, `name.out` and `name.dead`, to which the queue `name.in` rejects.
    pub fn prepare(&self, name: &str) {
        match self {
            Self::Kafka(kafka) => {
                for end in ["in", "out", "dead"] {
                    kafka.create_topic(&format!("{name}.{end}"), PARTITIONS);
                }
            }
            Self::Rabbit(rabbit) => {
                let dead = format!("{name}.dead");
                let policy = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", dead.as_str())];
                rabbit.create_queue(&format!("{name}.in"), &policy);
                rabbit.create_queue(&format!("{name}.out"), &[]);
                rabbit.create_queue(&dead, &[]);
            }
        }
    }

    /// Where a trigger reads, and where its results go.
    pub fn ends(&self, name: &str) -> String {
        match self {
            Self::Kafka(_) => format!(
                "topics = [\"{name}.in\"]\ngroup = \"{name}\"\non_success = {{ kafka = \"s\", topic = \"{name}.out\" }}\n"
            ),
            Self::Rabbit(_) => {
                format!("queue = \"{name}.in\"\non_success = {{ amqp = \"s\", routing_key = \"{name}.out\" }}\n")
            }
        }
    }

    /// The line that sends dead letters to `name.dead`.
    pub fn on_failure(&self, name: &str) -> String {
        match self {
            Self::Kafka(_) => format!("on_failure = {{ kafka = \"s\", topic = \"{name}.dead\" }}\n"),
            Self::Rabbit(_) => format!("on_failure = {{ amqp = \"s\", routing_key = \"{name}.dead\" }}\n"),
        }
    }

    /// A result of so many MiB is more than the broker takes, or an isolate can hold.
    fn too_large_mib(&self) -> u64 {
        match self {
            Self::Kafka(_) => 3,
            Self::Rabbit(_) => 160,
        }
    }

    /// The lane of a letter: the partition that it is written to, or the queue.
    pub fn lane(&self, number: u64) -> i32 {
        match self {
            Self::Kafka(_) => (number % PARTITIONS as u64) as i32,
            Self::Rabbit(_) => 0,
        }
    }

    fn headers(&self, letter: &Letter) -> Vec<(&'static str, String)> {
        let mut headers = vec![("seq", letter.number.to_string())];
        if let Kind::Poison(poison, _) = letter.kind {
            headers.push(("poison", poison.to_owned()));
            headers.push(("mib", self.too_large_mib().to_string()));
        }
        headers
    }

    /// Writes them, and waits until the broker has them.
    pub fn send(&self, name: &str, letters: &[Letter]) {
        let input = format!("{name}.in");
        match self {
            Self::Kafka(kafka) => {
                let mut config = kafka.config();
                config.set("enable.idempotence", "true").set("message.max.bytes", "2000000");
                let producer: BaseProducer = config.create().unwrap();
                for letter in letters {
                    let headers =
                        self.headers(letter).into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                            headers.insert(Header { key, value: Some(&value) })
                        });
                    let lane = self.lane(letter.number);
                    let key = format!("k{lane}");
                    let mut record = BaseRecord::<str, [u8]>::to(&input).key(&key).partition(lane).headers(headers);
                    record.payload = letter.body.as_deref();
                    producer.send(record).map_err(|(error, _)| error).unwrap();
                    producer.poll(Duration::ZERO);
                }
                producer.flush(PATIENCE).unwrap();
            }
            Self::Rabbit(rabbit) => {
                let messages = letters.iter().map(|letter| {
                    let mut table = FieldTable::default();
                    for (key, value) in self.headers(letter) {
                        table.insert(key.into(), AMQPValue::LongString(value.into()));
                    }
                    let properties = BasicProperties::default().with_delivery_mode(2).with_headers(table);
                    (letter.body.as_deref().unwrap_or_default(), properties)
                });
                rabbit.publish_with("", &input, messages);
            }
        }
    }

    /// Everything in `name.out` or `name.dead`.
    pub fn received(&self, name: &str, end: &str) -> Vec<Received> {
        let place = format!("{name}.{end}");
        match self {
            Self::Kafka(kafka) => topic::read(&kafka.brokers, &place, |message| Ok(record(message))).unwrap(),
            Self::Rabbit(rabbit) => {
                let taken = rabbit.take_all(&place).into_iter().map(|delivery| {
                    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
                    let seq = headers.and_then(|headers| match headers.get("seq") {
                        Some(AMQPValue::LongString(text)) => text.to_string().parse().ok(),
                        _ => None,
                    });
                    Received { partition: 0, seq: seq.or_else(|| seq_in(&delivery.data)), body: delivery.data }
                });
                taken.collect()
            }
        }
    }
}

fn record(message: &BorrowedMessage<'_>) -> Received {
    let seq = message.headers().and_then(|headers| {
        let header = headers.iter().find(|header| header.key == "seq")?;
        std::str::from_utf8(header.value?).ok()?.parse().ok()
    });
    let body = message.payload().unwrap_or_default().to_vec();
    Received { partition: message.partition(), seq: seq.or_else(|| seq_in(&body)), body }
}

/// The number at the beginning of a letter's body.
fn seq_in(body: &[u8]) -> Option<u64> {
    let digits = body.strip_prefix(br#"{"seq":"#)?.split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Received {
    /// A result as the function returned it.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}
