//! From a spare isolate to one that has evaluated its function.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deno_resolver::npm::{DenoInNpmPackageChecker, NpmResolver};
use deno_runtime::deno_core::error::{CoreError, CoreErrorKind};
use deno_runtime::deno_core::{ModuleId, ModuleSpecifier, PollEventLoopOptions, v8};
use deno_runtime::deno_io::{Stdio, StdioPipe};
use deno_runtime::deno_permissions::{Permissions, PermissionsContainer};
use deno_runtime::permissions::RuntimePermissionDescriptorParser;
use deno_runtime::worker::{MainWorker, WorkerOptions, WorkerServiceOptions};
use deno_runtime::{BootstrapOptions, UnconfiguredRuntime, UnconfiguredRuntimeOptions, colors};
use lagless_protocol::frames::{Deploy, Failure, FailureClass};
use sys_traits::impls::RealSys;

use super::desk::Desk;
use super::loader::Modules;
use super::natives::{self, Script};
use super::{refuse, report};
use crate::watchdog::{Watch, start_failure};

/// Heap of an isolate that has no function yet, in bytes; the function's own limit comes with the function.
const SPARE_HEAP: usize = 24 << 20;
/// New space of every isolate, in bytes. V8 would derive a far smaller one from the spare's heap, and it cannot grow
/// later; events make much garbage that dies young.
const YOUNG_HEAP: usize = 12 << 20;
/// How often the heap limit is raised so that a termination can bite, before V8 may abort the process.
const GRANTS: u32 = 4;

const BOOTSTRAP: &str = include_str!("../bootstrap.js");

/// An isolate that takes events.
pub struct Opened {
    pub worker: MainWorker,
    pub script: Script,
}

/// Makes an isolate from the snapshot. Must run inside a tokio runtime, or V8's delayed tasks abort the process.
pub fn unconfigured() -> UnconfiguredRuntime {
    let heap =
        v8::CreateParams::default().heap_limits(0, SPARE_HEAP).set_max_young_generation_size_in_bytes(YOUNG_HEAP);
    UnconfiguredRuntime::new::<DenoInNpmPackageChecker, NpmResolver<RealSys>, RealSys>(UnconfiguredRuntimeOptions {
        startup_snapshot: deno_snapshots::CLI_SNAPSHOT.expect("deno_snapshots is built with its snapshot"),
        residual_lazy_js_sources: deno_snapshots::RESIDUAL_LAZY_JS,
        residual_lazy_esm_sources: deno_snapshots::RESIDUAL_LAZY_ESM,
        create_params: Some(heap),
        shared_array_buffer_store: None,
        compiled_wasm_module_store: None,
        additional_extensions: vec![refuse::extension()],
    })
}

/// Gives the isolate its function and finds the handler.
///
/// # Errors
/// The failure with which the isolate closes: of class `Load`, or `Memory` when the limit is reached so early.
pub async fn open(unconfigured: UnconfiguredRuntime, deploy: &Arc<Deploy>, desk: &Rc<Desk>) -> Result<Opened, Failure> {
    let main = deploy.modules.first().ok_or_else(|| load_failure("the function has no module".to_owned()))?;
    let main = ModuleSpecifier::parse(&main.specifier)
        .map_err(|error| load_failure(format!("'{}' is not a URL: {error}", main.specifier)))?;
    let mut worker = bootstrap(unconfigured, deploy, &main);
    limit_heap(&mut worker, &desk.watch);
    desk.watch.arm(worker.js_runtime.v8_isolate().thread_safe_handle());

    let limit = Duration::from_millis(desk.watch.limits.start_ms);
    desk.watch.enter_start(Instant::now() + limit);
    let evaluated = tokio::time::timeout(limit, start(&mut worker, &main, deploy, desk)).await;
    let fired = desk.watch.leave();
    let evaluated = match (fired, evaluated) {
        (Some(fired), _) => Err(fired.failure),
        (None, Err(_)) => Err(start_failure(&desk.watch.limits)),
        (None, Ok(evaluated)) => evaluated,
    };
    match evaluated {
        Ok(script) => Ok(Opened { worker, script }),
        Err(failure) => {
            close(worker, desk);
            Err(failure)
        }
    }
}

/// Drops an isolate in good order.
pub fn close(mut worker: MainWorker, desk: &Desk) {
    let isolate = worker.js_runtime.v8_isolate();
    // A termination that is still pending would hit the runtime's own work while it ends.
    isolate.cancel_terminate_execution();
    natives::uninstall(isolate);
    desk.events.clear();
    drop(worker);
}

fn bootstrap(unconfigured: UnconfiguredRuntime, deploy: &Arc<Deploy>, main: &ModuleSpecifier) -> MainWorker {
    let parser = Arc::new(RuntimePermissionDescriptorParser::new(RealSys));
    let services = WorkerServiceOptions::<DenoInNpmPackageChecker, NpmResolver<RealSys>, RealSys> {
        blob_store: Arc::new(deno_runtime::deno_web::BlobStore::default()),
        broadcast_channel: Default::default(),
        deno_rt_native_addon_loader: None,
        feature_checker: Default::default(),
        fs: Arc::new(deno_runtime::deno_fs::RealFs),
        module_loader: Rc::new(Modules(deploy.clone())),
        node_services: None,
        npm_process_state_provider: None,
        permissions: PermissionsContainer::new(parser, Permissions::none_without_prompt()),
        root_cert_store_provider: None,
        fetch_dns_resolver: Default::default(),
        shared_array_buffer_store: None,
        compiled_wasm_module_store: None,
        v8_code_cache: None,
        bundle_provider: None,
    };
    let options = WorkerOptions {
        bootstrap: BootstrapOptions {
            user_agent: concat!("Lagless/", env!("CARGO_PKG_VERSION")).to_owned(),
            color_level: colors::ColorLevel::None,
            ..Default::default()
        },
        skip_op_registration: true,
        startup_snapshot: deno_snapshots::CLI_SNAPSHOT,
        stdio: stdio(),
        unconfigured_runtime: Some(unconfigured),
        ..Default::default()
    };
    MainWorker::bootstrap_from_options(main, services, options)
}

