//! Tests of the Job controller: plans as tables, counting as a property, convergence over the in-memory API.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

#[path = "job_tests/model.rs"]
mod model;

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn job() -> Value {
    json!({
        "metadata": {"name": "j", "namespace": "shop", "uid": "job", "generation": 1},
        "spec": {"completions": 3, "parallelism": 2, "backoffLimit": 6, "completionMode": "NonIndexed",
            "podReplacementPolicy": "TerminatingOrFailed", "selector": {"matchLabels": {"j": "j"}},
            "template": {"metadata": {"labels": {"j": "j"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
    })
}

fn indexed() -> Value {
    let mut job = job();
    job["spec"]["completionMode"] = "Indexed".into();
    job
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"j": "j"}, "resourceVersion": "1",
            "finalizers": [FINALIZER], "annotations": {},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "job", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ago(60)}]},
    })
}

fn ago(seconds: i64) -> Value {
    types::time::rfc3339(now() - SignedDuration::from_secs(seconds)).into()
}

fn ended(name: &str, phase: &str, seconds_ago: i64) -> Value {
    let mut pod = pod(name);
    pod["status"] = json!({"phase": phase, "conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": ago(seconds_ago)}]});
    pod
}

fn for_index(mut pod: Value, index: i32) -> Value {
    pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = index.to_string().into();
    pod
}

fn read(pods: &[Value]) -> Vec<Arc<Pod>> {
    pods.iter().map(|p| Arc::new(serde_json::from_value(p.clone()).unwrap())).collect()
}

fn check(job: &Value, pods: &[Value], failed: bool) -> Plan<Action> {
    let job: Job = serde_json::from_value(job.clone()).unwrap();
    plan(&Observed { job: &job, pods: &read(pods), backoff: Backoff::default(), failed }, now())
}

/// The job with the status that its plan asks for.
fn settled(mut job: Value, pods: &[Value]) -> Value {
    for action in check(&job, pods, false).actions {
        if let Action::Status(new, _) = action {
            job = serde_json::to_value(*new).unwrap();
        }
    }
    job
}

fn names<'a>(names: impl Iterator<Item = &'a Key>) -> String {
    names.map(|k| k.name.to_string()).collect::<Vec<_>>().join(" ")
}

fn summary(plan: &Plan<Action>) -> Vec<String> {
    let one = |a: &Action| match a {
        Action::Adopt { pod, .. } => format!("adopt {}", pod.name),
        Action::Release { pod, .. } => format!("release {}", pod.name),
        Action::Untrack(pods) => format!("untrack {}", names(pods.iter().map(|(k, _)| k))),
        Action::Delete { pods, .. } => format!("delete {}", names(pods.iter().map(|(k, _)| k))),
        Action::Create { slots, .. } => {
            let indexes: Vec<_> = slots.iter().filter_map(|s| s.index).map(|i| i.to_string()).collect();
            format!("create {} {}", slots.len(), indexes.join(",")).trim().to_owned()
        }
        Action::Status(job, _) => {
            let s = job.status.clone().unwrap();
            let n = |n: Option<i32>| n.unwrap_or(0);
            let listed = s.uncounted_terminated_pods.unwrap_or_default();
            let uids = |l: Option<Vec<String>>| l.unwrap_or_default().join(" ");
            let true_ = s.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.type_.as_str());
            let mut text =
                format!("status {}a {}t {}s {}f", n(s.active), n(s.terminating), n(s.succeeded), n(s.failed));
            for (what, shown) in [
                (" +s ", uids(listed.succeeded)),
                (" +f ", uids(listed.failed)),
                (" done ", s.completed_indexes.unwrap_or_default()),
                (" lost ", s.failed_indexes.unwrap_or_default()),
                (" ", true_.collect::<Vec<_>>().join(",")),
            ] {
                if !shown.is_empty() {
                    text = text + what + &shown;
                }
            }
            text
        }
        Action::Event { reason, message, .. } => format!("{reason}: {message}"),
    };
    plan.actions.iter().map(one).collect()
}

type Change = fn(&mut Value, &mut Vec<Value>);

