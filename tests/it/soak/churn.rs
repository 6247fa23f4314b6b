//! Three workers, of which one leaves or joins every few seconds.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::Rng;

use super::flow::{Flow, Plan};
use super::queues::Queued;
use super::road::{Lines, Road};
use super::scale::{Scale, seeded};
use super::topics::Topics;
use crate::harness::kafka::Kafka;
use crate::harness::rabbit::Rabbit;
use crate::harness::worker::Worker;

const WORKERS: usize = 3;
/// How many changes there are at least, before the work is over.
const CHANGES: usize = 3;

fn churn(road: Arc<dyn Road>, lines: &Lines<'_>, (short, is_ordered): (u64, bool)) {
    let (scale, mut random) = (Scale::get(), seeded("churn"));
    let period = scale.of(Duration::from_secs(1), Duration::from_secs(5));
    let count = scale.messages(short, 1.0);
    let project = road.project(lines);
    let start = || Worker::start(project.command(&["run"]), Stdio::null());
    let flow = Flow::start(road, Plan { scenario: "churn", count, is_ordered }, scale);
    flow.fill(count);
    let mut workers: Vec<Worker> = (0..WORKERS).map(|_| start()).collect();
    let (mut changes, mut changed, mut patience) = (0, Instant::now(), (0, Instant::now()));
    // In the short form, the first change waits for the workers to have begun.
    flow.until_seen(1);
    while flow.seen() < count && (scale.is_long() || changes < CHANGES) {
        if changed.elapsed() >= period {
            changed = Instant::now();
            changes += 1;
            flow.strike();
            if workers.len() == WORKERS {
                let leaving = workers.swap_remove(random.random_range(0..WORKERS));
                leaving.signal(Signal::SIGTERM);
                leaving.end().expect_code(0).expect_told(&["drained"]);
            } else {
                workers.push(start());
            }
        }
        for worker in &mut workers {
            assert!(worker.is_running(), "a worker has ended: {}", worker.log());
        }
        if flow.seen() > patience.0 {
            patience = (flow.seen(), Instant::now());
        }
        assert!(patience.1.elapsed() < scale.patience(), "stuck at {} messages with a result", patience.0);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(changes >= CHANGES, "the work was over before the workers had changed");
    flow.finish(workers);
}

#[test]
fn kafka_workers_that_come_and_go_lose_and_overtake_nothing() {
    let road = Arc::new(Topics::on(&Kafka::shared(), "churn", Scale::get().of(8, 24)));
    let wait_ms = Scale::get().of(2, 1);
    let lines = Lines { function: "slow.ts", wait_ms, in_flight: 4000, ..Lines::default() };
    churn(road, &lines, (12_000, true));
}

/// Workers of one queue share its messages: nobody promises an order between them.
#[test]
fn rabbitmq_workers_that_come_and_go_lose_nothing() {
    let road = Arc::new(Queued::on(&Rabbit::shared(), "churn"));
    let wait_ms = Scale::get().of(20, 1);
    let lines = Lines { function: "slow.ts", wait_ms, in_flight: 500, trigger: "order = \"none\"", ..Lines::default() };
    churn(road, &lines, (12_000, false));
}
