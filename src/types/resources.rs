//! Resource lists: what containers and pods ask for, summed as upstream sums it.
//!
//! What never lives here: what a node has, and who may have how much of it.
//!
//! Source: `staging/src/k8s.io/component-helpers/resource/helpers.go`, KEP-753 (sidecars), KEP-1287 (resize), KEP-2837 (pod level).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

/// Quantities by resource name.
pub type List = BTreeMap<String, Quantity>;

/// The list in a field such as `requests`; what is no quantity is left out.
pub fn list(of: &Value, field: &str) -> List {
    let entries = of.get(field).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

pub fn add(to: &mut List, other: &List) {
    for (name, quantity) in other {
        to.entry(name.clone()).and_modify(|sum| *sum = sum.plus(quantity)).or_insert(*quantity);
    }
}

/// The larger of both, resource by resource.
pub fn raise(to: &mut List, other: &List) {
    for (name, quantity) in other {
        let slot = to.entry(name.clone()).or_insert(*quantity);
        if *quantity > *slot {
            *slot = *quantity;
        }
    }
}

/// How a pod's needs are summed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// A container that is being resized counts with the larger of what it has and what it is to have.
    pub from_status: bool,
    /// What running the pod costs by itself counts too.
    pub overhead: bool,
}

pub fn requests(pod: &Value, sum: Sum) -> List {
    total(pod, "requests", sum)
}

pub fn limits(pod: &Value, sum: Sum) -> List {
    let mut limits = total(pod, "limits", Sum { overhead: false, ..sum });
    if sum.overhead {
        // What is not limited stays so.
        for (name, quantity) in list(&pod["spec"], "overhead") {
            if let Some(sum) = limits.get_mut(&name).filter(|sum| !sum.is_zero()) {
                *sum = sum.plus(&quantity);
            }
        }
    }
    limits
}

/// What may be said of the pod as a whole, which then counts instead of the sum of its containers.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether the pod says of itself what it needs.
pub fn has_pod_level(pod: &Value) -> bool {
    let resources = &pod["spec"]["resources"];
    ["requests", "limits"].into_iter().any(|field| list(resources, field).keys().any(|name| is_pod_level(name)))
}

fn total(pod: &Value, field: &str, sum: Sum) -> List {
    let spec = &pod["spec"];
    let containers = |of: &str| spec[of].as_array().map_or(&[][..], Vec::as_slice);
    let needs = |container: &Value, status: &str| {
        let given = list(&container["resources"], field);
        if sum.from_status { resized(given, pod, container, status, field) } else { given }
    };
    let mut all = List::new();
    for container in containers("containers") {
        add(&mut all, &needs(container, "containerStatuses"));
    }
    // While an init container runs, so do the sidecars before it.
    let (mut sidecars, mut while_starting) = (List::new(), List::new());
    for container in containers("initContainers") {
        if container["restartPolicy"] == "Always" {
            let own = needs(container, "initContainerStatuses");
            add(&mut all, &own);
            add(&mut sidecars, &own);
            raise(&mut while_starting, &sidecars);
        } else {
            let mut own = list(&container["resources"], field);
            add(&mut own, &sidecars);
            raise(&mut while_starting, &own);
        }
    }
    raise(&mut all, &while_starting);
    for (name, quantity) in list(&spec["resources"], field) {
        if is_pod_level(&name) {
            all.insert(name, quantity);
        }
    }
    if sum.overhead {
        add(&mut all, &list(spec, "overhead"));
    }
    all
}

/// What a container counts for while its resources change in place.
fn resized(given: List, pod: &Value, container: &Value, statuses: &str, field: &str) -> List {
    let mut all = pod["status"][statuses].as_array().into_iter().flatten();
    let Some(status) = all.find(|s| s["name"] == container["name"]).filter(|s| s["resources"].is_object()) else {
        return given;
    };
    let infeasible = pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "PodResizePending" && c["reason"] == "Infeasible");
    let mut counted = if infeasible { List::new() } else { given };
    raise(&mut counted, &list(&status["resources"], field));
    if field == "requests" {
        raise(&mut counted, &list(status, "allocatedResources"));
    }
    counted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(pod: &Value, sum: Sum, expected: &[(&str, &str)]) {
        let found: Vec<(String, String)> =
            requests(pod, sum).into_iter().map(|(name, quantity)| (name, quantity.to_string())).collect();
        let found: Vec<(&str, &str)> = found.iter().map(|(n, q)| (n.as_str(), q.as_str())).collect();
        assert_eq!(found, expected, "{pod}");
    }

    #[test]
    fn needs_of_a_pod() {
        let with = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let pod = json!({"spec": {"containers": [with("1"), with("500m")]}});
        check(&pod, Sum::default(), &[("cpu", "1500m")]);
        let pod =
            json!({"spec": {"initContainers": [with("3")], "containers": [with("1")], "overhead": {"cpu": "100m"}}});
        check(&pod, Sum::default(), &[("cpu", "3")]);
        check(&pod, Sum { overhead: true, ..Sum::default() }, &[("cpu", "3100m")]);
        let pod = json!({"spec": {"initContainers": [sidecar, with("1")], "containers": [with("500m")]}});
        check(&pod, Sum::default(), &[("cpu", "2")]);
        let pod = json!({"spec": {"containers": [with("1")], "resources": {"requests": {"cpu": "2"}}}});
        check(&pod, Sum::default(), &[("cpu", "2")]);
    }

    #[test]
    fn a_resize_counts_with_the_larger() {
        let pod = json!({
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}]},
        });
        check(&pod, Sum::default(), &[("cpu", "1")]);
        check(&pod, Sum { from_status: true, ..Sum::default() }, &[("cpu", "2")]);
    }
}
