//! The pod network's settings, from the cluster's.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Prefix lengths of a node's share of the cluster's ranges. Source: upstream's `--node-cidr-mask-size-*` defaults.
const NODE_PREFIX_V4: u8 = 24;
const NODE_PREFIX_V6: u8 = 64;

/// The first share of each cluster range: what the only node of a cluster gets.
pub fn node_ranges(cluster: &[IpNet]) -> Result<Vec<IpNet>> {
    let share = |range: &IpNet| -> Result<IpNet> {
        Ok(match range {
            IpNet::V4(v4) => Ipv4Net::new(v4.network(), v4.prefix_len().max(NODE_PREFIX_V4))?.into(),
            IpNet::V6(v6) => Ipv6Net::new(v6.network(), v6.prefix_len().max(NODE_PREFIX_V6))?.into(),
        })
    };
    cluster.iter().map(|r| share(r).with_context(|| format!("cluster range {r}"))).collect()
}

/// `pods` are this node's ranges, `cluster` those of all nodes.
pub fn config(run_dir: &Path, pods: &[IpNet], cluster: &[IpNet], services: &[IpNet], dns: &[IpAddr]) -> net::Config {
    net::Config {
        pod_cidrs: pods.to_vec(),
        cluster_cidrs: cluster.to_vec(),
        service_cidrs: services.to_vec(),
        dns_ips: dns.to_vec(),
        netns_dir: run_dir.join("netns"),
        state_dir: run_dir.join("net"),
        mtu: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_share() {
        let ranges: Vec<IpNet> = ["10.42.0.0/16", "fd42::/56", "10.0.0.0/26"].map(|t| t.parse().unwrap()).into();
        let shares: Vec<String> = node_ranges(&ranges).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shares, ["10.42.0.0/24", "fd42::/64", "10.0.0.0/26"]);
    }
}
