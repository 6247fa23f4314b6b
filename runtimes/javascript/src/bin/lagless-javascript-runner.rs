//! A bare runner for the tests of this crate: speaks on the socket that it has as standard input.

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

fn main() -> ExitCode {
    lagless_javascript::runner::init();
    // SAFETY: the descriptor is this process's own from its start, and nobody else reads standard input.
    let socket = unsafe { OwnedFd::from_raw_fd(0) };
    lagless_javascript::runner::run(socket.into())
}
