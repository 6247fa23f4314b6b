//! The functions that `bootstrap.js` calls, and those of it that the isolate's loop calls.

use std::rc::Rc;

use deno_runtime::deno_core::v8;
use lagless_protocol::frames::{Deploy, Failure, FailureClass, Level};

use super::desk::{Desk, Slot};
use super::event;
use super::report::bounded;

/// Functions of `bootstrap.js`.
pub struct Script {
    pub set_handler: v8::Global<v8::Function>,
    /// `(event, holder, index, slot, deadline)`: calls the handler.
    pub invoke: v8::Global<v8::Function>,
    /// `(promise, slot)`: settles the event when the promise does.
    pub watch: v8::Global<v8::Function>,
    /// `(slot, error)`: settles the event with what the handler threw.
    pub fail: v8::Global<v8::Function>,
    /// `(slot, error)`: the same, for a result that is no JSON.
    pub fail_result: v8::Global<v8::Function>,
    /// `(slot, name, message)`: aborts the event's signal.
    pub abort: v8::Global<v8::Function>,
    /// `(slot)`: lets go of the event's signal.
    pub forget: v8::Global<v8::Function>,
}

/// The handles of `Script` that native functions need too.
struct ResultFailure(v8::Global<v8::Function>);

/// Runs `bootstrap.js`, whose value `bootstrap` is, before any code of the function.
pub fn install(
    scope: &mut v8::PinScope<'_, '_>,
    bootstrap: v8::Local<'_, v8::Value>,
    desk: &Rc<Desk>,
    deploy: &Deploy,
) -> Option<Script> {
    scope.set_slot(desk.clone());
    let natives = v8::Object::new(scope);
    add(scope, natives, "done", done)?;
    add(scope, natives, "fail", fail)?;
    add(scope, natives, "log", log)?;
    add(scope, natives, "keepSignal", keep_signal)?;
    add(scope, natives, "requestId", request_id)?;
    add(scope, natives, "trigger", trigger)?;
    add(scope, natives, "attempt", attempt)?;

    let global = scope.get_current_context().global(scope);
    let key = v8::String::new(scope, "Deno")?;
    let deno = global.get(scope, key.into())?;
    let getter = v8::Function::builder(deno_for_its_own).data(deno).build(scope)?;
    put(scope, natives, "deno", getter.into())?;
    let name = v8::String::new(scope, &deploy.name)?;
    put(scope, natives, "functionName", name.into())?;
    let mut env = Vec::with_capacity(2 * deploy.env.len());
    for (name, value) in &deploy.env {
        env.push(v8::String::new(scope, name)?.into());
        env.push(v8::String::new(scope, value)?.into());
    }
    let env = v8::Array::new_with_elements(scope, &env);
    put(scope, natives, "env", env.into())?;

    let bootstrap = v8::Local::<v8::Function>::try_from(bootstrap).ok()?;
    let undefined = v8::undefined(scope).into();
    let script = bootstrap.call(scope, undefined, &[natives.into()])?.to_object(scope)?;
    let script = Script {
        set_handler: function(scope, script, "setHandler")?,
        invoke: function(scope, script, "invoke")?,
        watch: function(scope, script, "watch")?,
        fail: function(scope, script, "failWith")?,
        fail_result: function(scope, script, "failResult")?,
        abort: function(scope, script, "abort")?,
        forget: function(scope, script, "forget")?,
    };
    scope.set_slot(Rc::new(ResultFailure(script.fail_result.clone())));
    Some(script)
}

/// Takes back what keeps V8's values alive, before the isolate is dropped.
pub fn uninstall(isolate: &mut v8::Isolate) {
    // Both are there since `install`; an isolate that never came so far has none.
    let _ = isolate.remove_slot::<Rc<Desk>>();
    let _ = isolate.remove_slot::<Rc<ResultFailure>>();
}

fn add(
    scope: &mut v8::PinScope<'_, '_>,
    natives: v8::Local<'_, v8::Object>,
    name: &str,
    callback: impl v8::MapFnTo<v8::FunctionCallback>,
) -> Option<()> {
    let function = v8::Function::new(scope, callback)?;
    put(scope, natives, name, function.into())
}

fn put(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
    name: &str,
    value: v8::Local<'_, v8::Value>,
) -> Option<()> {
    let name = v8::String::new(scope, name)?;
    object.set(scope, name.into(), value).map(|_| ())
}

fn function(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
    name: &str,
) -> Option<v8::Global<v8::Function>> {
    let name = v8::String::new(scope, name)?;
    let function = v8::Local::<v8::Function>::try_from(object.get(scope, name.into())?).ok()?;
    Some(v8::Global::new(scope, function))
}

/// The books of the isolate.
pub fn desk(scope: &v8::PinScope<'_, '_>) -> Rc<Desk> {
    scope.get_slot::<Rc<Desk>>().expect("install() comes before any call of these functions").clone()
}

type Arguments<'s> = v8::FunctionCallbackArguments<'s>;
type Return<'s> = v8::ReturnValue<'s, v8::Value>;

fn slot(scope: &mut v8::PinScope<'_, '_>, args: &Arguments<'_>, index: i32) -> Slot {
    args.get(index).integer_value(scope).unwrap_or_default() as Slot
}

