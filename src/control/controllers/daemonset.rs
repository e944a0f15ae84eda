//! DaemonSet controller. Keeps one pod on each node that it is meant for: the pod is made with the node's name in its affinity
//! and tolerates what befalls nodes; the scheduler binds it like any other.
//!
//! `placement` says which nodes, `rolling` what each of them needs and how a new template reaches them. One plan makes one
//! step; each write comes back as a change that asks for the next.
//!
//! What upstream has beside this: the template generation of before 1.9, in an annotation and a label. Nothing reads it.
//!
//! Source: kubernetes `pkg/controller/daemon/{daemon_controller,update}.go`, `pkg/controller/daemon/util`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::events::reference;
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Clock, Key, Object, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use types::selector::LabelSelector;

use super::deployment::template_hash;
use crate::Context;
use crate::history::{self, History, POD_LABEL};
use crate::pod_writes::PodWrites;
use crate::pods::{self, Claim};

mod backoff;
mod placement;
mod rolling;

use backoff::Backoff;
use placement::Place;
#[cfg(test)]
pub use placement::target;

const NAME: &str = "daemon-set-controller";
/// What events show as their source.
const SOURCE: &str = "daemonset-controller";
/// DaemonSets worked on at once; upstream's `--concurrent-daemonset-syncs`.
const WORKERS: usize = 2;
/// Pods created or deleted in one go; the rest follows when these are seen. Upstream's `BurstReplicas`, which spares registries.
const BURST: usize = 250;

/// What a plan is made from.
pub struct Observed<'a> {
    pub set: &'a DaemonSet,
    /// Pods of the namespace.
    pub pods: &'a [Arc<Pod>],
    /// ControllerRevisions of the namespace.
    pub revisions: &'a [Arc<ControllerRevision>],
    pub nodes: &'a [Arc<Node>],
    /// Until when the failed pod of a node stays, so that a pod that a node will not have is not made again and again.
    pub held: &'a dyn Fn(&str) -> Option<Timestamp>,
}

/// A pod that ended by itself, which daemons do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub pod: Key,
    pub node: String,
    pub failed: bool,
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
    /// Calls a pod's revision by the name of the one that stays of several alike.
    Relabel {
        pod: Key,
        patch: Value,
    },
    Forget {
        revision: Key,
        uid: String,
    },
    Status(Box<DaemonSet>),
    /// One pod for each node, in batches of 1, 2, 4, …
    Create {
        pod: Box<Pod>,
        nodes: Vec<String>,
    },
    Delete {
        pods: Vec<(Key, String)>,
        ended: Vec<Ended>,
    },
}

/// What is known when it is decided what each node needs.
pub struct View<'a> {
    spec: &'a DaemonSetSpec,
    /// The label of pods of the template of now.
    hash: &'a str,
    /// Labels of revisions alike, which pods have until they are relabelled.
    alike: Vec<&'a str>,
    places: BTreeMap<&'a str, Place>,
    /// The set's pods by the node that they are on or sent to; not those that are over and on their way out.
    on_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    held: &'a dyn Fn(&str) -> Option<Timestamp>,
    now: Timestamp,
}

