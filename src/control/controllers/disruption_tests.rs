//! Tests of the disruption controller: plans as tables, scales and convergence over the in-memory API.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::*;
use crate::controllers::harness::{Cluster, Kubelet, complete, deployment, rolling};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn ago(seconds: i64) -> Value {
    types::time::rfc3339(now() - SignedDuration::from_secs(seconds)).into()
}

fn budget(spec: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    json!({"metadata": {"name": "web", "namespace": "shop", "uid": "pdb", "generation": 3}, "spec": spec})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": "web"}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn check(budget: &Value, pods: &[Value], expected: Expected) -> Plan<Action> {
    let budget: PodDisruptionBudget = serde_json::from_value(budget.clone()).unwrap();
    let pods: Vec<Arc<Pod>> = pods.iter().map(|p| Arc::new(serde_json::from_value(p.clone()).unwrap())).collect();
    plan(&Observed { budget: &budget, pods: &pods, expected }, now())
}

fn n(n: Option<i32>) -> i32 {
    n.unwrap_or(0)
}

fn count(count: i32) -> Expected {
    Expected::Pods { count, unmanaged: false }
}

/// allowed, current, desired, expected, reason; and the other actions.
fn summary(plan: &Plan<Action>) -> Vec<String> {
    let one = |a: &Action| match a {
        Action::Status(b) => {
            let s = b.status.clone().unwrap();
            let c = &s.conditions.unwrap()[0];
            format!(
                "{}: {}/{} of {} {} {:?}",
                n(s.disruptions_allowed),
                n(s.current_healthy),
                n(s.desired_healthy),
                n(s.expected_pods),
                c.reason,
                s.disrupted_pods.unwrap_or_default().into_keys().collect::<Vec<_>>()
            )
        }
        Action::Event(_, reason, _) => (*reason).to_owned(),
        Action::NotDeleted(pod) => format!("not deleted: {}", pod.name),
    };
    plan.actions.iter().map(one).collect()
}

#[test]
fn plans() {
    type Change = fn(&mut Value, &mut Vec<Value>);
    let rows: &[(&str, Value, Change, Expected, &[&str])] = &[
        ("all well", json!({"minAvailable": 2}), |_, _| (), count(3), &[]),
        (
            "one is not ready",
            json!({"minAvailable": 2}),
            |_, p| p[0]["status"]["conditions"] = json!([]),
            count(3),
            &["0: 2/2 of 3 InsufficientPods []"],
        ),
        (
            "one goes",
            json!({"minAvailable": 2}),
            |_, p| p[0]["metadata"]["deletionTimestamp"] = ago(1),
            count(3),
            &["0: 2/2 of 3 InsufficientPods []"],
        ),
        (
            "fewer are wanted",
            json!({"minAvailable": 2}),
            |b, _| b["spec"]["minAvailable"] = 1.into(),
            count(3),
            &["2: 3/1 of 3 SufficientPods []"],
        ),
        (
            "percents are rounded up",
            json!({"minAvailable": 2}),
            |b, _| b["spec"]["minAvailable"] = "34%".into(),
            count(3),
            &[],
        ),
        (
            "one too few is half",
            json!({"maxUnavailable": "50%"}),
            |b, _| b["status"] = json!({}),
            count(3),
            &["2: 3/1 of 3 SufficientPods []"],
        ),
        (
            "more may be missing than there are",
            json!({"maxUnavailable": 9}),
            |b, _| b["status"] = json!({}),
            count(3),
            &["3: 3/0 of 3 SufficientPods []"],
        ),
        (
            "no pods",
            json!({"minAvailable": 0}),
            |_, p| p.clear(),
            count(0),
            &["0: 0/0 of 0 InsufficientPods []", "NoPods"],
        ),
        (
            "an eviction is on its way",
            json!({"minAvailable": 2}),
            |b, _| b["status"]["disruptedPods"] = json!({"a": ago(60), "gone": ago(60)}),
            count(3),
            &["0: 2/2 of 3 InsufficientPods [\"a\"]"],
        ),
        (
            "an eviction has shown",
            json!({"minAvailable": 1}),
            |b, p| {
                b["status"]["disruptedPods"] = json!({"a": ago(60)});
                p[0]["metadata"]["deletionTimestamp"] = ago(1);
            },
            count(3),
            &["1: 2/1 of 3 SufficientPods []"],
        ),
        (
            "an eviction did not come",
            json!({"minAvailable": 2}),
            |b, _| b["status"]["disruptedPods"] = json!({"a": ago(120)}),
            count(3),
            &["not deleted: a", "1: 3/2 of 3 SufficientPods []"],
        ),
        (
            "the scale is unknown",
            json!({"minAvailable": 2}),
            |_, _| (),
            Expected::Unknown("why".into()),
            &["0: 3/2 of 3 SyncFailed []", "CalculateExpectedPodCountFailed"],
        ),
        (
            "bare pods",
            json!({"maxUnavailable": 1}),
            |b, _| b["status"] = json!({}),
            Expected::Pods { count: 2, unmanaged: true },
            &["2: 3/1 of 2 SufficientPods []", "UnmanagedPods"],
        ),
    ];
    for (name, spec, change, expected, actions) in rows {
        let (mut budget, mut pods) = (budget(spec.clone()), vec![pod("a"), pod("b"), pod("c")]);
        for action in check(&budget, &pods, count(3)).actions {
            if let Action::Status(settled) = action {
                budget = serde_json::to_value(settled).unwrap();
            }
        }
        change(&mut budget, &mut pods);
        let plan = check(&budget, &pods, expected.clone());
        assert_eq!(summary(&plan), *actions, "{name}");
        for action in plan.actions {
            if let Action::Status(settled) = action {
                let again = check(&serde_json::to_value(settled).unwrap(), &pods, expected.clone());
                assert!(again.actions.is_empty(), "{name}: {again:?}");
            }
        }
    }
}

