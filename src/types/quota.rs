//! What an object costs of a ResourceQuota, and which quotas it counts for. Admission charges with it, the quota controller
//! adds it up; both must come to the same sums.
//!
//! What never lives here: a decision.
//!
//! Source: `pkg/quota/v1/evaluator/core`, apiserver `pkg/quota/v1/generic/evaluator.go`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::quantity::Quantity;
use crate::resources::{self, List, Sum};
use crate::selector::{LabelSelector, Labels};

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// What a request for all devices may get at most. Source: `resource/v1` `AllocationResultsMaxSize`.
const DEVICES_MAX: i64 = 32;
const PRIORITY_CLASS: &str = "PriorityClass";
const ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";
const POD_RESOURCES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Of these a quota asks every container to say how much it needs; upstream calls that a mistake, and keeps it.
const MUST_BE_SAID: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Kinds that are counted under their plain name, too.
const ALIASED: &[&str] = &["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// A namespaced resource as quotas see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    pub group: &'a str,
    pub plural: &'a str,
}

impl Resource<'_> {
    fn is(&self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }

    /// `count/pods`, `count/deployments.apps`.
    pub fn count_name(&self) -> String {
        if self.group.is_empty() {
            format!("count/{}", self.plural)
        } else {
            format!("count/{}.{}", self.plural, self.group)
        }
    }

    /// Whether a quota on `name` is about objects of this resource.
    pub fn is_counted_by(&self, name: &str) -> bool {
        if name == self.count_name() {
            return true;
        }
        if self.is("pods") {
            let extended = name.strip_prefix("requests.").is_some_and(is_extended);
            return POD_RESOURCES.contains(&name)
                || name.starts_with("hugepages-")
                || name.starts_with("requests.hugepages-")
                || extended;
        }
        if self.is("services") {
            return matches!(name, "services" | "services.nodeports" | "services.loadbalancers");
        }
        if self.is("persistentvolumeclaims") {
            let plain = |name: &str| matches!(name, "persistentvolumeclaims" | "requests.storage");
            return plain(name) || name.split_once(STORAGE_CLASS).is_some_and(|(_, rest)| plain(rest));
        }
        if self.is_device_claims() {
            return name.ends_with(DEVICE_CLASS);
        }
        self.group.is_empty() && ALIASED.contains(&self.plural) && name == self.plural
    }

    fn is_device_claims(&self) -> bool {
        self.group == "resource.k8s.io" && self.plural == "resourceclaims"
    }

    /// What the object costs.
    pub fn usage(&self, object: &Value, now: Timestamp) -> List {
        let mut usage = List::from([(self.count_name(), Quantity::from_units(1))]);
        if self.is("pods") {
            if is_charged(object, now) {
                let sum = Sum { from_status: true, overhead: true };
                pod_usage(&mut usage, &resources::requests(object, sum), &resources::limits(object, sum));
            }
        } else if self.is("services") {
            service_usage(&mut usage, object);
        } else if self.is("persistentvolumeclaims") {
            claim_usage(&mut usage, object);
        } else if self.is_device_claims() {
            device_usage(&mut usage, object);
        } else if self.group.is_empty() && ALIASED.contains(&self.plural) {
            usage.insert(self.plural.to_owned(), Quantity::from_units(1));
        }
        usage
    }

    /// Whether every scope of the quota holds of the object.
    pub fn in_scopes(&self, quota: &Value, object: &Value) -> bool {
        let spec = &quota["spec"];
        let plain = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
        plain.into_iter().all(|scope| self.in_scope(scope, &Value::Null, object))
            && selected.all(|e| self.in_scope(e["scopeName"].as_str().unwrap_or_default(), e, object))
    }

    /// `requirement` is null for a scope that is only named.
    fn in_scope(&self, scope: &str, requirement: &Value, object: &Value) -> bool {
        let exists = matches!(requirement["operator"].as_str(), None | Some("Exists"));
        let spec = &object["spec"];
        if self.is("persistentvolumeclaims") && scope == ATTRIBUTES_CLASS {
            let status = &object["status"];
            let names = [
                &spec["volumeAttributesClassName"],
                &status["currentVolumeAttributesClassName"],
                &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
            ];
            let mut names = names.into_iter().filter_map(Value::as_str).filter(|n| !n.is_empty()).peekable();
            if exists {
                return names.peek().is_some();
            }
            return match names.peek() {
                None => selects(requirement, None, scope),
                Some(_) => names.any(|name| selects(requirement, Some(name), scope)),
            };
        }
        if !self.is("pods") {
            return false;
        }
        match scope {
            "Terminating" => is_terminating(object),
            "NotTerminating" => !is_terminating(object),
            "BestEffort" => is_best_effort(object),
            "NotBestEffort" => !is_best_effort(object),
            PRIORITY_CLASS => {
                let class = spec["priorityClassName"].as_str().filter(|c| !c.is_empty());
                if exists { class.is_some() } else { selects(requirement, class, scope) }
            }
            "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
            _ => false,
        }
    }
}

