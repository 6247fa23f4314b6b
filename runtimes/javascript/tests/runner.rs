//! A real runner process, driven over its socket as a worker drives it.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lagless_protocol::frames::{
    Data, Deploy, Event, Failure, FailureClass, FromRunner, Invoke, Level, Limits, Module, Template, ToRunner, VERSION,
};
use lagless_protocol::wire::split_frame;

/// How long a test waits for a frame that must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keys of an event object, in order.
const KEYS: [&str; 12] = [
    "id",
    "source",
    "trigger",
    "time",
    "topic",
    "partition",
    "offset",
    "key",
    "headers",
    "content_type",
    "attempt",
    "data",
];

/// A frame of the runner's, owned.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Ready,
    Opened { from_spare: bool },
    Outcome { batch: u64, event: u32, result: Result<String, Failure> },
    Log { event: Option<u32>, level: Level, text: String },
    Closed { isolate: u32, error: Option<Failure> },
    Stuck { event: Option<u32>, error: Failure },
    Usage { resident_bytes: u64, parsed_bytes: u64 },
}

struct Runner {
    child: Child,
    socket: UnixStream,
    buffer: Vec<u8>,
    said: Vec<Said>,
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Most tests end with the runner alive; that it is gone already is fine too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Runner {
    fn start() -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_lagless-javascript-runner"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .env_clear()
            .spawn()
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut runner = Self { child, socket, buffer: Vec::new(), said: Vec::new() };
        runner.send(&ToRunner::Hello { version: VERSION, service: "shop" });
        assert_eq!(runner.next(), Said::Ready);
        runner
    }

    /// A runner with isolate 1 of this code open.
    fn with(code: &str) -> Self {
        Self::with_limits(code, Limits::default())
    }

    fn with_limits(code: &str, limits: Limits) -> Self {
        let mut runner = Self::start();
        runner.deploy(code, limits);
        runner.open(1);
        assert!(matches!(runner.next(), Said::Opened { .. }), "{:?}", runner.said);
        runner
    }

    fn send(&mut self, frame: &ToRunner<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.socket.write_all(&bytes).unwrap();
    }

    fn deploy(&mut self, code: &str, limits: Limits) {
        let module =
            Module { specifier: "file:///function/test.ts".to_owned(), code: code.to_owned(), source_map: vec![] };
        self.deploy_modules(vec![module], limits);
    }

    fn deploy_modules(&mut self, modules: Vec<Module>, limits: Limits) {
        self.send(&ToRunner::Deploy(Deploy {
            function: 1,
            name: "shop.test".to_owned(),
            modules,
            handler: "default".to_owned(),
            env: vec![("REGION".to_owned(), "eu".to_owned())],
            limits,
        }));
    }

    fn open(&mut self, isolate: u32) {
        self.send(&ToRunner::Open { isolate, function: 1 });
    }

