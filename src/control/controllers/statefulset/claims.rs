//! The claims of a StatefulSet's pods: their names, and who owns them, by which the garbage collector knows when to delete
//! them.
//!
//! Source: kubernetes `pkg/controller/statefulset/{stateful_set_utils,stateful_pod_control}.go`, KEP-1847.

use std::sync::Arc;

use client::Object;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::identity;
use crate::pods::controller_reference;

/// Where a claim of the set's namespace is looked up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>;

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default()
}

fn name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", template.name(), set.name())
}

/// (template, claim) for the pod of that number.
pub fn names(set: &StatefulSet, ordinal: i64) -> impl Iterator<Item = (&str, String)> {
    templates(set).iter().map(move |t| (t.name(), name(set, t, ordinal)))
}

/// Whether a claim is, by its name, one of the set's.
pub fn is_of(set: &StatefulSet, claim: &str) -> bool {
    templates(set).iter().any(|t| {
        let rest = claim.strip_prefix(t.name()).and_then(|r| r.strip_prefix('-'));
        rest.is_some_and(|pod| identity::ordinal(set.name(), pod).is_some())
    })
}

/// What a pod's claims need before it can run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needed {
    pub missing: Vec<PersistentVolumeClaim>,
    /// Why the pod cannot be made yet: its claim is on its way out.
    pub going: Vec<String>,
}

pub fn needed(set: &StatefulSet, ordinal: i64, claims: Lookup<'_>) -> Needed {
    let mut needed = Needed::default();
    for template in templates(set) {
        let name = name(set, template, ordinal);
        match claims(&name) {
            Some(claim) if claim.is_terminating() => needed.going.push(format!("pvc {name} is being deleted")),
            Some(_) => {}
            None => {
                let mut claim = template.clone();
                claim.status = None;
                claim.metadata.name = Some(name);
                claim.metadata.namespace.clone_from(&set.metadata.namespace);
                let selector = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone());
                claim.metadata.labels.get_or_insert_default().extend(selector.into_iter().flatten());
                needed.missing.push(claim);
            }
        }
    }
    needed
}

/// (deleted with its pod when that is scaled away, deleted with its set).
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |word: Option<&String>| word.is_some_and(|w| w == "Delete");
    policy.map_or((false, false), |p| (deletes(p.when_scaled.as_ref()), deletes(p.when_deleted.as_ref())))
}

/// A claim that a former pod of that number owns is about to go: the new pod must not begin with it.
pub fn stale(set: &StatefulSet, ordinal: i64, claims: Lookup<'_>) -> Option<String> {
    if !policy(set).0 {
        return None;
    }
    let pod = identity::pod_name(set, ordinal);
    names(set, ordinal).map(|(_, name)| name).find(|name| {
        let claim = claims(name);
        let owners = claim.as_ref().and_then(|c| c.metadata.owner_references.as_deref()).unwrap_or_default();
        owners.iter().any(|o| is_named::<Pod>(o, &pod))
    })
}

fn is_named<K: Object>(reference: &OwnerReference, name: &str) -> bool {
    reference.api_version == K::API_VERSION && reference.kind == K::KIND && reference.name == name
}

/// Another controller manages the claim, so that the policy cannot be kept.
fn conflicts(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    policy(set) != (false, false)
        && owners.iter().any(|o| {
            if is_named::<StatefulSet>(o, set.name()) {
                o.uid != set.uid()
            } else if is_named::<Pod>(o, pod.name()) {
                o.uid != pod.uid()
            } else {
                o.controller == Some(true)
            }
        })
}

/// The owners that a claim of `pod` should have by the set's policy; `None`: as they are. `scaled_away`: the set does not want
/// the pod any more.
fn owners(
    set: &StatefulSet,
    pod: &Pod,
    scaled_away: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let now = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let of_set = |o: &OwnerReference| is_named::<StatefulSet>(o, set.name());
    let of_pod = |o: &OwnerReference| is_named::<Pod>(o, pod.name());
    let stale = now.iter().find(|o| of_set(o)).is_some_and(|o| o.uid != set.uid())
        || now.iter().find(|o| of_pod(o)).is_some_and(|o| o.uid != pod.uid());
    if stale {
        // A namesake that is gone had it: left to the garbage collector.
        return None;
    }
    let has = |uid: &str| now.iter().any(|o| o.uid == uid);
    let mut new: Vec<OwnerReference> = now.iter().filter(|o| !of_set(o) && !of_pod(o)).cloned().collect();
    if conflicts(set, pod, claim) {
        return (has(set.uid()) || has(pod.uid())).then_some(new);
    }
    let (when_scaled, when_deleted) = policy(set);
    let by_set = when_deleted && !(when_scaled && scaled_away);
    let by_pod = when_scaled && scaled_away;
    let loose = now.iter().any(|o| (o.uid == set.uid() || o.uid == pod.uid()) && o.controller != Some(true));
    if !loose && has(set.uid()) == by_set && has(pod.uid()) == by_pod {
        return None;
    }
    new.extend(by_set.then(|| controller_reference(set)));
    new.extend(by_pod.then(|| controller_reference(pod)));
    Some(new)
}

