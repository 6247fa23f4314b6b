//! Which offsets of a partition are open, and how far a commit may go.

use std::collections::VecDeque;

use super::Settled;

/// The open offsets of one assignment. Invariant: every offset below [`committable`](Self::committable) is finished,
/// matched no trigger, or was never handed out by the broker.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    /// Offsets in the order they were read, from the lowest that is not finished.
    window: VecDeque<Slot>,
    /// The offset after the last one read; `None` before the first.
    next: Option<i64>,
    waiting: usize,
    bytes: usize,
    released: bool,
}

#[derive(Debug)]
struct Slot {
    offset: i64,
    /// Deliveries of this message that are not settled yet.
    open: u32,
    released: bool,
    bytes: usize,
}

impl OffsetTracker {
    /// Notes a message that was read and makes `deliveries` deliveries (0: no trigger matched, finished at once) which
    /// hold `bytes` of memory together. Offsets come in ascending order; gaps cost nothing.
    pub fn read(&mut self, offset: i64, deliveries: u32, bytes: usize) {
        debug_assert!(self.next.is_none_or(|next| offset >= next), "offsets come in ascending order");
        self.next = Some(offset + 1);
        if deliveries > 0 {
            self.window.push_back(Slot { offset, open: deliveries, released: false, bytes });
            self.waiting += 1;
            self.bytes += bytes;
        }
    }

    /// Notes the settlement of one delivery; unknown offsets are ignored. Answers what has become of the message, if
    /// that was its last one: it is released if any of its deliveries was.
    pub fn settle(&mut self, offset: i64, settled: Settled) -> Option<Settled> {
        let index = self.window.binary_search_by_key(&offset, |slot| slot.offset).ok()?;
        let slot = &mut self.window[index];
        if slot.open == 0 {
            return None;
        }
        slot.open -= 1;
        // What an offset comes back by is reading it again.
        slot.released |= matches!(settled, Settled::Released | Settled::Returned);
        // At once, so that nothing more is read behind a delivery that has to come again.
        self.released |= slot.released;
        if slot.open > 0 {
            return None;
        }
        let is_released = slot.released;
        self.waiting -= 1;
        self.bytes -= slot.bytes;
        while self.window.front().is_some_and(|slot| slot.open == 0 && !slot.released) {
            self.window.pop_front();
        }
        Some(if is_released { Settled::Released } else { Settled::Finished })
    }

    /// The offset that a commit may name (the next one to read); `None` before anything was read.
    pub fn committable(&self) -> Option<i64> {
        self.window.front().map(|slot| slot.offset).or(self.next)
    }

    /// The offset after the last one read.
    pub fn next(&self) -> Option<i64> {
        self.next
    }

    /// Messages that are read and not settled.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Messages between the committable offset and the last one read, finished or not: what a crash may repeat.
    pub fn window(&self) -> usize {
        self.window.len()
    }

    /// Memory held by messages that are not settled.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a delivery was released: its message must be read again from [`committable`](Self::committable) on.
    pub fn has_released(&self) -> bool {
        self.released
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commits_stop_at_the_lowest_open_offset() {
        let mut tracker = OffsetTracker::default();
        assert_eq!(tracker.committable(), None);
        tracker.read(5, 1, 10);
        tracker.read(6, 0, 0);
        tracker.read(9, 2, 10);
        assert_eq!((tracker.committable(), tracker.waiting(), tracker.bytes()), (Some(5), 2, 20));
        tracker.settle(9, Settled::Finished);
        tracker.settle(5, Settled::Finished);
        assert_eq!((tracker.committable(), tracker.waiting()), (Some(9), 1));
        tracker.settle(9, Settled::Finished);
        assert_eq!((tracker.committable(), tracker.waiting(), tracker.bytes()), (Some(10), 0, 0));
    }

    #[test]
    fn a_released_offset_is_never_passed() {
        let mut tracker = OffsetTracker::default();
        for offset in 0..3 {
            tracker.read(offset, 1, 1);
        }
        tracker.settle(1, Settled::Released);
        tracker.settle(0, Settled::Finished);
        tracker.settle(2, Settled::Finished);
        assert_eq!((tracker.committable(), tracker.waiting()), (Some(1), 0));
        assert!(tracker.has_released());
    }

    #[test]
    fn one_of_several_deliveries_released_keeps_the_message() {
        let mut tracker = OffsetTracker::default();
        tracker.read(0, 2, 1);
        assert_eq!(tracker.settle(0, Settled::Released), None);
        assert_eq!(tracker.settle(0, Settled::Finished), Some(Settled::Released));
        assert_eq!(tracker.committable(), Some(0));
        assert_eq!(tracker.settle(0, Settled::Finished), None);
    }

    proptest! {
        #[test]
        fn never_commits_past_an_open_offset(
            gaps in prop::collection::vec((1i64..4, 0u32..3), 0..60),
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..150),
        ) {
            let mut tracker = OffsetTracker::default();
            let mut unfinished = BTreeMap::new();
            let mut offset = 0;
            for (gap, deliveries) in gaps {
                offset += gap;
                tracker.read(offset, deliveries, 1);
                if deliveries > 0 {
                    unfinished.insert(offset, (deliveries, false));
                }
            }
            for (pick, finished) in picks {
                let open: Vec<i64> = unfinished.iter().filter(|(_, (open, _))| *open > 0).map(|(o, _)| *o).collect();
                if open.is_empty() {
                    break;
                }
                let offset = *pick.get(&open);
                let settled = if finished { Settled::Finished } else { Settled::Released };
                tracker.settle(offset, settled);
                let slot = unfinished.get_mut(&offset).expect("picked from the map");
                slot.0 -= 1;
                slot.1 |= !finished;
                if *slot == (0, false) {
                    unfinished.remove(&offset);
                }
                let lowest = unfinished.keys().next();
                prop_assert_eq!(tracker.committable(), Some(lowest.copied().unwrap_or(tracker.next.unwrap())));
                prop_assert_eq!(tracker.waiting(), unfinished.values().filter(|(open, _)| *open > 0).count());
            }
        }
    }
}
