//! Tests of the Deployment controller: the limits of a rollout as properties of the plan, and whole rollouts over the
//! in-memory API.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::controllers::harness::{Cluster, Kubelet, complete, deployment, rolling, sizes};
use crate::pods::controller_reference;

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn object(replicas: i32, surge: serde_json::Value, unavailable: serde_json::Value) -> Deployment {
    let mut d: Deployment = serde_json::from_value(deployment(replicas, "new", rolling(surge, unavailable))).unwrap();
    d.metadata.uid = Some("d".into());
    d.metadata.generation = Some(1);
    d
}

fn set_of(d: &Deployment, image: &str, replicas: i32, available: i32, order: i64) -> Arc<ReplicaSet> {
    let spec = d.spec.as_ref().unwrap();
    let mut template = spec.template.clone();
    template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    let mut set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": format!("web-{image}"), "namespace": "shop", "uid": image, "labels": {"app": "web"},
            "annotations": {REVISION: order.to_string(), DESIRED: super::replicas(spec).to_string(),
                MAX: (super::replicas(spec) + max_surge(spec)).to_string()},
            "creationTimestamp": types::time::rfc3339(Timestamp::from_second(1_600_000_000 + order).unwrap())},
        "spec": {"replicas": replicas, "selector": {}},
        "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available},
    }))
    .unwrap();
    set.metadata.owner_references = Some(vec![controller_reference(d)]);
    set.spec.as_mut().unwrap().template = Some(template);
    Arc::new(set)
}

fn check(d: &Deployment, sets: &[Arc<ReplicaSet>]) -> Plan<Action> {
    plan(&Observed { deployment: d, sets, pods: &[], failure: None }, now())
}

/// (from, to) of each scaled set.
fn scaled(plan: &Plan<Action>) -> Vec<(String, i32, i32)> {
    let one = |a: &Action| match a {
        Action::PatchSet { set, scaled: Some((from, to)), .. } => Some((set.name.to_string(), *from, *to)),
        _ => None,
    };
    plan.actions.iter().filter_map(one).collect()
}

