//! Job controller. Runs pods until as many have succeeded as the job wants, or too many have failed.
//!
//! No pod that ended is missed or counted twice: each carries a finalizer, by which it stays until its end is written into
//! the job. A pod that ended is first listed in `uncountedTerminatedPods`, then its finalizer is removed, then the pods of
//! the list that have none any more are added to the counters. Each of these steps is one plan; whichever is the last to be
//! carried out before a restart, the next continues.
//!
//! ```text
//! round ── what there is: pods that are active, ended, failed; indexes ──► manage ── pods to create or delete
//!   │                                                                        │
//!   └──► finish? policies, limits, deadline, completions ──► track ──────────┴──► status, finalizers, condition
//! ```
//!
//! A job that names another controller in `managedBy` is left alone.
//!
//! Source: kubernetes `pkg/controller/job/{job_controller,tracking_utils}.go`, KEP-2307 (tracking), KEP-3850 (backoff per
//! index), KEP-3939 (pod replacement), KEP-3998 (success policy), KEP-4368 (managedBy).

use std::collections::HashMap;
use std::sync::Arc;

use client::events::{NORMAL, WARNING, reference};
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Key, Object, Patch, Result, Selector};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::Context;
use crate::failures::{Failure, Failures};
use crate::pod_writes::PodWrites;
use crate::pods::{self, Claim};
use backoff::Backoff;
use manage::{Manage, Slot};
use round::Round;

mod backoff;
mod indexes;
mod manage;
pub mod orphans;
mod policy;
mod round;

const NAME: &str = "job-controller";
/// Jobs worked on at once; upstream's `--concurrent-job-syncs`.
const WORKERS: usize = 5;
/// Longest wait before pods are created or deleted again after that failed; upstream's `MaxJobApiBackOff`.
const AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// Keeps a pod until its end is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Who manages a job that names nobody.
const MANAGER: &str = "kubernetes.io/job-controller";

/// What a plan is made from.
pub struct Observed<'a> {
    pub job: &'a Job,
    /// Pods of the namespace that it owns or could own.
    pub pods: &'a [Arc<Pod>],
    pub backoff: Backoff,
    /// The last attempt to create or delete pods failed, so that what there is is told before the next one.
    pub failed: bool,
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
    /// JSON patches that take the finalizer off.
    Untrack(Vec<(Key, Value)>),
    Delete {
        pods: Vec<(Key, String)>,
        about: Box<ObjectReference>,
    },
    /// A pod like this for each slot.
    Create {
        pod: Box<Pod>,
        slots: Vec<Slot>,
        about: Box<ObjectReference>,
    },
    /// The job with its new status, and what its failures are then.
    Status(Box<Job>, Backoff),
    Event {
        warns: bool,
        reason: String,
        message: String,
        about: Box<ObjectReference>,
    },
}

/// The condition by which a job is over: it is complete, or has failed.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let mut conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.find(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True")
}

/// Whether this controller manages it.
fn is_ours(spec: &JobSpec) -> bool {
    spec.managed_by.as_deref().is_none_or(|by| by == MANAGER)
}

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Takes the finalizer off, if it is where it was seen.
pub fn untrack(pod: &Pod) -> Option<Value> {
    let at = pod.metadata.finalizers.as_ref()?.iter().position(|f| f == FINALIZER)?;
    let path = format!("/metadata/finalizers/{at}");
    Some(json!([
        {"op": "test", "path": "/metadata/uid", "value": pod.uid()},
        {"op": "test", "path": path, "value": FINALIZER},
        {"op": "remove", "path": path},
    ]))
}

/// How a job is going to end.
#[derive(Debug, Clone, PartialEq)]
struct Finish {
    fails: bool,
    /// The status says so already.
    announced: bool,
    reason: String,
    message: String,
}

impl Finish {
    fn fails(reason: &str, message: impl Into<String>) -> Self {
        Self { fails: true, announced: false, reason: reason.into(), message: message.into() }
    }
    fn succeeds(reason: &str, message: impl Into<String>) -> Self {
        Self { fails: false, ..Self::fails(reason, message) }
    }
    /// The condition of the end, and the one that announces it.
    fn conditions(&self) -> (&'static str, &'static str) {
        if self.fails { ("Failed", "FailureTarget") } else { ("Complete", "SuccessCriteriaMet") }
    }
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    let now = Some(Time(pods::whole_second(now)));
    JobCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: now.clone(),
        last_transition_time: now,
    }
}

