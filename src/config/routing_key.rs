//! Routing keys that take parts from the message that was handled: `"order.${key}"`.

use std::fmt;

/// The protocol has one byte for the length of a routing key.
pub const ROUTING_KEY_MAX: usize = 255;

const ALLOWED: &str = "${key}, ${topic}, ${exchange}, ${routing_key}, ${type} and ${header:NAME}";

/// A routing key as it was written, and its parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoutingKey {
    written: String,
    /// No two texts in a row.
    parts: Vec<KeyPart>,
}

/// A part of a routing key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyPart {
    Text(String),
    /// The message's Kafka key.
    Key,
    /// The message's topic or queue.
    Topic,
    /// The exchange of an AMQP message.
    Exchange,
    /// The routing key of an AMQP message.
    RoutingKey,
    /// The property `type` of an AMQP message.
    Type,
    Header(String),
}

impl RoutingKey {
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn parse(written: &str) -> Result<Self, String> {
        let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), written);
        while let Some(at) = rest.find("${") {
            let before = &rest[..at];
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            text.push_str(before);
            let Some((name, after)) = rest[at + 2..].split_once('}') else {
                return Err(format!(
                    "found \"${{\" without \"}}\"; write \"$${{\" for the text itself, or one of {ALLOWED}"
                ));
            };
            if !text.is_empty() {
                parts.push(KeyPart::Text(std::mem::take(&mut text)));
            }
            parts.push(KeyPart::named(name)?);
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(KeyPart::Text(text));
        }
        let key = Self { written: written.to_owned(), parts };
        let length: usize = key.parts.iter().map(KeyPart::length_least).sum();
        if length > ROUTING_KEY_MAX {
            return Err(format!("found {length} bytes; allowed: {ROUTING_KEY_MAX}"));
        }
        Ok(key)
    }

    pub fn parts(&self) -> &[KeyPart] {
        &self.parts
    }

    /// The key, where it is the same for all messages.
    pub fn constant(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [KeyPart::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for RoutingKey {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl KeyPart {
    fn named(name: &str) -> Result<Self, String> {
        Ok(match name {
            "key" => Self::Key,
            "topic" => Self::Topic,
            "exchange" => Self::Exchange,
            "routing_key" => Self::RoutingKey,
            "type" => Self::Type,
            _ => match name.strip_prefix("header:").filter(|header| !header.is_empty()) {
                Some(header) => Self::Header(header.to_owned()),
                None => return Err(format!("found \"${{{name}}}\"; allowed: {ALLOWED}")),
            },
        })
    }

    fn length_least(&self) -> usize {
        if let Self::Text(text) = self { text.len() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_parts(written: &str, expected: &[KeyPart]) {
        let key = RoutingKey::parse(written).unwrap();
        assert_eq!((key.parts(), key.to_string().as_str()), (expected, written));
    }

    fn text(text: &str) -> KeyPart {
        KeyPart::Text(text.to_owned())
    }

    #[test]
    fn parts_stand_between_texts() {
        check_parts("", &[]);
        check_parts("order.total", &[text("order.total")]);
        check_parts("order.${key}", &[text("order."), KeyPart::Key]);
        check_parts(
            "${topic}${exchange}.${routing_key}/${type}${header:a b}x",
            &[
                KeyPart::Topic,
                KeyPart::Exchange,
                text("."),
                KeyPart::RoutingKey,
                text("/"),
                KeyPart::Type,
                KeyPart::Header("a b".to_owned()),
                text("x"),
            ],
        );
        check_parts("5$ or $${key} }", &[text("5$ or ${key} }")]);
        assert_eq!(RoutingKey::parse("$${x}").unwrap().constant(), Some("${x}"));
        assert_eq!(RoutingKey::parse("${key}").unwrap().constant(), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (written, expected) in [
            ("${keys}", "found \"${keys}\"; allowed: ${key}, ${topic}"),
            ("${header:}", "found \"${header:}\""),
            ("a${", "without \"}\""),
        ] {
            let error = RoutingKey::parse(written).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let long = "x".repeat(254) + "${key}";
        assert!(RoutingKey::parse(&long).is_ok());
        assert!(RoutingKey::parse(&(long + "yz")).is_err());
    }
}
