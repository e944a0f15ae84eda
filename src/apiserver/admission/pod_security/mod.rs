//! PodSecurity: the three levels of the Pod Security Standards, by the labels of the namespace.
//!
//! Enforced on pods; audited and warned about for pods and for whatever makes pods. Nothing and nobody is exempt, and without
//! labels everything is allowed.
//!
//! Source: `staging/src/k8s.io/pod-security-admission/admission/admission.go`, KEP-2579.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use types::field::FieldError;
use types::registry::by_kind;
use types::status::Status;

use super::{Operation, Request, all_in};
use crate::custom::settle::aggregate;
use crate::hooks::json::{boolean, get, list, text};
use crate::verbs::facts::facts;

mod baseline;
mod checks;
mod policy;
mod restricted;

use checks::{Pod, Verdict};
use policy::{Level, Policy};

/// Pods that are looked at when the level of a namespace is raised. Source: `defaultNamespaceMaxPodsToCheck`.
const CHECKED_MAX: usize = 3000;

/// Subresources of a pod that leave its spec as it is.
const IGNORED: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

pub fn validate(request: &mut Request) -> Result<(), Status> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    match (&*request.kind.group, &*request.kind.kind) {
        ("", "Namespace") if request.subresource.is_empty() => namespace(request),
        ("", "Pod") if !IGNORED.contains(&request.subresource) => pod(request),
        (
            "" | "apps" | "batch",
            "ReplicationController"
            | "PodTemplate"
            | "ReplicaSet"
            | "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "Job"
            | "CronJob",
        ) if request.subresource.is_empty() => {
            controller(request);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What the labels of the request's namespace ask for, in spite of mistakes in them, which the audit log is told.
fn policy_of(request: &Request) -> (Policy, Vec<FieldError>) {
    let namespace =
        by_kind("", "v1", "Namespace").and_then(|kind| request.view.get(&kind.store_key("", request.namespace)));
    namespace.map(|entry| Policy::read(&facts(&entry))).unwrap_or_default()
}

fn annotate(request: &mut Request, key: &str, value: impl FnOnce() -> String) {
    request.annotations.add(|| format!("pod-security.kubernetes.io/{key}"), value);
}

fn annotate_errors(request: &mut Request, errors: &[FieldError]) {
    if !errors.is_empty() {
        let all = || errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        annotate(request, "error", || format!("Failed to parse policy: {}", aggregate(&all())));
    }
}

/// What the audit log is told of a pod, or of what makes pods, that the audited standard forbids.
fn audit(request: &mut Request, policy: &Policy, verdicts: &[Verdict]) {
    if !verdicts.is_empty() {
        let words = || format!("would violate PodSecurity {:?}: {}", policy.audit.to_string(), details(verdicts));
        annotate(request, "audit-violations", words);
    }
}

fn pod(request: &mut Request) -> Result<(), Status> {
    let (policy, errors) = policy_of(request);
    if policy.is_privileged() && errors.is_empty() {
        annotate(request, "enforce-policy", || policy.enforce.to_string());
        return Ok(());
    }
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    if request.operation == Operation::Update && request.old.is_some_and(|old| !is_significant(object, old)) {
        return Ok(());
    }
    let pod = Pod { metadata: get(object, "metadata"), spec: get(object, "spec") };
    let enforced = checks::evaluate(policy.enforce, &pod);
    let verdicts =
        |standard| if standard == policy.enforce { enforced.clone() } else { checks::evaluate(standard, &pod) };
    let audited = verdicts(policy.audit);
    let warned = if policy.warn == policy.enforce { Vec::new() } else { verdicts(policy.warn) };
    annotate(request, "enforce-policy", || policy.enforce.to_string());
    annotate_errors(request, &errors);
    audit(request, &policy, &audited);
    if !enforced.is_empty() {
        let why = format!("violates PodSecurity {:?}: {}", policy.enforce.to_string(), details(&enforced));
        return Err(Status::forbidden(request.kind, request.name, &why));
    }
    request.warnings.extend(warning(&policy, &warned));
    Ok(())
}

fn warning(policy: &Policy, verdicts: &[Verdict]) -> Option<String> {
    (!verdicts.is_empty())
        .then(|| format!("would violate PodSecurity {:?}: {}", policy.warn.to_string(), details(verdicts)))
}

/// What makes pods is never refused: the pods will be.
fn controller(request: &mut Request) {
    let (policy, errors) = policy_of(request);
    if policy.warn.level == Level::Privileged && policy.audit.level == Level::Privileged && errors.is_empty() {
        return;
    }
    let Some(object) = request.object.as_deref() else { return };
    let template = match &*request.kind.kind {
        "PodTemplate" => get(object, "template"),
        "CronJob" => get(get(get(get(object, "spec"), "jobTemplate"), "spec"), "template"),
        _ => get(get(object, "spec"), "template"),
    };
    if template.is_null() {
        return;
    }
    let pod = Pod { metadata: get(template, "metadata"), spec: get(template, "spec") };
    let (audited, warned) = (checks::evaluate(policy.audit, &pod), checks::evaluate(policy.warn, &pod));
    annotate_errors(request, &errors);
    audit(request, &policy, &audited);
    request.warnings.extend(warning(&policy, &warned));
}

/// `reason (detail), reason`.
fn details(verdicts: &[Verdict]) -> String {
    let shown = verdicts
        .iter()
        .map(|v| if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) });
    shown.collect::<Vec<_>>().join(", ")
}

