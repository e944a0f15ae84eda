//! RuntimeClass: what a class costs and where it can run become part of its pods.
//! Source: `plugin/pkg/admission/runtimeclass/admission.go`, `pkg/util/tolerations/tolerations.go`, KEP-688.

use serde_json::Value;
use types::registry::by_kind;
use types::resources;
use types::status::Status;

use super::{Operation, Request};
use crate::hooks::json::{ensure_object, get, has, int, list, map, same, set, text};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn refuse(request: &Request, why: &str) -> Status {
    Status::forbidden(request.kind, request.name, why)
}

/// The class that the pod names.
fn class(request: &Request) -> Result<Option<Value>, Status> {
    let spec = request.object.as_deref().map(|pod| get(pod, "spec"));
    let Some(name) = spec.map(|s| get(s, "runtimeClassName")).and_then(Value::as_str) else { return Ok(None) };
    let class = by_kind("node.k8s.io", "v1", "RuntimeClass")
        .and_then(|kind| super::read::<Value>(request.view, &kind.store_key("", name)));
    match class {
        Some(class) => Ok(Some(class)),
        None => Err(refuse(request, &format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

pub fn mutate(request: &mut Request) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let Some(class) = class(request)? else { return Ok(()) };
    let (kind, name) = (request.kind, request.name);
    let refuse = |why: &str| Status::forbidden(kind, name, why);
    let Some(spec) = request.object.as_deref_mut().and_then(|pod| ensure_object(pod, "spec")) else { return Ok(()) };
    let overhead = get(get(&class, "overhead"), "podFixed");
    if has(&class, "overhead") {
        let given = get(spec, "overhead");
        if given.as_object().is_some_and(|o| !o.is_empty()) && !same_list(&class, spec) {
            return Err(refuse(MISMATCH));
        }
        set(spec, "overhead", overhead.clone());
    }
    let scheduling = get(&class, "scheduling");
    if map(scheduling, "nodeSelector").next().is_some()
        && let Some(selector) = ensure_object(spec, "nodeSelector")
    {
        for (key, wanted) in map(scheduling, "nodeSelector") {
            let given = get(selector, key);
            if !given.is_null() && given != wanted {
                return Err(refuse(&format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    wanted.as_str().unwrap_or_default(),
                    given.as_str().unwrap_or_default()
                )));
            }
            set(selector, key, wanted.clone());
        }
    }
    if !list(scheduling, "tolerations").is_empty() {
        let merged = merge(list(spec, "tolerations"), list(scheduling, "tolerations"));
        set(spec, "tolerations", merged);
    }
    Ok(())
}

/// Refuses a pod that claims another cost than its class has.
pub fn validate(request: &Request) -> Result<(), Status> {
    let (Operation::Create, Some(pod)) = (request.operation, request.object.as_deref()) else { return Ok(()) };
    let spec = get(pod, "spec");
    match class(request)? {
        Some(class) if has(&class, "overhead") => {
            if same_list(&class, spec) {
                Ok(())
            } else {
                Err(refuse(request, MISMATCH))
            }
        }
        _ if has(spec, "overhead") => {
            Err(refuse(request, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
        }
        _ => Ok(()),
    }
}

fn same_list(class: &Value, spec: &Value) -> bool {
    resources::list(get(class, "overhead"), "podFixed") == resources::list(spec, "overhead")
}

/// Both lists in one, without those that another covers.
fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let covered = merged.iter().any(|other| covers(other, toleration))
            // Of two equal ones the first stays.
            || all[at + 1..].iter().any(|other| !same(other, toleration) && covers(other, toleration));
        if !covered {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if same(wide, narrow) {
        return true;
    }
    let operator = |t| match text(t, "operator") {
        "" => "Equal".to_owned(),
        other => other.to_owned(),
    };
    if text(narrow, "key") != text(wide, "key") && !(text(wide, "key").is_empty() && operator(wide) == "Exists") {
        return false;
    }
    if text(narrow, "effect") != text(wide, "effect") && !text(wide, "effect").is_empty() {
        return false;
    }
    if text(wide, "effect") == "NoExecute"
        && let Some(seconds) = int(wide, "tolerationSeconds")
        && int(narrow, "tolerationSeconds").is_none_or(|narrow| narrow > seconds)
    {
        return false;
    }
    match operator(wide).as_str() {
        "Equal" => text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value"),
        "Exists" => true,
        _ => false,
    }
}
