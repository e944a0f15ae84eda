//! StatefulSet controller. Keeps pods with numbers: each has a name, a host name and claims of its own for ever; they are made
//! in order, taken away in reverse order, and replaced from the last to the first when the template changes.
//!
//! One plan makes one step; each write comes back as a change that asks for the next. With `podManagementPolicy: Parallel`
//! the steps of all pods are one step. `identity` says who a pod is, `claims` whose its claims are, `steps` what is next.
//!
//! Source: kubernetes `pkg/controller/statefulset/{stateful_set,stateful_set_control,stateful_pod_control}.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use client::queue::Queue;
use client::runner::{Controller, Plan, Seen};
use client::{Cache, DeleteParams, Key, Object, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::Context;
use crate::history::{self, History, POD_LABEL};
use crate::pod_writes::PodWrites;
use crate::pods::{self, Claim};

mod apply;
mod claims;
mod identity;
mod steps;

const NAME: &str = "statefulset-controller";
/// StatefulSets worked on at once; upstream's `--concurrent-statefulset-syncs`.
const WORKERS: usize = 5;
/// Pods created or deleted in one go; the rest follows when these are seen. Upstream's `MaxBatchSize`.
const BURST: usize = 500;
/// The label by which a revision tells its hash.
const REVISION_LABEL: &str = "controller.kubernetes.io/hash";

/// What a plan is made from.
pub struct Observed<'a> {
    pub set: &'a StatefulSet,
    /// Pods of the namespace.
    pub pods: &'a [Arc<Pod>],
    /// ControllerRevisions of the namespace.
    pub revisions: &'a [Arc<ControllerRevision>],
    pub claims: claims::Lookup<'a>,
}

/// A pod to be made, with what it needs first.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPod {
    pub pod: Pod,
    pub claims: claims::Needed,
    /// Claims that another controller manages.
    pub conflicts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Adds us to a pod's owners, or takes us from them.
    OwnPod {
        pod: Key,
        patch: Value,
        adopt: bool,
    },
    OwnRevision {
        revision: Key,
        patch: Value,
        adopt: bool,
    },
    Revise(history::Write),
    Status(Box<StatefulSet>),
    /// In batches of 1, 2, 4, …
    Create(Vec<NewPod>),
    Delete(Vec<(Key, String)>),
    /// Makes the missing claims of a pod, and gives others the owners that they should have.
    Claims {
        pod: String,
        needed: claims::Needed,
        owners: Vec<PersistentVolumeClaim>,
        conflicts: Vec<String>,
        told: bool,
    },
    /// Gives a pod the labels and volumes that it should have.
    Correct {
        pod: Key,
        patch: Value,
        missing: Vec<PersistentVolumeClaim>,
    },
    Forget {
        revision: Key,
        uid: String,
    },
}

/// What is known about the set when its next step is looked for.
struct View<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    claims: claims::Lookup<'a>,
    /// The set's pods by number.
    members: BTreeMap<i64, &'a Arc<Pod>>,
    range: Range<i64>,
    /// The revision that pods are moved from, and the one that they are moved to.
    current: Arc<ControllerRevision>,
    update: Arc<ControllerRevision>,
    now: Timestamp,
}

