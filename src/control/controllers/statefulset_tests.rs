//! Tests of the StatefulSet controller: plans as tables, its promises as properties, whole lives over the in-memory API.

use std::cell::RefCell;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn set(replicas: i32, image: &str, more: Value) -> StatefulSet {
    let mut set = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "s", "generation": 1}, "spec": {
        "replicas": replicas, "serviceName": "svc", "selector": {"matchLabels": {"app": "web"}},
        "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        set["spec"][key] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

/// A namespace in which plans are carried out at once.
struct World {
    set: StatefulSet,
    pods: Vec<Pod>,
    claims: BTreeMap<String, PersistentVolumeClaim>,
    revisions: Vec<ControllerRevision>,
    clock: Timestamp,
    made: u32,
}

impl World {
    fn new(set: StatefulSet) -> Self {
        Self { set, pods: vec![], claims: BTreeMap::new(), revisions: vec![], clock: now(), made: 0 }
    }

    fn plan(&self) -> Plan<Action> {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let revisions: Vec<_> = self.revisions.iter().cloned().map(Arc::new).collect();
        let claims = |name: &str| self.claims.get(name).cloned().map(Arc::new);
        plan(&Observed { set: &self.set, pods: &pods, revisions: &revisions, claims: &claims }, self.clock)
    }

    /// What is planned, in short, after it was carried out.
    fn step(&mut self) -> Vec<String> {
        let actions = self.plan().actions;
        let said = actions.iter().map(said).collect();
        for action in actions {
            self.apply(action);
        }
        said
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Status(new) => self.set.status = new.status,
            Action::Revise(history::Write::Create(mut new)) => {
                new.metadata.uid = new.metadata.name.clone();
                self.revisions.push(*new);
            }
            Action::Revise(history::Write::Update(new)) => {
                self.revisions.retain(|r| r.name() != new.name());
                self.revisions.push(*new);
            }
            Action::Forget { revision, .. } => self.revisions.retain(|r| r.name() != &*revision.name),
            Action::Create(list) => {
                for new in list {
                    let NewPod { mut pod, claims, .. } = new;
                    self.claims.extend(claims.missing.into_iter().map(|c| (c.name().to_owned(), c)));
                    if !claims.going.is_empty() {
                        continue;
                    }
                    assert!(self.pods.iter().all(|p| p.name() != pod.name()), "{} twice", pod.name());
                    self.made += 1;
                    pod.metadata.uid = Some(format!("{}-{}", pod.name(), self.made));
                    pod.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
                    self.pods.push(pod);
                }
            }
            Action::Delete(list) => {
                for (key, uid) in list {
                    let pod = self.pods.iter_mut().find(|p| p.key() == key && p.uid() == uid).expect("there");
                    pod.metadata.deletion_timestamp = Some(Time(self.clock));
                }
            }
            Action::Claims { needed, owners, .. } => {
                self.claims.extend(needed.missing.into_iter().chain(owners).map(|c| (c.name().to_owned(), c)));
            }
            Action::OwnPod { pod, adopt, .. } => {
                let reference = adopt.then(|| vec![pods::controller_reference(&self.set)]);
                self.pod(&pod.name).metadata.owner_references = reference;
            }
            Action::OwnRevision { .. } => {}
            Action::Correct { pod, patch, .. } => {
                let labels = serde_json::from_value::<BTreeMap<String, String>>(patch["metadata"]["labels"].clone());
                self.pod(&pod.name).metadata.labels.get_or_insert_default().extend(labels.unwrap());
            }
        }
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.iter_mut().find(|p| p.name() == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn ready(&mut self, name: &str) {
        let at = types::time::rfc3339(self.clock);
        self.pod(name).status = serde_json::from_value(json!({"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]}))
        .unwrap();
    }

    /// What a working node does: pods that go are gone, the others become ready.
    fn node(&mut self) {
        self.pods.retain(|p| !p.is_terminating());
        let names: Vec<String> = self.pods.iter().filter(|p| !View::is_ready(p)).map(|p| p.name().to_owned()).collect();
        for name in names {
            self.ready(&name);
        }
    }

    /// Lets everything come to rest.
    fn rest(&mut self) {
        for _ in 0..200 {
            let before = self.pods.len();
            if self.step().is_empty()
                && before == self.pods.len()
                && self.pods.iter().all(|p| View::is_ready(p) && !p.is_terminating())
            {
                return;
            }
            self.node();
        }
        panic!("no rest: {:?}", self.plan());
    }

    fn settled(set: StatefulSet) -> Self {
        let mut world = Self::new(set);
        world.rest();
        world
    }

    fn images(&self) -> Vec<String> {
        let mut list: Vec<_> = self
            .pods
            .iter()
            .map(|p| {
                let image = p.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
                format!("{} {image}", p.name())
            })
            .collect();
        list.sort_unstable();
        list
    }

    fn change(&mut self, image: &str) {
        self.set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.set.metadata.generation.as_mut().unwrap() += 1;
    }

    fn spec(&mut self) -> &mut StatefulSetSpec {
        self.set.spec.as_mut().unwrap()
    }
}

fn said(action: &Action) -> String {
    let names = |list: &[(Key, String)]| list.iter().map(|(k, _)| format!(" {}", k.name)).collect::<String>();
    match action {
        Action::OwnPod { pod, adopt, .. } => format!("{} {}", if *adopt { "adopt" } else { "release" }, pod.name),
        Action::OwnRevision { adopt, .. } => format!("revision {}", if *adopt { "adopt" } else { "release" }),
        Action::Revise(history::Write::Create(r)) => format!("revision {}", r.revision),
        Action::Revise(history::Write::Update(r)) => format!("revision again {}", r.revision),
        Action::Status(_) => "status".into(),
        Action::Create(list) => {
            format!("create{}", list.iter().map(|n| format!(" {}", n.pod.name())).collect::<String>())
        }
        Action::Delete(list) => format!("delete{}", names(list)),
        Action::Claims { pod, .. } => format!("claims {pod}"),
        Action::Correct { pod, .. } => format!("correct {}", pod.name),
        Action::Forget { .. } => "forget".into(),
    }
}

#[test]
fn plans() {
    type Change = fn(&mut World);
    let parallel = || json!({"podManagementPolicy": "Parallel"});
    let rows: &[(&str, Value, Change, &[&str])] = &[
        ("all well", json!({}), |_| (), &[]),
        ("one more, one at a time", json!({}), |w| w.spec().replicas = Some(5), &["create web-3"]),
        ("two more at once", parallel(), |w| w.spec().replicas = Some(5), &["create web-3 web-4"]),
        ("scaled down, the last first", json!({}), |w| w.spec().replicas = Some(1), &["delete web-2"]),
        ("scaled down at once", parallel(), |w| w.spec().replicas = Some(1), &["delete web-2 web-1"]),
        (
            "no pod before those below it are well",
            json!({}),
            |w| {
                w.spec().replicas = Some(5);
                w.pod("web-1").status.as_mut().unwrap().conditions = None;
            },
            &["status"],
        ),
        (
            "nor goes one",
            json!({}),
            |w| {
                w.spec().replicas = Some(2);
                w.pod("web-1").status.as_mut().unwrap().conditions = None;
            },
            &["status"],
        ),
        (
            "an unwanted pod that is not well goes",
            json!({}),
            |w| {
                w.spec().replicas = Some(2);
                w.pod("web-2").status.as_mut().unwrap().conditions = None;
            },
            &["status", "delete web-2"],
        ),
        (
            "the last waits for an unwanted one below it",
            json!({}),
            |w| {
                w.spec().replicas = Some(1);
                for name in ["web-1", "web-2"] {
                    w.pod(name).status.as_mut().unwrap().conditions = None;
                }
            },
            &["status"],
        ),
        (
            "one that goes is waited for",
            json!({}),
            |w| w.pod("web-0").metadata.deletion_timestamp = Some(Time(now())),
            &["status"],
        ),
        (
            "a failed pod is taken away",
            json!({}),
            |w| w.pod("web-1").status.as_mut().unwrap().phase = Some("Failed".into()),
            &["status", "delete web-1"],
        ),
        (
            "and one that ended well",
            json!({}),
            |w| w.pod("web-1").status.as_mut().unwrap().phase = Some("Succeeded".into()),
            &["status", "delete web-1"],
        ),
        (
            "a missing pod comes back",
            json!({}),
            |w| w.pods.retain(|p| p.name() != "web-1"),
            &["status", "create web-1"],
        ),
        ("a new template, the last first", json!({}), |w| w.change("two"), &["revision 2", "status", "delete web-2"]),
        (
            "on delete only",
            json!({"updateStrategy": {"type": "OnDelete"}}),
            |w| w.change("two"),
            &["revision 2", "status"],
        ),
        (
            "not below the partition",
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}}),
            |w| w.change("two"),
            &["revision 2", "status"],
        ),
        (
            "maxUnavailable is behind a gate that is off",
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": "67%"}}}),
            |w| w.change("two"),
            &["revision 2", "status", "delete web-2"],
        ),
        (
            "an orphan of a right name is taken",
            json!({}),
            |w| w.pod("web-1").metadata.owner_references = None,
            &["adopt web-1"],
        ),
        (
            "one of a wrong name is not",
            json!({}),
            |w| {
                let mut stray = w.pods[0].clone();
                stray.metadata.name = Some("web-x".into());
                stray.metadata.owner_references = None;
                w.pods.push(stray);
            },
            &[],
        ),
        (
            "a relabelled pod is let go; its place is taken",
            json!({}),
            |w| {
                w.pod("web-1").metadata.labels.as_mut().unwrap().insert("app".into(), "other".into());
            },
            &["release web-1", "status", "create web-1"],
        ),
        (
            "a lost identity is given back",
            json!({}),
            |w| {
                w.pod("web-1").metadata.labels.as_mut().unwrap().remove("statefulset.kubernetes.io/pod-name");
            },
            &["correct web-1"],
        ),
        (
            "numbers from another start",
            json!({}),
            |w| w.spec().ordinals = serde_json::from_value(json!({"start": 1})).unwrap(),
            &["create web-3"],
        ),
        (
            "being deleted",
            json!({}),
            |w| {
                w.set.metadata.deletion_timestamp = Some(Time(now()));
                w.pods.pop();
            },
            &["status"],
        ),
    ];
    for (name, more, change, expected) in rows {
        let mut world = World::settled(set(3, "one", more.clone()));
        change(&mut world);
        let plan = world.plan();
        assert_eq!(plan.actions.iter().map(said).collect::<Vec<_>>(), *expected, "{name}: {:?}", plan.why);
    }
}

#[test]
fn a_pod_has_its_name_its_host_name_and_its_claims() {
    let claims = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    let mut world = World::new(set(2, "one", json!({"volumeClaimTemplates": claims, "ordinals": {"start": 5}})));
    assert_eq!(world.step(), ["revision 1", "status", "create web-5"]);
    let pod = world.pod("web-5").clone();
    let revision = world.revisions[0].name().to_owned();
    for (label, value) in [
        ("app", "web"),
        ("statefulset.kubernetes.io/pod-name", "web-5"),
        ("apps.kubernetes.io/pod-index", "5"),
        ("controller-revision-hash", &revision),
    ] {
        assert_eq!(pod.label(label), Some(value), "{label}");
    }
    let spec = pod.spec.unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-5"), Some("svc")));
    let volume = &spec.volumes.unwrap()[0];
    assert_eq!(
        (volume.name.as_str(), volume.persistent_volume_claim.as_ref().unwrap().claim_name.as_str()),
        ("data", "data-web-5")
    );
    assert!(world.claims.contains_key("data-web-5"));
    // A claim that was lost before its pod began is made again.
    world.claims.clear();
    world.step();
    assert!(world.claims.contains_key("data-web-5"));
}

#[test]
fn claims_follow_their_pods() {
    let more = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}});
    let mut world = World::settled(set(2, "one", more));
    let owners = |w: &World, claim: &str| -> Vec<String> {
        w.claims[claim].metadata.owner_references.iter().flatten().map(|o| o.kind.clone()).collect()
    };
    assert_eq!(owners(&world, "data-web-1"), ["StatefulSet"]);
    world.spec().replicas = Some(1);
    assert_eq!(world.step(), ["claims web-1", "delete web-1"]);
    assert_eq!(
        (owners(&world, "data-web-0"), owners(&world, "data-web-1")),
        (vec!["StatefulSet".into()], vec!["Pod".into()])
    );
    world.rest();
    // The garbage collector has not been there yet: the new pod waits, and starts with a claim of its own.
    world.spec().replicas = Some(2);
    assert_eq!(world.step(), Vec::<String>::new());
    world.claims.get_mut("data-web-1").unwrap().metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(world.step(), Vec::<String>::new());
    world.claims.remove("data-web-1");
    assert_eq!(world.step(), ["create web-1"]);
}

