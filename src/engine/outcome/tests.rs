use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::config::{LogLevel, Order};
use crate::delivery::retry::RetryPolicy;
use crate::delivery::{Assignment, Keep, Overdue, Report, Reports};
use crate::engine::function::{Arrivals, FunctionSetup, TriggerSetup, Ways};
use crate::engine::service::{Fault, IsolateEvent, Keeper, ServiceRunner};
use crate::event::{Envelope, Message, MessageRef, Properties, Shape};
use crate::scale::Bounds;
use crate::sink::Sink;
use crate::sink::memory::{MemorySink, Output};
use crate::source::Intake;
use crate::telemetry::Metrics;

/// An engine with one trigger and one isolate, driven by hand.
struct Bench {
    engine: FunctionEngine,
    reported: Receiver<Vec<Report>>,
    now: Instant,
    _keeper: Keeper,
}

const ISOLATE: u32 = 0;
const BATCH: u64 = 1;

impl Bench {
    /// `count` deliveries are in hand, as one batch.
    fn new(order: Order, attempts: u32, count: i64) -> Self {
        Self::keeping(order, attempts, count, None)
    }

    /// The messages can be kept for so long only.
    fn keeping(order: Order, attempts: u32, count: i64, keep: Option<Keep>) -> Self {
        let metrics = Metrics::default();
        let setup = FunctionSetup {
            name: "it.f".to_owned(),
            id: 0,
            concurrency: 16,
            bounds: Bounds { min: 0, max: 1, idle: Duration::from_secs(60) },
            log_level: LogLevel::Info,
            metrics: metrics.function("it", "f"),
        };
        let trigger = TriggerSetup {
            name: "it.t".to_owned(),
            order,
            batch_size: 100,
            retry: RetryPolicy { attempts, backoff: Duration::from_millis(10), max_backoff: Duration::from_secs(1) },
            envelope: Envelope { shape: Shape::Lagless, source: "s".to_owned(), trigger: "it.t".to_owned() },
            on_success: None,
            on_failure: None,
            reply: None,
            on_exhausted: OnExhausted::Stop,
            metrics: metrics.trigger("it", "t"),
        };
        let (runner, keeper) = ServiceRunner::held(metrics.runner("it"));
        #[expect(clippy::disallowed_methods, reason = "as in `start`; nothing comes back by these here")]
        let (events, receipts) = (unbounded_channel().0, unbounded_channel().0);
        let (ways, now) = (Ways { runner, events, receipts }, Instant::now());
        let engine = FunctionEngine::new(setup, vec![trigger], ways, SmallRng::seed_from_u64(1), now);
        let (reports, reported) = Reports::channel();
        let mut bench = Self { engine, reported, now, _keeper: keeper };
        let assignment = Assignment::new(1, "orders".into(), 0);
        let deliveries = (0..count).map(|offset| {
            let delivery = delivery(&assignment, offset, &reports);
            match keep {
                Some(keep) => Delivery { ticket: delivery.ticket.keeping(keep), ..delivery },
                None => delivery,
            }
        });
        let deliveries = deliveries.collect();
        bench.turn(Arrivals { intakes: vec![Intake::Deliveries { trigger: 0, deliveries }], ..Arrivals::default() });
        bench.hear(IsolateEvent::Opened { from_spare: true, took: Duration::ZERO });
        assert_eq!(bench.waiting(), 0, "all are in hand");
        bench
    }

    fn turn(&mut self, mut arrivals: Arrivals) {
        self.engine.turn(&mut arrivals, self.now);
    }

    fn hear(&mut self, event: IsolateEvent) {
        self.turn(Arrivals { heard: vec![(ISOLATE, event)], ..Arrivals::default() });
    }

    fn outcomes(&mut self, results: impl IntoIterator<Item = Result<Vec<u8>, Failure>>) {
        let cpu = Duration::from_millis(10);
        let outcomes = (0..).zip(results).map(|(event, result)| OwnedOutcome {
            batch: BATCH,
            event,
            wall: Duration::from_millis(20),
            cpu,
            result,
        });
        self.hear(IsolateEvent::Outcomes(outcomes.collect()));
    }

    /// Answers the sender of each message; what goes to the sinks is answered by hand.
    fn replying(mut self) -> Self {
        let setup = &mut self.engine.triggers[0].setup;
        setup.reply =
            Some(Sink::Memory(Arc::new(MemorySink::new("s", "replies", Output::to(Box::new(std::io::sink()))))));
        self
    }

    /// A sink answers for one record.
    fn written(&mut self, ticket: u64, written: Result<(), &str>) {
        let receipts = vec![Receipt { ticket, written: written.map_err(str::to_owned) }];
        self.turn(Arrivals { receipts, ..Arrivals::default() });
    }

