//! A real Kafka: the one that all tests share, or one of a test's own that it may stop.

use std::path::Path;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::node::Node;
use super::proxy::Proxy;

const PATIENCE: Duration = Duration::from_secs(30);

/// Servers to talk to.
#[derive(Debug, Clone)]
pub struct Kafka {
    pub brokers: String,
}

impl Kafka {
    /// The server that `make test` has started, or that the user has named.
    pub fn shared() -> Self {
        let brokers = std::env::var("KAFKA_BROKERS")
            .expect("this test needs Kafka: run `make test`, which starts one, or set KAFKA_BROKERS to host:port");
        Self { brokers }
    }

    /// A listener of some server that wants the user `lagless` with the password `secret`.
    pub fn with_password() -> (String, Option<OwnKafka>) {
        match std::env::var_os("LAGLESS_KAFKA_DIR") {
            Some(folder) => (sasl_address(Path::new(&folder)), None),
            None => {
                let own = OwnKafka::start();
                (sasl_address(own.node.folder()), Some(own))
            }
        }
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    pub fn create_topic(&self, name: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let created = runtime.block_on(admin.create_topics(&[topic], &options)).unwrap();
        for result in created {
            result.unwrap();
        }
    }

    /// Has the broker forget the records of a partition below `offset`, as retention does.
    pub fn forget(&self, topic: &str, (partition, offset): (i32, i64)) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let mut below = TopicPartitionList::new();
        below.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let forgotten = runtime.block_on(admin.delete_records(&below, &options)).unwrap();
        assert_eq!(forgotten.find_partition(topic, partition).unwrap().offset(), Offset::Offset(offset));
    }

    /// Writes records of key and value, and waits until the broker has them all.
    pub fn produce(&self, topic: &str, records: impl Iterator<Item = (String, String)>) {
        let producer: BaseProducer = self
            .config()
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.messages", "200000")
            .set("linger.ms", "20")
            .create()
            .unwrap();
        for (key, value) in records {
            let mut record = BaseRecord::to(topic).key(&key).payload(&value);
            while let Err((error, refused)) = producer.send(record) {
                assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
                producer.poll(Duration::from_millis(50));
                record = refused;
            }
            producer.poll(Duration::ZERO);
        }
        producer.flush(PATIENCE).unwrap();
    }

    fn reader(&self, group: &str) -> BaseConsumer {
        self.config().set("group.id", group).set("enable.auto.commit", "false").create().unwrap()
    }

    fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<TopicPartitionList, KafkaError> {
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            list.add_partition(topic, partition.id());
        }
        Ok(list)
    }

    /// For each partition: what the group has committed (0 where nothing yet), and where the partition ends.
    pub fn progress(&self, group: &str, topic: &str) -> Result<Vec<(i64, i64)>, KafkaError> {
        let consumer = self.reader(group);
        let list = Self::partitions(&consumer, topic)?;
        let committed = consumer.committed_offsets(list, PATIENCE)?;
        let progress = committed.elements().into_iter().map(|element| {
            let (_, end) = consumer.fetch_watermarks(topic, element.partition(), PATIENCE)?;
            match element.offset() {
                Offset::Offset(offset) => Ok((offset, end)),
                _ => Ok((0, end)),
            }
        });
        progress.collect()
    }

    /// The names of all topics.
    pub fn topics(&self) -> Vec<String> {
        let metadata = self.reader("it-looks").fetch_metadata(None, PATIENCE).unwrap();
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// A group's state and the ids of its members.
    pub fn group(&self, group: &str) -> (String, Vec<String>) {
        let list = self.reader("it-looks").fetch_group_list(Some(group), PATIENCE).unwrap();
        let found = list.groups().iter().find(|found| found.name() == group);
        found.map_or_else(Default::default, |found| {
            (found.state().to_owned(), found.members().iter().map(|member| member.id().to_owned()).collect())
        })
    }

    /// The values of all records of a topic, partition by partition.
    pub fn values(&self, topic: &str) -> Vec<String> {
        let consumer = self.reader("it-reads");
        let mut list = Self::partitions(&consumer, topic).unwrap();
        list.set_all_offsets(Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let spots = list.elements().into_iter().map(|element| element.partition());
        let ranges = spots.map(|partition| consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap());
        let count: i64 = ranges.map(|(low, high)| high - low).sum();
        let next = |_| {
            let message = consumer.poll(PATIENCE).expect("a record within the time").unwrap();
            String::from_utf8(message.payload().unwrap_or_default().to_vec()).unwrap()
        };
        (0..count).map(next).collect()
    }

    /// Commits an offset for one partition in the name of a group that has no members.
    pub fn commit(&self, group: &str, topic: &str, (partition, offset): (i32, i64)) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        self.reader(group).commit(&list, rdkafka::consumer::CommitMode::Sync).unwrap();
    }
}

/// A server of a test's own.
#[derive(Debug)]
pub struct OwnKafka {
    pub node: Node,
    pub kafka: Kafka,
}

impl OwnKafka {
    pub fn start() -> Self {
        let (node, brokers) = Node::start("kafka", &[]);
        Self { node, kafka: Kafka { brokers } }
    }

    /// One whose listener with passwords sends its clients to a proxy, which leads there.
    pub fn start_behind(proxy: &Proxy) -> Self {
        let (node, brokers) = Node::start("kafka", &[("KAFKA_ADVERTISED_SASL", &proxy.address().to_string())]);
        proxy.forward_to(&sasl_address(node.folder()));
        Self { node, kafka: Kafka { brokers } }
    }
}

/// The address of the listener with passwords in a server's folder.
fn sasl_address(folder: &Path) -> String {
    format!("127.0.0.1:{}", std::fs::read_to_string(folder.join("sasl_port")).unwrap().trim())
}
