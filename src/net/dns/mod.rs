//! Each node's DNS server: cluster names from a snapshot in memory, everything else from the host's resolvers.
//!
//! Cluster names never leave the node and are answered with no upstream at all. What lives here: zone, answers, the UDP and
//! TCP loops, forwarding with a bounded cache. What never will: search lists (clients walk them) and zone transfers.

mod server;
mod zone;

pub use server::{Server, ServerConfig, UPSTREAMS_MAX};
pub use zone::{HeadlessEndpoint, ServicePort, ServiceRecord, ZoneSnapshot};
