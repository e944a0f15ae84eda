//! What controllers ask about pods and owners.
//!
//! Source: kubernetes `pkg/api/v1/pod/util.go`, `pkg/controller/controller_utils.go`.

use std::sync::Arc;

use client::object::controller_of;
use client::queue::Queue;
use client::{Cache, Key, Object};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use types::selector::{LabelSelector as Matcher, Requirement};

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Counts towards a controller's replicas.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.is_terminating()
}

pub fn condition<'a>(pod: &'a Pod, condition_type: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == condition_type)
}

/// Since when the pod is ready; the epoch when it does not say.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// When a ready pod counts as available; `None`: it is not ready. Who asks for no delay trusts no clock: it is at once.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let since = ready_since(pod)?;
    Some(if min_ready_seconds > 0 {
        since + SignedDuration::from_secs(min_ready_seconds.into())
    } else {
        Timestamp::UNIX_EPOCH
    })
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Most restarts of any container.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}

/// The API keeps whole seconds.
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// So many of `of`: a number, or a percentage.
pub fn share(value: &IntOrString, of: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.max(0).saturating_mul(i64::from(of));
            let value = if round_up { product.saturating_add(99) / 100 } else { product / 100 };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
    }
}

/// A label selector object as something that matches. `None`: its operator is unknown, it matches nothing.
pub fn matcher(selector: &LabelSelector) -> Option<Matcher> {
    let mut requirements: Vec<Requirement> =
        selector.match_labels.iter().flatten().map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect();
    for e in selector.match_expressions.iter().flatten() {
        let values = e.values.clone().unwrap_or_default();
        requirements.push(match e.operator.as_str() {
            "In" => Requirement::In(e.key.clone(), values),
            "NotIn" => Requirement::NotIn(e.key.clone(), values),
            "Exists" => Requirement::Exists(e.key.clone()),
            "DoesNotExist" => Requirement::Absent(e.key.clone()),
            _ => return None,
        });
    }
    Some(Matcher { requirements })
}

/// The reference that says that `owner` manages an object.
pub fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: owner.name().into(),
        uid: owner.uid().into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// How an object relates to one that might manage it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    Mine,
    Adopt,
    Release,
    NotMine,
}

/// Decides by owner, selector and deletion. Source: `pkg/controller/controller_ref_manager.go`.
pub fn claim<O: Object, K: Object>(owner: &O, selector: &Matcher, object: &K) -> Claim {
    claim_if(owner.metadata(), selector.matches(&object.metadata().labels), object.metadata())
}

/// As `claim`, for owners that ask for more than their selector says.
pub fn claim_if(owner: &ObjectMeta, matches: bool, object: &ObjectMeta) -> Claim {
    let owner_goes = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::NotMine,
        Some(_) if matches => Claim::Mine,
        Some(_) if owner_goes => Claim::NotMine,
        Some(_) => Claim::Release,
        None if owner_goes || !matches || object.deletion_timestamp.is_some() => Claim::NotMine,
        None => Claim::Adopt,
    }
}

/// Marks who manages an object that changed, as it was and as it is; while nobody does, who could take it.
pub fn wake<K: Object>(
    queue: &Queue,
    kind: &str,
    old: Option<&Arc<K>>,
    new: Option<&Arc<K>>,
    takers: &dyn Fn(&ObjectMeta) -> Vec<Key>,
) {
    for meta in old.into_iter().chain(new).map(|o| o.metadata()) {
        match controller_of(meta) {
            Some(owner) if owner.kind == kind => {
                queue.add(Key::new(meta.namespace.as_deref().unwrap_or_default(), &owner.name));
            }
            Some(_) => {}
            None => takers(meta).into_iter().for_each(|key| queue.add(key)),
        }
    }
}

/// The objects of a cache whose selector finds something with this metadata.
pub fn selecting<K: Object>(
    all: &Cache<K>,
    found: &ObjectMeta,
    selector: fn(&K) -> Option<&LabelSelector>,
) -> Vec<Key> {
    let finds = |o: &Arc<K>| selector(o).and_then(matcher).is_some_and(|s| !s.is_empty() && s.matches(&found.labels));
    let all = all.in_namespace(found.namespace.as_deref().unwrap_or_default());
    all.iter().filter(|o| finds(o)).map(|o| o.key()).collect()
}

/// The pod that a template of `owner` describes; its name is made by the API server.
pub fn from_template(template: &PodTemplateSpec, owner: &ObjectMeta, reference: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", owner.name.as_deref().unwrap_or_default())),
        namespace: owner.namespace.clone(),
        labels: meta.labels,
        annotations: meta.annotations,
        finalizers: meta.finalizers,
        owner_references: Some(vec![reference]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// The merge patch that adds or removes `owner` among an object's owners; fails when the object changed since.
pub fn owners_patch<K: Object>(object: &K, owner: &OwnerReference, add: bool) -> serde_json::Value {
    let mut owners = object.metadata().owner_references.clone().unwrap_or_default();
    owners.retain(|o| o.uid != owner.uid);
    if add {
        owners.push(owner.clone());
    }
    serde_json::json!({"metadata": {
        "uid": object.uid(),
        "resourceVersion": object.metadata().resource_version,
        "ownerReferences": if owners.is_empty() { serde_json::Value::Null } else { serde_json::json!(owners) },
    }})
}
