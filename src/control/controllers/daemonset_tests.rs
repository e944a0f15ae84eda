//! Tests of the DaemonSet controller: plans as tables, its limits as properties, whole lives over the in-memory API.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn set(strategy: Value, more: Value) -> DaemonSet {
    let mut spec = json!({"selector": {"matchLabels": {"app": "log"}}, "revisionHistoryLimit": 10, "updateStrategy": strategy,
        "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": "log", "namespace": "shop", "uid": "d", "generation": 1}, "spec": spec}),
    )
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn node(name: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"name": name}}})).unwrap()
}

/// A namespace in which plans are carried out at once, and a scheduler and nodes that do as they are told.
struct World {
    set: DaemonSet,
    pods: Vec<Pod>,
    revisions: Vec<ControllerRevision>,
    nodes: Vec<Node>,
    held: BTreeMap<String, Timestamp>,
    clock: Timestamp,
    made: usize,
}

impl World {
    fn new(set: DaemonSet, nodes: usize) -> Self {
        let nodes = (0..nodes).map(|n| node(&format!("n{n}"))).collect();
        Self { set, pods: vec![], revisions: vec![], nodes, held: BTreeMap::new(), clock: now(), made: 0 }
    }

    fn settled(set: DaemonSet, nodes: usize) -> Self {
        let mut world = Self::new(set, nodes);
        world.rest();
        world
    }

    fn plan(&self) -> Plan<Action> {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let revisions: Vec<_> = self.revisions.iter().cloned().map(Arc::new).collect();
        let nodes: Vec<_> = self.nodes.iter().cloned().map(Arc::new).collect();
        let held = |node: &str| self.held.get(node).copied();
        plan(&Observed { set: &self.set, pods: &pods, revisions: &revisions, nodes: &nodes, held: &held }, self.clock)
    }

    fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        let said = plan.actions.iter().map(said).collect();
        for action in plan.actions {
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
            Action::Create { pod, nodes } => {
                for node in nodes {
                    self.made += 1;
                    let mut pod = (*pod).clone();
                    placement::aim(pod.spec.as_mut().unwrap(), &node);
                    pod.metadata.name = Some(format!("log-{:03}", self.made));
                    pod.metadata.uid = pod.metadata.name.clone();
                    let made = i64::try_from(self.made).unwrap();
                    pod.metadata.creation_timestamp = Some(Time(now() + SignedDuration::from_secs(made)));
                    pod.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
                    self.pods.push(pod);
                }
            }
            Action::Delete { pods, .. } => {
                for (key, uid) in pods {
                    let pod = self.pods.iter_mut().find(|p| p.key() == key && p.uid() == uid).expect("there");
                    pod.metadata.deletion_timestamp = Some(Time(self.clock));
                }
            }
            Action::OwnPod { pod, adopt, .. } => {
                let reference = adopt.then(|| vec![pods::controller_reference(&self.set)]);
                self.pods.iter_mut().find(|p| p.key() == pod).unwrap().metadata.owner_references = reference;
            }
            Action::Relabel { pod, patch } => {
                let label = patch["metadata"]["labels"][POD_LABEL].as_str().unwrap().to_owned();
                let pod = self.pods.iter_mut().find(|p| p.key() == pod).unwrap();
                pod.metadata.labels.as_mut().unwrap().insert(POD_LABEL.into(), label);
            }
            Action::OwnRevision { .. } => {}
        }
    }

    fn on(&mut self, node: &str) -> &mut Pod {
        self.pods.iter_mut().find(|p| placement::target(p) == Some(node)).unwrap_or_else(|| panic!("none on {node}"))
    }

    fn ready(pod: &mut Pod, at: Timestamp) {
        let node = placement::target(pod).unwrap().to_owned();
        pod.spec.as_mut().unwrap().node_name = Some(node);
        pod.status = serde_json::from_value(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": types::time::rfc3339(at)}]}))
        .unwrap();
    }

    /// What working nodes do: pods that go are gone, the others become ready.
    fn nodes(&mut self) {
        self.pods.retain(|p| !p.is_terminating());
        let clock = self.clock;
        for pod in self.pods.iter_mut().filter(|p| !pods::is_ready(p) && !pods::is_finished(p)) {
            Self::ready(pod, clock);
        }
    }

    fn rest(&mut self) {
        for _ in 0..200 {
            if self.step().is_empty() && self.pods.iter().all(|p| pods::is_ready(p) && !p.is_terminating()) {
                return;
            }
            self.nodes();
        }
        panic!("no rest: {:?}", self.plan());
    }

    fn change(&mut self, image: &str) {
        self.spec().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.set.metadata.generation.as_mut().unwrap() += 1;
    }

    fn spec(&mut self) -> &mut DaemonSetSpec {
        self.set.spec.as_mut().unwrap()
    }

    fn taint(&mut self, node: usize, effect: &str) {
        self.nodes[node].spec = serde_json::from_value(json!({"taints": [{"key": "k", "effect": effect}]})).unwrap();
    }
}

