//! The memory source: messages as JSON lines from a file or standard input.
//!
//! The source ends when the input does and all its messages are settled. It reads once: a message that is released
//! (because the worker stops) counts as abandoned. Lines are numbered from 0; the number is the message's offset in
//! partition 0.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{Ended, Fault, Stage, Subscription};
use crate::config::{LineFormat, MemorySettings};
use crate::delivery::{Assignment, Delivery, OffsetTracker, Phase, Report, Reports, Settled, Ticket};
use crate::event::{Header, Message, MessageRef};

/// Lines read ahead of the rules.
const READ_AHEAD: usize = 256;
/// How often the stage is looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(5);

/// Starts a thread that reads, and one that delivers.
pub fn spawn(subscription: Subscription, settings: &MemorySettings) -> Result<oneshot::Receiver<Ended>, Fault> {
    let input: Box<dyn BufRead + Send> = match &settings.input {
        Some(path) => Box::new(BufReader::new(open(&subscription.source, path)?)),
        None => Box::new(BufReader::new(io::stdin())),
    };
    let (lines_in, lines) = sync_channel(READ_AHEAD);
    let (ended, wait) = oneshot::channel();
    let thread = |name: &str| std::thread::Builder::new().name(format!("{name}-{}", subscription.source));
    let failed = |error: io::Error| Fault::Client {
        source_name: subscription.source.clone(),
        reason: format!("cannot start a thread: {error}"),
    };
    thread("lines").spawn(move || read_lines(input, &lines_in)).map_err(failed)?;
    let (builder, format) = (thread("memory"), settings.format);
    let (reports, settled) = Reports::channel();
    let topics: Vec<Arc<str>> = subscription.topics.iter().map(|topic| topic.as_str().into()).collect();
    let first_topic = topics.first().cloned().unwrap_or_else(|| "memory".into());
    let feed = Feed {
        assignment: Assignment::new(0, first_topic, 0),
        subscription,
        format,
        topics,
        tracker: OffsetTracker::default(),
        reports,
        settled,
        ended: Ended::default(),
        next: 0,
    };
    builder
        .spawn(move || {
            // Nobody waits for the end any more when the worker has gone without it.
            let _ = ended.send(feed.run(&lines));
        })
        .map_err(|error| Fault::Client { source_name: String::new(), reason: error.to_string() })?;
    Ok(wait)
}

fn open(source: &str, path: &PathBuf) -> Result<File, Fault> {
    File::open(path).map_err(|error| Fault::File {
        source_name: source.to_owned(),
        path: Path::new(path).display().to_string(),
        reason: error.to_string(),
    })
}

/// Sends lines until the input ends or cannot be read; the last item says which.
fn read_lines(mut input: impl BufRead, lines: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut line = Vec::new();
        match input.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                if !line.is_empty() && lines.send(Ok(line)).is_err() {
                    return;
                }
            }
            Err(error) => {
                // The other side has gone, or sees the error.
                let _ = lines.send(Err(error));
                return;
            }
        }
    }
}

/// One line in the form of a whole message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    topic: Option<String>,
    #[serde(default)]
    key: Option<Content>,
    #[serde(default)]
    headers: Vec<(String, Option<Content>)>,
    timestamp: Option<i64>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<String>,
}

/// Text, or bytes as `{"base64": "..."}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Bytes { base64: String },
}

impl Content {
    fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Bytes { base64 } => decode(&base64),
        }
    }
}

fn decode(base64: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(base64).map_err(|error| format!("base64: {error}"))
}

/// What a line says.
#[derive(Default)]
struct Parsed {
    topic: Option<String>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

impl Parsed {
    fn from_line(line: &[u8]) -> Result<Self, String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let value = match (line.value, line.text, line.base64) {
            (Some(json), None, None) => Some(json.get().as_bytes().to_vec()),
            (None, Some(text), None) => Some(text.into_bytes()),
            (None, None, Some(base64)) => Some(decode(&base64)?),
            (None, None, None) => None,
            _ => return Err("give only one of `value`, `text` and `base64`".to_owned()),
        };
        let headers = line.headers.into_iter();
        Ok(Self {
            topic: line.topic,
            key: line.key.map(Content::bytes).transpose()?,
            value,
            headers: headers
                .map(|(name, value)| Ok((name, value.map(Content::bytes).transpose()?)))
                .collect::<Result<_, String>>()?,
            timestamp: line.timestamp,
        })
    }
}

