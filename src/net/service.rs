//! The service table: which destination leads to which endpoints. Desired state, whole; the difference is this room's work.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything that is to be balanced on this node, each destination with its endpoints.
///
/// `node` expands a Service into its frontends: one per cluster IP, external IP or load balancer IP and port, one
/// with [`Frontend::address`] `None` per node port. Traffic policies are expressed by the endpoints that are listed: `Local`
/// lists this node's only. A frontend without endpoints is refused at once. Headless services need nothing here.
///
/// Source addresses are kept wherever the answer finds its way back through this host by itself; traffic that leaves through
/// another interface than the bridge, loops back to its sender, or came from loopback is masqueraded.
///
/// A node port on 127.0.0.1 reaches those of its endpoints that are pods of this node; on `::1` there are none (the kernel
/// never routes that address).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// Destination to endpoints. Bounded by what the kernel takes; 5,000 frontends load in about 40 ms.
    pub frontends: BTreeMap<Frontend, Backends>,
    /// Ranges of services besides the configuration's. Routed to the bridge unless the host has a way of its own; what would
    /// leave by the bridge and nobody serves is refused. A few; those in a range of the configuration change nothing.
    pub ranges: BTreeSet<IpNet>,
}

/// A destination as a packet carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// `None`: every local address of the node (node ports), in both families as far as endpoints of the family exist.
    pub address: Option<IpAddr>,
    /// Transport.
    pub protocol: Protocol,
    /// Destination port, not 0.
    pub port: u16,
}

/// The endpoints of a frontend, each with the same chance. Those of another family than the frontend's are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    /// Ready endpoints.
    pub endpoints: BTreeSet<Endpoint>,
    /// Whether a client stays with its endpoint.
    pub affinity: Affinity,
}

/// Address and port that serve a frontend.
pub type Endpoint = SocketAddr;

/// Session affinity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Affinity {
    /// Each connection is balanced anew.
    #[default]
    None,
    /// Connections from one source address go to the same endpoint until none was opened for this many seconds
    /// (`ClientIP`; upstream's default is 10,800).
    ClientIp {
        /// 1 to 86,400.
        timeout_seconds: u32,
    },
}

/// Transport protocols that services know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    /// The protocol's number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