/// A function has no input of its own, and what it prints past the console goes where the runner's own words go.
fn stdio() -> Stdio {
    let file = |file: std::io::Result<std::fs::File>| file.map_or_else(|_| StdioPipe::inherit(), StdioPipe::file);
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
    Stdio { stdin: file(std::fs::File::open("/dev/null")), stdout: file(stderr), stderr: StdioPipe::inherit() }
}

/// Raises the spare's heap limit to the function's when it is reached, and ends the isolate when that is reached too.
fn limit_heap(worker: &mut MainWorker, watch: &Arc<Watch>) {
    let limit = usize::try_from(watch.limits.memory_bytes).unwrap_or(usize::MAX);
    let watch = watch.clone();
    let mut grants = 0;
    worker.js_runtime.add_near_heap_limit_callback(move |current, _| {
        if current < limit {
            return limit;
        }
        watch.memory_exhausted(current);
        // Without room V8 aborts the process before the termination is seen; without a bound there is no limit.
        grants += 1;
        if grants > GRANTS { current } else { current + (current / 2).max(16 << 20) }
    });
}

/// Runs the bootstrap script and the function's modules; finds and sets the handler.
async fn start(
    worker: &mut MainWorker,
    main: &ModuleSpecifier,
    deploy: &Deploy,
    desk: &Rc<Desk>,
) -> Result<Script, Failure> {
    let runtime = &mut worker.js_runtime;
    let bootstrap = runtime
        .execute_script("ext:lagless/bootstrap.js", BOOTSTRAP)
        .map_err(|error| load_failure(format!("the bootstrap script fails: {error}")))?;
    let script = {
        deno_runtime::deno_core::scope!(scope, runtime);
        v8::tc_scope!(let scope, scope);
        let bootstrap = v8::Local::new(scope, bootstrap);
        natives::install(scope, bootstrap, desk, deploy).ok_or_else(|| {
            let error = scope.exception().map(|error| error.to_rust_string_lossy(scope));
            load_failure(format!("the bootstrap script fails: {}", error.unwrap_or_default()))
        })?
    };
    let id = runtime.load_main_es_module(main).await.map_err(|error| load_failure_of(&error))?;
    evaluate(worker, id).await.map_err(|error| load_failure_of(&error))?;
    set_handler(worker, id, deploy, &script)?;
    Ok(script)
}

async fn evaluate(worker: &mut MainWorker, id: ModuleId) -> Result<(), CoreError> {
    let mut evaluated = std::pin::pin!(worker.js_runtime.mod_evaluate(id));
    tokio::select! {
        biased;
        result = &mut evaluated => result,
        result = worker.js_runtime.run_event_loop(PollEventLoopOptions::default()) => {
            result?;
            evaluated.await
        }
    }
}

fn set_handler(worker: &mut MainWorker, id: ModuleId, deploy: &Deploy, script: &Script) -> Result<(), Failure> {
    let runtime = &mut worker.js_runtime;
    let namespace = runtime.get_module_namespace(id).map_err(|error| load_failure_of(&error))?;
    deno_runtime::deno_core::scope!(scope, runtime);
    v8::tc_scope!(let scope, scope);
    let namespace = v8::Local::new(scope, namespace);
    let handler = v8::String::new(scope, &deploy.handler).and_then(|name| namespace.get(scope, name.into()));
    let Some(handler) = handler.and_then(|handler| v8::Local::<v8::Function>::try_from(handler).ok()) else {
        return Err(load_failure(missing(scope, namespace, &deploy.handler)));
    };
    let set = v8::Local::new(scope, &script.set_handler);
    let undefined = v8::undefined(scope).into();
    // It only stores its argument.
    let _ = set.call(scope, undefined, &[handler.into()]);
    Ok(())
}

/// What to say of a handler that is not exported, or is no function.
fn missing(scope: &mut v8::PinScope<'_, '_>, namespace: v8::Local<'_, v8::Object>, handler: &str) -> String {
    let mut exports = Vec::new();
    let names = namespace.get_own_property_names(scope, Default::default());
    for index in 0..names.map_or(0, |names| names.length()) {
        let Some(name) = names.and_then(|names| names.get_index(scope, index)) else { continue };
        let is_function = namespace.get(scope, name).is_some_and(|value| value.is_function());
        let name = name.to_rust_string_lossy(scope);
        exports.push(if is_function { name } else { format!("{name} (not a function)") });
    }
    let wanted = match handler {
        "default" => "a default export that is a function".to_owned(),
        name => format!("an export '{name}' that is a function"),
    };
    match exports.is_empty() {
        true => format!("the module has no {wanted}: it exports nothing", wanted = wanted.trim_start_matches("a ")),
        false => format!("the module does not have {wanted}; it exports {}", exports.join(", ")),
    }
}

fn load_failure(message: String) -> Failure {
    report::bounded(Failure::new(FailureClass::Load, "Load", message))
}

/// An error while loading or evaluating keeps its name and stack.
fn load_failure_of(error: &CoreError) -> Failure {
    let failure = report::failure_of(error);
    match error.as_kind() {
        CoreErrorKind::Js(_) => Failure { class: FailureClass::Load, ..failure },
        _ => Failure { class: FailureClass::Load, name: "Load".to_owned(), ..failure },
    }
}