#[test]
fn availability_comes_with_time() {
    let mut world = World::new(set(2, "one", json!({"minReadySeconds": 30})));
    world.step();
    world.ready("web-0");
    assert_eq!(world.step(), ["status"]);
    let status = world.set.status.clone().unwrap();
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), Some(0)));
    let plan = world.plan();
    assert_eq!((plan.actions.len(), plan.again), (0, Some(now() + SignedDuration::from_secs(30))));
    world.clock += SignedDuration::from_secs(30);
    assert_eq!(world.step(), ["status", "create web-1"]);
}

#[test]
fn a_pod_of_neither_revision_is_replaced_and_not_taken_off_the_current_ones() {
    let mut world = World::settled(set(1, "one", json!({"podManagementPolicy": "Parallel"})));
    // As one that is adopted from a set that was deleted without its pods: its revision is none of this set's.
    world.pods[0].metadata.labels.as_mut().unwrap().insert(POD_LABEL.into(), "strange".into());
    let plan = world.plan();
    let Some(Action::Status(new)) = plan.actions.first() else { panic!("{:?}", plan.actions) };
    assert_eq!(new.status.as_ref().unwrap().current_replicas, Some(0));
    world.rest();
    assert_eq!(world.images(), ["web-0 one"]);
    assert_eq!(world.set.status.as_ref().unwrap().current_replicas, Some(1));
}

