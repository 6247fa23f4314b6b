//! `lagless run`.

use std::io;
use std::sync::Arc;

use clap::Args;
use lagless_protocol::process::RunnerCommand;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, ConfigArgs, Exit};
use crate::admin;
use crate::app::{DrainReport, Worker};
use crate::config::{self, LineFormat, MemorySettings, Settings, SourceKind};
use crate::function::Registry;
use crate::telemetry::Metrics;
use crate::trigger::Rule;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lagless run -c lagless.toml
  lagless run -c base.toml -c production.toml --set admin=0.0.0.0:9464
  lagless run -c lagless.toml --stdin < orders.jsonl

With --stdin every source is replaced by standard input, one message per line, and every sink by standard output; \
the worker ends when all lines are settled.

SIGTERM and SIGINT drain: nothing new is read, what is in flight is finished, settled and committed within \
drain_timeout. A second signal exits at once.")]
pub struct Run {
    #[command(flatten)]
    config: ConfigArgs,
    /// Read messages from standard input instead of the brokers, and write results to standard output
    #[arg(long)]
    stdin: bool,
    /// What a line of standard input holds
    #[arg(long, value_name = "FORMAT", default_value = "value", requires = "stdin")]
    stdin_format: StdinFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum StdinFormat {
    /// The message's value
    Value,
    /// An object with topic, key, headers, and value, text or base64
    Message,
}

impl Run {
    pub fn run(self) -> Result<Exit, CliError> {
        let mut settings = load(&self.config)?;
        if self.stdin {
            use_stdin(&mut settings, self.stdin_format)?;
        }
        let registry = load_code(&settings)?;
        // Signals are listened for before anything starts.
        let working = async { work(&settings, &registry, Arc::default(), signals()).await };
        let report = runtime()?.block_on(working)?;
        Ok(exit_of(report))
    }
}

/// Reads the settings that the flags name.
pub fn load(args: &ConfigArgs) -> Result<Settings, CliError> {
    let sources = config::Sources {
        files: args.config.clone(),
        overrides: args.set.clone(),
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    };
    config::load(&sources).map_err(CliError::bad_config)
}

/// Compiles all rules and reads the code of all functions; all that is wrong is reported at once.
pub fn load_code(settings: &Settings) -> Result<Registry, CliError> {
    let mut errors = Vec::new();
    for (service, service_settings) in &settings.services {
        for (trigger, trigger_settings) in &service_settings.triggers {
            if let Some(Err(error)) = trigger_settings.rule.as_ref().map(Rule::compile) {
                errors.push(format!("service.{service}.trigger.{trigger}.rule: {error}"));
            }
        }
    }
    let registry = Registry::load(settings).unwrap_or_else(|refused| {
        errors.extend(refused.iter().map(ToString::to_string));
        Registry::default()
    });
    if errors.is_empty() { Ok(registry) } else { Err(CliError::bad_config(errors.join("\n"))) }
}

pub fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::failed)
}

/// Runs a worker until `stop` completes or its inputs end.
pub async fn work(
    settings: &Settings,
    registry: &Registry,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
) -> Result<DrainReport, CliError> {
    let runner = RunnerCommand::of_this_program().map_err(CliError::failed)?;
    let worker = Worker::start(settings, registry, &runner, &metrics).map_err(CliError::bad_config)?;
    if let Some(address) = settings.admin {
        let bound = admin::serve(address, metrics, worker.status())
            .map_err(|error| CliError::failed(format!("admin = \"{address}\": {error}")))?;
        tracing::info!("health and metrics at http://{bound}");
    }
    let report = worker.run(stop).await;
    let DrainReport { settled, released, abandoned, .. } = report;
    tracing::info!(settled, released, abandoned, "drained");
    Ok(report)
}

/// How a worker's end is told to whoever started it.
pub fn exit_of(report: DrainReport) -> Exit {
    match report {
        DrainReport { broken: true, .. } => Exit::Failed,
        DrainReport { abandoned: 1.., .. } => Exit::Abandoned,
        _ => Exit::Done,
    }
}

/// Completes with the first SIGTERM or SIGINT from now on; the second ends the process at once. Must be called within a
/// tokio runtime.
pub fn signals() -> impl Future<Output = ()> {
    let listening = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    stopped(listening)
}

async fn stopped(listening: (io::Result<Signal>, io::Result<Signal>)) {
    let (Ok(mut terminate), Ok(mut interrupt)) = listening else {
        tracing::error!("cannot listen for signals; the worker ends only when its inputs do");
        return std::future::pending().await;
    };
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    tracing::info!("draining; a second signal exits at once");
    tokio::spawn(async move {
        next().await;
        #[expect(clippy::disallowed_methods, reason = "the user is impatient, and runners end with their sockets")]
        std::process::exit(Exit::Failed as i32);
    });
}

/// Replaces every source by standard input and output.
fn use_stdin(settings: &mut Settings, format: StdinFormat) -> Result<(), CliError> {
    let mut groups: Vec<(&str, &str)> = settings
        .services
        .values()
        .flat_map(|service| service.triggers.values())
        .map(|trigger| (trigger.source.as_str(), trigger.group.as_str()))
        .collect();
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > 1 {
        return Err(CliError::bad_config(format!(
            "--stdin needs all triggers to share one source and group; this configuration has {}",
            groups.iter().map(|(source, group)| format!("{source}/{group}")).collect::<Vec<_>>().join(", ")
        )));
    }
    for source in settings.sources.values_mut() {
        source.kind = SourceKind::Memory(MemorySettings {
            input: None,
            output: None,
            format: match format {
                StdinFormat::Value => LineFormat::Value,
                StdinFormat::Message => LineFormat::Message,
            },
        });
    }
    settings.admin = None;
    Ok(())
}
