//! StatefulSet: pods with names and volumes of their own. Source: `ValidateStatefulSet*`, `pkg/apis/apps/v1/defaults.go`
//! and `conversion.go`, `pkg/registry/apps/statefulset/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;
use types::selector::LabelSelector;

use super::super::check::{self, Errors};
use super::super::core::persistent_volume_claim as claim;
use super::super::core::pod::{defaults, validate as pod, warnings};
use super::super::json::{
    at, blank, copy, each_mut, ensure_object, get, int, list, map, object_mut, remove, same, set, set_absent,
    set_blank, text,
};
use super::super::strategy::first_generation;
use super::super::{Context, Hooks, metadata, selectors};
use super::{collisions_grow, not_negative, rolling, runs_forever, selected};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    validate_name: names::dns1123_label,
    warnings,
    ..Hooks::NEUTRAL
};

const HISTORY: i64 = 10;
/// What may change in a spec.
const MUTABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];
const PARTS: [&str; 4] = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];

fn default(object: &mut Value) {
    let Some(spec) = ensure_object(object, "spec") else { return };
    set_blank(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = ensure_object(spec, "updateStrategy") {
        if blank(strategy, "type") {
            set(strategy, "type", "RollingUpdate");
            ensure_object(strategy, "rollingUpdate");
        }
        if text(strategy, "type") == "RollingUpdate"
            && let Some(update) = object_mut(strategy, "rollingUpdate")
        {
            set_absent(update, "partition", 0);
        }
    }
    if let Some(policy) = ensure_object(spec, "persistentVolumeClaimRetentionPolicy") {
        set_blank(policy, "whenDeleted", "Retain");
        set_blank(policy, "whenScaled", "Retain");
    }
    set_absent(spec, "replicas", 1);
    set_absent(spec, "revisionHistoryLimit", HISTORY);
    for template in each_mut(spec, "volumeClaimTemplates") {
        set(template, "apiVersion", "v1");
        set(template, "kind", "PersistentVolumeClaim");
        claim::default(template);
    }
    defaults::template(object);
}

fn prepare_create(object: &mut Value, _: &Context) {
    drop_gated(object, &Value::Null);
    // these counts are shown even when they are zero
    set(object, "status", json!({"replicas": 0, "availableReplicas": 0}));
    first_generation(object);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    drop_gated(new, old);
    super::prepare_update(new, old, context);
}

/// Upstream serves `maxUnavailable` behind a gate that is off by default (MaxUnavailableStatefulSet): it is kept where it has
/// been, and means nothing.
fn drop_gated(new: &mut Value, old: &Value) {
    let path = ["spec", "updateStrategy", "rollingUpdate"];
    if !get(at(old, &path), "maxUnavailable").is_null() {
        return;
    }
    let update = path.iter().try_fold(new, |value, field| object_mut(value, field));
    if let Some(update) = update {
        remove(update, "maxUnavailable");
    }
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    let policy = text(spec, "podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let words = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid(&path.child("podManagementPolicy"), policy, words));
    }
    strategy(get(spec, "updateStrategy"), &path.child("updateStrategy"), &mut errors);
    let (retention, at_retention) =
        (get(spec, "persistentVolumeClaimRetentionPolicy"), path.child("persistentVolumeClaimRetentionPolicy"));
    for field in ["whenDeleted", "whenScaled"] {
        check::one_of(&mut errors, retention, field, &at_retention, &["Retain", "Delete"]);
    }
    for (path, template) in check::items(spec, "volumeClaimTemplates", &path) {
        claim::spec(get(template, "spec"), &path.child("spec"), &mut errors);
    }
    not_negative(spec, &path, &["replicas", "minReadySeconds"], &mut errors);
    if let Some(start) = int(get(spec, "ordinals"), "start").filter(|n| *n < 0) {
        errors.push(FieldError::invalid(&path.child("ordinals.start"), start, check::NOT_NEGATIVE));
    }
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        check::wrong(&mut errors, &path.child("serviceName"), service, names::dns1123_label(service));
    }
    selector(spec, &path, &mut errors);
    runs_forever(get(spec, "template"), "StatefulSet", &path.child("template"), &mut errors);
    errors
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let (update, at_update) = (get(strategy, "rollingUpdate"), path.child("rollingUpdate"));
    match text(strategy, "type") {
        "OnDelete" => {
            if !update.is_null() {
                let words = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(FieldError::invalid(&at_update, update, words));
            }
        }
        "RollingUpdate" => {
            not_negative(update, &at_update, &["partition"], errors);
            let (most, path) = (get(update, "maxUnavailable"), at_update.child("maxUnavailable"));
            if !most.is_null() {
                rolling::positive(most, &path, errors);
                if rolling::number(most).unwrap_or(0) == 0 {
                    errors.push(FieldError::invalid(&path, most, "cannot be 0"));
                }
                rolling::at_most_all(most, &path, errors);
            }
        }
        _ => errors.push(FieldError::invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

/// The selector and the template that it selects.
fn selector(spec: &Value, path: &Path, errors: &mut Errors) {
    let (selector, at_selector) = (get(spec, "selector"), path.child("selector"));
    if selector.is_null() {
        errors.push(FieldError::required(&at_selector, ""));
    } else {
        selectors::validate(selector, &at_selector, errors);
        if selectors::is_empty(selector) {
            let words = "empty selector is invalid for statefulset";
            errors.push(FieldError::invalid(&at_selector, selector, words));
        }
    }
    let Ok(parsed) = LabelSelector::from_object(selector) else {
        errors.push(FieldError::invalid(&at_selector, selector, ""));
        return;
    };
    let (given, path) = (get(spec, "template"), path.child("template"));
    if !selector.is_null() && !parsed.is_empty() {
        selected(&parsed, given, &path, errors);
    }
    let template = completed(spec);
    pod::template(&template, &path, errors);
    let meta = get(given, "metadata");
    let labels = map(meta, "labels").map(|(k, v)| (k, v.as_str()));
    errors.extend(names::labels(&path.child("labels"), labels));
    metadata::annotations(meta, &path.child("annotations"), errors);
}

/// The template as its pods will be: a volume for each claim, names given by the set.
fn completed(spec: &Value) -> Value {
    let mut template = get(spec, "template").clone();
    let claims: Vec<&str> =
        list(spec, "volumeClaimTemplates").iter().map(|c| text(get(c, "metadata"), "name")).collect();
    let Some(pod) = object_mut(&mut template, "spec") else { return template };
    remove(pod, "hostname");
    remove(pod, "subdomain");
    if !claims.is_empty() {
        let mut seen = std::collections::BTreeSet::new();
        let mut volumes: Vec<Value> = claims
            .iter()
            .filter(|name| seen.insert(**name))
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
            .collect();
        volumes.extend(list(pod, "volumes").iter().filter(|v| !claims.contains(&text(v, "name"))).cloned());
        set(pod, "volumes", volumes);
    }
    template
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        status(get(new, "status"), &mut errors);
        collisions_grow(new, old, &mut errors);
        return errors;
    }
    let (mut spec, before) = (get(new, "spec").clone(), get(old, "spec"));
    for field in MUTABLE {
        copy(&mut spec, before, field);
    }
    if !same(&spec, before) {
        let words = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                     'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                     'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden(&Path::new("spec"), words));
    }
    errors
}

fn status(status: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    not_negative(status, &path, &["replicas"], errors);
    not_negative(status, &path, &PARTS, errors);
    not_negative(status, &path, &["observedGeneration", "collisionCount"], errors);
    let count = |field| int(status, field).unwrap_or(0);
    for part in PARTS.iter().filter(|part| count(part) > count("replicas")) {
        errors.push(FieldError::invalid(&path.child(part), count(part), "cannot be greater than status.replicas"));
    }
    let available = count("availableReplicas");
    if available > count("readyReplicas") {
        let words = "cannot be greater than status.readyReplicas";
        errors.push(FieldError::invalid(&path.child("availableReplicas"), available, words));
    }
}

fn warnings(object: &Value) -> Vec<String> {
    let mut warnings = warnings::template(object);
    let spec = get(object, "spec");
    for (i, template) in list(spec, "volumeClaimTemplates").iter().enumerate() {
        let path = Path::new("spec.volumeClaimTemplates").index(i);
        claim::warn_spec(get(template, "spec"), &path, &mut warnings);
    }
    if int(spec, "revisionHistoryLimit").is_some_and(|n| n < 0) {
        let words = "a negative value retains all historical revisions; a value >= 0 is recommended";
        warnings.push(format!("spec.revisionHistoryLimit: {words}"));
    }
    warnings
}
