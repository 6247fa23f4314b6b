//! Every source asked at once, each in its own way.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::cli::{CliError, run};
use crate::config::{Settings, SourceKind};
use crate::source::probe::{Finding, Plan, What, memory};
use crate::source::{amqp, kafka};

/// How long it may be silent.
const QUIET: Duration = Duration::from_secs(1);
/// Questions that are asked one after the other, each within the limit.
const QUESTIONS: u32 = 8;
/// Lets what has to end come to its end.
const GRACE: Duration = Duration::from_secs(5);

/// What was found about a source.
#[derive(Debug)]
pub struct Checked {
    pub source: String,
    pub findings: Vec<Finding>,
}

/// Asks all sources, each of whose connections may take `limit`. Unless `silent`, it names those that take long.
pub fn check(settings: &Settings, limit: Duration, silent: bool) -> Result<Vec<Checked>, CliError> {
    let runtime = run::runtime()?;
    let checked = runtime.block_on(async {
        let mut asked: Vec<(String, JoinHandle<Vec<Finding>>)> =
            settings.sources.keys().map(|name| (name.clone(), ask(name, settings, limit))).collect();
        if !silent {
            tell_of_slow(&asked).await;
        }
        // What a server that falls silent half way may take, question by question.
        let deadline = tokio::time::Instant::now() + limit.saturating_mul(QUESTIONS) + GRACE;
        let mut checked = Vec::new();
        for (source, task) in &mut asked {
            let findings = match tokio::time::timeout_at(deadline, task).await {
                Ok(Ok(findings)) => findings,
                Ok(Err(error)) => vec![Finding::problem(What::Server, "", &format!("the check broke off: {error}"))],
                Err(_) => vec![Finding::problem(What::Server, "", "the client library does not come back")],
            };
            checked.push(Checked { source: source.clone(), findings });
        }
        checked
    });
    // A client that does not come back must not keep the answer from being printed.
    runtime.shutdown_background();
    Ok(checked)
}

fn ask(name: &str, settings: &Settings, limit: Duration) -> JoinHandle<Vec<Finding>> {
    let plan = Plan::of(name, settings, limit);
    match settings.sources[name].kind.clone() {
        SourceKind::Kafka(kafka) => tokio::task::spawn_blocking(move || kafka::probe::probe(&kafka, &plan)),
        SourceKind::Amqp(amqp) => {
            let name = name.to_owned();
            tokio::spawn(async move { amqp::probe::probe(&name, &amqp, &plan).await })
        }
        SourceKind::Memory(memory) => tokio::task::spawn_blocking(move || memory::probe(&memory, &plan)),
    }
}

/// Names, after a while, those whose answer is still open.
async fn tell_of_slow(asked: &[(String, JoinHandle<Vec<Finding>>)]) {
    let is_open = |(_, task): &&(String, JoinHandle<Vec<Finding>>)| !task.is_finished();
    let told_at = tokio::time::Instant::now() + QUIET;
    while tokio::time::Instant::now() < told_at {
        if asked.iter().all(|(_, task)| task.is_finished()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let open: Vec<&str> = asked.iter().filter(is_open).map(|(source, _)| source.as_str()).collect();
    if !open.is_empty() {
        eprintln!("waiting for {}", open.join(", "));
    }
}
