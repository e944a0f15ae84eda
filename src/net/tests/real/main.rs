//! The network room against the kernel. Every test has a host of its own (namespaces, see `host`); `ip` and `nft` are used to
//! look and to build the outside world, never by what is tested. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dns;
mod host;
mod mend;
mod pods;
mod services;
mod table;

use std::net::SocketAddr;

use net::{Affinity, Backends, Config, Frontend, Network, PodNet, PodSpec, Protocol, ServiceTable};

pub fn config() -> Config {
    Config {
        pod_cidrs: ["10.42.0.0/24", "fd42::/64"].map(|n| n.parse().unwrap()).into(),
        cluster_cidrs: ["10.42.0.0/16", "fd42::/56"].map(|n| n.parse().unwrap()).into(),
        service_cidrs: ["10.43.0.0/16", "fd43::/112"].map(|n| n.parse().unwrap()).into(),
        dns_ips: ["10.43.0.10", "fd43::a"].map(|n| n.parse().unwrap()).into(),
        netns_dir: "/run/kedge/netns".into(),
        state_dir: "/run/kedge/net".into(),
        mtu: None,
    }
}

pub fn spec(id: &str) -> PodSpec {
    PodSpec { id: id.into(), host_ports: Vec::new(), sysctls: Default::default() }
}

/// As many pods as names.
pub async fn pods<const N: usize>(network: &Network, ids: [&str; N]) -> [PodNet; N] {
    let mut all = Vec::new();
    for id in ids {
        all.push(network.add_pod(spec(id)).await.unwrap());
    }
    all.try_into().unwrap()
}

/// `*:30080/tcp` or `10.43.0.7:80/udp` with endpoints.
pub fn frontend(text: &str, endpoints: impl IntoIterator<Item = SocketAddr>) -> (Frontend, Backends) {
    let (destination, protocol) = text.rsplit_once('/').unwrap();
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => panic!("{other}"),
    };
    let frontend = match destination.strip_prefix("*:") {
        Some(port) => Frontend { address: None, protocol, port: port.parse().unwrap() },
        None => {
            let address: SocketAddr = destination.parse().unwrap();
            Frontend { address: Some(address.ip()), protocol, port: address.port() }
        }
    };
    (frontend, Backends { endpoints: endpoints.into_iter().collect(), affinity: Affinity::None })
}

pub fn table(rows: impl IntoIterator<Item = (Frontend, Backends)>) -> ServiceTable {
    ServiceTable { frontends: rows.into_iter().collect(), ..ServiceTable::default() }
}
