//! The right to settle a delivery, once.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use super::Assignment;
use crate::event::Message;

/// A message on its way to one trigger's function.
#[derive(Debug)]
pub struct Delivery {
    pub message: Message,
    /// Attempts made before the one to come.
    pub failed_attempts: u32,
    /// It was in hand with others when their isolate was lost, and one of them is to blame: it is tried alone.
    pub is_suspect: bool,
    pub ticket: Ticket,
}

/// What a settlement says about one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Done, dead-lettered or dropped by policy: the message need not be seen again.
    Finished,
    /// Refused for good: a queue's own dead-letter policy has it. Where there is none, it is as good as finished.
    Rejected,
    /// Let go unfinished: the message must be read again by whoever owns the partition next.
    Released,
    /// Failed, and to be tried again when its queue, which counts this, hands it out anew.
    Returned,
}

/// How long a source can keep a message that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// No attempt may begin later.
    pub until: Instant,
    pub then: Overdue,
}

/// What becomes of a message whose next attempt would begin later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// It is [`Settled::Returned`].
    Return,
    /// Its attempts count as used up.
    Exhaust,
}

/// One settled delivery, as reported to its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// [`Assignment::id`].
    pub assignment: u64,
    pub offset: i64,
    pub settled: Settled,
}

/// The way of reports back to a subscription. Bounded by the deliveries in flight: each is reported once.
#[derive(Debug, Clone)]
pub struct Reports(Arc<Way>);

struct Way {
    sender: mpsc::Sender<Vec<Report>>,
    wake: Option<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way")
    }
}

impl Reports {
    /// The two ends: a subscription keeps the receiver.
    pub fn channel() -> (Self, mpsc::Receiver<Vec<Report>>) {
        Self::make(None)
    }

    /// The two ends, for a subscription that does not wait at the receiver: `wake` is called after each report.
    pub fn waking(wake: impl Fn() + Send + Sync + 'static) -> (Self, mpsc::Receiver<Vec<Report>>) {
        Self::make(Some(Box::new(wake)))
    }

    fn make(wake: Option<Box<dyn Fn() + Send + Sync>>) -> (Self, mpsc::Receiver<Vec<Report>>) {
        #[expect(clippy::disallowed_methods, reason = "bounded by the deliveries in flight: each is reported once")]
        let (sender, receiver) = mpsc::channel();
        (Self(Arc::new(Way { sender, wake })), receiver)
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Sends what has been settled together.
    pub fn send(&self, reports: Vec<Report>) {
        if !reports.is_empty() {
            // A subscription that is gone has no use for reports: its offsets are released already.
            let _ = self.0.sender.send(reports);
            if let Some(wake) = &self.0.wake {
                wake();
            }
        }
    }
}

/// The right to settle one delivery. Settling consumes it; one that is dropped reports `Released`.
#[derive(Debug)]
#[must_use = "an unsettled delivery is redelivered"]
pub struct Ticket {
    open: Option<(Arc<Assignment>, Reports)>,
    offset: i64,
    keep: Option<Keep>,
}

impl Ticket {
    pub fn new(assignment: Arc<Assignment>, offset: i64, reports: Reports) -> Self {
        Self { open: Some((assignment, reports)), offset, keep: None }
    }

    /// Says how long the message can be kept.
    pub fn keeping(mut self, keep: Keep) -> Self {
        self.keep = Some(keep);
        self
    }

    /// How long the message can be kept, where there is an end to it.
    pub fn keep(&self) -> Option<Keep> {
        self.keep
    }

    /// The partition's assignment that the delivery belongs to.
    pub fn assignment(&self) -> &Arc<Assignment> {
        // `open` is taken only by `settle`, which consumes the ticket.
        &self.open.as_ref().expect("a ticket is open until it is settled").0
    }

    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Settles the delivery. The report is added to `settlement`, which sends many at once.
    pub fn settle(mut self, settled: Settled, settlement: &mut Settlement) {
        if let Some((assignment, reports)) = self.open.take() {
            settlement.add(reports, Report { assignment: assignment.id, offset: self.offset, settled });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((assignment, reports)) = self.open.take() {
            let report = Report { assignment: assignment.id, offset: self.offset, settled: Settled::Released };
            reports.send(vec![report]);
        }
    }
}

/// Reports gathered over one turn of work, sent together per subscription; sent at the latest when dropped.
#[derive(Debug, Default)]
pub struct Settlement {
    gathered: Vec<(Reports, Vec<Report>)>,
}

impl Settlement {
    fn add(&mut self, reports: Reports, report: Report) {
        match self.gathered.iter_mut().find(|(known, _)| known.is_same(&reports)) {
            Some((_, batch)) => batch.push(report),
            None => self.gathered.push((reports, vec![report])),
        }
    }

    /// Sends all that was gathered.
    pub fn send(&mut self) {
        for (reports, batch) in self.gathered.drain(..) {
            reports.send(batch);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.send();
    }
}
