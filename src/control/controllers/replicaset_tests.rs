//! Tests of the ReplicaSet controller: plans as tables, ranking as a property, convergence over the in-memory API.

use std::time::Duration;

use client::DeleteParams;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "rs", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}},
    }))
    .unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": "web"}, "resourceVersion": "1",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2023-11-14T22:00:00Z"}]},
    }))
    .unwrap()
}

fn check(set: &ReplicaSet, pods: &[Pod], failure: Option<Failure>) -> Plan<Action> {
    let pods: Vec<Arc<Pod>> = pods.iter().cloned().map(Arc::new).collect();
    plan(&Observed { kind: REPLICA_SET, set, pods: &pods, on_node: HashMap::new(), failure }, now())
}

/// The set with the status that a plan asks for.
fn settled(mut set: ReplicaSet, pods: &[Pod]) -> ReplicaSet {
    for action in check(&set, pods, None).actions {
        if let Action::Status(new) = action {
            set = *new;
        }
    }
    set
}

fn summary(plan: &Plan<Action>) -> Vec<String> {
    let one = |a: &Action| match a {
        Action::Adopt { pod, .. } => format!("adopt {}", pod.name),
        Action::Release { pod, .. } => format!("release {}", pod.name),
        Action::Create { count, .. } => format!("create {count}"),
        Action::Delete { pods, .. } => {
            format!("delete {}", pods.iter().map(|(k, _)| k.name.to_string()).collect::<Vec<_>>().join(" "))
        }
        Action::Status(_) => "status".to_owned(),
    };
    plan.actions.iter().map(one).collect()
}

#[test]
fn plans() {
    let two = || vec![pod("a"), pod("b")];
    type Change = fn(&mut ReplicaSet, &mut Vec<Pod>);
    let rows: &[(&str, Change, &[&str])] = &[
        ("all well", |_, _| (), &[]),
        ("one is missing", |_, p| drop(p.pop()), &["status", "create 1"]),
        ("scaled up", |s, _| s.spec.as_mut().unwrap().replicas = Some(5), &["create 3"]),
        ("scaled to none", |s, _| s.spec.as_mut().unwrap().replicas = Some(0), &["delete a b"]),
        (
            "being deleted",
            |s, p| {
                s.metadata.deletion_timestamp = Some(Time(now()));
                p.pop();
            },
            &["status"],
        ),
        (
            "a failed pod is replaced",
            |_, p| p[0].status.as_mut().unwrap().phase = Some("Failed".into()),
            &["status", "create 1"],
        ),
        (
            "a pod on its way out is replaced",
            |_, p| p[0].metadata.deletion_timestamp = Some(Time(now())),
            &["status", "create 1"],
        ),
        ("an orphan is taken", |_, p| p[0].metadata.owner_references = None, &["adopt a"]),
        (
            "an orphan too many is taken and the least useful goes",
            |_, p| {
                let mut orphan = pod("c");
                orphan.metadata.owner_references = None;
                orphan.status.as_mut().unwrap().conditions = None;
                p.push(orphan);
            },
            &["adopt c", "status", "delete c"],
        ),
        (
            "a relabelled pod is let go and replaced",
            |_, p| {
                p[0].metadata.labels.as_mut().unwrap().insert("app".into(), "other".into());
            },
            &["release a", "status", "create 1"],
        ),
        (
            "somebody else's pod is not counted",
            |_, p| p[0].metadata.owner_references.as_mut().unwrap()[0].uid = "x".into(),
            &["status", "create 1"],
        ),
        (
            "an empty selector does nothing",
            |s, p| {
                s.spec.as_mut().unwrap().selector = Default::default();
                p.clear();
            },
            &[],
        ),
    ];
    for (name, change, expected) in rows {
        let (mut set, mut pods) = (settled(set(2), &two()), two());
        change(&mut set, &mut pods);
        assert_eq!(summary(&check(&set, &pods, None)), *expected, "{name}");
    }
}

