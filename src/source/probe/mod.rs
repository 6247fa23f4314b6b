//! Looking at what a configuration needs of its brokers, before a worker does.
//!
//! A [`Plan`] says what the triggers and sinks of one source want; the probe of the source's kind answers with
//! [`Finding`]s. What always holds: a probe changes nothing. It creates no topic, queue or exchange, joins no group,
//! commits, acknowledges, takes and writes no message. What a protocol does not tell without one of these is
//! [`Unknown`](Verdict::Unknown), with the reason.

use std::fmt;

pub mod memory;
mod plan;

pub use plan::{Plan, Reading, Writing};

/// The end of an explanation to whom it does not apply: a probe asks once.
const STILL_TRYING: &str = "; still trying";

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: What,
    /// Which one of its kind; empty where there is one only.
    pub name: String,
    pub verdict: Verdict,
    /// What was seen; for a problem also what to do.
    pub detail: String,
}

impl Finding {
    pub fn ok(what: What, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what, name: name.into(), verdict: Verdict::Ok, detail: detail.into() }
    }

    /// `detail` may be the explanation of somebody who goes on trying, which a probe does not.
    pub fn problem(what: What, name: impl Into<String>, detail: &str) -> Self {
        let detail = detail.strip_suffix(STILL_TRYING).unwrap_or(detail).to_owned();
        Self { what, name: name.into(), verdict: Verdict::Problem, detail }
    }

    pub fn unknown(what: What, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what, name: name.into(), verdict: Verdict::Unknown, detail: detail.into() }
    }
}

/// What kind of thing was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The settings of the connection themselves.
    Settings,
    /// A server, at the address in the configuration.
    Server,
    Login,
    Topic,
    Group,
    Queue,
    Exchange,
    /// Where results go.
    Results,
    DeadLetters,
    /// What the user may do.
    Rights,
    /// The difference between this machine's clock and the broker's.
    Clock,
    Input,
    Output,
}

impl What {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Server => "server",
            Self::Login => "login",
            Self::Topic => "topic",
            Self::Group => "group",
            Self::Queue => "queue",
            Self::Exchange => "exchange",
            Self::Results => "results",
            Self::DeadLetters => "dead-letters",
            Self::Rights => "rights",
            Self::Clock => "clock",
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Problem,
    /// It cannot be learned, or not without changing something.
    Unknown,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
        }
    }
}

/// A count with its noun: `1 partition`, `4 partitions`.
pub(super) fn counted(count: impl Into<i64>, noun: &str) -> impl fmt::Display {
    let count = count.into();
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Names for a sentence: `` `a`, `b` ``.
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A duration for people, without the digits that nobody reads.
pub(super) fn lasting(limit: std::time::Duration) -> impl fmt::Display {
    humantime::format_duration(std::time::Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)))
}
