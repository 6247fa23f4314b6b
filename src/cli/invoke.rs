//! `lagless invoke`: one event through one function, in a runner of its own and under the function's limits.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::Args;
use lagless_javascript::package::{self, Package, PackageError};
use lagless_protocol::frames::{Failure, FailureClass, Level};
use lagless_protocol::process::RunnerCommand;

use self::event::LocalEvent;
use self::session::{BATCH, ISOLATE, Ran};
use super::{CliError, ConfigArgs, Exit, run};
use crate::config::{FunctionSettings, LogLevel, ServiceSettings, Settings};
use crate::function::{Function, LoadError};

mod event;
mod report;
mod session;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lagless invoke shop.total -e events/placed.json
  lagless invoke shop.total -c shop/lagless.toml -e - --json < event.json

The event is a JSON object, as the function is to see it. The result goes to standard output; what the function logs, \
why it failed and what it took go to standard error. Nothing is sent to any sink, and nothing is tried again.

With --json standard output is one line: \"result\", or \"error\" with \"class\", \"name\", \"message\" and \"stack\", and \
\"duration_ms\", \"cpu_ms\", \"memory_bytes\".")]
pub struct Invoke {
    /// The function to run
    #[arg(value_name = "SERVICE.FUNCTION")]
    function: String,
    /// File with the event; - is standard input
    #[arg(short, long, value_name = "FILE")]
    event: PathBuf,
    /// Print the result, or the error, as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Invoke {
    pub fn run(self) -> Result<Exit, CliError> {
        let settings = run::load(&self.config)?;
        let chosen = Chosen::find(&settings, &self.function)?;
        let invoke = self.read_event()?;
        match package::load(&chosen.settings.code) {
            Ok(package) => self.print(&chosen.run(package, &invoke)?),
            Err(error) => self.not_loaded(&chosen, error),
        }
    }

    /// The event as a frame.
    fn read_event(&self) -> Result<Vec<u8>, CliError> {
        let (name, text) = if self.event.as_os_str() == "-" {
            let mut text = String::new();
            ("standard input".to_owned(), io::stdin().read_to_string(&mut text).map(|_| text))
        } else {
            (self.event.display().to_string(), fs::read_to_string(&self.event))
        };
        let failed = |error: &dyn std::fmt::Display| CliError::failed(format!("{name}: {error}"));
        let event = LocalEvent::parse(&text.map_err(|error| failed(&error))?);
        event.and_then(|event| event.invoke(ISOLATE, BATCH)).map_err(|error| failed(&error))
    }

    fn print(&self, ran: &Ran) -> Result<Exit, CliError> {
        let mut out = io::stdout();
        if self.json {
            let line = report::line(ran)
                .map_err(|error| CliError::failed(format!("the runner sent a result that is no JSON: {error}")))?;
            writeln!(out, "{line}").map_err(CliError::failed)?;
        } else {
            match &ran.result {
                Ok(json) if json.is_empty() => eprintln!("no result: the function returned undefined"),
                Ok(json) => writeln!(out, "{}", report::pretty(json)).map_err(CliError::failed)?,
                Err(failure) => eprintln!("{}", report::failure(failure)),
            }
            eprintln!("{}", report::figures(ran));
        }
        Ok(if ran.result.is_ok() { Exit::Done } else { Exit::Failed })
    }

    /// Code that is not valid ends as it does elsewhere; with `--json` standard output says so too.
    fn not_loaded(&self, chosen: &Chosen<'_>, error: PackageError) -> Result<Exit, CliError> {
        if self.json {
            let name = if matches!(error, PackageError::Syntax { .. }) { "SyntaxError" } else { "Load" };
            self.print(&Ran::not_started(Failure::new(FailureClass::Load, name, error.to_string())))?;
        }
        let (service, function) = (chosen.service_name.to_owned(), chosen.name.to_owned());
        Err(CliError::bad_config(LoadError { service, function, error }))
    }
}

/// The function to run and where it belongs.
#[derive(Debug)]
struct Chosen<'a> {
    service_name: &'a str,
    service: &'a ServiceSettings,
    name: &'a str,
    settings: &'a FunctionSettings,
}

impl<'a> Chosen<'a> {
    fn find(settings: &'a Settings, wanted: &str) -> Result<Self, CliError> {
        let mut known = Vec::new();
        for (service_name, service) in &settings.services {
            for (name, settings) in &service.functions {
                let full_name = format!("{service_name}.{name}");
                if full_name == wanted {
                    return Ok(Self { service_name, service, name, settings });
                }
                known.push(full_name);
            }
        }
        Err(CliError::failed(unknown(wanted, &known)))
    }

    fn run(&self, package: Package, invoke: &[u8]) -> Result<Ran, CliError> {
        let function = Function { id: 0, service: self.service_name.to_owned(), name: self.name.to_owned(), package };
        let deploy = function.deploy(self.service, self.settings);
        let command = RunnerCommand::of_this_program().map_err(CliError::failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
        let lowest = self.service.log_level;
        let log = |level: Level, text: &str| {
            if log_level(level) <= lowest {
                eprintln!("{}: {text}", level.as_str());
            }
        };
        runtime
            .block_on(session::run(&command, deploy, invoke, log))
            .map_err(|error| CliError::failed(format!("cannot start a runner: {error}")))
    }
}

fn log_level(level: Level) -> LogLevel {
    match level {
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
    }
}

/// What to say of a function that is not there.
fn unknown(wanted: &str, known: &[String]) -> String {
    if known.is_empty() {
        return format!("there is no function {wanted:?}; the configuration defines none");
    }
    // One slip for every three letters; anything further away is a different word. The last part alone is half a name.
    let tolerance = (wanted.chars().count() / 3).max(1);
    let half = |name: &str| name.rsplit('.').next() == Some(wanted);
    let nearest = known
        .iter()
        .map(|name| (if half(name) { 0 } else { strsim::osa_distance(wanted, name) }, name))
        .filter(|(distance, _)| *distance <= tolerance)
        .min();
    let hint = nearest.map(|(_, name)| format!(" Did you mean {name:?}?")).unwrap_or_default();
    format!("there is no function {wanted:?}.{hint} Defined: {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::unknown;

    #[test]
    fn an_unknown_function_is_answered_with_those_there_are() {
        let known = ["shop.total".to_owned(), "shop.audit".to_owned()];
        let defined = "Defined: shop.total, shop.audit";
        assert_eq!(
            unknown("shop.totl", &known),
            format!("there is no function \"shop.totl\". Did you mean \"shop.total\"? {defined}")
        );
        assert_eq!(
            unknown("audit", &known),
            format!("there is no function \"audit\". Did you mean \"shop.audit\"? {defined}")
        );
        assert_eq!(unknown("invoice.print", &known), format!("there is no function \"invoice.print\". {defined}"));
        assert_eq!(unknown("a.b", &[]), "there is no function \"a.b\"; the configuration defines none");
    }
}
