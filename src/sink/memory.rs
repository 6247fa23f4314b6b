//! Results and dead letters as JSON lines, to a file or to standard output.

use std::fs::File;
use std::io::{self, LineWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Receipt, Receipts, Record};

/// Where lines go; shared by the sinks of a source.
#[derive(Clone)]
pub struct Output(Arc<Mutex<LineWriter<Box<dyn Write + Send>>>>);

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    /// Opens the file, emptying it; `None` is standard output.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let target: Box<dyn Write + Send> = match path {
            Some(path) => Box::new(File::create(path)?),
            None => Box::new(io::stdout()),
        };
        Ok(Self::to(target))
    }

    /// Lines go to `target`.
    pub fn to(target: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(LineWriter::new(target))))
    }
}

/// One topic of a memory source.
#[derive(Debug)]
pub struct MemorySink {
    name: String,
    topic: String,
    output: Output,
    /// What every record gets.
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl MemorySink {
    pub fn new(source: &str, topic: &str, output: Output) -> Self {
        Self { name: format!("{source}/{topic}"), topic: topic.to_owned(), output, headers: Vec::new() }
    }

    /// The sink, giving every record these headers after its own.
    pub fn with_headers(self, headers: Vec<(String, Option<Vec<u8>>)>) -> Self {
        Self { headers, ..self }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes the record as one line, in the form that a memory source with `format = "message"` reads.
    pub fn send(&self, mut record: Record, ticket: u64, receipts: &Receipts) {
        record.headers.extend_from_slice(&self.headers);
        // A panic while holding the lock leaves at worst half a line.
        let mut output = self.output.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = line(&self.topic, &record)
            .map_err(io::Error::from)
            .and_then(|line| writeln!(output, "{line}"))
            .map_err(|error| error.to_string());
        // A sender that is gone does not wait for receipts.
        let _ = receipts.send(Receipt { ticket, written });
    }
}

/// A line in the form that a memory source reads; JSON values keep their text.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(&'a str, Option<Content<'a>>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// Text, or bytes as `{"base64": "..."}`.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Bytes { base64: String },
}

impl<'a> Content<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Bytes { base64: BASE64.encode(bytes) },
        }
    }
}

fn line(topic: &str, record: &Record) -> serde_json::Result<String> {
    let headers = record.headers.iter();
    let mut line = Line {
        topic,
        key: record.key.as_deref().map(Content::of),
        headers: headers.map(|(name, value)| (name.as_str(), value.as_deref().map(Content::of))).collect(),
        value: None,
        text: None,
        base64: None,
    };
    if let Some(value) = record.value.as_deref() {
        match (serde_json::from_slice::<&RawValue>(value), std::str::from_utf8(value)) {
            // A line break in JSON text would end the line.
            (Ok(json), _) if !json.get().contains('\n') => line.value = Some(json),
            (_, Ok(text)) => line.text = Some(text),
            (_, Err(_)) => line.base64 = Some(BASE64.encode(value)),
        }
    }
    serde_json::to_string(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(value: Option<&[u8]>, expected: &str) {
        let record = Record {
            key: Some(b"k".to_vec()),
            value: value.map(<[u8]>::to_vec),
            headers: vec![("h".to_owned(), Some(vec![0xff]))],
            ..Record::default()
        };
        let head = r#"{"topic":"t","key":"k","headers":[["h",{"base64":"/w=="}]]"#;
        assert_eq!(line("t", &record).unwrap(), format!("{head}{expected}}}"));
    }

    #[test]
    fn every_record_gets_the_headers_of_the_sink() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let sink = MemorySink::new("s", "t", Output::open(Some(written.path())).unwrap());
        let sink = sink.with_headers(vec![("region".to_owned(), Some(b"eu".to_vec()))]);
        #[expect(clippy::disallowed_methods, reason = "one receipt")]
        let (receipts, mut received) = tokio::sync::mpsc::unbounded_channel();
        let record = Record { headers: vec![("own".to_owned(), None)], ..Record::default() };
        sink.send(record, 7, &receipts);
        assert_eq!(received.try_recv().unwrap(), Receipt { ticket: 7, written: Ok(()) });
        let line = std::fs::read_to_string(written.path()).unwrap();
        assert_eq!(line, "{\"topic\":\"t\",\"headers\":[[\"own\",null],[\"region\",\"eu\"]]}\n");
    }

    #[test]
    fn a_line_keeps_every_byte() {
        check_line(None, "");
        check_line(Some(b"{\"a\": 1.50}"), r#","value":{"a": 1.50}"#);
        check_line(Some(b"[1,\n2]"), r#","text":"[1,\n2]""#);
        check_line(Some(b"plain"), r#","text":"plain""#);
        check_line(Some(&[0xff, 0xfe]), r#","base64":"//4=""#);
    }
}
