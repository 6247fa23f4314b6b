//! A seeded simulation of the delivery core: the real lanes, tickets, trackers, engines and keeper, driven by hand in
//! virtual time, against models of the broker, the runner and the sinks, in which everything goes wrong that may.
//!
//! Whatever happens is drawn from one seed, so a run that fails can be repeated:
//!
//! ```text
//! SIM_SEED=123 cargo test -p lagless --lib engine::simulation -- --nocapture   # one run, with its story
//! SIM_SEEDS=100000 cargo test -p lagless --lib engine::simulation              # more of them
//! ```
//!
//! [`checks`] says what must hold. That each of its checks can fail is shown by runs with a fault built into the model.

mod broker;
mod checks;
mod plan;
mod runner;
mod sink;
mod source;
mod worker;
mod world;

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::checks::Check;
use self::plan::{Plan, Sabotage};
use self::world::{Run, World};
use super::isolates::InHand;

const SEEDS: u64 = 2000;

/// Deliveries that a batch in hand holds.
fn held_by_batch(batch: &InHand) -> usize {
    batch.open().count() + batch.returned.len() + batch.stopped.len()
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

fn run(seed: u64, sabotage: Option<Sabotage>, with_story: bool) -> Run {
    World::new(Plan { sabotage, ..Plan::of(seed) }, Rc::default(), with_story).run()
}

#[track_caller]
fn check_seed(seed: u64, with_story: bool) -> Run {
    let run = run(seed, None, with_story);
    if with_story {
        println!("{:#?}\n{}", Plan::of(seed), run.story.join("\n"));
    }
    if let Err(violation) = &run.outcome {
        panic!(
            "seed {seed}: {:?}: {}\nreplay it with SIM_SEED={seed} cargo test -p lagless --lib engine::simulation -- --nocapture",
            violation.check, violation.what
        );
    }
    run
}

#[test]
fn nothing_is_lost_and_order_holds_whatever_happens() {
    if let Some(seed) = number_from("SIM_SEED") {
        check_seed(seed, true);
        return;
    }
    let seeds = number_from("SIM_SEEDS").unwrap_or(SEEDS);
    let (next, starts, events) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Each run is a world of its own; several of them at a time only save time.
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let run = check_seed(seed, false);
                    starts.fetch_add(run.starts as u64, Ordering::Relaxed);
                    events.fetch_add(run.events as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let (starts, events) = (starts.into_inner(), events.into_inner());
    println!("{seeds} seeds: {events} events, {starts} attempts");
    // A model in which nothing goes wrong would prove nothing.
    assert!(starts > events * 11 / 10, "{events} events took {starts} attempts");
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 0..20 {
        let (first, second) = (run(seed, None, true), run(seed, None, true));
        assert_eq!(first.story, second.story, "seed {seed}");
    }
}

/// Expects that one of some seeds finds the fault by this check, and none by another one, unless by `consequence`.
#[track_caller]
fn check_found(sabotage: Sabotage, expected: Check, consequence: Option<Check>) {
    let mut found = 0;
    for seed in 0..60 {
        match run(seed, Some(sabotage), false).outcome {
            Ok(()) => {}
            Err(violation) if violation.check == expected => found += 1,
            Err(violation) => assert_eq!(Some(violation.check), consequence, "seed {seed}: {violation:?}"),
        }
    }
    assert!(found > 0, "{sabotage:?} is not found by {expected:?}");
}

#[test]
fn a_commit_past_an_open_offset_is_found() {
    check_found(Sabotage::CommitPastOpen, Check::Commit, None);
}

#[test]
fn a_message_that_is_skipped_is_found() {
    check_found(Sabotage::SkipMessage, Check::Commit, Some(Check::Order));
}

#[test]
fn a_delivery_that_is_forgotten_is_found() {
    check_found(Sabotage::ForgetDelivery, Check::Memory, None);
}

#[test]
fn a_delivery_that_is_settled_without_being_run_is_found() {
    check_found(Sabotage::SettleWithoutRun, Check::Lost, None);
}

#[test]
fn a_delivery_that_is_settled_twice_is_found() {
    check_found(Sabotage::SettleTwice, Check::OneFate, None);
}

#[test]
fn a_fence_that_does_not_hold_is_found() {
    check_found(Sabotage::IgnoreFence, Check::Fence, None);
}

#[test]
fn a_lane_out_of_order_is_found() {
    check_found(Sabotage::Reorder, Check::Order, None);
}

#[test]
fn reading_without_bound_is_found() {
    check_found(Sabotage::ReadWithoutBound, Check::Memory, None);
}

#[test]
fn a_sink_that_never_answers_is_found() {
    check_found(Sabotage::SilentSink, Check::Livelock, None);
}
