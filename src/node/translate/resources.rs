//! Requests and limits: QoS class, cgroup values, OOM score, and the numbers that resourceFieldRef shows. Pure.
//!
//! Source: `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`, `pkg/apis/core/v1/helper/qos`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use runtime::Resources;
use types::quantity::Quantity;

use crate::pod::{self, Role};

const SHARES_LEAST: u64 = 2;
const SHARES_MOST: u64 = 262_144;
const PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota.
const QUOTA_LEAST_US: i64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// Path of the class below the runtime's cgroup root; Guaranteed pods lie directly below `kubepods`.
    pub const fn cgroup(self) -> &'static str {
        match self {
            Qos::Guaranteed => "kubepods",
            Qos::Burstable => "kubepods/burstable",
            Qos::BestEffort => "kubepods/besteffort",
        }
    }
}

type Amounts = BTreeMap<String, Text>;

fn parse(text: &Text) -> Option<Quantity> {
    text.0.parse().ok()
}

fn amount(of: Option<&Amounts>, name: &str) -> Option<Quantity> {
    of?.get(name).and_then(parse).filter(|q| *q != Quantity::default())
}

fn requests(r: Option<&ResourceRequirements>) -> Option<&Amounts> {
    r?.requests.as_ref()
}

fn limits(r: Option<&ResourceRequirements>) -> Option<&Amounts> {
    r?.limits.as_ref()
}

/// Millicores requested; only a limit counts as a request.
fn cpu_request(r: Option<&ResourceRequirements>) -> Option<i64> {
    amount(requests(r), "cpu").or_else(|| amount(limits(r), "cpu")).map(|q| q.millis())
}

fn memory_request(r: Option<&ResourceRequirements>) -> Option<i64> {
    amount(requests(r), "memory").or_else(|| amount(limits(r), "memory")).map(|q| q.value())
}

fn cpu_limit(r: Option<&ResourceRequirements>) -> Option<i64> {
    amount(limits(r), "cpu").map(|q| q.millis())
}

fn memory_limit(r: Option<&ResourceRequirements>) -> Option<i64> {
    amount(limits(r), "memory").map(|q| q.value())
}

fn regular(pod: &Pod) -> Vec<(Role, Container)> {
    pod::containers(pod).into_iter().filter(|(role, _)| *role != Role::Ephemeral).collect()
}

/// The class that decides who goes first when memory is short.
pub fn qos(pod: &Pod) -> Qos {
    let pod_level = pod::spec(pod).resources.as_ref();
    let class = |all: &[Option<&ResourceRequirements>]| {
        let any = all.iter().any(|r| {
            ["cpu", "memory"].iter().any(|n| amount(requests(*r), n).is_some() || amount(limits(*r), n).is_some())
        });
        let guaranteed = all.iter().all(|r| {
            ["cpu", "memory"].iter().all(|n| {
                let limit = amount(limits(*r), n);
                limit.is_some() && amount(requests(*r), n).is_none_or(|request| Some(request) == limit)
            })
        });
        match (any, guaranteed) {
            (false, _) => Qos::BestEffort,
            (true, true) => Qos::Guaranteed,
            (true, false) => Qos::Burstable,
        }
    };
    if pod_level.is_some_and(|r| r.requests.is_some() || r.limits.is_some()) {
        return class(&[pod_level]);
    }
    let containers = regular(pod);
    let all: Vec<_> = containers.iter().map(|(_, c)| c.resources.as_ref()).collect();
    class(&all)
}

/// CPU shares of so many millicores. Source: `MilliCPUToShares`.
pub fn shares(millis: i64) -> u64 {
    if millis <= 0 {
        return SHARES_LEAST;
    }
    (millis as u64 * 1024 / 1000).clamp(SHARES_LEAST, SHARES_MOST)
}

fn quota(millis: i64) -> i64 {
    (millis * (PERIOD_US as i64) / 1000).max(QUOTA_LEAST_US)
}

/// Limits of one container's cgroup. Memory and swap together are held to the memory limit: no swap, as `NoSwap` has it.
pub fn container(c: &Container) -> Resources {
    let r = c.resources.as_ref();
    let memory = memory_limit(r);
    Resources {
        cpu_shares: Some(shares(cpu_request(r).unwrap_or(0))),
        cpu_quota_us: cpu_limit(r).map(quota),
        cpu_period_us: cpu_limit(r).map(|_| PERIOD_US),
        memory_limit_bytes: memory,
        memory_and_swap_limit_bytes: memory,
        oom_group: Some(true),
        hugepages_bytes: hugepages(r),
        ..Resources::default()
    }
}

fn hugepages(r: Option<&ResourceRequirements>) -> BTreeMap<String, u64> {
    let mut pages = BTreeMap::new();
    for (name, text) in limits(r).into_iter().flatten() {
        if let (Some(size), Some(q)) = (name.strip_prefix("hugepages-"), parse(text)) {
            let size = size.replace("Ki", "KB").replace("Mi", "MB").replace("Gi", "GB");
            pages.insert(size, q.value().max(0) as u64);
        }
    }
    pages
}

