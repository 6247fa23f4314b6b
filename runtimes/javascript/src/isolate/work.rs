//! The loop of an isolate that is open: takes batches, starts events, drives what waits, expires what is late.
//!
//! One turn does all that can be done now and writes once. JavaScript is entered in three places only, each between
//! `enter` and `leave` of the watch: the handler's call, the microtask checkpoint, and Deno's event loop.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deno_runtime::deno_core::{PollEventLoopOptions, v8};
use deno_runtime::worker::MainWorker;
use lagless_protocol::frames::{Failure, FailureClass, Level};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Sleep;

use super::Command;
use super::desk::{Desk, OpenBatch, Slot};
use super::natives::{self, Script};
use super::open::Opened;
use super::report;
use crate::batch::Batch;
use crate::watchdog::{EventId, Fired};

/// How long handlers are started one after the other before commands, timers and I/O get a turn.
const TURN: Duration = Duration::from_millis(5);
/// The heap is measured at most this often; it is not free.
const HEAP_SAMPLE: Duration = Duration::from_millis(100);

/// `Break` when the isolate has been terminated.
type Flow = ControlFlow<Fired>;

pub struct Work {
    worker: MainWorker,
    script: Script,
    desk: Rc<Desk>,
    inbox: UnboundedReceiver<Command>,
    is_closing: bool,
    /// An event whose handler was cut short by an uncaught error elsewhere (Deno ends running code to report those);
    /// the event loop tells which error it was.
    cut: Option<Slot>,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    heap_at: Option<Instant>,
}

