//! A real RabbitMQ: the one that all tests share, or one of a test's own that it may stop.

use std::process::Stdio;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::runtime::Runtime;

use super::node::Node;
use super::project::{Project, case};
use super::proxy::Proxy;
use super::wait::{SOON, WORK, eventually};
use super::worker::Worker;
use crate::verifier::{self, Id, Report, Returned, Sent};

/// A server to talk to.
#[derive(Debug, Clone)]
pub struct Rabbit {
    pub url: String,
}

/// A connection of a test's own.
pub struct Link {
    pub runtime: Runtime,
    pub channel: Channel,
    _connection: Connection,
}

impl Rabbit {
    /// The server that `make test` has started, or that the user has named.
    pub fn shared() -> Self {
        let url = std::env::var("AMQP_URL")
            .expect("this test needs RabbitMQ: run `make test`, which starts one, or set AMQP_URL to amqp://host:port");
        Self { url }
    }

    /// The same server through a proxy, with more for the URL's query: `heartbeat=2`.
    pub fn through(&self, proxy: &Proxy, query: &str) -> Self {
        let url = self.url.replace(&self.address(), &proxy.address().to_string());
        Self { url: format!("{url}?{query}") }
    }

    /// Host and port.
    pub fn address(&self) -> String {
        let host = self.url.rsplit('@').next().and_then(|rest| rest.split('/').next());
        host.expect("amqp://user:password@host:port/vhost").to_owned()
    }

    pub fn link(&self) -> Link {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            (connection, channel)
        });
        Link { runtime, channel, _connection: connection }
    }

    /// A durable queue with arguments.
    pub fn create_queue(&self, name: &str, arguments: &[(&str, &str)]) {
        let link = self.link();
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        link.runtime.block_on(link.channel.queue_declare(name.into(), options, table(arguments))).unwrap();
    }

    pub fn create_exchange(&self, name: &str, kind: ExchangeKind) {
        self.create_exchange_with(name, kind, &[]);
    }

    pub fn create_exchange_with(&self, name: &str, kind: ExchangeKind, arguments: &[(&str, &str)]) {
        let link = self.link();
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declaring = link.channel.exchange_declare(name.into(), kind, options, table(arguments));
        link.runtime.block_on(declaring).unwrap();
    }

    pub fn delete_exchange(&self, name: &str) {
        let link = self.link();
        link.runtime.block_on(link.channel.exchange_delete(name.into(), ExchangeDeleteOptions::default())).unwrap();
    }

    pub fn has_exchange(&self, name: &str) -> bool {
        let link = self.link();
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let table = FieldTable::default();
        link.runtime.block_on(link.channel.exchange_declare(name.into(), ExchangeKind::Topic, options, table)).is_ok()
    }

    pub fn bind_queue(&self, queue: &str, exchange: &str, routing_key: &str) {
        let link = self.link();
        let (options, table) = (QueueBindOptions::default(), FieldTable::default());
        let binding = link.channel.queue_bind(queue.into(), exchange.into(), routing_key.into(), options, table);
        link.runtime.block_on(binding).unwrap();
    }

    pub fn delete_queue(&self, name: &str) {
        let link = self.link();
        link.runtime.block_on(link.channel.queue_delete(name.into(), QueueDeleteOptions::default())).unwrap();
    }

    /// Publishes bodies, and waits until the server has them all.
    pub fn publish(&self, exchange: &str, routing_key: &str, bodies: impl Iterator<Item = String>) {
        let bodies = bodies.map(|body| (body, BasicProperties::default().with_delivery_mode(2)));
        self.publish_with(exchange, routing_key, bodies);
    }

    pub fn publish_with(
        &self,
        exchange: &str,
        routing_key: &str,
        messages: impl Iterator<Item = (impl AsRef<[u8]>, BasicProperties)>,
    ) {
        let Link { runtime, channel, .. } = &self.link();
        runtime.block_on(async {
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            for (body, properties) in messages {
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let (exchange, key) = (exchange.into(), routing_key.into());
                let confirm = channel.basic_publish(exchange, key, options, body.as_ref(), properties).await.unwrap();
                drop(confirm);
            }
            assert_eq!(channel.wait_for_confirms().await.unwrap(), [], "unroutable");
        });
    }

    /// Messages ready in a queue, those in hand of consumers not counted; `None` where there is no queue.
    pub fn ready(&self, queue: &str) -> Option<u32> {
        let link = self.link();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = link.runtime.block_on(link.channel.queue_declare(queue.into(), options, FieldTable::default()));
        asked.ok().map(|queue| queue.message_count())
    }

    /// Waits until a queue holds at least so many messages.
    #[track_caller]
    pub fn until_ready(&self, queue: &str, count: u32) {
        eventually(&format!("{count} messages in {queue}"), SOON, || match self.ready(queue) {
            Some(ready) if ready >= count => Ok(()),
            ready => Err(format!("{ready:?}")),
        });
    }

    /// Takes the first message of a queue and refuses it, so that it goes back, several times over.
    pub fn hand_back(&self, queue: &str, times: u32) {
        let Link { runtime, channel, .. } = &self.link();
        runtime.block_on(async {
            for _ in 0..times {
                // What has been refused is not back at once.
                let message = loop {
                    let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
                    if let Some(message) = got {
                        break message;
                    }
                };
                message.reject(BasicRejectOptions { requeue: true }).await.unwrap();
            }
            channel.close(200, "done".into()).await.unwrap();
        });
    }

    /// Takes all messages off a queue.
    pub fn take_all(&self, queue: &str) -> Vec<Delivery> {
        let Link { runtime, channel, .. } = &self.link();
        runtime.block_on(async {
            channel.basic_qos(5000, BasicQosOptions::default()).await.unwrap();
            let options = BasicConsumeOptions::default();
            let mut consumer =
                channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
            let mut taken = Vec::new();
            // How many of them are acknowledged: no tag twice, and none is kept over a pause.
            let mut known = 0;
            loop {
                let next = match consumer.next().now_or_never() {
                    Some(next) if taken.len() - known < 1000 => next,
                    next => {
                        if known < taken.len() {
                            acknowledge(channel, taken.last()).await;
                            known = taken.len();
                        }
                        match next {
                            Some(next) => next,
                            None => match tokio::time::timeout(Duration::from_secs(1), consumer.next()).await {
                                Ok(next) => next,
                                Err(_) => break,
                            },
                        }
                    }
                };
                let Some(Ok(message)) = next else { break };
                taken.push(message);
            }
            // Only an answer says that the server has heard of it.
            channel.close(200, "done".into()).await.unwrap();
            taken
        })
    }
}

