//! The Kafka source and sink against the embedded broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::embedded::{CLIENT_SETTINGS, EmbeddedBroker};
use super::{Running, client, spawn};
use crate::config::{InFlight, KafkaSettings, OutOfRange, Secret, Start};
use crate::delivery::{Delivery, Phase, Settled, Settlement};
use crate::sink::kafka::{KafkaProducer, KafkaSink};
use crate::sink::{Receipt, Receipts, Record};
use crate::source::{Ended, Intake, Route, Stage, Subscription};
use crate::telemetry::{Metrics, SubscriptionMetrics};
use crate::trigger::{Rule, TriggerEntry, Triggers};

/// Longer than anything takes, for failing instead of hanging.
const PATIENCE: Duration = Duration::from_secs(40);

const TOPIC: &str = "orders";

/// A broker with one topic, and what is needed to write to it.
struct Shop {
    broker: EmbeddedBroker,
    settings: KafkaSettings,
    sink: KafkaSink,
}

impl Shop {
    fn open(partitions: i32) -> Self {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic(TOPIC, partitions).unwrap();
        let settings = KafkaSettings {
            brokers: vec![broker.bootstrap().to_owned()],
            client: CLIENT_SETTINGS
                .into_iter()
                .chain([("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "200")])
                .map(|(key, value)| (key.to_owned(), Secret::plain(value)))
                .collect(),
            oauth_token: None,
            instance_id: None,
        };
        let producer = Arc::new(KafkaProducer::connect("shop", &settings).unwrap());
        let sink = KafkaSink::new(producer, "shop".to_owned(), TOPIC.to_owned());
        Self { broker, settings, sink }
    }

    /// Publishes `values` and waits for all acknowledgements.
    async fn publish(&self, values: impl IntoIterator<Item = String>) {
        let (receipts, mut answers) = receipts();
        let mut open = 0;
        for value in values {
            let record = Record { key: Some(value.clone().into()), value: Some(value.into()), ..Record::default() };
            self.sink.send(record, open, &receipts);
            open += 1;
        }
        for ticket in 0..open {
            let receipt = timeout(PATIENCE, answers.recv()).await.expect("acknowledged in time").unwrap();
            assert_eq!(receipt.written, Ok(()), "record {ticket}");
        }
    }

    fn member(&self, change: impl FnOnce(&mut Subscription)) -> Member {
        let metrics = Metrics::default().subscription("shop", "group");
        let (inbox, intake) = mpsc::channel(10_000);
        let (stage, stage_receiver) = watch::channel(Stage::Run);
        let mut subscription = Subscription {
            source: "shop".to_owned(),
            group: "group".to_owned(),
            topics: vec![TOPIC.to_owned()],
            start: Start::Earliest,
            in_flight: InFlight { messages: 1000, bytes: 1 << 20 },
            commit_interval: Duration::from_millis(50),
            revoke_timeout: Duration::from_secs(5),
            on_out_of_range: OutOfRange::Stop,
            keep_max: Duration::MAX,
            triggers: triggers(),
            routes: vec![Route::new(inbox, 7)],
            metrics: metrics.clone(),
            stage: stage_receiver,
        };
        change(&mut subscription);
        let running = spawn(subscription, &self.settings).unwrap();
        Member { running, stage, intake, metrics }
    }

    fn onlooker(&self) -> BaseConsumer {
        client::configure(&self.settings, &[("group.id", "group")]).create().unwrap()
    }

    /// The group's offsets, by partition.
    fn committed(&self, partitions: i32) -> Vec<Option<i64>> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(TOPIC, 0, partitions - 1);
        let list = self.onlooker().committed_offsets(list, PATIENCE).unwrap();
        list.elements()
            .iter()
            .map(|element| match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
            .collect()
    }

    fn commit(&self, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(TOPIC, partition, Offset::Offset(offset)).unwrap();
        self.onlooker().commit(&list, CommitMode::Sync).unwrap();
    }
}

/// Matches every message but those whose `kind` is `skip`.
fn triggers() -> Triggers {
    let pattern = serde_json::json!({ "data": { "kind": [{ "anything-but": ["skip"] }] } });
    let rule = Rule::compile(&pattern).unwrap();
    Triggers::new("shop", vec![TriggerEntry { topics: vec![TOPIC.to_owned()], rule: Some(rule) }])
}

fn sale(number: usize) -> String {
    format!(r#"{{"kind":"sale","number":{number}}}"#)
}

fn sales(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(sale)
}

/// A running subscription, seen from both of its ends.
struct Member {
    running: Running,
    stage: watch::Sender<Stage>,
    intake: mpsc::Receiver<Intake>,
    metrics: Arc<SubscriptionMetrics>,
}

impl Member {
    async fn intake(&mut self) -> Intake {
        timeout(PATIENCE, self.intake.recv()).await.expect("something comes in").unwrap()
    }

    async fn deliveries(&mut self, count: usize) -> Vec<Delivery> {
        let mut got = Vec::new();
        while got.len() < count {
            if let Intake::Deliveries { trigger, deliveries } = self.intake().await {
                assert_eq!(trigger, 7);
                got.extend(deliveries);
            }
        }
        assert_eq!(got.len(), count);
        got
    }

    async fn phase_changed(&mut self) {
        while !matches!(self.intake().await, Intake::PhaseChanged) {}
    }

    async fn end(self, stage: Stage) -> Ended {
        self.stage.send(stage).unwrap();
        timeout(PATIENCE, self.running.ended).await.expect("ends in time").unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "the way of receipts is bounded by who sends records")]
fn receipts() -> (Receipts, mpsc::UnboundedReceiver<Receipt>) {
    mpsc::unbounded_channel()
}

fn finish(deliveries: Vec<Delivery>) {
    let mut settlement = Settlement::default();
    for delivery in deliveries {
        delivery.ticket.settle(Settled::Finished, &mut settlement);
    }
}

fn values(deliveries: &[Delivery]) -> Vec<String> {
    let mut values: Vec<_> =
        deliveries.iter().map(|it| String::from_utf8(it.message.value().unwrap().to_vec()).unwrap()).collect();
    values.sort();
    values
}

fn sorted(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut values: Vec<_> = values.collect();
    values.sort();
    values
}

/// Asks until the answer is as hoped; each question is a round trip to the broker or waits on its own.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came about: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn messages_reach_their_route_and_are_committed_when_settled() {
    let shop = Shop::open(2);
    shop.publish(sales(90).chain((0..10).map(|number| format!(r#"{{"kind":"skip","number":{number}}}"#)))).await;
    let mut member = shop.member(|_| {});
    let deliveries = member.deliveries(90).await;
    assert_eq!(values(&deliveries), sorted(sales(90)));
    let mut last = BTreeMap::new();
    for delivery in &deliveries {
        let before = last.insert(delivery.message.partition(), delivery.message.offset());
        assert!(before.is_none_or(|before| before < delivery.message.offset()), "in order within a partition");
    }
    finish(deliveries);
    until("all is committed", || shop.committed(2).iter().flatten().sum::<i64>() == 100);
    assert_eq!(member.metrics.messages.get(), 100);
    assert_eq!(member.metrics.not_matched.get(), 10);
    assert_eq!(member.end(Stage::Drain).await, Ended { settled: 100, ..Ended::default() });
}

#[tokio::test]
async fn an_open_delivery_holds_the_commit_back_and_is_read_again_after_an_end() {
    let shop = Shop::open(1);
    shop.publish(sales(10)).await;
    let mut member = shop.member(|_| {});
    let mut deliveries = member.deliveries(10).await;
    let open = deliveries.remove(4);
    finish(deliveries);
    until("what lies below is committed", || shop.committed(1) == [Some(4)]);
    assert_eq!(member.end(Stage::End).await, Ended { settled: 9, abandoned: 1, ..Ended::default() });
    drop(open);
    let mut next = shop.member(|_| {});
    assert_eq!(next.deliveries(6).await[0].message.offset(), 4);
}

#[tokio::test]
async fn a_drain_lets_what_runs_finish_and_counts_what_was_let_go() {
    let shop = Shop::open(1);
    shop.publish(sales(3)).await;
    let mut member = shop.member(|_| {});
    let mut deliveries = member.deliveries(3).await;
    member.stage.send(Stage::Drain).unwrap();
    member.phase_changed().await;
    assert!(deliveries.iter().all(|it| it.ticket.assignment().phase() == Phase::Draining));
    let running = deliveries.remove(0);
    drop(deliveries);
    finish(vec![running]);
    let ended = timeout(PATIENCE, member.running.ended).await.unwrap().unwrap();
    assert_eq!(ended, Ended { settled: 1, released: 2, abandoned: 0 });
    assert_eq!(shop.committed(1), [Some(1)]);
}

#[tokio::test]
async fn a_revoke_waits_for_what_runs_and_the_next_owner_repeats_nothing_that_was_committed() {
    let shop = Shop::open(2);
    shop.publish(sales(40)).await;
    // It commits when it is revoked, and at no other time: what is refused is refused then.
    let mut first = shop.member(|subscription| subscription.commit_interval = Duration::from_secs(3600));
    let deliveries = first.deliveries(40).await;
    let mut second = shop.member(|_| {});
    first.phase_changed().await;
    let draining = deliveries.iter().filter(|it| it.ticket.assignment().phase() == Phase::Draining).count();
    assert!(draining > 0 && draining < 40, "one of two partitions goes: {draining}");
    finish(deliveries);
    // The first message that the second one sees is a new one.
    until("both have a partition", || second.metrics.partitions.get() == 1);
    shop.publish((100..140).map(sale)).await;
    let Intake::Deliveries { deliveries, .. } = second.intake().await else { panic!("deliveries come first") };
    // A broker that waits for another member all the while takes no commit at the revoke: then the messages come again.
    let is_refused = first.metrics.commit_failures.get() > 0;
    assert!(is_refused || values(&deliveries).iter().all(|value| sorted((100..140).map(sale)).contains(value)));
}

#[tokio::test]
async fn what_still_runs_after_the_grace_is_fenced_and_goes_to_the_next_owner() {
    let shop = Shop::open(2);
    shop.publish(sales(40)).await;
    let mut first = shop.member(|subscription| subscription.revoke_timeout = Duration::from_millis(100));
    let deliveries = first.deliveries(40).await;
    let mut second = shop.member(|_| {});
    let Intake::Deliveries { deliveries: repeated, .. } = second.intake().await else { panic!("deliveries come") };
    let fenced: Vec<_> = deliveries.into_iter().filter(|it| it.ticket.assignment().phase() == Phase::Fenced).collect();
    assert!(values(&repeated).iter().all(|value| values(&fenced).contains(value)));
    // Reports of an assignment that has ended count for nothing.
    finish(fenced);
    assert_eq!(first.end(Stage::End).await.settled, 0);
}

#[tokio::test]
async fn deliveries_let_go_by_a_dead_engine_are_read_again_in_order() {
    let shop = Shop::open(1);
    shop.publish(sales(10)).await;
    let mut member = shop.member(|_| {});
    let mut deliveries = member.deliveries(10).await;
    let kept = deliveries.split_off(5);
    let first = deliveries.remove(0);
    let old = first.ticket.assignment().clone();
    finish(vec![first]);
    drop(deliveries);
    member.phase_changed().await;
    assert_eq!(old.phase(), Phase::Draining);
    finish(kept);
    let again = member.deliveries(9).await;
    assert_eq!(old.phase(), Phase::Fenced);
    assert_eq!(again.iter().map(|it| it.message.offset()).collect::<Vec<_>>(), (1..10).collect::<Vec<_>>());
    finish(again);
    until("all is committed", || shop.committed(1) == [Some(10)]);
    assert_eq!(member.end(Stage::Drain).await.abandoned, 0);
}

#[tokio::test]
async fn no_more_is_taken_than_may_be_in_flight_and_all_comes_in_the_end() {
    let shop = Shop::open(2);
    shop.publish(sales(200)).await;
    let mut member = shop.member(|subscription| subscription.in_flight.messages = 40);
    let (mut held, mut seen, mut most) = (Vec::new(), 0, 0);
    while seen < 200 {
        let Ok(intake) = timeout(Duration::from_millis(200), member.intake.recv()).await else {
            // Nothing more comes until something is settled.
            most = most.max(held.len());
            finish(std::mem::take(&mut held));
            continue;
        };
        if let Some(Intake::Deliveries { deliveries, .. }) = intake {
            seen += deliveries.len();
            held.extend(deliveries);
        }
    }
    assert!((2..=40).contains(&most), "{most}");
    finish(held);
    assert_eq!(member.end(Stage::Drain).await, Ended { settled: 200, ..Ended::default() });
}

#[tokio::test]
async fn a_start_at_the_latest_is_committed_at_once() {
    let shop = Shop::open(1);
    shop.publish(sales(5)).await;
    let member = shop.member(|subscription| subscription.start = Start::Latest);
    until("the start is committed", || shop.committed(1) == [Some(5)]);
    assert_eq!(member.end(Stage::Drain).await, Ended::default());
    shop.publish((5..8).map(sale)).await;
    let mut next = shop.member(|subscription| subscription.start = Start::Latest);
    assert_eq!(values(&next.deliveries(3).await), sorted((5..8).map(sale)));
}

#[tokio::test]
async fn an_offset_out_of_range_stops_the_partition_by_default() {
    let shop = Shop::open(1);
    shop.publish(sales(5)).await;
    shop.commit(0, 500);
    let member = shop.member(|_| {});
    until("the partition is stopped", || member.metrics.partitions_stopped.get() == 1);
    assert_eq!(member.metrics.messages.get(), 0);
    assert_eq!(member.end(Stage::Drain).await, Ended::default());
    assert_eq!(shop.committed(1), [Some(500)]);
}

#[tokio::test]
async fn an_offset_out_of_range_can_go_back_to_the_earliest() {
    let shop = Shop::open(1);
    shop.publish(sales(5)).await;
    shop.commit(0, 500);
    let mut member = shop.member(|subscription| subscription.on_out_of_range = OutOfRange::Earliest);
    finish(member.deliveries(5).await);
    assert_eq!(member.end(Stage::Drain).await, Ended { settled: 5, ..Ended::default() });
    assert_eq!(shop.committed(1), [Some(5)]);
}

async fn check_refused_fetch(shop: Shop) {
    shop.publish(sales(5)).await;
    let mut member = shop.member(|_| {});
    finish(member.deliveries(5).await);
    shop.broker.refuse_fetch();
    shop.publish((5..10).map(sale)).await;
    // The client has stopped fetching; the offset turns out to be good, so the partition is taken up again there.
    let rest = member.deliveries(5).await;
    assert_eq!(values(&rest), sorted((5..10).map(sale)));
    finish(rest);
    assert_eq!(member.end(Stage::Drain).await, Ended { settled: 10, ..Ended::default() });
}

#[tokio::test]
async fn a_fetch_refused_although_its_offset_is_good_is_taken_up_again() {
    check_refused_fetch(Shop::open(2)).await;
}

#[tokio::test]
async fn a_refused_fetch_is_taken_up_again_under_an_eager_strategy_too() {
    let mut shop = Shop::open(2);
    shop.settings.client.insert("partition.assignment.strategy".to_owned(), Secret::plain("range"));
    check_refused_fetch(shop).await;
}

#[tokio::test]
async fn source_and_sink_outlast_a_broker_that_goes_away() {
    let shop = Shop::open(1);
    shop.publish(sales(5)).await;
    let mut member = shop.member(|_| {});
    finish(member.deliveries(5).await);
    until("all is committed", || shop.committed(1) == [Some(5)]);
    shop.broker.set_up(false);
    let (receipts, mut answers) = receipts();
    let record = Record { value: Some(sale(5).into()), ..Record::default() };
    shop.sink.send(record, 42, &receipts);
    assert!(timeout(Duration::from_secs(2), answers.recv()).await.is_err(), "nothing is acknowledged meanwhile");
    shop.broker.set_up(true);
    let receipt = timeout(PATIENCE, answers.recv()).await.unwrap();
    assert_eq!(receipt, Some(Receipt { ticket: 42, written: Ok(()) }));
    let rest = member.deliveries(1).await;
    assert_eq!(rest[0].message.offset(), 5);
    finish(rest);
    assert_eq!(member.end(Stage::Drain).await, Ended { settled: 6, ..Ended::default() });
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_for_good_and_the_largest_is_written() {
    let shop = Shop::open(1);
    let (receipts, mut answers) = receipts();
    let of = |size| Record { value: Some(vec![b'x'; size]), ..Record::default() };
    shop.sink.send(of(2_000_000), 1, &receipts);
    let refused = timeout(PATIENCE, answers.recv()).await.unwrap().unwrap();
    assert!(refused.ticket == 1 && refused.written.is_err(), "{refused:?}");
    shop.sink.send(of(shop.sink.record_max()), 2, &receipts);
    assert_eq!(timeout(PATIENCE, answers.recv()).await.unwrap(), Some(Receipt { ticket: 2, written: Ok(()) }));
}

#[test]
fn settings_that_the_client_refuses_are_a_fault_with_the_key() {
    let settings = KafkaSettings {
        brokers: vec!["127.0.0.1:1".to_owned()],
        client: [("no.such.setting".to_owned(), Secret::plain("1"))].into_iter().collect(),
        oauth_token: None,
        instance_id: None,
    };
    let fault = KafkaProducer::connect("shop", &settings).unwrap_err().to_string();
    assert!(fault.contains("shop") && fault.contains("`no.such.setting`"), "{fault}");
}
