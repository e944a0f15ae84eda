//! Each node's DNS server: cluster names from a snapshot in memory, everything else from the host's resolvers.
//!
//! Cluster names never leave the node and are answered with no upstream at all. What lives here: zone, answers, the UDP and
//! TCP loops, forwarding with a bounded cache. What never will: search lists (clients walk them) and zone transfers.
//!
//! The cluster's DNS address is put on the bridge of every node ([`crate::Config::dns_ips`]), so the server simply binds it:
//! no rewriting, and processes on the host's network reach it like pods do.
//!
//! Source: RFC 1035, 2308, 6891, 7766, 8767; Kubernetes DNS-Based Service Discovery 1.1.0.

mod answer;
mod server;
mod upstream;
mod zone;

pub use server::{Server, ServerConfig};
pub use zone::{HeadlessEndpoint, ServicePort, ServiceRecord, ZoneSnapshot};

/// Upstreams that are used at most; glibc reads three.
pub const UPSTREAMS_MAX: usize = 4;
/// Where the world expects a DNS server.
pub(crate) const DNS_PORT: u16 = 53;
/// Bytes of a UDP message, ours and those we ask for: fits one frame on any network. Source: DNS Flag Day 2020.
const PAYLOAD_MAX: u16 = 1232;