/// `done(slot, value)`: a promise has been fulfilled.
fn done<'s>(scope: &mut v8::PinScope<'s, '_>, args: Arguments<'s>, _: Return<'s>) {
    let slot = slot(scope, &args, 0);
    let desk = desk(scope);
    finish(scope, &desk, slot, args.get(1));
}

/// Settles an event with what its handler returned.
pub fn finish<'s>(scope: &mut v8::PinScope<'s, '_>, desk: &Desk, slot: Slot, value: v8::Local<'s, v8::Value>) {
    let is_nothing = value.is_undefined() || value.is_function() || value.is_symbol();
    if is_nothing || !desk.wants_result(slot) {
        desk.settle(slot, Ok(""));
        return;
    }
    v8::tc_scope!(let scope, scope);
    if let Some(text) = v8::json::stringify(scope, value) {
        let text = text.to_rust_string_lossy(scope);
        // What an object's `toJSON` says about itself when it has nothing to say.
        desk.settle(slot, Ok(if text == "undefined" { "" } else { &text }));
        return;
    }
    // Without an exception the isolate is being terminated, and its loop reports the event.
    let Some(error) = scope.exception().filter(|_| !scope.has_terminated()) else {
        return;
    };
    scope.reset();
    let Some(fail) = scope.get_slot::<Rc<ResultFailure>>().cloned() else {
        return;
    };
    let fail = v8::Local::new(scope, &fail.0);
    call_with_slot(scope, fail, slot, error);
}

/// Calls a function of `bootstrap.js` that takes a slot and a value. Those throw nothing.
pub fn call_with_slot<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    function: v8::Local<'s, v8::Function>,
    slot: Slot,
    value: v8::Local<'s, v8::Value>,
) {
    let undefined = v8::undefined(scope).into();
    let slot = v8::Number::new(scope, slot as f64).into();
    // None means that the isolate is being terminated, and its loop sees that.
    let _ = function.call(scope, undefined, &[slot, value]);
}

/// `fail(slot, kind, name, message, stack)`, where `kind` is 0 for an exception, 1 for a refused exit, 2 for a result
/// that is no JSON.
fn fail(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, _: Return<'_>) {
    let slot = slot(scope, &args, 0);
    let class = match args.get(1).uint32_value(scope) {
        Some(1) => FailureClass::Exit,
        Some(2) => FailureClass::Result,
        _ => FailureClass::Exception,
    };
    let failure =
        Failure { class, name: text(scope, &args, 2), message: text(scope, &args, 3), stack: text(scope, &args, 4) };
    desk(scope).settle(slot, Err(bounded(failure)));
}

fn text(scope: &mut v8::PinScope<'_, '_>, args: &Arguments<'_>, index: i32) -> String {
    match v8::Local::<v8::String>::try_from(args.get(index)) {
        Ok(text) => text.to_rust_string_lossy(scope),
        Err(_) => String::new(),
    }
}

/// `log(level, text, slot)`: levels as the console has them; the slot is 0 when the event is not known.
fn log(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, _: Return<'_>) {
    let level = match args.get(0).uint32_value(scope) {
        Some(0) => Level::Debug,
        Some(2) => Level::Warn,
        Some(3..) => Level::Error,
        _ => Level::Info,
    };
    let line = text(scope, &args, 1);
    let slot = slot(scope, &args, 2);
    let desk = desk(scope);
    let event = if slot == 0 { desk.current_id() } else { desk.id_of(slot) };
    desk.log(event, level, &line);
}

/// `keepSignal(slot)`: what the event's signal is to be.
fn keep_signal(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, mut value: Return<'_>) {
    let slot = slot(scope, &args, 0);
    value.set_uint32(desk(scope).keep_signal(slot) as u32);
}

/// The batch and index that a context was made with.
fn context(scope: &mut v8::PinScope<'_, '_>, args: &Arguments<'_>) -> Option<(Rc<crate::batch::Batch>, u32)> {
    let holder = v8::Local::<v8::Object>::try_from(args.get(0)).ok()?;
    let index = args.get(1).uint32_value(scope)?;
    Some((desk(scope).events.find(scope, holder)?, index))
}

/// `requestId(holder, index)`.
fn request_id(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, mut value: Return<'_>) {
    if let Some((batch, index)) = context(scope, &args)
        && let Some(id) = event::string(scope, batch.request_id(index))
    {
        value.set(id.into());
    }
}

/// `trigger(holder, index)`.
fn trigger(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, mut value: Return<'_>) {
    if let Some((batch, _)) = context(scope, &args)
        && let Some(trigger) = event::string(scope, batch.trigger())
    {
        value.set(trigger.into());
    }
}

/// `attempt(holder, index)`.
fn attempt(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, mut value: Return<'_>) {
    if let Some((batch, index)) = context(scope, &args) {
        value.set_uint32(batch.attempt(index));
    }
}

/// The getter of `globalThis.Deno`. Deno's own `node:` modules use that global; a function must not see it, or
/// libraries take Lagless for Deno and call what is not allowed here. So it answers by who asks. This is manners, not
/// a border: permissions are the border.
fn deno_for_its_own(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, mut value: Return<'_>) {
    if let Some(script) = v8::StackTrace::current_script_name_or_source_url(scope) {
        let script = script.to_rust_string_lossy(scope);
        if script.starts_with("ext:") || script.starts_with("node:") {
            value.set(args.data());
        }
    }
}
