//! Takes the tracking finalizer off pods that no job counts any more: those whose job is gone or over, and those that have
//! lost it.
//!
//! Source: kubernetes `pkg/controller/job/job_controller.go` (orphan pods).

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Key, Object, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::{NAME, WORKERS, finished, is_ours, is_tracked, take_off, untrack};
use crate::Context;
use crate::pod_writes::PodWrites;

/// Whether the job counts its pods, now or later, itself or by another controller.
fn counts(job: &Job) -> bool {
    finished(job).is_none() || !job.spec.as_ref().is_some_and(is_ours)
}

/// `job` is the one by which the pod is controlled, if it is there.
pub fn plan(pod: &Pod, job: Option<&Job>) -> Plan<Value> {
    let mut plan = Plan::nothing();
    let foreign = |o: &&_| {
        let o: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference = o;
        o.kind != "Job" || o.api_version != "batch/v1"
    };
    if pod.controller_owner().as_ref().is_some_and(foreign) || job.is_some_and(counts) {
        return plan;
    }
    if let Some(patch) = untrack(pod) {
        plan.push(patch, format!("no job counts {}", pod.name()));
    }
    plan
}

/// The job that controls the pod.
fn job_of(jobs: &Cache<Job>, pod: &Pod) -> Option<Arc<Job>> {
    let owner = pod.controller_owner()?;
    jobs.get(&Key::new(pod.namespace(), &owner.name)).filter(|j| j.uid() == owner.uid)
}

struct Orphans {
    writes: PodWrites,
    jobs: Arc<Cache<Job>>,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let (jobs, pods, queue) = (context.informers.cache::<Job>(Selector::all()), context.pods(), context.queue());
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&jobs));
    pods.on_change(Box::new(move |_, new| {
        let Some(pod) = new.filter(|p| is_tracked(p)) else { return };
        // A job that is not there yet is on its way, unless the pod goes.
        let orphan = pod.controller_owner().is_none();
        if orphan || (pod.is_terminating() && job_of(&all, pod).is_none_or(|j| !counts(&j))) {
            dirty.add(pod.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&pods));
    jobs.on_change(Box::new(move |old, new| {
        let Some(job) = old.or(new) else { return };
        if new.is_some_and(|n| n.uid() == job.uid() && counts(n)) {
            return;
        }
        for pod in all.in_namespace(job.namespace()) {
            if is_tracked(&pod) && pod.controller_owner().is_some_and(|o| o.uid == job.uid()) {
                dirty.add(pod.key());
            }
        }
    }));
    let recorder = client::Recorder::silent();
    context.run(Orphans { writes: PodWrites { client, pods, recorder }, jobs }, queue, WORKERS);
}

impl Controller for Orphans {
    type Action = Value;

    fn name(&self) -> &'static str {
        "job-orphans"
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Value> {
        let Some(pod) = self.writes.pods.get(key) else { return Plan::nothing() };
        plan(&pod, job_of(&self.jobs, &pod).as_deref())
    }

    async fn apply(&self, key: &Key, patch: Value) -> Result<Vec<Seen>> {
        // The cache of jobs may be behind that of pods.
        let owner = self.writes.pods.get(key).and_then(|p| p.controller_owner().cloned());
        if let Some(owner) = owner {
            match self.writes.client.get::<Job>(&key.namespace, &owner.name).await {
                Ok(live) if live.uid() == owner.uid && counts(&live) => return Ok(vec![]),
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        take_off(&self.writes, &[(key.clone(), patch)]).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whose_finalizer_goes() {
        let pod = |owner: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u", "ownerReferences": owner,
                "finalizers": ["example.com/hold", "batch.kubernetes.io/job-tracking"]}}))
            .unwrap()
        };
        let job = |managed_by: Value, condition: &str| -> Job {
            serde_json::from_value(json!({"metadata": {"uid": "j"}, "spec": {"managedBy": managed_by, "template": {}},
                "status": {"conditions": [{"type": condition, "status": "True"}]}}))
            .unwrap()
        };
        let of =
            |kind: &str| json!([{"apiVersion": "batch/v1", "kind": kind, "name": "j", "uid": "j", "controller": true}]);
        let (runs, over) = (job(Value::Null, "Suspended"), job(Value::Null, "Complete"));
        let theirs = job("example.com/queue".into(), "Complete");
        for (name, owner, job, goes) in [
            ("no owner", Value::Null, None, true),
            ("the job is gone", of("Job"), None, true),
            ("the job runs", of("Job"), Some(&runs), false),
            ("the job is over", of("Job"), Some(&over), true),
            ("another controller's job", of("Job"), Some(&theirs), false),
            ("not a job", of("Other"), None, false),
        ] {
            assert_eq!(!plan(&pod(owner), job).actions.is_empty(), goes, "{name}");
        }
        let patch = untrack(&pod(Value::Null)).unwrap();
        assert_eq!(patch[2], json!({"op": "remove", "path": "/metadata/finalizers/1"}));
        assert_eq!(untrack(&Pod::default()), None);
    }
}
