//! TTL controller. Deletes jobs that ended `ttlSecondsAfterFinished` ago, and their pods with them.
//!
//! Source: kubernetes `pkg/controller/ttlafterfinished/ttlafterfinished_controller.go`.

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, DeleteParams, Key, Object, Propagation, Result, Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use super::job::finished;
use crate::Context;

const NAME: &str = "ttl-after-finished-controller";
/// Jobs worked on at once; upstream's `--concurrent-ttl-after-finished-syncs`.
const WORKERS: usize = 5;

/// When the job is to go; `None`: not by its age.
fn expires(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished.filter(|_| !job.is_terminating())?;
    let ended = finished(job)?.last_transition_time.as_ref()?.0;
    ended.checked_add(SignedDuration::from_secs(seconds.into())).ok()
}

/// The deletion of this very version: what changes meanwhile may be the time itself.
pub fn plan(job: &Job, now: Timestamp) -> Plan<DeleteParams> {
    let mut plan = Plan::nothing();
    match expires(job) {
        Some(at) if at <= now => {
            let params = DeleteParams::uid(job.uid()).propagation(Propagation::Foreground);
            let resource_version = job.metadata.resource_version.clone();
            plan.push(DeleteParams { resource_version, ..params }, format!("{} ended long enough ago", job.name()));
        }
        Some(at) => plan.again_at(at),
        None => {}
    }
    plan
}

struct Ended {
    client: Client,
    jobs: Arc<Cache<Job>>,
}

pub fn start(context: &Context) {
    let (client, queue) = (context.client(NAME), context.queue());
    let jobs = context.informers.cache::<Job>(Selector::all());
    let dirty = Arc::clone(&queue);
    jobs.on_change(Box::new(move |_, new| {
        if let Some(job) = new.filter(|j| expires(j).is_some()) {
            dirty.add(job.key());
        }
    }));
    context.run(Ended { client, jobs }, queue, WORKERS);
}

impl Controller for Ended {
    type Action = DeleteParams;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<DeleteParams> {
        self.jobs.get(key).map(|job| plan(&job, now)).unwrap_or_default()
    }

    async fn apply(&self, key: &Key, params: DeleteParams) -> Result<Vec<Seen>> {
        match self.client.delete::<Job>(&key.namespace, &key.name, &params).await {
            Ok(_) => Ok(vec![Box::pin(self.jobs.going(key, params.uid.as_deref().unwrap_or_default()))]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::harness::{Cluster, Kubelet};

    fn job(change: impl FnOnce(&mut Value)) -> Value {
        let mut job = json!({"metadata": {"name": "j", "namespace": "shop", "uid": "u", "resourceVersion": "3"},
            "spec": {"ttlSecondsAfterFinished": 60, "template": {}},
            "status": {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        change(&mut job);
        job
    }

    #[test]
    fn when_jobs_go() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |seconds| start + SignedDuration::from_secs(seconds);
        type Change = fn(&mut Value);
        let rows: &[(&str, Change, i64, Option<i64>, usize)] = &[
            ("later", |_| (), 10, Some(60), 0),
            ("now", |_| (), 60, None, 1),
            ("failed ones too", |j| j["status"]["conditions"][0]["type"] = "Failed".into(), 61, None, 1),
            ("at once", |j| j["spec"]["ttlSecondsAfterFinished"] = 0.into(), 0, None, 1),
            ("never", |j| j["spec"]["ttlSecondsAfterFinished"] = Value::Null, 900, None, 0),
            ("it runs", |j| j["status"]["conditions"] = json!([]), 900, None, 0),
            (
                "it is being deleted",
                |j| j["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:01Z".into(),
                900,
                None,
                0,
            ),
            ("it ended in the future", |_| (), -900, Some(60), 0),
        ];
        for (name, change, now, again, deletes) in rows {
            let plan = plan(&serde_json::from_value(job(change)).unwrap(), at(*now));
            assert_eq!((plan.again, plan.actions.len()), (again.map(at), *deletes), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_job_goes() {
        let c = Cluster::start(Kubelet::Absent).await;
        // The harness lives in 2023: what ended in 2026 stays.
        c.create::<Job>(job(|j| j["metadata"]["name"] = "young".into())).await;
        let old = "2023-11-14T22:13:00Z";
        c.create::<Job>(job(|j| j["status"]["conditions"][0]["lastTransitionTime"] = old.into())).await;
        // In the foreground: it waits for its pods.
        c.until::<Job>("the old one goes", |all| {
            all.iter().any(|j| j.name() == "j" && j.is_terminating()) || all.len() == 1
        })
        .await;
        assert!(c.client.get::<Job>("shop", "young").await.is_ok_and(|j| !j.is_terminating()));
        c.stop().await;
    }
}
