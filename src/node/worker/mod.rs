//! One worker per pod: it takes a pod from "assigned to this node" to "gone", and everything in between.
//!
//! ```text
//! API watch ─┐                          ┌─► actions ─► execute (runtime, images, net, volumes, hooks, probes) ─┐
//! runtime ───┼─► Input ─► step (pure) ──┤                                                                       │
//! timer ─────┘      ▲                   └─► summary (pure) ─► reporter ─► API                                   │
//!                   └───────────────────────────── answers ◄────────────────────────────────────────────────────┘
//! ```
//!
//! All decisions are in `step`; what surrounds it carries them out and reports. A worker has one timer, for the next deadline
//! that the state knows; with nothing due it sleeps.

mod absorb;
pub mod adopt;
pub mod backoff;
mod drive;
mod execute;
pub mod input;
pub mod mailbox;
pub mod probes;
mod restart;
pub mod run;
pub mod state;
pub mod step;
#[cfg(test)]
mod step_tests;
pub mod summary;
mod wind_down;

pub use drive::container_id;
pub(crate) use execute::remove_pod_logs;
pub use execute::signal_number;
