//! The node agent: makes the pods that the API assigns to this node run here, and tells the API how they are.
//!
//! What lives here: the Node object and its Lease, a worker per pod ([`worker`]), the translation of Pods and Services into the
//! plain structs of `runtime` and `net`, volumes, probes, and the HTTPS server that the API server calls for logs, exec, attach
//! and port-forward. What never will: a system call for a container (that is `runtime`), a packet rule (that is `net`), a
//! store (all state is the API's, the runtime's, or derived).
//!
//! ```text
//! API ──watch──► agent ──► worker per pod ──► runtime · images · net · volumes
//!  ▲                          │ status, events
//!  └──────────────────────────┘
//! API server ──HTTPS 10250──► http ──► stream (WebSocket, SPDY) ──► runtime sessions, log files
//! ```

mod admit;
mod agent;
mod config;
mod csi;
mod error;
mod grpc;
mod host;
pub mod http;
pub mod images;
mod lease;
mod measure;
mod node_object;
pub mod pod;
mod probe;
#[cfg(test)]
mod room_tests;
mod services;
mod status;
pub mod stream;
pub mod translate;
pub mod volume;
pub mod worker;

pub use agent::{Handle, Parts, start};
pub use config::{Config, KUBELET_DIR, KUBELET_PORT, Tls};
pub use error::Error;
pub use host::{Dns, Network};
pub use images::{Credentials, Image, ImageConfig, Images, PullError};
