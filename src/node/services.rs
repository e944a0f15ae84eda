//! Services and EndpointSlices into the network's service table and the DNS zone; a pod's host ports into its network. Pure.
//!
//! Source: `pkg/proxy/topology.go`, `pkg/proxy/serviceport.go`; Kubernetes DNS-Based Service Discovery 1.1.0.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use client::ServiceRange;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use net::dns::{HeadlessEndpoint, ServicePort as ZonePort, ServiceRecord, ZoneSnapshot};
use net::{Affinity, Backends, Frontend, HostPort, PodSpec, Protocol, ServiceTable};

use crate::pod;
use crate::translate::container::sysctls;

/// How a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const AFFINITY_SECONDS: u32 = 10_800;

pub fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    }
}

/// What the network needs to know of a pod.
pub fn pod_network(pod: &Pod) -> PodSpec {
    let mut host_ports = Vec::new();
    for (_, c) in pod::containers(pod) {
        for p in c.ports.iter().flatten() {
            if let (Some(host), Ok(own)) =
                (p.host_port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0), u16::try_from(p.container_port))
            {
                host_ports.push(HostPort {
                    // The unspecified address means every address.
                    host_ip: p
                        .host_ip
                        .as_deref()
                        .and_then(|ip| ip.parse::<IpAddr>().ok())
                        .filter(|ip| !ip.is_unspecified()),
                    host_port: host,
                    pod_port: own,
                    protocol: protocol(p.protocol.as_deref()),
                });
            }
        }
    }
    PodSpec { id: pod::uid(pod).to_owned(), host_ports, sysctls: sysctls(pod).0 }
}

type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

fn by_service(slices: &[Arc<EndpointSlice>]) -> Slices<'_> {
    let mut map = Slices::new();
    for slice in slices {
        let name = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
        if let (Some(name), Some(namespace)) = (name, slice.metadata.namespace.as_deref()) {
            map.entry((namespace, name.as_str())).or_default().push(slice);
        }
    }
    map
}

fn names(service: &Service) -> (&str, &str) {
    (service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref().unwrap_or_default())
}

fn headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    if all.is_empty() { spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect() } else { all }
}

fn ready(e: &Endpoint) -> bool {
    e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

/// Still answering, though on its way out: better than nobody.
fn last_resort(e: &Endpoint) -> bool {
    e.conditions.as_ref().is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true))
}

/// Endpoints of one service port; `node`: only those on this node.
fn endpoints(slices: &[&EndpointSlice], port: &ServicePort, node: Option<&str>) -> BTreeSet<SocketAddr> {
    let collect = |wanted: fn(&Endpoint) -> bool| {
        let mut set = BTreeSet::new();
        for slice in slices {
            let own = slice.ports.iter().flatten().find(|p| {
                p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                    && protocol(p.protocol.as_deref()) == protocol(port.protocol.as_deref())
            });
            let Some(number) = own.and_then(|p| p.port).and_then(|n| u16::try_from(n).ok()) else { continue };
            for e in slice.endpoints.iter().flatten().filter(|e| wanted(e)) {
                if node.is_none_or(|n| e.node_name.as_deref() == Some(n)) {
                    let ips = e.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
                    set.extend(ips.map(|ip| SocketAddr::new(ip, number)));
                }
            }
        }
        set
    };
    let set = collect(ready);
    if set.is_empty() { collect(last_resort) } else { set }
}

/// Every destination that is balanced on this node, and the ranges that their addresses are from.
pub fn table(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    ranges: &[Arc<ServiceRange>],
    node: &str,
) -> ServiceTable {
    let slices = by_service(slices);
    let ranges = ranges.iter().flat_map(|range| range.cidrs()).collect();
    let mut table = ServiceTable { ranges, ..ServiceTable::default() };
    for service in services {
        let Some(spec) = &service.spec else { continue };
        if spec.type_.as_deref() == Some("ExternalName") || headless(spec) {
            continue;
        }
        let own = slices.get(&names(service)).map(Vec::as_slice).unwrap_or_default();
        let affinity = match spec.session_affinity.as_deref() {
            Some("ClientIP") => {
                let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
                let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
                Affinity::ClientIp { timeout_seconds: seconds.unwrap_or(AFFINITY_SECONDS) }
            }
            Some(_) | None => Affinity::None,
        };
        let local = |policy: &Option<String>| (policy.as_deref() == Some("Local")).then_some(node);
        let ingress =
            service.status.iter().filter_map(|s| s.load_balancer.as_ref()).flat_map(|l| l.ingress.iter().flatten());
        let external: Vec<IpAddr> = spec
            .external_ips
            .iter()
            .flatten()
            .chain(ingress.filter_map(|i| i.ip.as_ref()))
            .filter_map(|ip| ip.parse().ok())
            .collect();
        for port in spec.ports.iter().flatten() {
            let proto = protocol(port.protocol.as_deref());
            let mut put = |address: Option<IpAddr>, number: i32, endpoints: BTreeSet<SocketAddr>| {
                let Some(number) = u16::try_from(number).ok().filter(|n| *n > 0) else { return };
                let endpoints =
                    endpoints.into_iter().filter(|e| address.is_none_or(|a| a.is_ipv4() == e.is_ipv4())).collect();
                table
                    .frontends
                    .insert(Frontend { address, protocol: proto, port: number }, Backends { endpoints, affinity });
            };
            let inside = endpoints(own, port, local(&spec.internal_traffic_policy));
            for ip in cluster_ips(spec) {
                put(Some(ip), port.port, inside.clone());
            }
            let outside = endpoints(own, port, local(&spec.external_traffic_policy));
            for ip in &external {
                put(Some(*ip), port.port, outside.clone());
            }
            if let Some(node_port) = port.node_port {
                put(None, node_port, outside);
            }
        }
    }
    table
}

