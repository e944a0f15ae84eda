//! What a pod asks of a node, and what it takes where it is; read from it once.
//!
//! Source: `k8s.io/component-helpers/resource` (pod requests), KEP-753 (sidecars in the sum), KEP-1287 (resize), KEP-2837
//! (resources of the pod as a whole), `pkg/scheduler/util/pod_resources.go` (what a container without requests counts as).

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Key, Object as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, NodeAffinity, Pod, PodSpec, Toleration, TopologySpreadConstraint,
};
use types::selector::LabelSelector;

use super::among::Terms;
use super::amounts::{Amounts, CPU, MEMORY, amount};
use super::profile::{Profile, system_constraints};
use super::spread::Constraint;
use crate::pods;

/// What a container without requests counts as when nodes are scored, so that such pods spread too.
const UNASKED_CPU_MILLIS: i64 = 100;
const UNASKED_MEMORY_BYTES: i64 = 200 << 20;

/// A port that the pod takes on its node. An empty address is every address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub address: Box<str>,
    pub protocol: Box<str>,
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

/// A pod as it counts where it is: bound, about to be, or expected after others have gone.
#[derive(Debug, Clone, Default)]
pub struct Resident {
    pub pod: Arc<Pod>,
    pub requests: Amounts,
    /// CPU and memory for scores, with something for containers that ask for nothing.
    pub filled: [i64; 2],
    pub ports: Vec<HostPort>,
    pub terms: Option<Box<Terms>>,
}

impl Resident {
    pub fn of(pod: &Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let filled = requests(pod, true);
        Self {
            requests: requests(pod, false),
            filled: [filled.cpu, filled.memory],
            ports: spec.map(host_ports).unwrap_or_default(),
            terms: Terms::of(pod),
            pod: Arc::clone(pod),
        }
    }

    /// Whether it takes the same, and belongs to the same sets of pods, as another state of the pod.
    pub fn counts_as(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.pod.metadata, &other.pod.metadata);
        self.requests == other.requests
            && self.filled == other.filled
            && self.ports == other.ports
            && self.terms == other.terms
            && mine.labels == theirs.labels
            && mine.deletion_timestamp.is_some() == theirs.deletion_timestamp.is_some()
    }

    pub fn key(&self) -> Key {
        self.pod.key()
    }
    pub fn namespace(&self) -> &str {
        self.pod.namespace()
    }
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }
    /// When it started; one that has not is the youngest of all.
    pub fn started(&self) -> Timestamp {
        let status = self.pod.status.as_ref();
        status.and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |t| t.0)
    }
    /// The node on which it hopes to find room, where others have been told to go.
    pub fn nominated(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|n| !n.is_empty())
    }
}

/// What a pod asks of the node that is to take it.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    pub resident: Arc<Resident>,
    /// Constraints on its spread that must hold, and such that should.
    pub hard: Vec<Constraint>,
    pub soft: Vec<Constraint>,
    /// Whether nodes without all of their labels are no domains of the soft ones.
    pub all_topologies: bool,
}

impl Needs {
    /// `siblings` selects the pods of the same workload or services, for constraints that the pod does not have itself.
    pub fn of(pod: &Arc<Pod>, profile: &Profile, siblings: Option<LabelSelector>) -> Self {
        let own = pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
        let with = |all: &[TopologySpreadConstraint], action: &str, shared: Option<&LabelSelector>| {
            let wanted = all.iter().filter(|c| c.when_unsatisfiable == action);
            wanted.map(|c| Constraint::of(c, pod, shared)).collect::<Vec<_>>()
        };
        let siblings = siblings.filter(|s| !s.is_empty());
        let (hard, soft) = match (&profile.spread, siblings) {
            _ if !own.is_empty() => (with(own, "DoNotSchedule", None), with(own, "ScheduleAnyway", None)),
            (_, None) => (Vec::new(), Vec::new()),
            (Some(defaults), Some(s)) => {
                (with(defaults, "DoNotSchedule", Some(&s)), with(defaults, "ScheduleAnyway", Some(&s)))
            }
            (None, Some(s)) => (Vec::new(), with(&system_constraints(), "ScheduleAnyway", Some(&s))),
        };
        let all_topologies = !own.is_empty() || profile.spread.is_some();
        Self { resident: Arc::new(Resident::of(pod)), hard, soft, all_topologies }
    }

    pub fn pod(&self) -> &Arc<Pod> {
        &self.resident.pod
    }
    pub fn spec(&self) -> Option<&PodSpec> {
        self.resident.pod.spec.as_ref()
    }
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }
    pub fn node_affinity(&self) -> Option<&NodeAffinity> {
        self.spec()?.affinity.as_ref()?.node_affinity.as_ref()
    }
    pub fn node_selector(&self) -> Option<&BTreeMap<String, String>> {
        self.spec()?.node_selector.as_ref()
    }
}

