use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::*;
use crate::delivery::{Assignment, Report, Reports, Settled, Settlement, Ticket};
use crate::event::{Message, MessageRef};

struct Bench {
    assignments: Vec<Arc<Assignment>>,
    reports: Reports,
    received: Receiver<Vec<Report>>,
    start: Instant,
}

impl Bench {
    fn new(partitions: i32) -> Self {
        let (reports, received) = Reports::channel();
        let topic: Arc<str> = "t".into();
        let assignments = (0..partitions).map(|n| Assignment::new(n as u64, topic.clone(), n)).collect();
        Self { assignments, reports, received, start: Instant::now() }
    }

    fn delivery(&self, partition: usize, offset: i64) -> Delivery {
        self.delivery_of(partition, offset, None)
    }

    fn delivery_of(&self, partition: usize, offset: i64, value: Option<&[u8]>) -> Delivery {
        let message = MessageRef {
            topic: "t",
            partition: partition as i32,
            offset,
            timestamp: None,
            key: None,
            value,
            headers: vec![],
            properties: None,
        };
        Delivery {
            message: Message::copy_of(&message, "t".into()),
            failed_attempts: 0,
            is_suspect: false,
            ticket: Ticket::new(self.assignments[partition].clone(), offset, self.reports.clone()),
        }
    }

