//! `on_success` and `on_failure`.

use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;

use crate::config::units::{optional_count, optional_duration};

/// `{ kafka = "SOURCE", topic = "t" }`, `{ memory = "SOURCE", topic = "t" }` or
/// `{ amqp = "SOURCE", exchange = "e", routing_key = "k" }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkFile {
    /// The name of a Kafka source.
    pub kafka: Option<String>,
    /// The name of a memory source.
    pub memory: Option<String>,
    /// The name of an AMQP source.
    pub amqp: Option<String>,
    /// Kafka and memory: the topic to write to, required.
    pub topic: Option<String>,
    /// AMQP: the exchange to publish to. Default `""`, which leads to the queue named by the routing key.
    pub exchange: Option<String>,
    /// AMQP, required: the routing key. A record that no queue takes counts as failed. It may take parts from the message
    /// that was handled: `"order.${key}"`. There are `${key}` (Kafka's), `${topic}` (of AMQP: the queue), `${header:NAME}`,
    /// and of AMQP messages `${exchange}`, `${routing_key}` and `${type}`. A record whose message lacks one of them, or
    /// whose key comes to more than 255 bytes, is refused like one that no queue takes. `$${` stands for `${` itself.
    pub routing_key: Option<String>,
    /// Headers that every record gets. Kafka and memory: texts. AMQP: texts, booleans, numbers, lists and tables, each
    /// in its own type. Names that begin with `lagless-` are ours.
    #[serde(default)]
    pub headers: IndexMap<String, serde_json::Value>,
    /// AMQP: properties that every record gets.
    #[serde(default)]
    pub properties: PropertiesFile,
}

/// `properties = { type = "order.total", app_id = "shop", expiration = "1h" }`. Set by Lagless: `message_id`, which is
/// the same when a message is handled again, `correlation_id`, that of the message handled, and `timestamp`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PropertiesFile {
    /// Default: `"application/json"` for results, what the message had for dead letters.
    pub content_type: Option<String>,
    /// Default: none for results, what the message had for dead letters.
    pub content_encoding: Option<String>,
    /// Default: none for results, what the message had for dead letters.
    pub r#type: Option<String>,
    /// Default: none for results, what the message had for dead letters.
    pub app_id: Option<String>,
    /// The server refuses any other than the user in the source's `url`. Default: none.
    pub user_id: Option<String>,
    /// 0 to 255; it means something in queues declared with `x-max-priority`. Default: none for results, what the message
    /// had for dead letters.
    #[serde(default, deserialize_with = "optional_count")]
    pub priority: Option<u32>,
    /// How long a record may wait in a queue before it is gone, such as `"1h"`. Default: for ever.
    #[serde(default, deserialize_with = "optional_duration")]
    pub expiration: Option<Duration>,
    /// Whether a durable queue keeps the record over a restart of the server. Default `true`.
    pub persistent: Option<bool>,
}