fn said(action: &Action) -> String {
    match action {
        Action::OwnPod { adopt, .. } => format!("{} a pod", if *adopt { "adopt" } else { "release" }),
        Action::OwnRevision { adopt, .. } => format!("{} a revision", if *adopt { "adopt" } else { "release" }),
        Action::Revise(history::Write::Create(r)) => format!("revision {}", r.revision),
        Action::Revise(history::Write::Update(r)) => format!("revision again {}", r.revision),
        Action::Relabel { .. } => "relabel".into(),
        Action::Forget { .. } => "forget".into(),
        Action::Status(_) => "status".into(),
        Action::Create { nodes, .. } => format!("create {}", nodes.join(" ")),
        Action::Delete { pods, ended } => {
            let names: Vec<&str> = pods.iter().map(|(k, _)| &*k.name).collect();
            let ended: String = ended.iter().map(|e| if e.failed { " failed" } else { " succeeded" }).collect();
            format!("delete {}{ended}", names.join(" "))
        }
    }
}

#[test]
fn plans() {
    type Change = fn(&mut World);
    let plain = || rolling(json!(0), json!(1));
    let surge = || rolling(json!(1), json!(0));
    let rows: &[(&str, Value, Change, &[&str])] = &[
        ("all well", plain(), |_| (), &[]),
        ("a node comes", plain(), |w| w.nodes.push(node("n9")), &["status", "create n9"]),
        ("a pod is lost", plain(), |w| drop(w.pods.remove(0)), &["status", "create n0"]),
        ("a pod goes", plain(), |w| w.on("n0").metadata.deletion_timestamp = Some(Time(now())), &[]),
        (
            "nodes that are not meant",
            plain(),
            |w| {
                w.spec().template.spec.as_mut().unwrap().node_selector =
                    Some([("name".to_owned(), "n1".to_owned())].into());
            },
            &["revision 2", "status", "delete log-001 log-003"],
        ),
        ("a node that drives pods away", plain(), |w| w.taint(0, "NoExecute"), &["status", "delete log-001"]),
        ("a node that lets pods stay", plain(), |w| w.taint(0, "NoSchedule"), &["status"]),
        (
            "a failed pod",
            plain(),
            |w| w.on("n0").status.as_mut().unwrap().phase = Some("Failed".into()),
            &["delete log-001 failed"],
        ),
        (
            "a pod that ended well",
            plain(),
            |w| w.on("n0").status.as_mut().unwrap().phase = Some("Succeeded".into()),
            &["delete log-001 succeeded"],
        ),
        (
            "one too many, the newer goes",
            plain(),
            |w| {
                let mut twin = w.pods[0].clone();
                twin.metadata.name = Some("log-009".into());
                twin.metadata.uid = Some("log-009".into());
                w.pods.push(twin);
            },
            &["delete log-009"],
        ),
        (
            "a pod that was sent to a node that is gone",
            plain(),
            |w| {
                w.on("n0").spec.as_mut().unwrap().node_name = None;
                w.nodes.remove(0);
            },
            &["status", "delete log-001"],
        ),
        ("a pod on a node that is gone is others' business", plain(), |w| drop(w.nodes.remove(0)), &["status"]),
        ("an orphan is taken", plain(), |w| w.on("n0").metadata.owner_references = None, &["adopt a pod"]),
        (
            "a relabelled pod is let go",
            plain(),
            |w| {
                w.on("n0").metadata.labels.as_mut().unwrap().insert("app".into(), "x".into());
            },
            &["release a pod", "status", "create n0"],
        ),
        ("a new template, one at a time", plain(), |w| w.change("two"), &["revision 2", "status", "delete log-001"]),
        (
            "several at a time",
            rolling(json!(0), json!("50%")),
            |w| w.change("two"),
            &["revision 2", "status", "delete log-001 log-002"],
        ),
        (
            "those that do not serve go first and count",
            plain(),
            |w| {
                w.change("two");
                w.on("n2").status.as_mut().unwrap().conditions = None;
            },
            &["revision 2", "status", "delete log-003"],
        ),
        (
            "a bare node is waited for",
            plain(),
            |w| {
                w.change("two");
                w.on("n2").metadata.deletion_timestamp = Some(Time(now()));
            },
            &["revision 2", "status"],
        ),
        ("on delete only", json!({"type": "OnDelete"}), |w| w.change("two"), &["revision 2", "status"]),
        ("surge: the new one first", surge(), |w| w.change("two"), &["revision 2", "status", "create n0"]),
        (
            "surge: beside all that do not serve",
            surge(),
            |w| {
                w.change("two");
                for node in ["n1", "n2"] {
                    w.on(node).status.as_mut().unwrap().conditions = None;
                }
            },
            &["revision 2", "status", "create n1 n2 n0"],
        ),
        (
            "being deleted",
            plain(),
            |w| {
                w.set.metadata.deletion_timestamp = Some(Time(now()));
                w.pods.pop();
            },
            &[],
        ),
    ];
    for (name, strategy, change, expected) in rows {
        let mut world = World::settled(set(strategy.clone(), json!({})), 3);
        change(&mut world);
        let plan = world.plan();
        assert_eq!(plan.actions.iter().map(said).collect::<Vec<_>>(), *expected, "{name}: {:?}", plan.why);
    }
}