#[test]
fn all_well_is_left_alone() {
    let mut d = object(3, json!("25%"), json!("25%"));
    let sets = [set_of(&d, "new", 3, 3, 1)];
    // Apply what is planned until nothing is: two writes, then rest.
    for _ in 0..4 {
        for action in check(&d, &sets).actions {
            match action {
                Action::Status(new) => d = *new,
                Action::Annotate(new) => d = *new,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(check(&d, &sets), Plan::nothing());
    let conditions = d.status.unwrap().conditions.unwrap();
    let reasons: Vec<_> = conditions.iter().map(|c| c.reason.clone().unwrap()).collect();
    assert_eq!(reasons, ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
}

#[test]
fn steps_of_a_rollout() {
    for (name, surge, unavailable, sets, expected) in [
        ("surge first", json!(1), json!(0), vec![("old", 3, 3), ("new", 0, 0)], vec![("web-new", 0, 1)]),
        ("wait for the new pod", json!(1), json!(0), vec![("old", 3, 3), ("new", 1, 0)], vec![]),
        ("then one old goes", json!(1), json!(0), vec![("old", 3, 3), ("new", 1, 1)], vec![("web-old", 3, 2)]),
        ("unavailable may go at once", json!(0), json!(1), vec![("old", 3, 3), ("new", 0, 0)], vec![("web-old", 3, 2)]),
        (
            "broken old pods go first",
            json!(0),
            json!(1),
            vec![("bad", 2, 0), ("old", 2, 2), ("new", 0, 0)],
            vec![("web-bad", 2, 0)],
        ),
        (
            "a status from before the last step counts no pod twice",
            json!(0),
            json!(1),
            vec![("old", 2, 3), ("new", 1, 1)],
            vec![("web-old", 2, 1)],
        ),
        ("too large a new set shrinks", json!(1), json!(0), vec![("new", 5, 5)], vec![("web-new", 5, 3)]),
        (
            "neither surge nor unavailable: one may be missing",
            json!(0),
            json!("0%"),
            vec![("old", 3, 3), ("new", 0, 0)],
            vec![("web-old", 3, 2)],
        ),
    ] {
        let d = object(3, surge, unavailable);
        let sets: Vec<_> = (1..).zip(&sets).map(|(i, (image, n, up))| set_of(&d, image, *n, *up, i)).collect();
        let got = scaled(&check(&d, &sets));
        let got: Vec<(&str, i32, i32)> = got.iter().map(|(n, a, b)| (n.as_str(), *a, *b)).collect();
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn a_resize_in_the_middle_is_shared_out() {
    // Upstream's conformance case: 10 replicas, maxSurge 3, maxUnavailable 2, stuck at 8 old and 5 new, scaled to 30.
    let before = object(10, json!(3), json!(2));
    let sets = [set_of(&before, "old", 8, 8, 1), set_of(&before, "new", 5, 0, 2)];
    let mut d = object(30, json!(3), json!(2));
    d.metadata.uid = before.metadata.uid;
    let plan = check(&d, &sets);
    assert_eq!(scaled(&plan), [("web-old".into(), 8, 20), ("web-new".into(), 5, 13)]);
}

proptest! {
    #[test]
    fn limits_hold_whatever_the_state(
        wanted in 0i32..20, surge in 0i32..6, unavailable in 0i32..6,
        sets in proptest::collection::vec((0i32..20, 0i32..20), 1..4), has_new in any::<bool>(),
    ) {
        let d = object(wanted, json!(surge), json!(unavailable));
        let spec = d.spec.as_ref().unwrap();
        let names = ["new", "o1", "o2", "o3"];
        let skip = usize::from(!has_new);
        let sets: Vec<_> = (1..).zip(sets.iter().zip(&names[skip..]))
            .map(|(i, ((n, up), name))| set_of(&d, name, *n, (*up).min(*n), i)).collect();
        let plan = check(&d, &sets);
        let size = |s: &Arc<ReplicaSet>| s.spec.as_ref().unwrap().replicas.unwrap();
        let total: i32 = sets.iter().map(size).sum();
        let (mut after, mut lost_available) = (total, 0);
        for (name, from, to) in scaled(&plan) {
            prop_assert!(to >= 0);
            after += to - from;
            let set = sets.iter().find(|s| s.name() == name).unwrap();
            // Worst case for old sets: the ReplicaSet controller takes unavailable pods first, so what is lost is the rest.
            let up = set.status.as_ref().unwrap().available_replicas.unwrap_or(0);
            lost_available += (up - to).max(0);
        }
        for action in &plan.actions {
            if let Action::CreateSet(set) = action {
                after += size(&Arc::new((**set).clone()));
            }
        }
        prop_assert!(after <= total.max(wanted + max_surge(spec)), "{} pods, {} allowed", after, wanted + max_surge(spec));
        let available: i32 = sets.iter().map(|s| s.status.as_ref().unwrap().available_replicas.unwrap_or(0)).sum();
        let least = wanted - max_unavailable(spec);
        // A new set that is larger than wanted shrinks to what is wanted, which alone satisfies the minimum.
        prop_assert!(available - lost_available >= least.min(available), "{} of {} lost, {} needed", lost_available, available, least);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_respects_its_limits_at_every_step_and_can_be_undone() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Deployment>(deployment(5, "one", rolling(json!(2), json!(1)))).await;
    c.until("rolled out", complete).await;
    let pods = c.informers.cache::<Pod>(Selector::all());
    pods.synced().await;
    let worst = Arc::new(parking_lot::Mutex::new((i64::MAX, 0)));
    let (seen, all) = (Arc::clone(&worst), Arc::clone(&pods));
    pods.on_change(Box::new(move |_, _| {
        let list = all.all();
        let ready = list.iter().filter(|p| crate::pods::is_active(p) && crate::pods::is_ready(p)).count();
        let active = list.iter().filter(|p| crate::pods::is_active(p)).count();
        let mut worst = seen.lock();
        *worst = (worst.0.min(i64::try_from(ready).unwrap()), worst.1.max(active));
    }));
    for (image, revision) in [("two", "2"), ("one", "3")] {
        let template = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        c.patch::<Deployment>("web", template).await;
        c.until("rolled out", |all| complete(all) && all[0].annotation(REVISION) == Some(revision)).await;
    }
    let (least, most) = *worst.lock();
    assert!(least >= 4, "{least} were ready at worst");
    assert!(most <= 7, "{most} at most");
    // Going back reused the first set and remembers its first revision.
    let sets = c.client.list::<ReplicaSet>("shop", &Default::default()).await.unwrap().items;
    assert_eq!(sizes(&sets.iter().cloned().map(Arc::new).collect::<Vec<_>>()), [0, 5]);
    let live = sets.iter().find(|s| s.spec.as_ref().unwrap().replicas == Some(5)).unwrap();
    assert_eq!((live.annotation(REVISION), live.annotation(REVISION_HISTORY)), (Some("3"), Some("1")));
    assert!(live.label(HASH_LABEL).is_some_and(|h| live.name() == format!("web-{h}")));
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_image_times_out_keeps_the_old_pods_and_is_superseded() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Deployment>(deployment(4, "good", rolling(json!("25%"), json!("25%")))).await;
    c.until("rolled out", complete).await;
    let image = |image: &str| json!({"spec": {"progressDeadlineSeconds": 60, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    c.patch::<Deployment>("web", image("broken")).await;
    c.until::<Deployment>("timed out", |all| {
        let status = all[0].status.clone().unwrap_or_default();
        status.available_replicas == Some(3)
            && status.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some("ProgressDeadlineExceeded"))
    })
    .await;
    c.patch::<Deployment>("web", image("better")).await;
    c.until("rolled out after all", complete).await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn recreate_never_mixes_versions() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Deployment>(deployment(3, "one", json!({"type": "Recreate"}))).await;
    c.until("rolled out", complete).await;
    let pods = c.informers.cache::<Pod>(Selector::all());
    pods.synced().await;
    let mixed = Arc::new(parking_lot::Mutex::new(false));
    let (seen, all) = (Arc::clone(&mixed), Arc::clone(&pods));
    pods.on_change(Box::new(move |_, _| {
        let list = all.all();
        let mut images: Vec<_> = list.iter().filter_map(|p| p.spec.as_ref()?.containers[0].image.clone()).collect();
        images.sort_unstable();
        images.dedup();
        *seen.lock() |= images.len() > 1;
    }));
    c.patch::<Deployment>(
        "web",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}),
    )
    .await;
    c.until("rolled out", |all| complete(all) && all[0].annotation(REVISION) == Some("2")).await;
    assert!(!*mixed.lock());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_deployment_scales_but_does_not_roll() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Deployment>(deployment(2, "one", rolling(json!(1), json!(0)))).await;
    c.until("rolled out", complete).await;
    let change = json!({"spec": {"paused": true, "replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    c.patch::<Deployment>("web", change).await;
    c.until::<Deployment>("scaled", |all| all[0].status.as_ref().is_some_and(|s| s.available_replicas == Some(3)))
        .await;
    assert_eq!(c.client.list::<ReplicaSet>("shop", &Default::default()).await.unwrap().items.len(), 1);
    c.patch::<Deployment>("web", json!({"spec": {"paused": null, "revisionHistoryLimit": 0}})).await;
    c.until("rolled out", |all| complete(all) && all[0].annotation(REVISION) == Some("2")).await;
    c.until::<ReplicaSet>("history cleaned", |all| all.len() == 1).await;
    c.stop().await;
}