    fn invoke(&mut self, batch: u64, ordered: bool, data: &[Data<'_>]) {
        self.invoke_at((1, batch), ordered, data);
    }

    fn invoke_at(&mut self, (isolate, batch): (u32, u64), ordered: bool, data: &[Data<'_>]) {
        let events = data
            .iter()
            .map(|data| Event {
                template: 0,
                id: "orders/0/7",
                attempt: 2,
                metadata: br#"{"id":"orders/0/7","key":null}"#,
                data: *data,
            })
            .collect();
        self.send(&ToRunner::Invoke(Invoke {
            isolate,
            batch,
            ordered,
            want_results: true,
            trigger: "placed",
            templates: vec![Template { keys: KEYS.to_vec(), data_key: 11 }],
            events,
        }));
    }

    /// The next frame but `Usage`, which is kept in `said` only.
    fn next(&mut self) -> Said {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = self.next_of_any_kind().expect("the runner is alive");
            if !matches!(said, Said::Usage { .. }) {
                return said;
            }
            // Usage comes for ever, so the socket's own timeout never strikes.
            assert!(Instant::now() < until, "nothing comes any more; so far {:?}", self.said);
        }
    }

    fn next_of_any_kind(&mut self) -> Option<Said> {
        loop {
            if let Some((kind, body, length)) = split_frame(&self.buffer).unwrap() {
                let said = Said::of(FromRunner::decode(kind, body).unwrap());
                self.buffer.drain(..length);
                self.said.push(said.clone());
                return Some(said);
            }
            let mut chunk = vec![0; 65536];
            let count = self.socket.read(&mut chunk).unwrap_or_else(|error| panic!("{error}; so far {:?}", self.said));
            if count == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    fn result(&mut self) -> (u32, Result<String, Failure>) {
        match self.next() {
            Said::Outcome { event, result, .. } => (event, result),
            other => panic!("no outcome but {other:?}"),
        }
    }

    fn ok(&mut self) -> String {
        let (_, result) = self.result();
        result.unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    fn failure(&mut self, class: FailureClass) -> Failure {
        let (_, result) = self.result();
        let failure = result.expect_err("a failure");
        assert_eq!(failure.class, class, "{failure:?}");
        failure
    }

    fn closed(&mut self) -> Option<Failure> {
        match self.next() {
            Said::Closed { error, .. } => error,
            other => panic!("not closed but {other:?}"),
        }
    }

    fn log(&mut self) -> (Option<u32>, Level, String) {
        match self.next() {
            Said::Log { event, level, text } => (event, level, text),
            other => panic!("no log line but {other:?}"),
        }
    }
}

impl Said {
    fn of(frame: FromRunner<'_>) -> Self {
        match frame {
            FromRunner::Ready { .. } => Said::Ready,
            FromRunner::Opened { from_spare, .. } => Said::Opened { from_spare },
            FromRunner::Outcome(outcome) => Said::Outcome {
                batch: outcome.batch,
                event: outcome.event,
                result: outcome.result.map(|json| String::from_utf8(json.to_vec()).unwrap()),
            },
            FromRunner::Log { event, level, text, .. } => Said::Log { event, level, text: text.to_owned() },
            FromRunner::Closed { isolate, error } => Said::Closed { isolate, error },
            FromRunner::Stuck { event, error, .. } => Said::Stuck { event, error },
            FromRunner::Usage { resident_bytes, parsed_bytes, .. } => Said::Usage { resident_bytes, parsed_bytes },
        }
    }
}

fn json(text: &str) -> Data<'_> {
    Data::Json(text.as_bytes())
}

/// The handler's result for one event.
#[track_caller]
fn check_result(code: &str, data: Data<'_>, expected: &str) {
    let mut runner = Runner::with(code);
    runner.invoke(1, false, &[data]);
    assert_eq!(runner.ok(), expected);
}

/// Closing without a `Opened` first.
#[track_caller]
fn check_load_failure(code: &str, limits: Limits, parts: &[&str]) {
    let mut runner = Runner::start();
    runner.deploy(code, limits);
    runner.open(1);
    let failure = runner.closed().expect("an error");
    assert_eq!(failure.class, FailureClass::Load, "{failure:?}");
    let text = format!("{}: {}\n{}", failure.name, failure.message, failure.stack);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

fn timeout(milliseconds: u64) -> Limits {
    Limits { timeout_ms: milliseconds, grace_ms: 200, ..Limits::default() }
}

#[test]
fn a_handler_answers_at_once_or_later() {
    check_result("export default e => ({ n: e.data.n + 1 })", json(r#"{"n":1}"#), r#"{"n":2}"#);
    check_result("export default async e => e.data.n + 1", json(r#"{"n":1}"#), "2");
    check_result(
        "export default async e => { await new Promise(r => setTimeout(r, 5)); return [e.data]; }",
        json("1"),
        "[1]",
    );
    check_result("export default () => ({ then(done) { done('thenable') } })", json("1"), r#""thenable""#);
    check_result("export default () => {}", json("1"), "");
}

#[test]
fn a_result_that_is_no_json_is_a_failure_of_its_own_class() {
    let mut runner = Runner::with(
        "export default e => { if (e.data === 1) { const o = {}; o.o = o; return o } return e.data === 2 ? 10n : () => 1 }",
    );
    runner.invoke(1, true, &[json("1")]);
    assert!(runner.failure(FailureClass::Result).message.contains("circular"));
    runner.invoke(2, true, &[json("2")]);
    assert!(runner.failure(FailureClass::Result).message.contains("BigInt"));
    runner.invoke(3, true, &[json("3")]);
    assert_eq!(runner.ok(), "");
}

#[test]
fn an_ordered_batch_goes_one_by_one_and_stops_at_the_first_failure() {
    let mut runner = Runner::with(
        "let running = 0; export default async e => {
           running += 1; await new Promise(r => setTimeout(r, 1));
           const seen = running; running -= 1;
           if (e.data === 2) throw new RangeError('two'); return [e.data, seen] }",
    );
    runner.invoke(1, true, &[json("0"), json("1"), json("2"), json("3"), json("4")]);
    assert_eq!(runner.result(), (0, Ok("[0,1]".to_owned())));
    assert_eq!(runner.result(), (1, Ok("[1,1]".to_owned())));
    let failure = runner.failure(FailureClass::Exception);
    assert_eq!((failure.name.as_str(), failure.message.as_str()), ("RangeError", "two"));
    runner.failure(FailureClass::Skipped);
    runner.failure(FailureClass::Skipped);
    runner.invoke(2, true, &[json("5")]);
    assert_eq!(runner.ok(), "[5,1]");
}

#[test]
fn an_unordered_batch_overlaps_up_to_the_concurrency() {
    let mut runner = Runner::with_limits(
        "let running = 0; let most = 0; export default async () => {
           running += 1; most = Math.max(most, running); await new Promise(r => setTimeout(r, 5));
           running -= 1; return most }",
        Limits { concurrency: 3, ..Limits::default() },
    );
    runner.invoke(1, false, &[json("0"); 9]);
    let most = (0..9).map(|_| runner.ok()).max();
    assert_eq!(most.as_deref(), Some("3"));
}

#[test]
fn ordered_batches_interleave() {
    let mut runner = Runner::with(
        "const waiting = []; export default e => new Promise(r => {
           waiting.push(r); if (waiting.length === 2) waiting.splice(0).forEach(r => r('met')) })",
    );
    runner.invoke(1, true, &[json("0"), json("1")]);
    runner.invoke(2, true, &[json("2"), json("3")]);
    for _ in 0..4 {
        assert_eq!(runner.ok(), r#""met""#);
    }
}

#[test]
fn a_failing_event_of_an_unordered_batch_leaves_the_others_alone() {
    let mut runner = Runner::with("export default e => { if (e.data) throw new Error('no'); return 1 }");
    runner.invoke(1, false, &[json("0"), json("1"), json("0")]);
    assert!(runner.result().1.is_ok());
    runner.failure(FailureClass::Exception);
    assert!(runner.result().1.is_ok());
}

#[test]
fn stacks_point_into_the_typescript() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("total.ts");
    std::fs::write(
        &main,
        "import { fail } from './fail.ts';\ninterface A { a: number }\n\nexport default async (e: A) => fail(e);\n",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("fail.ts"),
        "interface B {\n  b: number;\n}\n\nexport function fail(e: unknown): never {\n  throw new TypeError('broken');\n}\n",
    )
    .unwrap();
    let package = lagless_javascript::package::load(&main).unwrap();
    let mut runner = Runner::start();
    runner.deploy_modules(package.modules, Limits::default());
    runner.open(1);
    assert!(matches!(runner.next(), Said::Opened { .. }));
    runner.invoke(1, true, &[json("0")]);
    let failure = runner.failure(FailureClass::Exception);
    assert_eq!(failure.name, "TypeError");
    assert!(failure.stack.contains("file:///function/fail.ts:6:9"), "{}", failure.stack);
    assert!(failure.stack.contains("file:///function/total.ts:4:"), "{}", failure.stack);
    assert!(!failure.stack.contains("ext:"), "{}", failure.stack);
}

#[test]
fn whatever_is_thrown_becomes_a_failure() {
    let mut runner = Runner::with(
        "const hostile = new Error('x'); Object.defineProperty(hostile, 'message', { get() { throw 1 } });
         Object.defineProperty(hostile, 'stack', { get() { throw 1 } });
         const thrown = [42, 'text', null, { a: 1 }, hostile, new Proxy({}, { get() { throw 2 } })];
         export default e => { throw thrown[e.data] }",
    );
    let messages: Vec<String> = (0..6)
        .map(|index| {
            runner.invoke(index, false, &[json(&index.to_string())]);
            runner.failure(FailureClass::Exception).message
        })
        .collect();
    assert_eq!(messages[..4], ["42", "text", "null", "{ a: 1 }"]);
}

#[test]
fn an_event_that_waits_too_long_fails_alone() {
    let mut runner = Runner::with_limits(
        "export default (e, ctx) => e.data ? new Promise(() => {}) : new Promise(r => setTimeout(() => r('fine'), 150))",
        timeout(300),
    );
    runner.invoke(1, false, &[json("1")]);
    runner.invoke(2, true, &[json("1"), json("0")]);
    runner.invoke(3, false, &[json("0")]);
    assert_eq!(runner.ok(), r#""fine""#);
    let failure = runner.failure(FailureClass::Timeout);
    assert_eq!(failure.message, "timed out after 300 ms (limit timeout = 300ms)");
    runner.failure(FailureClass::Timeout);
    runner.failure(FailureClass::Skipped);
    runner.invoke(4, false, &[json("0")]);
    assert_eq!(runner.ok(), r#""fine""#);
}

#[test]
fn an_endless_loop_ends_its_isolate_and_blames_the_event() {
    let mut runner = Runner::with_limits(
        "export default async e => { if (e.data === 1) { while (true) {} } await new Promise(r => setTimeout(r, 9000)) }",
        timeout(200),
    );
    runner.open(2);
    assert!(matches!(runner.next(), Said::Opened { .. }));
    runner.invoke(1, false, &[json("0")]);
    runner.invoke(2, false, &[json("1")]);
    let mut classes = Vec::new();
    for _ in 0..2 {
        let Said::Outcome { batch, result: Err(failure), .. } = runner.next() else { panic!("{:?}", runner.said) };
        classes.push((batch, failure.class));
    }
    classes.sort_by_key(|(batch, _)| *batch);
    assert!(matches!(classes[0].1, FailureClass::Interrupted | FailureClass::Timeout));
    assert_eq!(classes[1], (2, FailureClass::Timeout));
    assert_eq!(runner.closed().expect("an error").class, FailureClass::Timeout);
    runner.invoke_at((2, 3), false, &[json("0")]);
    runner.failure(FailureClass::Timeout);
}

#[test]
fn an_endless_loop_after_an_await_is_found_too() {
    let mut runner = Runner::with_limits("export default async () => { await 1; while (true) {} }", timeout(200));
    runner.invoke(1, true, &[json("0"), json("0")]);
    runner.failure(FailureClass::Timeout);
    runner.failure(FailureClass::Skipped);
    assert_eq!(runner.closed().expect("an error").class, FailureClass::Timeout);
}

#[test]
fn a_loop_that_outlives_its_event_ends_the_isolate() {
    let mut runner = Runner::with_limits(
        "export default () => { setTimeout(() => { while (true) {} }, 5); return 1 }",
        timeout(200),
    );
    runner.invoke(1, true, &[json("0")]);
    assert_eq!(runner.ok(), "1");
    assert_eq!(runner.closed().expect("an error").class, FailureClass::Timeout);
}

#[test]
fn a_builtin_that_cannot_be_stopped_is_reported() {
    let limits = Limits { memory_bytes: 16 << 30, ..timeout(100) };
    let mut runner = Runner::with_limits("export default () => { new Array(2 ** 32 - 1).reverse() }", limits);
    runner.invoke(7, true, &[json("0")]);
    match runner.next() {
        Said::Stuck { event: Some(0), error } => {
            assert_eq!(error.class, FailureClass::Timeout);
            assert!(error.message.contains("could not be stopped within 200 ms"), "{}", error.message);
        }
        // On another V8 it may be stoppable.
        Said::Outcome { batch: 7, result: Err(failure), .. } => assert_eq!(failure.class, FailureClass::Timeout),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_heap_ends_the_isolate_not_the_process() {
    let code = "const kept = []; export default () => { while (true) kept.push(new Array(1000).fill(kept.length)) }";
    let mut runner = Runner::with_limits(code, Limits { memory_bytes: 48 << 20, grace_ms: 8000, ..Limits::default() });
    runner.open(2);
    assert!(matches!(runner.next(), Said::Opened { .. }));
    runner.invoke(1, true, &[json("0")]);
    let failure = runner.failure(FailureClass::Memory);
    assert!(failure.message.contains("limit memory = 48MiB"), "{}", failure.message);
    assert_eq!(runner.closed().expect("an error").class, FailureClass::Memory);
    runner.send(&ToRunner::Close { isolate: 2 });
    assert_eq!(runner.closed(), None);
}

#[test]
fn what_would_end_the_process_fails_the_event() {
    let mut runner = Runner::with(
        "import process from 'node:process'; import { Worker } from 'node:worker_threads';
         const tricks = [() => process.exit(7), () => process.abort(), () => process.kill(process.pid),
           () => process.reallyExit(1), () => close(), () => { setTimeout(() => process.exit(3), 1); return new Promise(() => {}) }];
         export default e => e.data < 6 ? tricks[e.data]() : e.data === 6 ? new Worker('1', { eval: true }) : 'alive'",
    );
    let messages: Vec<String> = (0..6)
        .map(|index| {
            runner.invoke(index, false, &[json(&index.to_string())]);
            if index == 5 {
                runner.log();
            }
            runner.failure(FailureClass::Exit).message
        })
        .collect();
    assert_eq!(messages[0], "the function called process.exit(7)");
    assert_eq!(messages[1], "the function called process.abort()");
    assert_eq!(messages[5], "the function called process.exit(3)");
    runner.invoke(6, false, &[json("6")]);
    let failure = runner.failure(FailureClass::Exception);
    assert!(failure.message.contains("workers are not supported"), "{failure:?}");
    runner.invoke(7, false, &[json("7")]);
    assert_eq!(runner.ok(), r#""alive""#);
}

#[test]
fn deno_is_hidden_but_node_works() {
    check_result(
        "import os from 'node:os'; import { createHash } from 'node:crypto';
         export default () => [typeof Deno, typeof globalThis.Deno?.exit, typeof Worker, typeof os.EOL,
           createHash('sha256').update('a').digest('hex').slice(0, 8), typeof process.pid, typeof process.memoryUsage]",
        json("0"),
        r#"["undefined","undefined","undefined","string","ca978112","number","function"]"#,
    );
}

#[test]
fn an_event_object_behaves_like_a_plain_one() {
    let code = "let kept; export default e => {
        const keys = Object.keys(e).join(); const text = JSON.stringify(e);
        const first = e.data; e.data.extra = 1; e.key = 'mine'; kept = e;
        const plain = Object.getPrototypeOf(e) === Object.prototype;
        const same = first === e.data; e.id = 5;
        const spread = { ...e }; const d = Object.getOwnPropertyDescriptor(e, 'data');
        delete e.headers;
        return [keys, text, same, plain, e.key, e.id, spread.data.extra, 'value' in d && d.enumerable, Object.keys(e).length] }";
    check_result(
        code,
        json(r#"{"n":1}"#),
        r#"["id,source,trigger,time,topic,partition,offset,key,headers,content_type,attempt,data","{\"id\":\"orders/0/7\",\"key\":null,\"data\":{\"n\":1}}",true,true,"mine",5,1,true,11]"#,
    );
    check_result("export default e => structuredClone(e)", json("1"), r#"{"id":"orders/0/7","key":null,"data":1}"#);
    check_result("export default e => { e.data = 5; return [e.data, e.id] }", json("{"), r#"[5,"orders/0/7"]"#);
    check_result(
        "export default e => { try { e.data } catch (error) { return error.name } }",
        json("{"),
        r#""SyntaxError""#,
    );
    check_result("export default e => [e.data]", Data::Text("grüß 日本"), r#"["grüß 日本"]"#);
    check_result("export default e => [e.data]", Data::Bytes(&[0, 255, 1]), r#"["AP8B"]"#);
    check_result("export default e => [e.data, 'data' in e]", Data::Null, "[null,true]");
}

#[test]
fn an_event_that_is_kept_can_be_read_after_its_batch() {
    let mut runner = Runner::with(
        "const kept = []; export default e => { kept.push(e);
           if (kept.length < 400) { const garbage = []; for (let i = 0; i < 2000; i++) garbage.push({ i }); return 0 }
           return kept.map(e => e.data).reduce((a, b) => a + b, 0) }",
    );
    for batch in 0..40 {
        runner.invoke(batch, true, &[json("1"); 10]);
    }
    let last = (0..400).map(|_| runner.ok()).last();
    assert_eq!(last.as_deref(), Some("400"));
}

#[test]
fn the_context_tells_what_it_knows() {
    check_result(
        "export default (e, ctx) => { const left = ctx.remainingTime();
           return [ctx.requestId, ctx.function, ctx.trigger, ctx.attempt, ctx.env.REGION, Object.isFrozen(ctx.env),
             Math.abs(ctx.deadline - Date.now() - left) < 50, left > 29000, ctx.signal.aborted] }",
        json("0"),
        r#"["orders/0/7","shop.test","placed",2,"eu",true,true,true,false]"#,
    );
}

#[test]
fn log_lines_carry_level_event_and_text() {
    let mut runner = Runner::start();
    runner.deploy(
        "console.log('loading'); export default async (e, ctx) => { console.warn('n is', e.data); ctx.log.info('order', { n: 1 });
           await 1; ctx.log.error('late'); console.debug('who?') }",
        Limits::default(),
    );
    runner.open(1);
    assert_eq!(runner.log(), (None, Level::Info, "loading".to_owned()));
    assert!(matches!(runner.next(), Said::Opened { .. }));
    runner.invoke(1, false, &[json("0"), json("{}")]);
    let mut lines: Vec<_> = (0..8).map(|_| runner.log()).collect();
    lines.sort_by(|a, b| a.2.cmp(&b.2));
    let text = |line: &(Option<u32>, Level, String)| (line.0, line.1, line.2.clone());
    assert_eq!(text(&lines[0]), (Some(0), Level::Error, "late".to_owned()));
    assert_eq!(text(&lines[1]), (Some(1), Level::Error, "late".to_owned()));
    assert_eq!(text(&lines[2]), (Some(0), Level::Warn, "n is 0".to_owned()));
    assert_eq!(text(&lines[3]), (Some(1), Level::Warn, "n is {}".to_owned()));
    assert_eq!(text(&lines[4]), (Some(0), Level::Info, "order {\"n\":1}".to_owned()));
    assert_eq!(text(&lines[6]), (None, Level::Debug, "who?".to_owned()));
}

#[test]
fn the_signal_aborts_at_the_deadline_and_with_the_batch() {
    let code = "export default (e, ctx) => new Promise(() => {
        ctx.signal.addEventListener('abort', () => console.log(ctx.signal.reason.name)); console.log('started') })";
    let mut runner = Runner::with_limits(code, timeout(150));
    runner.invoke(1, false, &[json("0")]);
    assert_eq!(runner.log().2, "started");
    let mut classes = Vec::new();
    let mut names = Vec::new();
    for _ in 0..2 {
        match runner.next() {
            Said::Outcome { result: Err(failure), .. } => classes.push(failure.class),
            Said::Log { text, .. } => names.push(text),
            other => panic!("{other:?}"),
        }
    }
    let mut runner = Runner::with(code);
    runner.invoke(2, true, &[json("0"), json("0")]);
    assert_eq!(runner.log().2, "started");
    runner.send(&ToRunner::Abort { isolate: 1, batch: 2 });
    for _ in 0..3 {
        match runner.next() {
            Said::Outcome { result: Err(failure), .. } => classes.push(failure.class),
            Said::Log { text, .. } => names.push(text),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(classes, [FailureClass::Timeout, FailureClass::Interrupted, FailureClass::Interrupted]);
    assert_eq!(names, ["TimeoutError", "AbortError"]);
}

#[test]
fn an_error_that_nobody_catches_is_logged_and_the_isolate_goes_on() {
    let mut runner = Runner::with(
        "export default e => { if (e.data === 0) { Promise.reject(new Error('lost')); return new Promise(r => setTimeout(r, 50)) }
           if (e.data === 1) { queueMicrotask(() => { throw new Error('micro') }); return new Promise(r => setTimeout(r, 50)) }
           if (e.data === 2) { reportError(new Error('reported')); return 'unreachable?' }
           return 'fine' }",
    );
    for (batch, message) in [(0, "lost"), (1, "micro"), (2, "reported")] {
        runner.invoke(batch, false, &[json(&batch.to_string())]);
        let (_, level, text) = runner.log();
        assert_eq!(level, Level::Error);
        assert!(text.contains(message), "{text}");
        assert_eq!(runner.failure(FailureClass::Exception).message, message);
    }
    runner.invoke(9, false, &[json("9")]);
    assert_eq!(runner.ok(), r#""fine""#);
}

#[test]
fn code_that_overwrites_globals_breaks_only_itself() {
    let mut runner = Runner::with(
        "globalThis.Map = globalThis.Promise = globalThis.Object = undefined; Map;
         JSON.stringify = () => { throw 1 }; Array.prototype[Symbol.iterator] = null; Function.prototype.call = null;
         Object; export default async e => e.data",
    );
    runner.invoke(1, false, &[json("1")]);
    assert_eq!(runner.ok(), "1");
}

#[test]
fn a_function_that_does_not_load_says_why() {
    let limits = Limits::default();
    check_load_failure(
        "export const other = () => 1, n = 2",
        limits,
        &["default export", "other", "n (not a function)"],
    );
    check_load_failure("1", limits, &["exports nothing"]);
    check_load_failure("export default (", limits, &["SyntaxError"]);
    check_load_failure("const a = 1;\nthrow new TypeError('at once')", limits, &["TypeError: at once", "test.ts:2:7"]);
    check_load_failure("import './gone.ts'", limits, &["gone.ts"]);
    check_load_failure("import 'zod'", limits, &["npm packages are not supported yet: import 'zod'"]);
    let brief = Limits { start_ms: 200, ..limits };
    check_load_failure("while (true) {}", brief, &["not ready after 200 ms"]);
    check_load_failure("await new Promise(r => setTimeout(r, 60000))", brief, &["not ready after 200 ms"]);
    check_load_failure("await new Promise(() => {})", brief, &["await"]);
}

#[test]
fn the_second_isolate_comes_from_a_spare() {
    let mut runner = Runner::with("export default () => 1");
    // The spare is made by now: half a second has passed when usage is told twice.
    for _ in 0..2 {
        while !matches!(runner.next_of_any_kind(), Some(Said::Usage { .. })) {}
    }
    runner.open(2);
    assert_eq!(runner.next(), Said::Opened { from_spare: true });
    runner.send(&ToRunner::Close { isolate: 1 });
    assert_eq!(runner.next(), Said::Closed { isolate: 1, error: None });
    runner.invoke_at((2, 1), true, &[json("0")]);
    assert_eq!(runner.ok(), "1");
}

#[test]
fn usage_counts_what_was_touched() {
    let mut runner = Runner::with("export default e => e.data.length > 0 ? e.data.length : 0");
    runner.invoke(1, false, &[json(r#""four""#)]);
    assert_eq!(runner.ok(), "4");
    let usage = loop {
        match runner.next_of_any_kind() {
            Some(Said::Usage { resident_bytes, parsed_bytes }) => break (resident_bytes, parsed_bytes),
            Some(_) => {}
            None => panic!("the runner is gone"),
        }
    };
    assert!(usage.0 > 1 << 20);
    assert_eq!(usage.1, 6);
}

#[test]
fn closing_finishes_what_is_in_hand() {
    let mut runner = Runner::with("export default () => new Promise(r => setTimeout(() => r('done'), 100))");
    runner.invoke(1, true, &[json("0"), json("0")]);
    runner.send(&ToRunner::Close { isolate: 1 });
    assert_eq!(runner.ok(), r#""done""#);
    assert_eq!(runner.ok(), r#""done""#);
    assert_eq!(runner.closed(), None);
}

#[test]
fn the_runner_ends_when_its_worker_does_even_in_the_middle() {
    let mut runner = Runner::with("export default () => { while (true) {} }");
    runner.invoke(1, true, &[json("0")]);
    runner.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let since = Instant::now();
    while runner.next_of_any_kind().is_some() {}
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(runner.child.wait().unwrap().success());
}

#[test]
fn another_version_is_refused() {
    let mut runner = Runner::start();
    runner.send(&ToRunner::Hello { version: VERSION + 1, service: "shop" });
    while runner.next_of_any_kind().is_some() {}
    assert_eq!(runner.child.wait().unwrap().code(), Some(70));
}