#[test]
fn availability_comes_with_time() {
    let mut set = set(1);
    set.spec.as_mut().unwrap().min_ready_seconds = Some(3600 * 24);
    let pods = [pod("a")];
    let set = settled(set, &pods);
    let status = set.status.clone().unwrap();
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), None));
    let plan = check(&set, &pods, None);
    assert!(plan.actions.is_empty());
    assert_eq!(plan.again.unwrap().to_string(), "2023-11-15T22:00:00Z");
}

#[test]
fn a_failure_is_said_once_and_forgotten() {
    let failure = Failure { reason: "FailedCreate", message: "quota".into() };
    let mut set = set(1);
    let plan = check(&set, &[], Some(failure.clone()));
    let [Action::Status(new), Action::Create { .. }] = &plan.actions[..] else { panic!("{plan:?}") };
    let condition = &new.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.message.as_deref()), ("ReplicaFailure", Some("quota")));
    set = (**new).clone();
    assert_eq!(summary(&check(&set, &[], Some(failure))), ["create 1"]);
    let [Action::Status(new), Action::Create { .. }] = &check(&set, &[], None).actions[..] else {
        panic!("not removed")
    };
    assert!(new.status.as_ref().unwrap().conditions.is_none());
}

prop_compose! {
    fn any_pod()(
        id in 0u32..10_000, assigned in any::<bool>(), running in any::<bool>(), ready in proptest::option::of(0i64..100_000),
        restarts in 0i32..4, cost in -2i32..3, age in 0i64..100_000, node in 0..3,
    ) -> Pod {
        let name = format!("p{id}");
        let mut pod = pod(&name);
        pod.spec.as_mut().unwrap().node_name = assigned.then(|| format!("n{node}"));
        let at = |s: i64| Some(Time(now() - SignedDuration::from_secs(s)));
        pod.metadata.creation_timestamp = at(age);
        pod.metadata.annotations = Some([(DELETION_COST.to_owned(), cost.to_string())].into());
        let status = pod.status.as_mut().unwrap();
        status.phase = Some(if running { "Running" } else { "Pending" }.into());
        match ready {
            Some(since) => status.conditions.as_mut().unwrap()[0].last_transition_time = at(since),
            None => status.conditions = None,
        }
        status.container_statuses = Some(vec![serde_json::from_value(json!({
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts})).unwrap()]);
        pod
    }
}

