//! The one binary. Hidden helper verbs are dispatched first, before any thread exists; then the daemon's verbs; the rest are
//! the user's.

use std::process::ExitCode;

mod allocator;
#[cfg(any(all(target_env = "musl", not(debug_assertions)), test))]
mod memory;

/// The hidden verb of the shim, as `runtime` spawns it.
const SHIM: &str = "shim";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    if args.get(1).is_some_and(|verb| verb == SHIM) {
        runtime::shim::main(&args[2..])
    }
    if daemon::verbs::owns(args.get(1).map_or("", String::as_str)) {
        return daemon::verbs::run(&args, allocator::collect);
    }
    cli::run(&args, daemon::verbs::commands())
}
