//! NodeRestriction: a node's own credentials write only what is that node's.
//! Source: `plugin/pkg/admission/noderestriction/admission.go`. Authorization has already kept nodes from other kinds.

use serde_json::Value;
use types::status::Status;

use super::{Operation, Request};
use crate::hooks::json::{get, map, text};

const GROUP: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";

pub fn validate(request: &Request) -> Result<(), Status> {
    let Some(node) = request.user.user.strip_prefix(USER_PREFIX) else { return Ok(()) };
    if !request.user.groups.iter().any(|g| g == GROUP) {
        return Ok(());
    }
    match (&*request.kind.group, &*request.kind.kind, request.subresource) {
        ("", "Node", _) => self::node(request, node),
        ("", "Pod", "") => pod(request, node),
        ("", "Pod", "status") => match request.old {
            Some(old) if on_node(old) != node => refuse(
                request,
                &format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
            ),
            _ => Ok(()),
        },
        ("", "Pod", "eviction") => Ok(()),
        ("", "ServiceAccount", "token") => token(request, node),
        ("coordination.k8s.io", "Lease", _) => lease(request, node),
        _ => Ok(()),
    }
}

fn refuse(request: &Request, why: &str) -> Result<(), Status> {
    Err(Status::forbidden(request.kind, request.name, why))
}

fn on_node(pod: &Value) -> &str {
    text(get(pod, "spec"), "nodeName")
}

fn node(request: &Request, node: &str) -> Result<(), Status> {
    let name = match (request.name, &request.object) {
        ("", Some(object)) => text(get(object, "metadata"), "name"),
        (name, _) => name,
    };
    if name != node {
        return refuse(request, &format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    match (request.operation, request.old, request.object.as_deref()) {
        (Operation::Delete, _, _) => refuse(request, &format!("node {node:?} is not allowed to delete node {name:?}")),
        (Operation::Update, Some(old), Some(new)) => {
            if !crate::hooks::json::same(get(get(new, "spec"), "taints"), get(get(old, "spec"), "taints")) {
                return refuse(request, &format!("node {node:?} is not allowed to modify taints"));
            }
            reserved_labels(request, old, new)
        }
        _ => Ok(()),
    }
}

/// Labels that isolate workloads by node must not be the node's to choose.
fn reserved_labels(request: &Request, old: &Value, new: &Value) -> Result<(), Status> {
    const ISOLATION: &str = "node-restriction.kubernetes.io";
    let (before, after) = (get(get(old, "metadata"), "labels"), get(get(new, "metadata"), "labels"));
    let isolating = |key: &str| {
        key.split_once('/').is_some_and(|(domain, _)| domain == ISOLATION || domain.ends_with(&format!(".{ISOLATION}")))
    };
    let labels = |v: &Value| v.as_object().cloned().unwrap_or_default();
    let mut changed: Vec<String> = Vec::new();
    for key in labels(before).keys().chain(labels(after).keys()) {
        if isolating(key) && before.get(key) != after.get(key) && !changed.contains(key) {
            changed.push(key.clone());
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    changed.sort_unstable();
    refuse(request, &format!("is not allowed to modify labels: {}", changed.join(", ")))
}

fn pod(request: &Request, node: &str) -> Result<(), Status> {
    match request.operation {
        Operation::Create => {
            let Some(pod) = request.object.as_deref() else { return Ok(()) };
            if !map(get(pod, "metadata"), "annotations").any(|(k, _)| k == "kubernetes.io/config.mirror") {
                return refuse(
                    request,
                    &format!(
                        "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                    ),
                );
            }
            if on_node(pod) != node {
                return refuse(
                    request,
                    &format!("node {node:?} can only create pods with spec.nodeName set to itself"),
                );
            }
            Ok(())
        }
        Operation::Delete => match request.old {
            Some(old) if on_node(old) != node => {
                refuse(request, &format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn lease(request: &Request, node: &str) -> Result<(), Status> {
    if request.namespace != "kube-node-lease" {
        return refuse(
            request,
            &format!("can only access leases in the \"kube-node-lease\" system namespace, node {node:?}"),
        );
    }
    let name = match (request.name, &request.object) {
        ("", Some(object)) => text(get(object, "metadata"), "name"),
        (name, _) => name,
    };
    if name != node {
        return refuse(
            request,
            &format!("can only access node lease with the same name as the requesting node, node {node:?}"),
        );
    }
    Ok(())
}

/// A node asks for tokens only for pods that run on it.
fn token(request: &Request, node: &str) -> Result<(), Status> {
    let Some(token) = request.object.as_deref() else { return Ok(()) };
    let bound = get(get(token, "spec"), "boundObjectRef");
    if text(bound, "kind") != "Pod" || text(bound, "name").is_empty() {
        return refuse(request, &format!("node requested token not bound to a pod, node {node:?}"));
    }
    let Some(pods) = types::registry::by_kind("", "v1", "Pod") else { return Ok(()) };
    let key = pods.store_key(request.namespace, text(bound, "name"));
    let pod: Option<Value> = super::read(request.view, &key);
    let Some(pod) = pod else { return Err(Status::not_found(pods, text(bound, "name"))) };
    if text(get(&pod, "metadata"), "uid") != text(bound, "uid") {
        return refuse(request, "the UID in the bound object reference does not match the UID in record");
    }
    if on_node(&pod) != node {
        return refuse(
            request,
            &format!("node requested token bound to a pod scheduled on a different node, node {node:?}"),
        );
    }
    Ok(())
}
