//! Tests of the CronJob controller: plans as tables, convergence over the in-memory API.

use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

const TEN: &str = "2026-01-01T00:10:00Z";

fn cron() -> Value {
    json!({"metadata": {"name": "c", "namespace": "shop", "uid": "cron", "creationTimestamp": "2026-01-01T00:00:30Z"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}})
}

fn job(name: &str, scheduled: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "5",
        "annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": scheduled}}, "spec": {"template": {}}})
}

/// The job of ten past.
fn of_ten() -> Value {
    job("c-29453770", TEN)
}

fn ended(mut job: Value, condition: &str, started: &str) -> Value {
    job["status"] = json!({"conditions": [{"type": condition, "status": "True"}], "startTime": started});
    if condition == "Complete" {
        job["status"]["completionTime"] = "2026-01-01T00:11:00Z".into();
    }
    job
}

fn active(name: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "name": name, "namespace": "shop", "uid": name, "resourceVersion": "5"})
}

fn check(cron: &Value, jobs: &[Value], now: &str) -> Plan<Action> {
    let cron: CronJob = serde_json::from_value(cron.clone()).unwrap();
    let jobs: Vec<Arc<Job>> = jobs.iter().map(|j| Arc::new(serde_json::from_value(j.clone()).unwrap())).collect();
    let named = cron.spec.time_zone.clone();
    let zone = named.map_or(Some(TimeZone::UTC), |name| TimeZone::get(&name).ok());
    plan(&Observed { cron: &cron, jobs: &jobs, known: Revision(9), zone }, now.parse().unwrap())
}

fn summary(plan: &Plan<Action>) -> Vec<String> {
    let one = |a: &Action| match a {
        Action::Delete(job, _) => format!("delete {}", job.name),
        Action::Create(job) => format!("create {}", job.name()),
        Action::Event(_, reason, _) => (*reason).to_owned(),
        Action::Status(cron) => {
            let s = cron.status.clone().unwrap();
            let time = |t: Option<Time>| t.map_or("-".to_owned(), |t| t.0.strftime("%d %H:%M").to_string());
            let active: Vec<String> = s.active.into_iter().flatten().filter_map(|a| a.name).collect();
            format!(
                "status {} last {} good {}",
                active.join(","),
                time(s.last_schedule_time),
                time(s.last_successful_time)
            )
        }
    };
    plan.actions.iter().map(one).collect()
}