#[test]
fn a_surge_goes_on_when_the_new_pod_serves() {
    let mut world = World::settled(set(rolling(json!(1), json!(0)), json!({"minReadySeconds": 10})), 2);
    world.clock += SignedDuration::from_secs(10);
    world.rest();
    world.change("two");
    assert_eq!(world.step(), ["revision 2", "status", "create n0"]);
    assert_eq!(world.step(), Vec::<String>::new());
    let at = world.clock;
    World::ready(world.pods.last_mut().unwrap(), at);
    let plan = world.plan();
    assert_eq!((plan.actions.len(), plan.again), (0, Some(at + SignedDuration::from_secs(10))));
    world.clock = at + SignedDuration::from_secs(10);
    assert_eq!(world.step(), ["delete log-001"]);
    assert_eq!(world.step(), ["create n1"]);
}

#[test]
fn numbers_say_what_is() {
    let mut world = World::settled(set(rolling(json!(0), json!(1)), json!({})), 4);
    let numbers = |w: &World| {
        let s = w.set.status.clone().unwrap();
        let some = |n: Option<i32>| n.unwrap();
        (
            [s.desired_number_scheduled, s.current_number_scheduled, s.number_misscheduled, s.number_ready],
            [some(s.updated_number_scheduled), some(s.number_available), some(s.number_unavailable)],
        )
    };
    assert_eq!(numbers(&world), ([4, 4, 0, 4], [4, 4, 0]));
    world.taint(0, "NoSchedule");
    world.on("n1").status.as_mut().unwrap().conditions = None;
    world.on("n2").metadata.labels.as_mut().unwrap().insert(POD_LABEL.into(), "old".into());
    world.pods.retain(|p| placement::target(p) != Some("n3"));
    world.step();
    assert_eq!(numbers(&world), ([3, 2, 1, 1], [1, 1, 2]));
}

#[test]
fn a_failed_pod_is_left_alone_while_it_must_be() {
    let mut world = World::settled(set(rolling(json!(0), json!(1)), json!({})), 1);
    world.on("n0").status.as_mut().unwrap().phase = Some("Failed".into());
    let until = world.clock + SignedDuration::from_secs(4);
    world.held.insert("n0".into(), until);
    let plan = world.plan();
    assert!(!plan.actions.iter().any(|a| matches!(a, Action::Delete { .. } | Action::Create { .. })), "{plan:?}");
    assert_eq!(plan.again, Some(until));
    world.clock = until;
    assert!(world.step().contains(&"delete log-001 failed".to_owned()));
}

