//! The road through RabbitMQ: from queue to queue.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Consumer};

use super::road::{Lines, Reader, Road, Writer, body, number};
use super::tally::Found;
use crate::harness::project::{Project, case};
use crate::harness::rabbit::{Link, Queues, Rabbit};
use crate::harness::worker::Worker;

/// What the server hands out at once to the reader.
const PREFETCH: u16 = 5000;
/// What it is for a reader that acknowledges nothing.
const UNBOUNDED: u16 = 0;
/// An output without a message for so long has none.
const QUIET: Duration = Duration::from_millis(100);

pub struct Queued {
    pub run: Queues,
    /// A proxy, which the worker is to use.
    pub detour: Option<SocketAddr>,
    /// Results are not acknowledged, since a server that is killed forgets what was: after an outage they are read again
    /// from the first.
    pub keeps_results: bool,
}

impl Queued {
    pub fn on(rabbit: &Rabbit, name: &str) -> Self {
        Self { run: Queues::on(rabbit, name), detour: None, keeps_results: false }
    }
}

impl Road for Queued {
    fn broker(&self) -> &'static str {
        "RabbitMQ"
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(QueueWriter {
            link: confirming(&self.run.rabbit),
            rabbit: self.run.rabbit.clone(),
            queue: self.run.input(),
        })
    }

    fn reader(&self) -> Box<dyn Reader> {
        let (rabbit, queue) = (self.run.rabbit.clone(), self.run.output());
        let prefetch = if self.keeps_results { UNBOUNDED } else { PREFETCH };
        let (link, consumer) = consuming(&rabbit, &queue, prefetch);
        Box::new(QueueReader { link, consumer, rabbit, queue, prefetch })
    }

    fn project(&self, lines: &Lines<'_>) -> Project {
        let service = format!("env = {{ WAIT_MS = \"{}\" }}", lines.wait_ms);
        let project = self.run.project_with(&case(lines.function), &service, lines.trigger);
        let config = std::fs::read_to_string(project.path().join("lagless.toml")).unwrap();
        let url = format!("url = \"{}\"", self.run.rabbit.url);
        let detour = self.detour.map(|proxy| format!("amqp://guest:guest@{proxy}/%2f?heartbeat=2"));
        let detour = detour.as_ref().unwrap_or(&self.run.rabbit.url);
        let bounded = format!(
            "url = \"{detour}\"
in_flight = {{ messages = {} }}
{}",
            lines.in_flight, lines.source
        );
        project.write("lagless.toml", &config.replace(&url, &bounded));
        project
    }

    fn is_settled(&self, workers: &mut [Worker]) -> Result<(), String> {
        let ready = self.run.rabbit.ready(&self.run.input());
        let lag: f64 = workers.iter_mut().map(|worker| worker.metric("lagless_subscription_lag_messages", "")).sum();
        if ready == Some(0) && lag == 0.0 { Ok(()) } else { Err(format!("{ready:?} ready, {lag} to do")) }
    }
}

fn confirming(rabbit: &Rabbit) -> Link {
    let link = rabbit.link();
    link.runtime.block_on(link.channel.confirm_select(ConfirmSelectOptions::default())).unwrap();
    link
}

fn consuming(rabbit: &Rabbit, queue: &str, prefetch: u16) -> (Link, Consumer) {
    let link = rabbit.link();
    let consumer = link.runtime.block_on(async {
        link.channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
        let options = BasicConsumeOptions::default();
        link.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
    });
    (link, consumer)
}

struct QueueWriter {
    link: Link,
    rabbit: Rabbit,
    queue: String,
}

impl Writer for QueueWriter {
    fn write(&mut self, numbers: std::ops::Range<u64>) {
        let channel = &self.link.channel;
        self.link.runtime.block_on(async {
            for number in numbers {
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let properties = BasicProperties::default().with_delivery_mode(2);
                let (key, body) = (self.queue.as_str().into(), body(number));
                // All confirmations are waited for below.
                drop(channel.basic_publish("".into(), key, options, body.as_bytes(), properties).await.unwrap());
            }
            assert_eq!(channel.wait_for_confirms().await.unwrap(), [], "unroutable");
        });
    }

    fn reconnect(&mut self) {
        self.link = confirming(&self.rabbit);
    }
}

struct QueueReader {
    link: Link,
    consumer: Consumer,
    rabbit: Rabbit,
    queue: String,
    prefetch: u16,
}

impl Reader for QueueReader {
    /// What is taken is acknowledged before it returns: a result that comes twice was published twice.
    fn read(&mut self, take: &mut dyn FnMut(Found)) {
        let (channel, consumer) = (&self.link.channel, &mut self.consumer);
        self.link.runtime.block_on(async {
            let mut last = None;
            for _ in 0..PREFETCH / 2 {
                let Ok(delivery) = tokio::time::timeout(QUIET, consumer.next()).await else { break };
                let delivery = delivery.expect("the output queue stays").unwrap();
                take(Found { number: number(&delivery.data), lane: 0, partition: 0 });
                last = Some(delivery.delivery_tag);
            }
            if let Some(tag) = last
                && self.prefetch != UNBOUNDED
            {
                channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.unwrap();
            }
        });
    }

    fn reconnect(&mut self) -> bool {
        (self.link, self.consumer) = consuming(&self.rabbit, &self.queue, self.prefetch);
        self.prefetch == UNBOUNDED
    }
}