/// A requirement of a scope selector, asked about one value.
fn selects(requirement: &Value, value: Option<&str>, scope: &str) -> bool {
    struct One<'a>(&'a str, Option<&'a str>);
    impl Labels for One<'_> {
        fn label(&self, key: &str) -> Option<&str> {
            self.1.filter(|_| key == self.0)
        }
    }
    let selector = serde_json::json!({"matchExpressions": [{
        "key": scope, "operator": requirement["operator"], "values": requirement["values"],
    }]});
    LabelSelector::from_object(&selector).is_ok_and(|selector| selector.matches(&One(scope, value)))
}

/// Whether the name is one of a resource that Kubernetes does not know.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") || name.starts_with("deviceclass.resource.kubernetes.io/")
}

/// Whether a change of a pod moves it from one scope into another.
pub fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

/// No container asks for CPU or memory, nor does the pod.
fn is_best_effort(pod: &Value) -> bool {
    let spec = &pod["spec"];
    let asks = |resources: &Value| {
        ["requests", "limits"].into_iter().any(|field| {
            let list = resources::list(resources, field);
            ["cpu", "memory"].into_iter().any(|name| list.get(name).is_some_and(|q| !q.is_zero()))
        })
    };
    let containers = ["containers", "initContainers"].into_iter().filter_map(|of| spec[of].as_array()).flatten();
    !asks(&spec["resources"]) && !containers.into_iter().any(|c| asks(&c["resources"]))
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|n| !n.is_empty()) || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let terms = |field: &str| affinity[kind][field].as_array().map_or(&[][..], Vec::as_slice);
        terms("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution").iter().any(|t| crosses(&t["podAffinityTerm"]))
    })
}

/// Whether a pod still takes what it asked for: it has not ended, and is not stuck in its deletion.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return false;
    }
    let metadata = &pod["metadata"];
    let deleted = metadata["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    match (deleted, metadata["deletionGracePeriodSeconds"].as_i64()) {
        (Some(deleted), Some(grace)) => {
            deleted.saturating_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now <= end)
        }
        _ => true,
    }
}

fn pod_usage(usage: &mut List, requests: &List, limits: &List) {
    usage.insert("pods".into(), Quantity::from_units(1));
    for (name, quantity) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                usage.insert(name.clone(), *quantity);
                usage.insert(format!("requests.{name}"), *quantity);
            }
            name if name.starts_with("hugepages-") => {
                usage.insert(name.to_owned(), *quantity);
                usage.insert(format!("requests.{name}"), *quantity);
            }
            name if is_extended(name) => {
                usage.insert(format!("requests.{name}"), *quantity);
            }
            _ => {}
        }
    }
    for (name, quantity) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), *quantity);
        }
    }
}

fn service_usage(usage: &mut List, service: &Value) {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let count = |n: usize| Quantity::from_units(i64::try_from(n).unwrap_or(i64::MAX));
    let (mut node_ports, mut balancers) = (0, 0);
    match spec["type"].as_str() {
        Some("NodePort") => node_ports = ports.len(),
        Some("LoadBalancer") => {
            balancers = 1;
            // Ports that will be allocated count before they are.
            node_ports = match spec["allocateLoadBalancerNodePorts"].as_bool() {
                Some(false) => ports.iter().filter(|p| p["nodePort"].as_i64().is_some_and(|n| n != 0)).count(),
                _ => ports.len(),
            };
        }
        _ => {}
    }
    usage.insert("services".into(), count(1));
    usage.insert("services.nodeports".into(), count(node_ports));
    usage.insert("services.loadbalancers".into(), count(balancers));
}