impl View<'_> {
    fn is_ready(pod: &Pod) -> bool {
        pods::phase(pod) == "Running" && pods::is_ready(pod)
    }

    fn available_at(&self, pod: &Pod) -> Option<Timestamp> {
        pods::available_at(pod, self.spec.min_ready_seconds.unwrap_or(0))
    }

    fn is_available(&self, pod: &Pod) -> bool {
        Self::is_ready(pod) && self.available_at(pod).is_some_and(|at| at <= self.now)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || pod.is_terminating()
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn strategy(&self) -> &str {
        self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
    }

    fn status(&self, collisions: i32) -> StatefulSetStatus {
        let count = |counts: &dyn Fn(&Pod) -> bool| {
            i32::try_from(self.members.values().filter(|p| counts(p)).count()).unwrap_or(i32::MAX)
        };
        let of = |revision: &ControllerRevision| {
            count(&|p| !p.is_terminating() && p.label(POD_LABEL) == Some(revision.name()))
        };
        StatefulSetStatus {
            replicas: count(&|_| true),
            ready_replicas: Some(count(&Self::is_ready)),
            available_replicas: Some(count(&|p| self.is_available(p))),
            current_replicas: Some(of(&self.current)),
            updated_replicas: Some(of(&self.update)),
            current_revision: self.current.metadata.name.clone(),
            update_revision: self.update.metadata.name.clone(),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(collisions),
            conditions: None,
        }
    }
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let set = observed.set;
    let Some(spec) = &set.spec else { return plan };
    let Some(selector) = pods::matcher(&spec.selector).filter(|s| !s.is_empty()) else { return plan };
    let members = members(observed, &selector, &mut plan);
    let revisions = revisions(observed, &selector, &mut plan);
    let old_status = set.status.clone().unwrap_or_default();
    let wanted = history::Wanted {
        owner: &set.metadata,
        reference: pods::controller_reference(set),
        template: &spec.template,
        collisions: old_status.collision_count.unwrap_or(0),
        hash: history::data_hash,
        label: REVISION_LABEL,
    };
    let history = history::settle(&wanted, revisions.clone(), observed.revisions);
    match &history.write {
        // On its way out it gets no history any more, and a status would speak of what is not there.
        Some(_) if set.is_terminating() => return plan,
        Some(write) => plan.push(Action::Revise(write.clone()), format!("revision {}", history.current.revision)),
        None => {}
    }
    let current = revisions.iter().find(|r| Some(r.name()) == old_status.current_revision.as_deref());
    let view = View {
        set,
        spec,
        claims: observed.claims,
        members,
        range: identity::range(spec),
        current: Arc::clone(current.unwrap_or(&history.current)),
        update: Arc::clone(&history.current),
        now,
    };
    let mut status = view.status(history.collisions);
    let mut next = Plan::nothing();
    if !set.is_terminating() {
        let lost = steps::next(&view, &mut next);
        status.current_replicas = status.current_replicas.map(|n| n - lost);
    }
    complete(&view, &mut status);
    if differs(&status, &old_status) {
        let mut new = set.clone();
        new.status = Some(status);
        plan.push(Action::Status(Box::new(new)), "status changed");
    }
    plan.actions.extend(next.actions);
    plan.why.extend(next.why);
    if !set.is_terminating() {
        forget(&view, &history, &mut plan);
    }
    let soon = view.members.values().filter_map(|p| view.available_at(p)).filter(|at| *at > now).min();
    if let Some(at) = soon {
        plan.again_at(at);
    }
    plan
}

fn members<'a>(
    observed: &Observed<'a>,
    selector: &types::selector::LabelSelector,
    plan: &mut Plan<Action>,
) -> BTreeMap<i64, &'a Arc<Pod>> {
    let set = observed.set;
    let mut members = BTreeMap::new();
    let mut own = |pod: &Pod, adopt: bool, why: &str| {
        let patch = pods::owners_patch(pod, &pods::controller_reference(set), adopt);
        plan.push(Action::OwnPod { pod: pod.key(), patch, adopt }, format!("{} {why}", pod.name()));
    };
    for pod in observed.pods {
        let ordinal = identity::ordinal(set.name(), pod.name());
        let matches = ordinal.is_some() && selector.matches(&pod.metadata.labels);
        match pods::claim_if(&set.metadata, matches, &pod.metadata) {
            Claim::Mine => {}
            Claim::Adopt => own(pod, true, "matches and has no owner"),
            Claim::Release => {
                own(pod, false, "does not match any more");
                continue;
            }
            Claim::NotMine => continue,
        }
        members.extend(ordinal.map(|n| (n, pod)));
    }
    members
}

fn revisions(
    observed: &Observed<'_>,
    selector: &types::selector::LabelSelector,
    plan: &mut Plan<Action>,
) -> Vec<Arc<ControllerRevision>> {
    history::claim(observed.set, selector, observed.revisions, &mut |revision, patch, adopt, why| {
        plan.push(Action::OwnRevision { revision, patch, adopt }, why);
    })
}

/// Everything is at the new revision and ready: it is the current one from now on.
fn complete(view: &View<'_>, status: &mut StatefulSetStatus) {
    let wanted = view.spec.replicas.unwrap_or(1);
    if view.strategy() == "RollingUpdate"
        && status.updated_replicas == Some(wanted)
        && status.ready_replicas == Some(wanted)
        && status.replicas == wanted
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

/// Whether the status says something new. Zero and absent are the same on the wire.
fn differs(new: &StatefulSetStatus, old: &StatefulSetStatus) -> bool {
    let numbers = |s: &StatefulSetStatus| {
        [Some(s.replicas), s.ready_replicas, s.available_replicas, s.current_replicas, s.updated_replicas]
            .map(|n| n.unwrap_or(0))
    };
    let names =
        |s: &StatefulSetStatus| [&s.current_revision, &s.update_revision].map(|name| name.clone().unwrap_or_default());
    new.observed_generation > old.observed_generation || numbers(new) != numbers(old) || names(new) != names(old)
}

/// Deletes the oldest revisions that no pod is of, beyond the limit.
fn forget(view: &View<'_>, history: &History, plan: &mut Plan<Action>) {
    let mut live: BTreeSet<&str> = view.members.values().filter_map(|p| p.label(POD_LABEL)).collect();
    live.extend([view.current.name(), view.update.name()]);
    let old: Vec<_> = history.duplicates.iter().chain(&history.old).cloned().collect();
    let limit = view.spec.revision_history_limit.unwrap_or(10);
    for revision in history::excess(&old, limit, &live, |r| r.name(), false) {
        let why = format!("{} is beyond the history limit of {limit}", revision.name());
        plan.push(Action::Forget { revision: revision.key(), uid: revision.uid().into() }, why);
    }
}

pub struct StatefulSets {
    writes: PodWrites,
    sets: Arc<Cache<StatefulSet>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    revisions: Arc<Cache<ControllerRevision>>,
}

/// Starts the controller on the shared caches.
pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let pods = context.pods();
    let sets = context.informers.cache::<StatefulSet>(Selector::all());
    let claims = context.informers.cache::<PersistentVolumeClaim>(Selector::all());
    let revisions = context.informers.cache::<ControllerRevision>(Selector::all());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    sets.on_change(Box::new(move |old, new| {
        if let Some(set) = new.or(old) {
            dirty.add(set.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&sets));
    pods.on_change(Box::new(move |old, new| pods::wake(&dirty, "StatefulSet", old, new, &|pod| takers(&all, pod))));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&sets));
    revisions
        .on_change(Box::new(move |old, new| pods::wake(&dirty, "StatefulSet", old, new, &|meta| takers(&all, meta))));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&sets));
    claims.on_change(Box::new(move |old, new| claim_changed(&dirty, &all, old, new)));
    let writes = PodWrites { client, pods, recorder };
    context.run(StatefulSets { writes, sets, claims, revisions }, queue, WORKERS);
}