#[test]
fn a_rollout_ends_in_a_new_current_revision_and_can_be_undone() {
    let mut world = World::settled(set(
        3,
        "one",
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
    ));
    let first = world.set.status.clone().unwrap().current_revision;
    world.change("two");
    world.rest();
    assert_eq!(world.images(), ["web-0 one", "web-1 one", "web-2 two"]);
    let status = world.set.status.clone().unwrap();
    assert_eq!(
        (&status.current_revision, status.current_replicas, status.updated_replicas),
        (&first, Some(2), Some(1))
    );
    // Below the partition a lost pod comes back as it was.
    world.pods.retain(|p| p.name() != "web-0");
    world.rest();
    assert_eq!(world.images(), ["web-0 one", "web-1 one", "web-2 two"]);
    world.spec().update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap().partition = Some(0);
    world.rest();
    let status = world.set.status.clone().unwrap();
    assert_eq!(world.images(), ["web-0 two", "web-1 two", "web-2 two"]);
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(3), Some(3)));
    assert!(status.current_revision == status.update_revision && status.current_revision != first);
    world.change("one");
    world.rest();
    let status = world.set.status.clone().unwrap();
    assert_eq!((status.current_revision, world.revisions.len()), (first, 2), "the first revision serves again");
    assert_eq!(world.revisions.iter().map(|r| r.revision).max(), Some(3));
}

