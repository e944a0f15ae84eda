//! LimitRanger: what a LimitRange says containers get when they say nothing, and what they may ask for.
//! Source: `plugin/pkg/admission/limitranger/admission.go`.

use serde_json::{Map, Value};
use types::quantity::Quantity;
use types::resources::{self, List, Sum};
use types::status::Status;

use super::{Operation, Request, all_in};
use crate::hooks::json::{each_mut, ensure_object, get, has, list, map, quantity, set, text};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Whether limits apply to what is written: containers do not change once they are there, but by a resize.
fn concerns(request: &Request) -> bool {
    let being_deleted = request.old.is_some_and(|old| has(get(old, "metadata"), "deletionTimestamp"));
    let pod = request.kind.kind == "Pod";
    !being_deleted
        && match (request.subresource, request.operation) {
            ("", Operation::Create) => true,
            ("", Operation::Update) => !pod,
            ("resize", Operation::Update) => pod,
            _ => false,
        }
}

/// Completes a pod.
pub fn mutate(request: &mut Request) {
    if !concerns(request) {
        return;
    }
    let ranges = all_in(request.view, "", "LimitRange", request.namespace);
    let Some(pod) = request.object.as_deref_mut() else { return };
    for range in &ranges {
        let (mut requests, mut limits) = (Map::new(), Map::new());
        for limit in list(get(range, "spec"), "limits").iter().filter(|l| text(l, "type") == "Container") {
            let copies = |field| map(limit, field).map(|(k, v)| (k.clone(), v.clone()));
            requests.extend(copies("defaultRequest"));
            limits.extend(copies("default"));
        }
        complete(pod, &requests, &limits);
    }
}

fn complete(pod: &mut Value, requests: &Map<String, Value>, limits: &Map<String, Value>) {
    let mut said = Vec::new();
    if let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) {
        for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in each_mut(spec, field) {
                let name = text(container, "name").to_owned();
                let Some(resources) = ensure_object(container, "resources") else { continue };
                for (field, defaults, noun) in [("requests", requests, "request"), ("limits", limits, "limit")] {
                    let added: Vec<&String> = defaults.keys().filter(|k| !has(get(resources, field), k)).collect();
                    if added.is_empty() {
                        continue;
                    }
                    let Some(slot) = ensure_object(resources, field) else { continue };
                    added.iter().for_each(|k| set(slot, k, defaults[*k].clone()));
                    let names: Vec<&str> = added.into_iter().map(String::as_str).collect();
                    said.push(format!("{} {noun} for {what} {name}", names.join(", ")));
                }
            }
        }
    }
    if said.is_empty() {
        return;
    }
    let annotations = ensure_object(pod, "metadata").and_then(|m| ensure_object(m, "annotations"));
    if let Some(annotations) = annotations {
        set(annotations, ANNOTATION, format!("LimitRanger plugin set: {}", said.join("; ")));
    }
}

/// Refuses a pod or a claim that asks for too much or too little.
pub fn validate(request: &Request) -> Result<(), Status> {
    if !concerns(request) {
        return Ok(());
    }
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    for range in all_in(request.view, "", "LimitRange", request.namespace) {
        let mut errors: Vec<String> = Vec::new();
        for limit in list(get(&range, "spec"), "limits") {
            if request.kind.kind == "Pod" { pod(limit, object, &mut errors) } else { claim(limit, object, &mut errors) }
        }
        // Two containers that are alike are told once.
        let mut distinct: Vec<String> = Vec::new();
        for error in errors {
            if !distinct.contains(&error) {
                distinct.push(error);
            }
        }
        let why = match distinct.as_slice() {
            [] => continue,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        return Err(Status::forbidden(request.kind, request.name, &why));
    }
    Ok(())
}

fn pod(limit: &Value, pod: &Value, errors: &mut Vec<String>) {
    match text(limit, "type") {
        "Container" => {
            let spec = get(pod, "spec");
            for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
                let of = get(container, "resources");
                check(limit, &resources::list(of, "requests"), &resources::list(of, "limits"), errors);
            }
        }
        "Pod" => {
            let sum = Sum::default();
            check(limit, &resources::requests(pod, sum), &resources::limits(pod, sum), errors);
        }
        _ => {}
    }
}

fn check(limit: &Value, requests: &List, limits: &List, errors: &mut Vec<String>) {
    let kind = text(limit, "type");
    for (name, bound) in bounds(limit, "min") {
        errors.extend(minimum(kind, name, &bound, requests, limits));
    }
    for (name, bound) in bounds(limit, "max") {
        errors.extend(maximum(kind, name, &bound, requests, limits));
    }
    for (name, bound) in bounds(limit, "maxLimitRequestRatio") {
        errors.extend(ratio(kind, name, &bound, requests, limits));
    }
}

fn claim(limit: &Value, claim: &Value, errors: &mut Vec<String>) {
    if text(limit, "type") != "PersistentVolumeClaim" {
        return;
    }
    let requests = resources::list(get(get(claim, "spec"), "resources"), "requests");
    for (name, bound) in bounds(limit, "min") {
        errors.extend(minimum("PersistentVolumeClaim", name, &bound, &requests, &List::new()));
    }
    for (name, bound) in bounds(limit, "max") {
        let about = format!("maximum {name} usage per PersistentVolumeClaim is {bound}");
        match requests.get(name) {
            None => errors.push(format!("{about}.  No request is specified")),
            Some(request) if *request > bound => errors.push(format!("{about}, but request is {request}")),
            Some(_) => {}
        }
    }
}

fn bounds<'a>(limit: &'a Value, field: &'a str) -> impl Iterator<Item = (&'a str, Quantity)> {
    map(limit, field).filter_map(|(name, value)| Some((name.as_str(), quantity(value)?)))
}

fn minimum(kind: &str, name: &str, bound: &Quantity, requests: &List, limits: &List) -> Option<String> {
    let about = format!("minimum {name} usage per {kind} is {bound}");
    let Some(request) = requests.get(name) else { return Some(format!("{about}.  No request is specified")) };
    if request < bound {
        return Some(format!("{about}, but request is {request}"));
    }
    let limit = limits.get(name).filter(|limit| *limit < bound)?;
    Some(format!("{about}, but limit is {limit}"))
}

fn maximum(kind: &str, name: &str, bound: &Quantity, requests: &List, limits: &List) -> Option<String> {
    let about = format!("maximum {name} usage per {kind} is {bound}");
    let Some(limit) = limits.get(name) else { return Some(format!("{about}.  No limit is specified")) };
    if limit > bound {
        return Some(format!("{about}, but limit is {limit}"));
    }
    let request = requests.get(name).filter(|request| *request > bound)?;
    Some(format!("{about}, but request is {request}"))
}

fn ratio(kind: &str, name: &str, bound: &Quantity, requests: &List, limits: &List) -> Option<String> {
    let about = format!("{name} max limit to request ratio per {kind} is {bound}");
    let Some(request) = requests.get(name).filter(|q| !q.is_zero()) else {
        return Some(format!("{about}, but no request is specified or request is 0"));
    };
    let Some(limit) = limits.get(name).filter(|q| !q.is_zero()) else {
        return Some(format!("{about}, but no limit is specified or limit is 0"));
    };
    #[expect(clippy::cast_precision_loss, reason = "upstream compares ratios as floating point numbers")]
    let [limit, request, bound] = [limit, request, bound].map(|quantity| quantity.millis() as f64);
    let observed = limit / request;
    (observed * 1000.0 > bound).then(|| format!("{about}, but provided ratio is {observed:.6}"))
}
