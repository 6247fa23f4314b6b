//! What networks do to the connections of a Kafka source and sink: it is healed or said aloud, and nothing is lost.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::kafka::OwnKafka;
use crate::harness::numbered::{Extra, Numbered};
use crate::harness::project::Project;
use crate::harness::proxy::{Proxy, Way};
use crate::harness::worker::Worker;

const SETTLED: &str = "lagless_subscription_settled_total";
/// The listener whose clients are sent to the proxy wants to know who comes.
const LOGIN: &str = "\"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"PLAIN\", \
                     \"sasl.username\" = \"lagless\", \"sasl.password\" = \"secret\"";
/// So that silence is noticed in seconds.
const NERVOUS: &str = "\"socket.timeout.ms\" = 3000, \"reconnect.backoff.max.ms\" = 1000";

/// What is done to the connections.
type Trouble = fn(&Proxy);

/// A project whose connections all go through the proxy.
fn project(run: &Numbered, proxy: &Proxy) -> Project {
    let service = "env = { WAIT_MS = \"2\" }";
    let project = run.project("slow.ts", &Extra { service, root: "drain_timeout = \"1s\"", ..Extra::default() });
    project.replace(&run.kafka.brokers, &proxy.address().to_string());
    project.replace("client = { ", &format!("client = {{ {LOGIN}, {NERVOUS}, "));
    project.replace("[source.sink]", &format!("[source.sink]\nclient = {{ {LOGIN}, {NERVOUS} }}"));
    project
}

fn until_connected_anew(worker: &mut Worker, proxy: &Proxy, before: usize) {
    worker.until("new connections", Duration::from_secs(60), |_| match proxy.accepted() {
        accepted if accepted >= before + 2 => Ok(()),
        accepted => Err(format!("{before} before, {accepted} now")),
    });
}

#[test]
fn resets_and_silence_cost_neither_messages_nor_order() {
    const PART: u64 = 3_000;
    let proxy = Proxy::without_target();
    let own = OwnKafka::start_behind(&proxy);
    let run = Numbered::on(&own.kafka, "network", 4);
    let project = project(&run, &proxy);
    let mut worker = run.start(&project);
    let troubles: [(&str, Trouble); 3] = [
        ("reset", Proxy::cut),
        ("silence", |proxy| proxy.fall_silent(Way::Both)),
        ("silence of the broker", |proxy| proxy.fall_silent(Way::Down)),
    ];
    for (part, (what, befall)) in (0..).zip(troubles) {
        run.produce(part * PART..(part + 1) * PART);
        let settled = worker.until_metric(SETTLED, "", |settled| settled >= (part * PART + 200) as f64);
        assert!(settled < ((part + 1) * PART) as f64, "the work was over before the {what}");
        let before = proxy.accepted();
        befall(&proxy);
        // Of the source and of the sink: both have noticed.
        until_connected_anew(&mut worker, &proxy, before);
        proxy.heal();
        run.until_complete(&mut worker);
        assert_eq!(worker.page("/healthz").0, 200);
    }
    let report = run.expect_none_lost(3 * PART as usize);
    assert!(report.returned < 6 * PART as usize, "more is repeated than was in flight: {report}");

    // While nobody answers, a worker ends when it is asked to.
    run.produce(3 * PART..4 * PART);
    worker.until_metric(SETTLED, "", |settled| settled >= (3 * PART + 200) as f64);
    proxy.fall_silent(Way::Both);
    worker.signal(Signal::SIGTERM);
    worker.end_within(Duration::from_secs(40)).expect_code(75).expect_told(&["deadline has passed"]);
    proxy.cut();
    proxy.heal();
    let mut worker = run.start(&project);
    run.until_complete(&mut worker);
    run.expect_none_lost(4 * PART as usize);
}
