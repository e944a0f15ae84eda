//! Where a pod may go: affinity, tolerations, spread.
//! Source: `validateAffinity`, `ValidateTolerations`, `validateTopologySpreadConstraints`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::super::check::{Errors, items, one_of, required_one_of, wrong};
use super::super::super::json::{at, get, has, int, list, text};
use super::super::super::selectors;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    for (path, toleration) in items(spec, "tolerations", path) {
        self::toleration(toleration, &path, errors);
    }
    let (affinity, at_affinity) = (get(spec, "affinity"), path.child("affinity"));
    if has(affinity, "nodeAffinity") {
        node_affinity(get(affinity, "nodeAffinity"), &at_affinity.child("nodeAffinity"), errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        if has(affinity, field) {
            pod_affinity(get(affinity, field), &at_affinity.child(field), errors);
        }
    }
    spread(spec, path, errors);
}

pub fn toleration(toleration: &Value, path: &Path, errors: &mut Errors) {
    let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
    let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
    if !key.is_empty() {
        wrong(errors, &path.child("key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let words = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(&path.child("operator"), operator, words));
    }
    if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
        let words = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(&path.child("effect"), effect, words));
    }
    match operator {
        "" | "Equal" => {
            let messages = names::label_value(value);
            if !messages.is_empty() {
                errors.push(FieldError::invalid(&path.child("operator"), value, messages.join(";")));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let words = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&path.child("operator"), toleration, words));
            }
        }
        _ => errors.push(FieldError::not_supported(&path.child("operator"), operator, &["Equal", "Exists"])),
    }
    one_of(errors, toleration, "effect", path, EFFECTS);
}

fn node_affinity(affinity: &Value, path: &Path, errors: &mut Errors) {
    if has(affinity, REQUIRED) {
        node_selector(get(affinity, REQUIRED), &path.child(REQUIRED), errors);
    }
    for (path, preferred) in items(affinity, PREFERRED, path) {
        weight(preferred, &path, errors);
        node_term(get(preferred, "preference"), &path.child("preference"), errors);
    }
}

/// The nodes that one of the terms selects; also for volumes.
pub fn node_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    if list(selector, "nodeSelectorTerms").is_empty() {
        let words = "must have at least one node selector term";
        errors.push(FieldError::required(&path.child("nodeSelectorTerms"), words));
    }
    for (path, term) in items(selector, "nodeSelectorTerms", path) {
        node_term(term, &path, errors);
    }
}

fn weight(preferred: &Value, path: &Path, errors: &mut Errors) {
    let weight = int(preferred, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn node_term(term: &Value, path: &Path, errors: &mut Errors) {
    for field in ["matchExpressions", "matchFields"] {
        for (path, requirement) in items(term, field, path) {
            let values = list(requirement, "values");
            let at = path.child("values");
            match text(requirement, "operator") {
                "In" | "NotIn" => {
                    if values.is_empty() {
                        let words = "must be specified when `operator` is 'In' or 'NotIn'";
                        errors.push(FieldError::required(&at, words));
                    }
                }
                "Exists" | "DoesNotExist" => {
                    if !values.is_empty() {
                        let words = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                        errors.push(FieldError::forbidden(&at, words));
                    }
                }
                "Gt" | "Lt" => {
                    if values.len() != 1 {
                        let words = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                        errors.push(FieldError::required(&at, words));
                    }
                }
                other => {
                    let words = "not a valid selector operator";
                    errors.push(FieldError::invalid(&path.child("operator"), other, words));
                }
            }
            let key = text(requirement, "key");
            if field == "matchExpressions" {
                wrong(errors, &path.child("key"), key, names::qualified_name(key));
            } else if key != "metadata.name" {
                errors.push(FieldError::invalid(&path.child("key"), key, "not a valid field selector key"));
            }
        }
    }
}

fn pod_affinity(affinity: &Value, path: &Path, errors: &mut Errors) {
    for (path, term) in items(affinity, REQUIRED, path) {
        pod_term(term, &path, errors);
    }
    for (path, preferred) in items(affinity, PREFERRED, path) {
        weight(preferred, &path, errors);
        pod_term(get(preferred, "podAffinityTerm"), &path.child("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut Errors) {
    for field in ["labelSelector", "namespaceSelector"] {
        selectors::validate(get(term, field), &path.child(field), errors);
    }
    for (i, namespace) in list(term, "namespaces").iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or_default();
        wrong(errors, &path.child("namespace").index(i), namespace, names::dns1123_label(namespace));
    }
    topology_key(term, path, errors);
}

fn topology_key(object: &Value, path: &Path, errors: &mut Errors) {
    let key = text(object, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
    } else {
        wrong(errors, &path.child("topologyKey"), key, names::qualified_name(key));
    }
}

fn spread(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = list(spec, "topologySpreadConstraints");
    for (i, (path, constraint)) in items(spec, "topologySpreadConstraints", path).enumerate() {
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        topology_key(constraint, &path, errors);
        required_one_of(errors, constraint, "whenUnsatisfiable", &path, &["DoNotSchedule", "ScheduleAnyway"]);
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(errors, constraint, field, &path, &["Honor", "Ignore"]);
        }
        let same = |c: &Value| {
            text(c, "topologyKey") == text(constraint, "topologyKey")
                && text(c, "whenUnsatisfiable") == text(constraint, "whenUnsatisfiable")
        };
        if all[..i].iter().any(same) {
            let shown = format!("{{{}, {}}}", text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
            errors.push(FieldError::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), &shown));
        }
        if let Some(n) = int(constraint, "minDomains") {
            let at = path.child("minDomains");
            if n <= 0 {
                errors.push(FieldError::invalid(&at, n, "must be greater than zero"));
            } else if text(constraint, "whenUnsatisfiable") != "DoNotSchedule" {
                let words = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
                errors.push(FieldError::invalid(&at, n, words));
            }
        }
        selectors::validate(at(constraint, &["labelSelector"]), &path.child("labelSelector"), errors);
    }
}
