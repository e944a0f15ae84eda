//! Deployment controller. Moves pods from old ReplicaSets to the one that has the current template, within the limits of the
//! strategy; keeps revisions and history; reports progress.
//!
//! One plan makes one step (adopt, create the new set, scale, status); each write comes back as a change that asks for the
//! next. `rolling` has the arithmetic, `status` the conditions.
//!
//! Source: kubernetes `pkg/controller/deployment/{deployment_controller,sync,rolling,recreate,progress}.go` and `util/`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, DeleteParams, Key, Object, Patch, Recorder, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::{Value, json};

use crate::Context;
use crate::failures::{Failure, Failures};
use crate::pods::{self, Claim};

mod rolling;
mod status;

pub use rolling::{max_surge, max_unavailable};

const NAME: &str = "deployment-controller";
/// Deployments worked on at once; upstream's `--concurrent-deployment-syncs`.
const WORKERS: usize = 5;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Longest list of former revisions that one set remembers; upstream's limit.
const REVISION_HISTORY_BYTES_MAX: usize = 2000;
/// Annotations of the deployment that its sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
];

/// What a plan is made from.
pub struct Observed<'a> {
    pub deployment: &'a Deployment,
    /// ReplicaSets of the namespace.
    pub sets: &'a [Arc<ReplicaSet>],
    /// Pods of the namespace; only Recreate looks at them.
    pub pods: &'a [Arc<Pod>],
    /// How the last attempt to create the new set ended.
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Adopt {
        set: Key,
        patch: Value,
    },
    Release {
        set: Key,
        patch: Value,
    },
    CreateSet(Box<ReplicaSet>),
    /// Replicas, annotations, minReadySeconds; `scaled` is (from, to) when replicas change.
    PatchSet {
        set: Key,
        patch: Value,
        scaled: Option<(i32, i32)>,
    },
    DeleteSet {
        set: Key,
        uid: String,
    },
    /// The deployment with its new revision.
    Annotate(Box<Deployment>),
    Status(Box<Deployment>),
    /// The selector is empty.
    WarnSelectsAll,
}

/// A ReplicaSet as the plan sees it: `replicas` changes as the plan goes.
#[derive(Clone)]
struct Set {
    object: Arc<ReplicaSet>,
    replicas: i32,
}

impl Set {
    fn available(&self) -> i32 {
        self.object.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }
    fn annotation(&self, name: &str) -> Option<i32> {
        self.object.annotation(name)?.parse().ok()
    }
    fn revision(&self) -> i64 {
        self.object.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
    }
}

/// The deployment's sets: the one with its template, if it exists, and the others, oldest first.
struct Sets {
    new: Option<Set>,
    old: Vec<Set>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }
    fn total(&self) -> i32 {
        self.all().map(|s| s.replicas).sum()
    }
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let d = observed.deployment;
    let Some(spec) = &d.spec else { return plan };
    let Some(selector) = pods::matcher(&spec.selector) else { return plan };
    if selector.is_empty() {
        plan.push(Action::WarnSelectsAll, "the selector is empty");
        return plan;
    }
    let Some(mut sets) = claim(observed, &selector, spec, &mut plan) else { return plan };
    if d.is_terminating() {
        status::report(observed, &sets, now, &mut plan);
        return plan;
    }
    let paused = spec.paused == Some(true);
    if status::pause(d, paused, now, &mut plan) {
        return plan;
    }
    let recreate = spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate");
    // Recreate has nothing to share out: its old sets go to zero whatever the size.
    let several = sets.all().filter(|s| s.replicas > 0).count() > 1;
    let rescaled = !(recreate && several)
        && sets.all().any(|s| s.replicas > 0 && s.annotation(DESIRED).is_some_and(|n| n != replicas(spec)));

    if paused || rescaled {
        revise(d, spec, &sets, &mut plan);
        rolling::scale(d, spec, &mut sets, &mut plan);
        if paused {
            clean_up(spec, &sets, &mut plan);
        }
        status::report(observed, &sets, now, &mut plan);
        return plan;
    }
    if recreate {
        let busy = sets.old.iter().any(|s| s.replicas > 0);
        for set in sets.old.iter_mut().filter(|s| s.replicas > 0) {
            rolling::scale_to(d, spec, set, 0, &mut plan);
        }
        if busy || (sets.new.as_ref().is_none_or(|n| n.replicas == 0) && old_pods_run(observed, &sets)) {
            revise(d, spec, &sets, &mut plan);
            status::progress(observed, &sets, now, &mut plan);
            return plan;
        }
    }
    if sets.new.is_none() {
        create(observed, spec, &sets, now, &mut plan);
        return plan;
    }
    revise(d, spec, &sets, &mut plan);
    if !rolling::new_set(d, spec, &mut sets, &mut plan) && !recreate {
        rolling::old_sets(d, spec, &mut sets, &mut plan);
    }
    if status::is_complete(d, spec, &sets) {
        clean_up(spec, &sets, &mut plan);
    }
    status::progress(observed, &sets, now, &mut plan);
    plan
}

