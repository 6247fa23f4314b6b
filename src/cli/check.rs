//! `lagless check`.

use clap::Args;

use super::{CliError, ConfigArgs, Exit, run};
use crate::config;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lagless check -c lagless.toml")]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Say only what is wrong
    #[arg(short, long)]
    quiet: bool,
}

impl Check {
    pub fn run(self) -> Result<Exit, CliError> {
        let settings = run::load(&self.config)?;
        run::load_code(&settings)?;
        if !self.quiet {
            println!("{}", config::show(&settings));
        }
        Ok(Exit::Done)
    }
}
