//! What must be there before a queue can be read: the queue itself, its exchanges and bindings; and the arguments by
//! which it is read.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Error, ErrorKind, ExchangeKind};
use serde_json::{Map, Value};

use super::link::explain;
use crate::config::{Binding, Declare, QueueSettings, QueueType};

/// Looks for the queue, or makes it. Answers how many messages are ready in it.
pub(super) async fn declare(channel: &Channel, name: &str, queue: &QueueSettings) -> Result<u32, Error> {
    if queue.declare != Some(Declare::Create) {
        return depth(channel, name).await;
    }
    let mut arguments = table(&queue.arguments);
    // Classic queues are what a server makes unasked.
    if let Some(word) = queue.queue_type.and_then(type_word) {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(word.into()));
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.into(), options, arguments).await?;
    for Binding { exchange, exchange_type, routing_key, arguments } in &queue.bind {
        if let Some(kind) = exchange_type {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let (exchange, kind) = (exchange.as_str().into(), exchange_kind(kind));
            channel.exchange_declare(exchange, kind, options, FieldTable::default()).await?;
        }
        let (exchange, routing_key) = (exchange.as_str().into(), routing_key.as_str().into());
        channel.queue_bind(name.into(), exchange, routing_key, QueueBindOptions::default(), table(arguments)).await?;
    }
    Ok(declared.message_count())
}

/// How many messages are ready in a queue.
pub(super) async fn depth(channel: &Channel, queue: &str) -> Result<u32, Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(queue.into(), options, FieldTable::default()).await?.message_count())
}

/// What the server is told of the consumer.
pub(super) fn consumer_arguments(queue: &QueueSettings) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Some(priority) = queue.consumer_priority {
        arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
    }
    arguments
}

/// Why something could not be declared, with what to do about it.
pub(super) fn explain_refusal(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(told) if *told.kind() == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
            format!(
                "{}: it exists with other properties; write in the configuration what it is, use `declare = \
                 \"passive\"` or leave out the exchange's `type`, or delete it",
                told.get_message()
            )
        }
        _ => explain(error),
    }
}

fn type_word(queue_type: QueueType) -> Option<&'static str> {
    match queue_type {
        QueueType::Classic => None,
        QueueType::Quorum => Some("quorum"),
        QueueType::Stream => Some("stream"),
    }
}

fn exchange_kind(word: &str) -> ExchangeKind {
    match word {
        "direct" => ExchangeKind::Direct,
        "topic" => ExchangeKind::Topic,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        other => ExchangeKind::Custom(other.to_owned()),
    }
}

/// Arguments as the protocol has them.
fn table(arguments: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.as_str().into(), argument(value));
    }
    table
}

/// Numbers in the width that most publishers use, since headers exchanges compare types too.
fn argument(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => i32::try_from(whole).map_or(AMQPValue::LongLongInt(whole), AMQPValue::LongInt),
            None => AMQPValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        Value::Array(list) => AMQPValue::FieldArray(list.iter().map(argument).collect::<Vec<_>>().into()),
        Value::Object(inner) => AMQPValue::FieldTable(table(inner)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_keep_their_types_and_numbers_are_as_wide_as_they_must_be() {
        let arguments = json!({ "a": 10, "b": -5_000_000_000_i64, "c": true, "d": "x", "e": [1, { "f": "g" }] });
        let Value::Object(arguments) = arguments else { panic!("an object") };
        let table = table(&arguments);
        let found = |name: &str| table.inner()[name].clone();
        assert_eq!(found("a"), AMQPValue::LongInt(10));
        assert_eq!(found("b"), AMQPValue::LongLongInt(-5_000_000_000));
        assert_eq!(found("c"), AMQPValue::Boolean(true));
        assert_eq!(found("d"), AMQPValue::LongString("x".into()));
        let mut inner = FieldTable::default();
        inner.insert("f".into(), AMQPValue::LongString("g".into()));
        let list = vec![AMQPValue::LongInt(1), AMQPValue::FieldTable(inner)];
        assert_eq!(found("e"), AMQPValue::FieldArray(list.into()));
    }
}