/// max over init containers of (that one + the sidecars before it), at least the sum of containers and sidecars; the pod's own
/// requests replace the sum for the resources that they name; plus overhead. `fill`: containers that do not ask for CPU or
/// memory count with what is usual.
pub fn requests(pod: &Pod, fill: bool) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::default() };
    let status = pod.status.as_ref();
    let infeasible =
        pods::condition(pod, "PodResizePending").is_some_and(|c| c.reason.as_deref() == Some("Infeasible"));
    let counted = |container: &Container, statuses: Option<&Vec<ContainerStatus>>| {
        let status = statuses.into_iter().flatten().find(|s| s.name == container.name);
        container_requests(container, status, infeasible, fill)
    };
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&counted(container, status.and_then(|s| s.container_statuses.as_ref())));
    }
    let (mut sidecars, mut starting) = (Amounts::default(), Amounts::default());
    for init in spec.init_containers.iter().flatten() {
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&counted(init, status.and_then(|s| s.init_container_statuses.as_ref())));
            starting.raise_to(&sidecars);
        } else {
            let mut with = container_requests(init, None, false, fill);
            with.add(&sidecars);
            starting.raise_to(&with);
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    for (name, text) in spec.resources.iter().filter_map(|r| r.requests.as_ref()).flatten() {
        if types::resources::is_pod_level(name) {
            running.set(name, amount(name, text));
        }
    }
    running.add(&Amounts::of(spec.overhead.as_ref()));
    running
}

/// While it is being resized, a container counts with the larger of what it has and what it is to have.
fn container_requests(
    container: &Container,
    status: Option<&ContainerStatus>,
    infeasible: bool,
    fill: bool,
) -> Amounts {
    let asked = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let mut all = match status.and_then(|s| Some((s, s.resources.as_ref()?))) {
        None => Amounts::of(asked),
        Some((status, has)) => {
            let mut all = if infeasible { Amounts::default() } else { Amounts::of(asked) };
            all.raise_to(&Amounts::of(has.requests.as_ref()));
            all.raise_to(&Amounts::of(status.allocated_resources.as_ref()));
            all
        }
    };
    if fill {
        let unasked = |name: &str| asked.is_none_or(|a| !a.contains_key(name));
        for (name, usual) in [(CPU, UNASKED_CPU_MILLIS), (MEMORY, UNASKED_MEMORY_BYTES)] {
            if unasked(name) {
                all.set(name, usual);
            }
        }
    }
    all
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let init = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(init).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let protocol = p.protocol.as_deref().unwrap_or("TCP").into();
            Some(HostPort { address: p.host_ip.as_deref().unwrap_or_default().into(), protocol, port })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn requests_are_summed_as_upstream_sums_them() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (name, spec, status, expected) in [
            ("containers", json!({"containers": [container("1"), container("500m")]}), json!({}), 1500),
            ("init", json!({"initContainers": [container("2")], "containers": [container("1")]}), json!({}), 2000),
            (
                "sidecar before init",
                json!({"initContainers": [sidecar("1"), container("2")], "containers": [container("1")]}),
                json!({}),
                3000,
            ),
            (
                "sidecar after init",
                json!({"initContainers": [container("2"), sidecar("1")], "containers": [container("1")]}),
                json!({}),
                2000,
            ),
            ("overhead", json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), json!({}), 1250),
            (
                "pod level",
                json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}}),
                json!({}),
                3000,
            ),
            (
                "shrinking",
                json!({"containers": [container("1")]}),
                json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "resources": {"requests": {"cpu": "2"}}}]}),
                2000,
            ),
        ] {
            assert_eq!(requests(&pod(spec, status), false).cpu, expected, "{name}");
        }
        let asks_nothing = pod(json!({"containers": [{"name": "a"}, container("1")]}), json!({}));
        assert_eq!(requests(&asks_nothing, false).memory, 0);
        let filled = requests(&asks_nothing, true);
        assert_eq!((filled.cpu, filled.memory), (1100, 400 << 20));
    }

    #[test]
    fn states_of_a_pod_that_count_the_same() {
        let of = |meta: Value, spec: Value, status: Value| {
            let mut pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "status": status,
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
            for (part, change) in [("metadata", meta), ("spec", spec)] {
                for (k, v) in change.as_object().unwrap() {
                    pod[part][k] = v.clone();
                }
            }
            Resident::of(&Arc::new(serde_json::from_value(pod).unwrap()))
        };
        let base = of(json!({}), json!({}), json!({}));
        let larger = json!([{"name": "c", "resources": {"requests": {"cpu": "2"}}}]);
        let affinity =
            json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}});
        for (name, meta, spec, status, expected) in [
            ("placed", json!({}), json!({"nodeName": "n"}), json!({}), true),
            ("running", json!({}), json!({}), json!({"phase": "Running"}), true),
            ("larger", json!({}), json!({"containers": larger}), json!({}), false),
            ("labels", json!({"labels": {"a": "c"}}), json!({}), json!({}), false),
            ("terms", json!({}), json!({"affinity": affinity}), json!({}), false),
            ("going", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({}), json!({}), false),
        ] {
            assert_eq!(base.counts_as(&of(meta, spec, status)), expected, "{name}");
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
