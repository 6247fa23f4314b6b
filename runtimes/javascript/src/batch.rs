//! A batch of events, owned: one copy of the frame's body, and where in it each event stands.
//!
//! The thread that reads the socket makes it, so that an isolate's thread spends its time on the function alone. The
//! bytes live as long as any event object of the batch does (see `isolate::event`).

use std::ops::Range;

use lagless_protocol::frames::{Data, Invoke};

/// A batch that has left the socket's buffer.
pub struct Batch {
    pub id: u64,
    pub ordered: bool,
    pub want_results: bool,
    templates: Vec<Keys>,
    events: Vec<Entry>,
    trigger: Span,
    body: Box<[u8]>,
}

/// The top-level keys of an event object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Keys {
    pub names: Vec<String>,
    /// Index into `names` of the key that holds the data.
    pub data_key: usize,
}

type Span = Range<usize>;

struct Entry {
    template: usize,
    id: Span,
    attempt: u32,
    metadata: Span,
    data: Payload,
}

enum Payload {
    Null,
    Json(Span),
    Text(Span),
    Bytes(Span),
}

impl Batch {
    /// Copies the batch that was decoded from `body`. `None` when it refers to a template or a key that it does not
    /// have, which no worker of this version sends.
    pub fn copy(invoke: &Invoke<'_>, body: &[u8]) -> Option<Self> {
        let base = body.as_ptr() as usize;
        let span = |part: &[u8]| {
            let start = (part.as_ptr() as usize).wrapping_sub(base);
            // An empty slice may point anywhere.
            if part.is_empty() { 0..0 } else { start..start + part.len() }
        };
        let mut templates = Vec::with_capacity(invoke.templates.len());
        for template in &invoke.templates {
            let names: Vec<String> = template.keys.iter().map(|key| (*key).to_owned()).collect();
            let data_key = usize::try_from(template.data_key).ok().filter(|key| *key < names.len())?;
            templates.push(Keys { names, data_key });
        }
        let mut events = Vec::with_capacity(invoke.events.len());
        for event in &invoke.events {
            let template = usize::try_from(event.template).ok().filter(|template| *template < templates.len())?;
            let data = match event.data {
                Data::Null => Payload::Null,
                Data::Json(json) => Payload::Json(span(json)),
                Data::Text(text) => Payload::Text(span(text.as_bytes())),
                Data::Bytes(bytes) => Payload::Bytes(span(bytes)),
            };
            let (id, metadata) = (span(event.id.as_bytes()), span(event.metadata));
            events.push(Entry { template, id, attempt: event.attempt, metadata, data });
        }
        Some(Self {
            id: invoke.batch,
            ordered: invoke.ordered,
            want_results: invoke.want_results,
            templates,
            events,
            trigger: span(invoke.trigger.as_bytes()),
            body: body.into(),
        })
    }

    /// How many events it has.
    pub fn len(&self) -> u32 {
        self.events.len() as u32
    }

    /// UTF-8.
    pub fn trigger(&self) -> &[u8] {
        &self.body[self.trigger.clone()]
    }

    pub fn all_keys(&self) -> &[Keys] {
        &self.templates
    }

    /// Index into `all_keys`.
    pub fn template(&self, event: u32) -> usize {
        self.events[event as usize].template
    }

    /// UTF-8.
    pub fn request_id(&self, event: u32) -> &[u8] {
        &self.body[self.events[event as usize].id.clone()]
    }

    pub fn attempt(&self, event: u32) -> u32 {
        self.events[event as usize].attempt
    }

    /// The text of a JSON object.
    pub fn metadata(&self, event: u32) -> &[u8] {
        &self.body[self.events[event as usize].metadata.clone()]
    }

    pub fn data(&self, event: u32) -> Payloads<'_> {
        match &self.events[event as usize].data {
            Payload::Null => Payloads::Null,
            Payload::Json(span) => Payloads::Json(&self.body[span.clone()]),
            Payload::Text(span) => Payloads::Text(&self.body[span.clone()]),
            Payload::Bytes(span) => Payloads::Bytes(&self.body[span.clone()]),
        }
    }
}

/// An event's data, borrowed from its batch.
pub enum Payloads<'a> {
    Null,
    Json(&'a [u8]),
    /// UTF-8.
    Text(&'a [u8]),
    Bytes(&'a [u8]),
}

impl Payloads<'_> {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Payloads::Null => 0,
            Payloads::Json(bytes) | Payloads::Text(bytes) | Payloads::Bytes(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lagless_protocol::frames::{Event, Template, ToRunner};
    use lagless_protocol::wire::split_frame;

    use super::*;

    fn copy(template: u32, data_key: u32) -> Option<Batch> {
        let event = Event { template, id: "a/0/1", attempt: 2, metadata: b"{}", data: Data::Json(b"[1]") };
        let invoke = ToRunner::Invoke(Invoke {
            isolate: 1,
            batch: 7,
            ordered: false,
            want_results: true,
            trigger: "placed",
            templates: vec![Template { keys: vec!["id", "data"], data_key }],
            events: vec![event, Event { data: Data::Text(""), ..event }],
        });
        let mut bytes = Vec::new();
        invoke.encode(&mut bytes);
        let (kind, body, _) = split_frame(&bytes).unwrap().unwrap();
        match ToRunner::decode(kind, body).unwrap() {
            ToRunner::Invoke(invoke) => Batch::copy(&invoke, body),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_copy_reads_the_same() {
        let batch = copy(0, 1).unwrap();
        assert_eq!((batch.id, batch.len(), batch.attempt(0)), (7, 2, 2));
        assert_eq!(
            (batch.trigger(), batch.request_id(1), batch.metadata(0)),
            (&b"placed"[..], &b"a/0/1"[..], &b"{}"[..])
        );
        assert!(matches!(batch.data(0), Payloads::Json(b"[1]")));
        assert!(matches!(batch.data(1), Payloads::Text(b"")));
        assert_eq!(batch.all_keys()[batch.template(0)].names, ["id", "data"]);
    }

    #[test]
    fn what_refers_to_nothing_is_refused() {
        assert!(copy(1, 1).is_none());
        assert!(copy(0, 2).is_none());
    }
}
