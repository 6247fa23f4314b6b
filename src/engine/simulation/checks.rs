//! What must always hold, judged by what the model saw with its own eyes: what functions reported, what sinks wrote,
//! what the broker was asked to commit. Nothing here asks the code under test.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Event, Last, Plan};
use crate::config::Order;
use crate::delivery::{Report, Settled};

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Every message ends in its results, its dead letters, or is dropped as the policy says.
    Lost,
    /// With order by partition, events start, and come out, one after the other.
    Order,
    /// No commit passes a message that is not finished.
    Commit,
    /// Every delivery is settled exactly once.
    OneFate,
    /// Nothing of a fenced assignment goes to a sink.
    Fence,
    /// What is in flight is bounded and accounted for.
    Memory,
    /// Everything comes to rest.
    Livelock,
}

/// A broken rule and how it was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    pub check: Check,
    pub what: String,
}

/// What is known of an event.
#[derive(Debug, Clone, Copy, Default)]
struct Trace {
    /// The function has reported a success.
    ok: bool,
    /// Attempts that failed, or that may have been ended by a dying runner.
    failures: u32,
    result_sent: bool,
    result_refused: bool,
    dead_sent: bool,
    written: bool,
    /// Its first fate is known to have been decided.
    appeared: bool,
}

/// A delivery of one assignment to one trigger.
#[derive(Debug, Clone, Copy, Default)]
struct Handed {
    reports: u32,
    /// A function has succeeded with it, or it was given up for good.
    over: bool,
}

pub struct Ledger {
    plan: Plan,
    traces: BTreeMap<Event, Trace>,
    /// By assignment and trigger, then by offset.
    handed: BTreeMap<(u64, usize), BTreeMap<i64, Handed>>,
    fenced: BTreeSet<u64>,
    /// The last offset that came out, by trigger and partition; and the last one written as a result.
    appeared: BTreeMap<(usize, usize), i64>,
    written: BTreeMap<(usize, usize), i64>,
    /// Events that came out in this turn of an engine.
    turn: Vec<Event>,
    /// Deliveries not settled yet.
    pub open: usize,
    pub starts: usize,
    pub violation: Option<Violation>,
}

