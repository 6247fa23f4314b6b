//! Values with a unit or a form of their own, as `deserialize_with` functions.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::choice::chosen;
use super::settings::Start;

/// Longer durations are slips, and would overflow the arithmetic of clocks.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

const DURATION_FORM: &str = "a duration such as \"500ms\", \"30s\" or \"2m 30s\"";
const SIZE_FORM: &str = "a size such as \"64MiB\", \"512kB\" or a number of bytes";

/// A duration as people write it, at most a year.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(DURATION_FORM)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            let duration = humantime::parse_duration(text)
                .map_err(|error| E::custom(format!("found {text:?}: {error}; allowed: {DURATION_FORM}")))?;
            if duration > DURATION_MAX {
                return Err(E::custom(format!("found {text:?}; allowed: at most a year")));
            }
            Ok(duration)
        }
    }
    deserializer.deserialize_any(Text)
}

/// For keys whose absence means something of its own.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

pub(super) fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

/// A number of bytes, with or without a unit.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(SIZE_FORM)
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
            Ok(bytes)
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::custom(format!("found {bytes}; allowed: {SIZE_FORM}")))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            let size = text.trim().parse::<ByteSize>();
            size.map(|size| size.as_u64()).map_err(|_| E::custom(format!("found {text:?}; allowed: {SIZE_FORM}")))
        }
    }
    deserializer.deserialize_any(Size)
}

/// A whole number, 0 or more; upper and lower bounds are checked with the other rules.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Count;
    impl Visitor<'_> for Count {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::custom(format!("found {number}; allowed: at most {}", u32::MAX)))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u32, E> {
            let unsigned = u64::try_from(number);
            self.visit_u64(unsigned.map_err(|_| E::custom(format!("found {number}; allowed: 0 or more")))?)
        }
    }
    deserializer.deserialize_any(Count)
}

/// As [`count`], for keys whose absence means something of its own.
pub(super) fn optional_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    count(deserializer).map(Some)
}

/// A list of texts, or one text with commas between them; blanks around each are dropped.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of strings, or one string with commas")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element::<String>()? {
                texts.push(text.trim().to_owned());
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_any(Texts).map(Some)
}

/// Where to begin: a word, `{ offset = 42 }` or `{ time = "2026-11-21T10:00:00Z" }`.
pub(super) fn optional_start<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Start>, D::Error> {
    use serde_json::Value;
    const TABLE: &str = "{ offset = 42 } or { time = \"2026-11-21T10:00:00Z\" }";
    let wrong = || de::Error::custom(format!("expected a word such as \"earliest\", {TABLE}"));
    let table = match Value::deserialize(deserializer)? {
        Value::String(word) => {
            return chosen(&word).map(Some).map_err(|error| de::Error::custom(format!("{error}, {TABLE}")));
        }
        Value::Object(table) if table.len() == 1 => table,
        _ => return Err(wrong()),
    };
    match table.iter().next() {
        Some((key, Value::Number(number))) if key == "offset" => match number.as_i64() {
            Some(offset @ 0..) => Ok(Some(Start::Offset(offset))),
            _ => Err(de::Error::custom(format!("found the offset {number}; allowed: whole numbers from 0 on"))),
        },
        Some((key, Value::String(time))) if key == "time" => match time.parse::<jiff::Timestamp>() {
            Ok(time) if time.as_second() >= 0 => Ok(Some(Start::Time(time.as_second()))),
            _ => Err(de::Error::custom(format!("found the time {time:?}; expected one like 2026-11-21T10:00:00Z"))),
        },
        _ => Err(wrong()),
    }
}

/// An address to listen on, or "off".
pub(super) fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        de::Error::custom(format!(
            "found {text:?}; allowed: an IP address with a port such as \"127.0.0.1:9464\", or \"off\""
        ))
    })
}

/// A size as [`size`] reads it, in the largest unit that keeps it exact.
pub(super) fn size_text(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let exact = UNITS.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_take_both_families_of_units() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("1KiB", 1024), ("2kB", 2000), ("7", 7), ("1 GiB", 1 << 30), ("9B", 9)]
        {
            assert_eq!(size(json!(text)).unwrap(), bytes, "{text}");
        }
        assert_eq!(size(json!(12)).unwrap(), 12);
        assert!(size(json!("12 parsecs")).is_err());
        assert!(size(json!(-1)).is_err());
    }

    #[test]
    fn sizes_print_as_they_are_read() {
        for bytes in [0, 1, 1023, 1024, 1500, 64 << 20, 3 << 30] {
            assert_eq!(size(json!(size_text(bytes))).unwrap(), bytes);
        }
    }

    #[test]
    fn durations_need_a_unit_and_an_end() {
        assert_eq!(duration(json!("2m 30s")).unwrap(), Duration::from_secs(150));
        assert!(duration(json!("5")).is_err());
        assert!(duration(json!(5)).is_err());
        assert!(duration(json!("5000years")).is_err());
    }
}
