//! The worker: the rooms wired together, run, and drained.
//!
//! Shutdown goes down the way of a message: subscriptions stop taking, what is in flight is settled and committed,
//! engines end when no subscription feeds them any more, runners end when no engine needs them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use indexmap::IndexMap;
use lagless_protocol::process::RunnerCommand;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::{
    KafkaSettings, MemorySettings, QueueSettings, ServiceSettings, Settings, ShapeKind, SinkSettings, SourceKind,
    SourceSettings, Target, TriggerSettings,
};
use crate::delivery::retry::RetryPolicy;
use crate::engine::{self, FunctionSetup, ServiceRunner, TriggerSetup};
use crate::event::{Envelope, Shape};
use crate::function::{Function, Registry};
use crate::scale::Bounds;
use crate::sink::Sink;
use crate::sink::amqp::{Address, AmqpSink};
use crate::sink::kafka::{KafkaProducer, KafkaSink};
use crate::sink::memory::{MemorySink, Output};
use crate::source::{self, Ended, Fault, Route, Stage, Subscription};
use crate::telemetry::Metrics;
use crate::trigger::{Rule, RuleError, TriggerEntry, Triggers};

/// How long subscriptions and engines get for their last steps once the drain deadline has passed. Longer than a
/// subscription may take for its last commit and for leaving its group, since what it has abandoned would go untold.
const LAST_STEPS: Duration = Duration::from_secs(7);

/// How long a runner may take to end.
const RUNNER_END: Duration = Duration::from_secs(3);

/// What a drain has achieved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Messages settled since the start.
    pub settled: u64,
    /// Messages read and let go in the drain before they were started: they will be read again.
    pub released: u64,
    /// Messages that were still being handled when the deadline passed: they will be read again, except from a memory
    /// source.
    pub abandoned: u64,
    /// A part of the worker has broken off: it ended by itself and should be started again.
    pub broken: bool,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("service.{service}.trigger.{trigger}.rule: {error}")]
    Rule {
        service: String,
        trigger: String,
        #[source]
        error: RuleError,
    },
    #[error(transparent)]
    Source(#[from] Fault),
    #[error("source {source_name}: cannot open its output: {error}")]
    Output {
        source_name: String,
        #[source]
        error: std::io::Error,
    },
}

/// How far a worker has got, for readiness and status lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Starting,
    Running,
    Draining,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    stage: watch::Sender<Stage>,
    status: watch::Sender<Status>,
    subscriptions: Vec<oneshot::Receiver<Ended>>,
    engines: Vec<JoinHandle<()>>,
    runners: Vec<JoinHandle<()>>,
    drain_timeout: Duration,
}

impl Worker {
    /// Wires everything up and starts reading. Must be called within a tokio runtime.
    pub fn start(
        settings: &Settings,
        registry: &Registry,
        runner: &RunnerCommand,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let (stage, stage_seen) = watch::channel(Stage::Run);
        let (status, _) = watch::channel(Status::Starting);
        let mut worker = Self {
            stage,
            status,
            subscriptions: Vec::new(),
            engines: Vec::new(),
            runners: Vec::new(),
            drain_timeout: settings.drain_timeout,
        };
        let mut wiring =
            Wiring { settings, registry, runner, metrics, sinks: Sinks::default(), entries: IndexMap::new() };
        for (name, service) in &settings.services {
            worker.start_service(name, service, &mut wiring)?;
        }
        let entries = std::mem::take(&mut wiring.entries);
        for ((source, group), entry) in entries {
            let ended = wiring.subscribe(&source, group, entry, stage_seen.clone())?;
            worker.subscriptions.push(ended);
        }
        worker.status.send_replace(Status::Running);
        Ok(worker)
    }

