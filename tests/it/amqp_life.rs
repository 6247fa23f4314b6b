//! What networks do to the connections of an AMQP source: each is healed or said aloud, and nothing is lost.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::project::Project;
use crate::harness::proxy::{Proxy, Way};
use crate::harness::rabbit::{OwnRabbit, Queues, Rabbit};
use crate::harness::wait::{SOON, WORK, eventually};
use crate::harness::worker::Worker;

const SETTLED: &str = "lagless_subscription_settled_total";
const IN_FLIGHT: &str = "lagless_subscription_in_flight";

/// A project whose every connection goes through the proxy.
fn through(run: &Queues, proxy: &Proxy, heartbeat: u32) -> Queues {
    let rabbit = run.rabbit.through(proxy, &format!("heartbeat={heartbeat}"));
    Queues { rabbit, name: run.name.clone() }
}

fn until_accepted(worker: &mut Worker, proxy: &Proxy, count: usize) {
    worker.until(&format!("connection {count}"), WORK, |_| match proxy.accepted() {
        accepted if accepted >= count => Ok(()),
        accepted => Err(accepted.to_string()),
    });
}

#[test]
fn connections_that_are_reset_in_the_middle_of_traffic_cost_neither_messages_nor_order() {
    const COUNT: u64 = 20_000;
    let run = Queues::on(&Rabbit::shared(), "reset");
    let proxy = Proxy::to(&run.rabbit.address());
    run.produce(0..COUNT);
    let project = through(&run, &proxy, 20).project("flaky.ts", "");
    let mut worker = run.start(&project);
    for round in 1..=5 {
        let settled = worker.until_metric(SETTLED, "", |settled| settled >= 1000.0 * f64::from(round));
        assert!(settled < COUNT as f64, "the work was over before reset {round}");
        let accepted = proxy.accepted();
        proxy.cut();
        // One of the source, and one of the sink.
        until_accepted(&mut worker, &proxy, accepted + 2);
    }
    worker.until_logged("cannot publish");
    let mut workers = [worker];
    run.until_complete(&mut workers);
    let report = run.expect_none_lost(COUNT);
    assert!(report.is_in_order(), "{report}");
}

#[test]
fn a_peer_that_falls_silent_is_noticed_and_another_connection_made() {
    const COUNT: u64 = 10_000;
    let run = Queues::on(&Rabbit::shared(), "silent");
    let proxy = Proxy::to(&run.rabbit.address());
    let project = through(&run, &proxy, 1).project("flaky.ts", "");
    let mut worker = run.start(&project);
    for (way, begin) in [(Way::Both, 0), (Way::Down, COUNT / 4), (Way::Up, COUNT / 2)] {
        let end = begin + COUNT / 4;
        run.produce(begin..end);
        let settled = worker.until_metric(SETTLED, "", |settled| settled >= (begin + 100) as f64);
        assert!(settled < end as f64, "the work was over before the silence");
        let accepted = proxy.accepted();
        proxy.fall_silent(way);
        until_accepted(&mut worker, &proxy, accepted + 2);
        if way == Way::Both {
            // By the source and by the sink; what is said again within seconds is said once.
            until_logged_times(&mut worker, "silent for too long", 2);
        }
        proxy.heal();
        let mut workers = [worker];
        run.until_complete(&mut workers);
        [worker] = workers;
    }
    run.produce(COUNT * 3 / 4..COUNT);
    run.until_complete(&mut [worker]);
    let report = run.expect_none_lost(COUNT);
    assert!(report.is_in_order(), "{report}");
}

