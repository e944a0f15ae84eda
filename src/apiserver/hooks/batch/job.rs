//! Job: strategy, the selector that is made for it, and what may change.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;
use types::selector::LabelSelector;

use super::super::check::Errors;
use super::super::core::pod::{defaults, warnings};
use super::super::json::{
    at, boolean, copy, each_mut, ensure_object, get, has, int, is_empty, list, object_mut, same, set, set_absent,
    set_blank, text,
};
use super::super::strategy::{bump_generation, first_generation, keep_metadata};
use super::super::{Context, Dependents, Hooks, selectors};
use super::{is, job_spec, job_status};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_create: |job, _| generated_selector(job, true),
    validate_update,
    dependents: Dependents::Orphaned,
    warnings: |job| {
        let mut said = warnings::pod_names(job);
        job_spec::warn(get(job, "spec"), &Path::new("spec"), &mut said);
        said
    },
    ..Hooks::NEUTRAL
};

const BACKOFF_LIMIT: i64 = 6;
/// Labels that tie pods to their job: the older names and those with a prefix.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

fn default(job: &mut Value) {
    let Some(spec) = ensure_object(job, "spec") else { return };
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set_absent(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { BACKOFF_LIMIT };
    set_absent(spec, "backoffLimit", limit);
    set_absent(spec, "completionMode", "NonIndexed");
    set_absent(spec, "suspend", false);
    let replaced = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set_absent(spec, "podReplacementPolicy", replaced);
    set_absent(spec, "manualSelector", false);
    patterns(spec);
    let labels = at(spec, &["template", "metadata", "labels"]).clone();
    if !labels.is_null()
        && let Some(meta) = ensure_object(job, "metadata").filter(|meta| is_empty(get(meta, "labels")))
    {
        set(meta, "labels", labels);
    }
    defaults::template(job);
}

/// A pattern without a status is met when the condition holds. Also of the jobs that a CronJob makes.
pub fn patterns(spec: &mut Value) {
    let Some(policy) = object_mut(spec, "podFailurePolicy") else { return };
    for rule in each_mut(policy, "rules") {
        for pattern in each_mut(rule, "onPodConditions") {
            set_blank(pattern, "status", "True");
        }
    }
}

fn prepare_create(job: &mut Value, _: &Context) {
    if !boolean(get(job, "spec"), "manualSelector") {
        generate_selector(job);
    }
    set(job, "status", json!({}));
    first_generation(job);
}

fn generate_selector(job: &mut Value) {
    let meta = get(job, "metadata");
    let (name, uid) = (text(meta, "name").to_owned(), text(meta, "uid").to_owned());
    let Some(spec) = object_mut(job, "spec") else { return };
    let labels = object_mut(spec, "template")
        .and_then(|template| ensure_object(template, "metadata"))
        .and_then(|meta| ensure_object(meta, "labels"));
    if let Some(labels) = labels {
        for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
            keys.iter().for_each(|key| set_absent(labels, key, value.as_str()));
        }
    }
    let selected = ensure_object(spec, "selector").and_then(|selector| ensure_object(selector, "matchLabels"));
    if let Some(selected) = selected {
        set_absent(selected, UID_LABELS[1], uid);
    }
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, &["generation"]);
        return;
    }
    copy(new, old, "status");
    bump_generation(new, old);
}

fn validate(job: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(job, "spec"), Path::new("spec"));
    job_spec::validate(spec, &path, &mut errors);
    let (selector, at_selector) = (get(spec, "selector"), path.child("selector"));
    if selector.is_null() {
        errors.push(FieldError::required(&at_selector, ""));
    } else {
        selectors::validate(selector, &at_selector, &mut errors);
    }
    let labels = at(spec, &["template", "metadata", "labels"]);
    let matches = |selector: &LabelSelector| !get(spec, "selector").is_null() && selector.matches(labels);
    if LabelSelector::from_object(selector).is_ok_and(|selector| !matches(&selector)) {
        let shown = if labels.is_null() { json!({}) } else { labels.clone() };
        let path = path.child("template").child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, &shown, "`selector` does not match template `labels`"));
    }
    hostnames(job, &mut errors);
    errors
}

/// Pods of an indexed job have hosts named after the job and their index.
fn hostnames(job: &Value, errors: &mut Errors) {
    let (name, spec) = (text(get(job, "metadata"), "name"), get(job, "spec"));
    let completions = int(spec, "completions").unwrap_or(0);
    if text(spec, "completionMode") != "Indexed" || completions <= 0 {
        return;
    }
    let longest = format!("{name}-{}", completions - 1);
    if !names::dns1123_label(&longest).is_empty() {
        let words = format!("will not able to create pod with invalid DNS label: {longest}");
        errors.push(FieldError::invalid(&Path::new("metadata.name"), name, words));
    }
}

