//! What the client calls back: its log lines, errors and statistics. Partitions that come and go are in `rebalance`.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Statistics};

use super::assigned::{Assigned, is_rebalance};
use super::client::{Notices, explain, log_line};
use super::committer::Answer;
use super::lag::Reach;
use super::oauth;
use crate::config::OauthToken;
use crate::source::Subscription;

/// The state that the polling thread shares with the client's callbacks, which run on the same thread: the locks are
/// there for the compiler and are never waited for. None is held while the client is polled.
#[derive(Debug)]
pub(super) struct Context {
    pub subscription: Arc<Subscription>,
    oauth_token: Option<OauthToken>,
    assigned: Arc<Mutex<Assigned>>,
    notices: Mutex<Notices>,
    reach: Mutex<Reach>,
}

impl Context {
    pub(super) fn new(
        subscription: Arc<Subscription>,
        oauth_token: Option<OauthToken>,
        assigned: Arc<Mutex<Assigned>>,
    ) -> Self {
        let reach = Mutex::new(Reach::begin(Instant::now()));
        Self { subscription, oauth_token, assigned, notices: Mutex::default(), reach }
    }

    pub(super) fn assigned(&self) -> MutexGuard<'_, Assigned> {
        // A panic while it was held leaves nothing half done that matters more than going on.
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to tell of `what` again.
    pub(super) fn is_due(&self, what: &str) -> bool {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).is_due(what, Instant::now())
    }

    /// Whether a broker was connected when last heard.
    pub(super) fn is_reached(&self) -> bool {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).is_reached()
    }

    /// For how long no broker has been connected.
    pub(super) fn lost_for(&self, now: Instant) -> Duration {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).lost_for(now)
    }

    pub(super) fn note_commit(&self, answer: &Answer) {
        self.assigned().end_commit(answer);
        let Err(error) = &answer.result else { return };
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::NoOffset) {
            return;
        }
        let Subscription { source, group, metrics, .. } = &*self.subscription;
        metrics.commit_failures.inc();
        if is_rebalance(code) {
            tracing::debug!(source, group, %error, "commit refused during a rebalance: it comes again");
        } else if self.is_due(&format!("commit {code:?}")) {
            tracing::warn!(source, group, %error, "commit failed: it comes again");
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        oauth::token(self.oauth_token.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        self.note_statistics(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        let Some(code) = error.rdkafka_error_code() else { return };
        match code {
            // The reader looks into these itself and says more than the client knows.
            Code::AutoOffsetReset
            | Code::OffsetOutOfRange
            | Code::NoOffset
            | Code::LogTruncation
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::Fatal => {}
            _ if self.is_due(&format!("{code:?}")) => {
                let Subscription { source, group, .. } = &*self.subscription;
                tracing::error!(source, group, "{}", explain(code, reason));
            }
            _ => {}
        }
    }
}

impl Context {
    fn note_statistics(&self, statistics: &Statistics) {
        for (name, topic) in &statistics.topics {
            for (number, partition) in &topic.partitions {
                if partition.hi_offset < 0 {
                    continue;
                }
                if let Some(known) = self.assigned().get_mut(name, *number) {
                    known.high = Some(known.high.unwrap_or_default().max(partition.hi_offset));
                }
            }
        }
        let is_up = statistics.brokers.values().any(|broker| matches!(&*broker.state, "UP" | "UPDATE"));
        let told = self.reach.lock().unwrap_or_else(PoisonError::into_inner).note(is_up, Instant::now());
        let Subscription { source, group, .. } = &*self.subscription;
        match told {
            Some(true) => tracing::info!(source, group, "connected to the broker"),
            Some(false) => tracing::warn!(source, group, "waiting for a broker: none answers; still trying"),
            None => {}
        }
    }
}