impl Ledger {
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            traces: BTreeMap::new(),
            handed: BTreeMap::new(),
            fenced: BTreeSet::new(),
            appeared: BTreeMap::new(),
            written: BTreeMap::new(),
            turn: Vec::new(),
            open: 0,
            starts: 0,
            violation: None,
        }
    }

    /// Notes the first rule that is broken.
    pub fn broken(&mut self, check: Check, what: String) {
        self.violation.get_or_insert(Violation { check, what });
    }

    pub fn hand_out(&mut self, assignment: u64, event: Event) {
        self.handed.entry((assignment, event.trigger)).or_default().insert(event.offset, Handed::default());
        self.open += 1;
    }

    /// A function begins with an event. `alone` says that it is the only one of its batch.
    pub fn start(&mut self, assignment: Option<u64>, event: Event, attempt: u32, alone: bool) {
        self.starts += 1;
        // Without order there is no lane to keep to.
        let Some(assignment) = assignment else { return };
        let earlier =
            self.handed.get(&(assignment, event.trigger)).into_iter().flat_map(|all| all.range(..event.offset));
        if let Some((offset, handed)) = { earlier }.find(|(_, handed)| !handed.over) {
            let what = format!("{event:?} of assignment {assignment} starts although {offset} is not over: {handed:?}");
            self.broken(Check::Order, what);
        }
        if attempt > 1 && !alone {
            self.broken(Check::Order, format!("{event:?} is tried again in company"));
        }
    }

    /// The worker is told that a function has succeeded.
    pub fn succeed(&mut self, event: Event) {
        self.traces.entry(event).or_default().ok = true;
    }

    /// An attempt has failed, or may be taken to have.
    pub fn fail(&mut self, event: Event) {
        self.traces.entry(event).or_default().failures += 1;
    }

    /// The event is behind us, as far as its lane goes.
    pub fn over(&mut self, assignment: u64, event: Event) {
        if let Some(handed) =
            self.handed.get_mut(&(assignment, event.trigger)).and_then(|all| all.get_mut(&event.offset))
        {
            handed.over = true;
        }
    }

    /// An engine has handed a record to a sink.
    pub fn send(&mut self, assignment: u64, event: Event, is_result: bool) {
        if self.fenced.contains(&assignment) {
            self.broken(Check::Fence, format!("{event:?} of assignment {assignment} is sent after the fence"));
        }
        let trace = self.traces.entry(event).or_default();
        if is_result {
            trace.result_sent = true;
        } else {
            trace.dead_sent = true;
            self.over(assignment, event);
        }
        self.turn.push(event);
    }

    pub fn refuse(&mut self, event: Event, is_result: bool) {
        self.traces.entry(event).or_default().result_refused |= is_result;
    }

    /// A sink has written a record.
    pub fn write(&mut self, event: Event, is_result: bool) {
        let attempts = self.plan.triggers[event.trigger].attempts;
        let trace = self.traces.entry(event).or_default();
        let is_first = !trace.written;
        trace.written = true;
        // One that was given up once comes late when it is repeated and succeeds.
        let was_given_up = trace.failures >= attempts || trace.result_refused || trace.dead_sent;
        if !is_first || !is_result || was_given_up || !self.is_ordered(event) {
            return;
        }
        let last = self.written.entry((event.trigger, event.partition)).or_insert(-1);
        if event.offset < *last {
            let what = format!("the result of {event:?} is first written after that of {last}");
            self.broken(Check::Order, what);
        } else {
            *last = event.offset;
        }
    }

    pub fn report(&mut self, partition: usize, trigger: usize, report: &Report) {
        let event = Event { trigger, partition, offset: report.offset };
        let handed = self.handed.get_mut(&(report.assignment, trigger)).and_then(|all| all.get_mut(&report.offset));
        let Some(handed) = handed else {
            return self.broken(Check::OneFate, format!("{event:?} is settled but was never handed out"));
        };
        handed.reports += 1;
        if handed.reports > 1 {
            return self.broken(Check::OneFate, format!("{event:?} is settled twice"));
        }
        self.open -= 1;
        if report.settled == Settled::Finished {
            self.over(report.assignment, event);
            self.turn.push(event);
            if !self.is_finished(event) {
                let trace = self.traces.get(&event);
                self.broken(Check::Lost, format!("{event:?} is settled as finished and is not: {trace:?}"));
            }
        }
    }

    /// Looks at what came out of one turn of an engine.
    pub fn end_turn(&mut self) {
        let mut turn = std::mem::take(&mut self.turn);
        turn.sort_unstable();
        for event in turn {
            let trace = self.traces.entry(event).or_default();
            if std::mem::replace(&mut trace.appeared, true) || !self.is_ordered(event) {
                continue;
            }
            let last = *self.appeared.get(&(event.trigger, event.partition)).unwrap_or(&-1);
            if event.offset < last {
                self.broken(Check::Order, format!("{event:?} comes out after {last}"));
            }
            self.appeared.insert((event.trigger, event.partition), last.max(event.offset));
        }
    }

    /// The assignment belongs to somebody else from now on.
    pub fn fence(&mut self, assignment: u64) {
        self.fenced.insert(assignment);
    }

    fn is_ordered(&self, event: Event) -> bool {
        self.plan.triggers[event.trigger].order == Order::Partition
    }

    pub fn is_finished(&self, event: Event) -> bool {
        let trigger = &self.plan.triggers[event.trigger];
        let trace = self.traces.get(&event).copied().unwrap_or_default();
        let is_used_up = trace.failures >= trigger.attempts || trace.result_refused;
        trace.written || (trace.ok && !trigger.results) || (trigger.last == Last::Drop && is_used_up)
    }

    pub fn describe(&self, event: Event) -> String {
        format!("{event:?}: {:?}", self.traces.get(&event))
    }

    /// A worker has crashed: all that it held must have been settled by being dropped. Nothing comes of it any more.
    pub fn forget(&mut self, assignments: &BTreeSet<u64>) {
        for ((assignment, trigger), handed) in &self.handed {
            let unsettled = handed.iter().find(|(_, handed)| handed.reports == 0);
            if let (true, Some((offset, _))) = (assignments.contains(assignment), unsettled) {
                let what = format!("{offset} of assignment {assignment}, trigger {trigger}, was never settled");
                self.violation.get_or_insert(Violation { check: Check::OneFate, what });
            }
        }
        self.handed.retain(|(assignment, _), _| !assignments.contains(assignment));
    }
}