/// The selector and the labels are those that were made. `prefixed`: also those with a prefix, which older jobs lack.
fn generated_selector(job: &Value, prefixed: bool) -> Errors {
    let mut errors = Vec::new();
    let (meta, spec) = (get(job, "metadata"), get(job, "spec"));
    let selector = get(spec, "selector");
    if boolean(spec, "manualSelector") || selector.is_null() {
        return errors;
    }
    let (name, uid) = (text(meta, "name"), text(meta, "uid"));
    if uid.is_empty() {
        errors.push(FieldError::required(&Path::new("metadata.uid"), ""));
    }
    let labels = at(spec, &["template", "metadata", "labels"]);
    let path = Path::new("spec.template.metadata.labels");
    let mut expected = serde_json::Map::new();
    for (older, (keys, value)) in
        [(0, (UID_LABELS, uid)), (0, (NAME_LABELS, name)), (1, (UID_LABELS, uid)), (1, (NAME_LABELS, name))]
    {
        if older == 1 && !prefixed {
            continue;
        }
        let key = keys[older];
        expected.insert(key.into(), value.into());
        let words = format!("must be '{value}'");
        match get(labels, key).as_str() {
            None => errors.push(FieldError::required(&path.key(key), &words)),
            Some(other) if other != value => errors.push(FieldError::invalid(&path.key(key), labels, words)),
            Some(_) => {}
        }
    }
    let expected = Value::Object(expected);
    if LabelSelector::from_object(selector).is_ok_and(|parsed| !parsed.matches(&expected)) {
        let words = "`selector` not auto-generated";
        errors.push(FieldError::invalid(&Path::new("spec.selector"), selector, words));
    }
    errors
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    if context.subresource == "status" {
        return job_status::validate_update(new, old);
    }
    let labels = at(old, &["spec", "template", "metadata", "labels"]);
    let mut errors = generated_selector(new, has(labels, UID_LABELS[1]) && has(labels, NAME_LABELS[1]));
    let (spec, before, path) = (get(new, "spec"), get(old, "spec"), Path::new("spec"));
    completions(spec, before, &path, &mut errors);
    immutable(spec, before, "selector", &path, &mut errors);
    template(spec, before, get(old, "status"), &path, &mut errors);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(spec, before, field, &path, &mut errors);
    }
    errors
}

fn immutable(now: &Value, before: &Value, field: &str, path: &Path, errors: &mut Errors) {
    if !same(get(now, field), get(before, field)) {
        errors.push(FieldError::invalid(&path.child(field), get(now, field), "field is immutable"));
    }
}

/// The completions of an indexed job follow its parallelism; others' never change.
fn completions(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    if text(spec, "completionMode") != "Indexed" {
        immutable(spec, before, "completions", path, errors);
        return;
    }
    let completions = get(spec, "completions");
    let unchanged = completions == get(before, "completions") || completions.is_null();
    if !unchanged && completions != get(spec, "parallelism") {
        let words = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(&path.child("completions"), completions, words));
    }
}

/// Of a suspended job that runs nothing, where its pods go and what they get may change; the rest of a template never does.
fn template(spec: &Value, before: &Value, status: &Value, path: &Path, errors: &mut Errors) {
    let suspended = boolean(before, "suspend");
    let still = !has(status, "startTime") || is(status, "Suspended", "True");
    let mutable = suspended && still && int(status, "active").unwrap_or(0) == 0;
    let (template, mut was) = (get(spec, "template"), get(before, "template").clone());
    if mutable {
        directives(template, &mut was);
    }
    if !mutable {
        if !same(template, &was) {
            errors.push(FieldError::invalid(&path.child("template"), template, "field is immutable"));
        }
        return;
    }
    let now = get(template, "spec");
    if let Some(was) = object_mut(&mut was, "spec") {
        for field in ["containers", "initContainers"] {
            let containers = list(now, field);
            if list(was, field).len() != containers.len() {
                continue;
            }
            for (was, now) in each_mut(was, field).zip(containers) {
                if text(was, "name") == text(now, "name") {
                    copy(was, now, "resources");
                }
            }
        }
    }
    if !same(now, get(&was, "spec")) {
        errors.push(FieldError::invalid(&path.child("template.spec"), now, "field is immutable"));
    }
}

/// What says where pods go is taken over.
fn directives(template: &Value, was: &mut Value) {
    let now = get(template, "spec");
    if let Some(meta) = ensure_object(was, "metadata") {
        copy(meta, get(template, "metadata"), "annotations");
        copy(meta, get(template, "metadata"), "labels");
    }
    let Some(was) = ensure_object(was, "spec") else { return };
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy(was, now, field);
    }
    let affinity = at(now, &["affinity", "nodeAffinity"]);
    if let Some(kept) = ensure_object(was, "affinity") {
        set(kept, "nodeAffinity", affinity.clone());
    }
    if at(was, &["affinity"]).as_object().is_some_and(|a| a.values().all(Value::is_null)) {
        copy(
            was,
            &if has(now, "affinity") { json!({"affinity": get(now, "affinity")}) } else { json!({}) },
            "affinity",
        );
    }
}
