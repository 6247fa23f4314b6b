//! How much a scenario does: a little in `make test`, a lot in `make soak`.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Sizes of one kind or the other.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Messages of the largest scenarios in the long form; `None` is the short form.
    messages: Option<u64>,
}

impl Scale {
    /// `SOAK=1` is the long form with a million messages, `SOAK_MESSAGES=N` one with `N`.
    pub fn get() -> Self {
        let number = std::env::var("SOAK_MESSAGES").ok().filter(|text| !text.is_empty());
        let messages = number.map(|text| text.parse().expect("SOAK_MESSAGES is a number"));
        let is_long = std::env::var_os("SOAK").is_some_and(|value| value == "1");
        Self { messages: messages.or(is_long.then_some(1_000_000)) }
    }

    /// A number for the short form, and one for the long.
    pub fn of<T>(self, short: T, long: T) -> T {
        if self.messages.is_some() { long } else { short }
    }

    /// A number of messages: in the long form, a share of all.
    pub fn messages(self, short: u64, share: f64) -> u64 {
        self.messages.map_or(short, |all| ((all as f64 * share) as u64).max(short))
    }

    pub fn is_long(self) -> bool {
        self.messages.is_some()
    }

    /// How long a run may go without a new result.
    pub fn patience(self) -> Duration {
        self.of(Duration::from_secs(60), Duration::from_secs(120))
    }
}

/// What a run does at random comes from a seed, which is printed, and can be given as `SOAK_SEED`.
pub fn seeded(scenario: &str) -> StdRng {
    let given = std::env::var("SOAK_SEED").ok().filter(|text| !text.is_empty());
    let seed = given.map_or_else(rand::random, |text| text.parse().expect("SOAK_SEED is a number"));
    println!("soak: {scenario}: SOAK_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
