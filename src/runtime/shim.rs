//! The shim process: holds one pod, alone, for as long as the pod lives.

/// The hidden verb. `main` calls it first thing, before any thread exists, with what follows `kedge shim`.
pub fn main(_args: &[String]) -> ! {
    std::process::exit(2)
}
