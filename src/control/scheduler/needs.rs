//! What a pod asks of a node, read from it once.
//!
//! Source: `k8s.io/component-helpers/resource` (pod requests), KEP-753 (sidecars in the sum).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Container, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use types::quantity::Quantity;

/// Amounts by resource name: CPU in thousandths of a core, everything else in units (bytes, devices). Absent means none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Amounts(pub BTreeMap<String, i64>);

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";

impl Amounts {
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let amount = |name: &str, text: &Text| -> Option<i64> {
            let quantity: Quantity = text.0.parse().ok()?;
            Some(if name == CPU { quantity.millis() } else { quantity.value() })
        };
        Self(list.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), amount(k, v)?))).collect())
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            *self.0.entry(name.clone()).or_default() += n;
        }
    }

    /// Entries that reach zero go, so that adding and subtracting the same pod leaves nothing behind.
    pub fn subtract(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            *self.0.entry(name.clone()).or_default() -= n;
        }
        self.0.retain(|_, n| *n != 0);
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            let mine = self.0.entry(name.clone()).or_default();
            *mine = (*mine).max(*n);
        }
    }
}

/// A port that the pod takes on its node. An empty address is every address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub address: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn collides(&self, other: &Self) -> bool {
        let any = |address: &str| address.is_empty() || address == "0.0.0.0" || address == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    pub requests: Amounts,
    pub host_ports: Vec<HostPort>,
    pub node_name: Option<String>,
    pub node_selector: BTreeMap<String, String>,
    pub affinity: Option<Affinity>,
    pub tolerations: Vec<Toleration>,
    pub priority: i32,
    /// Constraints that this scheduler cannot judge yet; such a pod is never placed, and told so.
    pub beyond: Option<&'static str>,
}

impl Needs {
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        Self {
            requests: requests(spec),
            host_ports: host_ports(spec),
            node_name: spec.node_name.clone().filter(|n| !n.is_empty()),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            affinity: spec.affinity.clone(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            beyond: beyond(spec),
        }
    }
}

fn beyond(spec: &PodSpec) -> Option<&'static str> {
    let affinity = spec.affinity.as_ref();
    let required = |terms: Option<usize>| terms.unwrap_or(0) > 0;
    let pod_affinity = affinity.and_then(|a| a.pod_affinity.as_ref());
    let anti = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    if required(pod_affinity.and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref().map(Vec::len)))
        || required(anti.and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref().map(Vec::len)))
    {
        return Some("required pod affinity is not served by this version");
    }
    let spread = spec.topology_spread_constraints.iter().flatten();
    if spread.into_iter().any(|c| c.when_unsatisfiable == "DoNotSchedule") {
        return Some("topology spread with DoNotSchedule is not served by this version");
    }
    None
}

fn container_requests(container: &Container) -> Amounts {
    Amounts::of(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// max over init containers of (that one + the sidecars before it), at least the sum of containers and sidecars; plus
/// overhead. Pod-level requests replace the sum for the resources that they name.
pub fn requests(spec: &PodSpec) -> Amounts {
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&container_requests(container));
    }
    let (mut sidecars, mut starting) = (Amounts::default(), Amounts::default());
    for init in spec.init_containers.iter().flatten() {
        let mine = container_requests(init);
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&mine);
            starting.raise_to(&sidecars);
        } else {
            let mut with = sidecars.clone();
            with.add(&mine);
            starting.raise_to(&with);
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    for (name, n) in Amounts::of(spec.resources.as_ref().and_then(|r| r.requests.as_ref())).0 {
        running.0.insert(name, n);
    }
    running.add(&Amounts::of(spec.overhead.as_ref()));
    running
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let init = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(init).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            Some(HostPort {
                address: p.host_ip.clone().unwrap_or_default(),
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sidecars_and_init_containers_count_as_upstream_sums_them() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (init, containers, expected) in [
            (vec![], vec![container("1"), container("500m")], 1500),
            (vec![container("2")], vec![container("1")], 2000),
            (vec![sidecar("1"), container("2")], vec![container("1")], 3000),
            (vec![container("2"), sidecar("1")], vec![container("1")], 2000),
            (vec![sidecar("1")], vec![container("1")], 2000),
        ] {
            let spec: PodSpec =
                serde_json::from_value(json!({"initContainers": init, "containers": containers})).unwrap();
            assert_eq!(requests(&spec).get(CPU), expected, "{init:?}");
        }
    }

    #[test]
    fn host_ports_collide() {
        let port = |address: &str, port: i32| HostPort { address: address.into(), protocol: "TCP".into(), port };
        assert!(port("", 80).collides(&port("10.0.0.1", 80)));
        assert!(port("0.0.0.0", 80).collides(&port("10.0.0.1", 80)));
        assert!(!port("10.0.0.2", 80).collides(&port("10.0.0.1", 80)));
        assert!(!port("", 80).collides(&port("", 81)));
    }
}
