//! Writing JSON text. Nothing here can fail: the output is memory.

use std::fmt::Display;
use std::io::Write as _;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
/// 0000-01-01T00:00:00Z: years before it cannot be said in RFC 3339.
const EARLIEST_MS: i64 = -62_167_219_200_000;

/// A string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    part_of_string(out, text);
    out.push(b'"');
}

/// `text` as it stands between the quotes of a string.
pub(super) fn part_of_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => display(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// A string that holds `bytes` in base64.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    display(out, format_args!("\"{}\"", Base64Display::new(bytes, &STANDARD)));
}

/// A string when the bytes are UTF-8, `{"base64": ".."}` when not, null when there are none.
pub(super) fn text_or_base64(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => out.extend_from_slice(b"null"),
        Some((_, Ok(text))) => string(out, text),
        Some((bytes, Err(_))) => {
            out.extend_from_slice(b"{\"base64\":");
            base64(out, bytes);
            out.push(b'}');
        }
    }
}

/// A value that serialises to JSON.
pub(super) fn value(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory cannot fail, and the keys of all our values are strings.
    let _ = serde_json::to_writer(out, value);
}

/// What displays as JSON already: numbers.
pub(super) fn display(out: &mut Vec<u8>, value: impl Display) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{value}");
}

/// The moment, if RFC 3339 can say it.
pub(super) fn moment(milliseconds: Option<i64>) -> Option<Timestamp> {
    milliseconds.filter(|&at| at >= EARLIEST_MS).and_then(|at| Timestamp::from_millisecond(at).ok())
}

/// A string such as `2026-01-31T23:59:59.000Z`.
pub(super) fn time(out: &mut Vec<u8>, moment: &Timestamp) {
    out.push(b'"');
    // Writing to memory cannot fail.
    let _ = PRINTER.print_timestamp(moment, &mut *out);
    out.push(b'"');
}