#[test]
fn old_revisions_are_forgotten_but_none_that_a_pod_is_of() {
    let mut world = World::settled(set(1, "v0", json!({"revisionHistoryLimit": 2})));
    for image in ["v1", "v2", "v3", "v4"] {
        world.change(image);
        world.rest();
    }
    assert_eq!(world.revisions.len(), 3);
    world.spec().update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
    world.spec().revision_history_limit = Some(0);
    world.change("v5");
    world.rest();
    assert_eq!(world.revisions.len(), 2, "that of the pod and that of the template");
}

proptest! {
    /// Whatever happens to pods: in order they come and go one at a time, no number is there twice, of those that are wanted
    /// one is taken away at a time for an update; and once nothing happens any more, everything is as wanted, and quiet.
    #[test]
    fn numbers_stay_in_order_and_everything_comes_to_rest(
        ordered in any::<bool>(), start in 0i32..3, partition in 0i32..3,
        events in proptest::collection::vec((0u8..6, 0usize..6, 0i32..6), 0..30),
    ) {
        let more = json!({"podManagementPolicy": if ordered { "OrderedReady" } else { "Parallel" }, "ordinals": {"start": start},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
        let world = RefCell::new(World::new(set(3, "v0", more)));
        let step = || -> Result<(), TestCaseError> {
            let mut w = world.borrow_mut();
            let plan = w.plan();
            let range = identity::range(w.set.spec.as_ref().unwrap());
            let (mut made, mut gone, mut updated) = (0, 0, 0);
            for action in &plan.actions {
                match action {
                    Action::Create(list) => made += list.len(),
                    Action::Delete(list) => {
                        gone += list.len();
                        updated += list.iter().filter(|(key, _)| {
                            let n = identity::ordinal("web", &key.name).unwrap();
                            let pod = w.pods.iter().find(|p| p.key() == *key).unwrap();
                            range.contains(&n) && View::is_ready(pod)
                        }).count();
                    }
                    _ => {}
                }
            }
            prop_assert!(!ordered || made + gone <= 1, "{made} made and {gone} gone at once");
            prop_assert!(updated <= 1, "{updated} taken away at once");
            w.step();
            Ok(())
        };
        for (event, which, number) in events {
            {
                let mut w = world.borrow_mut();
                let len = w.pods.len();
                match event {
                    0 => w.spec().replicas = Some(number),
                    1 => w.change(&format!("v{}", number % 3)),
                    2 if len > 0 => {
                        let name = w.pods[which % len].name().to_owned();
                        w.ready(&name);
                    }
                    3 if len > 0 => w.pods[which % len].status.as_mut().unwrap().phase = Some("Failed".into()),
                    4 if len > 0 => drop(w.pods.remove(which % len)),
                    5 => w.node(),
                    _ => {}
                }
            }
            step()?;
        }
        let mut w = world.borrow_mut();
        w.rest();
        let spec = w.set.spec.clone().unwrap();
        let image = spec.template.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        let names: Vec<String> = identity::range(&spec).map(|n| format!("web-{n}")).collect();
        let mut there: Vec<String> = w.pods.iter().map(|p| p.name().to_owned()).collect();
        there.sort_unstable();
        prop_assert_eq!(&there, &names);
        for pod in &w.pods {
            let n = identity::ordinal("web", pod.name()).unwrap() - i64::from(start);
            let is_new = pod.spec.as_ref().unwrap().containers[0].image.as_ref() == Some(&image);
            prop_assert!(is_new || n < i64::from(partition), "{} is old", pod.name());
        }
        prop_assert_eq!(w.plan(), Plan::nothing());
    }
}

fn plain(replicas: i32, policy: &str) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": replicas, "serviceName": "svc",
        "selector": {"matchLabels": {"app": "web"}}, "podManagementPolicy": policy, "revisionHistoryLimit": 10,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}})
}

