//! From the first message to the last result, on either broker.

use serde::Deserialize;

use crate::harness::project::Project;
use crate::harness::worker::Worker;
use crate::soak::tally::Found;

/// How many different keys messages have.
pub const KEYS: u64 = 97;

/// An input, a worker's configuration, and an output.
pub trait Road: Send + Sync {
    fn broker(&self) -> &'static str;

    fn writer(&self) -> Box<dyn Writer>;

    /// Of the output, from its beginning.
    fn reader(&self) -> Box<dyn Reader>;

    /// A project with a function of `tests/cases`.
    fn project(&self, lines: &Lines<'_>) -> Project;

    /// Whether everything in the input is settled; `Err` says what is not.
    fn is_settled(&self, workers: &mut [Worker]) -> Result<(), String>;
}

/// What a scenario wants configured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines<'a> {
    /// A file of `tests/cases`.
    pub function: &'a str,
    pub wait_ms: u32,
    pub in_flight: u32,
    pub source: &'a str,
    pub trigger: &'a str,
}

pub trait Writer {
    /// Writes the messages with these numbers, and waits until the broker has them.
    fn write(&mut self, numbers: std::ops::Range<u64>);

    /// The broker was away: connections are made anew, where the client does not do so itself.
    fn reconnect(&mut self) {}
}

pub trait Reader {
    /// Takes what there is, for some tenths of a second at most.
    fn read(&mut self, take: &mut dyn FnMut(Found));

    /// As [`Writer::reconnect`]; whether the output is read from its beginning again.
    fn reconnect(&mut self) -> bool {
        false
    }
}

/// The body of a message.
pub fn body(number: u64) -> String {
    format!(r#"{{"key":"{}","seq":{number}}}"#, key(number))
}

pub fn key(number: u64) -> String {
    format!("k{}", number % KEYS)
}

/// Which message a result belongs to.
pub fn number(result: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let numbered: Numbered =
        serde_json::from_slice(result).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(result)));
    numbered.seq
}
