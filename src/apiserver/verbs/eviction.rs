//! Eviction: a deletion that a disruption budget may refuse.
//!
//! What a budget allows is what its controller has counted; each eviction takes one off and is remembered in the budget until
//! the controller has seen the pod go.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`, component-helpers `apps/poddisruptionbudget/helpers.go`.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Entry, Expect, Op};
use types::registry::{GroupVersionKind, Kind, KindRef, by_resource};
use types::selector::LabelSelector;
use types::status::{Cause, Reason, Status};
use types::time::rfc3339;

use super::ask::{Answer, Ask, Change};
use super::object::{self, is_deleting, meta};
use super::options::DeleteOptions;
use crate::admission::{self, Operation};
use crate::http::query::Query;
use crate::managed::{self, Given, Managed};

const EVICTION: GroupVersionKind = GroupVersionKind::new("policy", "v1", "Eviction");
/// How often a write that another came before is tried. Source: `EvictionsRetry`.
const ATTEMPTS: usize = 20;
/// Evictions of one budget that its controller has not confirmed. Source: `MaxDisruptedPodSize`.
const DISRUPTED_MAX: usize = 2000;
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// A budget that its controller has not seen yet is worth asking again in so many seconds.
const RETRY_SECONDS: u32 = 10;
/// Who the server is as an owner of fields.
const MANAGER: &str = "kube-apiserver";

pub async fn evict(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("CreateOptions")?;
    let mut eviction = ask.decode(body, &EVICTION)?;
    let named = meta(&eviction, "name");
    if !named.is_empty() && named != ask.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = match &eviction["deleteOptions"] {
        Value::Null => DeleteOptions::default(),
        value => {
            // The options inside an eviction carry no version of their own.
            let mut value = value.clone();
            value["apiVersion"] = "v1".into();
            value["kind"] = "DeleteOptions".into();
            DeleteOptions::parse(None, &Bytes::from(value.to_string()), &Query::default())?
        }
    };
    let options = DeleteOptions { dry_run: options.dry_run || dry_run, ..options };
    ask.current().await?;
    let change = Change {
        operation: Operation::Create,
        name: ask.name,
        old: None,
        dry_run: options.dry_run,
        options: admission::Options::Query(ask.query),
    };
    let view = ask.view();
    ask.admit(change, Some(&mut eviction), &*view).await?;
    drop(view);
    // The eviction has been admitted as what it is: it is no deletion that somebody asked for.
    let mut ask = Ask { subresource: "", warnings: Vec::new(), annotations: ask.no_annotations(), ..*ask };
    let mut tries = 0;
    let pod = loop {
        let entry = ask.current().await?;
        let (pod, _) = object::open(&entry)?;
        if !unprotected(&pod) {
            break pod;
        }
        // One that waits may begin to run meanwhile, and be protected then.
        let pinned = pod["status"]["phase"] == "Pending" && !is_deleting(&pod);
        match delete(&mut ask, &options, pinned.then(|| meta(&pod, "resourceVersion"))).await {
            Err(status) if status.is(Reason::Conflict) && options.resource_version.is_none() && tries < ATTEMPTS => {
                tries += 1;
            }
            done => return done.map(|()| evicted()),
        }
    };
    let budgets = budgets_of(&ask, &pod);
    let budget = match budgets.as_slice() {
        [] => return delete(&mut ask, &options, None).await.map(|()| evicted()),
        [budget] => budget,
        _ => return Ok(several()),
    };
    let name = meta(budget, "name").to_owned();
    if !is_ready(&pod) && may_go_unhealthy(budget) {
        let outcome = delete(&mut ask, &options, Some(meta(&pod, "resourceVersion"))).await;
        return match outcome {
            Err(status) if status.is(Reason::Conflict) && options.resource_version.is_none() => {
                Err(still_processed(&name))
            }
            other => other.map(|()| evicted()),
        };
    }
    take(&ask, &name, options.dry_run).await?;
    delete(&mut ask, &options, None).await.map(|()| evicted())
}

fn evicted() -> Answer {
    let mut status = Status::success();
    status.code = 201;
    Answer::Object { code: 201, value: serde_json::to_value(status).unwrap_or(Value::Null) }
}

/// Upstream answers so: a failure that says its own code, in a response that has been created.
fn several() -> Answer {
    let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let mut status = Status::new(Reason::InternalError, message);
    status.reason = String::new();
    Answer::Object { code: 201, value: serde_json::to_value(status).unwrap_or(Value::Null) }
}

/// No budget is asked for a pod that does not run.
fn unprotected(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    is_deleting(pod) || ["Succeeded", "Failed", "Pending"].contains(&phase)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == "Ready").any(|c| c["status"] == "True")
}

/// Whether the budget lets a pod go that is not ready, and so is not counted as healthy.
fn may_go_unhealthy(budget: &Value) -> bool {
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0)
}

fn budget_kind() -> Option<&'static Kind> {
    by_resource("policy", "v1", "poddisruptionbudgets")
}

fn budgets_of(ask: &Ask<'_>, pod: &Value) -> Vec<Value> {
    let Some(kind) = budget_kind() else { return Vec::new() };
    let view = ask.view();
    let all = view.range(&kind.store_namespace_prefix(ask.namespace), None);
    all.filter_map(|entry| object::open(entry).ok())
        .map(|(budget, _)| budget)
        .filter(|budget| {
            let selector = &budget["spec"]["selector"];
            selector.is_object()
                && LabelSelector::from_object(selector).is_ok_and(|s| s.matches(&pod["metadata"]["labels"]))
        })
        .collect()
}

