//! Protection of what storage is made of: a claim, a volume or an attributes class that is deleted stays until nobody uses it.
//! Admission gives each its finalizer; three controllers here, one for each kind, take it away.
//!
//! Source: kubernetes `pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}`.

use std::sync::Arc;

use client::api::{collection_path, object_path};
use client::runner::{Controller, Plan, Seen};
use client::storage::Volume;
use client::{Cache, Client, Key, ListParams, Object, Patch, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::storage::{POD_BY_CLAIM, claim_keys, is_for_pod};
use crate::{Context, pods};

/// Objects of a kind worked on at once; the work is one small write.
const WORKERS: usize = 2;
/// Indexes by the attributes classes that an object names.
const BY_ATTRIBUTES: &str = "attributes";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Protect { finalizers: Vec<String>, revision: Option<String> },
    Release { finalizers: Vec<String>, revision: Option<String> },
}

pub fn plan(metadata: &ObjectMeta, finalizer: &str, used: bool) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    let (has, revision) = (finalizers.iter().any(|f| f == finalizer), metadata.resource_version.clone());
    match (metadata.deletion_timestamp.is_some(), has) {
        (true, true) if !used => {
            finalizers.retain(|f| f != finalizer);
            plan.push(Action::Release { finalizers, revision }, "nobody uses it");
        }
        (false, false) => {
            finalizers.push(finalizer.to_owned());
            plan.push(Action::Protect { finalizers, revision }, "it may be used");
        }
        (true | false, true) | (true, false) => {}
    }
    plan
}

/// Whether a pod keeps a claim: it has a node, and has not let go of what was made for it.
///
/// Source: `podUsesPVCForDeletion` in `pvc_protection_controller.go`.
pub fn pod_keeps(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let shut_down = pod.is_terminating() && pod.metadata.deletion_grace_period_seconds == Some(0);
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    !pods::node_name(pod).is_empty()
        && volumes.into_iter().any(|v| match &v.persistent_volume_claim {
            Some(source) => source.claim_name == claim.name(),
            None => {
                v.ephemeral.is_some()
                    && !shut_down
                    && format!("{}-{}", pod.name(), v.name) == claim.name()
                    && is_for_pod(pod, claim).is_ok()
            }
        })
}

fn claim_attributes(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let names = [
        claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone()),
        status.and_then(|s| s.current_volume_attributes_class_name.clone()),
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone()),
    ];
    names.into_iter().flatten().filter(|n| !n.is_empty()).collect()
}

fn volume_attributes(volume: &Volume) -> Vec<String> {
    volume.spec.volume_attributes_class_name.clone().filter(|n| !n.is_empty()).into_iter().collect()
}

/// An object's metadata and whether it is used.
type Observe = Box<dyn Fn(&Key) -> Option<(ObjectMeta, bool)> + Send + Sync>;
type Reached = Box<dyn Fn(client::Revision) -> Seen + Send + Sync>;

struct Protection {
    name: &'static str,
    finalizer: &'static str,
    client: Client,
    /// The kind's path in a namespace.
    collection: fn(&str) -> String,
    observe: Observe,
    reached: Reached,
    /// Whether pods must be asked for before a claim goes: the caches may be behind a pod that was just given a node.
    asks: bool,
}

pub fn start(context: &Context) {
    let claims = context.informers.cache::<PersistentVolumeClaim>(Selector::all());
    let volumes = context.informers.cache::<Volume>(Selector::all());
    claims.add_index(BY_ATTRIBUTES, claim_attributes);
    volumes.add_index(BY_ATTRIBUTES, volume_attributes);
    start_claims(context, &claims);
    let all = Arc::clone(&volumes);
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    volumes.on_change(Box::new(move |_, new| new.into_iter().for_each(|v| dirty.add(v.key()))));
    context.run(
        protection(context, "pv-protection-controller", "kubernetes.io/pv-protection", &volumes, move |key| {
            all.get(key).map(|v| (v.metadata.clone(), v.status.phase == "Bound"))
        }),
        queue,
        WORKERS,
    );
    start_attributes(context, &claims, &volumes);
}

fn protection<K: Object>(
    context: &Context,
    name: &'static str,
    finalizer: &'static str,
    cache: &Arc<Cache<K>>,
    observe: impl Fn(&Key) -> Option<(ObjectMeta, bool)> + Send + Sync + 'static,
) -> Protection {
    let cache = Arc::clone(cache);
    Protection {
        name,
        finalizer,
        client: context.client(name),
        collection: collection_path::<K>,
        observe: Box::new(observe),
        reached: Box::new(move |revision| Box::pin(cache.reached(revision))),
        asks: false,
    }
}

fn start_claims(context: &Context, claims: &Arc<Cache<PersistentVolumeClaim>>) {
    let (pods, queue) = (context.pods(), context.queue());
    let dirty = Arc::clone(&queue);
    claims.on_change(Box::new(move |_, new| new.into_iter().for_each(|c| dirty.add(c.key()))));
    let (dirty, theirs) = (Arc::clone(&queue), Arc::clone(claims));
    pods.on_change(Box::new(move |old, new| {
        let keys = old.filter(|_| new.is_none_or(|p| p.is_terminating())).into_iter().flat_map(|pod| claim_keys(pod));
        keys.filter(|key| theirs.get(key).is_some_and(|c| c.is_terminating())).for_each(|key| dirty.add(key));
    }));
    let all = Arc::clone(claims);
    let observe = move |key: &Key| {
        let claim = all.get(key)?;
        let used = claim.is_terminating()
            && pods.indexed(POD_BY_CLAIM, &key.to_string()).iter().any(|pod| pod_keeps(pod, &claim));
        Some((claim.metadata.clone(), used))
    };
    let name = "pvc-protection-controller";
    let made = protection(context, name, "kubernetes.io/pvc-protection", claims, observe);
    context.run(Protection { asks: true, ..made }, queue, WORKERS);
}