pub fn replicas(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

/// Sorts out whose sets are whose. `None`: ownership changes first, the rest when that is seen.
fn claim(
    observed: &Observed<'_>,
    selector: &types::selector::LabelSelector,
    spec: &DeploymentSpec,
    plan: &mut Plan<Action>,
) -> Option<Sets> {
    let d = observed.deployment;
    let me = pods::controller_reference(d);
    let mut mine = Vec::new();
    for set in observed.sets {
        let name = set.name();
        match pods::claim(d, selector, &**set) {
            Claim::Mine => mine.push(Arc::clone(set)),
            Claim::Adopt => {
                let patch = pods::owners_patch(&**set, &me, true);
                plan.push(Action::Adopt { set: set.key(), patch }, format!("{name} matches and has no owner"));
            }
            Claim::Release => {
                let patch = pods::owners_patch(&**set, &me, false);
                plan.push(Action::Release { set: set.key(), patch }, format!("{name} does not match any more"));
            }
            Claim::NotMine => {}
        }
    }
    if !plan.actions.is_empty() {
        return None;
    }
    mine.sort_by_key(|s| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), s.metadata.name.clone()));
    let as_set = |object: Arc<ReplicaSet>| {
        let replicas = object.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        Set { object, replicas }
    };
    let at =
        mine.iter().position(|s| s.spec.as_ref().is_some_and(|s| same_template(s.template.as_ref(), &spec.template)));
    let new = at.map(|i| as_set(mine.remove(i)));
    Some(Sets { new, old: mine.into_iter().map(as_set).collect() })
}

/// Equal but for the hash label.
fn same_template(a: Option<&PodTemplateSpec>, b: &PodTemplateSpec) -> bool {
    fn bare(t: &PodTemplateSpec) -> (Option<ObjectMeta>, Option<&k8s_openapi::api::core::v1::PodSpec>) {
        let mut meta = t.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.filter(|a| !a.is_empty());
        meta.creation_timestamp = None;
        (Some(meta), t.spec.as_ref())
    }
    a.is_some_and(|a| bare(a) == bare(b))
}

/// A short name for a template. Not upstream's number, which depends on how Go prints structs; the same in spirit.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut hash = 0x811c_9dc5_u32;
    let text = serde_json::to_vec(template).unwrap_or_default();
    let salt = if collisions > 0 { collisions.to_le_bytes().to_vec() } else { Vec::new() };
    for byte in text.into_iter().chain(salt) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    types::random::safe_encode(&hash.to_string())
}

fn old_pods_run(observed: &Observed<'_>, sets: &Sets) -> bool {
    observed.pods.iter().any(|pod| {
        !pods::is_finished(pod)
            && pod.controller_owner().is_some_and(|o| sets.old.iter().any(|s| s.object.uid() == o.uid))
    })
}

fn copied_annotations(d: &Deployment) -> BTreeMap<String, String> {
    let all = d.metadata.annotations.clone().unwrap_or_default();
    all.into_iter().filter(|(k, _)| !NOT_COPIED.contains(&k.as_str())).collect()
}

fn next_revision(sets: &Sets) -> i64 {
    sets.old.iter().map(Set::revision).max().unwrap_or(0) + 1
}

