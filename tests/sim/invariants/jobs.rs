//! Jobs count exactly: each pod that ended is counted once, however often the controller is interrupted, and no pod is let go
//! before it is.
//!
//! Source: KEP-2307 "Job tracking without lingering pods"; batch/v1 `UncountedTerminatedPods`, `JobSpec.parallelism`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{
    Change, Objects, count, has, is_active, is_finished, is_going, list, name, number, owner_uid, text, uid,
};

const TRACKED: &str = "batch.kubernetes.io/job-tracking";

/// What is known of a Job.
#[derive(Debug, Default)]
struct Known {
    /// Pods that ended so.
    ended: [BTreeSet<String>; 2],
    /// Pods that the status has ever named as counted so.
    counted: [BTreeSet<String>; 2],
}

#[derive(Debug)]
pub struct Jobs {
    jobs: BTreeMap<String, Known>,
    /// Jobs that somebody changed, or for which a create was not answered.
    recent: Recent,
}

const OUTCOMES: [(&str, &str); 2] = [("succeeded", "Succeeded"), ("failed", "Failed")];

impl Jobs {
    pub fn new(lag: SignedDuration) -> Self {
        Self { jobs: BTreeMap::new(), recent: Recent::new(lag) }
    }

    fn job(&mut self, change: &Change) -> Result<(), String> {
        let Some(job) = &change.new else { return Ok(()) };
        if &*change.by.name != "job-controller" {
            self.recent.mark(uid(job), change.at);
        }
        let known = self.jobs.entry(uid(job).to_owned()).or_default();
        let indexed = text(job, "/spec/completionMode") == "Indexed";
        for (n, (field, _)) in OUTCOMES.iter().enumerate() {
            let uncounted: BTreeSet<String> = list(job, &format!("/status/uncountedTerminatedPods/{field}"))
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            known.counted[n].extend(uncounted.iter().cloned());
            // With the Job itself fails what still runs.
            let fails = *field == "failed" && (has(job, "FailureTarget") || has(job, "Failed"));
            let strange = known.counted[n].iter().find(|pod| !known.ended[n].contains(*pod));
            if let Some(strange) = strange.filter(|_| !fails) {
                return Err(format!("{} counts {strange} as {field}, which it is not", change.name));
            }
            let (said, counted) = (count(job, &format!("/status/{field}")), known.counted[n].len() - uncounted.len());
            // Of one index only one success counts.
            if said != counted as i64 && !(indexed && *field == "succeeded") {
                return Err(format!("{} says {said} {field}, {counted} were counted", change.name));
            }
        }
        if known.counted[0].intersection(&known.counted[1]).next().is_some() {
            return Err(format!("{} counts a pod twice", change.name));
        }
        for condition in ["Complete", "Failed"] {
            if change.ceases(|job| has(job, condition)) {
                return Err(format!("{} is not {condition} any more", change.name));
            }
        }
        if change.becomes(|job| has(job, "Complete"))
            && let Some(wanted) = number(job, "/spec/completions")
            && count(job, "/status/succeeded") != wanted
        {
            return Err(format!("{} is complete with {} of {wanted}", change.name, count(job, "/status/succeeded")));
        }
        Ok(())
    }

    fn pod(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let pod = change.object();
        let owner = owner_uid(change.old.as_deref().unwrap_or(pod)).to_owned();
        let job = objects.all("jobs.batch").find(|job| uid(job) == owner && !owner.is_empty());
        let Some(job) = job else { return Ok(()) };
        let known = self.jobs.entry(owner).or_default();
        let phase = text(pod, "/status/phase");
        if phase == OUTCOMES[0].1 {
            known.ended[0].insert(uid(pod).to_owned());
        } else if phase == OUTCOMES[1].1 || is_going(pod) {
            // One that is sent away before it ended has failed.
            known.ended[1].insert(uid(pod).to_owned());
        }
        let tracked = |pod: &Value| list(pod, "/metadata/finalizers").any(|f| f == TRACKED);
        if change.old.is_none() {
            return self.created(objects, job, change);
        }
        let counted = known.counted.iter().any(|counted| counted.contains(uid(pod)));
        let indexed = text(job, "/spec/completionMode") == "Indexed";
        // What still runs when it is not wanted any more (the Job has succeeded, is suspended, or is to be smaller) counts as nothing.
        if change.ceases(tracked) && is_finished(pod) && !counted && !indexed && !is_going(job) {
            return Err(format!("{} lets {} go, which it has not counted", name(job), change.name));
        }
        Ok(())
    }