fn still_processed(name: &str) -> Status {
    let message = format!("The disruption budget {name} is still being processed by the server.");
    Status::too_many_requests(VIOLATES, RETRY_SECONDS).with_cause(cause(message))
}

fn cause(message: String) -> Cause {
    Cause { reason: "DisruptionBudget".into(), message, ..Cause::default() }
}

/// Takes one disruption off the budget, and remembers for which pod.
async fn take(ask: &Ask<'_>, name: &str, dry_run: bool) -> Result<(), Status> {
    let Some(kind) = budget_kind() else { return Ok(()) };
    let served = KindRef::from(kind);
    let budgets = Ask {
        kind: &served,
        served: &served,
        name,
        subresource: "status",
        warnings: Vec::new(),
        annotations: ask.no_annotations(),
        ..*ask
    };
    for _ in 0..ATTEMPTS {
        let entry = budgets.current().await?;
        let (old, managed) = object::open(&entry)?;
        let new = taken(kind, &old, ask.name, ask.now)?;
        if dry_run {
            return Ok(());
        }
        let managed = managed::updated(&old, &managed, &new, Given::Nothing, &budgets.writer(MANAGER));
        match put(&budgets, &entry, &new, &managed).await {
            Err(status) if status.is(Reason::Conflict) => {}
            other => return other.map(|_| ()),
        }
    }
    let message = format!("couldn't update PodDisruptionBudget {name:?} due to conflicts");
    Err(Status::timeout(format!("Timeout: {message}")).retry_after(RETRY_SECONDS))
}

/// The budget with one disruption less; why it has none to give. Source: `checkAndDecrement`.
fn taken(kind: &Kind, budget: &Value, pod: &str, now: Timestamp) -> Result<Value, Status> {
    let status = &budget["status"];
    let count = |of: &Value, field: &str| of[field].as_i64().unwrap_or(0);
    let name = meta(budget, "name");
    if count(status, "observedGeneration") < count(&budget["metadata"], "generation") {
        return Err(still_processed(name));
    }
    let allowed = count(status, "disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(kind, name, "pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(kind, name, why));
    }
    if allowed == 0 {
        return Err(Status::too_many_requests(VIOLATES, 0).with_cause(cause(why_not(name, status))));
    }
    let mut budget = budget.clone();
    let observed = budget["status"]["observedGeneration"].clone();
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        let none_left = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
            "message": "", "observedGeneration": observed, "lastTransitionTime": rfc3339(now)});
        set_condition(status, none_left);
    }
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = rfc3339(now).into();
    Ok(budget)
}

fn why_not(name: &str, status: &Value) -> String {
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let condition = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "DisruptionAllowed");
    let refused = condition
        .filter(|c| c["status"] == "False")
        .map_or(("", ""), |c| (c["reason"].as_str().unwrap_or_default(), c["message"].as_str().unwrap_or_default()));
    match refused {
        ("SyncFailed", message) if !message.is_empty() => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        }
        _ if count("currentHealthy") <= count("desiredHealthy") => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count("desiredHealthy"),
            count("currentHealthy")
        ),
        (reason, message) if !message.is_empty() => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        _ => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// Puts the condition in the place of the one of its type, whose time it keeps unless the status changes.
fn set_condition(status: &mut Value, mut condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(all) = status["conditions"].as_array_mut() else { return };
    match all.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(before) => {
            if before["status"] == condition["status"] {
                condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            *before = condition;
        }
        None => all.push(condition),
    }
}

/// Says in the pod why it goes, and deletes it; `pinned` is the version that it must have until then.
async fn delete(ask: &mut Ask<'_>, options: &DeleteOptions, pinned: Option<&str>) -> Result<(), Status> {
    let wanted = options.resource_version.clone().or_else(|| pinned.map(str::to_owned));
    let mut options = DeleteOptions { resource_version: wanted, ..options.clone() };
    if !options.dry_run {
        let version = announce(ask, &options).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(version);
        }
    }
    super::delete::delete_admitted(ask, &options).await.map(|_| ())
}

/// Writes the condition that the pod is being disrupted. Returns the version of the pod with it.
async fn announce(ask: &Ask<'_>, options: &DeleteOptions) -> Result<String, Status> {
    for _ in 0..ATTEMPTS {
        let entry = ask.current().await?;
        let (mut pod, managed) = object::open(&entry)?;
        super::delete::check_preconditions(ask, options, &pod)?;
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": rfc3339(ask.now)});
        if !pod["status"].is_object() {
            pod["status"] = json!({});
        }
        set_condition(&mut pod["status"], condition);
        match put(ask, &entry, &pod, &managed).await {
            Err(status) if status.is(Reason::Conflict) => {}
            Err(status) => return Err(status),
            Ok(entry) => return Ok(meta(&object::open(&entry)?.0, "resourceVersion").to_owned()),
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}

async fn put(ask: &Ask<'_>, entry: &Entry, object: &Value, managed: &Managed) -> Result<Entry, Status> {
    let value = object::to_store(ask.kind, object, managed);
    let written = ask.write(entry.key().into(), Expect::At(entry.modified()), Op::Put(value)).await;
    written.map_err(|error| ask.store_error(&error))
}
