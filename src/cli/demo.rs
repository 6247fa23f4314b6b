//! `lagless demo`: the whole way of a message on one machine, with nothing set up before.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use self::account::{Account, Published};
use self::orders::Mix;
use self::shop::{Names, Shop};
use self::status::{Gauges, Status};
use self::traffic::{Auditor, Publisher};
use super::worker::RunningWorker;
use super::{CliError, Exit, embedded, run};
use crate::app::DrainReport;
use crate::source::kafka::embedded::EmbeddedBroker;
use crate::telemetry::Metrics;

mod account;
mod orders;
mod pace;
mod shop;
mod status;
mod traffic;

/// How long the worker may take for what is published when publishing ends.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether it has caught up.
const CATCH_UP_STEP: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lagless demo
  lagless demo --seconds 0 --rate 2000
  lagless demo --log info,librdkafka=off

An embedded Kafka-compatible broker, a program that publishes sample orders, a worker that runs the example `shop` on \
them, and a program that reads results and dead letters back. It exits with 1 if the topics do not account for every \
message. Nothing is logged unless --log or RUST_LOG asks for it.")]
pub struct Demo {
    /// For how many seconds orders are published; 0 goes on until Ctrl-C
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u64,
    /// Orders published per second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

impl Demo {
    pub fn run(self) -> Result<Exit, CliError> {
        run::runtime()?.block_on(self.play())
    }

    async fn play(self) -> Result<Exit, CliError> {
        let broker = embedded::start()?;
        let shop = Shop::load(broker.bootstrap())?;
        let names = shop.names.clone();
        for topic in [&names.orders, &names.results, &names.dead_letters] {
            broker.create_topic(topic, embedded::PARTITIONS).map_err(CliError::failed)?;
        }
        self.introduce(&broker, &names);

        let metrics = Arc::<Metrics>::default();
        let gauges = Gauges::of(&metrics, &names);
        let settled = gauges.clone();
        let auditor = Auditor::start(broker.bootstrap(), &names, Mix::of_rate(self.rate)).map_err(CliError::failed)?;
        let publisher = Publisher::start(broker.bootstrap(), &names.orders, self.rate, move || settled.settled())
            .map_err(CliError::failed)?;
        let mut stage = Stage {
            worker: RunningWorker::start(shop.settings, shop.registry, metrics),
            status: Status::new(gauges.clone()),
        };

        stage.until_over(&publisher, self.seconds).await?;
        let published = blocking(move || publisher.stop()).await?;
        stage.until_settled(published, &gauges).await?;
        let Stage { worker, status } = stage;
        status.end();
        let report = worker.drain().await?;
        let audit = blocking(move || auditor.finish()).await?;
        let not_matched = gauges.subscription.not_matched.get();
        Ok(conclude(&Account { published, not_matched, audit, abandoned: report.abandoned }))
    }

    fn introduce(&self, broker: &EmbeddedBroker, names: &Names) {
        let Names { orders, results, dead_letters, service, function, .. } = names;
        let end = match self.seconds {
            0 => "until Ctrl-C".to_owned(),
            seconds => format!("for {seconds} s"),
        };
        say(&format!(
            "embedded Kafka-compatible broker at {}\n\
             {} orders a second go to topic {orders} {end}; those that were placed and paid for fire {service}.{function}\n\
             results go to topic {results}, orders with a negative price to topic {dead_letters}\n\
             the first results take about 3 s: the broker waits for a group's members\n",
            broker.bootstrap(),
            self.rate
        ));
    }
}

/// What goes on while the demo runs.
struct Stage {
    worker: RunningWorker,
    status: Status,
}

impl Stage {
    /// Shows the status until the time is over (0 seconds: never) or somebody interrupts.
    async fn until_over(&mut self, publisher: &Publisher, seconds: u64) -> Result<(), CliError> {
        // A task of its own hears a second signal, which ends the process, whatever goes on here.
        let mut stopped = tokio::spawn(run::signals());
        let over = async {
            match seconds {
                0 => std::future::pending().await,
                seconds => tokio::time::sleep(Duration::from_secs(seconds)).await,
            }
        };
        tokio::pin!(over);
        let mut ticks = tokio::time::interval(self.status.interval());
        loop {
            tokio::select! {
                () = &mut over => return Ok(()),
                _ = &mut stopped => return Ok(()),
                _ = ticks.tick() => self.status.show(publisher.acknowledged()),
                ended = self.worker.ended() => return Err(ended_early(ended)),
            }
            if publisher.has_ended() {
                // Stopping it tells why.
                return Ok(());
            }
        }
    }

    /// Waits until the worker has settled what was published, but not for ever.
    async fn until_settled(&mut self, published: Published, gauges: &Gauges) -> Result<(), CliError> {
        let acknowledged = published.acknowledged();
        let deadline = Instant::now() + CATCH_UP_MAX;
        let mut shown = Instant::now();
        let mut ticks = tokio::time::interval(CATCH_UP_STEP);
        while gauges.settled() < acknowledged && Instant::now() < deadline {
            tokio::select! {
                _ = ticks.tick() => {}
                ended = self.worker.ended() => return Err(ended_early(ended)),
            }
            if shown.elapsed() >= self.status.interval() {
                self.status.show(acknowledged);
                shown = Instant::now();
            }
        }
        self.status.show(acknowledged);
        Ok(())
    }
}

fn ended_early(ended: Result<DrainReport, CliError>) -> CliError {
    match ended {
        Ok(_) => CliError::failed("the worker has ended by itself"),
        Err(error) => error,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.map_err(CliError::failed)?.map_err(CliError::failed)
}

fn conclude(account: &Account) -> Exit {
    say(&format!("\nread back from the topics:\n{account}\n"));
    let complaints = account.complaints();
    if complaints.is_empty() {
        say("every message is accounted for\n");
        return Exit::Done;
    }
    let complaints = complaints.join("\n  ");
    say(&format!("not every message is accounted for (--log warn may tell why):\n  {complaints}\n"));
    Exit::Failed
}

fn say(text: &str) {
    // Nobody may be reading any more; the exit code says the rest.
    let _ = io::stdout().write_all(text.as_bytes());
}