fn available(n: i32) -> impl Fn(&[Arc<StatefulSet>]) -> bool {
    move |all| {
        let status = all.first().and_then(|s| s.status.clone()).unwrap_or_default();
        (status.replicas, status.available_replicas, status.updated_replicas) == (n, Some(n), Some(n))
            && status.current_revision == status.update_revision
    }
}

fn posts(writes: &[String], plural: &str) -> usize {
    let path = format!("POST /api/v1/namespaces/shop/{plural}");
    writes.iter().filter(|w| **w == path).count()
}

#[tokio::test(start_paused = true)]
async fn a_set_lives_rolls_and_shrinks_and_then_there_is_rest() {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<StatefulSet>(plain(3, "OrderedReady")).await;
    c.until("three available", available(3)).await;
    let pods = c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items;
    let names: Vec<&str> = pods.iter().map(|p| p.name()).collect();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    assert!(pods.windows(2).all(|w| w[0].metadata.creation_timestamp <= w[1].metadata.creation_timestamp));
    let claims = c.client.list::<PersistentVolumeClaim>("shop", &Default::default()).await.unwrap().items;
    assert_eq!(claims.len(), 3);
    let writes = c.fake.take_writes();
    assert_eq!((posts(&writes, "pods"), posts(&writes, "persistentvolumeclaims")), (3, 3));
    c.patch::<StatefulSet>(
        "web",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}),
    )
    .await;
    c.until::<Pod>("all new", |all| {
        let new = |p: &Arc<Pod>| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("two");
        all.len() == 3 && all.iter().all(|p| new(p) && pods::is_ready(p))
    })
    .await;
    c.until("three available", available(3)).await;
    c.until::<ControllerRevision>("two revisions", |all| all.len() == 2).await;
    c.patch::<StatefulSet>("web", json!({"spec": {"replicas": 1}})).await;
    c.until("one available", available(1)).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    let events = c.client.list::<k8s_openapi::api::core::v1::Event>("shop", &Default::default()).await.unwrap().items;
    let text = |text: &str| events.iter().any(|e| e.message.as_deref() == Some(text));
    assert!(text("Create Pod web-0 in StatefulSet web successful"));
    assert!(text("Create Claim data-web-2 Pod web-2 in StatefulSet web success"));
    assert!(text("Delete Pod web-2 in StatefulSet web successful"));
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn in_parallel_all_pods_are_made_at_once_and_a_refusal_is_met_gently() {
    let c = Cluster::start(Kubelet::Works).await;
    c.fake.set_fault(Some(Box::new(|method, path, _| {
        let create = method == "POST" && path.ends_with("/pods");
        create.then(|| types::status::Status::new(types::status::Reason::Forbidden, "exceeded quota"))
    })));
    c.create::<StatefulSet>(plain(40, "Parallel")).await;
    c.until::<k8s_openapi::api::core::v1::Event>("told", |all| {
        let text = "Create Pod web-0 in StatefulSet web failed error: exceeded quota";
        all.iter().any(|e| e.message.as_deref() == Some(text))
    })
    .await;
    assert!(posts(&c.fake.take_writes(), "pods") <= 8);
    c.fake.set_fault(None);
    c.until("all", available(40)).await;
    c.fake.take_writes();
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}
