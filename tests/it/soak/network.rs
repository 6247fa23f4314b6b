//! The network between worker and broker cuts connections, delays them, lets them fall silent, and takes no new ones.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::flow::{Flow, Plan};
use super::queues::Queued;
use super::road::{Lines, Road};
use super::scale::{Scale, seeded};
use super::topics::Topics;
use crate::harness::kafka::OwnKafka;
use crate::harness::proxy::{Proxy, Way};
use crate::harness::rabbit::Rabbit;
use crate::harness::worker::Worker;

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Reset,
    Delay(Way),
    /// Half-open: nobody closes anything, and nothing arrives. Long enough that worker and broker give each other up.
    Silence(Way),
    /// As when a host has gone: resets, then nobody to connect to.
    Refusal,
}

const ALL: [Trouble; 6] = [
    Trouble::Reset,
    Trouble::Delay(Way::Both),
    Trouble::Silence(Way::Both),
    Trouble::Refusal,
    Trouble::Silence(Way::Down),
    Trouble::Silence(Way::Up),
];
/// Of them, in the short form.
const SOME: usize = 4;
/// Beyond the session, socket and heartbeat timeouts that the worker is given here.
const SILENCE: Duration = Duration::from_secs(8);

impl Trouble {
    /// Lasts for its time; these are spans that the network gives, not conditions to wait for.
    fn befall(self, proxy: &Proxy) {
        match self {
            Self::Reset => proxy.cut(),
            Self::Delay(way) => {
                proxy.delay(way, Duration::from_millis(150));
                std::thread::sleep(Duration::from_secs(2));
            }
            Self::Silence(way) => {
                proxy.fall_silent(way);
                std::thread::sleep(SILENCE);
            }
            Self::Refusal => {
                proxy.refuse();
                proxy.cut();
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        proxy.heal();
    }
}

fn troubles(road: Arc<dyn Road>, proxy: &Proxy, short: u64) {
    let (scale, mut random) = (Scale::get(), seeded("network"));
    let count = scale.messages(short, 0.3);
    let mut troubles: Vec<Trouble> = scale.of(&ALL[..SOME], &ALL).repeat(scale.of(1, 3));
    troubles.shuffle(&mut random);
    let project = road.project(&Lines { function: "echo.ts", in_flight: 1000, ..Lines::default() });
    let flow = Flow::start(road, Plan { scenario: "network", count, is_ordered: true }, scale);
    let worker = Worker::start(project.command(&["run"]), Stdio::null());
    let share = count / (troubles.len() as u64 + 1);
    for (round, trouble) in (1..).zip(troubles) {
        flow.send(share * round);
        flow.until_seen(share * (round - 1) + random.random_range(1..share / 2));
        flow.strike();
        println!("soak: {trouble:?}");
        trouble.befall(proxy);
        // What the next trouble does must not be owed to this one.
        flow.until_seen(share * round);
    }
    assert!(proxy.accepted() > 2, "the worker has not come through the proxy");
    flow.finish(vec![worker]);
}

#[test]
fn a_network_that_cuts_delays_and_swallows_loses_nothing_from_kafka() {
    let proxy = Proxy::without_target();
    let own = OwnKafka::start_behind(&proxy);
    let road = Topics { detour: Some(proxy.address()), ..Topics::on(&own.kafka, "network", 4) };
    troubles(Arc::new(road), &proxy, 10_000);
}

#[test]
fn a_network_that_cuts_delays_and_swallows_loses_nothing_from_rabbitmq() {
    let rabbit = Rabbit::shared();
    let address = rabbit.url.rsplit('@').next().and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let proxy = Proxy::to(&address);
    let road = Queued { detour: Some(proxy.address()), ..Queued::on(&rabbit, "network") };
    troubles(Arc::new(road), &proxy, 10_000);
}
