//! Messages that no function survives, among large, empty and meaningless ones: each comes to the fate that its trigger
//! says, and every other message has its result.

use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;

use super::flow::Plan;
use super::mail::{Kind, Letter, ODD, POISON, mixed, one_poison};
use super::post::Post;
use super::scale::{Scale, seeded};
use super::table::{self, Row};
use super::tally::{Found, Tally};
use crate::harness::kafka::Kafka;
use crate::harness::project::{Project, case};
use crate::harness::rabbit::Rabbit;
use crate::harness::wait::{WORK, eventually};
use crate::harness::worker::Worker;

/// What becomes of poison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    DeadLetter,
    Drop,
    /// By the queue's own policy, to where the others go.
    Reject,
    Stop,
}

/// One trigger, in a service and so in a runner of its own.
#[derive(Debug, Clone, Copy)]
struct Mode {
    service: &'static str,
    scenario: &'static str,
    order: &'static str,
    batch: u32,
    end: End,
}

const MODES: [Mode; 5] = [
    Mode { service: "ordered", scenario: "poison, in order", order: "partition", batch: 100, end: End::DeadLetter },
    Mode { service: "alone", scenario: "poison, one by one", order: "partition", batch: 1, end: End::DeadLetter },
    Mode { service: "unordered", scenario: "poison, in any order", order: "none", batch: 100, end: End::DeadLetter },
    Mode { service: "dropped", scenario: "poison, dropped", order: "none", batch: 10, end: End::Drop },
    Mode { service: "rejected", scenario: "poison, rejected", order: "partition", batch: 100, end: End::Reject },
];

/// How a worker counts what has come to its end.
const ENDS: [&str; 3] =
    ["lagless_trigger_done_total", "lagless_trigger_dead_lettered_total", "lagless_trigger_dropped_total"];

/// A mode at work.
struct Trial {
    mode: Mode,
    name: String,
    letters: Vec<Letter>,
}

impl Trial {
    fn new(post: &Post, mode: Mode, letters: Vec<Letter>) -> Self {
        let name = format!("poison-{}-{:08x}", mode.service, rand::random::<u32>());
        post.prepare(&name);
        post.send(&name, &letters);
        Self { mode, name, letters }
    }

    fn config(&self, post: &Post) -> String {
        let Mode { service, order, batch, end, .. } = self.mode;
        let ends = post.ends(&self.name);
        let last = match end {
            End::DeadLetter => post.on_failure(&self.name),
            End::Drop => "on_exhausted = \"drop\"\n".to_owned(),
            End::Reject => "on_exhausted = \"reject\"\n".to_owned(),
            End::Stop => "on_exhausted = \"stop\"\n".to_owned(),
        };
        format!(
            r#"
            [service.{service}.function.f]
            code = "poison.ts"
            timeout = "1s"
            memory = "64MiB"
            isolates = {{ max = 2 }}
            [service.{service}.trigger.t]
            function = "f"
            source = "s"
            order = "{order}"
            batch = {{ size = {batch} }}
            retry = {{ attempts = 2, backoff = "5ms" }}
            {ends}
            {last}
            "#
        )
    }

    fn poisons(&self) -> u64 {
        self.letters.iter().filter(|letter| letter.kind.is_poison()).count() as u64
    }

    /// Waits until every letter has come to an end, as the worker counts them.
    #[track_caller]
    fn until_done(&self, worker: &mut Worker) {
        let label = format!("service=\"{}\"", self.mode.service);
        let count = self.letters.len() as f64;
        eventually(self.mode.scenario, WORK, || {
            let sum: f64 = ENDS.iter().map(|name| worker.metric(name, &label)).sum();
            if sum >= count { Ok(()) } else { Err(format!("{sum} of {count} letters have come to an end")) }
        });
    }

    /// Puts together what came out where. A letter in the wrong place belongs to nobody.
    fn tally(&self, post: &Post, dropped: f64) -> Tally {
        let (mut tally, count) = (Tally::default(), self.letters.len() as u64);
        for received in post.received(&self.name, "out") {
            let json = received.json();
            let letter = json["seq"].as_u64().and_then(|seq| self.letters.get(seq as usize));
            let is_right = letter.is_some_and(|letter| {
                let (kind, size, is_null) = letter.kind.expected();
                !letter.kind.is_poison()
                    && json["type"].as_str() == kind
                    && json["size"] == size
                    && json["is_null"] == is_null
            });
            if !is_right {
                println!("soak: {} is no result of {:?}", json, letter.map(|letter| letter.kind));
            }
            let number = letter.filter(|_| is_right).map_or(u64::MAX, |letter| letter.number);
            tally.take(Found { number, lane: post.lane(number), partition: received.partition }, count);
        }
        // Dead letters have an order of their own: they may come before the results of earlier messages.
        let dead_lane = |number| post.lane(number) + 1000;
        for received in post.received(&self.name, "dead") {
            let letter = received.seq.and_then(|seq| self.letters.get(seq as usize));
            let number = letter.filter(|letter| letter.kind.is_poison()).map_or(u64::MAX, |letter| letter.number);
            tally.take(Found { number, lane: dead_lane(number), partition: received.partition }, count);
        }
        if self.mode.end == End::Drop && dropped == self.poisons() as f64 {
            for letter in self.letters.iter().filter(|letter| letter.kind.is_poison()) {
                tally.take(Found { number: letter.number, lane: dead_lane(letter.number), partition: 0 }, count);
            }
        }
        tally
    }
}

