//! `lagless dev`.

use clap::Args;

use super::{CliError, Exit};

#[derive(Debug, Args)]
pub struct Dev {}

impl Dev {
    pub fn run(self) -> Result<Exit, CliError> {
        Ok(Exit::Done)
    }
}
