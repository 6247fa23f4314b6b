//! A worker's subscription: it reads, hands out, settles, rewinds, lets go and commits as the Kafka source does, with the
//! real tickets, assignments and offset trackers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rand::Rng;

use super::broker::Owner;
use super::checks::Check;
use super::plan::{Event, Sabotage};
use super::world::Scene;
use crate::delivery::{Assignment, Delivery, OffsetTracker, Phase, Report, Reports, Ticket};
use crate::event::{Message, MessageRef};
use crate::source::Route;

const REVOKE_TIMEOUT: Duration = Duration::from_millis(700);
const REWIND_DELAY: Duration = Duration::from_millis(100);
const COMMIT_INTERVAL: Duration = Duration::from_millis(60);
/// A finished window may grow to this many times the share.
const WINDOW_FACTOR: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Open,
    Full,
    Rewinding {
        until: Instant,
        not_before: Instant,
    },
    Revoking {
        until: Instant,
    },
    /// Somebody else owns it; this worker has not heard of it yet.
    Lost {
        heard_at: Instant,
    },
}

#[derive(Debug)]
struct Held {
    owner: Owner,
    assignment: Arc<Assignment>,
    tracker: OffsetTracker,
    hold: Hold,
    next: i64,
    acknowledged: i64,
}

/// One trigger of the subscription. Each has reports of its own here, so that a report says whose it is.
pub struct Exit {
    pub route: Route,
    reports: Reports,
    received: Receiver<Vec<Report>>,
    outbox: Vec<Delivery>,
    /// Deliveries handed to the route.
    pub handed: usize,
}

pub struct Source {
    held: BTreeMap<usize, Held>,
    pub exits: Vec<Exit>,
    /// Every assignment there has been, and its partition.
    partitions: BTreeMap<u64, usize>,
    reported: Vec<Report>,
    commit_at: Instant,
}

impl Source {
    pub fn new(routes: Vec<Route>, now: Instant) -> Self {
        let exits = routes.into_iter().map(|route| {
            let (reports, received) = Reports::channel();
            Exit { route, reports, received, outbox: Vec::new(), handed: 0 }
        });
        Self {
            held: BTreeMap::new(),
            exits: exits.collect(),
            partitions: BTreeMap::new(),
            reported: Vec::new(),
            commit_at: now,
        }
    }

    /// Begins to read a partition where the group left off.
    pub fn arrive(&mut self, partition: usize, owner: Owner, scene: &mut Scene) {
        let committed = scene.broker.partitions[partition].committed;
        let held = Held {
            owner,
            assignment: self.assignment(partition, scene),
            tracker: OffsetTracker::default(),
            hold: Hold::Open,
            next: committed,
            acknowledged: committed,
        };
        assert!(self.held.insert(partition, held).is_none(), "a partition comes once");
    }

    fn assignment(&mut self, partition: usize, scene: &mut Scene) -> Arc<Assignment> {
        scene.assignments += 1;
        self.partitions.insert(scene.assignments, partition);
        scene.note(|scene| format!("assignment {} is partition {partition}", scene.assignments));
        Assignment::new(scene.assignments, "t".into(), partition as i32)
    }

    pub fn holds(&self, partition: usize) -> bool {
        self.held.contains_key(&partition)
    }

    /// Asks for a partition back. `grace`: how long what runs may go on.
    pub fn revoke(&mut self, partition: usize, grace: Duration, scene: &mut Scene) {
        let Some(held) = self.held.get_mut(&partition) else { return };
        if matches!(held.hold, Hold::Revoking { .. } | Hold::Lost { .. }) {
            return;
        }
        scene.note(|_| format!("partition {partition} is revoked, {grace:?}"));
        held.hold = Hold::Revoking { until: scene.now + grace };
        held.assignment.advance(Phase::Draining);
        self.phase_changed();
    }

    /// Takes a partition away without a word; this worker hears of it later.
    pub fn lose(&mut self, partition: usize, heard_at: Instant, scene: &mut Scene) {
        let Some(held) = self.held.get_mut(&partition) else { return };
        if !matches!(held.hold, Hold::Lost { .. }) {
            scene.note(|_| format!("partition {partition} is lost"));
            held.hold = Hold::Lost { heard_at };
            scene.broker.vacate(partition, held.owner, scene.now);
        }
    }