    fn after(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn released(&self) -> Vec<(u64, i64)> {
        let mut released: Vec<_> = self
            .received
            .try_iter()
            .flatten()
            .filter(|report| report.settled == Settled::Released)
            .map(|report| (report.assignment, report.offset))
            .collect();
        released.sort_unstable();
        released
    }
}

fn offsets(batch: &Batch) -> Vec<i64> {
    batch.deliveries.iter().map(|delivery| delivery.ticket.offset()).collect()
}

fn settle_all(batch: Batch) {
    let mut settlement = Settlement::default();
    for delivery in batch.deliveries {
        delivery.ticket.settle(Settled::Finished, &mut settlement);
    }
}

#[test]
fn an_ordered_lane_is_out_with_one_batch_at_a_time() {
    let bench = Bench::new(2);
    let mut lanes = Lanes::by_partition(2);
    lanes.push((0..3).map(|offset| bench.delivery(0, offset)));
    lanes.push([bench.delivery(1, 7)]);

    let first = lanes.take(bench.start).expect("a batch of partition 0");
    assert_eq!((first.lane, offsets(&first)), (LaneId::Assignment(0), vec![0, 1]));
    let other = lanes.take(bench.start).expect("a batch of partition 1");
    assert_eq!((other.lane, offsets(&other)), (LaneId::Assignment(1), vec![7]));
    assert!(lanes.take(bench.start).is_none());

    settle_all(first);
    lanes.finish(LaneId::Assignment(0));
    let next = lanes.take(bench.start).expect("the rest of partition 0");
    assert_eq!(offsets(&next), vec![2]);
    settle_all(next);
    settle_all(other);
    assert_eq!(bench.released(), vec![]);
}

#[test]
fn a_retry_comes_first_and_alone_after_its_backoff() {
    let bench = Bench::new(1);
    let mut lanes = Lanes::by_partition(10);
    lanes.push((0..3).map(|offset| bench.delivery(0, offset)));
    let mut out = lanes.take(bench.start).expect("ready").deliveries.into_iter();
    let (mut failed, second, third) = (out.next().unwrap(), out.next().unwrap(), out.next().unwrap());
    failed.failed_attempts = 1;
    // Those behind the failed one were skipped, and go back in reverse.
    lanes.give_back(third, bench.start);
    lanes.give_back(second, bench.start);
    lanes.give_back(failed, bench.after(100));
    assert!(lanes.take(bench.after(200)).is_none(), "still out");
    lanes.finish(LaneId::Assignment(0));

    assert_eq!(lanes.next_due(), Some(bench.after(100)));
    assert!(lanes.take(bench.after(99)).is_none());
    let retry = lanes.take(bench.after(100)).expect("backoff has ended");
    assert_eq!(offsets(&retry), vec![0]);
    settle_all(retry);
    lanes.finish(LaneId::Assignment(0));
    let rest = lanes.take(bench.after(100)).expect("the others follow");
    assert_eq!(offsets(&rest), vec![1, 2]);
    settle_all(rest);
}

#[test]
fn a_stopped_lane_stands_while_others_go_on() {
    let bench = Bench::new(2);
    let mut lanes = Lanes::by_partition(1);
    lanes.push([bench.delivery(0, 0), bench.delivery(0, 1), bench.delivery(1, 0)]);
    let poison = lanes.take(bench.start).expect("ready").deliveries.remove(0);
    lanes.stop(poison);
    lanes.finish(LaneId::Assignment(0));
    assert_eq!(lanes.stopped(), 1);
    let other = lanes.take(bench.start).expect("partition 1 goes on");
    assert_eq!(other.lane, LaneId::Assignment(1));
    settle_all(other);
    lanes.finish(LaneId::Assignment(1));
    assert!(lanes.take(bench.start).is_none());
    assert_eq!(lanes.waiting(), 2);
}

#[test]
fn what_waits_for_an_ended_assignment_is_released() {
    for mut lanes in [Lanes::by_partition(1), Lanes::without_order(1)] {
        let bench = Bench::new(2);
        lanes.push((0..3).map(|offset| bench.delivery(0, offset)));
        lanes.push([bench.delivery(1, 5)]);
        let running = lanes.take(bench.start).expect("ready");
        bench.assignments[0].advance(Phase::Draining);
        lanes.release_ended();
        assert_eq!(bench.released(), vec![(0, 1), (0, 2)]);
        // What fails now is not kept for another attempt.
        let lane = running.lane;
        for delivery in running.deliveries {
            lanes.give_back(delivery, bench.start);
        }
        lanes.finish(lane);
        assert_eq!(bench.released(), vec![(0, 0)]);
        // Nor is what comes late.
        lanes.push([bench.delivery(0, 9)]);
        assert_eq!(bench.released(), vec![(0, 9)]);
        let other = lanes.take(bench.start).expect("partition 1 is not touched");
        assert_eq!(offsets(&other), vec![5]);
        settle_all(other);
    }
}

#[test]
fn a_failed_event_goes_alone_also_behind_others() {
    let bench = Bench::new(1);
    let mut lanes = Lanes::by_partition(10);
    let mut deliveries: Vec<_> = (0..5).map(|offset| bench.delivery(0, offset)).collect();
    deliveries[2].failed_attempts = 1;
    lanes.push(deliveries);
    for expected in [vec![0, 1], vec![2], vec![3, 4]] {
        let batch = lanes.take(bench.start).expect("ready");
        assert_eq!(offsets(&batch), expected);
        let lane = batch.lane;
        settle_all(batch);
        lanes.finish(lane);
    }
}

#[test]
fn nothing_overtakes_a_failed_event_of_an_ended_assignment() {
    let bench = Bench::new(1);
    let mut lanes = Lanes::by_partition(1);
    lanes.push((0..2).map(|offset| bench.delivery(0, offset)));
    let mut failed = lanes.take(bench.start).expect("ready");
    // The lanes have not been told of it yet.
    bench.assignments[0].advance(Phase::Draining);
    lanes.give_back(failed.deliveries.remove(0), bench.start);
    lanes.finish(failed.lane);
    assert!(lanes.take(bench.start).is_none());
    assert_eq!(bench.released(), vec![(0, 0), (0, 1)]);
    assert_eq!(lanes.waiting(), 0);
}

#[test]
fn without_order_a_retry_waits_alone() {
    let bench = Bench::new(1);
    let mut lanes = Lanes::without_order(2);
    lanes.push((0..3).map(|offset| bench.delivery(0, offset)));
    let mut first = lanes.take(bench.start).expect("ready").deliveries.into_iter();
    lanes.give_back(first.next().unwrap(), bench.after(50));
    drop(first);
    let rest = lanes.take(bench.start).expect("others do not wait");
    assert_eq!(offsets(&rest), vec![2]);
    settle_all(rest);
    assert!(lanes.take(bench.after(49)).is_none());
    let retry = lanes.take(bench.after(50)).expect("due");
    assert_eq!(offsets(&retry), vec![0]);
    settle_all(retry);
}

#[test]
fn a_lane_stops_whatever_it_was_doing_when_a_sink_refuses() {
    let bench = Bench::new(1);
    let later = || [bench.delivery(0, 1), bench.delivery(0, 2)];
    // Nothing waits any more, so that there is no lane.
    let mut gone = Lanes::by_partition(1);
    // The next is ready.
    let mut ready = Lanes::by_partition(1);
    ready.push(later());
    // The next is in backoff.
    let mut waiting = Lanes::by_partition(1);
    waiting.push(later());
    let mut batch = waiting.take(bench.start).expect("ready");
    waiting.give_back(batch.deliveries.remove(0), bench.after(10));
    waiting.finish(batch.lane);
    // The next is out.
    let mut out = Lanes::by_partition(1);
    out.push(later());
    let mut batch = out.take(bench.start).expect("ready");

    for lanes in [&mut gone, &mut ready, &mut waiting, &mut out] {
        lanes.stop(bench.delivery(0, 0));
        lanes.push([bench.delivery(0, 3)]);
    }
    out.give_back(batch.deliveries.remove(0), bench.start);
    out.finish(batch.lane);
    for (mut lanes, kept) in [(gone, 2), (ready, 4), (waiting, 4), (out, 4)] {
        assert_eq!((lanes.stopped(), lanes.waiting(), lanes.ready(bench.after(20))), (1, kept, 0));
        assert!(lanes.take(bench.after(20)).is_none());
        assert_eq!(bench.released(), vec![]);
        drop(lanes);
        bench.released();
    }
}

#[test]
fn nothing_stops_for_an_ended_assignment() {
    for mut lanes in [Lanes::by_partition(1), Lanes::without_order(1)] {
        let bench = Bench::new(1);
        lanes.push([bench.delivery(0, 0), bench.delivery(0, 1)]);
        let mut batch = lanes.take(bench.start).expect("ready");
        bench.assignments[0].advance(Phase::Draining);
        lanes.release_ended();
        lanes.stop(batch.deliveries.remove(0));
        lanes.finish(batch.lane);
        assert_eq!(bench.released(), vec![(0, 0), (0, 1)]);
        assert_eq!((lanes.stopped(), lanes.waiting()), (0, 0));
    }
}

#[test]
fn a_batch_is_bounded_in_bytes_too() {
    let bench = Bench::new(1);
    for mut lanes in [Lanes::by_partition(10), Lanes::without_order(10)] {
        let value = vec![0; BATCH_BYTES / 2 - 1000];
        lanes.push([0, 1, 2].map(|offset| bench.delivery_of(0, offset, Some(&value))));
        let huge = vec![0; BATCH_BYTES + 1];
        lanes.push([bench.delivery_of(0, 3, Some(&huge)), bench.delivery(0, 4)]);
        for expected in [vec![0, 1], vec![2], vec![3], vec![4]] {
            let batch = lanes.take(bench.start).expect("ready");
            assert_eq!(offsets(&batch), expected);
            let lane = batch.lane;
            settle_all(batch);
            lanes.finish(lane);
        }
    }
}
