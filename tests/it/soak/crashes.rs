//! The worker is killed with -9 again and again, with messages in flight.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::flow::{Flow, Plan};
use super::queues::Queued;
use super::road::{Lines, Road};
use super::scale::{Scale, seeded};
use super::table::Row;
use super::topics::Topics;
use crate::harness::kafka::Kafka;
use crate::harness::rabbit::Rabbit;
use crate::harness::worker::{Worker, until_gone};

const SETTLED: &str = "lagless_subscription_settled_total";

fn crashes(road: Arc<dyn Road>, lines: &Lines<'_>, (short, kills): (u64, u64)) -> Row {
    let (scale, mut random) = (Scale::get(), seeded("crashes"));
    let count = scale.messages(short, 1.0);
    let project = road.project(lines);
    let start = || Worker::start(project.command(&["run"]), Stdio::null());
    let flow = Flow::start(road, Plan { scenario: "crashes", count, is_ordered: true }, scale);
    flow.fill(count);
    // So much at most is settled by one worker that the work lasts for all of them.
    let share = (count / (kills + 1)) as f64;
    for kill in 1..=kills {
        let mut worker = start();
        let enough = random.random_range(0.05..0.7) * share;
        worker.until_metric(SETTLED, "", |settled| settled >= enough);
        // What is in hand changes from one millisecond to the next: the worker dies at any point of it.
        std::thread::sleep(Duration::from_millis(random.random_range(0..20)));
        flow.strike();
        until_gone(&worker.kill());
        assert!(flow.seen() < count, "kill {kill} came when all was done");
    }
    flow.finish(vec![start()])
}

#[test]
fn kafka_workers_killed_in_the_middle_lose_and_overtake_nothing() {
    let scale = Scale::get();
    let road = Arc::new(Topics::on(&Kafka::shared(), "crashes", scale.of(8, 24)));
    // A worker that comes back under the same name need not wait for its predecessor's session to expire.
    let source = "instance_id = \"w1\"";
    let wait_ms = scale.of(2, 1);
    let lines = Lines { function: "slow.ts", wait_ms, in_flight: 4000, source, ..Lines::default() };
    crashes(road, &lines, (16_000, scale.of(3, 20)));
}

/// One queue is one lane.
#[test]
fn rabbitmq_workers_killed_in_the_middle_lose_and_overtake_nothing() {
    let scale = Scale::get();
    let road = Arc::new(Queued::on(&Rabbit::shared(), "crashes"));
    let kills = scale.of(3, 20);
    let function = scale.of("slow.ts", "echo.ts");
    let lines = Lines { function, wait_ms: 1, in_flight: 1000, ..Lines::default() };
    let row = crashes(road, &lines, (4000, kills));
    assert!(row.repeats <= kills * 1000, "a crash repeats no more than what was unacknowledged: {row}");
}