    fn phase_changed(&self) {
        self.exits.iter().for_each(|exit| exit.route.phase_changed());
    }

    /// Hears what engines have settled.
    pub fn collect(&mut self, scene: &mut Scene) {
        for (trigger, exit) in self.exits.iter_mut().enumerate() {
            let mut reports: Vec<Report> = exit.received.try_iter().flatten().collect();
            // What an engine held when it died is let go in any order.
            reports.sort_by_key(|report| (report.assignment, report.offset));
            for report in reports {
                scene.note(|_| format!("trigger {trigger}: {report:?}"));
                scene.ledger.report(self.partitions[&report.assignment], trigger, &report);
                if scene.sabotages(Sabotage::SettleTwice) {
                    scene.ledger.report(self.partitions[&report.assignment], trigger, &report);
                }
                self.reported.push(report);
            }
        }
    }

    pub fn step(&mut self, scene: &mut Scene) {
        self.read(scene);
        for exit in &mut self.exits {
            if !exit.outbox.is_empty() {
                exit.handed += exit.outbox.len();
                exit.route.send(std::mem::take(&mut exit.outbox));
            }
        }
        self.settle(scene);
        self.let_go(scene);
        if scene.now >= self.commit_at {
            self.commit_at = scene.now + COMMIT_INTERVAL;
            self.held.iter_mut().for_each(|(partition, held)| commit(*partition, held, scene));
        }
    }

    /// Settles what was reported, and rewinds where something was let go.
    pub fn settle(&mut self, scene: &mut Scene) {
        for report in std::mem::take(&mut self.reported) {
            if let Some(held) = self.held.values_mut().find(|held| held.assignment.id == report.assignment) {
                held.tracker.settle(report.offset, report.settled);
            }
        }
        self.rewind(scene);
    }

    fn read(&mut self, scene: &mut Scene) {
        let share = (scene.plan.in_flight / self.held.len().max(1)).max(1);
        for (partition, held) in &mut self.held {
            let is_used_up =
                held.tracker.waiting() >= share || held.tracker.window() >= share.saturating_mul(WINDOW_FACTOR);
            let has_room = held.tracker.waiting() * 2 <= share && held.tracker.window() * 2 <= share * WINDOW_FACTOR;
            match held.hold {
                Hold::Open if is_used_up && !scene.sabotages(Sabotage::ReadWithoutBound) => held.hold = Hold::Full,
                Hold::Full if has_room => held.hold = Hold::Open,
                _ => {}
            }
            if !matches!(held.hold, Hold::Open | Hold::Lost { .. }) {
                continue;
            }
            for _ in 0..scene.rng.random_range(0..12) {
                let is_used_up = held.tracker.waiting() >= share && !scene.sabotages(Sabotage::ReadWithoutBound);
                let at_end = held.next >= scene.broker.partitions[*partition].log.len() as i64;
                if is_used_up || at_end {
                    break;
                }
                take(*partition, held, &mut self.exits, scene);
            }
            if held.tracker.waiting() > share.max(scene.plan.in_flight) {
                let what = format!("{} messages of partition {partition} are in flight", held.tracker.waiting());
                scene.ledger.broken(Check::Memory, what);
            }
        }
    }

    /// Reads partitions again whose deliveries were let go.
    fn rewind(&mut self, scene: &mut Scene) {
        let (mut is_moved, mut due) = (false, Vec::new());
        for (partition, held) in &mut self.held {
            match held.hold {
                Hold::Open | Hold::Full if held.tracker.has_released() => {
                    held.hold =
                        Hold::Rewinding { until: scene.now + REVOKE_TIMEOUT, not_before: scene.now + REWIND_DELAY };
                    held.assignment.advance(Phase::Draining);
                    is_moved = true;
                }
                Hold::Lost { .. } if held.tracker.has_released() => held.hold = Hold::Lost { heard_at: scene.now },
                Hold::Rewinding { until, not_before }
                    if scene.now >= not_before && (held.tracker.waiting() == 0 || scene.now >= until) =>
                {
                    fence(held, scene);
                    is_moved = true;
                    due.push(*partition);
                }
                _ => {}
            }
        }
        for partition in due {
            let assignment = self.assignment(partition, scene);
            let Some(held) = self.held.get_mut(&partition) else { continue };
            held.next = held.tracker.committable().unwrap_or(held.next);
            (held.assignment, held.tracker, held.hold) = (assignment, OffsetTracker::default(), Hold::Open);
        }
        if is_moved {
            self.phase_changed();
        }
    }