    fn start_service(
        &mut self,
        name: &str,
        service: &ServiceSettings,
        wiring: &mut Wiring<'_>,
    ) -> Result<(), StartError> {
        let functions: Vec<&Function> = wiring.registry.of_service(name).collect();
        if functions.is_empty() {
            return Ok(());
        }
        let deploys = functions.iter().map(|function| function.deploy(service, &service.functions[&function.name]));
        let (handle, task) = ServiceRunner::start(
            name.to_owned(),
            wiring.runner.clone(),
            deploys.collect(),
            wiring.metrics.runner(name),
        );
        self.runners.push(task);
        for function in functions {
            let triggers: Vec<_> = service.triggers.iter().filter(|(_, t)| t.function == function.name).collect();
            // Every entry carries a delivery that counts against the bound; some room is left for other news.
            let room = triggers.iter().map(|(_, t)| wiring.settings.sources[&t.source].in_flight.messages + 1024);
            let (inbox, intake) = mpsc::channel(room.sum::<usize>().clamp(1, mpsc_max()));
            let mut setups = Vec::new();
            for (index, (trigger_name, trigger)) in triggers.into_iter().enumerate() {
                setups.push(wiring.trigger(name, trigger_name, trigger)?);
                wiring.enter(name, trigger_name, trigger, Route::new(inbox.clone(), index))?;
            }
            let setup = function_setup(service, function, wiring.metrics);
            self.engines.push(engine::start(setup, setups, handle.clone(), intake));
        }
        Ok(())
    }

    /// How far the worker has got.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until `stop` completes or every input has ended, then drains.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> DrainReport {
        let mut report = DrainReport::default();
        tokio::select! {
            () = stop => {}
            () = all_ended(&mut self.subscriptions, &mut report) => {}
            () = any_broken(&mut self.engines) => {
                tracing::error!("the engine of a function has broken off: ending, so that a new worker can go on");
                report.broken = true;
            }
        }
        self.status.send_replace(Status::Draining);
        self.stage.send_replace(Stage::Drain);
        let drained = all_ended(&mut self.subscriptions, &mut report);
        if tokio::time::timeout(self.drain_timeout, drained).await.is_err() {
            tracing::warn!(timeout = ?self.drain_timeout, "the drain deadline has passed: giving up what still runs");
            self.stage.send_replace(Stage::End);
            let last = all_ended(&mut self.subscriptions, &mut report);
            if tokio::time::timeout(LAST_STEPS, last).await.is_err() {
                tracing::error!("a subscription does not end; leaving it behind");
                report.abandoned += self.subscriptions.len() as u64;
            }
        }
        // Engines end with the last subscription that feeds them; what is void by now they need not wait for.
        for engine in &mut self.engines {
            if tokio::time::timeout(Duration::from_millis(200), &mut *engine).await.is_err() {
                engine.abort();
            }
        }
        for runner in &mut self.runners {
            // A runner is killed once no engine holds a handle to it; it has nothing to lose.
            if tokio::time::timeout(RUNNER_END, &mut *runner).await.is_err() {
                runner.abort();
            }
        }
        report
    }
}

/// Tokio's own bound for a channel's capacity, far above any sensible number of deliveries.
fn mpsc_max() -> usize {
    tokio::sync::Semaphore::MAX_PERMITS >> 1
}

