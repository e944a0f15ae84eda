//! ControllerRevisions: the templates that a StatefulSet or a DaemonSet has had, numbered, so that a rollout can be told,
//! shown and undone. What is decided is pure; the few writes are below.
//!
//! A revision's data are the patch that puts its template back (`kubectl rollout undo` applies it as it is). Which of them is
//! the current one is found by its data, never remembered.
//!
//! Source: kubernetes `pkg/controller/history/controller_history.go`, `pkg/controller/statefulset/stateful_set_{control,utils}.go`
//! (getPatch, getStatefulSetRevisions, setMatchesLatestExistingRevision), `pkg/controller/daemon/update.go` (constructHistory).

use std::collections::BTreeSet;
use std::sync::Arc;

use client::runner::Seen;
use client::{Cache, Client, DeleteParams, Key, Object, Patch, Result};
use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};
use types::selector::LabelSelector;

use crate::pods::{self, Claim};

/// Label of pods that says which revision they are of.
pub const POD_LABEL: &str = "controller-revision-hash";
/// What fits before the hash in a name of 253 bytes.
const PREFIX_BYTES_MAX: usize = 223;

/// What is asked: the template of now, and how its revision would be called.
pub struct Wanted<'a> {
    pub owner: &'a ObjectMeta,
    pub reference: OwnerReference,
    pub template: &'a PodTemplateSpec,
    /// How many namesakes have been met so far (the status' `collisionCount`).
    pub collisions: i32,
    /// Turns data and collisions into the hash in the name.
    pub hash: fn(&Wanted<'_>, data: &Value, collisions: i32) -> String,
    /// The label in which a revision carries its hash.
    pub label: &'static str,
}

/// What must be written before the current revision is in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Create(Box<ControllerRevision>),
    /// It is current again, and thereby the newest.
    Update(Box<ControllerRevision>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The revision of the wanted template, as it is after `write`.
    pub current: Arc<ControllerRevision>,
    pub write: Option<Write>,
    /// Others with the same template, which nobody needs.
    pub duplicates: Vec<Arc<ControllerRevision>>,
    /// Oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
    pub collisions: i32,
}

/// The revisions that are the owner's or that it may take; `own` is told whom it must be added to, or taken from: key, patch,
/// whether it is added, and why.
pub fn claim<O: Object>(
    owner: &O,
    selector: &LabelSelector,
    all: &[Arc<ControllerRevision>],
    own: &mut dyn FnMut(Key, Value, bool, String),
) -> Vec<Arc<ControllerRevision>> {
    let mut mine = Vec::new();
    for revision in all {
        let claim = pods::claim(owner, selector, &**revision);
        let adopt = claim == Claim::Adopt;
        if adopt || claim == Claim::Release {
            let patch = pods::owners_patch(&**revision, &pods::controller_reference(owner), adopt);
            let why = if adopt { "has no owner" } else { "does not match any more" };
            own(revision.key(), patch, adopt, format!("revision {} {why}", revision.name()));
        }
        if matches!(claim, Claim::Mine | Claim::Adopt) {
            mine.push(Arc::clone(revision));
        }
    }
    mine
}

/// Finds the revision of the wanted template among `mine`, or makes one. `all` are the namespace's, whose names are taken.
pub fn settle(wanted: &Wanted<'_>, mut mine: Vec<Arc<ControllerRevision>>, all: &[Arc<ControllerRevision>]) -> History {
    let created = |r: &ControllerRevision| r.metadata.creation_timestamp.as_ref().map(|t| t.0);
    mine.sort_unstable_by(|a, b| (a.revision, created(a), a.name()).cmp(&(b.revision, created(b), b.name())));
    let data = data_of(wanted.template);
    let (mut same, mut old): (Vec<_>, Vec<_>) =
        mine.into_iter().partition(|r| r.data.as_ref().is_some_and(|d| d.0 == data));
    // The same template written otherwise (by an older version of ours, or of upstream's) must not restart every pod.
    if same.is_empty() && old.last().is_some_and(|r| template_of(r).as_ref() == Some(wanted.template)) {
        same.extend(old.pop());
    }
    let next = old.iter().map(|r| r.revision).max().unwrap_or(0) + 1;
    let Some(current) = same.pop() else {
        let (new, collisions) = create(wanted, data, next, all);
        let current = Arc::new(new);
        // One that is there already, of the same content: somebody else's, or not seen as ours. It serves.
        let known = all.iter().find(|r| r.name() == current.name()).cloned();
        let write = known.is_none().then(|| Write::Create(Box::new((*current).clone())));
        return History { current: known.unwrap_or(current), write, duplicates: same, old, collisions };
    };
    let collisions = wanted.collisions;
    if current.revision >= next {
        return History { current, write: None, duplicates: same, old, collisions };
    }
    let newest = ControllerRevision { revision: next, ..(*current).clone() };
    let write = Some(Write::Update(Box::new(newest.clone())));
    History { current: Arc::new(newest), write, duplicates: same, old, collisions }
}