    fn created(&mut self, objects: &Objects, job: &Value, change: &Change) -> Result<(), String> {
        if change.by.unanswered {
            self.recent.mark(uid(job), change.at);
        }
        if has(job, "Complete") || has(job, "Failed") {
            return Err(format!("{} makes {} after its end", name(job), change.name));
        }
        let active = objects.owned("pods", job).filter(|pod| is_active(pod)).count() as i64;
        let parallel = number(job, "/spec/parallelism").unwrap_or(1);
        if active > parallel && !self.recent.has(uid(job), change.at) {
            return Err(format!("{} has {active} pods with {}, {parallel} at a time", name(job), change.name));
        }
        Ok(())
    }
}

impl Invariant for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        match change.resource.as_str() {
            "jobs.batch" => self.job(change),
            "pods" => self.pod(objects, change),
            _ => Ok(()),
        }
    }

    fn settled(&self, objects: &Objects) -> Result<(), String> {
        match objects.all("jobs.batch").find(|job| !has(job, "Complete") && !has(job, "Failed")) {
            Some(job) => Err(format!("{} has not ended: {}", name(job), job["status"])),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object, phase, pod_of};
    use super::*;

    fn job(status: Value) -> Value {
        object("sum", json!({"spec": {"completions": 2, "parallelism": 1}, "status": status}))
    }

    fn tracked(name: &str) -> Value {
        let mut pod = pod_of(&job(json!({})), name);
        pod["metadata"]["finalizers"] = json!([TRACKED]);
        pod
    }

    fn begin() -> History<Jobs> {
        let mut history = History::of(Jobs::new(SignedDuration::from_secs(10)));
        history.write("user", "jobs.batch", &job(json!({})));
        history.later(60);
        history.write("job-controller", "pods", &tracked("a"));
        history.holds();
        history
    }

    const BY: &str = "job-controller";

    #[test]
    fn one_pod_counts_once() {
        let mut history = begin();
        history.write("kubelet/n1", "pods", &phase(tracked("a"), "Succeeded"));
        history.write(BY, "jobs.batch", &job(json!({"uncountedTerminatedPods": {"succeeded": ["a-uid"]}})));
        history.write(BY, "pods", &phase(pod_of(&job(json!({})), "a"), "Succeeded"));
        history.write(BY, "jobs.batch", &job(json!({"succeeded": 1})));
        history.holds();
        history.write(BY, "jobs.batch", &job(json!({"succeeded": 2})));
        history.breaks("sum says 2 succeeded, 1 were counted");
        let complete = json!([{"type": "Complete", "status": "True"}]);
        history.write(BY, "jobs.batch", &job(json!({"succeeded": 1, "conditions": complete})));
        history.breaks("sum is complete with 1 of 2");
        history.write(BY, "pods", &tracked("late"));
        history.breaks("sum makes late after its end");
        history.write(BY, "jobs.batch", &job(json!({"succeeded": 1})));
        history.breaks("sum is not Complete any more");
    }

    #[test]
    fn what_is_counted_has_ended_and_what_is_let_go_has_been_counted() {
        let mut history = begin();
        history.write(BY, "jobs.batch", &job(json!({"uncountedTerminatedPods": {"failed": ["a-uid"]}})));
        history.breaks("sum counts a-uid as failed, which it is not");
        let mut history = begin();
        history.write("kubelet/n1", "pods", &phase(tracked("a"), "Succeeded"));
        history.write(BY, "pods", &phase(pod_of(&job(json!({})), "a"), "Succeeded"));
        history.breaks("sum lets a go, which it has not counted");
    }

    #[test]
    fn too_many_at_a_time_are_told() {
        let mut history = begin();
        history.write(BY, "pods", &tracked("b"));
        history.breaks("sum has 2 pods with b, 1 at a time");
        assert!(history.settled().is_err());
    }
}
