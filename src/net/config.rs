//! What a node's network is made from. Plain data, checked once at start.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Error;

/// Configuration of [`crate::Network`]. Each range list holds at most one range per family, in the cluster's family order
/// (the first is the primary family: it comes first in [`crate::PodNet::ips`]).
///
/// IPv6 ranges are ignored on hosts without IPv6, found out at start: pods then get IPv4 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Pod ranges of this node, such as `10.42.0.0/24` and `fd42::/64`. The first address of each is the bridge's.
    pub pod_cidrs: Vec<IpNet>,
    /// Pod ranges of the whole cluster: traffic between them keeps its source address.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service ranges. Routed to the bridge; what nobody serves in them is rejected on this host.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses of the cluster's DNS service, inside the service ranges. They are put on the bridge of every node, so that
    /// a process here, in a pod or on the host network, always reaches this node's own server. A [`crate::Frontend`]
    /// with one of these addresses is ignored.
    pub dns_ips: Vec<IpAddr>,
    /// Where namespaces are pinned, such as `/run/kedge/netns`. Files are named `kedge-<pod id>`.
    pub netns_dir: PathBuf,
    /// Small files with what each pod was given, such as `/run/kedge/net`: a few hundred bytes per pod, lost at boot like the
    /// namespaces they describe.
    pub state_dir: PathBuf,
    /// MTU in bytes of the bridge and the pod links; `None`: the kernel's 1500. An overlay needs less.
    pub mtu: Option<u32>,
}

impl Config {
    /// Checks what no kernel call would explain well.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (what, list) in [
            ("pod_cidrs", &self.pod_cidrs),
            ("cluster_cidrs", &self.cluster_cidrs),
            ("service_cidrs", &self.service_cidrs),
        ] {
            if list.iter().filter(|n| n.addr().is_ipv4()).count() > 1
                || list.iter().filter(|n| n.addr().is_ipv6()).count() > 1
            {
                return Err(Error::invalid(what, "more than one range of a family"));
            }
        }
        if self.pod_cidrs.is_empty() {
            return Err(Error::invalid("pod_cidrs", "no range"));
        }
        for net in &self.pod_cidrs {
            // Two addresses that are no pod's (network, gateway), and broadcast for IPv4.
            if net.max_prefix_len() - net.prefix_len() < 2 {
                return Err(Error::invalid("pod_cidrs", format!("{net} has no room for pods")));
            }
        }
        for ip in &self.dns_ips {
            if !self.service_cidrs.iter().any(|n| n.contains(ip)) {
                return Err(Error::invalid("dns_ips", format!("{ip} is outside the service ranges")));
            }
        }
        Ok(())
    }

    pub(crate) fn without_v6(mut self) -> Self {
        for list in [&mut self.pod_cidrs, &mut self.cluster_cidrs, &mut self.service_cidrs] {
            list.retain(|n| n.addr().is_ipv4());
        }
        self.dns_ips.retain(IpAddr::is_ipv4);
        self
    }
}

/// The IPv4 range of a list.
pub(crate) fn v4(list: &[IpNet]) -> Option<Ipv4Net> {
    list.iter().find_map(|n| if let IpNet::V4(n) = n { Some(n.trunc()) } else { None })
}

/// The IPv6 range of a list.
pub(crate) fn v6(list: &[IpNet]) -> Option<Ipv6Net> {
    list.iter().find_map(|n| if let IpNet::V6(n) = n { Some(n.trunc()) } else { None })
}

/// The bridge's own address in a pod range: the first one after the network address.
pub(crate) fn gateway(net: IpNet) -> IpAddr {
    match net.trunc() {
        IpNet::V4(n) => Ipv4Addr::from(u32::from(n.addr()) + 1).into(),
        IpNet::V6(n) => Ipv6Addr::from(u128::from(n.addr()) + 1).into(),
    }
}