/// Whether an update changes what the checks look at: of a pod that is there only images and ephemeral containers can.
fn is_significant(new: &Value, old: &Value) -> bool {
    let (new, old) = (get(new, "spec"), get(old, "spec"));
    let fixed = ["containers", "initContainers"].into_iter().any(|field| {
        let (new, old) = (list(new, field), list(old, field));
        new.len() != old.len() || new.iter().zip(old).any(|(a, b)| text(a, "image") != text(b, "image"))
    });
    fixed
        || list(new, "ephemeralContainers").iter().any(|container| {
            let before = list(old, "ephemeralContainers").iter().find(|c| text(c, "name") == text(container, "name"));
            before.is_none_or(|before| text(before, "image") != text(container, "image"))
        })
}

/// The labels must be readable; raising the enforced level warns about the pods that are there already.
fn namespace(request: &mut Request) -> Result<(), Status> {
    let labels = |object| get(get(object, "metadata"), "labels");
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    let (new, errors) = Policy::read(labels(object));
    let old = request.old.filter(|_| request.operation == Operation::Update).map(|old| Policy::read(labels(old)));
    if !errors.is_empty() && old.as_ref().is_none_or(|(_, before)| *before != errors) {
        return Err(Status::invalid(request.kind, request.name, &errors));
    }
    let Some((old, _)) = old else { return Ok(()) };
    let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let warnings = existing(request, &new);
    request.warnings.extend(warnings);
    Ok(())
}

fn existing(request: &Request, policy: &Policy) -> Vec<String> {
    let pods = first_of_each_controller(all_in(request.view, "", "Pod", request.name));
    // Pods by what is wrong with them.
    let mut wrong: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(CHECKED_MAX) {
        let metadata = get(pod, "metadata");
        let verdicts = checks::evaluate(policy.enforce, &Pod { metadata, spec: get(pod, "spec") });
        if !verdicts.is_empty() {
            let reasons = verdicts.into_iter().map(|v| v.reason).collect::<Vec<_>>().join(", ");
            wrong.entry(reasons).or_default().push(text(metadata, "name"));
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > CHECKED_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {CHECKED_MAX} of {} existing pods",
            pods.len()
        ));
    }
    if !wrong.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {:?} violate the new PodSecurity enforce level {:?}",
            request.name,
            policy.enforce.to_string()
        ));
    }
    let mut lines: Vec<String> = wrong
        .into_iter()
        .map(|(reasons, pods)| {
            let first = pods.iter().min().copied().unwrap_or_default();
            match pods.len() - 1 {
                0 => format!("{first}: {reasons}"),
                1 => format!("{first} (and 1 other pod): {reasons}"),
                others => format!("{first} (and {others} other pods): {reasons}"),
            }
        })
        .collect();
    lines.sort_unstable();
    warnings.extend(lines);
    warnings
}

/// The pods in an order in which replicas come last but for the first of them.
fn first_of_each_controller(pods: Vec<Value>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for pod in pods {
        let owners = list(get(&pod, "metadata"), "ownerReferences");
        let controller =
            owners.iter().find(|owner| boolean(owner, "controller")).map(|owner| text(owner, "uid").to_owned());
        if controller.is_some_and(|uid| !seen.insert(uid)) { later.push(pod) } else { first.push(pod) }
    }
    first.append(&mut later);
    first
}