fn claim_usage(usage: &mut List, claim: &Value) {
    let spec = &claim["spec"];
    let class = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"]
        .as_str()
        .or(spec["storageClassName"].as_str())
        .unwrap_or_default();
    let mut insert = |name: &str, quantity: Quantity| {
        usage.insert(name.to_owned(), quantity);
        if !class.is_empty() {
            usage.insert(format!("{class}{STORAGE_CLASS}{name}"), quantity);
        }
    };
    insert("persistentvolumeclaims", Quantity::from_units(1));
    let Some(requested) = resources::list(&spec["resources"], "requests").get("storage").copied() else { return };
    let allocated = resources::list(&claim["status"], "allocatedResources").get("storage").copied();
    let larger = allocated.filter(|a| *a > requested).unwrap_or(requested);
    // Whole bytes, which is what a quota's own validation asks for.
    let whole = if larger.is_integer() { larger } else { Quantity::from_units(larger.value()) };
    insert("requests.storage", whole);
}

/// The most devices of each class that a claim may get: of alternatives, the one that takes most.
///
/// Source: `pkg/quota/v1/evaluator/core/resource_claims.go` `Usage`.
fn device_usage(usage: &mut List, claim: &Value) {
    let asked = |of: &Value| -> (String, i64) {
        let count = match of["allocationMode"].as_str() {
            Some("All") => DEVICES_MAX,
            Some("ExactCount") => of["count"].as_i64().unwrap_or(0),
            _ => 0,
        };
        (format!("{}{DEVICE_CLASS}", of["deviceClassName"].as_str().unwrap_or_default()), count)
    };
    let mut total: BTreeMap<String, i64> = BTreeMap::new();
    for request in claim["spec"]["devices"]["requests"].as_array().into_iter().flatten() {
        let mut most: BTreeMap<String, i64> = BTreeMap::new();
        let alternatives = request["firstAvailable"].as_array().into_iter().flatten();
        let exact = Some(&request["exactly"]).filter(|exact| exact.is_object());
        for (class, count) in alternatives.chain(exact).map(asked) {
            let entry = most.entry(class).or_default();
            *entry = count.max(*entry);
        }
        for (class, count) in most {
            let entry = total.entry(class).or_default();
            *entry = entry.saturating_add(count);
        }
    }
    usage.extend(total.into_iter().map(|(class, count)| (class, Quantity::from_units(count))));
}

