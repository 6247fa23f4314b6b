//! The broker goes away and comes back, while messages are written and handled.

use std::process::Stdio;
use std::sync::Arc;

use rand::Rng;

use super::flow::{Flow, Plan};
use super::queues::Queued;
use super::road::{Lines, Road};
use super::scale::{Scale, seeded};
use super::topics::Topics;
use crate::harness::kafka::OwnKafka;
use crate::harness::rabbit::OwnRabbit;
use crate::harness::worker::Worker;

/// How the broker ends.
#[derive(Clone, Copy)]
enum End {
    Stopped,
    Killed,
}

/// The short form has `short` messages and one end of the broker.
fn outages(road: Arc<dyn Road>, short: (u64, End), away: impl Fn(End, &mut Worker)) {
    let (scale, mut random) = (Scale::get(), seeded("broker"));
    let (count, once) = (scale.messages(short.0, 0.3), [short.1]);
    let ends = scale.of(&once[..], &[End::Stopped, End::Killed, End::Stopped, End::Killed][..]);
    let project = road.project(&Lines { function: "echo.ts", in_flight: 1000, ..Lines::default() });
    let flow = Flow::start(road, Plan { scenario: "broker restarts", count, is_ordered: true }, scale);
    let mut worker = Worker::start(project.command(&["run"]), Stdio::null());
    let share = count / (ends.len() as u64 + 1);
    for (round, end) in (1..).zip(ends) {
        flow.send(share * round);
        let enough = share * (round - 1) + random.random_range(1..share / 2);
        flow.until_seen(enough);
        let outage = flow.outage();
        flow.strike();
        away(*end, &mut worker);
        drop(outage);
    }
    flow.finish(vec![worker]);
}

/// The worker says that it has lost its broker, and lives.
fn expect_told(worker: &mut Worker) {
    worker.until_logged("still trying");
    assert_eq!(worker.page("/healthz").0, 200);
}

#[test]
fn kafka_that_is_stopped_and_killed_costs_nothing_but_time() {
    let own = OwnKafka::start();
    outages(Arc::new(Topics::on(&own.kafka, "broker", 4)), (20_000, End::Killed), |end, worker| {
        match end {
            End::Stopped => own.node.stop(),
            End::Killed => own.node.kill(),
        }
        expect_told(worker);
        own.node.start_again();
    });
}

#[test]
fn rabbitmq_that_is_stopped_and_killed_costs_nothing_but_time() {
    let own = OwnRabbit::start();
    let road = Queued { keeps_results: true, ..Queued::on(&own.rabbit, "broker") };
    // Killed, a server of version 3.10 was seen to come back without the output queue, twice in some twenty runs, always
    // among many other tests: the long form goes on looking for the reason.
    outages(Arc::new(road), (10_000, End::Stopped), |end, worker| {
        match end {
            End::Stopped => own.node.stop(),
            End::Killed => own.node.kill(),
        }
        expect_told(worker);
        own.node.start_again();
    });
}