impl View<'_> {
    fn available_at(&self, pod: &Pod) -> Option<Timestamp> {
        pods::available_at(pod, self.spec.min_ready_seconds.unwrap_or(0))
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.available_at(pod).is_some_and(|at| at <= self.now)
    }

    fn rolls(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        strategy.is_none_or(|s| s == "RollingUpdate")
    }
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let set = observed.set;
    let Some(spec) = &set.spec else { return plan };
    let Some(selector) = pods::matcher(&spec.selector).filter(|s| !s.is_empty()) else { return plan };
    if set.is_terminating() {
        // Its history may be gone already, and without it nothing true can be said about its pods.
        return plan;
    }
    let mine = pods_of(observed, &selector, &mut plan);
    let history = history_of(observed, spec, &selector, &mut plan);
    let hash = history.current.label(POD_LABEL).unwrap_or(history.current.name());
    let template = placement::tolerant(&spec.template.spec.clone().unwrap_or_default());
    let mut on_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for &pod in mine.iter().filter(|p| !(pods::is_finished(p) && p.is_terminating())) {
        if let Some(node) = placement::target(pod) {
            on_node.entry(node).or_default().push(pod);
        }
    }
    let places = observed.nodes.iter().map(|n| (n.name(), placement::place(&template, n))).collect();
    let alike = history.duplicates.iter().filter_map(|r| r.label(POD_LABEL)).collect();
    let view = View { spec, hash, alike, places, on_node, held: observed.held, now };

    let status = status(set, &view, history.collisions);
    if set.status.as_ref().is_none_or(|old| differs(&status, old)) {
        let mut new = set.clone();
        new.status = Some(status);
        plan.push(Action::Status(Box::new(new)), "status changed");
    }
    forget(&view, &history, &mine, &mut plan);
    let mut wish = rolling::manage(&view);
    if wish.create.is_empty() && wish.delete.is_empty() && view.rolls() {
        wish = rolling::update(&view);
    }
    act(set, &view, template, wish, &mut plan);
    for at in mine.iter().filter_map(|p| view.available_at(p)).filter(|at| *at > now) {
        plan.again_at(at);
    }
    let failed = view.on_node.iter().filter(|(_, pods)| pods.iter().any(|p| pods::phase(p) == "Failed"));
    for until in failed.filter_map(|(node, _)| (view.held)(node)).filter(|until| *until > now) {
        plan.again_at(until);
    }
    plan
}

fn act(
    set: &DaemonSet,
    view: &View<'_>,
    template: k8s_openapi::api::core::v1::PodSpec,
    wish: rolling::Wish<'_>,
    plan: &mut Plan<Action>,
) {
    let rolling::Wish { mut create, mut delete, ended } = wish;
    create.truncate(BURST);
    delete.truncate(BURST);
    if !create.is_empty() {
        let mut pod = pods::from_template(&view.spec.template, &set.metadata, pods::controller_reference(set));
        pod.metadata.labels.get_or_insert_default().insert(POD_LABEL.into(), view.hash.into());
        pod.spec = Some(template);
        let why = format!("{} nodes need a pod, {} the first", create.len(), create[0]);
        let nodes = create.into_iter().map(str::to_owned).collect();
        plan.push(Action::Create { pod: Box::new(pod), nodes }, why);
    }
    if !delete.is_empty() {
        let why = format!("{} pods are not wanted, {} the first", delete.len(), delete[0].name());
        let pods = delete.iter().map(|p| (p.key(), p.uid().to_owned())).collect();
        plan.push(Action::Delete { pods, ended }, why);
    }
}

fn pods_of<'a>(observed: &Observed<'a>, selector: &LabelSelector, plan: &mut Plan<Action>) -> Vec<&'a Arc<Pod>> {
    let set = observed.set;
    let mut mine = Vec::new();
    for pod in observed.pods {
        let claim = pods::claim(set, selector, &**pod);
        let adopt = claim == Claim::Adopt;
        if adopt || claim == Claim::Release {
            let patch = pods::owners_patch(&**pod, &pods::controller_reference(set), adopt);
            let why = format!("{} {}", pod.name(), if adopt { "has no owner" } else { "does not match any more" });
            plan.push(Action::OwnPod { pod: pod.key(), patch, adopt }, why);
        }
        if matches!(claim, Claim::Mine | Claim::Adopt) {
            mine.push(pod);
        }
    }
    mine
}

/// Sorts out the set's revisions, with one for the template of now.
fn history_of(
    observed: &Observed<'_>,
    spec: &DaemonSetSpec,
    selector: &LabelSelector,
    plan: &mut Plan<Action>,
) -> History {
    let set = observed.set;
    let mine = history::claim(set, selector, observed.revisions, &mut |revision, patch, adopt, why| {
        plan.push(Action::OwnRevision { revision, patch, adopt }, why);
    });
    let wanted = history::Wanted {
        owner: &set.metadata,
        reference: pods::controller_reference(set),
        template: &spec.template,
        collisions: set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0),
        hash: |wanted, _, collisions| template_hash(wanted.template, collisions),
        label: POD_LABEL,
    };
    let history = history::settle(&wanted, mine, observed.revisions);
    if let Some(write) = &history.write {
        plan.push(Action::Revise(write.clone()), format!("revision {}", history.current.revision));
    }
    history
}

