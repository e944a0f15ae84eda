//! One look at a job and its pods: what has ended, what that makes of the job, and its next status.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use client::Object;
use client::runner::Plan;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::{Backoff, ended_at};
use super::indexes::Indexes;
use super::manage::Manage;
use super::policy::{self, Verdict};
use super::{Action, Finish, condition, ensure, is_tracked};
use crate::pods;

/// Which of its indexes a pod is for; also the label's name.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often pods of its index failed before it, and how many of those failures did not count.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Pods listed in a status that wait to be counted, so that the list stays below some 20 KB. Upstream's `MaxUncountedPods`.
const UNCOUNTED_MAX: usize = 500;

pub struct Round<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    pub now: Timestamp,
    /// Its pods, in the order of their indexes.
    pub pods: Vec<&'a Arc<Pod>>,
    pub active: Vec<&'a Arc<Pod>>,
    /// The next status.
    pub status: JobStatus,
    /// Ended pods that the status lists and does not count yet, by uid.
    uncounted_succeeded: Vec<String>,
    uncounted_failed: Vec<String>,
    /// All that ended, counted or not.
    pub succeeded: i32,
    failed: i32,
    /// Indexes that the status knows as succeeded, and these with those that have since.
    before: Indexes,
    pub done: Indexes,
    /// Indexes that will not be tried again; `None` when failures are not counted by index.
    pub lost: Option<Indexes>,
    /// The last failed pod of each index that has none now: it stays until another follows it, which takes over its counts.
    pub delayed: BTreeMap<i32, &'a Arc<Pod>>,
    pub backoff: Backoff,
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub fn by_index(spec: &JobSpec) -> bool {
    spec.backoff_limit_per_index.is_some()
}

pub fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

/// Whether a pod is replaced only when it has ended, and not already when it is being deleted.
pub fn replaces_failed_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// The index that the pod says it is for.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotation(INDEX)?.parse().ok().filter(|i| *i >= 0)
}

pub fn count_of(pod: &Pod, annotation: &str) -> i32 {
    pod.annotation(annotation).and_then(|n| n.parse().ok()).filter(|n| *n >= 0).unwrap_or(0)
}

fn is_terminating(pod: &Pod) -> bool {
    pod.is_terminating() && !pods::is_finished(pod)
}

/// Pods that are being deleted count as failed, as those without a node never get to say so.
fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (!replaces_failed_only(spec) && pod.is_terminating() && phase != "Succeeded")
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// As the wire has it, so that it can be compared with what is stored.
fn normal(status: &JobStatus) -> JobStatus {
    let some = |n: Option<i32>| n.filter(|n| *n != 0);
    let list = |l: &Option<Vec<String>>| l.clone().filter(|l| !l.is_empty());
    JobStatus {
        active: some(status.active),
        succeeded: some(status.succeeded),
        failed: some(status.failed),
        completed_indexes: status.completed_indexes.clone().filter(|i| !i.is_empty()),
        conditions: status.conditions.clone().filter(|c| !c.is_empty()),
        uncounted_terminated_pods: status
            .uncounted_terminated_pods
            .as_ref()
            .map(|u| UncountedTerminatedPods { succeeded: list(&u.succeeded), failed: list(&u.failed) }),
        ..status.clone()
    }
}

