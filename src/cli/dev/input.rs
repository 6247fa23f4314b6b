//! What is typed: messages to publish.

use std::io;
use std::thread;

use tokio::sync::mpsc;

/// How many lines may wait to be published.
const LINES_MAX: usize = 64;

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed<'a> {
    /// `None` is the first trigger's topic.
    pub topic: Option<&'a str>,
    pub value: &'a str,
}

/// Reads a line: JSON is a value for the first trigger's topic, `topic: text` is a value for that topic. A blank line
/// is `None`.
///
/// # Errors
/// When it is neither, with the reason.
pub fn parse(line: &str) -> Result<Option<Typed<'_>>, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    if let Some((topic, value)) = line.split_once(':').filter(|(topic, _)| is_topic(topic)) {
        return Ok(Some(Typed { topic: Some(topic), value: value.trim_start() }));
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(line) {
        Ok(_) => Ok(Some(Typed { topic: None, value: line })),
        Err(error) => Err(format!("not published: neither JSON ({error}) nor `topic: value`")),
    }
}

/// Whether Kafka allows a topic of this name.
fn is_topic(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 249 && name.bytes().all(is_allowed)
}

/// The lines of standard input, as they come, on a thread that ends with them or with the process.
pub fn lines() -> io::Result<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    thread::Builder::new().name("dev-input".to_owned()).spawn(move || {
        for line in io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_parse(line: &str, expected: Option<(Option<&str>, &str)>) {
        let expected = expected.map(|(topic, value)| Typed { topic, value });
        assert_eq!(parse(line), Ok(expected), "{line:?}");
    }

    #[test]
    fn json_goes_to_the_first_topic() {
        check_parse(r#"{"type":"order.placed"}"#, Some((None, r#"{"type":"order.placed"}"#)));
        check_parse("  [1, 2] \n", Some((None, "[1, 2]")));
        check_parse(r#""a: b""#, Some((None, r#""a: b""#)));
        check_parse("17", Some((None, "17")));
    }

    #[test]
    fn a_topic_may_be_named_and_takes_any_text() {
        check_parse(r#"orders.eu: {"a":1}"#, Some((Some("orders.eu"), r#"{"a":1}"#)));
        check_parse("orders:plain: text", Some((Some("orders"), "plain: text")));
        check_parse("orders:", Some((Some("orders"), "")));
    }

    #[test]
    fn blank_lines_are_nothing() {
        check_parse("", None);
        check_parse(" \t\r\n", None);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for line in [r#"{"a":"#, "hello", "two words: {}", ": {}", "{a: 1}"] {
            assert!(parse(line).unwrap_err().starts_with("not published"), "{line:?}");
        }
    }
}
