//! What a pod asks of the network and what it gets.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{Error, Protocol};

/// A pod that gets a network namespace of its own. (Pods on the host's network are not told to this room at all.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Unique among the pods of this node, for good: the pod's uid. 1 to 63 of `[a-z0-9-]`.
    pub id: String,
    /// Ports of the node that lead to this pod.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Namespaced sysctls, written inside the pod's namespace before anything else runs there. Names in dotted form,
    /// `net.` only. `net.ipv4.ip_unprivileged_port_start=0` and an open `net.ipv4.ping_group_range` are set unless named here, as
    /// container runtimes do, so that a pod without capabilities can serve port 80 and ping.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
}

/// One `hostPort` of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// `None`: on every address of the node, loopback (IPv4) included.
    pub host_ip: Option<IpAddr>,
    /// Port on the node, 1 to 65535.
    pub host_port: u16,
    /// Port in the pod.
    pub pod_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// What a pod was given. Stays the same for the pod's life, daemon restarts included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNet {
    /// The pod's id.
    pub id: String,
    /// The pinned namespace, to be joined by path.
    pub netns: PathBuf,
    /// One address per family, primary family first.
    pub ips: Vec<IpAddr>,
    /// The bridge's addresses, in the same order.
    pub gateways: Vec<IpAddr>,
    /// Name of the host's end of the link; its counters are the pod's traffic (seen from the other side).
    pub link: String,
}

impl PodSpec {
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if self.id.is_empty() || self.id.len() > 63 || !self.id.bytes().all(plain) {
            return Err(Error::invalid("pod id", format!("{:?} is not 1 to 63 of [a-z0-9-]", self.id)));
        }
        for name in self.sysctls.keys() {
            let fine =
                |p: &str| !p.is_empty() && p.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'));
            if !name.starts_with("net.") || !name.split('.').all(fine) {
                return Err(Error::invalid("sysctl", format!("{name:?} is not a name under net.")));
            }
        }
        if self.host_ports.iter().any(|p| p.host_port == 0 || p.pod_port == 0) {
            return Err(Error::invalid("host port", "port 0"));
        }
        Ok(())
    }
}

impl HostPort {
    /// Whether two host ports could not be told apart by a packet.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip)
    }

    /// The pod's side, for the pod address of the fitting family.
    pub(crate) fn target(&self, ip: IpAddr) -> Option<SocketAddr> {
        (self.host_ip.is_none_or(|h| h.is_ipv4() == ip.is_ipv4())).then(|| SocketAddr::new(ip, self.pod_port))
    }
}