struct Feed {
    subscription: Subscription,
    format: LineFormat,
    topics: Vec<Arc<str>>,
    assignment: Arc<Assignment>,
    tracker: OffsetTracker,
    reports: Reports,
    settled: Receiver<Vec<Report>>,
    ended: Ended,
    next: i64,
}

impl Feed {
    fn run(mut self, lines: &Receiver<io::Result<Vec<u8>>>) -> Ended {
        let mut input_open = true;
        loop {
            self.take_reports();
            match self.subscription.stage() {
                Stage::Run => {}
                Stage::Drain => self.enter(Phase::Draining),
                Stage::End => {
                    self.enter(Phase::Fenced);
                    self.ended.abandoned += self.tracker.waiting() as u64;
                    return self.ended;
                }
            }
            let taking = input_open && self.assignment.phase() == Phase::Active;
            if !taking && self.tracker.waiting() == 0 {
                return self.ended;
            }
            if taking && self.has_room() {
                input_open = self.take_lines(lines);
            } else if let Ok(reports) = self.settled.recv_timeout(LOOK) {
                self.settle(reports);
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        if self.assignment.phase() < phase {
            self.assignment.advance(phase);
            self.subscription.routes.iter().for_each(super::Route::phase_changed);
        }
    }

    fn has_room(&self) -> bool {
        let limit = self.subscription.in_flight;
        self.tracker.waiting() < limit.messages && self.tracker.bytes() < limit.bytes
    }

    fn take_reports(&mut self) {
        while let Ok(reports) = self.settled.try_recv() {
            self.settle(reports);
        }
    }

    fn settle(&mut self, reports: Vec<Report>) {
        for report in reports {
            match self.tracker.settle(report.offset, report.settled) {
                Some(Settled::Finished | Settled::Rejected) => self.count_settled(),
                Some(Settled::Released | Settled::Returned) => self.ended.abandoned += 1,
                None => {}
            }
        }
        self.show();
    }

    fn count_settled(&mut self) {
        self.ended.settled += 1;
        self.subscription.metrics.settled.inc();
    }

    fn show(&self) {
        let metrics = &self.subscription.metrics;
        metrics.in_flight.set(self.tracker.waiting() as i64);
        metrics.in_flight_memory.set(self.tracker.bytes() as i64);
        metrics.lag_messages.set(self.tracker.waiting() as i64);
    }

    /// Takes what lines there are, up to the bound. `false` when the input has ended.
    fn take_lines(&mut self, lines: &Receiver<io::Result<Vec<u8>>>) -> bool {
        let mut batches: Vec<Vec<Delivery>> = self.subscription.routes.iter().map(|_| Vec::new()).collect();
        let mut next = lines.recv_timeout(LOOK);
        let mut count = 0;
        let open = loop {
            match next {
                Ok(Ok(line)) => self.take_line(line, &mut batches),
                Ok(Err(error)) => {
                    tracing::error!(source = self.subscription.source, %error, "the input cannot be read any further");
                    self.ended.abandoned += 1;
                    break false;
                }
                Err(RecvTimeoutError::Timeout) => break true,
                Err(RecvTimeoutError::Disconnected) => break false,
            }
            count += 1;
            if count == READ_AHEAD || !self.has_room() {
                break true;
            }
            next = lines.recv_timeout(Duration::ZERO);
        };
        for (route, deliveries) in self.subscription.routes.iter().zip(batches) {
            if !deliveries.is_empty() {
                route.send(deliveries);
            }
        }
        self.show();
        open
    }

    fn take_line(&mut self, line: Vec<u8>, batches: &mut [Vec<Delivery>]) {
        let offset = self.next;
        self.next += 1;
        let parsed = match self.format {
            LineFormat::Value => Ok(Parsed { value: Some(line), ..Parsed::default() }),
            LineFormat::Message => Parsed::from_line(&line),
        };
        match parsed {
            Ok(parsed) => self.take_message(offset, &parsed, batches),
            Err(reason) => {
                let source = &self.subscription.source;
                tracing::error!(source, line = offset + 1, reason, "this line is not a message");
                self.ended.abandoned += 1;
            }
        }
    }

    fn take_message(&mut self, offset: i64, parsed: &Parsed, batches: &mut [Vec<Delivery>]) {
        let message = MessageRef {
            topic: parsed.topic.as_deref().unwrap_or(&self.assignment.topic),
            partition: self.assignment.partition,
            offset,
            timestamp: parsed.timestamp,
            key: parsed.key.as_deref(),
            value: parsed.value.as_deref(),
            headers: parsed.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect(),
            properties: None,
        };
        let metrics = &self.subscription.metrics;
        metrics.messages.inc();
        metrics.read.inc_by((message.key.map_or(0, <[u8]>::len) + message.value.map_or(0, <[u8]>::len)) as u64);
        let mut matched = Vec::new();
        metrics.scanned.inc_by(self.subscription.triggers.matching(&message, &mut matched) as u64);
        let known = self.topics.iter().find(|topic| &***topic == message.topic);
        let topic = known.cloned().unwrap_or_else(|| message.topic.into());
        let mut bytes = 0;
        for index in &matched {
            let message = Message::copy_of(&message, topic.clone());
            bytes += message.size();
            let ticket = Ticket::new(self.assignment.clone(), offset, self.reports.clone());
            batches[*index as usize].push(Delivery { message, failed_attempts: 0, is_suspect: false, ticket });
        }
        self.tracker.read(offset, matched.len() as u32, bytes);
        if matched.is_empty() {
            self.subscription.metrics.not_matched.inc();
            self.count_settled();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::config::{InFlight, OutOfRange, Start};
    use crate::delivery::Settlement;
    use crate::source::{Intake, Route};
    use crate::telemetry::Metrics;
    use crate::trigger::{TriggerEntry, Triggers};

    /// Feeds one line to two triggers; `then` sees to the deliveries and the stage while the source runs.
    fn feed_one(then: impl FnOnce(Vec<Delivery>, watch::Sender<Stage>)) -> Ended {
        let (inbox, mut intake) = mpsc::channel(8);
        let (stage, stage_seen) = watch::channel(Stage::Run);
        let entry = || TriggerEntry { topics: vec![], rule: None };
        let (reports, settled) = Reports::channel();
        let subscription = Subscription {
            source: "lines".to_owned(),
            group: "g".to_owned(),
            topics: vec![],
            start: Start::Earliest,
            in_flight: InFlight { messages: 10, bytes: 1000 },
            commit_interval: Duration::from_secs(1),
            revoke_timeout: Duration::from_secs(1),
            on_out_of_range: OutOfRange::Stop,
            keep_max: Duration::MAX,
            triggers: Triggers::new("lines", vec![entry(), entry()]),
            routes: vec![Route::new(inbox.clone(), 0), Route::new(inbox, 1)],
            metrics: Metrics::default().subscription("lines", "g"),
            stage: stage_seen,
        };
        let feed = Feed {
            assignment: Assignment::new(0, "memory".into(), 0),
            subscription,
            format: LineFormat::Value,
            topics: vec![],
            tracker: OffsetTracker::default(),
            reports,
            settled,
            ended: Ended::default(),
            next: 0,
        };
        let (lines_in, lines) = sync_channel(1);
        lines_in.send(Ok(b"1".to_vec())).unwrap();
        let running = std::thread::spawn(move || feed.run(&lines));
        let mut deliveries = Vec::new();
        while deliveries.len() < 2 {
            if let Some(Intake::Deliveries { deliveries: more, .. }) = intake.blocking_recv() {
                deliveries.extend(more);
            }
        }
        drop(lines_in);
        then(deliveries, stage);
        running.join().unwrap()
    }

    #[test]
    fn a_message_is_not_settled_when_one_of_its_deliveries_was_let_go_before() {
        let mut kept = None;
        let ended = feed_one(|mut deliveries, stage| {
            kept = Some(stage);
            let last = deliveries.pop().unwrap();
            drop(deliveries);
            last.ticket.settle(Settled::Finished, &mut Settlement::default());
        });
        assert_eq!(ended, Ended { settled: 0, released: 0, abandoned: 1 });
    }

    #[test]
    fn it_ends_when_nobody_is_left_to_end_it() {
        let mut in_hand = Vec::new();
        let ended = feed_one(|deliveries, stage| {
            in_hand = deliveries;
            drop(stage);
        });
        assert_eq!(ended, Ended { settled: 0, released: 0, abandoned: 1 });
    }
}
