//! The node's network: pod links, addresses, the service table and DNS.
//!
//! What lives here: desired → diff → apply, for links and routes (rtnetlink), for one nftables table (nf_tables over
//! netlink, own encoder) and for a DNS server that answers from a zone snapshot.
//! What never will: Kubernetes objects. `node` translates Pods, Services and EndpointSlices into the plain structs of
//! this room; whoever reads this room needs no API server. No `nft`, `ip` or `iptables` binary is ever run, and no table,
//! link or namespace that Kedge did not make is ever touched.
//!
//! ```text
//!  node ──PodSpec──────▶ Network (handle) ──bounded queue──▶ one thread: ipam · links · namespaces · nft ──▶ kernel
//!       ──ServiceTable─▶                                      (the only one that enters namespaces)
//!       ──ZoneSnapshot─▶ dns::Server (handle) ──arc-swap──▶ tokio tasks: UDP · TCP ──▶ upstreams
//! ```
//!
//! Everything the host carries for Kedge's network is: the bridge [`BRIDGE`] with its addresses and routes, links whose
//! name starts with [`PREFIX`], the nft table [`TABLE`], namespace pins in `netns_dir`, and a few sysctls whose former values
//! are remembered. [`remove_all`] takes all of it back.

mod config;
mod conntrack;
pub mod dns;
mod error;
mod host;
mod ipam;
mod links;
mod netlink;
mod netns;
mod network;
mod nft;
mod pod;
mod service;
mod sysctl;
mod watch;
mod worker;

pub use config::Config;
pub use error::Error;
pub use network::{Network, remove_all};
pub use pod::{HostPort, PodNet, PodSpec};
pub use service::{Affinity, Backends, Endpoint, Frontend, Protocol, ServiceTable};

/// Name of the bridge that the pods of this node hang on.
pub const BRIDGE: &str = "kedge0";
/// Name of the one nftables table (family inet).
pub const TABLE: &str = "kedge";
/// Prefix of namespace pins and of the host ends of pod links.
pub const PREFIX: &str = "kedge-";
