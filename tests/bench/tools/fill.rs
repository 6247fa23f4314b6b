//! A Kafka topic full of orders.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::PATIENCE;
use super::orders::{CUSTOMERS, write_order};

#[derive(Debug, Args)]
pub struct Fill {
    /// Where the brokers are
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    messages: u64,
    #[arg(long, default_value_t = 8)]
    partitions: i32,
}

#[derive(Debug, Args)]
pub struct Drop {
    /// Where the brokers are
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

/// Runs one request of the admin client, whose answer is a list with one entry.
fn admin<T>(
    brokers: &str,
    request: impl AsyncFnOnce(&AdminClient<DefaultClientContext>) -> Result<Vec<T>, KafkaError>,
) -> Result<T> {
    let client: AdminClient<DefaultClientContext> = client(brokers).create().context("create an admin client")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(request(&client))?.pop().context("the broker's answer is empty")
}

impl Fill {
    pub fn run(self) -> Result<()> {
        let topic = NewTopic::new(&self.topic, self.partitions, TopicReplication::Fixed(1));
        let created = admin(&self.brokers, async |client| client.create_topics([&topic], &AdminOptions::new()).await)?;
        if let Err((topic, code)) = created {
            bail!("cannot create the topic {topic}: {code}");
        }
        let producer: BaseProducer =
            client(&self.brokers).set("linger.ms", "20").set("acks", "all").create().context("create a producer")?;
        let mut value = String::new();
        let mut bytes = 0;
        for seq in 0..self.messages {
            write_order(seq, &mut value);
            bytes += value.len() as u64;
            self.send(&producer, seq, &value)?;
        }
        producer.flush(PATIENCE).context("the broker has not acknowledged all messages")?;
        if self.messages > 0 {
            eprintln!("filled {} with {} messages of {} bytes", self.topic, self.messages, bytes / self.messages);
        }
        Ok(())
    }

    /// Waits while the producer's queue is full.
    fn send(&self, producer: &BaseProducer, seq: u64, value: &str) -> Result<()> {
        let key = format!("customer-{}", seq % CUSTOMERS);
        let mut record = BaseRecord::to(&self.topic).key(&key).payload(value);
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        Ok(())
    }
}

impl Drop {
    pub fn run(self) -> Result<()> {
        let topics = [self.topic.as_str()];
        let deleted = admin(&self.brokers, async |client| client.delete_topics(&topics, &AdminOptions::new()).await)?;
        if let Err((topic, code)) = deleted {
            bail!("cannot delete the topic {topic}: {code}");
        }
        Ok(())
    }
}