#[test]
fn history_is_kept_undone_and_cleared_of_twins() {
    let mut world = World::settled(set(rolling(json!(0), json!(1)), json!({"revisionHistoryLimit": 1})), 2);
    let first = world.revisions[0].clone();
    assert_eq!(first.name(), format!("log-{}", first.label(POD_LABEL).unwrap()));
    world.change("two");
    world.rest();
    world.change("one");
    world.rest();
    let again = world.revisions.iter().find(|r| r.name() == first.name()).unwrap();
    assert_eq!((world.revisions.len(), again.revision), (2, 3));
    assert!(world.pods.iter().all(|p| p.label(POD_LABEL) == first.label(POD_LABEL)));
    world.change("three");
    world.rest();
    assert_eq!(world.revisions.len(), 2, "one is kept beside the newest");
    let newest = world.revisions.iter().max_by_key(|r| r.revision).unwrap().clone();
    let mut twin = newest.clone();
    twin.metadata.name = Some("log-twin".into());
    twin.metadata.labels.as_mut().unwrap().insert(POD_LABEL.into(), "twin".into());
    twin.revision += 1;
    world.revisions.push(twin);
    assert_eq!(world.step(), ["relabel", "relabel", "forget"]);
    assert_eq!(world.step(), Vec::<String>::new());
    assert!(world.pods.iter().all(|p| p.label(POD_LABEL) == Some("twin")));
}

proptest! {
    /// Whatever happens: for an update no more pods that serve are taken away than may be missing, and with surge none before
    /// another serves in its place; once nothing happens any more each node has its one pod of the newest template, and it is quiet.
    #[test]
    fn limits_hold_and_everything_comes_to_rest(
        surge in 0usize..3, most in 1usize..3, count in 1usize..6,
        events in proptest::collection::vec((0u8..7, 0usize..8), 0..30),
    ) {
        let limits = if surge > 0 { rolling(json!(surge), json!(0)) } else { rolling(json!(0), json!(most)) };
        let mut w = World::new(set(limits, json!({})), count);
        for (event, which) in events {
            let len = w.pods.len();
            match event {
                0 => w.change(["one", "two", "three"][which % 3]),
                1 if len > 0 => drop(w.pods.remove(which % len)),
                2 if len > 0 => {
                    let at = w.clock;
                    World::ready(&mut w.pods[which % len], at);
                }
                3 if len > 0 => w.pods[which % len].status.as_mut().unwrap().phase = Some("Failed".into()),
                4 if w.nodes.len() < 8 => {
                    let name = format!("x{}", w.nodes.len());
                    w.nodes.push(node(&name));
                }
                5 => w.nodes(),
                _ => {}
            }
            let serves = |p: &&Pod| pods::is_ready(p) && !p.is_terminating() && !pods::is_finished(p);
            let before = w.nodes.iter().filter(|n| w.pods.iter().filter(serves).any(|p| placement::target(p) == Some(n.name()))).count();
            w.step();
            let after = w.nodes.iter().filter(|n| w.pods.iter().filter(serves).any(|p| placement::target(p) == Some(n.name()))).count();
            let allowed = if surge > 0 { 0 } else { most };
            let floor = before.min(w.nodes.len().saturating_sub(allowed));
            prop_assert!(after >= floor, "{after} of {before} serve, {} nodes, {allowed} may be missing", w.nodes.len());
            for n in &w.nodes {
                let there = w.pods.iter().filter(|p| !p.is_terminating() && placement::target(p) == Some(n.name())).count();
                prop_assert!(there <= 1 + usize::from(surge > 0), "{there} on {}", n.name());
            }
        }
        w.rest();
        let mut targets: Vec<&str> = w.pods.iter().filter_map(placement::target).collect();
        let mut names: Vec<&str> = w.nodes.iter().map(|n| n.name()).collect();
        targets.sort_unstable();
        names.sort_unstable();
        prop_assert_eq!(targets, names);
        let image = w.set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].image.clone();
        for pod in &w.pods {
            prop_assert_eq!(&pod.spec.as_ref().unwrap().containers[0].image, &image);
        }
        prop_assert_eq!(w.plan(), Plan::nothing());
    }
}