proptest! {
    #[test]
    fn ranking_is_a_total_order_that_spares_what_serves(list in proptest::collection::vec(any_pod(), 1..20), seed in any::<u64>()) {
        let mut list: Vec<Arc<Pod>> = list.into_iter().map(Arc::new).collect();
        list.sort_by(|a, b| a.uid().cmp(b.uid()));
        list.dedup_by(|a, b| a.uid() == b.uid());
        let on_node = HashMap::from([("n0".to_owned(), 3), ("n1".to_owned(), 1)]);
        let mut one: Vec<&Arc<Pod>> = list.iter().collect();
        let mut other = one.clone();
        let turn = usize::try_from(seed % 1000).unwrap() % other.len();
        other.rotate_left(turn);
        rank(&mut one, &on_node, now());
        rank(&mut other, &on_node, now());
        let names = |l: &[&Arc<Pod>]| l.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
        prop_assert_eq!(names(&one), names(&other), "the input's order does not matter");
        // An unassigned pod never outlives an assigned one, and a running, ready one never goes before a pending one.
        let class = |p: &Pod| (!pods::node_name(p).is_empty(), pods::phase(p) == "Running", pods::is_ready(p));
        prop_assert!(one.windows(2).all(|w| class(w[0]) <= class(w[1])));
    }

    #[test]
    fn counts_come_out_right(have in 0usize..8, want in 0i32..8) {
        let pods: Vec<Pod> = (0..have).map(|i| pod(&format!("p{i}"))).collect();
        let set = settled(set(want), &pods);
        let wanted = usize::try_from(want).unwrap();
        match &check(&set, &pods, None).actions[..] {
            [] => prop_assert_eq!(have, wanted),
            [Action::Create { count, .. }] => prop_assert_eq!(have + count, wanted),
            [Action::Delete { pods, .. }] => prop_assert_eq!(have - pods.len(), wanted),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

fn plain_set(replicas: i32) -> serde_json::Value {
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn available(n: i32) -> impl Fn(&[Arc<ReplicaSet>]) -> bool {
    move |all| {
        let status = |s: &Arc<ReplicaSet>| s.status.clone().unwrap_or_default();
        all.first().is_some_and(|s| status(s).available_replicas.unwrap_or(0) == n && status(s).replicas == n)
    }
}

#[tokio::test(start_paused = true)]
async fn pods_are_created_replaced_and_deleted_and_then_there_is_rest() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<ReplicaSet>(plain_set(3)).await;
    c.until("three available", available(3)).await;
    let pods = c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|p| p.name().starts_with("web-") && p.controller_owner().is_some_and(|o| o.name == "web")));
    c.client.delete::<Pod>("shop", pods[0].name(), &DeleteParams::default()).await.unwrap();
    let gone = pods[0].uid().to_owned();
    c.until::<Pod>("replaced", move |all| all.len() == 3 && all.iter().all(|p| p.uid() != gone && pods::is_ready(p)))
        .await;
    c.patch::<ReplicaSet>("web", json!({"spec": {"replicas": 1}})).await;
    c.until("one available", available(1)).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    let created = c.client.list::<k8s_openapi::api::core::v1::Event>("shop", &Default::default()).await.unwrap().items;
    let count = |reason: &str| created.iter().filter(|e| e.reason.as_deref() == Some(reason)).count();
    assert_eq!((count("SuccessfulCreate"), count("SuccessfulDelete")), (4, 2));
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn exactly_as_many_pods_are_created_as_wanted() {
    let c = Cluster::start(Kubelet::Absent).await;
    c.create::<ReplicaSet>(plain_set(40)).await;
    c.until::<Pod>("forty", |all| all.len() >= 40).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let posts = c.fake.take_writes().into_iter().filter(|w| w.as_str() == "POST /api/v1/namespaces/shop/pods").count();
    assert_eq!(posts, 40, "own writes are seen before the next plan");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_met_gently_and_said_in_the_status() {
    let c = Cluster::start(Kubelet::Works).await;
    c.fake.set_fault(Some(Box::new(|method, path, _| {
        let create = method == "POST" && path.ends_with("/pods");
        create.then(|| types::status::Status::new(types::status::Reason::Forbidden, "exceeded quota"))
    })));
    c.create::<ReplicaSet>(plain_set(100)).await;
    let failed = |all: &[Arc<ReplicaSet>]| {
        all.first().is_some_and(|s| s.status.as_ref().is_some_and(|s| s.conditions.is_some()))
    };
    c.until("ReplicaFailure", failed).await;
    let tries = c.fake.take_writes().into_iter().filter(|w| w.ends_with("/shop/pods")).count();
    assert!(tries <= 4, "{tries} attempts where one tells enough");
    c.fake.set_fault(None);
    c.until("healed", available(100)).await;
    c.until("condition gone", move |all| !failed(all)).await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn orphans_are_adopted_and_relabelled_pods_released() {
    let c = Cluster::start(Kubelet::Works).await;
    let orphan = json!({"metadata": {"name": "lonely", "namespace": "shop", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}});
    c.create::<Pod>(orphan).await;
    c.create::<ReplicaSet>(plain_set(1)).await;
    c.until::<Pod>("adopted", |all| all.len() == 1 && all[0].controller_owner().is_some()).await;
    c.patch::<Pod>("lonely", json!({"metadata": {"labels": {"app": "other"}}})).await;
    c.until::<Pod>("released and replaced", |all| {
        all.len() == 2 && all.iter().any(|p| p.name() == "lonely" && p.controller_owner().is_none())
    })
    .await;
    c.stop().await;
}
