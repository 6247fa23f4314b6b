//! Partitions come and go. All of this runs on the polling thread, inside the client's rebalance callback: polling
//! stands still meanwhile, so every wait is bounded well below `max.poll.interval.ms`.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use super::assigned::offsets;
use super::context::Context;
use super::partition::Spot;
use super::position;
use crate::source::Subscription;

/// How long each question for positions may take while polling stands still.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a last commit is made again while other members still take part in the rebalance, and how often.
const COMMIT_PATIENCE: Duration = Duration::from_secs(2);
const COMMIT_PAUSE: Duration = Duration::from_millis(20);

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.subscription.metrics.rebalances.inc();
        let done = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        };
        if let Err(error) = done {
            let Subscription { source, group, .. } = &*self.subscription;
            tracing::error!(source, group, %error, "the client refused a change of its assignment");
        }
        self.subscription.metrics.partitions.set(self.assigned().partitions.len() as i64);
    }
}

impl Context {
    /// Finds where to read the new partitions from, before the client fetches anything of them.
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) -> KafkaResult<()> {
        let spots = self.spots(list);
        let found = if self.assigned().leaving {
            Err(KafkaError::Canceled)
        } else {
            position::find(consumer, &spots, QUESTION_TIMEOUT)
        };
        let now = Instant::now();
        let (mut open, mut held) = (Vec::new(), Vec::new());
        for (index, spot) in spots.into_iter().enumerate() {
            let found = match &found {
                Ok(found) => found.get(index).cloned().unwrap_or(Err(KafkaError::NoMessageReceived)),
                Err(error) => Err(error.clone()),
            };
            match self.assigned().arrive(&spot, found, now) {
                Some(offset) => {
                    list.set_partition_offset(&spot.topic, spot.partition, Offset::Offset(offset))?;
                    open.push(spot);
                }
                None => {
                    // Paused before the client hands out anything; the real position comes with a seek.
                    list.set_partition_offset(&spot.topic, spot.partition, Offset::End)?;
                    held.push(spot);
                }
            }
        }
        let Subscription { source, group, .. } = &*self.subscription;
        if let Err(error) = found
            && !held.is_empty()
            && !self.assigned().leaving
        {
            tracing::warn!(source, group, %error, "the broker does not tell where to read from: asking again");
        }
        tracing::info!(source, group, partitions = open.len(), held = held.len(), "partitions assigned");
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list)?,
            _ => consumer.assign(list)?,
        }
        consumer.pause(&position::list(&held, Offset::Invalid)?)?;
        // A pause outlives the assignment it was made in.
        consumer.resume(&position::list(&open, Offset::Invalid)?)
    }

    /// Lets partitions go: stop, let what runs finish for a bounded time, fence, commit.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) -> KafkaResult<()> {
        let spots = self.spots(list);
        let is_lost = consumer.assignment_lost();
        let grace = (!is_lost).then_some(self.subscription.revoke_timeout);
        let mut released = self.assigned().release(&spots, grace);
        let open: usize = released.iter().map(|partition| partition.tracker.waiting()).sum();
        let Subscription { source, group, .. } = &*self.subscription;
        if is_lost {
            tracing::warn!(
                source,
                group,
                partitions = spots.len(),
                open,
                "partitions lost: another owner repeats what was open"
            );
        } else {
            tracing::info!(source, group, partitions = spots.len(), open, "partitions revoked");
            if let Some(offsets) = offsets(&mut released)
                && let Err(error) = commit(consumer, &offsets)
                && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
            {
                self.subscription.metrics.commit_failures.inc();
                tracing::warn!(source, group, %error, "commit at revoke failed: the next owner repeats what was settled since the last one");
            }
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }

    fn spots(&self, list: &TopicPartitionList) -> Vec<Spot> {
        if list.count() == 0 {
            return Vec::new();
        }
        let mut assigned = self.assigned();
        list.elements()
            .iter()
            .map(|element| Spot { topic: assigned.topic(element.topic()), partition: element.partition() })
            .collect()
    }
}

/// Commits for the last time. The broker takes no commits until every member has its new assignment; giving up at once
/// would have the next owner repeat what is settled.
fn commit(consumer: &BaseConsumer<Context>, offsets: &TopicPartitionList) -> KafkaResult<()> {
    let deadline = Instant::now() + COMMIT_PATIENCE;
    loop {
        match consumer.commit(offsets, CommitMode::Sync) {
            Err(error)
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::RebalanceInProgress)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(COMMIT_PAUSE);
            }
            answer => return answer,
        }
    }
}
