//! A worker as a task of a verb that has other things to do meanwhile.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{CliError, run};
use crate::app::DrainReport;
use crate::config::Settings;
use crate::function::Registry;
use crate::telemetry::Metrics;

/// A worker that runs until it is drained or its inputs end.
#[derive(Debug)]
pub struct RunningWorker {
    task: JoinHandle<Result<DrainReport, CliError>>,
    stop: oneshot::Sender<()>,
}

impl RunningWorker {
    /// Starts it. Where it cannot start, it has ended with the reason.
    pub fn start(settings: Settings, registry: Registry, metrics: Arc<Metrics>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            // A sender that is gone means the same as its word.
            let _ = stopped.await;
        };
        let task = tokio::spawn(async move { run::work(&settings, &registry, metrics, stopped).await });
        Self { task, stop }
    }

    /// Completes when it has ended by itself; not to be asked again after that. May be dropped before.
    pub async fn ended(&mut self) -> Result<DrainReport, CliError> {
        (&mut self.task).await.map_err(CliError::failed)?
    }

    /// Lets it finish what is in flight, within its own deadline.
    pub async fn drain(self) -> Result<DrainReport, CliError> {
        drop(self.stop);
        self.task.await.map_err(CliError::failed)?
    }
}
