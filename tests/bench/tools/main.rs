//! What `tests/bench/*.sh` measure with: it fills a topic or a queue, runs the programs that are measured, and prints tables.
//!
//! Every measured program prints one line of JSON, a [`figures::Figures`]. The clock starts when the
//! group has given it its partitions, so that nobody reads ahead for free, and stops when the commit that covers the last
//! message is acknowledged; with a queue, from the first message to the server's word on the last acknowledgement. CPU times and memory come from `/proc`, so this runs on Linux only.

mod cold;
mod count;
mod figures;
mod fill;
mod memory;
mod metrics;
mod orders;
mod process;
mod procfs;
mod queue;
mod start;
mod worker;

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench-tools", about = "The instruments of tests/bench")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a topic and fill it with orders of 1 KB
    Fill(fill::Fill),
    /// Delete a topic
    Drop(fill::Drop),
    /// Read a topic with a plain rdkafka loop that only counts
    Count(count::Count),
    /// Start a Lagless worker and wait until its group has committed a whole topic
    Worker(worker::Worker),
    /// Delete and declare a queue, and fill it with orders of 1 KB
    QueueFill(queue::Fill),
    /// Delete a queue
    QueueDrop(queue::Drop),
    /// Read a queue with a plain lapin loop that only counts
    QueueCount(queue::Count),
    /// Start a Lagless worker and wait until it has settled a whole queue
    QueueWorker(queue::Worker),
    /// Start a program several times, and print how long it takes until it says something or ends
    Start(start::Start),
    /// Start a Lagless worker on tests/bench/starts.toml, and print how long its isolates take to open
    Cold(cold::Cold),
    /// Start a Lagless worker with a number of isolates, and print what memory its processes hold
    Memory(memory::Memory),
    /// Print the table of figures collected in a file
    Table(figures::Table),
}

/// The topic that is read, and as which group.
#[derive(Debug, Args)]
struct Subject {
    /// Where the brokers are
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    group: String,
    /// How many messages the topic holds
    #[arg(long)]
    messages: u64,
}

/// Nothing that is waited for takes this long, unless it has failed.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Fill(fill) => fill.run(),
        Verb::Drop(drop) => drop.run(),
        Verb::Count(count) => count.run(),
        Verb::Worker(worker) => worker.run(),
        Verb::QueueFill(fill) => fill.run(),
        Verb::QueueDrop(drop) => drop.run(),
        Verb::QueueCount(count) => count.run(),
        Verb::QueueWorker(worker) => worker.run(),
        Verb::Start(start) => start.run(),
        Verb::Cold(cold) => cold.run(),
        Verb::Memory(memory) => memory.run(),
        Verb::Table(table) => table.run(),
    }
}