fn status(set: &DaemonSet, view: &View<'_>, collisions: i32) -> DaemonSetStatus {
    let (mut desired, mut current, mut misplaced, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
    for (node, place) in &view.places {
        let first = view.on_node.get(node).and_then(|pods| pods.iter().min_by(|a, b| rolling::order(a, b)));
        match (place.comes, first) {
            (true, first) => {
                desired += 1;
                let Some(pod) = first else { continue };
                current += 1;
                ready += i32::from(pods::is_ready(pod));
                available += i32::from(view.is_available(pod));
                updated += i32::from(view.is_new(pod));
            }
            (false, Some(_)) => misplaced += 1,
            (false, None) => {}
        }
    }
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misplaced,
        number_ready: ready,
        updated_number_scheduled: Some(updated),
        number_available: Some(available),
        number_unavailable: Some(desired - available),
        observed_generation: set.metadata.generation,
        collision_count: Some(collisions).filter(|n| *n > 0),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    }
}

/// Whether the status says something new. Zero and absent are the same on the wire.
fn differs(new: &DaemonSetStatus, old: &DaemonSetStatus) -> bool {
    let numbers = |s: &DaemonSetStatus| {
        let always = [s.desired_number_scheduled, s.current_number_scheduled, s.number_misscheduled, s.number_ready];
        let some = [s.updated_number_scheduled, s.number_available, s.number_unavailable, s.collision_count];
        (always, some.map(|n| n.unwrap_or(0)))
    };
    numbers(new) != numbers(old) || new.observed_generation > old.observed_generation
}

/// Drops revisions that are there twice, and the oldest that no pod is of, beyond the limit.
fn forget(view: &View<'_>, history: &History, mine: &[&Arc<Pod>], plan: &mut Plan<Action>) {
    for pod in mine.iter().filter(|p| view.is_new(p) && p.label(POD_LABEL) != Some(view.hash)) {
        let patch = json!({"metadata": {"uid": pod.uid(), "labels": {POD_LABEL: view.hash}}});
        plan.push(Action::Relabel { pod: pod.key(), patch }, format!("{} is of the newest template", pod.name()));
    }
    let live: BTreeSet<&str> = mine.iter().filter_map(|p| p.label(POD_LABEL)).collect();
    let limit = view.spec.revision_history_limit.unwrap_or(10);
    let old = history::excess(&history.old, limit, &live, |r| r.label(POD_LABEL).unwrap_or_default(), true);
    for revision in history.duplicates.iter().chain(&old) {
        let why = format!("{} is not needed any more", revision.name());
        plan.push(Action::Forget { revision: revision.key(), uid: revision.uid().into() }, why);
    }
}

pub struct DaemonSets {
    writes: PodWrites,
    sets: Arc<Cache<DaemonSet>>,
    nodes: Arc<Cache<Node>>,
    revisions: Arc<Cache<ControllerRevision>>,
    backoff: Backoff,
    clock: Clock,
}

