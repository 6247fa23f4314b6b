//! What a measured program reports, and the table of many reports.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// One run of one program.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    pub messages: u64,
    /// From having partitions to the acknowledged commit of the last message.
    pub seconds: f64,
    /// CPU time in the same span, of all processes of the program.
    pub cpu_seconds: f64,
    /// The most memory it held, of all processes together.
    pub resident_bytes: u64,
}

impl Figures {
    /// Prints them as one line of JSON.
    pub fn print(&self) -> Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }

    fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    fn cpu_per_million(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.messages as f64
    }
}

/// Median, smallest and largest of some values.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` of no values.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }

    /// `12.3 (11.9-14.0)`
    pub fn show(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
    }

    /// `12,300 (11,900-14,000)`
    fn show_thousands(&self) -> String {
        format!("{} ({}-{})", thousands(self.median), thousands(self.min), thousands(self.max))
    }
}

/// Three digits that count, with commas.
fn thousands(value: f64) -> String {
    let step = 10f64.powf((value.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = format!("{:.0}", (value / step).round() * step);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A row of the table: the file's name, what it is, and whether others are held against it.
type Program = (&'static str, &'static str, bool);

const KAFKA: [Program; 4] = [
    ("count", "plain `rdkafka` loop that only counts (the ceiling)", false),
    ("lagless", "**Lagless**, worker and runner together", false),
    ("platformatic", "Node with @platformatic/kafka, `JSON.parse`, the same handler", true),
    ("kafkajs", "Node with kafkajs, `JSON.parse`, the same handler", true),
];

const AMQP: [Program; 4] = [
    ("count", "plain `lapin` loop that only counts, an acknowledgement for each 250", false),
    ("lagless", "**Lagless**, worker and runner together", false),
    ("amqplib", "Node with amqplib, `JSON.parse`, the same handler, an acknowledgement for each 250", true),
    ("rabbitmq-client", "Node with rabbitmq-client, `JSON.parse`, the same handler", true),
];

/// What the programs read from, hence which they are.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Broker {
    Kafka,
    Amqp,
}

#[derive(Debug, Args)]
pub struct Table {
    /// Whose programs they are
    broker: Broker,
    /// The folder with a file of figures for each program
    folder: PathBuf,
}

struct Row {
    what: &'static str,
    is_rival: bool,
    rate: Spread,
    cpu: Spread,
    resident: Spread,
}

impl Table {
    pub fn run(self) -> Result<()> {
        let mut rows = Vec::new();
        let programs = match self.broker {
            Broker::Kafka => KAFKA,
            Broker::Amqp => AMQP,
        };
        for (name, what, is_rival) in programs {
            let path = self.folder.join(name);
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let runs = text.lines().map(serde_json::from_str).collect::<Result<Vec<Figures>, _>>()?;
            let spread = |value: fn(&Figures) -> f64| {
                Spread::of(runs.iter().map(value).collect()).with_context(|| format!("no figures of {name}"))
            };
            rows.push(Row {
                what,
                is_rival,
                rate: spread(Figures::rate)?,
                cpu: spread(Figures::cpu_per_million)?,
                resident: spread(|figures| figures.resident_bytes as f64 / 1e6)?,
            });
        }
        print(&rows);
        Ok(())
    }
}

fn print(rows: &[Row]) {
    let rivals = || rows.iter().filter(|row| row.is_rival);
    let rate = rivals().map(|row| row.rate.median).fold(f64::NAN, f64::max);
    let cpu = rivals().map(|row| row.cpu.median).fold(f64::NAN, f64::min);
    println!("| what | messages/s | to the best Node | CPU-seconds per million | to the best Node | peak memory, MB |");
    println!("|---|--:|--:|--:|--:|--:|");
    for row in rows {
        println!(
            "| {} | {} | {:.2} | {} | {:.2} | {:.0} |",
            row.what,
            row.rate.show_thousands(),
            row.rate.median / rate,
            row.cpu.show(2),
            row.cpu.median / cpu,
            row.resident.median
        );
    }
}