#[test]
fn what_was_handed_out_on_a_lost_connection_is_not_acknowledged_on_the_next() {
    let run = Queues::on(&Rabbit::shared(), "epoch");
    let proxy = Proxy::to(&run.rabbit.address());
    // What comes for the first time ends after the connection; what comes again never does.
    let code = "export default async (event, ctx) => {
        ctx.log.info(event.properties.redelivered ? 'again' : 'first');
        if (event.properties.redelivered) await new Promise(() => {});
        await new Promise((resolve) => setTimeout(resolve, 3000));
        ctx.log.info('late');
        return null;
    }";
    let project = through(&run, &proxy, 20).project_with(code, "", "order = \"none\"");
    run.produce(0..5);
    let mut worker = run.start(&project);
    until_logged_times(&mut worker, "first", 5);
    proxy.cut();
    until_logged_times(&mut worker, "again", 5);
    until_logged_times(&mut worker, "late", 5);
    // One more shows that reports have been looked at since. It carries none of the others with it, and a late report has
    // sent none of them round again.
    run.rabbit.publish("", &run.input(), [r#"{"key":"k0","seq":5}"#.to_owned()].into_iter());
    worker.until_metric(SETTLED, "", |settled| settled >= 1.0);
    assert_eq!((worker.metric(SETTLED, ""), worker.metric(IN_FLIGHT, "")), (1.0, 5.0));
    assert_eq!(times_logged(&worker, "again"), 5, "{}", worker.log());
    worker.kill();
    run.rabbit.until_ready(&run.input(), 5);
}

fn times_logged(worker: &Worker, text: &str) -> usize {
    worker.log().lines().filter(|line| line.contains(text)).count()
}

fn until_logged_times(worker: &mut Worker, text: &str, times: usize) {
    worker.until(&format!("{times} times {text:?} in the log"), SOON, |worker| match times_logged(worker, text) {
        count if count >= times => Ok(()),
        count => Err(count.to_string()),
    });
}

#[test]
fn when_the_server_in_use_goes_the_other_one_takes_over() {
    let run = Queues::on(&Rabbit::shared(), "hosts");
    let (first, second) = (Proxy::to(&run.rabbit.address()), Proxy::to(&run.rabbit.address()));
    let one = through(&run, &first, 20);
    let project = one.project("echo.ts", "");
    let other = through(&run, &second, 20).rabbit.url;
    let urls = format!("urls = [\"{}\", \"{other}\"]", one.rabbit.url);
    project.replace(&format!("url = \"{}\"", one.rabbit.url), &urls);
    first.refuse();
    run.produce(0..100);
    let mut worker = run.start(&project);
    worker.until_logged("not reachable");
    worker.until_metric(SETTLED, "", |settled| settled >= 100.0);
    assert_eq!(second.open(), 2);
    first.heal();
    second.refuse();
    second.cut();
    run.produce(100..200);
    worker.until_metric(SETTLED, "", |settled| settled >= 200.0);
    assert_eq!((first.open(), second.open()), (2, 0));
    run.until_complete(&mut [worker]);
    run.expect_none_lost(200);
}

#[test]
fn a_slow_network_costs_time_and_no_connection() {
    let run = Queues::on(&Rabbit::shared(), "slow");
    let proxy = Proxy::to(&run.rabbit.address());
    proxy.delay(Way::Both, Duration::from_millis(100));
    proxy.throttle(Way::Both, 500_000);
    run.produce(0..2_000);
    let project = through(&run, &proxy, 5).project("flaky.ts", "");
    let mut workers = [run.start(&project)];
    run.until_complete(&mut workers);
    let report = run.expect_none_lost(2_000);
    assert!(report.is_in_order() && report.repeated.is_empty(), "{report}");
    let [worker] = &mut workers;
    assert_eq!((proxy.accepted(), worker.page("/healthz").0), (2, 200), "{}", worker.log());
}

#[test]
fn a_message_kept_beyond_the_consumer_timeout_is_told_and_comes_again() {
    let own = OwnRabbit::start();
    // Looked at once a minute otherwise; both are read when a channel is opened.
    own.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 500)."]);
    own.ctl(&["eval", "application:set_env(rabbit, consumer_timeout, 1000)."]);
    let run = Queues::on(&own.rabbit, "kept");
    let code = "export default async (event) => {
        if (event.data.seq === 3 && !event.properties.redelivered) await new Promise(() => {});
        return { key: event.data.key, seq: event.data.seq, attempt: event.attempt, started_us: 1 };
    }";
    let project = run.project_with(code, "", "");
    run.produce(0..20);
    let mut worker = run.start(&project);
    let line = worker.until_logged("a message was kept for too long");
    assert!(line.contains("ERROR") && line.contains(&run.input()) && line.contains("timed out"), "{line}");
    run.until_complete(&mut [worker]);
    let report = run.expect_none_lost(20);
    assert!(report.is_in_order(), "{report}");
}

/// A worker through the proxy, with work in hand that takes long.
fn busy(run: &Queues, proxy: &Proxy) -> (Project, Worker) {
    let project = through(run, proxy, 60).project_with(
        "export default async (_, ctx) => { ctx.log.info('in hand'); await new Promise(() => {}); }",
        "",
        "",
    );
    run.produce(0..10);
    let set = ["run", "--set", "drain_timeout=1s"];
    let mut worker = Worker::start(project.command(&set), Stdio::null());
    worker.until_logged("in hand");
    (project, worker)
}

#[test]
fn a_worker_whose_server_is_gone_ends_when_it_is_asked_to() {
    let run = Queues::on(&Rabbit::shared(), "gone");
    let proxy = Proxy::to(&run.rabbit.address());
    let (_project, mut worker) = busy(&run, &proxy);
    proxy.refuse();
    proxy.cut();
    worker.until_logged("not reachable");
    worker.signal(Signal::SIGTERM);
    // The server has its messages back: nothing is in hand that could be given up.
    worker.end_within(Duration::from_secs(20)).expect_code(0).expect_told(&["abandoned=0"]);
    run.rabbit.until_ready(&run.input(), 10);
}

#[test]
fn a_worker_whose_server_is_silent_ends_at_its_deadline() {
    let run = Queues::on(&Rabbit::shared(), "mute");
    let proxy = Proxy::to(&run.rabbit.address());
    let (_project, mut worker) = busy(&run, &proxy);
    proxy.fall_silent(Way::Both);
    worker.signal(Signal::SIGTERM);
    worker.end_within(Duration::from_secs(20)).expect_code(75).expect_told(&["deadline has passed"]);
    proxy.cut();
    run.rabbit.until_ready(&run.input(), 10);
    eventually("no connection left", SOON, || match proxy.open() {
        0 => Ok(()),
        open => Err(open.to_string()),
    });
}