#[test]
fn plans() {
    type Change = fn(&mut Value, &mut Vec<Value>);
    /// What a job that runs makes of a status.
    const RUNS: Change = |c, j| {
        c["status"] = json!({"active": [active("c-29453770")], "lastScheduleTime": TEN});
        j.push(of_ten());
    };
    let rows: &[(&str, &str, Change, &[&str])] = &[
        ("nothing is due", "2026-01-01T00:09:59Z", |_, _| (), &[]),
        ("due", "2026-01-01T00:10:00Z", |_, _| (), &["create c-29453770"]),
        ("made", "2026-01-01T00:10:01Z", |_, j| j.push(of_ten()), &["status c-29453770 last 01 00:10 good -"]),
        ("all well", "2026-01-01T00:10:02Z", RUNS, &[]),
        ("the next", "2026-01-01T00:20:00Z", RUNS, &["create c-29453780"]),
        (
            "complete",
            "2026-01-01T00:12:00Z",
            |c, j| {
                RUNS(c, j);
                j[0] = ended(of_ten(), "Complete", TEN);
            },
            &["status  last 01 00:10 good 01 00:11", "SawCompletedJob"],
        ),
        (
            "failed",
            "2026-01-01T00:12:00Z",
            |c, j| {
                RUNS(c, j);
                j[0] = ended(of_ten(), "Failed", TEN);
            },
            &["status  last 01 00:10 good -", "SawCompletedJob"],
        ),
        ("some were missed", "2026-01-01T01:05:00Z", |_, _| (), &["create c-29453820"]),
        ("many were missed", "2026-01-02T00:00:00Z", |_, _| (), &["TooManyMissedTimes", "create c-29455200"]),
        ("too late", "2026-01-01T00:15:00Z", |c, _| c["spec"]["startingDeadlineSeconds"] = 60.into(), &[]),
        (
            "not too late",
            "2026-01-01T00:15:00Z",
            |c, _| c["spec"]["startingDeadlineSeconds"] = 301.into(),
            &["create c-29453770"],
        ),
        ("suspended", "2026-01-01T00:15:00Z", |c, _| c["spec"]["suspend"] = true.into(), &[]),
        ("being deleted", "2026-01-01T00:15:00Z", |c, _| c["metadata"]["deletionTimestamp"] = TEN.into(), &[]),
        (
            "no such zone",
            "2026-01-01T00:15:00Z",
            |c, _| c["spec"]["timeZone"] = "Mars/Olympus".into(),
            &["UnknownTimeZone"],
        ),
        (
            "another zone",
            "2026-01-01T00:15:00Z",
            |c, _| {
                c["spec"]["timeZone"] = "Asia/Kolkata".into();
                c["spec"]["schedule"] = "40 5 * * *".into();
            },
            &["create c-29453770"],
        ),
        ("never", "2026-01-01T00:15:00Z", |c, _| c["spec"]["schedule"] = "0 0 31 2 *".into(), &["InvalidSchedule"]),
        ("no schedule", "2026-01-01T00:15:00Z", |c, _| c["spec"]["schedule"] = "x".into(), &["UnparseableSchedule"]),
        (
            "one at a time",
            "2026-01-01T00:20:00Z",
            |c, j| {
                RUNS(c, j);
                c["spec"]["concurrencyPolicy"] = "Forbid".into();
            },
            &["JobAlreadyActive"],
        ),
        (
            "the new for the old",
            "2026-01-01T00:20:00Z",
            |c, j| {
                RUNS(c, j);
                c["spec"]["concurrencyPolicy"] = "Replace".into();
            },
            &["delete c-29453770", "status  last 01 00:10 good -", "create c-29453780"],
        ),
        (
            "gone",
            "2026-01-01T00:12:00Z",
            |c, j| {
                RUNS(c, j);
                j.clear();
            },
            &["status  last 01 00:10 good -", "MissingJob"],
        ),
        (
            "not seen yet",
            "2026-01-01T00:12:00Z",
            |c, j| {
                RUNS(c, j);
                j.clear();
                c["status"]["active"][0]["resourceVersion"] = "10".into();
            },
            &[],
        ),
        ("somebody's", "2026-01-01T00:05:00Z", |_, j| j.push(job("by-hand", "")), &["UnexpectedJob"]),
        (
            "old ones",
            "2026-01-01T00:12:00Z",
            |c, j| {
                c["status"] = json!({"lastScheduleTime": TEN, "lastSuccessfulTime": "2026-01-01T00:11:00Z"});
                for (name, condition, started) in [
                    ("b", "Complete", TEN),
                    ("a", "Complete", "2026-01-01T00:11:00Z"),
                    ("f", "Failed", TEN),
                    ("e", "Failed", TEN),
                ] {
                    j.push(ended(job(name, ""), condition, started));
                }
            },
            &["delete b", "delete e"],
        ),
        (
            "the job of a minute that has one",
            "2026-01-01T00:10:30Z",
            |c, j| {
                c["spec"]["schedule"] = "@every 30s".into();
                RUNS(c, j);
            },
            &["status c-29453770 last 01 00:10 good -"],
        ),
    ];
    for (name, now, change, expected) in rows {
        let (mut cron, mut jobs) = (cron(), Vec::new());
        change(&mut cron, &mut jobs);
        assert_eq!(summary(&check(&cron, &jobs, now)), *expected, "{name}");
    }
    let again = check(&cron(), &[], "2026-01-01T00:05:00Z").again;
    assert_eq!(again, Some("2026-01-01T00:10:00.1Z".parse().unwrap()));
}

