//! Sinks that take their time, refuse records, and are away for a while. The engine writes to the real memory sink; its
//! receipts are held back here until the model has really written the record.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::SmallRng;

use super::checks::Ledger;
use super::plan::Event;
use super::world::Scene;
use crate::sink::Receipt;

/// What the memory sinks of an engine have written in this turn.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8(bytes).expect("JSON lines are UTF-8")
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A record on its way.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    pub ticket: u64,
    pub event: Event,
    pub is_result: bool,
}

/// One engine's way to the sinks: a queue for each, in order.
#[derive(Debug, Default)]
pub struct Producer {
    queues: BTreeMap<(usize, bool), VecDeque<(Pending, Instant)>>,
}

/// When each kind of sink (dead letters, results) is back.
#[derive(Debug, Clone, Copy)]
pub struct Outages(pub [Instant; 2]);

impl Producer {
    pub fn send(&mut self, pending: Pending, now: Instant, rng: &mut SmallRng) {
        let wait = if rng.random_bool(0.1) { rng.random_range(0..800) } else { rng.random_range(0..10) };
        let queue = self.queues.entry((pending.event.trigger, pending.is_result)).or_default();
        queue.push_back((pending, now + Duration::from_millis(wait)));
    }

    /// Writes what is due; answers the receipts.
    pub fn progress(&mut self, outages: Outages, scene: &mut Scene) -> Vec<Receipt> {
        let now = scene.now;
        let mut receipts = Vec::new();
        for ((_, is_result), queue) in &mut self.queues {
            if now < outages.0[usize::from(*is_result)] {
                continue;
            }
            while let Some((pending, _)) = queue.pop_front_if(|(_, at)| *at <= now) {
                let is_refused = !scene.calm && scene.plan.is_refused(pending.event, *is_result);
                let written = if is_refused { Err("too large".to_owned()) } else { Ok(()) };
                scene.note(|_| format!("{pending:?}: {written:?}"));
                match &written {
                    Ok(()) => scene.ledger.write(pending.event, *is_result),
                    Err(_) => scene.ledger.refuse(pending.event, *is_result),
                }
                receipts.push(Receipt { ticket: pending.ticket, written });
            }
        }
        receipts
    }

    /// The worker is gone: some of what was on its way still arrives, and nobody hears of it.
    pub fn abandon(self, ledger: &mut Ledger, rng: &mut SmallRng) {
        for ((_, is_result), queue) in self.queues {
            let arriving = rng.random_range(0..=queue.len());
            queue.iter().take(arriving).for_each(|(pending, _)| ledger.write(pending.event, is_result));
        }
    }
}
