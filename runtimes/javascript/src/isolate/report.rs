//! What an isolate has to tell: outcomes and log lines, gathered and written together.

use std::ops::Range;
use std::time::{Duration, Instant};

use deno_runtime::deno_core::error::{CoreError, CoreErrorKind, JsError};
use lagless_protocol::frames::{Failure, FailureClass, FromRunner, Level, Outcome};

use super::refuse::EXIT_CODE;
use crate::outgoing::Outgoing;
use crate::watchdog::EventId;

/// When this much is gathered, it is written at once.
const GATHER_BYTES: usize = 64 << 10;
/// So that outcomes stream out as they come even from a batch of slow synchronous events.
const GATHER_TIME: Duration = Duration::from_millis(2);
/// The longest result that is sent, in bytes: a frame must hold it.
const RESULT_BYTES: usize = 64 << 20;
const NAME_BYTES: usize = 200;
const MESSAGE_BYTES: usize = 8 << 10;
const STACK_BYTES: usize = 16 << 10;
const LOG_BYTES: usize = 16 << 10;

/// Outcomes and log lines that wait to be written.
pub struct Outbox {
    isolate: u32,
    /// Log lines, whole frames. They are written before the outcomes.
    frames: Vec<u8>,
    outcomes: Vec<Waiting>,
    /// Texts of the results, one after the other.
    results: Vec<u8>,
    since: Instant,
    cpu_us: u64,
    /// The last sample of the heap in use.
    pub heap_bytes: u64,
}

struct Waiting {
    event: EventId,
    wall_us: u64,
    result: Result<Range<usize>, Failure>,
}

impl Outbox {
    pub fn new(isolate: u32) -> Self {
        let (frames, outcomes, results) = Default::default();
        let (since, cpu_us) = (Instant::now(), thread_cpu_us());
        Self { isolate, frames, outcomes, results, since, cpu_us, heap_bytes: 0 }
    }

    /// A new turn of the isolate's loop: what waited before does not count as gathering.
    pub fn begin_turn(&mut self, now: Instant) {
        self.since = now;
    }

    pub fn outcome(&mut self, event: EventId, wall: Duration, result: Result<&str, Failure>) {
        let result = match result {
            Ok(text) if text.len() > RESULT_BYTES => {
                let message = format!("the result has {} bytes, more than {RESULT_BYTES}", text.len());
                Err(Failure::new(FailureClass::Result, "RangeError", message))
            }
            Ok(text) => {
                let start = self.results.len();
                self.results.extend_from_slice(text.as_bytes());
                Ok(start..self.results.len())
            }
            Err(failure) => Err(bounded(failure)),
        };
        self.outcomes.push(Waiting { event, wall_us: wall.as_micros() as u64, result });
    }

    /// A line of the function's; of a batch if it is known which.
    pub fn log(&mut self, event: Option<EventId>, level: Level, text: &str) {
        let text = cut(text.trim_end_matches('\n'), LOG_BYTES);
        let batch = event.map_or(0, |event| event.batch);
        let event = event.map(|event| event.event);
        FromRunner::Log { isolate: self.isolate, batch, event, level, text }.encode(&mut self.frames);
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.frames.len() + self.results.len() >= GATHER_BYTES || now.duration_since(self.since) >= GATHER_TIME
    }

    pub fn flush(&mut self, outgoing: &Outgoing, now: Instant) {
        self.since = now;
        if !self.outcomes.is_empty() {
            self.encode_outcomes();
        }
        if !self.frames.is_empty() {
            outgoing.write(&self.frames);
            self.frames.clear();
            self.frames.shrink_to(2 * GATHER_BYTES);
        }
    }

    /// Shares the thread's processor time since the last time evenly over the outcomes.
    fn encode_outcomes(&mut self) {
        let cpu_us = thread_cpu_us();
        let spent = cpu_us.saturating_sub(self.cpu_us);
        self.cpu_us = cpu_us;
        let count = self.outcomes.len() as u64;
        for (index, waiting) in self.outcomes.drain(..).enumerate() {
            let rest = u64::from((index as u64) < spent % count);
            FromRunner::Outcome(Outcome {
                isolate: self.isolate,
                batch: waiting.event.batch,
                event: waiting.event.event,
                wall_us: waiting.wall_us,
                cpu_us: spent / count + rest,
                heap_bytes: self.heap_bytes,
                result: waiting.result.map(|range| &self.results[range]),
            })
            .encode(&mut self.frames);
        }
        self.results.clear();
        self.results.shrink_to(2 * GATHER_BYTES);
    }
}

/// The failure behind an error that Deno's runtime reports.
pub fn failure_of(error: &CoreError) -> Failure {
    match error.as_kind() {
        CoreErrorKind::Js(error) => failure_of_js(error),
        _ => bounded(Failure::new(FailureClass::Exception, "Error", error.to_string())),
    }
}

fn failure_of_js(error: &JsError) -> Failure {
    let is_exit = error.additional_properties.iter().any(|(key, value)| key == "code" && value == EXIT_CODE);
    let class = if is_exit { FailureClass::Exit } else { FailureClass::Exception };
    let name = error.name.clone().unwrap_or_else(|| "Uncaught".to_owned());
    let message = error.message.clone().unwrap_or_else(|| error.exception_message.clone());
    let stack = error.stack.clone().unwrap_or_default();
    bounded(Failure { class, name, message, stack })
}

/// Cuts the texts to a bearable length, and the runner's own frames from the stack.
pub fn bounded(mut failure: Failure) -> Failure {
    if failure.stack.contains("(ext:") || failure.stack.contains(" ext:") {
        let is_foreign = |line: &&str| !(line.starts_with("    at ") && line.contains("ext:"));
        failure.stack = failure.stack.lines().filter(is_foreign).collect::<Vec<_>>().join("\n");
    }
    for (text, bytes) in
        [(&mut failure.name, NAME_BYTES), (&mut failure.message, MESSAGE_BYTES), (&mut failure.stack, STACK_BYTES)]
    {
        let length = cut(text, bytes).len();
        text.truncate(length);
    }
    failure
}

/// The longest start of `text` that has at most `bytes` bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Processor time of the calling thread, in microseconds.
fn thread_cpu_us() -> u64 {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    let Ok(time) = nix::time::clock_gettime(clock) else {
        return 0;
    };
    time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        let failure = Failure {
            class: FailureClass::Exception,
            name: "ä".repeat(200),
            message: "m".repeat(9000),
            stack: "Error: x\n    at ext:lagless/bootstrap.js:1:1\n    at file:///function/a.ts:1:1".to_owned(),
        };
        let bounded = bounded(failure);
        assert_eq!((bounded.name.len(), bounded.message.len()), (200, MESSAGE_BYTES));
        assert_eq!(bounded.stack, "Error: x\n    at file:///function/a.ts:1:1");
    }
}