/// What containers of a pod must say because a quota names it, and do not.
///
/// # Errors
/// Upstream's text.
pub fn unsaid<'a>(required: impl Iterator<Item = &'a str>, pod: &Value) -> Result<(), String> {
    if resources::has_pod_level(pod) {
        return Ok(());
    }
    let required: BTreeSet<&str> = required.filter(|r| MUST_BE_SAID.contains(r)).collect();
    let spec = &pod["spec"];
    let containers: Vec<(&str, List)> = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|of| spec[of].as_array())
        .flatten()
        .map(|container| {
            let of = &container["resources"];
            let mut said = List::new();
            pod_usage(&mut said, &resources::list(of, "requests"), &resources::list(of, "limits"));
            (container["name"].as_str().unwrap_or_default(), said)
        })
        .collect();
    let missing: Vec<String> = required
        .into_iter()
        .filter_map(|resource| {
            let silent: BTreeSet<&str> =
                containers.iter().filter(|(_, said)| !said.contains_key(resource)).map(|(name, _)| *name).collect();
            let silent: Vec<&str> = silent.into_iter().collect();
            (!silent.is_empty()).then(|| format!("{resource} for: {}", silent.join(",")))
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("must specify {}", missing.join("; "))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PODS: Resource<'_> = Resource { group: "", plural: "pods" };
    const CLAIMS: Resource<'_> = Resource { group: "", plural: "persistentvolumeclaims" };

    fn check(resource: Resource<'_>, object: &Value, expected: &[(&str, &str)]) {
        let usage = resource.usage(object, Timestamp::UNIX_EPOCH);
        let usage: Vec<(String, String)> = usage.into_iter().map(|(n, q)| (n, q.to_string())).collect();
        let usage: Vec<(&str, &str)> = usage.iter().map(|(n, q)| (n.as_str(), q.as_str())).collect();
        assert_eq!(usage, expected, "{object}");
    }

    #[test]
    fn devices() {
        let claims = Resource { group: "resource.k8s.io", plural: "resourceclaims" };
        for (name, counted) in [
            ("gold.deviceclass.resource.k8s.io/devices", true),
            ("count/resourceclaims.resource.k8s.io", true),
            ("gold.storageclass.storage.k8s.io/requests.storage", false),
            ("resourceclaims", false),
        ] {
            assert_eq!(claims.is_counted_by(name), counted, "{name}");
        }
        assert!(!PODS.is_counted_by("gold.deviceclass.resource.k8s.io/devices"));
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gold", "allocationMode": "ExactCount", "count": 2}},
            {"name": "b", "exactly": {"deviceClassName": "gold", "allocationMode": "All"}},
            {"name": "c", "firstAvailable": [
                {"name": "x", "deviceClassName": "silver", "allocationMode": "ExactCount", "count": 1},
                {"name": "y", "deviceClassName": "silver", "allocationMode": "ExactCount", "count": 3},
                {"name": "z", "deviceClassName": "gold", "allocationMode": "ExactCount", "count": 1}]},
        ]}}});
        check(
            claims,
            &claim,
            &[
                ("count/resourceclaims.resource.k8s.io", "1"),
                ("gold.deviceclass.resource.k8s.io/devices", "35"),
                ("silver.deviceclass.resource.k8s.io/devices", "3"),
            ],
        );
    }

    #[test]
    fn costs() {
        let pod = json!({"spec": {"containers": [{"resources": {
            "requests": {"cpu": "1", "example.com/gpu": 2}, "limits": {"memory": "1Gi"}}}]}});
        check(
            PODS,
            &pod,
            &[
                ("count/pods", "1"),
                ("cpu", "1"),
                ("limits.memory", "1Gi"),
                ("pods", "1"),
                ("requests.cpu", "1"),
                ("requests.example.com/gpu", "2"),
            ],
        );
        let mut ended = pod.clone();
        ended["status"] = json!({"phase": "Succeeded"});
        check(PODS, &ended, &[("count/pods", "1")]);
        let services = Resource { group: "", plural: "services" };
        check(
            services,
            &json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}}),
            &[("count/services", "1"), ("services", "1"), ("services.loadbalancers", "1"), ("services.nodeports", "2")],
        );
        check(
            CLAIMS,
            &json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
            &[
                ("count/persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/requests.storage", "1Gi"),
                ("persistentvolumeclaims", "1"),
                ("requests.storage", "1Gi"),
            ],
        );
        check(Resource { group: "", plural: "secrets" }, &json!({}), &[("count/secrets", "1"), ("secrets", "1")]);
        check(Resource { group: "apps", plural: "deployments" }, &json!({}), &[("count/deployments.apps", "1")]);
    }

    #[test]
    fn names() {
        for (resource, name, counted) in [
            (PODS, "limits.cpu", true),
            (PODS, "requests.example.com/gpu", true),
            (PODS, "requests.storage", false),
            (PODS, "services", false),
            (CLAIMS, "gold.storageclass.storage.k8s.io/requests.storage", true),
            (CLAIMS, "gold.storageclass.storage.k8s.io/pods", false),
        ] {
            assert_eq!(resource.is_counted_by(name), counted, "{name}");
        }
    }

    #[test]
    fn scopes() {
        let plain = json!({"spec": {"containers": [{}]}});
        let urgent = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}],
            "activeDeadlineSeconds": 5, "priorityClassName": "high"}});
        let class = |operator: &str, values: &[&str]| {
            json!({"spec": {"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}}})
        };
        for (quota, in_plain, in_urgent) in [
            (json!({}), true, true),
            (json!({"spec": {"scopes": ["Terminating"]}}), false, true),
            (json!({"spec": {"scopes": ["NotTerminating", "BestEffort"]}}), true, false),
            (json!({"spec": {"scopes": ["NotBestEffort"]}}), false, true),
            (class("In", &["high"]), false, true),
            (class("NotIn", &["high"]), true, false),
            (class("Exists", &[]), false, true),
            (class("DoesNotExist", &[]), true, false),
        ] {
            assert_eq!(
                (PODS.in_scopes(&quota, &plain), PODS.in_scopes(&quota, &urgent)),
                (in_plain, in_urgent),
                "{quota}"
            );
        }
    }

    #[test]
    fn what_must_be_said() {
        let pod = json!({"spec": {"containers": [
            {"name": "b"}, {"name": "a"}, {"name": "c", "resources": {"requests": {"cpu": 1}}}]}});
        assert_eq!(
            unsaid(["pods", "cpu", "limits.cpu"].into_iter(), &pod),
            Err("must specify cpu for: a,b; limits.cpu for: a,b,c".to_owned())
        );
        assert_eq!(unsaid(["pods", "requests.ephemeral-storage"].into_iter(), &pod), Ok(()));
    }
}
