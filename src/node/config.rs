//! What the node agent is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

/// Source of the defaults: CONTRACT (flags and paths), kubelet configuration v1beta1.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    /// InternalIPs of the node, primary family first; at least one.
    pub node_ips: Vec<IpAddr>,
    /// Extra labels at registration (`--node-label`).
    pub labels: BTreeMap<String, String>,
    /// Taints at registration, `key=value:Effect` (`--node-taint`).
    pub taints: Vec<String>,
    pub pods_max: u32,
    /// Pod ranges that the network was given; written into a new Node's spec.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The host's resolver configuration, for dnsPolicy Default.
    pub host_resolv_conf: PathBuf,
    /// `/var/lib/kedge/agent`: pods' files live below `pods/<uid>`.
    pub data_dir: PathBuf,
    /// `/var/lib/kubelet`: the name by which drivers and their pods know what lies below `data_dir`.
    pub kubelet_dir: PathBuf,
    /// `/var/lib/kedge/volumes`: the folders of local-path volumes.
    pub volumes_dir: PathBuf,
    /// `/run/kedge`: memory-backed volumes live below `volumes/<uid>`.
    pub run_dir: PathBuf,
    /// `/var/log/pods`, and `/var/log/containers` for the links.
    pub pod_logs_dir: PathBuf,
    /// What `/logs/` of the node's server shows.
    pub system_logs_dir: PathBuf,
    pub container_logs_dir: PathBuf,
    /// Where the HTTPS server listens; port 0: the kernel chooses.
    pub listen: SocketAddr,
    /// Serving certificate chain and key, and the CA that client certificates must come from. `None`: no server.
    pub tls: Option<Tls>,
    /// Kept back from pods: millicores and bytes.
    pub reserved_cpu_millis: u64,
    pub reserved_memory_bytes: u64,
    /// `v1.36.x+kedge…`.
    pub version: String,
    /// Log rotation.
    pub log_bytes_max: u64,
    pub log_files_max: u32,
}

/// PEM texts.
#[derive(Clone)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub client_ca: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls { .. }")
    }
}

/// The port that API servers expect a node's server on.
pub const KUBELET_PORT: u16 = 10250;

/// Where drivers look for the node. Source: the kubelet's `--root-dir`.
pub const KUBELET_DIR: &str = "/var/lib/kubelet";

impl Config {
    /// Everything as the contract has it; the name and the addresses are the caller's to know.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>) -> Config {
        Config {
            node_name: node_name.into(),
            node_ips,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            pods_max: 250,
            pod_cidrs: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            host_resolv_conf: "/etc/resolv.conf".into(),
            data_dir: "/var/lib/kedge/agent".into(),
            kubelet_dir: KUBELET_DIR.into(),
            volumes_dir: "/var/lib/kedge/volumes".into(),
            run_dir: "/run/kedge".into(),
            pod_logs_dir: "/var/log/pods".into(),
            system_logs_dir: "/var/log".into(),
            container_logs_dir: "/var/log/containers".into(),
            listen: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), KUBELET_PORT),
            tls: None,
            reserved_cpu_millis: 0,
            reserved_memory_bytes: 100 << 20,
            version: "v1.36.0+kedge".into(),
            log_bytes_max: 10 << 20,
            log_files_max: 5,
        }
    }
}
