//! How each frame is written and read. Fields stand in the order of the declarations in [`super`].

use super::{Data, Deploy, Event, Failure, FromRunner, Invoke, Level, Limits, Module, Outcome, Template, ToRunner};
use crate::wire::{Reader, WireError, Write, frame};

mod kind {
    pub const HELLO: u8 = 1;
    pub const DEPLOY: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const INVOKE: u8 = 4;
    pub const ABORT: u8 = 5;
    pub const CLOSE: u8 = 6;
    pub const READY: u8 = 65;
    pub const OPENED: u8 = 66;
    pub const OUTCOME: u8 = 67;
    pub const LOG: u8 = 68;
    pub const CLOSED: u8 = 69;
    pub const STUCK: u8 = 70;
    pub const USAGE: u8 = 71;
}

impl<'a> ToRunner<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version, service } => frame(out, kind::HELLO, |out| {
                out.u32(*version);
                out.text(service);
            }),
            Self::Deploy(deploy) => frame(out, kind::DEPLOY, |out| deploy.write(out)),
            Self::Open { isolate, function } => frame(out, kind::OPEN, |out| {
                out.u32(*isolate);
                out.u32(*function);
            }),
            Self::Invoke(invoke) => frame(out, kind::INVOKE, |out| invoke.write(out)),
            Self::Abort { isolate, batch } => frame(out, kind::ABORT, |out| {
                out.u32(*isolate);
                out.u64(*batch);
            }),
            Self::Close { isolate } => frame(out, kind::CLOSE, |out| out.u32(*isolate)),
        }
    }

    /// Reads the body of a frame of this kind.
    pub fn decode(frame_kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let frame = match frame_kind {
            kind::HELLO => Self::Hello { version: reader.u32()?, service: reader.text()? },
            kind::DEPLOY => Self::Deploy(Deploy::read(&mut reader)?),
            kind::OPEN => Self::Open { isolate: reader.u32()?, function: reader.u32()? },
            kind::INVOKE => Self::Invoke(Invoke::read(&mut reader)?),
            kind::ABORT => Self::Abort { isolate: reader.u32()?, batch: reader.u64()? },
            kind::CLOSE => Self::Close { isolate: reader.u32()? },
            value => return Err(WireError::Unknown { what: "frame kind", value }),
        };
        reader.end()?;
        Ok(frame)
    }
}

impl Deploy {
    fn write(&self, out: &mut Vec<u8>) {
        out.u32(self.function);
        out.text(&self.name);
        out.u32(self.modules.len() as u32);
        for module in &self.modules {
            out.text(&module.specifier);
            out.text(&module.code);
            out.bytes(&module.source_map);
        }
        out.text(&self.handler);
        out.u32(self.env.len() as u32);
        for (name, value) in &self.env {
            out.text(name);
            out.text(value);
        }
        out.u64(self.limits.timeout_ms);
        out.u64(self.limits.grace_ms);
        out.u64(self.limits.start_ms);
        out.u64(self.limits.memory_bytes);
        out.u32(self.limits.concurrency);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            function: reader.u32()?,
            name: reader.text()?.to_owned(),
            modules: reader.list(|reader| {
                Ok(Module {
                    specifier: reader.text()?.to_owned(),
                    code: reader.text()?.to_owned(),
                    source_map: reader.bytes()?.to_owned(),
                })
            })?,
            handler: reader.text()?.to_owned(),
            env: reader.list(|reader| Ok((reader.text()?.to_owned(), reader.text()?.to_owned())))?,
            limits: Limits {
                timeout_ms: reader.u64()?,
                grace_ms: reader.u64()?,
                start_ms: reader.u64()?,
                memory_bytes: reader.u64()?,
                concurrency: reader.u32()?,
            },
        })
    }
}

impl<'a> Invoke<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        out.u32(self.isolate);
        out.u64(self.batch);
        out.u8(self.ordered as u8);
        out.u8(self.want_results as u8);
        out.text(self.trigger);
        out.u32(self.templates.len() as u32);
        for template in &self.templates {
            out.u32(template.keys.len() as u32);
            for key in &template.keys {
                out.text(key);
            }
            out.u32(template.data_key);
        }
        out.u32(self.events.len() as u32);
        for event in &self.events {
            event.write(out);
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            isolate: reader.u32()?,
            batch: reader.u64()?,
            ordered: reader.bool()?,
            want_results: reader.bool()?,
            trigger: reader.text()?,
            templates: reader
                .list(|reader| Ok(Template { keys: reader.list(Reader::text)?, data_key: reader.u32()? }))?,
            events: reader.list(Event::read)?,
        })
    }
}