/// The claims of a pod with the owners that they should have, as far as they have others; and the names of those that another
/// controller manages.
pub fn disowned(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i64,
    scaled_away: bool,
    claims: Lookup<'_>,
) -> (Vec<PersistentVolumeClaim>, Vec<String>) {
    let (mut changed, mut conflicting) = (Vec::new(), Vec::new());
    for claim in names(set, ordinal).filter_map(|(_, name)| claims(&name)) {
        if conflicts(set, pod, &claim) {
            conflicting.push(claim.name().to_owned());
        }
        if let Some(owners) = owners(set, pod, scaled_away, &claim) {
            let mut new = (*claim).clone();
            new.metadata.owner_references = Some(owners).filter(|o| !o.is_empty());
            changed.push(new);
        }
    }
    (changed, conflicting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(scaled: &str, deleted: &str) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "s"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}}, "serviceName": "web", "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted},
            "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"x": "y"}}, "spec": {}}]}}))
        .unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop", "uid": "p"}})).unwrap()
    }

    fn owner(api_version: &str, kind: &str, name: &str, uid: &str, controller: bool) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": controller,
            "blockOwnerDeletion": true})
    }

    fn claim(owners: &[Value]) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-web-0", "ownerReferences": owners}, "spec": {}}))
            .unwrap()
    }

    #[test]
    fn owners_follow_the_policy() {
        let of_set = || owner("apps/v1", "StatefulSet", "web", "s", true);
        let of_pod = || owner("v1", "Pod", "web-0", "p", true);
        let other = || owner("example.com/v1", "Keeper", "k", "k", true);
        let friend = || owner("example.com/v1", "Keeper", "k", "k", false);
        type Row<'a> = (&'a str, (&'a str, &'a str), bool, Vec<Value>, Option<Vec<&'a str>>);
        let rows: Vec<Row> = vec![
            ("kept for ever", ("Retain", "Retain"), false, vec![], None),
            ("no longer deleted", ("Retain", "Retain"), false, vec![of_set()], Some(vec![])),
            ("goes with the set", ("Retain", "Delete"), false, vec![], Some(vec!["s"])),
            ("goes with the set, said so", ("Retain", "Delete"), true, vec![of_set()], None),
            ("goes with the set, not with the pod", ("Retain", "Delete"), true, vec![of_pod()], Some(vec!["s"])),
            ("the pod is wanted", ("Delete", "Retain"), false, vec![], None),
            ("the pod is wanted again", ("Delete", "Retain"), false, vec![of_pod()], Some(vec![])),
            ("scaled away", ("Delete", "Retain"), true, vec![], Some(vec!["p"])),
            ("both, wanted", ("Delete", "Delete"), false, vec![], Some(vec!["s"])),
            ("both, scaled away", ("Delete", "Delete"), true, vec![of_set()], Some(vec!["p"])),
            ("both, scaled away, said so", ("Delete", "Delete"), true, vec![of_pod()], None),
            ("friends stay", ("Retain", "Delete"), false, vec![friend()], Some(vec!["k", "s"])),
            ("another controller is left alone", ("Delete", "Delete"), true, vec![other()], None),
            (
                "we step back from another controller",
                ("Retain", "Delete"),
                false,
                vec![other(), of_set()],
                Some(vec!["k"]),
            ),
            (
                "an owner that does not manage",
                ("Retain", "Delete"),
                false,
                vec![owner("apps/v1", "StatefulSet", "web", "s", false)],
                Some(vec!["s"]),
            ),
            (
                "a former set's",
                ("Retain", "Delete"),
                false,
                vec![owner("apps/v1", "StatefulSet", "web", "old", true)],
                None,
            ),
            ("a former pod's", ("Delete", "Retain"), true, vec![owner("v1", "Pod", "web-0", "old", true)], None),
        ];
        for (name, (scaled, deleted), away, before, expected) in rows {
            let (set, pod) = (set(scaled, deleted), pod());
            let got = owners(&set, &pod, away, &claim(&before));
            let uids = got.as_ref().map(|o| o.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>());
            assert_eq!(uids, expected, "{name}");
            // Done once, it is done.
            if let Some(new) = got {
                let mut after = claim(&[]);
                after.metadata.owner_references = Some(new);
                assert_eq!(owners(&set, &pod, away, &after), None, "{name}, again");
            }
        }
    }

    #[test]
    fn claims_are_made_from_their_templates() {
        let set = set("Delete", "Retain");
        let none = needed(&set, 0, &|_| None);
        let [made] = &none.missing[..] else { panic!("{none:?}") };
        assert_eq!((made.name(), made.namespace()), ("data-web-0", "shop"));
        assert_eq!((made.label("x"), made.label("app")), (Some("y"), Some("web")));
        let there = |c: PersistentVolumeClaim| move |_: &str| Some(Arc::new(c.clone()));
        assert_eq!(needed(&set, 0, &there(claim(&[]))), Needed::default());
        let mut going = claim(&[]);
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(needed(&set, 0, &there(going)).going, ["pvc data-web-0 is being deleted"]);
        let former = there(claim(&[owner("v1", "Pod", "web-0", "old", true)]));
        assert_eq!(stale(&set, 0, &former).as_deref(), Some("data-web-0"));
        assert_eq!(stale(&set, 0, &there(claim(&[]))), None);
        assert!(is_of(&set, "data-web-7") && !is_of(&set, "data-web-x") && !is_of(&set, "data-other-0"));
    }
}
