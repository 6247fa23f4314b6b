//! Numbered messages on their way through a function, whichever broker carries them.

use std::ops::Range;
use std::process::Stdio;

use super::numbered::Numbered;
use super::project::Project;
use super::rabbit::Queues;
use super::wait::{SOON, eventually};
use super::worker::Worker;
use crate::verifier::Report;

/// What scenarios need of a broker, so that each is told once.
pub trait Run {
    /// Writes the messages with these numbers.
    fn produce(&self, seqs: Range<u64>);

    /// Waits until the broker has at least so many messages to hand out; there is no worker.
    fn until_left(&self, count: u64);

    /// Waits until nothing is left to do for the worker.
    fn until_complete(&self, worker: &mut Worker);

    /// Every message has a result, and the order that is promised was kept.
    fn expect_none_lost(&self, sent: u64) -> Report;

    fn start(&self, project: &Project) -> Worker {
        Worker::start(project.command(&["run"]), Stdio::null())
    }
}

impl Run for Numbered {
    fn produce(&self, seqs: Range<u64>) {
        Numbered::produce(self, seqs);
    }

    fn until_left(&self, count: u64) {
        eventually("messages that are not committed", SOON, || {
            let progress = self.kafka.progress(&self.name, &self.input()).map_err(|error| error.to_string())?;
            let left: i64 = progress.iter().map(|(committed, end)| end - committed).sum();
            if left.cast_unsigned() >= count { Ok(()) } else { Err(format!("{left}")) }
        });
    }

    fn until_complete(&self, worker: &mut Worker) {
        Numbered::until_complete(self, worker);
    }

    fn expect_none_lost(&self, sent: u64) -> Report {
        Numbered::expect_none_lost(self, sent as usize)
    }
}

impl Run for Queues {
    fn produce(&self, seqs: Range<u64>) {
        Queues::produce(self, seqs);
    }

    fn until_left(&self, count: u64) {
        self.rabbit.until_ready(&self.input(), count as u32);
    }

    fn until_complete(&self, worker: &mut Worker) {
        Queues::until_complete(self, std::slice::from_mut(worker));
    }

    fn expect_none_lost(&self, sent: u64) -> Report {
        let report = Queues::expect_none_lost(self, sent);
        assert!(report.is_in_order(), "{}: {report}", self.name);
        report
    }
}
