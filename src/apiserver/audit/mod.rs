//! The audit log: who asked for what, when, and what became of it, as far as a policy wants to know.
//!
//! Off unless configured, and then it costs a request nothing. What never lives here: a decision about a request; a request
//! whose event cannot be kept is served all the same, and the loss is counted.
//!
//! ```text
//! request → policy (pure) → Record ── RequestReceived ──┐
//!              │ None: nothing                          ├─▶ queue (bounded) ─▶ log (thread): JSON lines, rotated
//!              └────── ResponseStarted, ResponseComplete┘
//! ```
//!
//! Source: apiserver `pkg/audit`, `pkg/endpoints/filters/audit.go`, `plugin/pkg/audit/log`.

pub mod log;
pub mod policy;
mod record;

pub use log::Log;
pub use policy::Policy;
pub use record::{Origin, Record, Recorded};

use std::sync::Arc;

/// What is recorded, and where.
#[derive(Clone)]
pub struct Settings {
    pub policy: Arc<Policy>,
    pub log: Arc<Log>,
}

/// Where a request is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
pub enum Stage {
    RequestReceived,
    /// Of a request that takes long: its headers were sent.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
pub enum Level {
    None,
    Metadata,
    /// With the body of the request.
    Request,
    /// With both bodies.
    RequestResponse,
}