/// Completes when the task of an engine has panicked, which is a defect. Engines that end as they should are forgotten.
async fn any_broken(engines: &mut Vec<JoinHandle<()>>) {
    std::future::poll_fn(|cx| {
        let mut is_broken = false;
        engines.retain_mut(|engine| match Pin::new(engine).poll(cx) {
            Poll::Ready(ended) => {
                is_broken |= ended.is_err();
                false
            }
            Poll::Pending => true,
        });
        if is_broken { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn all_ended(subscriptions: &mut Vec<oneshot::Receiver<Ended>>, report: &mut DrainReport) {
    while let Some(subscription) = subscriptions.last_mut() {
        let ended = subscription.await.unwrap_or_else(|_| {
            tracing::error!("a subscription has broken off");
            // What it had in hand nobody knows, but the exit code must not say that all is well.
            Ended { abandoned: 1, ..Ended::default() }
        });
        report.settled += ended.settled;
        report.released += ended.released;
        report.abandoned += ended.abandoned;
        subscriptions.pop();
    }
}

fn function_setup(service: &ServiceSettings, function: &Function, metrics: &Metrics) -> FunctionSetup {
    let settings = &service.functions[&function.name];
    FunctionSetup {
        name: function.full_name(),
        id: function.id,
        concurrency: settings.concurrency,
        bounds: Bounds { min: settings.isolates.min, max: settings.isolates.max, idle: settings.isolates.idle },
        log_level: service.log_level,
        metrics: metrics.function(&function.service, &function.name),
    }
}

/// What is shared while the worker is wired up.
struct Wiring<'a> {
    settings: &'a Settings,
    registry: &'a Registry,
    runner: &'a RunnerCommand,
    metrics: &'a Metrics,
    sinks: Sinks,
    /// The triggers of each subscription, by source and group.
    entries: IndexMap<(String, String), Entry>,
}

#[derive(Default)]
struct Entry {
    triggers: Vec<TriggerEntry>,
    routes: Vec<Route>,
    topics: Vec<String>,
    start: Option<crate::config::Start>,
    queue: QueueSettings,
}

impl Wiring<'_> {
    fn trigger(&mut self, service: &str, name: &str, trigger: &TriggerSettings) -> Result<TriggerSetup, StartError> {
        let full_name = format!("{service}.{name}");
        let mut sink =
            |sink: &Option<SinkSettings>| sink.as_ref().map(|sink| self.sinks.get(sink, self.settings)).transpose();
        Ok(TriggerSetup {
            on_success: sink(&trigger.on_success)?,
            on_failure: sink(&trigger.on_failure)?,
            reply: if trigger.reply { self.sinks.replies(&trigger.source, self.settings)? } else { None },
            envelope: Envelope {
                shape: match trigger.shape {
                    ShapeKind::Lagless => Shape::Lagless,
                    ShapeKind::CloudEvents => Shape::CloudEvents,
                },
                source: trigger.source.clone(),
                trigger: full_name.clone(),
            },
            name: full_name,
            order: trigger.order,
            batch_size: trigger.batch_size,
            retry: RetryPolicy {
                attempts: trigger.retry.attempts,
                backoff: trigger.retry.backoff,
                max_backoff: trigger.retry.max_backoff,
            },
            on_exhausted: trigger.on_exhausted,
            metrics: self.metrics.trigger(service, name),
        })
    }

    /// Enters a trigger into its subscription.
    fn enter(&mut self, service: &str, name: &str, trigger: &TriggerSettings, route: Route) -> Result<(), StartError> {
        let rule = trigger.rule.as_ref().map(Rule::compile).transpose().map_err(|error| StartError::Rule {
            service: service.to_owned(),
            trigger: name.to_owned(),
            error,
        })?;
        let entry = self.entries.entry((trigger.source.clone(), trigger.group.clone())).or_default();
        entry.start = Some(trigger.start);
        entry.routes.push(route);
        if let Some(queue) = &trigger.queue {
            entry.queue.add(queue);
        }
        for topic in &trigger.topics {
            if !entry.topics.contains(topic) {
                entry.topics.push(topic.clone());
            }
        }
        entry.triggers.push(TriggerEntry { topics: trigger.topics.clone(), rule });
        Ok(())
    }

    fn subscribe(
        &mut self,
        source: &str,
        group: String,
        entry: Entry,
        stage: watch::Receiver<Stage>,
    ) -> Result<oneshot::Receiver<Ended>, StartError> {
        let settings = &self.settings.sources[source];
        let subscription = Subscription {
            metrics: self.metrics.subscription(source, &group),
            source: source.to_owned(),
            group,
            topics: entry.topics,
            start: entry.start.unwrap_or(crate::config::Start::Earliest),
            in_flight: settings.in_flight,
            commit_interval: settings.commit_interval,
            revoke_timeout: settings.revoke_timeout,
            on_out_of_range: settings.on_out_of_range,
            keep_max: SourceSettings::keep_max(settings.consumer_timeout),
            triggers: Triggers::new(source, entry.triggers),
            routes: entry.routes,
            stage,
        };
        match &settings.kind {
            SourceKind::Kafka(kafka) => Ok(source::kafka::spawn(subscription, kafka)?.ended),
            SourceKind::Amqp(amqp) => Ok(source::amqp::spawn(subscription, amqp, entry.queue)?),
            SourceKind::Memory(memory) => Ok(source::memory::spawn(subscription, memory)?),
        }
    }
}

/// Sinks and what they share, made when first asked for.
#[derive(Default)]
struct Sinks {
    made: HashMap<SinkSettings, Sink>,
    /// By source.
    replies: HashMap<String, Sink>,
    producers: HashMap<String, Arc<KafkaProducer>>,
    outputs: HashMap<String, Output>,
}

impl Sinks {
    fn get(&mut self, sink: &SinkSettings, settings: &Settings) -> Result<Sink, StartError> {
        if let Some(made) = self.made.get(sink) {
            return Ok(made.clone());
        }
        let source = &sink.source;
        let made = match (&settings.sources[source].kind, &sink.target) {
            (SourceKind::Amqp(amqp), Target::Exchange { exchange, routing_key, properties }) => {
                let address = Address {
                    exchange: exchange.clone(),
                    routing_key: Some(routing_key.clone()),
                    properties: properties.clone(),
                    headers: sink.headers.clone(),
                };
                Sink::Amqp(Arc::new(AmqpSink::start(source, amqp, address)?))
            }
            (SourceKind::Kafka(kafka), target) => {
                let made = KafkaSink::new(self.producer(source, kafka)?, source.clone(), target.name());
                Sink::Kafka(Arc::new(made.with_headers(texts(&sink.headers))))
            }
            (SourceKind::Memory(memory), target) => {
                let made = MemorySink::new(source, &target.name(), self.output(source, memory)?);
                Sink::Memory(Arc::new(made.with_headers(texts(&sink.headers))))
            }
            (SourceKind::Amqp(_), Target::Topic(topic)) => {
                let reason = format!("it has no topics, and {topic:?} is to be written to");
                return Err(Fault::Client { source_name: source.clone(), reason }.into());
            }
        };
        self.made.insert(sink.clone(), made.clone());
        Ok(made)
    }

    /// The way by which senders of a source's messages are answered; one connection for all of them.
    fn replies(&mut self, source: &str, settings: &Settings) -> Result<Option<Sink>, StartError> {
        if let Some(made) = self.replies.get(source) {
            return Ok(Some(made.clone()));
        }
        let SourceKind::Amqp(amqp) = &settings.sources[source].kind else { return Ok(None) };
        let made = Sink::Amqp(Arc::new(AmqpSink::start(source, amqp, Address::of_replies())?));
        self.replies.insert(source.to_owned(), made.clone());
        Ok(Some(made))
    }

    fn producer(&mut self, source: &str, settings: &KafkaSettings) -> Result<Arc<KafkaProducer>, StartError> {
        if let Some(producer) = self.producers.get(source) {
            return Ok(producer.clone());
        }
        let producer = Arc::new(KafkaProducer::connect(source, settings)?);
        self.producers.insert(source.to_owned(), producer.clone());
        Ok(producer)
    }

    fn output(&mut self, source: &str, settings: &MemorySettings) -> Result<Output, StartError> {
        if let Some(output) = self.outputs.get(source) {
            return Ok(output.clone());
        }
        let output = Output::open(settings.output.as_deref())
            .map_err(|error| StartError::Output { source_name: source.to_owned(), error })?;
        self.outputs.insert(source.to_owned(), output.clone());
        Ok(output)
    }
}

/// Headers of a sink that knows no other types.
fn texts(headers: &[(String, serde_json::Value)]) -> Vec<(String, Option<Vec<u8>>)> {
    headers.iter().map(|(name, value)| (name.clone(), value.as_str().map(Into::into))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscription_that_breaks_off_does_not_count_as_well_ended() {
        let (well, broken) = (oneshot::channel(), oneshot::channel::<Ended>());
        well.0.send(Ended { settled: 3, released: 2, abandoned: 0 }).unwrap();
        drop(broken.0);
        let mut report = DrainReport::default();
        all_ended(&mut vec![well.1, broken.1], &mut report).await;
        assert_eq!(report, DrainReport { settled: 3, released: 2, abandoned: 1, broken: false });
    }

    #[tokio::test]
    async fn an_engine_that_panics_is_noticed_and_one_that_ends_is_not() {
        let (ends, panics) = (oneshot::channel::<()>(), oneshot::channel::<()>());
        let ended = tokio::spawn(async move { assert!(ends.1.await.is_err()) });
        let broken = tokio::spawn(async move { panics.1.await.expect("this engine is to panic") });
        let mut engines = vec![ended, broken];
        drop(ends.0);
        drop(panics.0);
        any_broken(&mut engines).await;
        assert!(engines.len() < 2);
    }
}
