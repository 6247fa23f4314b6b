//! Strings in JSON text.

use std::borrow::Cow;

/// A string between its quotes, checked, with its escapes as they stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawString<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) is_escaped: bool,
}

impl<'b> RawString<'b> {
    /// Reads the string whose first byte is at `start`, behind its quote; returns the place behind its end, or `None`
    /// when it is not a valid string.
    pub(super) fn read(text: &'b [u8], start: usize) -> Option<(Self, usize)> {
        let mut at = start;
        let mut is_escaped = false;
        loop {
            at = skip_plain(text, at);
            match *text.get(at)? {
                b'"' => return Some((Self { bytes: &text[start..at], is_escaped }, at + 1)),
                b'\\' => {
                    is_escaped = true;
                    at = match *text.get(at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at + 2,
                        b'u' => {
                            hex(text.get(at + 2..at + 6)?)?;
                            at + 6
                        }
                        _ => return None,
                    }
                }
                0..=0x1f => return None,
                _ => at += 1,
            }
        }
    }

    /// The string itself: UTF-8, but for lone surrogates, which become three bytes each.
    pub(super) fn unescaped(self) -> Cow<'b, [u8]> {
        if self.is_escaped { Cow::Owned(unescape(self.bytes)) } else { Cow::Borrowed(self.bytes) }
    }
}

/// The first place from `at` on, in steps of eight bytes, behind which a quote, a backslash or a control may stand.
fn skip_plain(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // The lowest high bit that is set marks a byte that is zero; those above it may be borrowed.
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    while let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quote = has_zero(word ^ (ONES * u64::from(b'"')));
        let backslash = has_zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = quote | backslash | control;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
}

/// Resolves the escapes of a checked string.
fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let plain = match rest.get(at + 1) {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let (code, length) = unescape_code(&rest[at..]);
                push_code(&mut out, code);
                rest = &rest[at + length..];
                continue;
            }
            Some(&other) => other,
            None => break,
        };
        out.push(plain);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    out
}

/// The code point of a `\uXXXX`, or of two that are a pair, and the length in bytes of what was read.
fn unescape_code(text: &[u8]) -> (u32, usize) {
    let unit = |at: usize| text.get(at + 2..at + 6).filter(|_| text[at..].starts_with(b"\\u")).and_then(hex);
    let first = unit(0).unwrap_or_default();
    match (first, unit(6)) {
        (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
            (0x10000 + ((first - 0xd800) << 10 | (second - 0xdc00)), 12)
        }
        _ => (first, 6),
    }
}

fn push_code(out: &mut Vec<u8>, code: u32) {
    match char::from_u32(code) {
        Some(character) => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        None => {
            let low = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
            out.extend_from_slice(&[0xe0 | (code >> 12) as u8, low(6), low(0)]);
        }
    }
}