/// What the pod asks for in all: millicores and bytes, init containers, sidecars and overhead counted as the scheduler does.
/// Source: `k8s.io/component-helpers/resource/helpers.go` PodRequests.
pub fn pod_requests(pod: &Pod) -> (i64, i64) {
    let total =
        |of: &dyn Fn(Option<&ResourceRequirements>) -> Option<i64>, overhead: &str, scale: &dyn Fn(Quantity) -> i64| {
            let overhead = amount(pod::spec(pod).overhead.as_ref(), overhead).map_or(0, scale);
            if let Some(own) = of(pod::spec(pod).resources.as_ref()) {
                return own + overhead;
            }
            let (mut sidecars, mut init_most, mut apps) = (0, 0, 0);
            for (role, c) in regular(pod) {
                let n = of(c.resources.as_ref()).unwrap_or(0);
                match role {
                    Role::Sidecar => {
                        sidecars += n;
                        init_most = init_most.max(sidecars);
                    }
                    Role::Init => init_most = init_most.max(sidecars + n),
                    Role::App | Role::Ephemeral => apps += n,
                }
            }
            init_most.max(apps + sidecars) + overhead
        };
    (total(&cpu_request, "cpu", &|q| q.millis()), total(&memory_request, "memory", &|q| q.value()))
}

/// Limits of the pod's cgroup: a limit only where every container has one.
pub fn pod(pod: &Pod) -> Resources {
    let (cpu, _) = pod_requests(pod);
    let containers = regular(pod);
    let sum = |of: &dyn Fn(Option<&ResourceRequirements>) -> Option<i64>| -> Option<i64> {
        if let Some(own) = of(pod::spec(pod).resources.as_ref()) {
            return Some(own);
        }
        let (mut sidecars, mut init_most, mut apps) = (0, 0, 0);
        for (role, c) in &containers {
            let n = of(c.resources.as_ref())?;
            match role {
                Role::Sidecar => {
                    sidecars += n;
                    init_most = init_most.max(sidecars);
                }
                Role::Init => init_most = init_most.max(sidecars + n),
                Role::App | Role::Ephemeral => apps += n,
            }
        }
        Some(init_most.max(apps + sidecars)).filter(|_| !containers.is_empty())
    };
    let overhead = |name: &str| amount(pod::spec(pod).overhead.as_ref(), name);
    let cpu_limit = sum(&cpu_limit).map(|n| n + overhead("cpu").map_or(0, |q| q.millis()));
    let memory = sum(&memory_limit).map(|n| n + overhead("memory").map_or(0, |q| q.value()));
    Resources {
        cpu_shares: Some(shares(cpu)),
        cpu_quota_us: cpu_limit.map(quota),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US),
        memory_limit_bytes: memory,
        ..Resources::default()
    }
}

/// Priority from which a pod counts as critical to its node. Source: `scheduling.SystemCriticalPriority + 1000`.
const NODE_CRITICAL: i32 = 2_000_001_000;

/// Source: `GetContainerOOMScoreAdjust`.
pub fn oom_score_adj(pod: &Pod, c: &Container, role: Role, node_memory_bytes: i64) -> i32 {
    if pod::spec(pod).priority.is_some_and(|p| p >= NODE_CRITICAL) {
        return -997;
    }
    let of = |c: &Container| -> i32 {
        let request = amount(requests(c.resources.as_ref()), "memory")
            .or_else(|| amount(limits(c.resources.as_ref()), "memory"))
            .map_or(0, |q| q.value());
        let score = 1000 - (1000i128 * i128::from(request) / i128::from(node_memory_bytes.max(1))) as i64;
        score.clamp(3, 999) as i32
    };
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        // A sidecar must not be killed before the containers that it serves.
        Qos::Burstable if role == Role::Sidecar => {
            pod::spec(pod).containers.iter().map(of).min().map_or(of(c), |least| least.min(of(c)))
        }
        Qos::Burstable => of(c),
    }
}

/// What the node has for pods, for containers without a limit of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allocatable {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
}

/// The number that `resource` (`limits.cpu`, `requests.memory`, …) has for a container, divided and rounded up.
/// Errors as upstream words them. Source: `pkg/api/v1/resource/helpers.go` ExtractContainerResourceValue.
pub fn field(c: &Container, resource: &str, divisor: Option<&Text>, node: Allocatable) -> Result<String, String> {
    let (kind, name) =
        resource.split_once('.').ok_or_else(|| format!("Unsupported container resource : {resource}"))?;
    let r = c.resources.as_ref();
    let own = match kind {
        "limits" => amount(limits(r), name),
        "requests" => requests(r).and_then(|m| m.get(name)).and_then(parse),
        _ => return Err(format!("Unsupported container resource : {resource}")),
    };
    let value = match (own, kind, name) {
        (Some(q), _, _) => q,
        (None, "limits", "cpu") => Quantity::from_millis(node.cpu_millis),
        (None, "limits", "memory") => Quantity::from_bytes(node.memory_bytes),
        (None, "limits", "ephemeral-storage") => Quantity::from_bytes(node.ephemeral_storage_bytes),
        (None, _, "cpu" | "memory" | "ephemeral-storage") => Quantity::default(),
        (None, _, n) if n.starts_with("hugepages-") => Quantity::default(),
        (None, _, _) => return Err(format!("Unsupported container resource : {resource}")),
    };
    let divisor = divisor.and_then(parse).filter(|q| *q != Quantity::default());
    let (value, divisor) = if name == "cpu" {
        (value.millis(), divisor.map_or(1000, |d| d.millis()))
    } else {
        (value.value(), divisor.map_or(1, |d| d.value()))
    };
    Ok(value.div_ceil_positive(divisor.max(1)).to_string())
}

