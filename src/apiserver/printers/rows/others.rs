//! Rows of the groups besides core and the workloads: policy, certificates, nodes, devices, flow control, admission.

use serde_json::{Value, json};

use super::super::cells::{NONE, created, number, or};
use super::{name, with_age};
use crate::hooks::json::{at, boolean, get, has, int, list, map, text, texts};

const UNSET: &str = "<unset>";

/// The cells of a kind of these groups; `None` for every other.
pub fn cells(group: &str, kind: &str, object: &Value, now: jiff::Timestamp) -> Option<Vec<Value>> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    Some(match (group, kind) {
        ("policy", "PodDisruptionBudget") => with_age(
            object,
            now,
            [
                int_or_percent(spec, "minAvailable"),
                int_or_percent(spec, "maxUnavailable"),
                number(status, "disruptionsAllowed"),
            ],
        ),
        ("certificates.k8s.io", "CertificateSigningRequest") => signing_request(object, now),
        ("node.k8s.io", "RuntimeClass") => with_age(object, now, [text(object, "handler").into()]),
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => with_age(object, now, []),
        ("resource.k8s.io", "ResourceClaim") => with_age(object, now, [claim_state(object).into()]),
        ("resource.k8s.io", "ResourceSlice") => {
            let pool = text(get(spec, "pool"), "name");
            with_age(object, now, [text(spec, "nodeName").into(), text(spec, "driver").into(), pool.into()])
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            with_age(object, now, [list(object, "webhooks").len().into()])
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy") => {
            let rules = if kind.starts_with('V') { "validations" } else { "mutations" };
            let param = get(spec, "paramKind");
            let shown = if param.is_null() {
                UNSET.to_owned()
            } else {
                format!("{}/{}", text(param, "apiVersion"), text(param, "kind"))
            };
            with_age(object, now, [list(spec, rules).len().into(), shown.into()])
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding") => {
            with_age(object, now, [text(spec, "policyName").into(), param_ref(get(spec, "paramRef")).into()])
        }
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flow_schema(object, now),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => priority_level(object, now),
        ("apiregistration.k8s.io", "APIService") => api_service(object, now),
        _ => return None,
    })
}

fn int_or_percent(spec: &Value, field: &str) -> Value {
    match get(spec, field) {
        Value::String(s) => s.as_str().into(),
        Value::Number(n) => n.to_string().into(),
        _ => "N/A".into(),
    }
}

fn signing_request(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let is = |kind: &str| list(status, "conditions").iter().any(|c| text(c, "type") == kind);
    let mut condition = match (is("Denied"), is("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if is("Failed") {
        condition += ",Failed";
    }
    if !text(status, "certificate").is_empty() {
        condition += ",Issued";
    }
    let duration = int(spec, "expirationSeconds").map_or_else(|| NONE.into(), types::time::human_duration);
    vec![
        name(object),
        created(object, now).into(),
        or(text(spec, "signerName"), NONE).into(),
        text(spec, "username").into(),
        duration.into(),
        condition.into(),
    ]
}

fn claim_state(claim: &Value) -> String {
    let status = get(claim, "status");
    let deleted = has(get(claim, "metadata"), "deletionTimestamp");
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if has(status, "allocation") {
        states.push("allocated");
        if !list(status, "reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",")
}

/// A binding's parameters. A selector is shown as Go shows the struct, which is how upstream prints it.
fn param_ref(param: &Value) -> String {
    let (name, namespace, selector) = (text(param, "name"), text(param, "namespace"), get(param, "selector"));
    if !name.is_empty() {
        return format!("{}/{name}", or(namespace, "*"));
    }
    if !selector.is_object() {
        return UNSET.into();
    }
    let labels: String =
        map(selector, "matchLabels").map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or_default())).collect();
    let expressions: String = list(selector, "matchExpressions")
        .iter()
        .map(|e| {
            let values: Vec<&str> = texts(e, "values").collect();
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
                text(e, "key"),
                text(e, "operator"),
                values.join(" ")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

fn flow_schema(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = get(object, "spec");
    let dangling = super::condition(object, "Dangling").map_or("?", |c| text(c, "status"));
    vec![
        name(object),
        text(get(spec, "priorityLevelConfiguration"), "name").into(),
        number(spec, "matchingPrecedence"),
        or(text(get(spec, "distinguisherMethod"), "type"), NONE).into(),
        created(object, now).into(),
        dangling.into(),
    ]
}

fn priority_level(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = get(object, "spec");
    let limited = get(spec, "limited");
    let queuing = at(limited, &["limitResponse", "queuing"]);
    let shown = |of: &Value, field: &str| match of {
        Value::Null => json!(NONE),
        of => number(of, field),
    };
    let shares = shown(limited, "nominalConcurrencyShares");
    let queues = ["queues", "handSize", "queueLengthLimit"].map(|field| shown(queuing, field));
    let [count, hand, length] = queues;
    with_age(object, now, [text(spec, "type").into(), shares, count, hand, length])
}

fn api_service(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let service = get(get(object, "spec"), "service");
    let served_by = if service.is_object() {
        format!("{}/{}", text(service, "namespace"), text(service, "name"))
    } else {
        "Local".to_owned()
    };
    let available = match super::condition(object, "Available") {
        None => "Unknown".to_owned(),
        Some(c) if text(c, "status") == "True" => "True".to_owned(),
        Some(c) if text(c, "reason").is_empty() => text(c, "status").to_owned(),
        Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
    };
    with_age(object, now, [served_by.into(), available.into()])
}

/// Whether the annotation makes a class the default one.
pub fn is_default(object: &Value, annotations: &[&str]) -> bool {
    let all = at(object, &["metadata", "annotations"]);
    annotations.iter().any(|a| text(all, a) == "true")
}

/// The name, marked when the class is the default one.
pub fn class_name(object: &Value, annotations: &[&str]) -> Value {
    let name = text(get(object, "metadata"), "name");
    if is_default(object, annotations) { format!("{name} (default)").into() } else { name.into() }
}

/// A boolean that is `or` when it is absent.
pub fn boolean_or(object: &Value, field: &str, or: bool) -> Value {
    (if has(object, field) { boolean(object, field) } else { or }).into()
}
