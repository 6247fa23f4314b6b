//! Reads whole topics.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::Deserialize;

use super::{Id, Returned, Sent};

/// How long the broker may take for an answer, or for the next message of a partition that has more.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a message holds, and what the function under test makes of it.
#[derive(Deserialize)]
struct Numbered {
    key: String,
    seq: u64,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    started_us: f64,
}

/// Every message of the input topic.
///
/// # Errors
/// When the topic cannot be read, or holds something that is no numbered message.
pub fn sent(brokers: &str, topic: &str) -> Result<Vec<Sent>, String> {
    read(brokers, topic, |message| {
        let (id, _) = numbered(message)?;
        Ok(Sent { partition: message.partition(), id })
    })
}

/// Every result in the output topic.
///
/// # Errors
/// As [`sent`].
pub fn returned(brokers: &str, topic: &str) -> Result<Vec<Returned>, String> {
    read(brokers, topic, |message| {
        let (id, Numbered { attempt, started_us, .. }) = numbered(message)?;
        Ok(Returned { partition: message.partition(), id, attempt, started_us: started_us as u64 })
    })
}

/// The key must be the record's key as well: results are keyed like their messages.
fn numbered(message: &BorrowedMessage<'_>) -> Result<(Id, Numbered), String> {
    let place = || format!("{}/{}/{}", message.topic(), message.partition(), message.offset());
    let value = message.payload().unwrap_or_default();
    let numbered: Numbered = serde_json::from_slice(value).map_err(|error| format!("{}: {error}", place()))?;
    if message.key() != Some(numbered.key.as_bytes()) {
        return Err(format!("{}: the record's key is not {:?}", place(), numbered.key));
    }
    Ok((Id { key: numbered.key.clone(), seq: numbered.seq }, numbered))
}

/// Reads each partition from its first offset to where it ends now.
pub fn read<T>(
    brokers: &str,
    topic: &str,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let failed = |error| format!("{topic}: {error}");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Nothing is committed: the group has no meaning.
        .set("group.id", "verifier")
        .set("enable.auto.commit", "false")
        .create()
        .map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(failed)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let (mut assignment, mut left) = (TopicPartitionList::new(), 0);
    let mut ends = Vec::new();
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE).map_err(failed)?;
        assignment.add_partition_offset(topic, partition.id(), Offset::Offset(low)).map_err(failed)?;
        ends.push((partition.id(), high));
        left += usize::from(high > low);
    }
    if ends.is_empty() {
        return Err(format!("{topic}: there is no such topic"));
    }
    consumer.assign(&assignment).map_err(failed)?;
    let mut records = Vec::new();
    while left > 0 {
        let message = consumer
            .poll(PATIENCE)
            .ok_or_else(|| format!("{topic}: no message for {PATIENCE:?}, although {left} partitions have more"))?
            .map_err(failed)?;
        let end = ends.iter().find(|(partition, _)| *partition == message.partition()).map_or(0, |(_, end)| *end);
        if message.offset() < end {
            records.push(take(&message)?);
        }
        left -= usize::from(message.offset() + 1 == end);
    }
    Ok(records)
}