impl Work {
    pub fn new(opened: Opened, desk: Rc<Desk>, inbox: UnboundedReceiver<Command>) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let Opened { worker, script } = opened;
        Self { worker, script, desk, inbox, is_closing: false, cut: None, timer, timer_at: None, heap_at: None }
    }

    pub fn into_worker(self) -> MainWorker {
        self.worker
    }

    /// Works until the isolate is asked to close and has nothing in hand, or until it is terminated.
    pub async fn run(&mut self) -> Option<Fired> {
        std::future::poll_fn(|cx| self.turn(cx)).await
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<Fired>> {
        let began = Instant::now();
        self.desk.begin_turn(began);
        if let ControlFlow::Break(fired) = self.advance(cx, began) {
            return Poll::Ready(Some(fired));
        }
        self.sample_heap();
        self.desk.count_parsed();
        self.desk.flush();
        if self.is_closing && self.desk.is_empty() {
            return Poll::Ready(None);
        }
        if self.desk.can_start() {
            cx.waker().wake_by_ref();
        }
        self.arm_timer(cx);
        Poll::Pending
    }

    fn advance(&mut self, cx: &mut Context<'_>, began: Instant) -> Flow {
        loop {
            self.take_commands(cx)?;
            while self.start_ready(began)? {
                self.checkpoint()?;
                if began.elapsed() >= TURN {
                    break;
                }
            }
            self.poll_event_loop(cx)?;
            let late = self.desk.expire(Instant::now());
            self.abort_signals(&late, "TimeoutError", "The event has timed out")?;
            self.forget_signals()?;
            if !self.desk.can_start() || began.elapsed() >= TURN {
                return Flow::Continue(());
            }
        }
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) -> Flow {
        while let Poll::Ready(command) = self.inbox.poll_recv(cx) {
            match command {
                Some(Command::Batch(batch)) => self.take_in(Rc::new(*batch))?,
                Some(Command::Abort(batch)) => {
                    let slots = self.desk.abort(batch);
                    self.abort_signals(&slots, "AbortError", "The batch was given up")?;
                }
                // Only the first command is an `Open`.
                Some(Command::Open(_)) => {}
                Some(Command::Close) => self.is_closing = true,
                None => {
                    self.is_closing = true;
                    break;
                }
            }
        }
        Flow::Continue(())
    }

    fn take_in(&mut self, batch: Rc<Batch>) -> Flow {
        self.desk.watch.enter_busy(self.desk.first_deadline());
        let objects = {
            deno_runtime::deno_core::scope!(scope, &mut self.worker.js_runtime);
            self.desk.events.take_in(scope, &batch)
        };
        self.leave()?;
        match objects {
            Some(objects) => self.desk.accept(batch, objects),
            None => self.desk.refuse(&batch),
        }
        Flow::Continue(())
    }

    /// Starts events while there is room. Returns whether any has been started.
    fn start_ready(&mut self, began: Instant) -> ControlFlow<Fired, bool> {
        if !self.desk.can_start() || self.cut.is_some() {
            return ControlFlow::Continue(false);
        }
        let (desk, script) = (self.desk.clone(), &self.script);
        deno_runtime::deno_core::scope!(scope, &mut self.worker.js_runtime);
        let (clock, epoch_ms) = (Instant::now(), epoch_ms());
        let mut has_started = false;
        loop {
            let now = Instant::now();
            if has_started && now.duration_since(began) >= TURN {
                break;
            }
            let Some((slot, open, id, deadline)) = desk.start(now) else { break };
            has_started = true;
            let call = Call {
                desk: &desk,
                script,
                slot,
                open: &open,
                id,
                deadline,
                deadline_ms: (epoch_ms + deadline.duration_since(clock).as_secs_f64() * 1000.0).floor(),
            };
            v8::scope!(let scope, scope);
            let was_cut = call.run(scope);
            if let Some(fired) = desk.watch.leave() {
                return ControlFlow::Break(fired);
            }
            if was_cut {
                self.cut = Some(slot);
                break;
            }
        }
        ControlFlow::Continue(has_started)
    }

    /// Runs what promises that are settled already have to do.
    fn checkpoint(&mut self) -> Flow {
        if self.cut.is_some() || !self.desk.has_in_hand() {
            return Flow::Continue(());
        }
        self.desk.watch.enter_busy(self.desk.first_deadline());
        {
            deno_runtime::deno_core::scope!(scope, &mut self.worker.js_runtime);
            scope.perform_microtask_checkpoint();
        }
        self.leave()
    }

    fn poll_event_loop(&mut self, cx: &mut Context<'_>) -> Flow {
        self.desk.watch.enter_busy(self.desk.first_deadline());
        let polled = self.worker.js_runtime.poll_event_loop(cx, PollEventLoopOptions::default());
        self.leave()?;
        if let Poll::Ready(Err(error)) = polled {
            self.uncaught(&report::failure_of(&error));
            // The loop stopped in the middle of its work.
            cx.waker().wake_by_ref();
        } else if let Some(cut) = self.cut.take() {
            self.desk.settle(cut, Err(Failure::new(FailureClass::Exception, "Error", "the handler was cut short")));
        }
        Flow::Continue(())
    }

    /// An error that no handler saw. It is the failure of the event that it cut short, or of the only one in hand.
    fn uncaught(&mut self, failure: &Failure) {
        let slot = self.cut.take().or_else(|| self.desk.only());
        let text = match failure.stack.is_empty() {
            true => format!("uncaught {}: {}", failure.name, failure.message),
            false => format!("uncaught {}", failure.stack),
        };
        self.desk.log(slot.and_then(|slot| self.desk.id_of(slot)), Level::Error, &text);
        if let Some(slot) = slot {
            self.desk.settle(slot, Err(failure.clone()));
        }
    }

    fn abort_signals(&mut self, slots: &[Slot], name: &str, message: &str) -> Flow {
        for slot in slots {
            self.call_script(|script| &script.abort, *slot, &[name, message])?;
        }
        Flow::Continue(())
    }

    fn forget_signals(&mut self) -> Flow {
        for slot in self.desk.take_forgotten() {
            self.call_script(|script| &script.forget, slot, &[])?;
        }
        Flow::Continue(())
    }

    fn call_script(&mut self, pick: fn(&Script) -> &v8::Global<v8::Function>, slot: Slot, texts: &[&str]) -> Flow {
        self.desk.watch.enter_busy(self.desk.first_deadline());
        {
            deno_runtime::deno_core::scope!(scope, &mut self.worker.js_runtime);
            v8::tc_scope!(let scope, scope);
            let function = v8::Local::new(scope, pick(&self.script));
            let undefined = v8::undefined(scope).into();
            let mut arguments: Vec<v8::Local<'_, v8::Value>> = vec![v8::Number::new(scope, slot as f64).into()];
            for text in texts {
                arguments.extend(v8::String::new(scope, text).map(v8::Local::<v8::Value>::from));
            }
            // Listeners of a signal report their errors to the event loop; a termination shows in `leave`.
            let _ = function.call(scope, undefined, &arguments);
        }
        self.leave()
    }

    fn leave(&self) -> Flow {
        match self.desk.watch.leave() {
            Some(fired) => Flow::Break(fired),
            None => Flow::Continue(()),
        }
    }

    fn sample_heap(&mut self) {
        let now = Instant::now();
        if self.heap_at.is_none_or(|at| now.duration_since(at) >= HEAP_SAMPLE) {
            self.heap_at = Some(now);
            let used = self.worker.js_runtime.v8_isolate().get_heap_statistics().used_heap_size();
            self.desk.sampled_heap(used as u64);
        }
    }

    /// Wakes the loop when the first event is due. A timer that is armed too early is left as it is: deadlines only
    /// grow, so it is set once per timeout rather than once per event.
    fn arm_timer(&mut self, cx: &mut Context<'_>) {
        let Some(deadline) = self.desk.first_deadline() else { return };
        let is_armed = self.timer_at.is_some_and(|at| at <= deadline);
        if !is_armed {
            self.set_timer(deadline);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            self.set_timer(deadline);
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    fn set_timer(&mut self, deadline: Instant) {
        self.timer.as_mut().reset(deadline.into());
        self.timer_at = Some(deadline);
    }
}

/// One call of the handler.
struct Call<'a> {
    desk: &'a Desk,
    script: &'a Script,
    slot: Slot,
    open: &'a OpenBatch,
    id: EventId,
    deadline: Instant,
    /// The same since 1970, for `ctx.deadline`.
    deadline_ms: f64,
}

impl Call<'_> {
    /// Enters JavaScript; the caller leaves. Returns whether the handler was cut short.
    fn run(&self, scope: &mut v8::PinScope<'_, '_>) -> bool {
        let desk = self.desk;
        desk.set_current(Some(self.slot));
        desk.watch.enter_event(self.id, self.deadline);
        v8::tc_scope!(let scope, scope);
        let was_cut = match self.invoke(scope) {
            Some(value) => {
                self.take_result(scope, value);
                false
            }
            None => match scope.exception().filter(|_| !scope.has_terminated()) {
                Some(error) => {
                    scope.reset();
                    let fail = v8::Local::new(scope, &self.script.fail);
                    natives::call_with_slot(scope, fail, self.slot, error);
                    false
                }
                None => true,
            },
        };
        desk.set_current(None);
        was_cut
    }

    fn invoke<'s>(&self, scope: &mut v8::PinScope<'s, '_>) -> Option<v8::Local<'s, v8::Value>> {
        let (event, holder) = self.open.objects.event(scope, &self.open.batch, self.id.event)?;
        let invoke = v8::Local::new(scope, &self.script.invoke);
        let undefined = v8::undefined(scope).into();
        let index = v8::Integer::new_from_unsigned(scope, self.id.event).into();
        let slot = v8::Number::new(scope, self.slot as f64).into();
        let deadline = v8::Number::new(scope, self.deadline_ms).into();
        invoke.call(scope, undefined, &[event.into(), holder.into(), index, slot, deadline])
    }

    /// A value settles the event at once, and so does a promise that is fulfilled already. Any other promise is
    /// watched, and so is what only looks like one.
    fn take_result<'s>(&self, scope: &mut v8::PinScope<'s, '_>, value: v8::Local<'s, v8::Value>) {
        if let Ok(promise) = v8::Local::<v8::Promise>::try_from(value) {
            if promise.state() == v8::PromiseState::Fulfilled {
                let result = promise.result(scope);
                return natives::finish(scope, self.desk, self.slot, result);
            }
        } else if !is_thenable(scope, value) {
            return natives::finish(scope, self.desk, self.slot, value);
        }
        let watch = v8::Local::new(scope, &self.script.watch);
        let undefined = v8::undefined(scope).into();
        let slot = v8::Number::new(scope, self.slot as f64).into();
        // It throws nothing; None means a termination, which the caller sees.
        let _ = watch.call(scope, undefined, &[value, slot]);
    }
}

/// Milliseconds since 1970, as `Date.now()` has them.
#[expect(clippy::disallowed_methods, reason = "`ctx.deadline` is compared with `Date.now()`; limits use `Instant`")]
fn epoch_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

fn is_thenable(scope: &mut v8::PinScope<'_, '_>, value: v8::Local<'_, v8::Value>) -> bool {
    let Ok(object) = v8::Local::<v8::Object>::try_from(value) else {
        return false;
    };
    v8::tc_scope!(let scope, scope);
    let Some(then) = v8::String::new(scope, "then") else {
        return false;
    };
    // A getter that throws throws again when the object is awaited, and fails the event there.
    object.get(scope, then.into()).is_none_or(|then| then.is_function())
}