impl<'a> Round<'a> {
    pub fn new(job: &'a Job, spec: &'a JobSpec, mut pods: Vec<&'a Arc<Pod>>, known: Backoff, now: Timestamp) -> Self {
        pods.sort_by_key(|p| index_of(p));
        let mut status = job.status.clone().unwrap_or_default();
        if status.start_time.is_none() && !is_suspended(spec) {
            status.start_time = Some(Time(pods::whole_second(now)));
        }
        let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let tracked: HashSet<&str> = pods.iter().filter(|p| is_tracked(p)).map(|p| p.uid()).collect();
        // Those without the finalizer are counted now.
        let counted = |list: Option<Vec<String>>, counter: &mut Option<i32>| {
            let mut list = list.unwrap_or_default();
            let before = list.len();
            list.retain(|uid| tracked.contains(uid.as_str()));
            *counter = Some(counter.unwrap_or(0).saturating_add(count(before - list.len())));
            list
        };
        let uncounted_succeeded = counted(uncounted.succeeded, &mut status.succeeded);
        let uncounted_failed = counted(uncounted.failed, &mut status.failed);
        let active: Vec<_> = pods.iter().filter(|p| pods::is_active(p)).copied().collect();
        status.active = Some(count(active.len()));
        status.ready = Some(count(active.iter().filter(|p| pods::is_ready(p)).count()));
        status.terminating = Some(count(pods.iter().filter(|p| is_terminating(p)).count()));
        let mut round = Round {
            job,
            spec,
            now,
            pods,
            active,
            status,
            uncounted_succeeded,
            uncounted_failed,
            succeeded: 0,
            failed: 0,
            before: Indexes::default(),
            done: Indexes::default(),
            lost: None,
            delayed: BTreeMap::new(),
            backoff: known,
        };
        round.count(known);
        if is_indexed(spec) {
            round.index();
        }
        round
    }

    /// The pods whose end is to be counted, as far as they belong to an index that the job has.
    fn uncounted(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().copied().filter(|p| is_tracked(p) && (!is_indexed(self.spec) || self.index_in(p).is_some()))
    }