fn takers(sets: &Cache<StatefulSet>, found: &ObjectMeta) -> Vec<Key> {
    pods::selecting(sets, found, |set| set.spec.as_ref().map(|s| &s.selector))
}

/// A claim came, went, or has other owners: its set has something to do. Its status is no business of ours.
fn claim_changed(
    dirty: &Queue,
    sets: &Cache<StatefulSet>,
    old: Option<&Arc<PersistentVolumeClaim>>,
    new: Option<&Arc<PersistentVolumeClaim>>,
) {
    let Some(claim) = new.or(old) else { return };
    let matters = |c: &Arc<PersistentVolumeClaim>| (c.is_terminating(), c.metadata.owner_references.clone());
    if old.map(matters) == new.map(matters) {
        return;
    }
    for set in sets.in_namespace(claim.namespace()).iter().filter(|s| claims::is_of(s, claim.name())) {
        dirty.add(set.key());
    }
}

impl StatefulSets {
    /// A set that is gone or going must not take anything; the cache may not know yet.
    async fn may_adopt(&self, key: &Key) -> Result<bool> {
        let live = self.writes.client.get::<StatefulSet>(&key.namespace, &key.name).await?;
        Ok(!live.is_terminating() && self.sets.get(key).is_some_and(|s| s.uid() == live.uid()))
    }
}

impl Controller for StatefulSets {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(set) = self.sets.get(key) else { return Plan::nothing() };
        let pods = self.writes.pods.in_namespace(&key.namespace);
        let revisions = self.revisions.in_namespace(&key.namespace);
        let claims = |name: &str| self.claims.get(&Key::new(&key.namespace, name));
        plan(&Observed { set: &set, pods: &pods, revisions: &revisions, claims: &claims }, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let Some(set) = self.sets.get(key) else { return Ok(vec![]) };
        match action {
            Action::OwnPod { pod, patch, adopt } => {
                if adopt && !self.may_adopt(key).await? {
                    return Ok(vec![]);
                }
                self.writes.patch(&pod, &patch).await
            }
            Action::OwnRevision { revision, patch, adopt } => {
                if adopt && !self.may_adopt(key).await? {
                    return Ok(vec![]);
                }
                history::own(&self.writes.client, &self.revisions, &revision, &patch).await
            }
            Action::Revise(write) => history::write(&self.writes.client, &self.revisions, &write).await,
            Action::Forget { revision, uid } => {
                history::forget(&self.writes.client, &self.revisions, &revision, &uid).await
            }
            Action::Status(new) => match self.writes.client.update_status(&*new).await {
                Ok(new) => Ok(vec![Box::pin(self.sets.reached(new.revision()))]),
                Err(error) if error.is_not_found() => Ok(vec![]),
                Err(error) => Err(error),
            },
            Action::Create(pods) => self.create(&set, &pods).await,
            Action::Delete(pods) => self.delete(&set, &pods).await,
            Action::Claims { pod, needed, owners, conflicts, told } => {
                self.conflicts(&set, &conflicts);
                let mut seen = self.make_claims(&set, &pod, &needed).await.map_err(|(_, error)| error)?;
                seen.extend(self.own_claims(&set, &pod, &owners, told).await?);
                Ok(seen)
            }
            Action::Correct { pod, patch, missing } => self.correct(&set, &pod, &patch, missing).await,
        }
    }
}

#[cfg(test)]
#[path = "statefulset_tests.rs"]
mod tests;
