//! The command line: verbs and their flags, and how the end of each becomes an exit code.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::telemetry::log;

mod check;
mod demo;
mod dev;
mod embedded;
mod init;
mod invoke;
mod run;
mod worker;

/// Exit codes; `main` maps to them in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well; a worker has drained.
    Done = 0,
    /// It failed; an error says why.
    Failed = 1,
    /// The drain deadline passed with work abandoned.
    Abandoned = 75,
    /// The configuration, or code that it names, is not valid.
    BadConfig = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

#[derive(Debug, Parser)]
#[command(name = "lagless", version, about = "Functions on message queues", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    logs: Logs,
}

const EXAMPLES: &str = "\
Examples:
  lagless init shop                           write a small project into the folder shop
  lagless dev -c shop/lagless.toml            run it with an embedded broker, again on every change
  lagless run -c shop/lagless.toml            run it against the brokers it names
  lagless invoke shop.total -e event.json     run one event through a function

Exit codes: 0 done or drained, 1 failed, 2 wrong usage, 75 drain deadline passed with work abandoned, \
78 configuration or code not valid.";

#[derive(Debug, Args)]
struct Logs {
    /// What is logged, in the form of RUST_LOG (which wins where it is set) [default: info; for demo: off; for check: info,lapin=off]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// The form of log lines on standard error
    #[arg(long, global = true, default_value = "text")]
    log_format: log::Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read messages and run functions until stopped
    Run(run::Run),
    /// Validate configuration and code and print the effective settings; --connect looks at the brokers too
    Check(check::Check),
    /// Write a small working project
    Init(init::Init),
    /// Run one event through a function, here and now
    Invoke(invoke::Invoke),
    /// Run with an embedded broker, and start again when a file changes
    Dev(dev::Dev),
    /// See it work: an embedded broker, sample orders, a function and a dead-letter topic
    Demo(demo::Demo),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  lagless completions bash > /etc/bash_completion.d/lagless")]
    Completions { shell: clap_complete::Shell },
    /// The inside of a runner process
    #[command(hide = true)]
    Runner,
}

/// Where settings come from; shared by the verbs that need some.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// Configuration file; several are laid over each other in order
    #[arg(short, long = "config", value_name = "FILE", default_value = "lagless.toml")]
    config: Vec<PathBuf>,
    /// Set one key, over files and environment: service.shop.function.total.timeout=2s
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = cli.logs.log.as_deref().unwrap_or(match cli.verb {
        // Poison orders are part of the show, and each would be told several times.
        Verb::Demo(_) => "off",
        // What the client says of a missing queue or a refused login is in the answer, in clearer words.
        Verb::Check(_) => "info,lapin=off",
        _ => "info",
    });
    if let Err(reason) = log::start(cli.logs.log_format, filter) {
        eprintln!("error: {reason}");
        return ExitCode::from(2);
    }
    let ended = match cli.verb {
        Verb::Run(run) => run.run(),
        Verb::Check(check) => check.run(),
        Verb::Init(init) => init.run(),
        Verb::Invoke(invoke) => invoke.run(),
        Verb::Dev(dev) => dev.run(),
        Verb::Demo(demo) => demo.run(),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "lagless", &mut std::io::stdout());
            Ok(Exit::Done)
        }
        // `main.rs` has caught it before.
        Verb::Runner => Ok(Exit::Failed),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit.into()
        }
    }
}

/// A verb that cannot do its work: what to print, and how to exit.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    message: String,
    exit: Exit,
}

impl CliError {
    fn failed(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), exit: Exit::Failed }
    }

    fn bad_config(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), exit: Exit::BadConfig }
    }
}

/// The verb `runner`: standard input is the socket to the worker.
pub fn runner() -> ExitCode {
    lagless_javascript::runner::init();
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => lagless_javascript::runner::run(UnixStream::from(socket)),
        Err(error) => {
            eprintln!("error: a runner is started by a worker, with a socket as standard input: {error}");
            ExitCode::from(2)
        }
    }
}
