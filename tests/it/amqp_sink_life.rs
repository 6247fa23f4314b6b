//! What happens to an AMQP sink: what it holds is kept until the server has it, and nothing is settled before.

use std::process::Stdio;
use std::time::Duration;

use lapin::ExchangeKind;

use crate::harness::proxy::Proxy;
use crate::harness::rabbit::{OwnRabbit, Queues, Rabbit};
use crate::harness::wait::throughout;
use crate::harness::worker::Worker;

const SETTLED: &str = "lagless_subscription_settled_total";
const IN_FLIGHT: &str = "lagless_subscription_in_flight";
const SUCCEEDED: &str = "outcome=\"ok\"";
const ATTEMPTS: &str = "lagless_trigger_attempts_total";

#[test]
fn while_the_servers_memory_is_short_results_wait_and_nothing_is_settled_past_them() {
    let own = OwnRabbit::start();
    let run = Queues::on(&own.rabbit, "blocked");
    run.produce(0..5_000);
    let project = run.project("slow.ts", "");
    let mut worker = run.start(&project);
    worker.until_metric(SETTLED, "", |settled| settled >= 200.0);
    own.ctl(&["set_vm_memory_high_watermark", "absolute", "1000"]);
    let line = worker.until_logged("the server blocks publishers");
    assert!(line.contains("WARN") && line.contains("memory"), "{line}");
    throughout("nothing is settled whose result is not in the queue", Duration::from_secs(3), || {
        // In this order: results that come between the two looks do no harm.
        let settled = worker.metric(SETTLED, "");
        match run.rabbit.ready(&run.output()) {
            Some(results) if f64::from(results) >= settled && settled < 4_000.0 => Ok(()),
            results => Err(format!("{settled} are settled, {results:?} results are there")),
        }
    });
    assert!(worker.metric(IN_FLIGHT, "") >= 1000.0);
    assert_eq!(worker.page("/healthz").0, 200);
    own.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    worker.until_logged("the server takes messages again");
    let mut workers = [worker];
    run.until_complete(&mut workers);
    let report = run.expect_none_lost(5_000);
    assert!(report.is_in_order() && report.repeated.is_empty(), "{report}{}", workers[0].log());
}

#[test]
fn while_the_sinks_server_is_away_nothing_is_settled_past_unsent_results() {
    let run = Queues::on(&Rabbit::shared(), "away");
    let proxy = Proxy::to(&run.rabbit.address());
    let project = run.project("echo.ts", "");
    let url = run.rabbit.through(&proxy, "heartbeat=20").url;
    let sink = format!("source.sink={{ kind = \"amqp\", url = \"{url}\" }}");
    let to = format!("service.it.trigger.t.on_success={{ amqp = \"sink\", routing_key = \"{}\" }}", run.output());
    let mut worker = Worker::start(project.command(&["run", "--set", &sink, "--set", &to]), Stdio::null());
    run.produce(0..500);
    worker.until_metric(SETTLED, "", |settled| settled == 500.0);
    proxy.refuse();
    proxy.cut();
    worker.until_logged("cannot publish");
    run.produce(500..1_500);
    worker.until_metric(ATTEMPTS, SUCCEEDED, |succeeded| succeeded >= 1_500.0);
    throughout("nothing is settled whose result is not written", Duration::from_secs(3), || {
        match worker.metric(SETTLED, "") {
            500.0 => Ok(()),
            settled => Err(format!("{settled} are settled, 500 are written")),
        }
    });
    assert_eq!(worker.metric(IN_FLIGHT, ""), 1_000.0);
    proxy.heal();
    run.until_complete(&mut [worker]);
    let report = run.expect_none_lost(1_500);
    assert!(report.is_in_order() && report.repeated.is_empty(), "{report}");
}

#[test]
fn an_exchange_that_is_missing_or_deleted_is_told_and_waited_for() {
    let run = Queues::on(&Rabbit::shared(), "exchange");
    let (exchange, behind) = (format!("{}.x", run.name), format!("{}.behind", run.name));
    // What the exchange has no queue for goes on to one that has: it can be made whole in one step.
    run.rabbit.create_exchange(&behind, ExchangeKind::Fanout);
    run.rabbit.bind_queue(&run.output(), &behind, "");
    let create = || {
        let arguments = [("alternate-exchange", behind.as_str())];
        run.rabbit.create_exchange_with(&exchange, ExchangeKind::Direct, &arguments);
    };
    let project = run.project("echo.ts", "");
    let to = format!(
        "service.it.trigger.t.on_success={{ amqp = \"rabbit\", exchange = \"{exchange}\", routing_key = \"r\" }}"
    );
    run.produce(0..500);
    let mut worker = Worker::start(project.command(&["run", "--set", &to]), Stdio::null());
    let line = worker.until_logged("cannot publish");
    assert!(line.contains("ERROR") && line.contains(&exchange) && line.contains("create it"), "{line}");
    assert_eq!(worker.metric(SETTLED, ""), 0.0);
    create();
    worker.until_metric(SETTLED, "", |settled| settled == 500.0);

    run.rabbit.delete_exchange(&exchange);
    run.produce(500..1_000);
    worker.until_metric(ATTEMPTS, SUCCEEDED, |succeeded| succeeded >= 1_000.0);
    assert_eq!(worker.metric(SETTLED, ""), 500.0);
    create();
    run.until_complete(&mut [worker]);
    let report = run.expect_none_lost(1_000);
    assert!(report.is_in_order(), "{report}");
}