fn table(arguments: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert((*key).into(), AMQPValue::LongString((*value).into()));
    }
    table
}

async fn acknowledge(channel: &Channel, last: Option<&Delivery>) {
    if let Some(last) = last {
        channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }).await.unwrap();
    }
}

/// A server of a test's own.
#[derive(Debug)]
pub struct OwnRabbit {
    pub node: Node,
    pub rabbit: Rabbit,
}

impl OwnRabbit {
    pub fn start() -> Self {
        let (node, url) = Node::start("rabbitmq", &[]);
        Self { node, rabbit: Rabbit { url } }
    }

    /// Runs `rabbitmqctl`.
    pub fn ctl(&self, arguments: &[&str]) {
        self.node.run("ctl", arguments);
    }
}

/// Numbered messages from one queue through one function to another queue.
#[derive(Debug)]
pub struct Queues {
    pub rabbit: Rabbit,
    pub name: String,
}

impl Queues {
    pub fn on(rabbit: &Rabbit, name: &str) -> Self {
        Self::with_input(rabbit, name, &[])
    }

    /// The input queue has these arguments.
    pub fn with_input(rabbit: &Rabbit, name: &str, arguments: &[(&str, &str)]) -> Self {
        let queues = Self { rabbit: rabbit.clone(), name: format!("{name}-{:08x}", rand::random::<u32>()) };
        rabbit.create_queue(&queues.input(), arguments);
        rabbit.create_queue(&queues.output(), &[]);
        queues
    }

    pub fn input(&self) -> String {
        format!("{}.in", self.name)
    }

    pub fn output(&self) -> String {
        format!("{}.out", self.name)
    }

    /// A project with this code, and more lines for service and trigger.
    pub fn project_with(&self, code: &str, service: &str, trigger: &str) -> Project {
        let (url, input, output) = (&self.rabbit.url, self.input(), self.output());
        let config = format!(
            r#"
            admin = "127.0.0.1:0"
            [source.rabbit]
            kind = "amqp"
            url = "{url}"
            [service.it]
            {service}
            [service.it.function.f]
            code = "f.ts"
            [service.it.trigger.t]
            function = "f"
            source = "rabbit"
            queue = "{input}"
            retry = {{ attempts = 20, backoff = "5ms" }}
            on_success = {{ amqp = "rabbit", routing_key = "{output}" }}
            {trigger}
            "#
        );
        Project::new(&config).with("f.ts", code)
    }

    /// A project with a function of `tests/cases`.
    pub fn project(&self, function: &str, trigger: &str) -> Project {
        self.project_with(&case(function), "env = { WAIT_MS = \"2\" }", trigger)
    }

    pub fn start(&self, project: &Project) -> Worker {
        Worker::start(project.command(&["run"]), Stdio::null())
    }

    pub fn produce(&self, seqs: std::ops::Range<u64>) {
        let body = |seq: u64| format!(r#"{{"key":"k{}","seq":{seq}}}"#, seq % 97);
        self.rabbit.publish("", &self.input(), seqs.map(body));
    }

    /// Waits until the queue is empty and nothing is in the workers' hands.
    #[track_caller]
    pub fn until_complete(&self, workers: &mut [Worker]) {
        eventually("an empty queue and idle workers", WORK, || {
            let ready = self.rabbit.ready(&self.input());
            let lag: f64 =
                workers.iter_mut().map(|worker| worker.metric("lagless_subscription_lag_messages", "")).sum();
            if ready == Some(0) && lag == 0.0 { Ok(()) } else { Err(format!("{ready:?} ready, {lag} to do")) }
        });
    }

    /// Compares the results with the messages 0 to `sent`.
    pub fn report(&self, sent: u64) -> Report {
        let id = |seq: u64| Id { key: format!("k{}", seq % 97), seq };
        let input: Vec<Sent> = (0..sent).map(|seq| Sent { partition: 0, id: id(seq) }).collect();
        let output: Vec<Returned> = self
            .rabbit
            .take_all(&self.output())
            .iter()
            .map(|message| {
                let json: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
                Returned {
                    partition: 0,
                    id: Id { key: json["key"].as_str().unwrap().to_owned(), seq: json["seq"].as_u64().unwrap() },
                    attempt: u32::try_from(json["attempt"].as_u64().unwrap()).unwrap(),
                    started_us: json["started_us"].as_u64().unwrap(),
                }
            })
            .collect();
        verifier::compare(&input, &output)
    }

    #[track_caller]
    pub fn expect_none_lost(&self, sent: u64) -> Report {
        let report = self.report(sent);
        assert!(report.is_complete(), "{}: {report}", self.name);
        assert_eq!(self.rabbit.ready(&self.input()), Some(0), "{}", self.name);
        report
    }
}