    fn waiting(&self) -> usize {
        self.engine.triggers[0].lanes.waiting()
    }

    fn reports(&self) -> Vec<(i64, Settled)> {
        self.reported.try_iter().flatten().map(|report| (report.offset, report.settled)).collect()
    }
}

fn delivery(assignment: &Arc<Assignment>, offset: i64, reports: &Reports) -> Delivery {
    let properties = Arc::new(Properties { reply_to: Some("answers".to_owned()), ..Properties::default() });
    let message = MessageRef {
        topic: "orders",
        partition: 0,
        offset,
        timestamp: None,
        key: None,
        value: Some(b"{}"),
        headers: vec![],
        properties: Some(&properties),
    };
    Delivery {
        message: Message::copy_of(&message, "orders".into()),
        failed_attempts: 0,
        is_suspect: false,
        ticket: Ticket::new(assignment.clone(), offset, reports.clone()),
    }
}

fn failure(class: FailureClass) -> Failure {
    Failure::new(class, "Error", "boom")
}

#[test]
fn without_order_several_of_a_batch_may_stop() {
    let mut bench = Bench::new(Order::None, 1, 3);
    let thrown = || Err(failure(FailureClass::Exception));
    bench.outcomes([thrown(), Ok(vec![]), thrown()]);
    assert_eq!(bench.reports(), vec![(1, Settled::Finished)], "what is stopped is kept, not let go");
    assert_eq!(bench.engine.triggers[0].lanes.stopped(), 2);
}

#[test]
fn a_result_that_is_refused_late_stops_a_lane_in_which_nothing_waits() {
    let mut bench = Bench::new(Order::Partition, 1, 2);
    let held = bench.engine.isolates.all.get_mut(&ISOLATE).unwrap();
    let late = held.batches.get_mut(&BATCH).unwrap().take(0).unwrap();
    bench.outcomes([Ok(vec![]), Ok(vec![])]);
    assert_eq!(bench.reports(), vec![(1, Settled::Finished)]);
    bench.engine.await_receipt(Awaiting { trigger: 0, delivery: late, what: Sent::DeadLetter(None) });
    let receipts = vec![Receipt { ticket: 0, written: Err("not allowed".to_owned()) }];
    bench.turn(Arrivals { receipts, ..Arrivals::default() });
    assert_eq!((bench.reports(), bench.engine.triggers[0].lanes.stopped()), (vec![], 1));
}

#[test]
fn a_runner_whose_own_code_fails_in_an_isolate_does_not_try_for_ever() {
    let mut bench = Bench::new(Order::Partition, 1, 1);
    bench.hear(IsolateEvent::Closed(Some(failure(FailureClass::RunnerLost))));
    assert_eq!(bench.engine.triggers[0].lanes.stopped(), 1);
    // An isolate that was closed with all said blames nobody.
    let mut bench = Bench::new(Order::Partition, 1, 2);
    bench.hear(IsolateEvent::Closed(Some(failure(FailureClass::Timeout))));
    assert_eq!((bench.engine.triggers[0].lanes.stopped(), bench.waiting()), (0, 2));
}

#[test]
fn where_nobody_knows_which_of_several_it_was_none_has_failed_and_each_goes_alone() {
    for order in [Order::Partition, Order::None] {
        let mut bench = Bench::new(order, 1, 3);
        let fault = Fault::Unknown { reached: Some(BATCH) };
        bench.hear(IsolateEvent::Lost { failure: failure(FailureClass::RunnerLost), fault });
        let lanes = &mut bench.engine.triggers[0].lanes;
        assert_eq!((lanes.stopped(), lanes.waiting()), (0, 3));
        let later = Instant::now() + Duration::from_secs(60);
        assert!(lanes.is_suspect_next(later));
        let batch = lanes.take(later).unwrap();
        assert_eq!((batch.deliveries.len(), batch.deliveries[0].failed_attempts), (1, 0));
    }
}

#[test]
fn processor_time_counts_also_where_it_was_shared_out_to_what_never_started() {
    let mut bench = Bench::new(Order::Partition, 5, 3);
    let skipped = || Err(failure(FailureClass::Skipped));
    bench.outcomes([Err(failure(FailureClass::Exception)), skipped(), skipped()]);
    let metrics = &bench.engine.setup.metrics;
    assert_eq!(metrics.invocations.get(), 1);
    assert!((metrics.cpu.get() - 0.03).abs() < 1e-9, "{}", metrics.cpu.get());
}

#[test]
fn an_event_at_fault_does_not_come_to_its_end_before_those_in_front_of_it() {
    let mut bench = Bench::new(Order::Partition, 1, 3);
    let fault = Fault::Event { batch: BATCH, event: 1 };
    bench.hear(IsolateEvent::Lost { failure: failure(FailureClass::Timeout), fault });
    assert_eq!((bench.engine.triggers[0].lanes.stopped(), bench.waiting()), (0, 3));
}