/// Brings the new set's revision and copied annotations, and the deployment's revision, up to date.
fn revise(d: &Deployment, spec: &DeploymentSpec, sets: &Sets, plan: &mut Plan<Action>) {
    let Some(new) = &sets.new else { return };
    let mut annotations = serde_json::Map::new();
    let revision = next_revision(sets);
    let old_revision = new.revision();
    let final_revision = old_revision.max(revision);
    if old_revision < revision {
        annotations.insert(REVISION.into(), revision.to_string().into());
        if old_revision > 0 {
            let history = new.object.annotation(REVISION_HISTORY).unwrap_or_default();
            let mut entries: Vec<String> = history.split(',').filter(|e| !e.is_empty()).map(Into::into).collect();
            entries.push(old_revision.to_string());
            while entries.len() > 1 && entries.join(",").len() > REVISION_HISTORY_BYTES_MAX {
                entries.remove(0);
            }
            annotations.insert(REVISION_HISTORY.into(), entries.join(",").into());
        }
    }
    for (name, value) in copied_annotations(d) {
        if new.object.annotation(&name) != Some(&value) {
            annotations.insert(name, value.into());
        }
    }
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let rolled_back = new.object.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) != min_ready;
    if !annotations.is_empty() || rolled_back {
        let mut patch = guarded(&new.object);
        patch["metadata"]["annotations"] = annotations.into();
        if rolled_back {
            patch["spec"]["minReadySeconds"] = min_ready.into();
        }
        plan.push(
            Action::PatchSet { set: new.object.key(), patch, scaled: None },
            format!("{} is revision {final_revision}", new.object.name()),
        );
    }
    if d.annotation(REVISION) != Some(&final_revision.to_string()) {
        let mut new = d.clone();
        new.metadata.annotations.get_or_insert_default().insert(REVISION.into(), final_revision.to_string());
        plan.push(Action::Annotate(Box::new(new)), format!("revision {final_revision}"));
    }
}

/// The start of a merge patch that only applies to the object that was planned for, whatever its version: sizes are ours to
/// set, and a version check would lose to every status write.
fn guarded(set: &ReplicaSet) -> Value {
    json!({"metadata": {"uid": set.uid()}})
}

fn create(observed: &Observed<'_>, spec: &DeploymentSpec, sets: &Sets, now: Timestamp, plan: &mut Plan<Action>) {
    let d = observed.deployment;
    let collisions = d.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let name = format!("{}-{hash}", d.name());
    // It would have been found by its template if it were ours.
    if observed.sets.iter().any(|s| s.name() == name) {
        status::collision(d, collisions + 1, &name, plan);
        return;
    }
    if status::creation_failed(observed, now, plan) {
        // Written first; the attempt follows when it is seen, or below when it is already there.
        return;
    }
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector: LabelSelector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash);
    let mut annotations = copied_annotations(d);
    let max = replicas(spec) + max_surge(spec);
    annotations.insert(REVISION.into(), next_revision(sets).to_string());
    annotations.insert(DESIRED.into(), replicas(spec).to_string());
    annotations.insert(MAX.into(), max.to_string());
    let size = rolling::new_replicas(spec, sets.total(), 0);
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: d.metadata.namespace.clone(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![pods::controller_reference(d)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    plan.push(Action::CreateSet(Box::new(set)), format!("no set has the template; {name} with {size} replicas"));
}

/// Deletes the oldest sets beyond the history limit.
fn clean_up(spec: &DeploymentSpec, sets: &Sets, plan: &mut Plan<Action>) {
    let Some(limit) = spec.revision_history_limit else { return };
    let mut alive: Vec<&Set> = sets.old.iter().filter(|s| !s.object.is_terminating()).collect();
    let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|s| s.revision());
    for set in alive.into_iter().take(excess) {
        let status = set.object.status.clone().unwrap_or_default();
        let settled = status.observed_generation >= set.object.metadata.generation;
        if status.replicas == 0 && set.replicas == 0 && settled {
            let delete = Action::DeleteSet { set: set.object.key(), uid: set.object.uid().into() };
            plan.push(delete, format!("{} is beyond the history limit of {limit}", set.object.name()));
        }
    }
}

pub struct Deployments {
    client: Client,
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
    recorder: Recorder,
    failures: Failures,
}

