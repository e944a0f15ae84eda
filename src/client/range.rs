//! ServiceCIDRs and IPAddresses, as far as clients need them: which ranges there are, and which addresses are taken.
//!
//! Source: `staging/src/k8s.io/api/networking/v1/types.go`; for [`ServiceRange::contains`] `pkg/api/servicecidr`.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is read of a ServiceCIDR.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceRange {
    pub metadata: ObjectMeta,
    pub spec: Spec,
    pub status: State,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub cidrs: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub conditions: Option<Vec<Value>>,
}

impl ServiceRange {
    pub fn cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.spec.cidrs.iter().filter_map(|cidr| cidr.parse().ok())
    }

    /// Whether the address could have come from it: a network's own address and, for IPv4, its broadcast address never do.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.cidrs().any(|cidr| cidr.contains(&ip) && cidr.network() != ip && !(ip.is_ipv4() && cidr.broadcast() == ip))
    }
}

crate::kinds::kinds! {
    ServiceRange: "networking.k8s.io" "v1" "ServiceCIDR" "servicecidrs" ClusterResourceScope;
}

/// What is read of an IPAddress. Its name is the address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    pub metadata: ObjectMeta,
}

impl Address {
    /// For a cache: there may be as many as there are Services.
    pub fn trim(&mut self) {
        let ObjectMeta { name, labels, resource_version, .. } = std::mem::take(&mut self.metadata);
        self.metadata = ObjectMeta { name, labels, resource_version, ..ObjectMeta::default() };
    }

    /// The address, when it was given to a Service.
    pub fn of_service(&self) -> Option<IpAddr> {
        let manager = self.metadata.labels.as_ref()?.get("ipaddress.kubernetes.io/managed-by")?;
        self.metadata.name.as_ref().filter(|_| manager == "ipallocator.k8s.io")?.parse().ok()
    }
}

crate::kinds::kinds! {
    Address: "networking.k8s.io" "v1" "IPAddress" "ipaddresses" ClusterResourceScope;
}
