//! Jobs from their creation to their end, as kubectl would drive them.

use std::sync::Arc;

use client::{DeleteParams, Object as _, Patch, Propagation};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobStatus};
use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, json};

use crate::cluster::Cluster;

const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";

fn job(name: &str, image: &str, spec: Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}}}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

fn status(all: &[Arc<Job>], name: &str) -> Option<JobStatus> {
    all.iter().find(|j| j.name() == name)?.status.clone()
}

fn says(status: &JobStatus, condition: &str) -> Option<String> {
    let found = status.conditions.iter().flatten().find(|c| c.type_ == condition && c.status == "True")?;
    Some(found.reason.clone().unwrap_or_default())
}

/// Waits for the end of a job; its status then.
async fn over(cluster: &Cluster, name: &str, condition: &str, reason: &str) -> JobStatus {
    let mut found = None;
    cluster
        .until::<Job>(&format!("{name} is {condition}"), |all| {
            found = status(all, name).filter(|s| says(s, condition).as_deref() == Some(reason));
            found.is_some()
        })
        .await;
    found.unwrap()
}

fn pods_of(cluster: &Cluster, name: &str) -> Vec<Arc<Pod>> {
    let mut all = cluster.informers.cache::<Pod>(Default::default()).all();
    all.retain(|p| p.label("batch.kubernetes.io/job-name") == Some(name));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_and_end() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    cluster.node().await;
    cluster.namespace("shop").await;

    // kubectl create job
    cluster.post(JOBS, &job("pi", "succeeds", json!({"completions": 5, "parallelism": 2}))).await;
    let status_ = over(&cluster, "pi", "Complete", "CompletionsReached").await;
    assert_eq!((status_.succeeded, status_.failed, status_.active), (Some(5), None, None));
    assert!(status_.completion_time.is_some());
    cluster.until::<Pod>("none is held", |all| all.iter().all(|p| p.metadata.finalizers.is_none())).await;
    assert_eq!(pods_of(&cluster, "pi").len(), 5);

    let indexed = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    cluster.post(JOBS, &job("parts", "succeeds", indexed.clone())).await;
    let parts = over(&cluster, "parts", "Complete", "CompletionsReached").await;
    assert_eq!((parts.completed_indexes.as_deref(), parts.failed_indexes.as_deref()), (Some("0-3"), Some("")));
    cluster.post(JOBS, &job("lost", "fails", indexed)).await;
    let lost = over(&cluster, "lost", "Failed", "FailedIndexes").await;
    assert_eq!((lost.failed_indexes.as_deref(), lost.failed), (Some("0-3"), Some(4)));

    cluster.post(JOBS, &job("bad", "fails", json!({"backoffLimit": 0}))).await;
    let bad = over(&cluster, "bad", "Failed", "BackoffLimitExceeded").await;
    assert_eq!((bad.failed, says(&bad, "FailureTarget").as_deref()), (Some(1), Some("BackoffLimitExceeded")));
    let policy = json!({"podFailurePolicy": {"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]}});
    cluster.post(JOBS, &job("strict", "fails", policy)).await;
    over(&cluster, "strict", "Failed", "PodFailurePolicy").await;
    cluster.post(JOBS, &job("late", "runs", json!({"activeDeadlineSeconds": 1}))).await;
    over(&cluster, "late", "Failed", "DeadlineExceeded").await;

    // Suspended, resumed, scaled.
    cluster.post(JOBS, &job("later", "runs", json!({"suspend": true, "completions": 9, "parallelism": 2}))).await;
    over(&cluster, "later", "Suspended", "JobSuspended").await;
    let change = |spec: Value| json!({"spec": spec});
    let _: Job = admin.patch("shop", "later", Patch::Merge(&change(json!({"suspend": false})))).await.unwrap();
    let running = |n: i32| {
        move |all: &[Arc<Job>]| status(all, "later").is_some_and(|s| s.active == Some(n) && s.ready == Some(n))
    };
    cluster.until::<Job>("two run", running(2)).await;
    let _: Job = admin.patch("shop", "later", Patch::Merge(&change(json!({"parallelism": 3})))).await.unwrap();
    cluster.until::<Job>("three run", running(3)).await;
    // One that is deleted is replaced after a while, and counts as failed.
    let victim = pods_of(&cluster, "later")[0].clone();
    admin.delete::<Pod>("shop", victim.name(), &DeleteParams::uid(victim.uid())).await.unwrap();
    cluster.until::<Job>("one is lost", |all| status(all, "later").is_some_and(|s| s.failed == Some(1))).await;

    // kubectl delete
    for (name, propagation) in [("later", Propagation::Foreground), ("pi", Propagation::Background)] {
        let params = DeleteParams::default().propagation(propagation);
        admin.delete::<Job>("shop", name, &params).await.unwrap();
        let of = |p: &Arc<Pod>| p.label("batch.kubernetes.io/job-name") == Some(name);
        cluster.until::<Pod>("its pods are gone", |all| !all.iter().any(of)).await;
        cluster.until::<Job>("it is gone", |all| status(all, name).is_none()).await;
    }
    cluster.post(JOBS, &job("brief", "succeeds", json!({"ttlSecondsAfterFinished": 0}))).await;
    let brief =
        |e: &Arc<Event>| e.reason.as_deref() == Some("Completed") && e.involved_object.name.as_deref() == Some("brief");
    cluster.until::<Event>("the brief one is complete", |all| all.iter().any(brief)).await;
    cluster.until::<Job>("the brief one is gone", |all| all.iter().all(|j| j.name() != "brief")).await;

    // By the clock.
    let ticks = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@every 1s", "timeZone": "Europe/Berlin",
        "jobTemplate": {"spec": job("", "succeeds", json!({}))["spec"]}}});
    cluster.post("/apis/batch/v1/namespaces/shop/cronjobs", &ticks).await;
    let ran = |c: &Arc<CronJob>| {
        let status = c.status.clone().unwrap_or_default();
        status.last_schedule_time.is_some() && status.last_successful_time.is_some() && status.active.is_none()
    };
    cluster.until::<CronJob>("it has run", |all| all.iter().any(ran)).await;
    let _: CronJob = admin.patch("shop", "tick", Patch::Merge(&change(json!({"suspend": true})))).await.unwrap();
    for reason in ["SuccessfulCreate", "SawCompletedJob"] {
        let said = |e: &Arc<Event>| {
            e.reason.as_deref() == Some(reason) && e.involved_object.kind.as_deref() == Some("CronJob")
        };
        cluster.until::<Event>(reason, |all| all.iter().any(said)).await;
    }
    let params = DeleteParams::default().propagation(Propagation::Background);
    admin.delete::<CronJob>("shop", "tick", &params).await.unwrap();
    cluster.until::<Job>("its jobs are gone", |all| !all.iter().any(|j| j.name().starts_with("tick-"))).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