/// A new revision under the first free name, and the collisions met until then.
fn create(
    wanted: &Wanted<'_>,
    data: Value,
    revision: i64,
    all: &[Arc<ControllerRevision>],
) -> (ControllerRevision, i32) {
    let owner = wanted.owner.name.as_deref().unwrap_or_default();
    let mut end = owner.len().min(PREFIX_BYTES_MAX);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    let mut collisions = wanted.collisions;
    let (name, hash) = loop {
        let hash = (wanted.hash)(wanted, &data, collisions);
        let name = format!("{}-{hash}", &owner[..end]);
        let taken = |r: &Arc<ControllerRevision>| r.name() == name && r.data.as_ref().is_none_or(|d| d.0 != data);
        // Each round another name; there are no more rounds than revisions.
        if !all.iter().any(taken) || collisions == i32::MAX {
            break (name, hash);
        }
        collisions += 1;
    };
    let mut labels = wanted.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(wanted.label.into(), hash);
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: wanted.owner.namespace.clone(),
        labels: Some(labels),
        annotations: wanted.owner.annotations.clone(),
        owner_references: Some(vec![wanted.reference.clone()]),
        ..ObjectMeta::default()
    };
    (ControllerRevision { metadata, data: Some(RawExtension(data)), revision }, collisions)
}

/// The patch that puts a template back.
fn data_of(template: &PodTemplateSpec) -> Value {
    // By way of text: the tree's own serializer would be compiled for every type below a template.
    let text = serde_json::to_vec(template).unwrap_or_default();
    let mut template: Value = serde_json::from_slice(&text).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps; `None`: its data are something else.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.pointer("/spec/template")?;
    // Read as a part of a kind whose decoder is there already.
    let around = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "spec": {"template": template}});
    ReplicaSet::decode(&around.to_string()).ok()?.spec?.template
}

/// The hash of a revision's data, as upstream's StatefulSet controller computes it.
pub fn data_hash(_: &Wanted<'_>, data: &Value, collisions: i32) -> String {
    let text = client::apply::escape_html(&data.to_string());
    let hash = text.bytes().chain(collisions.to_string().bytes()).fold(0x811c_9dc5_u32, |hash, byte| {
        // FNV-1: multiplied first.
        hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)
    });
    types::random::safe_encode(&hash.to_string())
}

/// What is too old to keep: beyond `limit`, oldest first, and none that is `live`. A negative limit keeps all.
///
/// `live_count` says whether the live ones count towards the limit.
pub fn excess(
    old: &[Arc<ControllerRevision>],
    limit: i32,
    live: &BTreeSet<&str>,
    id: fn(&ControllerRevision) -> &str,
    live_count: bool,
) -> Vec<Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let dead = || old.iter().filter(|r| !live.contains(id(r)));
    let count = if live_count { old.len() } else { dead().count() };
    dead().take(count.saturating_sub(limit)).cloned().collect()
}

