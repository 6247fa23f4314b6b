//! Logs: to standard error, as text for people or as JSON lines for machines.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The AMQP client warns of each message that comes back, with the whole of it; we say ourselves what matters.
const QUIET: &str = "lapin=error";

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Starts logging for the whole process. `filter` is in the form of `RUST_LOG`, which wins where it is set.
///
/// # Errors
/// When the filter cannot be understood, with the reason.
pub fn start(format: Format, filter: &str) -> Result<(), String> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(set) if !set.is_empty() => set,
        _ => filter.to_owned(),
    };
    // First, so that who names it wins.
    let whole = if filter == "off" { filter.clone() } else { format!("{QUIET},{filter}") };
    let filter = EnvFilter::try_new(&whole).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}
