//! Every controller and the scheduler against the real API server over the real store, each under its own identity, with a
//! node that runs pods in no time. Whatever is refused to one of them, or warned about, fails the test.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod batch;
mod budgets;
mod cluster;
mod devices;
#[path = "../../keys.rs"]
mod keys;
mod kubectl;
#[path = "../../local.rs"]
mod local;
mod mirroring;
mod ranges;
mod scheduling;
mod signing;
mod storage;
mod story;
mod wire;
