//! Node. Source: `pkg/registry/core/node/strategy.go`, `ValidateNode`, `ValidateNodeUpdate`, `validateNodeTaints`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::json::{canonical_resources, copy, ensure_object, get, has, list, same, set, text};
use super::super::{Context, Hooks};

pub static HOOKS: Hooks =
    Hooks { default, prepare_update, validate, validate_update, delete_returns_object: false, ..Hooks::NEUTRAL };

fn default(object: &mut Value) {
    ensure_object(object, "spec");
    let Some(status) = object.get_mut("status").filter(|s| s.is_object()) else { return };
    canonical_resources(status, "capacity");
    if !has(status, "allocatable") && has(status, "capacity") {
        let capacity = get(status, "capacity").clone();
        set(status, "allocatable", capacity);
    }
    canonical_resources(status, "allocatable");
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = get(object, "spec");
    taints(list(spec, "taints"), &Path::new("spec.taints"), &mut errors);
    let cidrs = list(spec, "podCIDRs");
    let path = Path::new("spec.podCIDRs");
    for (i, cidr) in cidrs.iter().enumerate() {
        if cidr.as_str().is_none_or(|c| c.parse::<ipnet::IpNet>().is_err()) {
            errors.push(FieldError::invalid(
                &path.index(i),
                cidr,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ));
        }
    }
    if cidrs.len() > 2 {
        errors.push(FieldError::invalid(
            &path,
            get(spec, "podCIDRs"),
            "may specify no more than one CIDR for each IP family",
        ));
    }
    let addresses = list(get(object, "status"), "addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].iter().any(|other| same(other, address)) {
            errors.push(FieldError::duplicate(&Path::new("status.addresses").index(i), address));
        }
    }
    errors
}

fn taints(taints: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        errors.extend(names::qualified_name(key).into_iter().map(|e| FieldError::invalid(&path.child("key"), key, e)));
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&path.child("value"), value, wrong.join(";")));
        }
        match effect {
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            "" => errors.push(FieldError::required(&path.child("effect"), "")),
            _ => errors.push(FieldError::not_supported(
                &path.child("effect"),
                effect,
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            )),
        }
        if taints[..i].iter().any(|t| text(t, "key") == key && text(t, "effect") == effect) {
            let mut duplicate = FieldError::duplicate(&path, taint);
            duplicate.detail = "taints must be unique by key and effect pair".into();
            errors.push(duplicate);
        }
    }
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (new, old) = (get(new, "spec"), get(old, "spec"));
    if !list(old, "podCIDRs").is_empty() && !same(get(new, "podCIDRs"), get(old, "podCIDRs")) {
        errors.push(FieldError::forbidden(
            &Path::new("spec.podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    if !text(old, "providerID").is_empty() && text(new, "providerID") != text(old, "providerID") {
        errors.push(FieldError::forbidden(
            &Path::new("spec.providerID"),
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    errors
}
