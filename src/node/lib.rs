//! The node agent: makes the pods that the API assigns to this node run here, and tells the API how they are.
//!
//! What lives here: the Node object and its Lease, a worker per pod ([`worker`]), the translation of Pods and Services into the
//! plain structs of `runtime` and `net`, volumes, probes, and the HTTPS server that the API server calls for logs, exec, attach
//! and port-forward. What never will: a system call for a container (that is `runtime`), a packet rule (that is `net`), a
//! store (all state is the API's, the runtime's, or derived).

mod config;
pub mod images;
pub mod pod;
pub mod translate;
pub mod volume;
pub mod worker;

pub use config::{Config, KUBELET_PORT, Tls};
pub use images::{Credentials, Image, ImageConfig, Images, PullError};