impl<'a> Event<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        out.u32(self.template);
        out.text(self.id);
        out.u32(self.attempt);
        out.bytes(self.metadata);
        match self.data {
            Data::Null => out.u8(0),
            Data::Json(json) => {
                out.u8(1);
                out.bytes(json);
            }
            Data::Text(text) => {
                out.u8(2);
                out.text(text);
            }
            Data::Bytes(bytes) => {
                out.u8(3);
                out.bytes(bytes);
            }
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            template: reader.u32()?,
            id: reader.text()?,
            attempt: reader.u32()?,
            metadata: reader.bytes()?,
            data: match reader.u8()? {
                0 => Data::Null,
                1 => Data::Json(reader.bytes()?),
                2 => Data::Text(reader.text()?),
                3 => Data::Bytes(reader.bytes()?),
                value => return Err(WireError::Unknown { what: "kind of data", value }),
            },
        })
    }
}

impl<'a> FromRunner<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ready { version, pid } => frame(out, kind::READY, |out| {
                out.u32(*version);
                out.u32(*pid);
            }),
            Self::Opened { isolate, from_spare, micros } => frame(out, kind::OPENED, |out| {
                out.u32(*isolate);
                out.u8(*from_spare as u8);
                out.u64(*micros);
            }),
            Self::Outcome(outcome) => frame(out, kind::OUTCOME, |out| outcome.write(out)),
            Self::Log { isolate, batch, event, level, text } => frame(out, kind::LOG, |out| {
                out.u32(*isolate);
                out.u64(*batch);
                write_event(out, *event);
                out.u8(*level as u8);
                out.text(text);
            }),
            Self::Closed { isolate, error } => frame(out, kind::CLOSED, |out| {
                out.u32(*isolate);
                out.u8(error.is_some() as u8);
                if let Some(error) = error {
                    error.write(out);
                }
            }),
            Self::Stuck { isolate, batch, event, error } => frame(out, kind::STUCK, |out| {
                out.u32(*isolate);
                out.u64(*batch);
                write_event(out, *event);
                error.write(out);
            }),
            Self::Usage { resident_bytes, cpu_us, parsed_bytes, isolates, spares } => frame(out, kind::USAGE, |out| {
                out.u64(*resident_bytes);
                out.u64(*cpu_us);
                out.u64(*parsed_bytes);
                out.u32(*isolates);
                out.u32(*spares);
            }),
        }
    }

    /// Reads the body of a frame of this kind.
    pub fn decode(frame_kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let frame = match frame_kind {
            kind::READY => Self::Ready { version: reader.u32()?, pid: reader.u32()? },
            kind::OPENED => Self::Opened { isolate: reader.u32()?, from_spare: reader.bool()?, micros: reader.u64()? },
            kind::OUTCOME => Self::Outcome(Outcome::read(&mut reader)?),
            kind::LOG => Self::Log {
                isolate: reader.u32()?,
                batch: reader.u64()?,
                event: read_event(&mut reader)?,
                level: Level::read(&mut reader)?,
                text: reader.text()?,
            },
            kind::CLOSED => Self::Closed {
                isolate: reader.u32()?,
                error: if reader.bool()? { Some(Failure::read(&mut reader)?) } else { None },
            },
            kind::STUCK => Self::Stuck {
                isolate: reader.u32()?,
                batch: reader.u64()?,
                event: read_event(&mut reader)?,
                error: Failure::read(&mut reader)?,
            },
            kind::USAGE => Self::Usage {
                resident_bytes: reader.u64()?,
                cpu_us: reader.u64()?,
                parsed_bytes: reader.u64()?,
                isolates: reader.u32()?,
                spares: reader.u32()?,
            },
            value => return Err(WireError::Unknown { what: "frame kind", value }),
        };
        reader.end()?;
        Ok(frame)
    }
}

fn write_event(out: &mut Vec<u8>, event: Option<u32>) {
    out.u8(event.is_some() as u8);
    out.u32(event.unwrap_or_default());
}

fn read_event(reader: &mut Reader<'_>) -> Result<Option<u32>, WireError> {
    let known = reader.bool()?;
    let event = reader.u32()?;
    Ok(known.then_some(event))
}

impl<'a> Outcome<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        out.u32(self.isolate);
        out.u64(self.batch);
        out.u32(self.event);
        out.u64(self.wall_us);
        out.u64(self.cpu_us);
        out.u64(self.heap_bytes);
        match &self.result {
            Ok(json) => {
                out.u8(1);
                out.bytes(json);
            }
            Err(failure) => {
                out.u8(0);
                failure.write(out);
            }
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            isolate: reader.u32()?,
            batch: reader.u64()?,
            event: reader.u32()?,
            wall_us: reader.u64()?,
            cpu_us: reader.u64()?,
            heap_bytes: reader.u64()?,
            result: if reader.bool()? { Ok(reader.bytes()?) } else { Err(Failure::read(reader)?) },
        })
    }
}