fn done(n: i32) -> impl Fn(&[Arc<DaemonSet>]) -> bool {
    move |all| {
        all.first().is_some_and(|d| {
            let s = d.status.clone().unwrap_or_default();
            s.observed_generation == d.metadata.generation
                && (s.desired_number_scheduled, s.number_available, s.updated_number_scheduled) == (n, Some(n), Some(n))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn every_node_gets_its_pod_and_then_there_is_rest() {
    let c = Cluster::start(Kubelet::Works).await;
    for name in ["n2", "n3"] {
        c.create::<Node>(json!({"metadata": {"name": name}})).await;
    }
    let plain = json!({"metadata": {"name": "log", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "log"}},
        "revisionHistoryLimit": 10, "updateStrategy": rolling(json!(0), json!(1)),
        "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    c.create::<DaemonSet>(plain).await;
    c.until("three", done(3)).await;
    let pods = c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items;
    let mut nodes: Vec<&str> = pods.iter().map(pods::node_name).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
    c.patch::<DaemonSet>(
        "log",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}),
    )
    .await;
    c.until("rolled out", done(3)).await;
    c.until::<Pod>("all new", |all| {
        let new = |p: &Arc<Pod>| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("two");
        all.len() == 3 && all.iter().all(new)
    })
    .await;
    c.until("rolled out", done(3)).await;
    // A node that drives them away, and takes them back.
    let taint = |taints: Value| json!({"spec": {"taints": taints}});
    let path = "/api/v1/nodes/n3";
    let away = taint(json!([{"key": "k", "effect": "NoExecute"}]));
    let _: Node = c.client.patch_path(path, client::Patch::Merge(&away), &Default::default()).await.unwrap();
    c.until("two", done(2)).await;
    c.until::<Pod>("gone from there", |all| all.len() == 2).await;
    let _: Node =
        c.client.patch_path(path, client::Patch::Merge(&taint(Value::Null)), &Default::default()).await.unwrap();
    c.until("three again", done(3)).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_at_once_is_made_again_ever_more_rarely() {
    let c = Cluster::start(Kubelet::Refuses).await;
    let plain = json!({"metadata": {"name": "log", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "log"}},
        "revisionHistoryLimit": 10, "updateStrategy": rolling(json!(0), json!(1)),
        "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    c.create::<DaemonSet>(plain).await;
    c.until::<k8s_openapi::api::core::v1::Event>("told", |all| {
        all.iter().any(|e| e.reason.as_deref() == Some("FailedDaemonPod"))
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    let posts = c.fake.take_writes().iter().filter(|w| w.as_str() == "POST /api/v1/namespaces/shop/pods").count();
    // At once, then after 1, 2, 4, … s: eight in two minutes.
    assert!((5..=9).contains(&posts), "{posts} in two minutes");
    c.stop().await;
}

/// As upstream's suite does it ("should manage the lifecycle of a ControllerRevision").
#[tokio::test(start_paused = true)]
async fn somebodys_second_revision_stays_until_there_is_something_to_do() {
    let c = Cluster::start(Kubelet::Works).await;
    let plain = json!({"metadata": {"name": "log", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "log"}},
        "revisionHistoryLimit": 10, "updateStrategy": rolling(json!(0), json!(1)),
        "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    c.create::<DaemonSet>(plain).await;
    c.until("one", done(1)).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    let revisions = async || c.client.list::<ControllerRevision>("shop", &Default::default()).await.unwrap().items;
    let [first] = &revisions().await[..] else { panic!("more than one revision") };
    let metadata = ObjectMeta {
        name: Some("log-second".into()),
        namespace: Some("shop".into()),
        labels: first.metadata.labels.clone(),
        owner_references: first.metadata.owner_references.clone(),
        ..ObjectMeta::default()
    };
    c.client.create(&ControllerRevision { metadata, data: first.data.clone(), revision: 2 }).await.unwrap();
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    assert_eq!(revisions().await.len(), 2);
    c.client.delete::<ControllerRevision>("shop", first.name(), &client::DeleteParams::default()).await.unwrap();
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    let left: Vec<String> = revisions().await.iter().map(|r| r.name().to_owned()).collect();
    assert_eq!(left, ["log-second"], "it serves as well");
    c.stop().await;
}
