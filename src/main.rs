//! The `lagless` binary. A runner must set V8 up before any other thread exists, so its verb is looked for first.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "runner") {
        return lagless::cli::runner();
    }
    lagless::cli::main()
}