fn project(post: &Post, trials: &[Trial]) -> Project {
    let services: String = trials.iter().map(|trial| trial.config(post)).collect();
    let config = format!("admin = \"127.0.0.1:0\"\n{}{services}", post.source());
    Project::new(&config).with("poison.ts", &case("poison.ts"))
}

fn poison(post: &Post) {
    let (scale, mut random) = (Scale::get(), seeded("poison"));
    let (count, times) = (scale.messages(200, 0.01), scale.of(1, 5));
    let is_kafka = matches!(post, Post::Kafka(_));
    let odd = if is_kafka { &ODD[..] } else { &ODD[..ODD.len() - 1] };
    let kinds: Vec<Kind> = POISON.iter().chain(odd).copied().collect();
    let modes = MODES.into_iter().filter(|mode| !is_kafka || mode.end != End::Reject);
    let trials: Vec<Trial> =
        modes.map(|mode| Trial::new(post, mode, mixed(&mut random, count, (&kinds, times)))).collect();
    let project = project(post, &trials);
    let started = Instant::now();
    let mut worker = Worker::start(project.command(&["run"]), Stdio::null());
    trials.iter().for_each(|trial| trial.until_done(&mut worker));
    let seconds = started.elapsed().as_secs_f64();
    let dropped = worker.metric("lagless_trigger_dropped_total", "service=\"dropped\"");
    worker.signal(Signal::SIGTERM);
    let ended = worker.end();
    ended.expect_code(0).expect_told(&["drained"]);
    let rows = trials.iter().map(|trial| {
        let Mode { scenario, order, .. } = trial.mode;
        let count = trial.letters.len() as u64;
        let tally = trial.tally(post, dropped);
        let row = Row::of(post.broker(), &Plan { scenario, count, is_ordered: order == "partition" }, seconds, &tally);
        table::note(&row);
        (row, tally.faults(count))
    });
    let bad: Vec<_> =
        rows.filter(|(row, _)| !row.is_faultless()).map(|(row, faults)| format!("{row}: {faults}")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// A lane with a poison stops before it, says so, and no other lane does.
fn stop(post: &Post, random: &mut StdRng) {
    let mode = Mode { service: "stopped", scenario: "poison, stopped", order: "partition", batch: 100, end: End::Stop };
    let trial = Trial::new(post, mode, one_poison(random, 40));
    let bad = trial.letters.iter().find(|letter| letter.kind.is_poison()).unwrap();
    let lane = post.lane(bad.number);
    let is_handled = |number: &u64| post.lane(*number) != lane || *number < bad.number;
    let expected: Vec<u64> = (0..40).filter(is_handled).collect();
    let project = project(post, std::slice::from_ref(&trial));
    let mut worker = Worker::start(project.command(&["run"]), Stdio::null());
    worker.until_logged("lane stopped");
    worker.until_metric("lagless_trigger_done_total", "", |done| done >= expected.len() as f64);
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0);
    let results = post.received(&trial.name, "out");
    let mut numbers: Vec<u64> = results.iter().map(|received| received.json()["seq"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    if bad.kind.is_refused_by_the_broker() {
        // Its function has succeeded, so those behind it were begun before the broker's word came.
        assert!(!numbers.contains(&bad.number), "{numbers:?}");
        numbers.retain(is_handled);
    }
    assert_eq!(numbers, expected, "{:?}", bad.kind);
    assert!(post.received(&trial.name, "dead").is_empty());
}

#[test]
fn poison_in_kafka_comes_to_its_fate_and_all_else_to_its_result() {
    poison(&Post::Kafka(Kafka::shared()));
}

#[test]
fn poison_in_rabbitmq_comes_to_its_fate_and_all_else_to_its_result() {
    poison(&Post::Rabbit(Rabbit::shared()));
}

#[test]
fn poison_stops_its_lane_and_no_other_where_the_trigger_says_so() {
    let mut random = seeded("stop");
    stop(&Post::Kafka(Kafka::shared()), &mut random);
    stop(&Post::Rabbit(Rabbit::shared()), &mut random);
}