/// Starts the controller on the shared caches.
pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, SOURCE);
    let pods = context.pods();
    let sets = context.informers.cache::<DaemonSet>(Selector::all());
    let nodes = context.informers.cache::<Node>(Selector::all());
    let revisions = context.informers.cache::<ControllerRevision>(Selector::all());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    sets.on_change(Box::new(move |old, new| {
        if let Some(set) = new.or(old) {
            dirty.add(set.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&sets));
    pods.on_change(Box::new(move |old, new| pods::wake(&dirty, "DaemonSet", old, new, &|pod| takers(&all, pod))));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&sets));
    revisions.on_change(Box::new(move |old, new| {
        // One that comes with its owner asks for nothing by itself: ours is known already, and somebody's second one of the
        // same template stays until there is something to do.
        if old.is_none() && new.is_some_and(|r| r.controller_owner().is_some()) {
            return;
        }
        pods::wake(&dirty, "DaemonSet", old, new, &|meta| takers(&all, meta));
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&sets));
    nodes.on_change(Box::new(move |old, new| {
        // Of a heartbeat nothing here depends.
        let matters = |n: &Arc<Node>| (n.metadata.labels.clone(), n.spec.as_ref().and_then(|s| s.taints.clone()));
        if old.map(matters) == new.map(matters) {
            return;
        }
        for set in all.all() {
            let Some(template) = set.spec.as_ref().and_then(|s| s.template.spec.as_ref()) else { continue };
            let spec = placement::tolerant(template);
            let place = |n: &Arc<Node>| placement::place(&spec, n);
            if new.is_none() || old.map_or(placement::NOWHERE, place) != new.map_or(placement::NOWHERE, place) {
                dirty.add(set.key());
            }
        }
    }));
    let writes = PodWrites { client, pods, recorder };
    let (backoff, clock) = (Backoff::default(), context.config.clock);
    context.run(DaemonSets { writes, sets, nodes, revisions, backoff, clock }, queue, WORKERS);
}

fn takers(sets: &Cache<DaemonSet>, found: &ObjectMeta) -> Vec<Key> {
    pods::selecting(sets, found, |set| set.spec.as_ref().map(|s| &s.selector))
}

impl DaemonSets {
    /// A set that is gone or going must not take anything; the cache may not know yet.
    async fn may_adopt(&self, key: &Key) -> Result<bool> {
        let live = self.writes.client.get::<DaemonSet>(&key.namespace, &key.name).await?;
        Ok(!live.is_terminating() && self.sets.get(key).is_some_and(|s| s.uid() == live.uid()))
    }

    fn tell(&self, set: &DaemonSet, ended: &Ended) {
        let Ended { pod, node, failed } = ended;
        if *failed {
            self.backoff.next(set, node, self.clock.now());
            let text = format!("Found failed daemon pod {pod} on node {node}, will try to kill it");
            self.writes.recorder.warning(set, "FailedDaemonPod", text);
        } else {
            let text = format!("Found succeeded daemon pod {pod} on node {node}, will try to delete it");
            self.writes.recorder.normal(set, "SucceededDaemonPod", text);
        }
    }
}

impl Controller for DaemonSets {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(set) = self.sets.get(key) else { return Plan::nothing() };
        let pods = self.writes.pods.in_namespace(&key.namespace);
        let revisions = self.revisions.in_namespace(&key.namespace);
        let nodes = self.nodes.all();
        let held = |node: &str| self.backoff.until(&set, node, now);
        plan(&Observed { set: &set, pods: &pods, revisions: &revisions, nodes: &nodes, held: &held }, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let Some(set) = self.sets.get(key) else { return Ok(vec![]) };
        let client = &self.writes.client;
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
                history::own(client, &self.revisions, &revision, &patch).await
            }
            Action::Revise(write) => history::write(client, &self.revisions, &write).await,
            Action::Relabel { pod, patch } => self.writes.patch(&pod, &patch).await,
            Action::Forget { revision, uid } => history::forget(client, &self.revisions, &revision, &uid).await,
            Action::Status(new) => match client.update_status(&*new).await {
                Ok(new) => Ok(vec![Box::pin(self.sets.reached(new.revision()))]),
                Err(error) if error.is_not_found() => Ok(vec![]),
                Err(error) => Err(error),
            },
            Action::Create { pod, nodes } => {
                let aimed = |n: usize| {
                    let mut pod = (*pod).clone();
                    placement::aim(pod.spec.get_or_insert_default(), &nodes[n]);
                    pod
                };
                self.writes.create(&reference(&*set), nodes.len(), &aimed).await
            }
            Action::Delete { pods, ended } => {
                ended.iter().for_each(|ended| self.tell(&set, ended));
                self.writes.delete(&reference(&*set), &pods).await
            }
        }
    }
}

#[cfg(test)]
#[path = "daemonset_tests.rs"]
mod tests;
