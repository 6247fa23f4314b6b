//! The whole: a broker, its workers, time, and what goes wrong.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::broker::Broker;
use super::checks::{Check, Ledger, Violation};
use super::plan::{Plan, Sabotage};
use super::sink::Outages;
use super::worker::Worker;
use crate::telemetry::Metrics;

/// What everything in the model shares.
pub struct Scene {
    pub plan: Plan,
    pub broker: Broker,
    pub ledger: Ledger,
    pub rng: SmallRng,
    pub now: Instant,
    /// Nothing goes wrong any more.
    pub calm: bool,
    pub metrics: Rc<Metrics>,
    /// The number of the last assignment.
    pub assignments: u64,
    start: Instant,
    /// What happened, where somebody wants to read it.
    pub story: Option<Vec<String>>,
}

impl Scene {
    /// Whether something goes wrong that does so with this probability in the worst of runs.
    pub fn trouble(&mut self, probability: f64) -> bool {
        !self.calm && self.rng.random_bool(probability * self.plan.trouble)
    }

    /// Whether this is the time for the fault that is built in.
    pub fn sabotages(&mut self, sabotage: Sabotage) -> bool {
        self.plan.sabotage == Some(sabotage) && self.rng.random_bool(0.3)
    }

    /// Whether somebody does what it could do in this step.
    pub fn acts(&mut self) -> bool {
        self.rng.random_bool(0.75)
    }

    pub fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let line = format!("{:>8.3} {}", self.now.duration_since(self.start).as_secs_f64(), what(self));
            self.story.get_or_insert_default().push(line);
        }
    }
}

/// How a run went.
#[derive(Debug)]
pub struct Run {
    pub outcome: Result<(), Violation>,
    pub story: Vec<String>,
    /// Attempts that functions began.
    pub starts: usize,
    /// Messages times triggers.
    pub events: usize,
}

pub struct World {
    scene: Scene,
    workers: Vec<Option<Worker>>,
    /// When a crashed worker is back.
    back_at: Vec<Instant>,
    outages: Outages,
    produced: usize,
}

/// A run that is not over after so many steps without trouble, or so much time, never will be.
const CALM_STEPS_MAX: usize = 8000;
const CALM_TIME_MAX: Duration = Duration::from_secs(900);

impl World {
    pub fn new(plan: Plan, metrics: Rc<Metrics>, with_story: bool) -> Self {
        let now = Instant::now();
        let scene = Scene {
            broker: Broker::new(plan.partitions, now),
            ledger: Ledger::new(&plan),
            rng: SmallRng::seed_from_u64(plan.seed),
            now,
            calm: false,
            metrics,
            assignments: 0,
            start: now,
            story: with_story.then(Vec::new),
            plan,
        };
        let count = scene.plan.workers;
        let workers = (0..count).map(|_| None).collect();
        Self { scene, workers, back_at: vec![now; count], outages: Outages([now; 2]), produced: 0 }
    }

