//! ReplicaSet controller. Keeps `spec.replicas` pods alive; adopts and releases pods by selector; reports status.
//!
//! `plan` never waits and never reads a clock. A failed create or delete is remembered until the next plan, which writes it
//! into the status before trying again.
//!
//! [`Family`] lets ReplicationControllers be kept by the same code.
//!
//! Source: kubernetes `pkg/controller/replicaset/{replica_set,replica_set_utils}.go`, `pkg/controller/controller_utils.go`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::events::reference;
use client::queue::Queue;
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Key, Object, Result, Selector};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::Value;

use crate::Context;
use crate::failures::{Failure, Failures};
use crate::pod_writes::PodWrites;
use crate::pods::{self, Claim};

const NAME: &str = "replicaset-controller";
/// Pods created or deleted in one go; the rest follows when these are seen. Upstream's `BurstReplicas`.
const BURST: usize = 500;
/// ReplicaSets worked on at once; upstream's `--concurrent-replicaset-syncs`.
const WORKERS: usize = 5;
/// Annotation by which users say which pods to remove first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// apiVersion and kind.
pub type Kind = (&'static str, &'static str);

const REPLICA_SET: Kind = ("apps/v1", "ReplicaSet");

/// What a plan is made from.
pub struct Observed<'a> {
    /// What `set` really is.
    pub kind: Kind,
    pub set: &'a ReplicaSet,
    /// Pods of the namespace that it owns or could own.
    pub pods: &'a [Arc<Pod>],
    /// Active pods per node, of all sets of the same owner: where pods are doubled up.
    pub on_node: HashMap<String, usize>,
    /// How the last attempt to create or delete pods ended.
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Adopt {
        pod: Key,
        patch: Value,
    },
    Release {
        pod: Key,
        patch: Value,
    },
    /// In batches of 1, 2, 4, … so that a refusal is met once, not five hundred times.
    Create {
        pod: Box<Pod>,
        count: usize,
        about: Box<ObjectReference>,
    },
    Delete {
        pods: Vec<(Key, String)>,
        about: Box<ObjectReference>,
    },
    Status(Box<ReplicaSet>),
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let set = observed.set;
    let Some(spec) = &set.spec else { return plan };
    let Some(selector) = pods::matcher(&spec.selector).filter(|s| !s.is_empty()) else { return plan };
    let (api_version, kind) = observed.kind;
    let me = OwnerReference { api_version: api_version.into(), kind: kind.into(), ..pods::controller_reference(set) };
    let about = || {
        let (api_version, kind) = (Some(api_version.to_owned()), Some(kind.to_owned()));
        Box::new(ObjectReference { api_version, kind, ..reference(set) })
    };

    let mut mine: Vec<&Arc<Pod>> = Vec::new();
    let mut terminating = 0;
    for pod in observed.pods {
        let claim = pods::claim(set, &selector, &**pod);
        if !pods::is_active(pod) {
            if claim == Claim::Mine && pod.is_terminating() && !pods::is_finished(pod) {
                terminating += 1;
            }
            continue;
        }
        match claim {
            Claim::Mine => mine.push(pod),
            Claim::Adopt => {
                let patch = pods::owners_patch(&**pod, &me, true);
                plan.push(Action::Adopt { pod: pod.key(), patch }, format!("{} matches and has no owner", pod.name()));
                mine.push(pod);
            }
            Claim::Release => {
                let patch = pods::owners_patch(&**pod, &me, false);
                plan.push(Action::Release { pod: pod.key(), patch }, format!("{} does not match any more", pod.name()));
            }
            Claim::NotMine => {}
        }
    }

    // Only ReplicaSets tell of those on their way out.
    let terminating = (observed.kind == REPLICA_SET).then_some(terminating);
    let (status, next) = status(set, &mine, terminating, observed.failure.as_ref(), now);
    if let Some(at) = next {
        plan.again_at(at);
    }
    if set.status.as_ref() != Some(&status) {
        let mut new = set.clone();
        new.status = Some(status);
        plan.push(Action::Status(Box::new(new)), "status changed");
    }

    if set.is_terminating() {
        return plan;
    }
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    match mine.len().cmp(&wanted) {
        Ordering::Less => {
            let count = (wanted - mine.len()).min(BURST);
            let template = spec.template.clone().unwrap_or_default();
            let pod = Box::new(pods::from_template(&template, &set.metadata, me));
            let why = format!("{} of {wanted} replicas", mine.len());
            plan.push(Action::Create { pod, count, about: about() }, why);
        }
        Ordering::Greater => {
            let count = (mine.len() - wanted).min(BURST);
            let why = format!("{} of {wanted} replicas", mine.len());
            rank(&mut mine, &observed.on_node, now);
            let pods = mine.iter().take(count).map(|p| (p.key(), p.uid().to_owned())).collect();
            plan.push(Action::Delete { pods, about: about() }, why);
        }
        Ordering::Equal => {}
    }
    plan
}