/// From a job that is well and two pods that run.
fn rows(base: Value, pods: fn() -> Vec<Value>, rows: &[(&str, Change, &[&str])]) {
    for (name, change, expected) in rows {
        let (mut job, mut pods) = (settled(base.clone(), &pods()), pods());
        change(&mut job, &mut pods);
        assert_eq!(summary(&check(&job, &pods, false)), *expected, "{name}");
    }
}

#[test]
fn plans() {
    rows(
        job(),
        || vec![pod("a"), pod("b")],
        &[
            ("all well", |_, _| (), &[]),
            (
                "begun",
                |j, p| {
                    j["status"] = Value::Null;
                    p.clear();
                },
                &["create 2", "status 2a 0t 0s 0f"],
            ),
            (
                "another's job",
                |j, p| {
                    j["spec"]["managedBy"] = "example.com/queue".into();
                    p.clear();
                },
                &[],
            ),
            (
                "one has succeeded",
                |_, p| p[0] = ended("a", "Succeeded", 1),
                &["create 1", "status 2a 0t 0s 0f +s a", "untrack a"],
            ),
            (
                "it was listed",
                |j, p| {
                    j["status"]["uncountedTerminatedPods"] = json!({"succeeded": ["a"]});
                    p[0] = ended("a", "Succeeded", 1);
                    p.push(pod("c"));
                },
                &["untrack a"],
            ),
            (
                "it is counted",
                |j, p| {
                    j["status"]["uncountedTerminatedPods"] = json!({"succeeded": ["a"]});
                    p[0] = ended("a", "Succeeded", 1);
                    p[0]["metadata"]["finalizers"] = json!([]);
                    p.push(pod("c"));
                },
                &["status 2a 0t 1s 0f"],
            ),
            (
                "no more are begun than are wanted",
                |j, p| {
                    j["status"]["succeeded"] = 2.into();
                    p[0]["metadata"]["finalizers"] = json!([]);
                    p[0]["status"]["phase"] = "Succeeded".into();
                },
                &["status 1a 0t 2s 0f"],
            ),
            (
                "enough have succeeded",
                |j, p| {
                    j["status"]["succeeded"] = 2.into();
                    *p = vec![ended("a", "Succeeded", 1)];
                },
                &["status 0a 0t 2s 0f +s a SuccessCriteriaMet", "untrack a"],
            ),
            (
                "all are counted",
                |j, p| {
                    j["status"]["succeeded"] = 2.into();
                    j["status"]["active"] = Value::Null;
                    j["status"]["conditions"] =
                        json!([{"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached"}]);
                    j["status"]["uncountedTerminatedPods"] = json!({"succeeded": ["a"]});
                    p.clear();
                },
                &["status 0a 0t 3s 0f SuccessCriteriaMet,Complete", "Completed: Job completed"],
            ),
            (
                "nothing was wanted",
                |j, p| {
                    j["spec"]["completions"] = 0.into();
                    p.clear();
                },
                &["status 0a 0t 0s 0f SuccessCriteriaMet,Complete", "Completed: Job completed"],
            ),
            (
                "it is over",
                |j, p| {
                    j["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
                    p.clear();
                },
                &[],
            ),
            (
                "one has failed just now",
                |_, p| p[0] = ended("a", "Failed", 1),
                &["status 1a 0t 0s 0f +f a", "untrack a"],
            ),
            (
                "one has failed long ago",
                |_, p| p[0] = ended("a", "Failed", 11),
                &["create 1", "status 2a 0t 0s 0f +f a", "untrack a"],
            ),
            (
                "one is deleted",
                |_, p| p[0]["metadata"]["deletionTimestamp"] = ago(11),
                &["create 1", "status 2a 1t 0s 0f +f a", "untrack a"],
            ),
            (
                "one is deleted and ends before it is replaced",
                |j, p| {
                    j["spec"]["podReplacementPolicy"] = "Failed".into();
                    p[0]["metadata"]["deletionTimestamp"] = ago(11);
                },
                &["status 1a 1t 0s 0f"],
            ),
            (
                "too many have failed",
                |j, p| {
                    j["status"]["failed"] = 6.into();
                    p[0] = ended("a", "Failed", 1);
                },
                &["delete b", "status 0a 1t 0s 6f +f a b FailureTarget", "untrack a b"],
            ),
            (
                "it has failed and pods are left",
                |j, p| {
                    j["status"] = json!({"failed": 8, "startTime": ago(99), "ready": 0, "terminating": 1, "uncountedTerminatedPods": {},
                "conditions": [{"type": "FailureTarget", "status": "True", "reason": "R", "message": "m"}]});
                    *p = vec![pod("b")];
                    p[0]["metadata"]["deletionTimestamp"] = ago(1);
                    p[0]["metadata"]["finalizers"] = json!([]);
                },
                &[],
            ),
            (
                "it has failed",
                |j, p| {
                    j["status"] = json!({"failed": 8, "startTime": ago(99), "ready": 0, "terminating": 1, "uncountedTerminatedPods": {},
                "conditions": [{"type": "FailureTarget", "status": "True", "reason": "R", "message": "m"}]});
                    p.clear();
                },
                &["status 0a 0t 0s 8f FailureTarget,Failed", "R: m"],
            ),
            (
                "it ran too long",
                |j, _| {
                    j["spec"]["activeDeadlineSeconds"] = 60.into();
                    j["status"]["startTime"] = ago(60);
                },
                &["delete a b", "status 0a 2t 0s 0f +f a b FailureTarget", "untrack a b"],
            ),
            (
                "fewer at a time",
                |j, p| {
                    j["spec"]["parallelism"] = 1.into();
                    p[1]["status"]["conditions"] = json!([]);
                },
                &["untrack b", "delete b", "status 1a 1t 0s 0f"],
            ),
            ("more at a time", |j, _| j["spec"]["parallelism"] = 5.into(), &["create 1", "status 3a 0t 0s 0f"]),
            (
                "suspended",
                |j, _| j["spec"]["suspend"] = true.into(),
                &["untrack a b", "delete a b", "status 0a 2t 0s 0f Suspended", "Suspended: Job suspended"],
            ),
            (
                "resumed",
                |j, p| {
                    j["status"]["conditions"] = json!([{"type": "Suspended", "status": "True"}]);
                    p.clear();
                },
                &["create 2", "status 2a 0t 0s 0f", "Resumed: Job resumed"],
            ),
            ("an orphan", |_, p| p[0]["metadata"]["ownerReferences"] = json!([]), &["adopt a"]),
            (
                "relabelled",
                |_, p| p[0]["metadata"]["labels"] = json!({}),
                &["release a", "create 1", "status 2a 0t 0s 0f"],
            ),
            (
                "being deleted",
                |j, p| {
                    j["metadata"]["deletionTimestamp"] = ago(1);
                    p.pop();
                },
                &["status 1a 0t 0s 0f", "untrack a"],
            ),
            (
                "any success is enough",
                |j, p| {
                    j["spec"]["completions"] = Value::Null;
                    p[0] = ended("a", "Succeeded", 1);
                },
                &["status 1a 0t 0s 0f +s a", "untrack a"],
            ),
        ],
    );
}

#[test]
fn plans_of_policies() {
    rows(
        job(),
        || vec![pod("a"), pod("b")],
        &[
            (
                "ignored failures are not counted",
                |j, p| {
                    j["spec"]["podFailurePolicy"] = json!({"rules": [{"action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
                    p[0] = ended("a", "Failed", 11);
                    p[0]["status"]["conditions"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!({"type": "DisruptionTarget", "status": "True"}));
                },
                &["create 1", "status 2a 0t 0s 0f", "untrack a"],
            ),
            (
                "a failure that ends the job",
                |j, p| {
                    j["spec"]["podFailurePolicy"] = json!({"rules": [{"action": "FailJob",
                "onPodConditions": [{"type": "ConfigIssue", "status": "True"}]}]});
                    p[0] = ended("a", "Failed", 11);
                    p[0]["status"]["conditions"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!({"type": "ConfigIssue", "status": "True"}));
                },
                &["delete b", "status 0a 1t 0s 0f +f a b FailureTarget", "untrack a b"],
            ),
            (
                "restarts in place",
                |j, p| {
                    j["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into();
                    j["spec"]["backoffLimit"] = 2.into();
                    for pod in p {
                        pod["status"]["containerStatuses"] =
                            json!([{"name": "c", "restartCount": 1, "ready": true, "image": "", "imageID": ""}]);
                    }
                },
                &["delete a b", "status 0a 2t 0s 0f +f a b FailureTarget", "untrack a b"],
            ),
        ],
    );
}

#[test]
fn plans_of_indexed_jobs() {
    rows(
        indexed(),
        || vec![for_index(pod("a"), 0), for_index(pod("b"), 1)],
        &[
            ("all well", |_, _| (), &[]),
            (
                "one has succeeded",
                |_, p| p[1] = for_index(ended("b", "Succeeded", 1), 1),
                &["create 1 2", "status 2a 0t 1s 0f done 1", "untrack b"],
            ),
            (
                "twice the same, one of no index, one beyond",
                |_, p| {
                    p.extend([for_index(pod("c"), 1), pod("d"), for_index(pod("e"), 3)]);
                    p[1]["status"]["conditions"] = json!([]);
                },
                &["untrack e d b", "delete e d b", "status 2a 3t 0s 0f"],
            ),
            (
                "enough by the policy",
                |j, p| {
                    j["spec"]["successPolicy"] = json!({"rules": [{"succeededIndexes": "1"}]});
                    p[1] = for_index(ended("b", "Succeeded", 1), 1);
                },
                &["delete a", "status 0a 1t 1s 0f done 1 SuccessCriteriaMet", "untrack a b"],
            ),
            (
                "an index fails and is tried again later",
                |j, p| {
                    j["spec"]["backoffLimitPerIndex"] = 1.into();
                    p[0] = for_index(ended("a", "Failed", 1), 0);
                },
                &["status 1a 0t 0s 0f"],
            ),
            (
                "an index is tried again",
                |j, p| {
                    j["spec"]["backoffLimitPerIndex"] = 1.into();
                    p[0] = for_index(ended("a", "Failed", 11), 0);
                },
                &["create 1 0", "status 2a 0t 0s 0f"],
            ),
            (
                "its last failure is counted then",
                |j, p| {
                    j["spec"]["backoffLimitPerIndex"] = 1.into();
                    p[0] = for_index(ended("a", "Failed", 11), 0);
                    p.push(for_index(pod("c"), 0));
                },
                &["status 2a 0t 0s 0f +f a", "untrack a"],
            ),
            (
                "an index has failed for good",
                |j, p| {
                    j["spec"]["backoffLimitPerIndex"] = 0.into();
                    p[0] = for_index(ended("a", "Failed", 11), 0);
                },
                &["create 1 2", "status 2a 0t 0s 0f +f a lost 0", "untrack a"],
            ),
            (
                "too many indexes have failed",
                |j, p| {
                    j["spec"]["backoffLimitPerIndex"] = 0.into();
                    j["spec"]["maxFailedIndexes"] = 0.into();
                    p[0] = for_index(ended("a", "Failed", 11), 0);
                },
                &["delete b", "status 0a 1t 0s 0f +f a b lost 0 FailureTarget", "untrack a b"],
            ),
            (
                "all are through and one has failed",
                |j, p| {
                    j["spec"]["backoffLimitPerIndex"] = 0.into();
                    j["status"]["completedIndexes"] = "1,2".into();
                    *p = vec![for_index(ended("a", "Failed", 11), 0)];
                },
                &["status 0a 0t 2s 0f +f a done 1,2 lost 0 FailureTarget", "untrack a"],
            ),
        ],
    );
}

#[test]
fn what_failed_is_told_before_the_next_attempt() {
    let job = settled(job(), &[pod("a"), pod("b")]);
    let plan = check(&job, &[pod("a")], true);
    assert_eq!(summary(&plan), ["status 1a 0t 0s 0f", "create 1"]);
    assert_eq!(plan.again, Some(now() + SignedDuration::from_mins(1)));
    let mut late = job;
    late["spec"]["activeDeadlineSeconds"] = 0.into();
    assert_eq!(summary(&check(&late, &[pod("a"), pod("b")], true)), ["delete a b"], "not over before they are gone");
}

#[test]
fn deadlines_and_waits() {
    let mut job = settled(job(), &[pod("a"), pod("b")]);
    job["spec"]["activeDeadlineSeconds"] = 100.into();
    assert_eq!(check(&job, &[pod("a"), pod("b")], false).again, Some(now() + SignedDuration::from_secs(100)));
    let wait = check(&job, &[ended("a", "Failed", 4), pod("b")], false).again;
    assert_eq!(wait, Some(now() + SignedDuration::from_secs(6)));
}

#[test]
fn pods_of_indexes() {
    let mut job = indexed();
    job["metadata"]["name"] = "a-job-with-a-name-that-is-about-as-long-as-it-can-be-here".into();
    job["spec"]["backoffLimitPerIndex"] = 3.into();
    let mut before = for_index(ended("a", "Failed", 99), 0);
    before["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] = "1".into();
    before["metadata"]["ownerReferences"][0]["name"] = job["metadata"]["name"].clone();
    let actions = check(&job, &[before], false).actions;
    let Some(Action::Create { pod, slots, .. }) = actions.first() else { panic!("{actions:?}") };
    let made =
        serde_json::to_value(manage::pod_of(pod, job["metadata"]["name"].as_str().unwrap(), slots.first())).unwrap();
    let meta = &made["metadata"];
    assert_eq!(meta["generateName"], "a-job-with-a-name-that-is-about-as-long-as-it-can-be-he-0-");
    assert_eq!(meta["labels"], json!({"j": "j", "batch.kubernetes.io/job-completion-index": "0"}));
    assert_eq!(
        meta["annotations"],
        json!({"batch.kubernetes.io/job-completion-index": "0", "batch.kubernetes.io/job-index-failure-count": "2"})
    );
    assert_eq!(meta["finalizers"], json!([FINALIZER]));
    assert_eq!(made["spec"]["hostname"], "a-job-with-a-name-that-is-about-as-long-as-it-can-be-here-0");
    assert_eq!(
        made["spec"]["containers"][0]["env"],
        json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef":
            {"fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}}])
    );
}

/// A job of the in-memory API, whose pods do as their image says.
fn live(image: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut job = job();
    job["metadata"] = json!({"name": "j", "namespace": "shop"});
    job["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    change(&mut job["spec"]);
    job
}

fn is(condition: &'static str) -> impl Fn(&[Arc<Job>]) -> bool {
    move |all| {
        let conditions = all.iter().flat_map(|j| &j.status).flat_map(|s| s.conditions.iter().flatten());
        let mut conditions = conditions.filter(|c| c.status == "True");
        conditions.any(|c| c.type_ == condition)
    }
}

async fn status(c: &Cluster) -> k8s_openapi::api::batch::v1::JobStatus {
    c.client.get::<Job>("shop", "j").await.unwrap().status.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_to_its_end() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Job>(live("succeeds", |s| s["completions"] = 7.into())).await;
    c.until("complete", is("Complete")).await;
    let status = status(&c).await;
    assert_eq!((status.succeeded, status.failed, status.active), (Some(7), None, None));
    let pods = c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items;
    assert_eq!(pods.len(), 7);
    assert!(pods.iter().all(|p| !is_tracked(p)));
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    let events = c.client.list::<Event>("shop", &Default::default()).await.unwrap().items;
    let count = |reason: &str| events.iter().filter(|e| e.reason.as_deref() == Some(reason)).count();
    assert_eq!((count("SuccessfulCreate"), count("Completed")), (7, 1));
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_met_with_patience_and_an_end() {
    let c = Cluster::start(Kubelet::Works).await;
    let began = tokio::time::Instant::now();
    c.create::<Job>(live("fails", |s| {
        s["backoffLimit"] = 3.into();
        s["parallelism"] = 1.into();
    }))
    .await;
    c.until("failed", is("Failed")).await;
    // Three waits before the fourth failure is one too many.
    let waited = began.elapsed().as_secs();
    assert!((68..80).contains(&waited), "{waited}");
    let status = status(&c).await;
    assert_eq!((status.succeeded, status.failed), (None, Some(4)));
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn every_index_is_run_once() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Job>(live("succeeds", |s| {
        s["completionMode"] = "Indexed".into();
        s["completions"] = 5.into();
    }))
    .await;
    c.until("complete", is("Complete")).await;
    let status = status(&c).await;
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(5), Some("0-4")));
    let pods = c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items;
    let mut indexes: Vec<_> = pods.iter().filter_map(round::index_of).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 2, 3, 4]);
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_is_suspended_and_resumed() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Job>(live("runs", |s| s["suspend"] = true.into())).await;
    c.until("suspended", is("Suspended")).await;
    assert!(status(&c).await.start_time.is_none());
    c.patch::<Job>("j", json!({"spec": {"suspend": false}})).await;
    c.until::<Pod>("two run", |all| all.iter().filter(|p| pods::is_ready(p)).count() == 2).await;
    c.patch::<Job>("j", json!({"spec": {"suspend": true}})).await;
    c.until::<Pod>("none", <[_]>::is_empty).await;
    c.until::<Job>("told", |all| {
        all[0].status.as_ref().is_some_and(|s| s.active.is_none() && s.terminating == Some(0))
    })
    .await;
    assert!(status(&c).await.failed.is_none(), "what is suspended has not failed");
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_met_gently() {
    let c = Cluster::start(Kubelet::Works).await;
    c.fake.set_fault(Some(Box::new(|method, path, _| {
        let create = method == "POST" && path.ends_with("/pods");
        create.then(|| types::status::Status::new(types::status::Reason::Forbidden, "exceeded quota"))
    })));
    c.create::<Job>(live("succeeds", |s| {
        s["parallelism"] = 100.into();
        s["completions"] = 100.into();
    }))
    .await;
    c.until::<Job>("begun", |all| all.iter().any(|j| j.status.as_ref().is_some_and(|s| s.start_time.is_some()))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tries = c.fake.take_writes().into_iter().filter(|w| w.ends_with("/shop/pods")).count();
    assert!(tries <= 10, "{tries} attempts where one tells enough");
    c.fake.set_fault(None);
    c.until("complete", is("Complete")).await;
    assert_eq!(status(&c).await.succeeded, Some(100));
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_had_a_node_is_counted() {
    let c = Cluster::start(Kubelet::Absent).await;
    // By its end only: the collector of pods has to say that it failed.
    c.create::<Job>(live("runs", |s| s["podReplacementPolicy"] = "Failed".into())).await;
    c.until::<Pod>("two wait", |all| all.len() == 2).await;
    let name = c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items[0].name().to_owned();
    c.client.delete::<Pod>("shop", &name, &Default::default()).await.unwrap();
    c.until::<Job>("one has failed", |all| all[0].status.as_ref().is_some_and(|s| s.failed == Some(1))).await;
    c.until::<Pod>("another waits", |all| all.len() == 2 && all.iter().all(|p| p.name() != name)).await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_deleted_lets_its_pods_go() {
    use client::{DeleteParams, Propagation};
    let c = Cluster::start(Kubelet::Works).await;
    for propagation in [Propagation::Foreground, Propagation::Background] {
        c.create::<Job>(live("runs", |_| ())).await;
        c.until::<Pod>("two run", |all| all.iter().filter(|p| pods::is_ready(p)).count() == 2).await;
        c.client.delete::<Job>("shop", "j", &DeleteParams::default().propagation(propagation)).await.unwrap();
        c.until::<Pod>("none", <[_]>::is_empty).await;
        c.until::<Job>("gone", <[_]>::is_empty).await;
    }
    // Pods that outlive their job keep no finalizer.
    c.create::<Job>(live("runs", |_| ())).await;
    c.until::<Pod>("two run", |all| all.iter().filter(|p| pods::is_ready(p)).count() == 2).await;
    c.client.delete::<Job>("shop", "j", &DeleteParams::default().propagation(Propagation::Orphan)).await.unwrap();
    c.until::<Pod>("free", |all| {
        all.len() == 2 && all.iter().all(|p| !is_tracked(p) && p.controller_owner().is_none())
    })
    .await;
    c.stop().await;
}