trait DivCeil {
    fn div_ceil_positive(self, by: i64) -> i64;
}

impl DivCeil for i64 {
    fn div_ceil_positive(self, by: i64) -> i64 {
        self / by + i64::from(self % by > 0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn make(containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})).unwrap()
    }

    fn c(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn classes() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (pod, class) in [
            (make(json!([c(json!({}), json!({}))])), Qos::BestEffort),
            (make(json!([c(full.clone(), full.clone())])), Qos::Guaranteed),
            (make(json!([c(json!({}), full.clone())])), Qos::Guaranteed),
            (make(json!([c(json!({"cpu": "1000m", "memory": "1024Mi"}), full.clone())])), Qos::Guaranteed),
            (make(json!([c(full.clone(), full.clone()), c(json!({}), json!({}))])), Qos::Burstable),
            (make(json!([c(json!({"cpu": "1m"}), json!({}))])), Qos::Burstable),
        ] {
            assert_eq!(qos(&pod), class, "{:?}", pod.spec);
        }
    }

    #[test]
    fn cgroup_values() {
        assert_eq!([0, 1, 2, 100, 1000, 1_000_000].map(shares), [2, 2, 2, 102, 1024, 262_144]);
        let pod1 = make(json!([
            c(json!({"cpu": "250m"}), json!({"cpu": "5m", "memory": "64Mi"})),
            c(json!({}), json!({"cpu": "1", "memory": "1Mi"}))
        ]));
        let spec = &pod1.spec.as_ref().unwrap().containers;
        let first = container(&spec[0]);
        assert_eq!(
            (first.cpu_shares, first.cpu_quota_us),
            (Some(256), Some(1000)),
            "quota is never below a millisecond"
        );
        assert_eq!(first.memory_limit_bytes, Some(64 << 20));
        assert_eq!(container(&spec[1]).cpu_shares, Some(1024), "a limit is a request too");
        let whole = pod(&pod1);
        assert_eq!(
            (whole.cpu_shares, whole.cpu_quota_us, whole.memory_limit_bytes),
            (Some(1280), Some(100_500), Some(65 << 20))
        );
        let half = pod(&make(json!([c(json!({}), json!({"memory": "1Mi"})), c(json!({}), json!({}))])));
        assert_eq!(half.memory_limit_bytes, None, "one container without a limit: none for the pod");
    }

    #[test]
    fn init_containers_and_sidecars_count_as_the_scheduler_counts() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "500m"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "j", "resources": {"requests": {"cpu": "450m"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "200m", "memory": "1Ki"}}}]}}))
        .unwrap();
        assert_eq!(pod_requests(&pod), (560, 1024));
    }

    #[test]
    fn oom_scores() {
        let node = 10 << 30;
        let check = |requests: Value, limits: Value, expected: i32| {
            let p = make(json!([c(requests, limits)]));
            let c = p.spec.as_ref().unwrap().containers[0].clone();
            assert_eq!(oom_score_adj(&p, &c, Role::App, node), expected);
        };
        check(json!({}), json!({}), 1000);
        check(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "1", "memory": "1Gi"}), -997);
        check(json!({"memory": "1Gi"}), json!({}), 900);
        check(json!({"memory": "100Gi"}), json!({}), 3);
        check(json!({"cpu": "1"}), json!({}), 999);
    }

    #[test]
    fn resource_fields() {
        let node = Allocatable { cpu_millis: 2000, memory_bytes: 4 << 30, ephemeral_storage_bytes: 7 };
        let p = make(json!([c(json!({"cpu": "250m", "memory": "32Mi"}), json!({"cpu": "1250m", "memory": "64Mi"}))]));
        let with = &p.spec.as_ref().unwrap().containers[0];
        let without = Container::default();
        for (c, resource, divisor, expected) in [
            (with, "limits.cpu", None, "2"),
            (with, "limits.cpu", Some("1m"), "1250"),
            (with, "requests.cpu", None, "1"),
            (with, "requests.memory", Some("1Mi"), "32"),
            (with, "limits.memory", None, "67108864"),
            (&without, "limits.cpu", None, "2"),
            (&without, "limits.memory", Some("1Gi"), "4"),
            (&without, "requests.cpu", None, "0"),
            (&without, "limits.ephemeral-storage", None, "7"),
        ] {
            let divisor = divisor.map(|d| Text(d.to_owned()));
            assert_eq!(field(c, resource, divisor.as_ref(), node).as_deref(), Ok(expected), "{resource} {divisor:?}");
        }
        assert!(field(&without, "limits.gpu", None, node).is_err());
    }
}
