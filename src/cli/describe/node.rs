//! Nodes: what they are, what they have, and what their pods take of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use types::quantity::Quantity;
use types::time::age;

use super::Facts;
use super::page::{NONE, Page, UNSET, date, flag, list, map, or};
use crate::manifest::text;

const ROLE: &str = "node-role.kubernetes.io/";
const OLD_ROLE: &str = "kubernetes.io/role";
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const HUGE: &str = "hugepages-";

type Amounts = BTreeMap<String, Quantity>;

pub fn node(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    page.field(0, "Name", text(o, "/metadata/name"));
    page.field(0, "Roles", roles(o));
    page.labels(o);
    page.annotations("Annotations", o);
    page.field(0, "CreationTimestamp", facts.date("/metadata/creationTimestamp"));
    taints(page, list(o, "/spec/taints"));
    page.field(0, "Unschedulable", flag(o, "/spec/unschedulable"));
    lease(page, facts);
    let conditions = list(o, "/status/conditions");
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
        page.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    }
    for c in conditions {
        let time = |field| date(text(c, field), &facts.zone);
        let (beat, changed) = (time("/lastHeartbeatTime"), time("/lastTransitionTime"));
        let cells = [text(c, "/type"), text(c, "/status"), &beat, &changed, text(c, "/reason"), text(c, "/message")];
        page.line(1, cells.join(" \t").trim_end_matches('\n'));
    }
    page.line(0, "Addresses:");
    for address in list(o, "/status/addresses") {
        page.field(1, text(address, "/type"), text(address, "/address"));
    }
    for (title, field) in [("Capacity", "/status/capacity"), ("Allocatable", "/status/allocatable")] {
        let amounts = map(o, field);
        if !amounts.is_empty() {
            page.line(0, format!("{title}:"));
        }
        for (name, amount) in amounts {
            page.field(1, &name, amount);
        }
    }
    page.line(0, "System Info:");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        page.field(1, title, text(&o["status"]["nodeInfo"], &format!("/{field}")));
    }
    page.field_if(0, "PodCIDR", text(o, "/spec/podCIDR"));
    page.field_if(0, "PodCIDRs", &super::page::strings(o, "/spec/podCIDRs").join(","));
    page.field_if(0, "ProviderID", text(o, "/spec/providerID"));
    match &facts.pods {
        Ok(pods) => allocation(page, facts, pods),
        Err(_) => page.field(0, "Pods", "not authorized"),
    }
    facts.write_events(page);
}

fn roles(node: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in map(node, "/metadata/labels") {
        match key.strip_prefix(ROLE) {
            Some(role) if !role.is_empty() => roles.insert(role.to_owned()),
            _ => key == OLD_ROLE && !value.is_empty() && roles.insert(value),
        };
    }
    or(&roles.into_iter().collect::<Vec<_>>().join(","), NONE).to_owned()
}

fn taints(page: &mut Page, taints: &[Value]) {
    let mut taints: Vec<&Value> = taints.iter().collect();
    taints.sort_by_key(|t| (text(t, "/effect"), text(t, "/key")));
    let line = |t: &&Value| {
        let (key, value, effect) = (text(t, "/key"), text(t, "/value"), text(t, "/effect"));
        match (value, effect) {
            ("", "") => key.to_owned(),
            ("", effect) => format!("{key}:{effect}"),
            (value, "") => format!("{key}={value}:"),
            (value, effect) => format!("{key}={value}:{effect}"),
        }
    };
    page.block("", "Taints", &taints.iter().map(line).collect::<Vec<_>>());
}

fn lease(page: &mut Page, facts: &Facts<'_>) {
    let spec = match &facts.lease {
        None => return,
        Some(Err(error)) => return page.field(0, "Lease", format!("Failed to get lease: {error}")),
        Some(Ok(lease)) => &lease["spec"],
    };
    page.line(0, "Lease:");
    page.field(1, "HolderIdentity", or(text(spec, "/holderIdentity"), UNSET));
    for (title, field) in [("AcquireTime", "/acquireTime"), ("RenewTime", "/renewTime")] {
        match text(spec, field) {
            "" => page.field(1, title, UNSET),
            at => page.field(1, title, date(at, &facts.zone)),
        }
    }
}

fn amounts(object: &Value, pointer: &str) -> Amounts {
    map(object, pointer).into_iter().filter_map(|(k, v)| Some((k, v.parse().ok()?))).collect()
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = into.get(name).copied().unwrap_or_default().plus(amount);
        into.insert(name.clone(), sum);
    }
}

