//! `lagless dev`: the project on an embedded broker, started again whenever one of its files changes.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, ThreadedProducer};
use tokio::sync::{mpsc, watch as value};
use tokio::time::Instant;

use self::printer::Printer;
use self::project::{Project, Refused};
use self::watch::{Interest, Watch};
use super::embedded::Quiet;
use super::worker::RunningWorker;
use super::{CliError, ConfigArgs, Exit, embedded, run};
use crate::admin;
use crate::app::{DrainReport, Status};
use crate::config::{MemorySettings, Settings, SourceKind};
use crate::source::kafka::embedded::EmbeddedBroker;
use crate::telemetry::Metrics;

mod input;
mod printer;
mod project;
mod watch;

/// How long a worker is given to join its groups before another one takes over: one that goes away earlier stays in
/// them as a ghost, for which the embedded broker waits much longer.
const JOIN_TIME: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lagless dev
  lagless dev -c shop/lagless.toml
  lagless dev -c shop/lagless.toml < shop/messages.jsonl

Every Kafka source is replaced by one embedded broker, which starts empty and forgets everything at the end. Any Kafka \
client can use it; its address is printed. A line on standard input is published:
  {\"type\": \"order.placed\"}       JSON goes to the first trigger's topic
  orders.eu: {\"type\": \"...\"}     a topic and any text go to that topic
Records that arrive in the topics of on_success and on_failure are shown as `-> TOPIC KEY VALUE`.

When the configuration, a rule or the code changes, what is in flight is finished and the new version takes over; a \
version that is not valid is told and changes nothing. Ctrl-C drains.")]
pub struct Dev {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Dev {
    pub fn run(self) -> Result<Exit, CliError> {
        let project = Project::load(&self.config).map_err(|refused| refused.error)?;
        run::runtime()?.block_on(async {
            let mut session = Session::open(self.config, &project.settings)?;
            let lines = if takes_input(&project.settings) { None } else { input::lines().ok() };
            session.watch(project.interest());
            session.start(project)?;
            session.introduce();
            session.live(lines).await
        })
    }
}

/// Everything that outlives a version of the project.
struct Session {
    config: ConfigArgs,
    broker: EmbeddedBroker,
    producer: ThreadedProducer<Quiet>,
    printer: Printer,
    watch: Watch,
    metrics: Arc<Metrics>,
    status: value::Sender<Status>,
    /// The topics that the broker has by now.
    topics: Vec<String>,
    /// Those that are shown.
    shown: Vec<String>,
    /// Where messages go that name no topic.
    first_topic: Option<String>,
    worker: Option<RunningWorker>,
    /// Before this the worker is not replaced.
    joined_at: Instant,
    /// What was wrong with the version last seen; told once.
    wrong: Option<String>,
}

impl Session {
    fn open(config: ConfigArgs, settings: &Settings) -> Result<Self, CliError> {
        let broker = embedded::start()?;
        let producer = embedded::client(broker.bootstrap()).create_with_context(Quiet).map_err(CliError::failed)?;
        let printer = Printer::start(broker.bootstrap()).map_err(CliError::failed)?;
        let watch = Watch::start().map_err(|error| CliError::failed(format!("cannot watch files: {error}")))?;
        let metrics = Arc::<Metrics>::default();
        let (status, _) = value::channel(Status::Starting);
        if let Some(address) = settings.admin {
            // It serves all versions, since its port is taken once.
            let bound = admin::serve(address, metrics.clone(), status.subscribe())
                .map_err(|error| CliError::failed(format!("admin = \"{address}\": {error}")))?;
            say(&format!("health and metrics at http://{bound}"));
        }
        Ok(Self {
            config,
            broker,
            producer,
            printer,
            watch,
            metrics,
            status,
            topics: Vec::new(),
            shown: Vec::new(),
            first_topic: None,
            worker: None,
            joined_at: Instant::now(),
            wrong: None,
        })
    }

    fn introduce(&self) {
        let bootstrap = self.broker.bootstrap();
        say(&format!("embedded Kafka-compatible broker at {bootstrap}, topics: {}", self.topics.join(", ")));
        if let Some(topic) = &self.first_topic {
            say(&format!(
                "publish with any Kafka client, or type JSON for topic {topic}, or `TOPIC: VALUE`; \
                 the first message takes about 3 s"
            ));
        }
    }

    /// Watches files; when that fails the session goes on without.
    fn watch(&mut self, interest: Interest) {
        if let Err(error) = self.watch.turn_to(interest) {
            tracing::error!(%error, "not all files can be watched: changes of them go unnoticed");
        }
    }

    /// Starts a version; none may be running.
    fn start(&mut self, project: Project) -> Result<(), CliError> {
        let Project { mut settings, registry } = project;
        embedded::point_at(&mut settings, self.broker.bootstrap());
        embedded::hasten_rejoining(&mut settings);
        settings.admin = None;
        let (inputs, outputs) = (embedded::inputs(&settings), embedded::outputs(&settings));
        for topic in inputs.iter().chain(&outputs) {
            if !self.topics.contains(topic) {
                self.broker
                    .create_topic(topic, embedded::PARTITIONS)
                    .map_err(|reason| CliError::failed(format!("topic {topic}: {reason}")))?;
                self.topics.push(topic.clone());
            }
        }
        let new: Vec<String> = outputs.into_iter().filter(|topic| !self.shown.contains(topic)).collect();
        self.shown.extend_from_slice(&new);
        self.printer.add(new);
        self.first_topic = inputs.into_iter().next();
        self.joined_at = Instant::now() + JOIN_TIME;
        self.worker = Some(RunningWorker::start(settings, registry, self.metrics.clone()));
        self.status.send_replace(Status::Running);
        Ok(())
    }

    async fn live(&mut self, mut lines: Option<mpsc::Receiver<String>>) -> Result<Exit, CliError> {
        // A task of its own hears a second signal, which ends the process, whatever goes on here.
        let mut stopped = tokio::spawn(run::signals());
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = self.watch.changed(self.joined_at) => self.reload().await,
                line = next_line(&mut lines) => self.publish(&line),
                ended = ended(&mut self.worker) => self.note_end(ended),
            }
        }
        Ok(run::exit_of(self.drain().await?))
    }

    async fn drain(&mut self) -> Result<DrainReport, CliError> {
        self.status.send_replace(Status::Draining);
        match self.worker.take() {
            Some(worker) => worker.drain().await,
            None => Ok(DrainReport::default()),
        }
    }

    async fn reload(&mut self) {
        let project = match Project::load(&self.config) {
            Ok(project) => project,
            Err(refused) => return self.refuse(refused),
        };
        self.wrong = None;
        say("changed: starting again (the first message takes about 3 s)");
        self.watch(project.interest());
        if let Err(error) = self.drain().await {
            complain(&error.to_string());
        }
        if let Err(error) = self.start(project) {
            complain(&error.to_string());
        }
    }

    fn refuse(&mut self, Refused { error, files }: Refused) {
        let known: Vec<PathBuf> = self.watch.files().into_iter().chain(files).collect();
        self.watch(Interest::new(known, true));
        let wrong = error.to_string();
        if self.wrong.as_ref() != Some(&wrong) {
            let consequence = if self.worker.is_some() { "the version before goes on" } else { "nothing runs" };
            complain(&format!("{wrong}\n{consequence}"));
            self.wrong = Some(wrong);
        }
    }

    fn publish(&self, line: &str) {
        match self.try_publish(line) {
            Ok(()) => {}
            Err(reason) => complain(&reason),
        }
    }

    fn try_publish(&self, line: &str) -> Result<(), String> {
        let Some(typed) = input::parse(line)? else { return Ok(()) };
        let topic = typed
            .topic
            .or(self.first_topic.as_deref())
            .ok_or_else(|| "not published: no trigger reads from Kafka".to_owned())?;
        if !self.topics.iter().any(|known| known == topic) {
            return Err(format!("not published: no topic {topic}; there are {}", self.topics.join(", ")));
        }
        let record = BaseRecord::<(), str>::to(topic).payload(typed.value);
        self.producer.send(record).map_err(|(error, _): (KafkaError, _)| format!("not published: {error}"))
    }

    fn note_end(&mut self, ended: Result<DrainReport, CliError>) {
        self.worker = None;
        self.status.send_replace(Status::Draining);
        match ended {
            Ok(_) => say("all inputs have ended; waiting for a change, or Ctrl-C"),
            Err(error) => complain(&error.to_string()),
        }
    }
}

async fn next_line(lines: &mut Option<mpsc::Receiver<String>>) -> String {
    if let Some(open) = lines {
        if let Some(line) = open.recv().await {
            return line;
        }
        *lines = None;
    }
    std::future::pending().await
}

async fn ended(worker: &mut Option<RunningWorker>) -> Result<DrainReport, CliError> {
    match worker {
        Some(worker) => worker.ended().await,
        None => std::future::pending().await,
    }
}

/// Whether a source of the project itself reads standard input.
fn takes_input(settings: &Settings) -> bool {
    let reads = |kind: &SourceKind| matches!(kind, SourceKind::Memory(MemorySettings { input: None, .. }));
    settings.sources.values().any(|source| reads(&source.kind))
}

fn say(text: &str) {
    // Nobody may be reading any more.
    let _ = writeln!(io::stdout(), "{text}");
}

fn complain(text: &str) {
    // Nobody may be reading any more.
    let _ = writeln!(io::stderr(), "error: {text}");
}