fn start_attributes(context: &Context, claims: &Arc<Cache<PersistentVolumeClaim>>, volumes: &Arc<Cache<Volume>>) {
    let classes = context.informers.cache::<VolumeAttributesClass>(Selector::all());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    classes.on_change(Box::new(move |_, new| new.into_iter().for_each(|c| dirty.add(c.key()))));
    let dirty = Arc::clone(&queue);
    claims.on_change(Box::new(move |old, _| {
        old.into_iter().flat_map(|c| claim_attributes(c)).for_each(|name| dirty.add(Key::cluster(&name)));
    }));
    let dirty = Arc::clone(&queue);
    volumes.on_change(Box::new(move |old, _| {
        old.into_iter().flat_map(|v| volume_attributes(v)).for_each(|name| dirty.add(Key::cluster(&name)));
    }));
    let (all, claims, volumes) = (Arc::clone(&classes), Arc::clone(claims), Arc::clone(volumes));
    let observe = move |key: &Key| {
        let used = !volumes.indexed(BY_ATTRIBUTES, &key.name).is_empty()
            || !claims.indexed(BY_ATTRIBUTES, &key.name).is_empty();
        all.get(key).map(|c| (c.metadata.clone(), used))
    };
    let name = "volumeattributesclass-protection-controller";
    context.run(protection(context, name, "kubernetes.io/vac-protection", &classes, observe), queue, WORKERS);
}

impl Controller for Protection {
    type Action = Action;

    fn name(&self) -> &'static str {
        self.name
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        (self.observe)(key).map_or_else(Plan::nothing, |(metadata, used)| plan(&metadata, self.finalizer, used))
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let (finalizers, revision) = match action {
            Action::Protect { finalizers, revision } => (finalizers, revision),
            Action::Release { finalizers, revision } => {
                if self.asks && self.pods_name(key).await? {
                    return Ok(vec![]);
                }
                (finalizers, revision)
            }
        };
        let patch = json!({"metadata": {"resourceVersion": revision, "finalizers": finalizers}});
        let path = object_path(&(self.collection)(&key.namespace), &key.name, "");
        match self.client.patch_path::<Value>(&path, Patch::Merge(&patch), &Default::default()).await {
            Ok(written) => {
                let revision = written["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                Ok(vec![(self.reached)(client::Revision::parse(revision))])
            }
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

impl Protection {
    /// Whether a pod with a node names the claim, by the API's newest view. What is made for a pod goes with it; the caches
    /// know of those.
    async fn pods_name(&self, key: &Key) -> Result<bool> {
        let path = collection_path::<Pod>(&key.namespace);
        let list = self.client.list_path::<Value>(&path, &ListParams::default()).await?;
        Ok(list.items.iter().any(|pod| {
            let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
            pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty())
                && volumes.into_iter().any(|v| v["persistentVolumeClaim"]["claimName"].as_str() == Some(&key.name))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINALIZER: &str = "kubernetes.io/pvc-protection";

    #[test]
    fn what_is_used_stays() {
        let rows: [(&str, Value, bool, &str); 7] = [
            ("all well", json!({"finalizers": [FINALIZER]}), true, ""),
            ("unused, not deleted", json!({"finalizers": [FINALIZER]}), false, ""),
            ("unprotected", json!({"finalizers": ["x"]}), false, "protect"),
            (
                "deleted, used",
                json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                true,
                "",
            ),
            (
                "deleted, unused",
                json!({"finalizers": ["x", FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                false,
                "release",
            ),
            ("deleted, released", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), false, ""),
            (
                "deleted, another's",
                json!({"finalizers": ["x"], "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                false,
                "",
            ),
        ];
        for (name, metadata, used, expected) in rows {
            let mut metadata: ObjectMeta = serde_json::from_value(metadata).unwrap();
            let done = plan(&metadata, FINALIZER, used);
            let shown = match done.actions.first() {
                None => "",
                Some(Action::Protect { finalizers, .. }) => {
                    metadata.finalizers = Some(finalizers.clone());
                    "protect"
                }
                Some(Action::Release { finalizers, .. }) => {
                    assert_eq!(finalizers, &["x"]);
                    metadata.finalizers = Some(finalizers.clone());
                    "release"
                }
            };
            assert_eq!(shown, expected, "{name}");
            assert!(plan(&metadata, FINALIZER, used).actions.is_empty(), "{name}: planned again");
        }
    }

    #[test]
    fn pods_keep_what_they_name() {
        let claim = |name: &str, owner: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}}))
            .unwrap()
        };
        let pod = |node: &str, grace: Option<i64>| -> Pod {
            let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
                "spec": {"containers": [], "nodeName": node, "volumes": [
                    {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}]}}))
            .unwrap();
            if grace.is_some() {
                pod.metadata.deletion_grace_period_seconds = grace;
                pod.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
            }
            pod
        };
        for (name, claim, pod, keeps) in [
            ("named", claim("data", ""), pod("n", None), true),
            ("not placed", claim("data", ""), pod("", None), false),
            ("named, shut down", claim("data", ""), pod("n", Some(0)), true),
            ("made for it", claim("p-b", "u"), pod("n", None), true),
            ("made for it, ending", claim("p-b", "u"), pod("n", Some(30)), true),
            ("made for it, shut down", claim("p-b", "u"), pod("n", Some(0)), false),
            ("somebody's of that name", claim("p-b", "other"), pod("n", None), false),
            ("another", claim("x", ""), pod("n", None), false),
        ] {
            assert_eq!(pod_keeps(&pod, &claim), keeps, "{name}");
        }
    }
}
