//! The frames themselves, as values. Each says what it means and what follows.

use crate::wire::{Reader, WireError, Write};

mod codec;

/// The version both sides must speak; a runner refuses a `Hello` with another.
pub const VERSION: u32 = 1;

/// What a worker says to a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToRunner<'a> {
    /// The first frame. The runner answers `Ready`.
    Hello { version: u32, service: &'a str },
    /// Code and limits of a function, before any isolate of it is opened. Sent again, it replaces what
    /// isolates opened from then on run.
    Deploy(Deploy),
    /// Load the function into a fresh isolate. Answered by `Opened` or `Closed`.
    Open { isolate: u32, function: u32 },
    /// Run a batch. Every event of it is answered by exactly one `Outcome`, unless the isolate's `Closed`
    /// or the runner's end comes first.
    Invoke(Invoke<'a>),
    /// Give a batch up: its `ctx.signal`s abort, its open events report `Interrupted`.
    Abort { isolate: u32, batch: u64 },
    /// Finish what is in hand, then drop the isolate. Answered by `Closed`.
    Close { isolate: u32 },
}

/// A function's code and limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deploy {
    pub function: u32,
    /// `service.function`, for stack traces and logs.
    pub name: String,
    /// JavaScript ES modules, types already stripped; the first is the main module.
    pub modules: Vec<Module>,
    /// Name of the export to call: `default` or a named one.
    pub handler: String,
    /// What `ctx.env` holds.
    pub env: Vec<(String, String)>,
    pub limits: Limits,
}

/// One ES module of a function.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Module {
    /// A `file:///function/...` URL; relative imports resolve against it.
    pub specifier: String,
    pub code: String,
    /// A source map (JSON), empty when the code is the source.
    pub source_map: Vec<u8>,
}

/// Limits of one function's isolates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time of one event.
    pub timeout_ms: u64,
    /// How long a termination may take to bite before the runner asks to be killed.
    pub grace_ms: u64,
    /// Wall-clock time for loading and evaluating the modules.
    pub start_ms: u64,
    /// Heap of the isolate.
    pub memory_bytes: u64,
    /// Events in flight in one isolate.
    pub concurrency: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout_ms: 30_000, grace_ms: 500, start_ms: 10_000, memory_bytes: 128 << 20, concurrency: 16 }
    }
}

/// A batch of events for one isolate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoke<'a> {
    pub isolate: u32,
    pub batch: u64,
    /// One after the other: the next starts when the one before succeeded; after a failure the rest
    /// reports `Skipped`. Otherwise up to the function's `concurrency` run at once.
    pub ordered: bool,
    /// Whether results are serialised and sent; nobody reads them otherwise.
    pub want_results: bool,
    /// `ctx.trigger`.
    pub trigger: &'a str,
    /// The key lists that events refer to, in the order the keys appear on the event object.
    pub templates: Vec<Template<'a>>,
    pub events: Vec<Event<'a>>,
}

/// The top-level keys of an event object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template<'a> {
    pub keys: Vec<&'a str>,
    /// Which of the keys holds the event's data; the others stand in its metadata.
    pub data_key: u32,
}

/// One event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Index into the batch's templates.
    pub template: u32,
    /// `ctx.requestId`.
    pub id: &'a str,
    /// How often the event has been tried before, plus one.
    pub attempt: u32,
    /// A JSON object with every key of the template but the data key; a missing one reads as undefined.
    pub metadata: &'a [u8],
    pub data: Data<'a>,
}

