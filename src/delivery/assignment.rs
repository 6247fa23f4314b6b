//! An assignment: the time between a partition's coming and its going.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// One partition as assigned once. Every delivery refers to its own, so what belongs to an assignment that has ended is
/// known by identity: nothing of it can be mistaken for the next one.
#[derive(Debug)]
pub struct Assignment {
    /// Unique within the subscription; the number by which settlements are reported.
    pub id: u64,
    pub topic: Arc<str>,
    pub partition: i32,
    phase: AtomicU8,
}

/// How far an assignment has got. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Active,
    /// Nothing new is started; what runs may finish.
    Draining,
    /// What still runs is void: its results must not be written.
    Fenced,
}

impl Assignment {
    pub fn new(id: u64, topic: Arc<str>, partition: i32) -> Arc<Self> {
        Arc::new(Self { id, topic, partition, phase: AtomicU8::new(Phase::Active as u8) })
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Active,
            1 => Phase::Draining,
            _ => Phase::Fenced,
        }
    }

    /// Moves to `phase`, unless already further.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }
}