/// Puts a condition in the place of its type; whether that changed anything. One that does not hold and is not there is not
/// worth saying.
fn ensure(all: &mut Option<Vec<JobCondition>>, new: JobCondition) -> bool {
    let known = all.iter_mut().flatten().find(|c| c.type_ == new.type_);
    match known {
        Some(known) if (&known.status, &known.reason, &known.message) == (&new.status, &new.reason, &new.message) => {
            false
        }
        Some(known) => {
            *known = new;
            true
        }
        None if new.status == "False" => false,
        None => {
            all.get_or_insert_default().push(new);
            true
        }
    }
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let job = observed.job;
    let Some(spec) = &job.spec else { return plan };
    if finished(job).is_some() || !is_ours(spec) {
        return plan;
    }
    let Some(mine) = claim(observed, spec, &mut plan) else { return plan };
    let mut round = Round::new(job, spec, mine, observed.backoff, now);
    let about = || Box::new(reference(job));

    let mut finish = round.finish(&mut plan);
    let ends = finish.is_some();
    let mut manage = match &finish {
        Some(_) if round.active.is_empty() => Manage::Nothing,
        Some(_) => Manage::Delete(round.active.clone()),
        // Its pods go with it.
        None if job.is_terminating() => Manage::Nothing,
        None => manage::manage(&round),
    };
    if let Manage::Wait(at) = manage {
        plan.again_at(at);
        manage = Manage::Nothing;
    }
    // What is done before the status is written is told in it.
    let acts = manage != Manage::Nothing;
    let later = acts && observed.failed;
    if later {
        plan.again_at(now + AGAIN);
    } else {
        round.expect(&manage);
    }
    let mut events = Vec::new();
    if finish.is_none() {
        finish = round.complete();
        if finish.is_none()
            && !job.is_terminating()
            && let Some((reason, message)) = round.suspension()
        {
            events.push((false, reason.to_owned(), message.to_owned()));
        }
    } else if later {
        // Not before its pods are gone.
        finish = None;
    }
    let (untracked, all) = round.track(finish.as_ref());
    let over = finish.as_ref().is_some_and(|f| round.end(f, all && untracked.is_empty()));
    if let Some(finish) = finish.as_ref().filter(|_| over) {
        let wanted = spec.completions.unwrap_or(i32::MAX);
        if !finish.fails && round.status.succeeded.unwrap_or(0) > wanted {
            let text = "Too many succeeded pods running after completion count reached";
            events.push((true, "TooManySucceededPods".into(), text.into()));
        }
        events.push(match finish.fails {
            true => (true, finish.reason.clone(), finish.message.clone()),
            false => (false, "Completed".into(), "Job completed".into()),
        });
    }

    if !later {
        manage::push(manage, ends, &round, &mut plan);
        round.push_status(&mut plan);
        push_untracked(&untracked, "its end is counted", &mut plan);
    } else {
        round.push_status(&mut plan);
        push_untracked(&untracked, "its end is counted", &mut plan);
        manage::push(manage, ends, &round, &mut plan);
    }
    for (warns, reason, message) in events {
        let why = reason.clone();
        plan.push(Action::Event { warns, reason, message, about: about() }, why);
    }
    plan
}

fn push_untracked(pods: &[&Arc<Pod>], why: &str, plan: &mut Plan<Action>) {
    let patches: Vec<_> = pods.iter().filter_map(|p| Some((p.key(), untrack(p)?))).collect();
    if !patches.is_empty() {
        plan.push(Action::Untrack(patches), format!("{} pods: {why}", pods.len()));
    }
}

/// The job's pods; `None` when some are to be adopted first, which then count as the others.
fn claim<'a>(observed: &Observed<'a>, spec: &JobSpec, plan: &mut Plan<Action>) -> Option<Vec<&'a Arc<Pod>>> {
    let selector = pods::matcher(spec.selector.as_ref()?)?;
    let me = pods::controller_reference(observed.job);
    let (mut mine, mut adopts) = (Vec::new(), false);
    for pod in observed.pods {
        let change = |add: bool| {
            let mut patch = pods::owners_patch(&**pod, &me, add);
            let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
            finalizers.retain(|f| f != FINALIZER);
            if add {
                finalizers.push(FINALIZER.into());
            }
            patch["metadata"]["finalizers"] = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
            patch
        };
        match pods::claim(observed.job, &selector, &**pod) {
            Claim::Mine => mine.push(pod),
            Claim::Adopt => {
                adopts = true;
                let why = format!("{} matches and has no owner", pod.name());
                plan.push(Action::Adopt { pod: pod.key(), patch: change(true) }, why);
            }
            Claim::Release => {
                let why = format!("{} does not match any more", pod.name());
                plan.push(Action::Release { pod: pod.key(), patch: change(false) }, why);
            }
            Claim::NotMine => {}
        }
    }
    (!adopts).then_some(mine)
}

