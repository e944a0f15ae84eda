//! APIService. Source: kube-aggregator `pkg/apis/apiregistration/validation/validation.go`,
//! `pkg/registry/apiservice/strategy.go`, `pkg/controllers/autoregister`; `pkg/controlplane/apiserver/aggregator.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;
use types::registry::{BUILT_IN, GROUP_VERSIONS};
use types::time::rfc3339;

use crate::aggregator;
use crate::verbs::metrics;

use super::check::{self, Errors, PORT_RANGE, items};
use super::json::{boolean, get, has, int, object_mut, set, set_absent, text};
use super::{Context, Hooks, strategy};

pub static API_SERVICE: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update: strategy::update_ungenerated,
    validate,
    validate_update,
    validate_name: names::path_segment,
    unconditional_update: false,
    ..Hooks::NEUTRAL
};

const PORT: i64 = 443;
const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1000;
/// On an object that the server keeps: `onstart` when it does so at its start only, `true` when always.
pub const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// The object of each group and version that this server serves itself, but for the one of these objects.
pub fn built_in() -> Vec<Value> {
    let served = GROUP_VERSIONS
        .iter()
        .filter(|g| g.group != aggregator::GROUP)
        .filter(|g| BUILT_IN.iter().any(|kind| kind.group == g.group && kind.version == g.version));
    served
        .map(|g| {
            let mut spec = json!({"version": g.version, "groupPriorityMinimum": g.group_priority,
                "versionPriority": g.version_priority});
            if !g.group.is_empty() {
                spec["group"] = json!(g.group);
            }
            json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": format!("{}.{}", g.version, g.group), "labels": {AUTOMANAGED: "onstart"}},
                "spec": spec})
        })
        .collect()
}

/// What a stored object that the server keeps becomes; `None` when nothing is to be changed, or somebody else keeps it: metrics
/// may be another server's, whose manifest is applied over this server's own object.
pub fn reconcile(stored: &Value, wanted: &Value) -> Option<Value> {
    let kept = matches!(text(get(get(stored, "metadata"), "labels"), AUTOMANAGED), "onstart" | "true");
    let replaced = has(get(stored, "spec"), "service") && text(get(stored, "spec"), "group") == metrics::GROUP;
    if !kept || replaced || get(stored, "spec") == get(wanted, "spec") {
        return None;
    }
    let mut new = stored.clone();
    new["spec"] = wanted["spec"].clone();
    Some(new)
}

fn default(service: &mut Value) {
    if let Some(reference) = object_mut(service, "spec").and_then(|spec| object_mut(spec, "service")) {
        set_absent(reference, "port", PORT);
    }
}

/// What this server serves itself is there.
fn prepare_create(service: &mut Value, context: &Context) {
    let status = if has(get(service, "spec"), "service") {
        json!({})
    } else {
        json!({"conditions": [{"type": "Available", "status": "True", "lastTransitionTime": rfc3339(context.now),
            "reason": "Local", "message": "Local APIServices are always available"}]})
    };
    set(service, "status", status);
}

fn validate(service: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(service, "spec"), Path::new("spec"));
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let (name, wanted) = (text(get(service, "metadata"), "name"), format!("{version}.{group}"));
    if name != wanted {
        let words = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(FieldError::invalid(&Path::new("metadata.name"), name, words));
    }
    if !group.is_empty() {
        check::wrong(&mut errors, &path.child("group"), group, names::dns1123_subdomain(group));
    } else if version != "v1" {
        let words = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(&path.child("group"), words));
    }
    check::wrong(&mut errors, &path.child("version"), version, names::dns1035_label(version));
    for (field, max) in [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)] {
        let n = int(spec, field).unwrap_or(0);
        if n <= 0 || n > max {
            let words = format!("must be positive and less than {max}");
            errors.push(FieldError::invalid(&path.child(field), n, words));
        }
    }
    let (bundle, insecure) = (text(spec, "caBundle"), boolean(spec, "insecureSkipTLSVerify"));
    let (at_bundle, at_insecure) = (path.child("caBundle"), path.child("insecureSkipTLSVerify"));
    if !has(spec, "service") {
        if !bundle.is_empty() {
            let size = format!("{} bytes", decoded_length(bundle));
            errors.push(FieldError::invalid(&at_bundle, &size, "local APIServices may not have a caBundle"));
        }
        if insecure {
            let words = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(&at_insecure, &json!(true), words));
        }
        return errors;
    }
    let (reference, at) = (get(spec, "service"), path.child("service"));
    check::required(&mut errors, reference, "namespace", &at);
    check::required(&mut errors, reference, "name", &at);
    let port = int(reference, "port").unwrap_or(0);
    if !(1..=65535).contains(&port) {
        errors.push(FieldError::invalid(&at.child("port"), port, format!("port is not valid: {PORT_RANGE}")));
    }
    if insecure && !bundle.is_empty() {
        errors.push(FieldError::invalid(&at_insecure, &json!(true), "may not be true if caBundle is present"));
    }
    errors
}

/// Bytes behind text in base64.
fn decoded_length(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

fn validate_update(new: &Value, _: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        for (path, condition) in items(get(new, "status"), "conditions", &Path::new("status")) {
            let known = ["False", "True", "Unknown"];
            if !known.contains(&text(condition, "status")) {
                errors.push(FieldError::not_supported(&path.child("status"), text(condition, "status"), &known));
            }
        }
    }
    errors
}