/// The status, and when time alone will change it.
fn status(
    set: &ReplicaSet,
    mine: &[&Arc<Pod>],
    terminating: Option<i32>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Timestamp>) {
    let spec = set.spec.clone().unwrap_or_default();
    let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
    let labels: BTreeMap<String, String> = labels.unwrap_or_default();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let labelled = mine.iter().filter(|p| labels.iter().all(|(k, v)| p.label(k) == Some(v))).count();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let ready: Vec<Timestamp> = mine.iter().filter_map(|p| pods::available_at(p, min_ready)).collect();
    let next = ready.iter().filter(|at| **at > now).min().copied();
    let old = set.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    match failure {
        Some(failure) => {
            let known =
                conditions.iter().any(|c| c.type_ == "ReplicaFailure" && c.reason.as_deref() == Some(failure.reason));
            if !known {
                conditions.retain(|c| c.type_ != "ReplicaFailure");
                conditions.push(ReplicaSetCondition {
                    type_: "ReplicaFailure".into(),
                    status: "True".into(),
                    reason: Some(failure.reason.into()),
                    message: Some(failure.message.clone()),
                    last_transition_time: Some(Time(pods::whole_second(now))),
                });
            }
        }
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
    }
    // Zero is left out where the wire leaves it out, so that the comparison with what is stored holds.
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let status = ReplicaSetStatus {
        replicas: count(mine.len()),
        fully_labeled_replicas: some(count(labelled)),
        ready_replicas: some(count(ready.len())),
        available_replicas: some(count(ready.iter().filter(|at| **at <= now).count())),
        terminating_replicas: terminating,
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
    };
    (status, next)
}

/// Sorts pods so that those to delete first come first: what costs least to lose.
pub fn rank(list: &mut [&Arc<Pod>], on_node: &HashMap<String, usize>, now: Timestamp) {
    // Ages are compared by order of magnitude, so that the choice among old pods is spread and not always the newest.
    let magnitude = |at: Timestamp| match now.duration_since(at).as_nanos() {
        age if age <= 0 => -1,
        age => i64::from(age.ilog2()),
    };
    let phase_rank = |p: &Pod| match pods::phase(p) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |p: &Pod| p.annotation(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or(0);
    let node_count = |p: &Pod| on_node.get(pods::node_name(p)).copied().unwrap_or(0);
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    list.sort_by(|a, b| {
        let (a, b): (&Pod, &Pod) = (a, b);
        let assigned = |p: &Pod| !pods::node_name(p).is_empty();
        assigned(a)
            .cmp(&assigned(b))
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
            .then_with(|| cost(a).cmp(&cost(b)))
            .then_with(|| node_count(b).cmp(&node_count(a)))
            .then_with(|| match (pods::ready_since(a), pods::ready_since(b)) {
                (Some(a), Some(b)) => magnitude(a).cmp(&magnitude(b)),
                _ => Ordering::Equal,
            })
            .then_with(|| pods::restarts(b).cmp(&pods::restarts(a)))
            .then_with(|| match (created(a), created(b)) {
                (Some(a), Some(b)) => magnitude(a).cmp(&magnitude(b)),
                (a, b) => b.is_none().cmp(&a.is_none()).reverse(),
            })
            .then_with(|| a.uid().cmp(b.uid()))
    });
}

/// The objects that are kept, each seen as a ReplicaSet.
pub trait Family: Send + Sync + 'static {
    /// The controller's name.
    fn name(&self) -> &'static str;
    fn kind(&self) -> Kind;
    fn get(&self, key: &Key) -> Option<Arc<ReplicaSet>>;
    /// Uids of the others with the same owner.
    fn siblings(&self, set: &ReplicaSet) -> Vec<String>;
    /// As the API has it now.
    fn live<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>>;
    fn write_status<'a>(&'a self, set: &'a ReplicaSet) -> BoxFuture<'a, Result<Seen>>;
}

struct Sets {
    client: Client,
    all: Arc<Cache<ReplicaSet>>,
}

impl Family for Sets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> Kind {
        REPLICA_SET
    }

    fn get(&self, key: &Key) -> Option<Arc<ReplicaSet>> {
        self.all.get(key)
    }

    fn siblings(&self, set: &ReplicaSet) -> Vec<String> {
        let Some(owner) = set.controller_owner() else { return Vec::new() };
        let all = self.all.in_namespace(set.namespace());
        let same = all.iter().filter(|s| s.controller_owner().is_some_and(|o| o.uid == owner.uid));
        same.map(|s| s.uid().to_owned()).collect()
    }

    fn live<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move { Ok(self.client.get::<ReplicaSet>(&key.namespace, &key.name).await?.metadata) }.boxed()
    }

    fn write_status<'a>(&'a self, set: &'a ReplicaSet) -> BoxFuture<'a, Result<Seen>> {
        async move {
            let set = self.client.update_status(set).await?;
            Ok(Box::pin(self.all.reached(set.revision())) as Seen)
        }
        .boxed()
    }
}

