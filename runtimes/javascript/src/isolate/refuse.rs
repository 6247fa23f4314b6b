//! Takes from Deno's runtime what could end the process, stop it, or start threads of its own.
//!
//! The operations below keep their place in the snapshot, but lead here: the function gets an error instead.

use deno_runtime::deno_core::{Extension, OpDecl, OpState, op2};
use deno_runtime::deno_os::ExitCode;

/// The `code` of the errors that become failures of class `Exit`. A function that sets it on an error of its own
/// fails with that class, and that is all it gains.
pub const EXIT_CODE: &str = "LAGLESS_EXIT";

#[derive(Debug, thiserror::Error, deno_error::JsError)]
enum Refused {
    #[error("the function called process.exit({0})")]
    #[class(generic)]
    #[property("code" = EXIT_CODE)]
    Exit(i32),
    #[error("the function called process.abort()")]
    #[class(generic)]
    #[property("code" = EXIT_CODE)]
    Abort,
    #[error("the function called process.kill()")]
    #[class(generic)]
    #[property("code" = EXIT_CODE)]
    Kill,
    #[error("workers are not supported: a function has one isolate")]
    #[class(not_supported)]
    Worker,
}

#[op2(nofast)]
fn op_lagless_exit(state: &mut OpState) -> Result<(), Refused> {
    let code = state.try_borrow_mut::<ExitCode>().map(|code| {
        let asked = code.get();
        code.set(0);
        asked
    });
    Err(Refused::Exit(code.unwrap_or_default()))
}

#[op2(nofast)]
fn op_lagless_abort() -> Result<(), Refused> {
    Err(Refused::Abort)
}

#[op2(nofast)]
fn op_lagless_kill() -> Result<(), Refused> {
    Err(Refused::Kill)
}

#[op2(nofast)]
fn op_lagless_worker() -> Result<(), Refused> {
    Err(Refused::Worker)
}

/// The extension that puts the refusals in place. It has no operations of its own: more of them would shift the places
/// that the snapshot refers to.
pub fn extension() -> Extension {
    Extension { name: "lagless_refuse", middleware_fn: Some(Box::new(refuse)), ..Default::default() }
}

fn refuse(op: OpDecl) -> OpDecl {
    match op.name {
        "op_exit" => op.with_implementation_from(&op_lagless_exit()),
        "op_process_abort" => op.with_implementation_from(&op_lagless_abort()),
        "op_node_process_kill" | "op_kill" => op.with_implementation_from(&op_lagless_kill()),
        "op_create_worker" => op.with_implementation_from(&op_lagless_worker()),
        _ => op,
    }
}