/// Starts the controller on the shared caches.
pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let deployments = context.informers.cache::<Deployment>(Selector::all());
    let sets = context.informers.cache::<ReplicaSet>(Selector::all());
    let pods = context.pods();
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    deployments.on_change(Box::new(move |old, new| {
        if let Some(d) = new.or(old) {
            dirty.add(d.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&deployments));
    sets.on_change(Box::new(move |old, new| {
        let takers = |set: &ObjectMeta| pods::selecting(&all, set, |d| d.spec.as_ref().map(|s| &s.selector));
        pods::wake(&dirty, "Deployment", old, new, &takers);
    }));
    // Recreate waits for the last old pod to be gone.
    let (dirty, all, owners) = (Arc::clone(&queue), Arc::clone(&deployments), Arc::clone(&sets));
    pods.on_change(Box::new(move |old, new| {
        let gone = new.is_none_or(|p| pods::is_finished(p));
        let Some(owner) = new.or(old).filter(|_| gone).and_then(|p| p.controller_owner()) else { return };
        let namespace = new.or(old).map(|p| p.namespace()).unwrap_or_default();
        let set = owners.get(&Key::new(namespace, &owner.name));
        let Some(d) = set.as_ref().and_then(|s| s.controller_owner()) else { return };
        let key = Key::new(namespace, &d.name);
        let recreate = all.get(&key).is_some_and(|d| {
            let strategy = d.spec.as_ref().and_then(|s| s.strategy.as_ref());
            strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
        });
        if recreate {
            dirty.add(key);
        }
    }));
    let failures = Failures::default();
    context.run(Deployments { client, deployments, sets, pods, recorder, failures }, queue, WORKERS);
}

impl Deployments {
    fn seen(&self, set: &ReplicaSet) -> Result<Vec<Seen>> {
        Ok(vec![Box::pin(self.sets.reached(set.revision()))])
    }
}

impl Controller for Deployments {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(deployment) = self.deployments.get(key) else { return Plan::nothing() };
        let sets = self.sets.in_namespace(&key.namespace);
        let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
        let pods = if strategy == Some("Recreate") { self.pods.in_namespace(&key.namespace) } else { Vec::new() };
        let failure = self.failures.get(deployment.uid());
        plan(&Observed { deployment: &deployment, sets: &sets, pods: &pods, failure }, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let about = self.deployments.get(key);
        let scaled = |name: &str, from: i32, to: i32| {
            if let Some(d) = &about
                && from != to
            {
                let direction = if to > from { "up" } else { "down" };
                let text = format!("Scaled {direction} replica set {name} from {from} to {to}");
                self.recorder.normal(&**d, "ScalingReplicaSet", text);
            }
        };
        match action {
            Action::Adopt { set, patch } => {
                let live = self.client.get::<Deployment>(&key.namespace, &key.name).await?;
                if live.is_terminating() || about.is_none_or(|d| d.uid() != live.uid()) {
                    return Ok(vec![]);
                }
                self.seen(&self.client.patch(&set.namespace, &set.name, Patch::Merge(&patch)).await?)
            }
            Action::Release { set, patch } => {
                self.seen(&self.client.patch(&set.namespace, &set.name, Patch::Merge(&patch)).await?)
            }
            Action::CreateSet(set) => match self.client.create(&*set).await {
                Ok(created) => {
                    if let Some(d) = &about {
                        self.failures.clear(d.uid());
                    }
                    scaled(created.name(), 0, created.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0));
                    self.seen(&created)
                }
                Err(error) if error.is_namespace_terminating() => Ok(vec![]),
                Err(error) => {
                    // A namesake is met by the next plan, which sees it.
                    if let Some(d) = about.filter(|_| !error.is_already_exists()) {
                        let failure = Failure { reason: "ReplicaSetCreateError", message: error.to_string() };
                        let text = format!("Failed to create new replica set {:?}: {error}", set.name());
                        self.recorder.warning(&*d, failure.reason, text);
                        self.failures.set(d.uid(), failure);
                    }
                    Err(error)
                }
            },
            Action::PatchSet { set, patch, scaled: sizes } => {
                let new: ReplicaSet = self.client.patch(&set.namespace, &set.name, Patch::Merge(&patch)).await?;
                if let Some((from, to)) = sizes {
                    scaled(&set.name, from, to);
                }
                self.seen(&new)
            }
            Action::DeleteSet { set, uid } => {
                match self.client.delete::<ReplicaSet>(&set.namespace, &set.name, &DeleteParams::uid(&uid)).await {
                    Ok(_) => Ok(vec![Box::pin(self.sets.going(&set, &uid))]),
                    Err(error) if error.is_not_found() => Ok(vec![]),
                    Err(error) => Err(error),
                }
            }
            // Updates, not patches: the role that upstream gives this controller allows no more.
            Action::Annotate(d) => {
                let d = self.client.update(&*d).await?;
                Ok(vec![Box::pin(self.deployments.reached(d.revision()))])
            }
            Action::Status(d) => match self.client.update_status(&*d).await {
                Ok(d) => Ok(vec![Box::pin(self.deployments.reached(d.revision()))]),
                Err(error) if error.is_not_found() => Ok(vec![]),
                Err(error) => Err(error),
            },
            Action::WarnSelectsAll => {
                if let Some(d) = about {
                    let text = "This deployment is selecting all pods. A non-empty selector is required.";
                    self.recorder.warning(&*d, "SelectingAll", text);
                }
                Ok(vec![])
            }
        }
    }
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
