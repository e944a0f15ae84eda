//! Pods and templates of pods.

use std::cmp::Ordering;

use jiff::tz::TimeZone;
use serde_json::Value;
use types::time::age;

use super::Facts;
use super::containers::{containers, resources};
use super::page::{NONE, Page, controller, int, list, map, or, selector_text};
use super::volumes::volumes;
use crate::manifest::text;

pub fn pod(page: &mut Page, facts: &Facts<'_>) {
    let pod = facts.object;
    let (spec, status) = (&pod["spec"], &pod["status"]);
    page.field(0, "Name", text(pod, "/metadata/name"));
    page.field(0, "Namespace", text(pod, "/metadata/namespace"));
    if let Some(priority) = spec["priority"].as_i64() {
        page.field(0, "Priority", priority);
    }
    page.field_if(0, "Priority Class Name", text(spec, "/priorityClassName"));
    page.field_if(0, "Runtime Class Name", text(spec, "/runtimeClassName"));
    page.field_if(0, "Service Account", text(spec, "/serviceAccountName"));
    match text(spec, "/nodeName") {
        "" => page.field(0, "Node", NONE),
        node => page.field(0, "Node", format!("{node}/{}", text(status, "/hostIP"))),
    }
    if status.get("startTime").is_some() {
        page.field(0, "Start Time", facts.date("/status/startTime"));
    }
    page.labels(pod);
    page.annotations("Annotations", pod);
    let deleted = text(pod, "/metadata/deletionTimestamp");
    let phase = text(status, "/phase");
    if !deleted.is_empty() && !["Failed", "Succeeded"].contains(&phase) {
        page.field(0, "Status", format!("Terminating (lasts {})", age(Some(deleted), facts.now)));
        page.field(0, "Termination Grace Period", format!("{}s", int(pod, "/metadata/deletionGracePeriodSeconds")));
    } else {
        page.field(0, "Status", phase);
    }
    page.field_if(0, "Reason", text(status, "/reason"));
    page.field_if(0, "Message", text(status, "/message"));
    if let Some(profile) = spec.pointer("/securityContext/seccompProfile") {
        page.field(0, "SeccompProfile", text(profile, "/type"));
        page.field_if(0, "LocalhostProfile", text(profile, "/localhostProfile"));
    }
    page.field(0, "IP", text(status, "/podIP"));
    let addresses = list(status, "/podIPs");
    page.line(0, if addresses.is_empty() { "IPs:\t<none>" } else { "IPs:" });
    for address in addresses {
        page.field(1, "IP", text(address, "/ip"));
    }
    if let Some(owner) = controller(pod) {
        page.field(0, "Controlled By", format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    }
    page.field_if(0, "NominatedNodeName", text(status, "/nominatedNodeName"));
    if spec.get("resources").is_some() {
        page.line(0, "Resources:");
        resources(page, 1, &spec["resources"]);
    }
    for (title, field, state) in [
        ("Init Containers", "/initContainers", "/initContainerStatuses"),
        ("Containers", "/containers", "/containerStatuses"),
        ("Ephemeral Containers", "/ephemeralContainers", "/ephemeralContainerStatuses"),
    ] {
        if field == "/containers" || !list(spec, field).is_empty() {
            containers(page, title, list(spec, field), list(status, state), Some(pod), &facts.zone);
        }
    }
    conditions(page, spec, status);
    volumes(page, list(spec, "/volumes"), "");
    page.field(0, "QoS Class", or(text(status, "/qosClass"), "BestEffort"));
    page.pairs("", "Node-Selectors", &map(spec, "/nodeSelector"));
    tolerations(page, "Tolerations", list(spec, "/tolerations"));
    spread(page, list(spec, "/topologySpreadConstraints"), "");
    facts.write_events(page);
}

fn conditions(page: &mut Page, spec: &Value, status: &Value) {
    let conditions = list(status, "/conditions");
    let gates = list(spec, "/readinessGates");
    if !gates.is_empty() {
        page.line(0, "Readiness Gates:");
        page.line(1, "Type\tStatus");
    }
    for gate in gates {
        let kind = text(gate, "/conditionType");
        let state = conditions.iter().find(|c| text(c, "/type") == kind).map_or(NONE, |c| text(c, "/status"));
        page.line(1, format!("{kind} \t{state} "));
    }
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus");
    }
    for c in conditions {
        page.line(1, format!("{} \t{} ", text(c, "/type"), text(c, "/status")));
    }
}

pub fn template(page: &mut Page, template: &Value) {
    let spec = &template["spec"];
    page.line(0, "Pod Template:");
    page.pairs("", "  Labels", &map(template, "/metadata/labels"));
    if !map(template, "/metadata/annotations").is_empty() {
        page.annotations("  Annotations", template);
    }
    page.field_if(1, "Service Account", text(spec, "/serviceAccountName"));
    // No status is read of a template, so that no time is shown.
    let zone = TimeZone::UTC;
    let init = list(spec, "/initContainers");
    if !init.is_empty() {
        containers(page, "Init Containers", init, &[], None, &zone);
    }
    containers(page, "Containers", list(spec, "/containers"), &[], None, &zone);
    volumes(page, list(spec, "/volumes"), "  ");
    spread(page, list(spec, "/topologySpreadConstraints"), "  ");
    page.field_if(1, "Priority Class Name", text(spec, "/priorityClassName"));
    page.pairs("", "  Node-Selectors", &map(spec, "/nodeSelector"));
    tolerations(page, "  Tolerations", list(spec, "/tolerations"));
}

fn tolerations(page: &mut Page, title: &str, tolerations: &[Value]) {
    let mut sorted: Vec<&Value> = tolerations.iter().collect();
    sorted.sort_by(|a, b| text(a, "/key").cmp(text(b, "/key")).then(Ordering::Equal));
    let lines: Vec<String> = sorted.into_iter().map(toleration).collect();
    page.block("", title, &lines);
}

fn toleration(t: &Value) -> String {
    let (key, value, effect) = (text(t, "/key"), text(t, "/value"), text(t, "/effect"));
    let mut line = key.to_owned();
    if !value.is_empty() {
        line += &format!("={value}");
    }
    if !effect.is_empty() {
        line += &format!(":{effect}");
    }
    if text(t, "/operator") == "Exists" && value.is_empty() {
        line += if key.is_empty() && effect.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = t["tolerationSeconds"].as_i64() {
        line += &format!(" for {seconds}s");
    }
    line
}

fn spread(page: &mut Page, constraints: &[Value], space: &str) {
    if constraints.is_empty() {
        return;
    }
    let mut sorted: Vec<&Value> = constraints.iter().collect();
    sorted.sort_by_key(|c| text(c, "/topologyKey"));
    let line = |c: &&Value| {
        let (key, action, skew) = (text(c, "/topologyKey"), text(c, "/whenUnsatisfiable"), int(c, "/maxSkew"));
        let of = c.get("labelSelector").map(|s| format!(" for selector {}", selector_text(s))).unwrap_or_default();
        format!("{key}:{action} when max skew {skew} is exceeded{of}")
    };
    let lines: Vec<String> = sorted.iter().map(line).collect();
    page.block(space, "Topology Spread Constraints", &lines);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_on_one_line() {
        for (t, expected) in [
            (json!({"operator": "Exists"}), "op=Exists"),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
                "k:NoExecute op=Exists for 300s",
            ),
            (json!({"key": "k", "operator": "Equal", "value": "v"}), "k=v"),
        ] {
            assert_eq!(toleration(&t), expected);
        }
    }
}