pub struct ReplicaSets {
    writes: PodWrites,
    family: Box<dyn Family>,
    failures: Failures,
}

/// Starts the controller on the shared caches.
pub fn start(context: &Context) {
    let client = context.client(NAME);
    let (all, pods) = (context.informers.cache::<ReplicaSet>(Selector::all()), context.pods());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    all.on_change(Box::new(move |old, new| {
        if let Some(set) = new.or(old) {
            dirty.add(set.key());
        }
    }));
    let (dirty, sets) = (Arc::clone(&queue), Arc::clone(&all));
    pods.on_change(Box::new(move |old, new| {
        let takers = |pod: &ObjectMeta| pods::selecting(&sets, pod, |set| set.spec.as_ref().map(|s| &s.selector));
        pods::wake(&dirty, "ReplicaSet", old, new, &takers);
    }));
    run(context, Box::new(Sets { client: client.clone(), all }), client, queue);
}

/// Keeps the objects of a family, whose changes mark keys in the queue.
pub fn run(context: &Context, family: Box<dyn Family>, client: Client, queue: Arc<Queue>) {
    let recorder = context.recorder(&client, family.name());
    let writes = PodWrites { client, pods: context.pods(), recorder };
    context.run(ReplicaSets { writes, family, failures: Failures::default() }, queue, WORKERS);
}

impl ReplicaSets {
    fn on_node(&self, set: &ReplicaSet, pods: &[Arc<Pod>]) -> HashMap<String, usize> {
        let siblings = self.family.siblings(set);
        let related = |uid: &str| uid == set.uid() || siblings.iter().any(|s| s == uid);
        let mut counts = HashMap::new();
        for pod in pods.iter().filter(|p| pods::is_active(p) && p.controller_owner().is_some_and(|o| related(&o.uid))) {
            *counts.entry(pods::node_name(pod).to_owned()).or_insert(0) += 1;
        }
        counts
    }

    /// Remembers or forgets a failure.
    fn remember(&self, uid: Option<&str>, reason: &'static str, outcome: Result<Vec<Seen>>) -> Result<Vec<Seen>> {
        let uid = uid.unwrap_or_default();
        match &outcome {
            Ok(_) => drop(self.failures.clear(uid)),
            Err(error) => self.failures.set(uid, Failure { reason, message: error.to_string() }),
        }
        outcome
    }

    /// A set that is gone or going must not take pods; the cache may not know yet.
    async fn may_adopt(&self, key: &Key) -> Result<bool> {
        let live = self.family.live(key).await?;
        Ok(live.deletion_timestamp.is_none() && self.family.get(key).is_some_and(|s| s.metadata.uid == live.uid))
    }
}

impl Controller for ReplicaSets {
    type Action = Action;

    fn name(&self) -> &'static str {
        self.family.name()
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(set) = self.family.get(key) else { return Plan::nothing() };
        let pods = self.writes.pods.in_namespace(&key.namespace);
        let on_node = self.on_node(&set, &pods);
        let (kind, failure) = (self.family.kind(), self.failures.get(set.uid()));
        let mut plan = plan(&Observed { kind, set: &set, pods: &pods, on_node, failure }, now);
        let acts = plan.actions.iter().any(|a| matches!(a, Action::Create { .. } | Action::Delete { .. }));
        // Neither too few nor too many: the failure is history, and its condition goes with the next status.
        if !acts && self.failures.clear(set.uid()) {
            plan.again_at(now + SignedDuration::from_millis(1));
        }
        plan
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Adopt { pod, patch } => {
                if !self.may_adopt(key).await? {
                    return Ok(vec![]);
                }
                self.writes.patch(&pod, &patch).await
            }
            Action::Release { pod, patch } => self.writes.patch(&pod, &patch).await,
            Action::Create { pod, count, about } => {
                let outcome = self.writes.create(&about, count, &|_| (*pod).clone()).await;
                self.remember(about.uid.as_deref(), "FailedCreate", outcome)
            }
            Action::Delete { pods, about } => {
                let outcome = self.writes.delete(&about, &pods).await;
                self.remember(about.uid.as_deref(), "FailedDelete", outcome)
            }
            Action::Status(set) => match self.family.write_status(&set).await {
                Ok(seen) => Ok(vec![seen]),
                Err(error) if error.is_not_found() => Ok(vec![]),
                Err(error) => Err(error),
            },
        }
    }
}

#[cfg(test)]
#[path = "replicaset_tests.rs"]
mod tests;
