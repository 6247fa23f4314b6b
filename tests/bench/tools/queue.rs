//! Queues of RabbitMQ: filled, counted, and emptied by a Lagless worker.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::figures::Figures;
use super::orders::write_order;
use super::process::{Cpu, Process};
use super::{PATIENCE, procfs};

/// Messages that a server hands out ahead of their acknowledgements.
const PREFETCH: u16 = 1_000;
/// Messages that one acknowledgement covers.
const ACK_EACH: u64 = 250;
/// Publishes between two waits for the server's word.
const CONFIRM_EACH: u64 = 2_000;
/// How often is looked whether a worker has begun, or is done.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_millis(50);

/// A queue, and how many messages are in it.
#[derive(Debug, Args)]
struct Subject {
    /// Where the server is
    #[arg(long)]
    url: String,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    messages: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    Classic,
    Quorum,
}

#[derive(Debug, Args)]
pub struct Fill {
    #[command(flatten)]
    subject: Subject,
    #[arg(long = "type")]
    kind: Type,
}

#[derive(Debug, Args)]
pub struct Drop {
    /// Where the server is
    #[arg(long)]
    url: String,
    #[arg(long)]
    queue: String,
}

#[derive(Debug, Args)]
pub struct Count {
    #[command(flatten)]
    subject: Subject,
}

#[derive(Debug, Args)]
pub struct Worker {
    #[command(flatten)]
    subject: Subject,
    /// Also print the CPU time of each thread, to standard error
    #[arg(long)]
    threads: bool,
    /// The command to run; the address of its metrics page is added to it
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs what has to do with one channel, on this thread.
fn on_channel<T>(url: &str, work: impl AsyncFnOnce(&Channel) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = within(Connection::connect(url, ConnectionProperties::default())).await?;
        let channel = connection.create_channel().await?;
        let result = work(&channel).await;
        connection.close(200, "done".into()).await?;
        result
    })
}

async fn within<T>(work: impl Future<Output = lapin::Result<T>>) -> Result<T> {
    Ok(tokio::time::timeout(PATIENCE, work).await.with_context(|| format!("no answer within {PATIENCE:?}"))??)
}

/// Messages that no consumer has been handed yet. Whatever was sent on the channel before has been done by then.
async fn ready(channel: &Channel, queue: &str) -> Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(within(channel.queue_declare(queue.into(), options, FieldTable::default())).await?.message_count())
}

impl Fill {
    pub fn run(self) -> Result<()> {
        let Subject { url, queue, messages } = &self.subject;
        on_channel(url, async |channel| {
            within(channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default())).await?;
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let mut arguments = FieldTable::default();
            if matches!(self.kind, Type::Quorum) {
                arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            }
            within(channel.queue_declare(queue.as_str().into(), options, arguments)).await?;
            within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            let mut value = String::new();
            for seq in 0..*messages {
                write_order(seq, &mut value);
                let properties =
                    BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
                let (options, body) = (BasicPublishOptions::default(), value.as_bytes());
                // Its confirmation is waited for below, with those of its neighbours.
                drop(channel.basic_publish("".into(), queue.as_str().into(), options, body, properties).await?);
                if (seq + 1) % CONFIRM_EACH == 0 {
                    within(channel.wait_for_confirms()).await?;
                }
            }
            within(channel.wait_for_confirms()).await?;
            let there = ready(channel, queue).await?;
            ensure!(u64::from(there) == *messages, "the queue holds {there} messages of {messages}");
            Ok(())
        })
    }
}

impl Drop {
    pub fn run(self) -> Result<()> {
        on_channel(&self.url, async |channel| {
            within(channel.queue_delete(self.queue.as_str().into(), QueueDeleteOptions::default())).await?;
            Ok(())
        })
    }
}

impl Count {
    pub fn run(self) -> Result<()> {
        let Subject { url, queue, messages } = &self.subject;
        let figures = on_channel(url, async |channel| {
            within(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
            let (since, cpu) = (Instant::now(), procfs::own_cpu()?);
            let options = BasicConsumeOptions::default();
            let mut consumer =
                within(channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())).await?;
            for counted in 1..=*messages {
                let Some(message) = consumer.next().await else { bail!("the consumer has ended at {counted}") };
                let message = message?;
                if counted % ACK_EACH == 0 || counted == *messages {
                    message.acker.ack(BasicAckOptions { multiple: true }).await?;
                }
            }
            // Answered after the last acknowledgement was taken in.
            let left = ready(channel, queue).await?;
            ensure!(left == 0, "{left} messages are left");
            Ok(Figures {
                messages: *messages,
                seconds: since.elapsed().as_secs_f64(),
                cpu_seconds: (procfs::own_cpu()? - cpu).as_secs_f64(),
                resident_bytes: procfs::resident(std::process::id())?.peak,
            })
        })?;
        figures.print()
    }
}

impl Worker {
    pub fn run(self) -> Result<()> {
        let messages = self.subject.messages;
        let mut process = Process::start(&self.command)?;
        process.wait_until(FIRST_LOOK, |process| process.metric("lagless_subscription_partitions") > 0)?;
        let (since, before) = (Instant::now(), Cpu::of(&process)?);
        process.wait_until(LOOK, |process| process.metric("lagless_subscription_settled_total") >= messages)?;
        let (seconds, after) = (since.elapsed().as_secs_f64(), Cpu::of(&process)?);
        let resident_bytes = process.peak_memory()?;
        process.stop()?;
        let Subject { url, queue, .. } = &self.subject;
        let left = on_channel(url, async |channel| ready(channel, queue).await)?;
        ensure!(left == 0, "all is settled, but {left} messages are back in the queue");
        if self.threads {
            after.print_threads_since(&before, messages);
        }
        Figures { messages, seconds, cpu_seconds: after.seconds_since(&before), resident_bytes }.print()
    }
}