    pub fn run(mut self) -> Run {
        let outcome = self.live();
        // A worker that is dropped settles into channels that still exist.
        let Self { scene, workers, .. } = self;
        drop(workers);
        Run {
            outcome,
            starts: scene.ledger.starts,
            events: scene.broker.events().count(),
            story: scene.story.unwrap_or_default(),
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        for _ in 0..self.scene.plan.chaos_steps {
            self.produce(3);
            self.disturb();
            self.step()?;
        }
        self.scene.note(|_| "calm".to_owned());
        self.scene.calm = true;
        self.outages = Outages([self.scene.now; 2]);
        self.produce(usize::MAX);
        let until = self.scene.now + CALM_TIME_MAX;
        for _ in 0..CALM_STEPS_MAX {
            self.step()?;
            self.restart_stopped();
            if self.is_at_rest() {
                return self.check_end();
            }
            if self.scene.now > until {
                break;
            }
        }
        let what =
            format!("partition {:?} is behind, {} deliveries open", self.scene.broker.behind(), self.scene.ledger.open);
        Err(Violation { check: Check::Livelock, what })
    }

    /// Publishes up to `max` messages at a time, with gaps between the offsets.
    fn produce(&mut self, max: usize) {
        let scene = &mut self.scene;
        let left = scene.plan.messages - self.produced;
        let count = if max == usize::MAX { left } else { scene.rng.random_range(0..=max).min(left) };
        for _ in 0..count {
            let partition = scene.rng.random_range(0..scene.plan.partitions);
            let matched = (0..scene.plan.triggers.len()).filter(|_| scene.rng.random_bool(0.8)).collect();
            let log = &mut scene.broker.partitions[partition].log;
            if scene.rng.random_bool(0.05) {
                log.push(None);
            }
            log.push(Some(matched));
        }
        self.produced += count;
    }

    fn disturb(&mut self) {
        let scene = &mut self.scene;
        for (number, seat) in self.workers.iter_mut().enumerate() {
            if scene.trouble(0.012)
                && let Some(worker) = seat.take()
            {
                scene.note(|_| format!("worker {number} crashes"));
                worker.crash(scene);
                self.back_at[number] = scene.now + Duration::from_millis(scene.rng.random_range(0..400));
            }
            let Some(worker) = seat else { continue };
            let partition = scene.rng.random_range(0..scene.plan.partitions);
            let wait = Duration::from_millis(scene.rng.random_range(0..1000));
            if scene.trouble(0.03) {
                worker.source.revoke(partition, wait, scene);
            }
            if scene.trouble(0.01) {
                let heard_at = scene.now + wait;
                worker.source.lose(partition, heard_at, scene);
            }
            if scene.trouble(0.01) {
                worker.kill_runner(scene);
            }
            if scene.trouble(0.004) {
                let function = scene.rng.random_range(0..scene.plan.functions);
                worker.lose_engine(function, scene);
            }
        }
        if scene.trouble(0.02) {
            let kind = scene.rng.random_range(0..2);
            self.outages.0[kind] = scene.now + Duration::from_millis(scene.rng.random_range(0..1500));
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        let scene = &mut self.scene;
        let micros = match scene.rng.random_range(0..20) {
            0 if scene.calm => scene.rng.random_range(100_000..600_000),
            0..3 => scene.rng.random_range(20_000..150_000),
            3..10 => scene.rng.random_range(5_000..20_000),
            _ => scene.rng.random_range(0..5_000),
        };
        scene.now += Duration::from_micros(micros);
        for (number, seat) in self.workers.iter_mut().enumerate() {
            if seat.is_none() && scene.now >= self.back_at[number] {
                *seat = Some(Worker::start(scene));
            }
        }
        self.assign();
        for worker in self.workers.iter_mut().flatten() {
            worker.step(self.outages, &mut self.scene);
        }
        let held: usize = self.workers.iter().flatten().map(Worker::held).sum();
        let open = self.scene.ledger.open;
        if held != open {
            let what = format!("{open} deliveries are not settled, engines hold {held}");
            self.scene.ledger.broken(Check::Memory, what);
        }
        self.scene.ledger.violation.clone().map_or(Ok(()), Err)
    }

    /// Gives partitions that nobody owns to somebody.
    fn assign(&mut self) {
        for partition in 0..self.scene.plan.partitions {
            let known = &self.scene.broker.partitions[partition];
            if known.owner.is_some() || self.scene.now < known.vacant_until {
                continue;
            }
            let number = self.scene.rng.random_range(0..self.workers.len());
            if let Some(worker) = &mut self.workers[number]
                && !worker.source.holds(partition)
            {
                let owner = self.scene.broker.give(partition, number);
                worker.source.arrive(partition, owner, &mut self.scene);
            }
        }
    }

    /// Does what an operator does about stopped lanes, once the function is mended.
    fn restart_stopped(&mut self) {
        for seat in &mut self.workers {
            if let Some(worker) = seat.take_if(|worker| worker.has_stopped_lanes()) {
                self.scene.note(|_| "a worker is restarted".to_owned());
                worker.crash(&mut self.scene);
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        self.scene.broker.behind().is_none()
            && self.workers.iter().all(|seat| seat.as_ref().is_some_and(|worker| worker.is_at_rest(&self.scene.plan)))
    }

    fn check_end(&self) -> Result<(), Violation> {
        match self.scene.broker.events().find(|event| !self.scene.ledger.is_finished(*event)) {
            Some(event) => Err(Violation { check: Check::Lost, what: self.scene.ledger.describe(event) }),
            None => Ok(()),
        }
    }
}
