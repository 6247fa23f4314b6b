//! The broker: a log per partition, the offsets that the group has committed, and who owns which partition.

use std::time::Instant;

use super::checks::{Check, Ledger};
use super::plan::Event;

/// Who reads a partition. A commit of an older generation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub worker: usize,
    pub generation: u64,
}

#[derive(Debug)]
pub struct Partition {
    /// The triggers that each message fires; `None` is an offset that holds no message.
    pub log: Vec<Option<Vec<usize>>>,
    pub committed: i64,
    pub owner: Option<Owner>,
    /// When somebody new may be given it, once nobody owns it.
    pub vacant_until: Instant,
    /// Below this, everything is known to be finished.
    verified: i64,
}

#[derive(Debug)]
pub struct Broker {
    pub partitions: Vec<Partition>,
    generation: u64,
}

impl Broker {
    pub fn new(partitions: usize, now: Instant) -> Self {
        let partition = || Partition { log: Vec::new(), committed: 0, owner: None, vacant_until: now, verified: 0 };
        Self { partitions: (0..partitions).map(|_| partition()).collect(), generation: 0 }
    }

    pub fn give(&mut self, partition: usize, worker: usize) -> Owner {
        self.generation += 1;
        let owner = Owner { worker, generation: self.generation };
        self.partitions[partition].owner = Some(owner);
        owner
    }

    /// Takes a partition away from its owner, if that is still the same.
    pub fn vacate(&mut self, partition: usize, owner: Owner, until: Instant) {
        let partition = &mut self.partitions[partition];
        if partition.owner == Some(owner) {
            partition.owner = None;
            partition.vacant_until = until;
        }
    }

    /// Takes a commit in. `false` refuses it.
    pub fn commit(&mut self, number: usize, owner: Owner, offset: i64, ledger: &mut Ledger) -> bool {
        let partition = &mut self.partitions[number];
        if partition.owner != Some(owner) {
            return false;
        }
        if offset > partition.log.len() as i64 {
            ledger.broken(Check::Commit, format!("{offset} of partition {number} is committed, beyond its end"));
        }
        for at in partition.verified..offset.min(partition.log.len() as i64) {
            for &trigger in partition.log[at as usize].iter().flatten() {
                let event = Event { trigger, partition: number, offset: at };
                if !ledger.is_finished(event) {
                    let what = format!("{offset} is committed; not finished is {}", ledger.describe(event));
                    ledger.broken(Check::Commit, what);
                }
            }
            partition.verified = at + 1;
        }
        partition.committed = offset;
        true
    }

    /// The first partition with messages that are not committed.
    pub fn behind(&self) -> Option<usize> {
        self.partitions.iter().position(|partition| partition.committed < partition.log.len() as i64)
    }

    /// Every event there is.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.partitions.iter().enumerate().flat_map(|(number, partition)| {
            partition.log.iter().enumerate().flat_map(move |(offset, triggers)| {
                let event =
                    move |trigger: &usize| Event { trigger: *trigger, partition: number, offset: offset as i64 };
                triggers.iter().flatten().map(event)
            })
        })
    }
}