/// The data of an event and how it becomes a JavaScript value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'a> {
    /// JSON `null`: a tombstone.
    Null,
    /// JSON text, checked by the worker: parsed when first touched.
    Json(&'a [u8]),
    /// UTF-8 text: a string.
    Text(&'a str),
    /// Bytes: a base64 string.
    Bytes(&'a [u8]),
}

/// What a runner says to the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromRunner<'a> {
    /// Answer to `Hello`: V8 is up.
    Ready {
        version: u32,
        pid: u32,
    },
    /// The isolate has evaluated its function and takes batches.
    Opened {
        isolate: u32,
        from_spare: bool,
        micros: u64,
    },
    Outcome(Outcome<'a>),
    /// A line that a function logged; `event` is `None` outside of any event.
    Log {
        isolate: u32,
        batch: u64,
        event: Option<u32>,
        level: Level,
        text: &'a str,
    },
    /// The isolate is gone; with an error when that was not asked for. Events without an outcome are to
    /// be retried without blame, unless the error is `RunnerLost`: then the runner's own code has failed
    /// while it ran one of them.
    Closed {
        isolate: u32,
        error: Option<Failure>,
    },
    /// Termination does not bite: the runner asks to be killed, and names who is at fault, if known.
    Stuck {
        isolate: u32,
        batch: u64,
        event: Option<u32>,
        error: Failure,
    },
    /// Every half second: that the watchdog lives, and what the process has used so far.
    Usage {
        resident_bytes: u64,
        cpu_us: u64,
        /// Bytes of event data that functions touched, so that V8 parsed them.
        parsed_bytes: u64,
        isolates: u32,
        spares: u32,
    },
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'a> {
    pub isolate: u32,
    pub batch: u64,
    /// Index of the event in its batch.
    pub event: u32,
    /// Wall-clock time from the handler's start to its end.
    pub wall_us: u64,
    /// CPU time of the isolate's thread, shared out evenly over the events reported together.
    pub cpu_us: u64,
    /// Heap of the isolate in use, sampled when outcomes are sent.
    pub heap_bytes: u64,
    /// The result as JSON text (empty: undefined, or not wanted), or why there is none.
    pub result: Result<&'a [u8], Failure>,
}

/// Why an event, or a module, failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub class: FailureClass,
    /// `TypeError`, or the class's own name.
    pub name: String,
    pub message: String,
    /// Stack as V8 prints it, mapped to the source; may be empty.
    pub stack: String,
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $value:literal => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant = $value,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The name used in logs, metrics and headers.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                match reader.u8()? {
                    $($value => Ok($name::$variant),)*
                    value => Err(WireError::Unknown { what: $what, value }),
                }
            }
        }
    };
}

wire_enum! {
    /// What kind of failure it was. The first group is the function's own doing and counts as an attempt;
    /// the last group is not, and is retried without blame.
    FailureClass, "failure class" {
        /// The handler threw or rejected.
        Exception = 0 => "exception",
        /// The wall-clock limit passed.
        Timeout = 1 => "timeout",
        /// The heap limit was reached.
        Memory = 2 => "memory",
        /// The function tried to end the process.
        Exit = 3 => "exit",
        /// The result cannot be expressed as JSON.
        Result = 4 => "result",
        /// The module does not load: missing export, error while evaluating, a refused import.
        Load = 5 => "load",
        /// The runner died while it ran this event.
        RunnerLost = 6 => "runner_lost",
        /// A bystander: the isolate or the batch was given up while the event was in hand.
        Interrupted = 7 => "interrupted",
        /// An earlier event of the ordered batch failed; this one was not started.
        Skipped = 8 => "skipped",
    }
}

impl FailureClass {
    /// Whether the failure counts as one of the event's attempts.
    pub fn is_blamed(self) -> bool {
        !matches!(self, FailureClass::Interrupted | FailureClass::Skipped)
    }
}

wire_enum! {
    /// Level of a log line.
    Level, "log level" {
        Error = 0 => "error",
        Warn = 1 => "warn",
        Info = 2 => "info",
        Debug = 3 => "debug",
    }
}

impl Failure {
    pub fn new(class: FailureClass, name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, name: name.into(), message: message.into(), stack: String::new() }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.u8(self.class as u8);
        out.text(&self.name);
        out.text(&self.message);
        out.text(&self.stack);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            class: FailureClass::read(reader)?,
            name: reader.text()?.to_owned(),
            message: reader.text()?.to_owned(),
            stack: reader.text()?.to_owned(),
        })
    }
}