#[test]
fn a_message_is_done_when_its_answer_is_taken_or_lost() {
    let mut bench = Bench::new(Order::Partition, 1, 2).replying();
    bench.outcomes([Ok(b"1".to_vec()), Ok(vec![])]);
    assert_eq!(bench.reports(), vec![]);
    bench.written(1, Err("nobody there"));
    bench.written(0, Ok(()));
    assert_eq!(bench.reports(), vec![(1, Settled::Finished), (0, Settled::Finished)]);
    let metrics = &bench.engine.triggers[0].setup.metrics;
    assert_eq!((metrics.done.get(), metrics.replies.get(), metrics.replies_lost.get()), (2, 1, 1));
}

#[test]
fn the_answer_comes_after_the_result_is_kept() {
    let mut bench = Bench::new(Order::Partition, 1, 1).replying();
    let setup = &mut bench.engine.triggers[0].setup;
    setup.on_success = setup.reply.clone();
    bench.outcomes([Ok(b"1".to_vec())]);
    assert_eq!(bench.engine.awaiting.len(), 1, "only the result is on its way");
    bench.written(0, Ok(()));
    assert_eq!((bench.reports(), bench.engine.awaiting.len()), (vec![], 1));
    bench.written(1, Ok(()));
    assert_eq!(bench.reports(), vec![(0, Settled::Finished)]);
}

#[test]
fn a_last_failure_is_answered_before_the_message_is_given_up() {
    for (policy, settled) in [(OnExhausted::Drop, Settled::Finished), (OnExhausted::Reject, Settled::Rejected)] {
        let mut bench = Bench::new(Order::None, 1, 1).replying();
        bench.engine.triggers[0].setup.on_exhausted = policy;
        bench.outcomes([Err(failure(FailureClass::Exception))]);
        assert_eq!(bench.reports(), vec![]);
        bench.written(0, Ok(()));
        assert_eq!(bench.reports(), vec![(0, settled)]);
    }
    // A lane that stops keeps the message, and does not wait for the answer.
    let mut bench = Bench::new(Order::Partition, 1, 1).replying();
    bench.outcomes([Err(failure(FailureClass::Exception))]);
    assert_eq!((bench.engine.triggers[0].lanes.stopped(), bench.engine.awaiting.len()), (1, 0));
}

#[test]
fn without_somebody_to_answer_nothing_waits_for_an_answer() {
    let mut bench = Bench::new(Order::Partition, 1, 1);
    bench.outcomes([Ok(b"1".to_vec())]);
    assert_eq!(bench.reports(), vec![(0, Settled::Finished)]);
}

#[test]
fn what_cannot_be_kept_until_its_next_attempt_goes_back_or_has_used_up_its_attempts() {
    let thrown = || Err(failure(FailureClass::Exception));
    let keep = |then| Some(Keep { until: Instant::now(), then });
    let mut bench = Bench::keeping(Order::Partition, 5, 2, keep(Overdue::Return));
    bench.outcomes([thrown(), Err(failure(FailureClass::Skipped))]);
    assert_eq!(bench.reports(), vec![(0, Settled::Returned)], "the other is not to blame");

    let mut bench = Bench::keeping(Order::Partition, 5, 1, keep(Overdue::Exhaust));
    bench.engine.triggers[0].setup.on_exhausted = OnExhausted::Reject;
    bench.outcomes([thrown()]);
    assert_eq!(bench.reports(), vec![(0, Settled::Rejected)]);

    let late = Keep { until: Instant::now() + Duration::from_secs(60), then: Overdue::Exhaust };
    let mut bench = Bench::keeping(Order::Partition, 5, 1, Some(late));
    bench.outcomes([thrown()]);
    assert_eq!((bench.reports(), bench.waiting()), (vec![], 1), "there is time for another attempt");
}

#[test]
fn whatever_a_source_has_counted_a_message_is_tried_once_more() {
    let mut bench = Bench::new(Order::None, 3, 1);
    let (reports, _reported) = Reports::channel();
    let assignment = Assignment::new(1, "orders".into(), 0);
    let counted = |offset, failed_attempts| Delivery { failed_attempts, ..delivery(&assignment, offset, &reports) };
    let deliveries = vec![counted(0, 1), counted(1, 7)];
    bench.turn(Arrivals { intakes: vec![Intake::Deliveries { trigger: 0, deliveries }], ..Arrivals::default() });
    let batches = bench.engine.isolates.all[&ISOLATE].batches.values();
    let attempts: Vec<u32> =
        batches.flat_map(|in_hand| in_hand.open()).map(|(_, delivery)| delivery.failed_attempts).collect();
    assert_eq!(attempts, [0, 1, 2]);
}