    /// Lets go of partitions whose time is up.
    fn let_go(&mut self, scene: &mut Scene) {
        let due: Vec<usize> = self
            .held
            .iter()
            .filter(|(_, held)| match held.hold {
                Hold::Revoking { until } => held.tracker.waiting() == 0 || scene.now >= until,
                Hold::Lost { heard_at } => scene.now >= heard_at,
                _ => false,
            })
            .map(|(partition, _)| *partition)
            .collect();
        for partition in due {
            let Some(mut held) = self.held.remove(&partition) else { continue };
            fence(&held, scene);
            self.phase_changed();
            commit(partition, &mut held, scene);
            let wait = Duration::from_millis(scene.rng.random_range(0..100));
            scene.broker.vacate(partition, held.owner, scene.now + wait);
        }
    }

    /// The worker is gone. Everything must have been dropped by now.
    pub fn crash(mut self, scene: &mut Scene) {
        self.exits.iter_mut().for_each(|exit| exit.outbox.clear());
        self.collect(scene);
        scene.ledger.forget(&self.partitions.keys().copied().collect::<BTreeSet<u64>>());
        for (partition, held) in self.held {
            let wait = Duration::from_millis(scene.rng.random_range(0..300));
            scene.broker.vacate(partition, held.owner, scene.now + wait);
        }
    }
}

/// Takes the next message of a partition.
fn take(partition: usize, held: &mut Held, exits: &mut [Exit], scene: &mut Scene) {
    let offset = held.next;
    held.next += 1;
    let Some(triggers) = scene.broker.partitions[partition].log[offset as usize].clone() else { return };
    if scene.sabotages(Sabotage::SkipMessage) {
        return held.tracker.read(offset, 0, 0);
    }
    let value = format!("[{partition},{offset}]");
    let message = MessageRef {
        topic: "t",
        partition: partition as i32,
        offset,
        timestamp: None,
        key: None,
        value: Some(value.as_bytes()),
        headers: Vec::new(),
        properties: None,
    };
    for &trigger in &triggers {
        let exit = &mut exits[trigger];
        scene.ledger.hand_out(held.assignment.id, Event { trigger, partition, offset });
        let ticket = Ticket::new(held.assignment.clone(), offset, exit.reports.clone());
        let message = Message::copy_of(&message, held.assignment.topic.clone());
        exit.outbox.push(Delivery { message, failed_attempts: 0, is_suspect: false, ticket });
    }
    held.tracker.read(offset, triggers.len() as u32, triggers.len());
}

fn fence(held: &Held, scene: &mut Scene) {
    scene.note(|_| format!("assignment {} is fenced", held.assignment.id));
    scene.ledger.fence(held.assignment.id);
    if !scene.sabotages(Sabotage::IgnoreFence) {
        held.assignment.advance(Phase::Fenced);
    }
}

/// Commits what there is, unless the commit or its answer is lost.
fn commit(partition: usize, held: &mut Held, scene: &mut Scene) {
    let committable = held.tracker.committable();
    let offset = if scene.sabotages(Sabotage::CommitPastOpen) { Some(held.next) } else { committable };
    let Some(offset) = offset.filter(|offset| *offset != held.acknowledged) else { return };
    if scene.trouble(0.1) {
        return;
    }
    let is_taken = scene.broker.commit(partition, held.owner, offset, &mut scene.ledger);
    if is_taken && !scene.trouble(0.1) {
        held.acknowledged = offset;
    }
}