/// Creates or renumbers; in a namespace that goes nothing is recorded any more.
pub async fn write(client: &Client, cache: &Cache<ControllerRevision>, write: &Write) -> Result<Vec<Seen>> {
    let outcome = match write {
        Write::Create(new) => client.create(&**new).await,
        Write::Update(new) => client.update(&**new).await,
    };
    match outcome {
        Ok(revision) => Ok(vec![Box::pin(cache.reached(revision.revision()))]),
        Err(error) if error.is_namespace_terminating() => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Patches the owners of a revision; one that is gone needs none.
pub async fn own(client: &Client, cache: &Cache<ControllerRevision>, key: &Key, patch: &Value) -> Result<Vec<Seen>> {
    match client.patch::<ControllerRevision>(&key.namespace, &key.name, Patch::Merge(patch)).await {
        Ok(revision) => Ok(vec![Box::pin(cache.reached(revision.revision()))]),
        Err(error) if error.is_not_found() => Ok(vec![]),
        Err(error) => Err(error),
    }
}

pub async fn forget(
    client: &Client,
    cache: &Arc<Cache<ControllerRevision>>,
    key: &Key,
    uid: &str,
) -> Result<Vec<Seen>> {
    match client.delete::<ControllerRevision>(&key.namespace, &key.name, &DeleteParams::uid(uid)).await {
        Ok(_) => Ok(vec![Box::pin(cache.going(key, uid))]),
        Err(error) if error.is_not_found() => Ok(vec![]),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::controller_reference;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn set(image: &str) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "s", "annotations": {"a": "<b>"}},
            "spec": {"serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}}))
        .unwrap()
    }

    fn check(
        image: &str,
        collisions: i32,
        mine: &[Arc<ControllerRevision>],
        others: &[Arc<ControllerRevision>],
    ) -> History {
        let set = set(image);
        let wanted = Wanted {
            owner: &set.metadata,
            reference: controller_reference(&set),
            template: &set.spec.as_ref().unwrap().template,
            collisions,
            hash: data_hash,
            label: "hash",
        };
        settle(&wanted, mine.to_vec(), &[mine, others].concat())
    }

    fn created(history: &History) -> ControllerRevision {
        match &history.write {
            Some(Write::Create(new)) => (**new).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn numbers(list: &[Arc<ControllerRevision>]) -> Vec<i64> {
        list.iter().map(|r| r.revision).collect()
    }

    #[test]
    fn revisions_are_made_found_and_renumbered() {
        let one = created(&check("one", 0, &[], &[]));
        assert_eq!((one.revision, one.namespace()), (1, "shop"));
        assert_eq!(one.name(), format!("web-{}", one.label("hash").unwrap()));
        assert_eq!((one.label("app"), one.annotation("a")), (Some("web"), Some("<b>")));
        assert_eq!(template_of(&one), Some(set("one").spec.unwrap().template));
        let one = Arc::new(one);
        let again = check("one", 0, &[Arc::clone(&one)], &[]);
        assert_eq!((&again.current, &again.write, again.old.len()), (&one, &None, 0));
        let two = check("two", 0, &[Arc::clone(&one)], &[]);
        let (two, old) = (Arc::new(created(&two)), numbers(&two.old));
        assert_eq!((two.revision, old), (2, vec![1]));
        assert_ne!(two.name(), one.name());
        // Back to the first: it becomes the newest, under its old name.
        let back = check("one", 0, &[Arc::clone(&two), Arc::clone(&one)], &[]);
        let Some(Write::Update(renumbered)) = &back.write else { panic!("{back:?}") };
        assert_eq!((renumbered.revision, renumbered.name()), (3, one.name()));
        assert_eq!(renumbered.data, one.data);
        let after = check("one", 0, &[two, Arc::new((**renumbered).clone())], &[]);
        assert_eq!((after.write, numbers(&after.old)), (None, vec![2]));
    }

    /// The hash is upstream's own, so that a set that moves between clusters keeps its revisions' names.
    #[test]
    fn hashes_are_upstreams() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "foo"}, "annotations": {"test": "value"}},
            "spec": {"containers": [{"name": "test", "image": "test", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30}}))
        .unwrap();
        let set = set("any");
        let wanted = Wanted {
            owner: &set.metadata,
            reference: controller_reference(&set),
            template: &template,
            collisions: 0,
            hash: data_hash,
            label: "hash",
        };
        assert_eq!(data_hash(&wanted, &data_of(&template), 0), "776999688b");
    }

    #[test]
    fn a_namesake_with_other_content_is_avoided_and_one_with_the_same_is_used() {
        let one = created(&check("one", 0, &[], &[]));
        let other = ControllerRevision { data: Some(RawExtension(json!({"x": 1}))), ..one.clone() };
        let avoided = check("one", 0, &[], &[Arc::new(other)]);
        assert_eq!(avoided.collisions, 1);
        assert_ne!(created(&avoided).name(), one.name());
        let same = check("one", 0, &[], &[Arc::new(one.clone())]);
        assert_eq!((same.write, same.current.name(), same.collisions), (None, one.name(), 0));
    }

    #[test]
    fn the_same_template_in_other_words_is_no_new_revision() {
        let mut one = created(&check("one", 0, &[], &[]));
        one.data.as_mut().unwrap().0["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
        let history = check("one", 0, &[Arc::new(one.clone())], &[]);
        assert_eq!((history.write, history.current.name()), (None, one.name()));
    }

    #[test]
    fn duplicates_are_told_and_the_newest_stays() {
        let one = created(&check("one", 0, &[], &[]));
        let mut twin = ControllerRevision { revision: 4, ..one.clone() };
        twin.metadata.name = Some("twin".into());
        let history = check("one", 0, &[Arc::new(twin), Arc::new(one)], &[]);
        assert_eq!((history.current.name(), numbers(&history.duplicates)), ("twin", vec![1]));
    }

    #[test]
    fn history_is_kept_to_its_limit() {
        let old: Vec<_> = (1..=5)
            .map(|n| {
                let metadata = ObjectMeta { name: Some(format!("r{n}")), ..ObjectMeta::default() };
                Arc::new(ControllerRevision { metadata, data: None, revision: n })
            })
            .collect();
        for (name, limit, live, live_count, expected) in [
            ("all fit", 5, &[][..], false, &[][..]),
            ("the oldest go", 3, &[], false, &[1, 2]),
            ("none is kept", 0, &[], false, &[1, 2, 3, 4, 5]),
            ("live ones stay and do not count", 3, &["r1"], false, &[2]),
            ("live ones stay and count", 3, &["r1"], true, &[2, 3]),
            ("no limit", -1, &[], false, &[]),
        ] {
            let live: BTreeSet<&str> = live.iter().copied().collect();
            let gone = excess(&old, limit, &live, |r| r.name(), live_count);
            assert_eq!(numbers(&gone), expected, "{name}");
        }
    }
}
