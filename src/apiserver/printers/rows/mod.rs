//! Rows by kind. Source: the `print*` functions of `pkg/printers/internalversion/printers.go`.

use serde_json::{Value, json};
use types::quantity::Quantity;
use types::registry::Kind;

use super::Row;
use super::cells::{NONE, capped, created, number, or, quantity};
use crate::custom;
use crate::hooks::json::{at, boolean, get, list, map, map_len, text};

mod autoscaler;
mod event;
mod ingress;
mod network;
mod node;
mod others;
mod pod;
mod storage;
mod volume;
mod workload;

pub fn row(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Row {
    if let Some(custom) = custom::of(kind) {
        return Row { cells: custom.cells(object, now), conditions: Vec::new() };
    }
    named(&kind.group, &kind.kind, object, now)
}

pub fn named(group: &str, kind: &str, object: &Value, now: jiff::Timestamp) -> Row {
    let cells = match (group, kind) {
        ("", "Pod") => return pod::row(object, now),
        ("", "Service") => network::service(object, now),
        ("", "Endpoints") => network::endpoints(object, now),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object, now),
        ("", "Node") => node::cells(object, now),
        ("" | "events.k8s.io", "Event") => event::cells(object, now),
        ("", "Namespace") => with_age(object, now, [text(get(object, "status"), "phase").into()]),
        ("", "Secret") => with_age(object, now, [text(object, "type").into(), map_len(object, "data").into()]),
        ("", "ConfigMap") => with_age(object, now, [(map_len(object, "data") + map_len(object, "binaryData")).into()]),
        ("", "ServiceAccount") => with_age(object, now, []),
        ("apps", "Deployment") => workload::deployment(object, now),
        ("apps", "ReplicaSet") => workload::replica_set(object, now),
        ("", "ReplicationController") => workload::replication_controller(object, now),
        ("apps", "StatefulSet") => workload::stateful_set(object, now),
        ("apps", "DaemonSet") => workload::daemon_set(object, now),
        ("apps", "ControllerRevision") => workload::controller_revision(object, now),
        ("", "PodTemplate") => workload::pod_template(object),
        ("batch", "Job") => workload::job(object, now),
        ("batch", "CronJob") => workload::cron_job(object, now),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler::cells(object, now),
        ("", "PersistentVolume") => volume::volume(object, now),
        ("", "PersistentVolumeClaim") => volume::claim(object, now),
        ("", "ComponentStatus") => component_status(object),
        ("", "ResourceQuota") => resource_quota(object, now),
        ("metrics.k8s.io", _) => metrics(object),
        ("autoscaling", "Scale") => {
            with_age(object, now, [number(get(object, "spec"), "replicas"), number(get(object, "status"), "replicas")])
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(object, now),
        ("coordination.k8s.io", "Lease") => with_age(object, now, [text(get(object, "spec"), "holderIdentity").into()]),
        ("scheduling.k8s.io", "PriorityClass") => priority_class(object, now),
        ("networking.k8s.io", _) => ingress::cells(kind, object, now).unwrap_or_else(|| unknown(object)),
        ("storage.k8s.io", _) => storage::cells(kind, object, now).unwrap_or_else(|| unknown(object)),
        _ => others::cells(group, kind, object, now).unwrap_or_else(|| unknown(object)),
    };
    Row { cells, conditions: Vec::new() }
}

/// What is shown of a kind without columns of its own.
fn unknown(object: &Value) -> Vec<Value> {
    vec![name(object), text(get(object, "metadata"), "creationTimestamp").into()]
}

fn name(object: &Value) -> Value {
    text(get(object, "metadata"), "name").into()
}

/// Name, these, age.
fn with_age<const N: usize>(object: &Value, now: jiff::Timestamp, between: [Value; N]) -> Vec<Value> {
    let mut cells = vec![name(object)];
    cells.extend(between);
    cells.push(created(object, now).into());
    cells
}

fn component_status(object: &Value) -> Vec<Value> {
    let healthy = list(object, "conditions").iter().find(|c| text(c, "type") == "Healthy");
    let status = match healthy.map(|c| text(c, "status")) {
        None => "Unknown",
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
    };
    let said = |field| healthy.map_or("", |c| text(c, field));
    vec![name(object), status.into(), said("message").into(), said("error").into()]
}

/// What a node uses, or the containers of a pod together. Source: metrics-server `pkg/api/table.go`.
fn metrics(object: &Value) -> Vec<Value> {
    let usages = || list(object, "containers").iter().map(|c| get(c, "usage")).chain([get(object, "usage")]);
    let sum = |resource: &str| {
        let parsed = usages().filter_map(|usage| text(usage, resource).parse::<Quantity>().ok());
        Value::from(parsed.fold(Quantity::default(), |sum, q| sum.plus(&q)).to_string())
    };
    vec![name(object), sum("cpu"), sum("memory"), text(object, "window").into()]
}

fn resource_quota(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let status = get(object, "status");
    let used = get(status, "used");
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in map(status, "hard") {
        let line = format!("{resource}: {}/{}", quantity(get(used, resource)), quantity(hard));
        if resource.starts_with("limits.") { limits.push(line) } else { requests.push(line) }
    }
    with_age(object, now, [requests.join(", ").into(), limits.join(", ").into()])
}

fn binding(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let role = get(object, "roleRef");
    let mut cells = with_age(object, now, [format!("{}/{}", text(role, "kind"), text(role, "name")).into()]);
    for kind in ["User", "Group", "ServiceAccount"] {
        let subjects = list(object, "subjects").iter().filter(|s| text(s, "kind") == kind);
        let shown: Vec<String> = subjects
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", text(s, "namespace"), text(s, "name")),
                _ => text(s, "name").to_owned(),
            })
            .collect();
        cells.push(shown.join(", ").into());
    }
    cells
}

fn priority_class(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut cells = with_age(object, now, [number(object, "value"), boolean(object, "globalDefault").into()]);
    cells.push(or(text(object, "preemptionPolicy"), "PreemptLowerPriority").into());
    cells
}

/// The first of a list of texts.
fn first<'a>(object: &'a Value, key: &str) -> &'a str {
    list(object, key).first().and_then(Value::as_str).unwrap_or_default()
}

/// A condition by its type.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(at(object, &["status"]), "conditions").iter().find(|c| text(c, "type") == kind)
}

/// A table condition of a finished row.
fn completed(reason: &str, message: &str) -> Value {
    json!({"type": "Completed", "status": "True", "reason": reason, "message": message})
}

fn joined_or_none(items: &[String]) -> String {
    capped(items, usize::MAX, NONE)
}