/// The cluster's names.
pub fn zone(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    namespaces: BTreeSet<String>,
    domain: &str,
) -> ZoneSnapshot {
    let slices = by_service(slices);
    let mut zone = ZoneSnapshot { domain: domain.to_owned(), namespaces, services: BTreeMap::new() };
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let (namespace, name) = names(service);
        let record = if spec.type_.as_deref() == Some("ExternalName") {
            ServiceRecord::ExternalName(spec.external_name.clone().unwrap_or_default())
        } else if headless(spec) {
            let own = slices.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
            ServiceRecord::Headless { endpoints: headless_endpoints(own) }
        } else {
            let port = |p: &ServicePort| ZonePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(p.protocol.as_deref()),
                port: u16::try_from(p.port).unwrap_or(0),
            };
            ServiceRecord::ClusterIp { ips: cluster_ips(spec), ports: spec.ports.iter().flatten().map(port).collect() }
        };
        zone.services.insert((namespace.to_owned(), name.to_owned()), record);
    }
    zone
}

fn headless_endpoints(slices: &[&EndpointSlice]) -> BTreeSet<HeadlessEndpoint> {
    let mut set = BTreeSet::new();
    for slice in slices {
        let ports: Vec<ZonePort> = slice
            .ports
            .iter()
            .flatten()
            .map(|p| ZonePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(p.protocol.as_deref()),
                port: p.port.and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
            })
            .collect();
        for e in slice.endpoints.iter().flatten().filter(|e| ready(e)) {
            for ip in e.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                set.insert(HeadlessEndpoint { ip, hostname: e.hostname.clone(), ports: ports.clone() });
            }
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::translate::golden;

    fn service(name: &str, spec: Value) -> Arc<Service> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})).unwrap())
    }

    fn slice(service: &str, endpoints: Value) -> Arc<EndpointSlice> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("{service}-1"), "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": endpoints}))
            .unwrap(),
        )
    }

    fn shown(table: &ServiceTable) -> String {
        let mut text = String::new();
        for (f, b) in &table.frontends {
            let address = f.address.map_or("node".to_owned(), |a| a.to_string());
            let ends: Vec<String> = b.endpoints.iter().map(ToString::to_string).collect();
            text.push_str(&format!("{address} {} {} {:?} -> {}\n", f.protocol, f.port, b.affinity, ends.join(" ")));
        }
        text
    }

    fn world() -> (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>) {
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        let services = vec![
            service(
                "web",
                json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd43::7"], "ports": ports, "internalTrafficPolicy": "Cluster"}),
            ),
            service(
                "node",
                json!({"type": "NodePort", "clusterIP": "10.43.0.8", "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
                "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
            ),
            service("less", json!({"clusterIP": "None", "ports": ports})),
            service("ext", json!({"type": "ExternalName", "externalName": "db.example"})),
            service("empty", json!({"clusterIP": "10.43.0.9", "ports": ports, "externalIPs": ["192.0.2.1"]})),
            service("leaving", json!({"clusterIP": "10.43.0.10", "ports": ports})),
        ];
        let two = json!([
            {"addresses": ["10.42.0.5"], "nodeName": "me", "conditions": {"ready": true}},
            {"addresses": ["10.42.1.5"], "nodeName": "other", "conditions": {"ready": true}},
            {"addresses": ["10.42.1.6"], "nodeName": "other", "conditions": {"ready": false}}]);
        let slices = vec![
            slice("web", two.clone()),
            slice("node", two.clone()),
            slice(
                "less",
                json!([{"addresses": ["10.42.0.5"], "hostname": "h0", "conditions": {"ready": true}}, {"addresses": ["10.42.0.6"], "conditions": {"ready": false}}]),
            ),
            slice(
                "leaving",
                json!([{"addresses": ["10.42.0.9"], "conditions": {"ready": false, "serving": true, "terminating": true}}]),
            ),
        ];
        (services, slices)
    }

    #[test]
    fn tables() {
        let (services, slices) = world();
        golden::check("services/table.txt", &shown(&table(&services, &slices, &[], "me")));
    }

    #[test]
    fn ranges() {
        let range = |cidrs: Value| Arc::new(serde_json::from_value(json!({"spec": {"cidrs": cidrs}})).unwrap());
        let all = [range(json!(["10.43.0.0/16", "fd43::/112"])), range(json!(["203.0.113.0/24"]))];
        let ranges: Vec<String> = table(&[], &[], &all, "me").ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.43.0.0/16", "203.0.113.0/24", "fd43::/112"]);
    }

    #[test]
    fn zones() {
        let (services, slices) = world();
        let zone = zone(&services, &slices, ["ns".to_owned()].into(), "cluster.local");
        golden::check("services/zone.txt", &format!("{zone:#?}\n"));
    }

    #[test]
    fn host_ports() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080, "hostIP": "0.0.0.0"}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"},
            {"containerPort": 90}]}]}}))
        .unwrap();
        let spec = pod_network(&pod);
        assert_eq!(spec.host_ports.len(), 2);
        assert_eq!(
            (spec.host_ports[0].host_ip, spec.host_ports[0].host_port, spec.host_ports[0].pod_port),
            (None, 8080, 80)
        );
        assert_eq!(
            (spec.host_ports[1].host_ip, spec.host_ports[1].protocol),
            (Some("10.0.0.1".parse().unwrap()), Protocol::Udp)
        );
    }
}