#[test]
fn jobs_are_what_the_template_says() {
    let mut cron = cron();
    cron["spec"]["timeZone"] = "Europe/Berlin".into();
    let plan = check(&cron, &[], TEN);
    let [Action::Create(made)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(
        serde_json::to_value(&made.metadata).unwrap(),
        json!({"name": "c-29453770", "namespace": "shop", "labels": {"a": "b"},
            "annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-01-01T01:10:00+01:00"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "cron",
                "controller": true, "blockOwnerDeletion": true}]})
    );
    cron["spec"]["timeZone"] = Value::Null;
    let plan = check(&cron, &[], TEN);
    let [Action::Create(made)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(made.annotation(SCHEDULED), Some(TEN));
    assert_eq!(scheduled(&serde_json::from_value(cron).unwrap(), made), Some(TEN.parse().unwrap()));
}

fn live(change: impl FnOnce(&mut Value)) -> Value {
    let template = json!({"metadata": {"labels": {"j": "j"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "succeeds"}]}});
    let job = json!({"completions": 1, "parallelism": 1, "backoffLimit": 0, "selector": {"matchLabels": {"j": "j"}},
        "template": template});
    let mut spec = json!({"schedule": "* * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 2,
        "failedJobsHistoryLimit": 1, "timeZone": "UTC", "jobTemplate": {"spec": job}});
    change(&mut spec);
    json!({"metadata": {"name": "c", "namespace": "shop"}, "spec": spec})
}

#[tokio::test(start_paused = true)]
async fn jobs_come_by_the_minute_and_old_ones_go() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<CronJob>(live(|_| ())).await;
    let began = tokio::time::Instant::now();
    let ran = |n: usize| {
        move |all: &[Arc<Event>]| {
            all.iter()
                .filter(|e| {
                    e.reason.as_deref() == Some("SuccessfulCreate")
                        && e.involved_object.kind.as_deref() == Some("CronJob")
                })
                .count()
                == n
        }
    };
    c.until("five have run", ran(5)).await;
    let took = began.elapsed().as_secs();
    assert!((240..=300).contains(&took), "{took}");
    c.until::<Job>("two are kept", |all| all.len() == 2 && all.iter().all(|j| finished(j).is_some())).await;
    let status = c.client.get::<CronJob>("shop", "c").await.unwrap().status.unwrap();
    assert!(status.active.is_none() && status.last_schedule_time.is_some() && status.last_successful_time.is_some());
    c.patch::<CronJob>("c", json!({"spec": {"suspend": true}})).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_or_the_newest() {
    let c = Cluster::start(Kubelet::Works).await;
    let runs = |spec: &mut Value| {
        spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"] = "runs".into();
        spec["concurrencyPolicy"] = "Forbid".into();
    };
    c.create::<CronJob>(live(runs)).await;
    c.until::<Job>("one runs", |all| all.len() == 1).await;
    let first = c.client.list::<Job>("shop", &Default::default()).await.unwrap().items[0].uid().to_owned();
    tokio::time::sleep(std::time::Duration::from_secs(180)).await;
    let jobs = c.client.list::<Job>("shop", &Default::default()).await.unwrap().items;
    assert_eq!(jobs.iter().map(Object::uid).collect::<Vec<_>>(), [first.as_str()]);
    c.patch::<CronJob>("c", json!({"spec": {"concurrencyPolicy": "Replace"}})).await;
    c.until::<Job>("another runs", move |all| all.len() == 1 && all[0].uid() != first).await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_schedule_begins_with_its_next_time() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<CronJob>(live(|s| s["schedule"] = "0 0 1 1 *".into())).await;
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    c.patch::<CronJob>("c", json!({"spec": {"schedule": "*/30 * * * *"}})).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(c.client.list::<Job>("shop", &Default::default()).await.unwrap().items.is_empty());
    c.until::<Job>("its time has come", |all| all.len() == 1).await;
    c.stop().await;
}
