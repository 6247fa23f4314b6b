//! `lagless check`.

use clap::Args;

use super::{CliError, ConfigArgs, Exit, run};
use crate::config;
use crate::trigger::Rule;

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
        let mut errors = Vec::new();
        for (service, service_settings) in &settings.services {
            for (trigger, trigger_settings) in &service_settings.triggers {
                if let Some(Err(error)) = trigger_settings.rule.as_ref().map(Rule::compile) {
                    errors.push(format!("service.{service}.trigger.{trigger}.rule: {error}"));
                }
            }
        }
        if let Err(error) = run::load_code(&settings) {
            errors.push(error.to_string());
        }
        if !errors.is_empty() {
            return Err(CliError::bad_config(errors.join("\n")));
        }
        if !self.quiet {
            println!("{}", config::show(&settings));
        }
        Ok(Exit::Done)
    }
}