struct Jobs {
    writes: PodWrites,
    jobs: Arc<Cache<Job>>,
    /// By the uids of unfinished jobs whose pods failed.
    backoffs: Arc<Mutex<HashMap<String, Backoff>>>,
    failures: Arc<Failures>,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let (jobs, pods, queue) = (context.informers.cache::<Job>(Selector::all()), context.pods(), context.queue());
    let (backoffs, failures): (Arc<Mutex<HashMap<String, Backoff>>>, Arc<Failures>) = Default::default();
    let (dirty, forget, forgive) = (Arc::clone(&queue), Arc::clone(&backoffs), Arc::clone(&failures));
    jobs.on_change(Box::new(move |old, new| {
        if let Some(old) = old
            && new.is_none_or(|n| n.uid() != old.uid() || finished(n).is_some())
        {
            forget.lock().remove(old.uid());
            forgive.clear(old.uid());
        }
        if let Some(job) = new {
            dirty.add(job.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&jobs));
    pods.on_change(Box::new(move |old, new| {
        let takers = |pod: &ObjectMeta| pods::selecting(&all, pod, |job: &Job| job.spec.as_ref()?.selector.as_ref());
        pods::wake(&dirty, "Job", old, new, &takers);
    }));
    let writes = PodWrites { client, pods, recorder };
    context.run(Jobs { writes, jobs, backoffs, failures }, queue, WORKERS);
}

impl Jobs {
    /// Remembers or forgets that pods could not be created or deleted.
    fn remember(&self, about: &ObjectReference, outcome: Result<Vec<Seen>>) -> Result<Vec<Seen>> {
        let uid = about.uid.as_deref().unwrap_or_default();
        match &outcome {
            Ok(_) => drop(self.failures.clear(uid)),
            Err(error) => self.failures.set(uid, Failure { reason: "FailedPods", message: error.to_string() }),
        }
        outcome
    }

    /// A job that is gone or going must not take pods; the cache may not know yet.
    async fn may_adopt(&self, key: &Key) -> Result<bool> {
        let live = self.writes.client.get::<Job>(&key.namespace, &key.name).await?;
        Ok(!live.is_terminating() && self.jobs.get(key).is_some_and(|j| j.uid() == live.uid()))
    }
}

/// Takes the finalizer off pods; one that is gone has none.
///
/// # Errors
/// One of the failures; the others were patched nevertheless.
async fn take_off(writes: &PodWrites, patches: &[(Key, Value)]) -> Result<Vec<Seen>> {
    let one = |(pod, patch)| async move {
        let (pod, patch): (&Key, &Value) = (pod, patch);
        match writes.client.patch::<Pod>(&pod.namespace, &pod.name, Patch::Json(patch)).await {
            Ok(pod) => Ok(Some(writes.reached(&pod))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    };
    let outcomes = join_all(patches.iter().map(|(pod, patch)| one((pod, patch)))).await;
    Ok(outcomes.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

impl Controller for Jobs {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(job) = self.jobs.get(key) else { return Plan::nothing() };
        let pods = self.writes.pods.in_namespace(&key.namespace);
        let backoff = self.backoffs.lock().get(job.uid()).copied().unwrap_or_default();
        let failed = self.failures.get(job.uid()).is_some();
        plan(&Observed { job: &job, pods: &pods, backoff, failed }, now)
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
            Action::Untrack(patches) => take_off(&self.writes, &patches).await,
            Action::Delete { pods, about } => self.remember(&about, self.writes.delete(&about, &pods).await),
            Action::Create { pod, slots, about } => {
                let each = |n: usize| manage::pod_of(&pod, &key.name, slots.get(n));
                self.remember(&about, self.writes.create(&about, slots.len(), &each).await)
            }
            Action::Status(job, backoff) => {
                let written = match self.writes.client.update_status(&*job).await {
                    Ok(written) => written,
                    Err(error) if error.is_not_found() => return Ok(vec![]),
                    Err(error) => return Err(error),
                };
                let mut backoffs = self.backoffs.lock();
                if backoff == Backoff::default() || finished(&written).is_some() {
                    backoffs.remove(job.uid());
                } else {
                    backoffs.insert(job.uid().to_owned(), backoff);
                }
                Ok(vec![Box::pin(self.jobs.reached(written.revision()))])
            }
            Action::Event { warns, reason, message, about } => {
                self.writes.recorder.about(*about, if warns { WARNING } else { NORMAL }, &reason, message);
                Ok(vec![])
            }
        }
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
