//! The cluster's zone as data.
//!
//! Source: Kubernetes DNS-Based Service Discovery, schema version 1.1.0.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What the cluster's names are at one moment. Replaced whole by [`crate::dns::Server::set_zone`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneSnapshot {
    /// The cluster domain, such as `cluster.local`, without a leading or trailing dot.
    pub domain: String,
    /// Namespaces that exist: pod names (`10-42-0-7.<namespace>.pod.<domain>`) resolve in these.
    pub namespaces: BTreeSet<String>,
    /// Services by (namespace, name).
    pub services: BTreeMap<(String, String), ServiceRecord>,
}

/// What one service's names lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceRecord {
    /// A service with cluster IPs: A and AAAA of these, SRV per named port, PTR back.
    ClusterIp {
        /// One per family at most.
        ips: Vec<IpAddr>,
        /// All ports; those without a name have no SRV record.
        ports: Vec<ServicePort>,
    },
    /// A headless service: A and AAAA of every endpoint, a name and a PTR per endpoint, SRV per named port and endpoint.
    Headless {
        /// Endpoints that are to be published: ready ones, or all with `publishNotReadyAddresses`.
        endpoints: BTreeSet<HeadlessEndpoint>,
    },
    /// `ExternalName`: a CNAME to this name.
    ExternalName(String),
}

/// A port of a service or of a headless endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// `http` in `_http._tcp.web.default.svc.cluster.local`; empty: no SRV record.
    pub name: String,
    /// Transport.
    pub protocol: crate::Protocol,
    /// Port number in the SRV record: the service's port, for headless services the endpoint's.
    pub port: u16,
}

/// One endpoint of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeadlessEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// The pod's `hostname` if its `subdomain` is this service; else the address with dashes is used as its name.
    pub hostname: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}
