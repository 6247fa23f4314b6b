//! `lagless check`: is the configuration valid, and with `--connect`: is everything there that it names.

use std::time::Duration;

use clap::Args;

use super::{CliError, ConfigArgs, Exit, run};
use crate::config;

mod connect;
mod report;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lagless check -c lagless.toml
  lagless check -c lagless.toml --connect
  lagless check -c lagless.toml --connect --timeout 3s --format json

With --connect the settings are not printed. Instead every source's servers are asked, one line for each thing: ok, \
problem, or unknown where it cannot be learned without changing something. Nothing is changed: no topic, queue or \
exchange is made, no group is joined, no message is read off or written.

With --format json standard output is one line: \"ok\", \"problem\", \"unknown\" (how many of each) and \"checks\", a list \
of objects with \"source\", \"what\", \"name\", \"result\" and \"detail\".

Exit codes: 0 all is well or unknown, 1 something is a problem, 78 configuration or code not valid.")]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Say only what is wrong
    #[arg(short, long)]
    quiet: bool,
    /// Also connect to every source, and look for everything that the triggers need there
    #[arg(long)]
    connect: bool,
    /// How long a connection may take for its answers
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time_limit, requires = "connect")]
    timeout: Duration,
    /// The form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "table", requires = "connect")]
    format: report::Format,
}

impl Check {
    pub fn run(self) -> Result<Exit, CliError> {
        let settings = run::load(&self.config)?;
        run::load_code(&settings)?;
        if self.connect {
            let checked = connect::check(&settings, self.timeout, self.quiet)?;
            report::print(&checked, self.format, self.quiet).map_err(CliError::failed)?;
            return Ok(if report::has_problem(&checked) { Exit::Failed } else { Exit::Done });
        }
        if !self.quiet {
            println!("{}", config::show(&settings));
        }
        Ok(Exit::Done)
    }
}

/// A duration that is worth waiting for.
fn time_limit(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|error| format!("{error}; expected a duration such as 10s"))?;
    let allowed = Duration::from_millis(1)..=Duration::from_secs(3600);
    if allowed.contains(&limit) { Ok(limit) } else { Err("expected a duration from 1ms to 1h".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_has_a_unit_and_bounds() {
        assert_eq!(time_limit("1500ms"), Ok(Duration::from_millis(1500)));
        for text in ["10", "0s", "2h", "soon"] {
            assert!(time_limit(text).is_err(), "{text}");
        }
    }
}