    fn index_in(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|i| *i < self.spec.completions.unwrap_or(0))
    }

    fn verdict(&self, pod: &Pod) -> Verdict {
        policy::verdict(self.spec.pod_failure_policy.as_ref(), pod)
    }

    fn count(&mut self, known: Backoff) {
        let listed: HashSet<&str> =
            self.uncounted_succeeded.iter().chain(&self.uncounted_failed).map(String::as_str).collect();
        let fresh: Vec<&Pod> = self.uncounted().filter(|p| !listed.contains(p.uid())).map(|p| &**p).collect();
        let succeeded: Vec<&Pod> = fresh.iter().copied().filter(|p| pods::phase(p) == "Succeeded").collect();
        let failed: Vec<&Pod> = fresh.into_iter().filter(|p| is_failed(p, self.spec)).collect();
        let counting = failed.iter().filter(|p| self.verdict(p).counts()).count();
        let sum = |of: Option<i32>, listed: &[String], fresh: usize| {
            of.unwrap_or(0).saturating_add(count(listed.len() + fresh))
        };
        let totals = (
            sum(self.status.succeeded, &self.uncounted_succeeded, succeeded.len()),
            sum(self.status.failed, &self.uncounted_failed, counting),
        );
        self.backoff = known.after(&succeeded, &failed);
        (self.succeeded, self.failed) = totals;
    }

    fn index(&mut self) {
        let completions = self.spec.completions.unwrap_or(0);
        self.before = Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or_default(), completions);
        // An index is one or the other, whatever its pods do later.
        let known = Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or_default(), completions);
        let succeeded = self.uncounted().filter(|p| pods::phase(p) == "Succeeded").filter_map(|p| index_of(p));
        self.done = self.before.with(&succeeded.filter(|i| !known.has(*i)).collect());
        self.succeeded = self.done.total();
        if !by_index(self.spec) {
            return;
        }
        let failed = self.uncounted().filter(|p| self.fails_its_index(p)).filter_map(|p| index_of(p));
        let lost = known.with(&failed.filter(|i| !self.done.has(*i)).collect());
        let active: BTreeSet<i32> = self.active.iter().filter_map(|p| index_of(p)).collect();
        let mut delayed: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        for pod in self.uncounted().filter(|p| is_failed(p, self.spec)) {
            let Some(index) = index_of(pod).filter(|i| !self.done.has(*i) && !lost.has(*i) && !active.contains(i))
            else {
                continue;
            };
            let rank = |p: &Pod| (count_of(p, FAILURES).saturating_add(count_of(p, IGNORED)), ended_at(p));
            let (new, known) = (rank(pod), delayed.get(&index).map(|p| rank(p)));
            if known.is_none_or(|known| known.0 <= new.0 && known.1 <= new.1) {
                delayed.insert(index, pod);
            }
        }
        (self.lost, self.delayed) = (Some(lost), delayed);
    }

    fn fails_its_index(&self, pod: &Pod) -> bool {
        if !is_failed(pod, self.spec) {
            return false;
        }
        match self.verdict(pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => {
                count_of(pod, FAILURES) >= self.spec.backoff_limit_per_index.unwrap_or(i32::MAX)
            }
        }
    }

    fn said(&self, condition: &str) -> Option<&JobCondition> {
        let mut all = self.status.conditions.iter().flatten();
        all.find(|c| c.type_ == condition && c.status == "True")
    }

    /// Whether the job is to end now, other than by its completions. What was announced before stays.
    pub fn finish(&self, plan: &mut Plan<Action>) -> Option<Finish> {
        for fails in [false, true] {
            if let Some(said) = self.said(if fails { "FailureTarget" } else { "SuccessCriteriaMet" }) {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                return Some(Finish {
                    fails,
                    announced: true,
                    reason: text(&said.reason),
                    message: text(&said.message),
                });
            }
        }
        let failed = self.pods.iter().filter(|p| is_failed(p, self.spec));
        let verdict = failed.map(|p| self.verdict(p)).find(|v| matches!(v, Verdict::FailJob(_)));
        if let Some(Verdict::FailJob(message)) = verdict {
            return Some(Finish::fails("PodFailurePolicy", message));
        }
        if self.failed > self.spec.backoff_limit.unwrap_or(i32::MAX) || self.restarted_too_often() {
            return Some(Finish::fails("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if let Some(at) = self.deadline() {
            if at <= self.now {
                return Some(Finish::fails("DeadlineExceeded", "Job was active longer than specified deadline"));
            }
            plan.again_at(at);
        }
        let completions = self.spec.completions.unwrap_or(0);
        if let Some(lost) = self.lost.as_ref().map(Indexes::total) {
            if self.spec.max_failed_indexes.is_some_and(|max| lost > max) {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return Some(Finish::fails("MaxFailedIndexesExceeded", text));
            }
            if lost > 0 && lost + self.done.total() >= completions {
                return Some(Finish::fails("FailedIndexes", "Job has failed indexes"));
            }
        }
        policy::success(self.spec.success_policy.as_ref(), completions, &self.done)
            .map(|message| Finish::succeeds("SuccessPolicy", message))
    }

    /// Containers that restart in place count by their restarts.
    fn restarted_too_often(&self) -> bool {
        let spec = self.spec.template.spec.as_ref();
        if spec.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let statuses = self.pods.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
        let statuses = statuses.filter_map(|p| p.status.as_ref());
        let containers = statuses
            .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
        let restarts = containers.fold(0i32, |sum, c| sum.saturating_add(c.restart_count));
        match self.spec.backoff_limit.unwrap_or(i32::MAX) {
            0 => restarts > 0,
            limit => restarts >= limit,
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| !is_suspended(self.spec))?;
        let start = self.status.start_time.as_ref()?.0;
        start.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// Counts as done what the plan does first.
    pub fn expect(&mut self, manage: &Manage<'_>) {
        let status = &mut self.status;
        let add = |counter: &mut Option<i32>, n: i32| *counter = Some((counter.unwrap_or(0) + n).max(0));
        match manage {
            Manage::Delete(pods) => {
                add(&mut status.active, -count(pods.len()));
                add(&mut status.terminating, count(pods.len()));
                add(&mut status.ready, -count(pods.iter().filter(|p| pods::is_ready(p)).count()));
            }
            Manage::Create(slots) => add(&mut status.active, count(slots.len())),
            Manage::Nothing | Manage::Wait(_) => {}
        }
    }

    /// The job has what it wants: so many completions, or without a number a first one and no pod that still runs.
    pub fn complete(&self) -> Option<Finish> {
        let enough = self.spec.completions.map_or(self.succeeded > 0, |wanted| self.succeeded >= wanted);
        (enough && self.status.active == Some(0))
            .then(|| Finish::succeeds("CompletionsReached", "Reached expected number of succeeded pods"))
    }

    /// Says when the job was suspended or resumed just now; its time runs anew then.
    pub fn suspension(&mut self) -> Option<(&'static str, &'static str)> {
        let (status, now) = (&mut self.status, self.now);
        if is_suspended(self.spec) {
            let said = condition("Suspended", "True", "JobSuspended", "Job suspended", now);
            ensure(&mut status.conditions, said).then(|| {
                status.start_time = None;
                ("Suspended", "Job suspended")
            })
        } else {
            let said = condition("Suspended", "False", "JobResumed", "Job resumed", now);
            ensure(&mut status.conditions, said).then(|| {
                status.start_time = Some(Time(pods::whole_second(now)));
                ("Resumed", "Job resumed")
            })
        }
    }

    /// Lists the pods that ended, as many as the status may hold. Returns those whose finalizer can be taken off once the
    /// status is written, and whether that is all.
    pub fn track(&mut self, finish: Option<&Finish>) -> (Vec<&'a Arc<Pod>>, bool) {
        let (mut untracked, mut all, mut indexes) = (Vec::new(), true, BTreeSet::new());
        let failed: HashSet<String> = self.uncounted_failed.iter().cloned().collect();
        let succeeded: HashSet<String> = self.uncounted_succeeded.iter().cloned().collect();
        for pod in self.pods.iter().copied().filter(|p| is_tracked(p)) {
            if !self.may_untrack(pod, finish) {
                continue;
            }
            untracked.push(pod);
            let (index, is_indexed) = (self.index_in(pod), is_indexed(self.spec));
            if pods::phase(pod) == "Succeeded" && !failed.contains(pod.uid()) {
                if is_indexed {
                    indexes.extend(index.filter(|i| !self.before.has(*i)));
                } else if !succeeded.contains(pod.uid()) {
                    self.uncounted_succeeded.push(pod.uid().to_owned());
                }
            } else if (is_failed(pod, self.spec) || finish.is_some_and(|f| f.fails))
                && !failed.contains(pod.uid())
                && (!is_indexed || index.is_some())
                && self.verdict(pod).counts()
            {
                self.uncounted_failed.push(pod.uid().to_owned());
            }
            if indexes.len() + self.uncounted_succeeded.len() + self.uncounted_failed.len() >= UNCOUNTED_MAX {
                all = false;
                break;
            }
        }
        if is_indexed(self.spec) {
            self.status.succeeded = Some(self.done.total());
            self.status.completed_indexes = Some(self.done.to_string());
            self.status.failed_indexes = self.lost.as_ref().map(ToString::to_string);
        }
        (untracked, all)
    }

    fn may_untrack(&self, pod: &Pod, finish: Option<&Finish>) -> bool {
        if self.job.is_terminating() || finish.is_some() || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let delayed = index_of(pod).and_then(|i| self.delayed.get(&i)).is_some_and(|p| p.uid() == pod.uid());
        is_failed(pod, self.spec) && !delayed
    }

    /// Announces the end; and it is the end when `counted` and nothing is left of the pods. Returns whether it is.
    pub fn end(&mut self, finish: &Finish, counted: bool) -> bool {
        let (end, announcement) = finish.conditions();
        let (reason, message) = (&finish.reason, &finish.message);
        if !finish.announced {
            let said = condition(announcement, "True", reason, message, self.now);
            self.status.conditions.get_or_insert_default().push(said);
        }
        let listed = self.uncounted_succeeded.len() + self.uncounted_failed.len();
        if !counted || listed > 0 || self.status.terminating.unwrap_or(0) > 0 {
            return false;
        }
        ensure(&mut self.status.conditions, condition(end, "True", reason, message, self.now));
        if !finish.fails {
            self.status.completion_time = Some(Time(pods::whole_second(self.now)));
        }
        true
    }

    pub fn push_status(&self, plan: &mut Plan<Action>) {
        let list = |l: &[String]| Some(l.to_vec()).filter(|l| !l.is_empty());
        let status = JobStatus {
            uncounted_terminated_pods: Some(UncountedTerminatedPods {
                succeeded: list(&self.uncounted_succeeded),
                failed: list(&self.uncounted_failed),
            }),
            ..self.status.clone()
        };
        let status = normal(&status);
        if self.job.status.as_ref().map(normal).as_ref() != Some(&status) {
            let job = Job { status: Some(status), ..self.job.clone() };
            plan.push(Action::Status(Box::new(job), self.backoff), "status changed");
        }
    }
}
