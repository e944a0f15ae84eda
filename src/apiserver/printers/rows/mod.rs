//! Rows by kind. Source: the `print*` functions of `pkg/printers/internalversion/printers.go`.

use serde_json::{Value, json};
use types::registry::Kind;

use super::Row;
use super::cells::{NONE, capped, containers, created, number, or, selector};
use crate::hooks::json::{at, boolean, get, int, list, map_len, text};

mod event;
mod ingress;
mod network;
mod node;
mod others;
mod pod;
mod storage;

pub fn row(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Row {
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
        ("apps", "Deployment") => deployment(object, now),
        ("apps", "ReplicaSet") => replica_set(object, now),
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

fn deployment(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let (ready, wanted) = (int(status, "readyReplicas").unwrap_or(0), int(spec, "replicas").unwrap_or(0));
    let mut cells = with_age(
        object,
        now,
        [format!("{ready}/{wanted}").into(), number(status, "updatedReplicas"), number(status, "availableReplicas")],
    );
    let (names, images) = containers(object);
    cells.extend([names.into(), images.into(), selector(get(spec, "selector"), "", "<invalid>").into()]);
    cells
}

fn replica_set(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let counts = [number(spec, "replicas"), number(status, "replicas"), number(status, "readyReplicas")];
    let mut cells = with_age(object, now, counts);
    let (names, images) = containers(object);
    cells.extend([names.into(), images.into(), selector(get(spec, "selector"), NONE, "<error>").into()]);
    cells
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