#[test]
fn an_eviction_is_looked_at_again() {
    let mut budget = budget(json!({"minAvailable": 1}));
    budget["status"] = json!({"disruptedPods": {"a": ago(100), "b": ago(30)}});
    let plan = check(&budget, &[pod("a"), pod("b")], count(2));
    assert_eq!(plan.again, Some(now() + SignedDuration::from_secs(20)));
}

#[test]
fn selectors_are_shown_as_upstream_shows_them() {
    let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "web", "a": "b"},
        "matchExpressions": [{"key": "x", "operator": "In", "values": ["1", "2"]}]}))
    .unwrap();
    assert_eq!(
        shown(Some(&selector)),
        "&LabelSelector{MatchLabels:map[string]string{a: b,app: web,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:x,Operator:In,Values:[1 2],},},}"
    );
}

/// Waits for a budget's (allowed, current, desired, expected).
async fn counted(c: &Cluster, what: &str, expected: (i32, i32, i32, i32)) {
    c.until::<PodDisruptionBudget>(what, move |all| {
        all.first().is_some_and(|b| {
            let s = b.status.clone().unwrap_or_default();
            s.observed_generation == b.metadata.generation
                && (n(s.disruptions_allowed), n(s.current_healthy), n(s.desired_healthy), n(s.expected_pods))
                    == expected
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_follows_its_deployment() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Deployment>(deployment(4, "i", rolling(1.into(), 0.into()))).await;
    c.until("rolled out", complete).await;
    let spec = json!({"maxUnavailable": "25%", "selector": {"matchLabels": {"app": "web"}}});
    c.create::<PodDisruptionBudget>(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).await;
    counted(&c, "one of four may go", (1, 4, 3, 4)).await;
    c.patch::<Deployment>("web", json!({"spec": {"replicas": 8}})).await;
    counted(&c, "two of eight may go", (2, 8, 6, 8)).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn owners_of_other_kinds_are_asked() {
    let c = Cluster::start(Kubelet::Works).await;
    let definition = json!({"metadata": {"name": "farms.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "farms", "kind": "Farm"},
            "versions": [{"name": "v1", "served": true, "storage": true}]},
        "status": {"acceptedNames": {"plural": "farms", "kind": "Farm"},
            "conditions": [{"type": "Established", "status": "True"}]}});
    c.create::<client::Definition>(definition).await;
    let owned = |name: &str, api_version: &str, kind: &str, uid: &str| {
        json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}, "ownerReferences": [
            {"apiVersion": api_version, "kind": kind, "name": "it", "uid": uid, "controller": true}]},
            "spec": {"containers": [{"name": "c"}]}})
    };
    let sets = "/apis/apps/v1/namespaces/shop/statefulsets";
    let set = json!({"metadata": {"name": "it"}, "spec": {"replicas": 5}});
    let set: Value = c.client.create_path(sets, &set, &Default::default()).await.unwrap();
    c.create::<Pod>(owned("one", "apps/v1", "StatefulSet", set["metadata"]["uid"].as_str().unwrap())).await;
    let spec = json!({"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}});
    c.create::<PodDisruptionBudget>(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).await;
    counted(&c, "three of the set's five", (0, 1, 3, 5)).await;

    // The in-memory API has no discovery of groups, so that this kind is unknown there.
    c.create::<Pod>(owned("two", "example.com/v2", "Farm", "x")).await;
    let failed = |why: &'static str| {
        move |all: &[Arc<PodDisruptionBudget>]| {
            let conditions = all[0].status.iter().flat_map(|s| s.conditions.iter().flatten());
            let mut conditions = conditions.filter(|c| c.reason == "SyncFailed" && c.status == "False");
            conditions.any(|c| c.message == why)
        }
    };
    c.until("an unknown kind", failed("no matches for kind \"Farm\" in version \"example.com/v2\"")).await;
    c.client.delete::<Pod>("shop", "two", &client::DeleteParams::now()).await.unwrap();
    counted(&c, "known again", (0, 1, 3, 5)).await;
    c.create::<Pod>(owned("two", "batch/v1", "Job", "x")).await;
    c.until("jobs have no scale", failed("jobs.batch does not implement the scale subresource")).await;
    c.until::<Event>("an event", |all| {
        all.iter().any(|e| e.reason.as_deref() == Some("CalculateExpectedPodCountFailed"))
    })
    .await;
    c.stop().await;
}