/// What a pod asks for (`requests`) or may take at most (`limits`): its containers together, or the largest of its first
/// containers with those that go on beside it, whichever is more. Source: component-helpers `resource/helpers.go`.
fn of_pod(pod: &Value, field: &str) -> Amounts {
    let spec = &pod["spec"];
    let of = |container: &Value| amounts(container, &format!("/resources/{field}"));
    let mut total = Amounts::new();
    list(spec, "/containers").iter().for_each(|c| add(&mut total, &of(c)));
    let (mut beside, mut first) = (Amounts::new(), Amounts::new());
    for container in list(spec, "/initContainers") {
        let mut now = of(container);
        if text(container, "/restartPolicy") == "Always" {
            add(&mut total, &now);
            add(&mut beside, &now);
            now.clone_from(&beside);
        } else {
            add(&mut now, &beside);
        }
        largest(&mut first, now);
    }
    largest(&mut total, first);
    // The pod's own amounts stand for the sum.
    total.extend(of(spec));
    let overhead = amounts(spec, "/overhead");
    for (name, amount) in overhead {
        if field == "requests" || total.get(&name).is_some_and(|t| !t.is_zero()) {
            add(&mut total, &Amounts::from([(name, amount)]));
        }
    }
    total
}

fn largest(into: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let now = into.entry(name).or_insert(amount);
        *now = (*now).max(amount);
    }
}

/// `100m (5%)`.
fn share(amount: Quantity, of: Quantity, name: &str) -> String {
    let count = |q: Quantity| if name == "cpu" { q.millis() } else { q.value() };
    let percent = match count(of) {
        0 => 0,
        whole => i128::from(count(amount)) * 100 / i128::from(whole),
    };
    format!("{amount} ({percent}%)")
}

fn allocation(page: &mut Page, facts: &Facts<'_>, pods: &[Value]) {
    let mut whole = amounts(facts.object, "/status/allocatable");
    if whole.is_empty() {
        whole = amounts(facts.object, "/status/capacity");
    }
    let get = |from: &Amounts, name: &str| from.get(name).copied().unwrap_or_default();
    page.field(0, "Non-terminated Pods", format!("({} in total)", pods.len()));
    page.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    page.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (asked, most) = (of_pod(pod, "requests"), of_pod(pod, "limits"));
        let cell = |from: &Amounts, name: &str| share(get(from, name), get(&whole, name), name);
        let cells = [
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name"),
            "",
            &cell(&asked, "cpu"),
            &cell(&most, "cpu"),
            &cell(&asked, "memory"),
            &cell(&most, "memory"),
            &age(pod.pointer("/metadata/creationTimestamp").and_then(Value::as_str), facts.now),
        ];
        page.line(1, cells.join("\t"));
        add(&mut requests, &asked);
        add(&mut limits, &most);
    }
    page.line(0, "Allocated resources:");
    page.line(0, "  (Total limits may be over 100 percent, i.e., overcommitted.)");
    page.line(1, "Resource\tRequests\tLimits");
    page.line(1, "--------\t--------\t------");
    let huge = whole.keys().map(String::as_str).filter(|n| n.starts_with(HUGE));
    for name in STANDARD.into_iter().chain(huge) {
        let of = get(&whole, name);
        let (asked, most) = (share(get(&requests, name), of, name), share(get(&limits, name), of, name));
        page.line(1, format!("{name}\t{asked}\t{most}"));
    }
    let others = whole.keys().filter(|n| !STANDARD.contains(&n.as_str()) && !n.starts_with(HUGE) && *n != "pods");
    for name in others {
        page.line(1, format!("{name}\t{}\t{}", get(&requests, name), get(&limits, name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_asks_for_its_sum_or_its_largest_first_container() {
        let cpu = |n: &str| json!({"resources": {"requests": {"cpu": n}}});
        let always = |n: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": n}}});
        for (spec, expected) in [
            (json!({"containers": [cpu("100m"), cpu("200m")]}), "300m"),
            (json!({"containers": [cpu("100m")], "initContainers": [cpu("1")]}), "1"),
            (json!({"containers": [cpu("100m")], "initContainers": [always("50m"), cpu("1")]}), "1050m"),
            (json!({"containers": [cpu("100m")], "initContainers": [always("50m")]}), "150m"),
            (json!({"containers": [cpu("100m")], "overhead": {"cpu": "5m"}}), "105m"),
            (json!({"containers": [cpu("100m")], "resources": {"requests": {"cpu": "2"}}}), "2"),
        ] {
            let pod = json!({"spec": spec});
            assert_eq!(of_pod(&pod, "requests")["cpu"].to_string(), expected, "{pod}");
        }
    }

    #[test]
    fn shares_are_cut_down() {
        assert_eq!(share(Quantity::from_millis(199), Quantity::from_units(2), "cpu"), "199m (9%)");
        assert_eq!(share(Quantity::default(), Quantity::default(), "memory"), "0 (0%)");
    }
}
