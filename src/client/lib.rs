//! How every other part reaches the API: requests, list-watch, caches, the reconcile runner, events, the clock.
//!
//! Two transports meet at one seam ([`Transport`]): HTTPS to a server, or a call into the API server of the same process,
//! which the daemon supplies. Authentication, authorization and admission are the same on both.
//!
//! ```text
//! Transport ── Client ── reflector (list, watch, 410, back-off) ──► Cache<K> ──► subscribers mark keys dirty
//!                 ▲                                                    ▲                    │
//!                 │                                                    │ reads              ▼
//!                 └────────── apply ◄── plan(observed, now) ◄──────── runner ◄────── Queue (keys, deadlines)
//! ```
//!
//! What never lives here: a decision about a kind, an edge to the server's rooms, a poll.

pub mod aggregated;
pub mod api;
pub mod apply;
pub mod autoscaler;
pub mod cache;
pub mod clock;
pub mod csi;
pub mod definition;
pub mod devices;
mod error;
pub mod events;
pub mod fake;
pub mod https;
pub mod informers;
mod kinds;
pub mod kubeconfig;
pub mod meters;
pub mod object;
pub mod queue;
pub mod range;
pub mod reflector;
pub mod runner;
pub mod storage;
mod transport;
pub mod watch;

pub use api::{Client, DeleteParams, List, ListParams, Patch, Propagation, WriteParams};
pub use autoscaler::Autoscaler;
pub use cache::Cache;
pub use clock::Clock;
pub use definition::Definition;
pub use error::Error;
pub use events::Recorder;
pub use informers::{Informers, Selector};
pub use object::{Key, Object, Revision};
pub use range::ServiceRange;
pub use transport::{Body, BodyError, Transport, TransportError, empty_body, full_body};

pub type Result<T, E = Error> = std::result::Result<T, E>;
