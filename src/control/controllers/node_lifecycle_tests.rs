//! Tests of the node lifecycle controller: plans as tables.

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
    let taints: Vec<_> = taints.iter().map(|(k, e)| json!({"key": k, "effect": e})).collect();
    serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"taints": taints},
        "status": {"conditions": [
            {"type": "MemoryPressure", "status": "False"}, {"type": "DiskPressure", "status": "False"},
            {"type": "PIDPressure", "status": "False"}, {"type": "Ready", "status": ready}]}}))
    .unwrap()
}
fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}
fn check(node: &Node, silent: u64, evicts: Evicts) -> Plan<Action> {
    let (silent, grace) = (Duration::from_secs(silent), Duration::from_secs(10));
    plan(&Observed { node, silent, grace, evicts, pods: &[] }, now())
}
fn keys(node: &Node) -> Vec<(String, String)> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).map(|t| (t.key.clone(), t.effect.clone())).collect()
}

#[test]
fn a_node_that_is_heard_is_left_alone_until_its_deadline() {
    let plan = check(&node("True", &[("mine", "NoSchedule")]), 3, Evicts::Yes);
    assert!(plan.actions.is_empty());
    assert_eq!(plan.again, Some(now() + SignedDuration::from_secs(7)));
}

#[test]
fn a_silent_node_is_unknown_and_tainted_and_then_nothing_is_left() {
    let plan = check(&node("True", &[("mine", "NoSchedule")]), 10, Evicts::Yes);
    let [Action::Status(status), Action::Say("NodeNotReady", text), Action::Taints(tainted)] = &plan.actions[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(text, "Node n1 status is now: NodeNotReady");
    assert!(VOUCHED.iter().all(|c| condition(status, c).unwrap().status == "Unknown"));
    let unreachable = |effect: &str| (UNREACHABLE.to_owned(), effect.to_owned());
    let mine = ("mine".to_owned(), "NoSchedule".to_owned());
    assert_eq!(keys(tainted), [mine.clone(), unreachable("NoSchedule")]);
    let mut after = (**tainted).clone();
    after.status = status.status.clone();
    // Now its zone knows.
    let plan = check(&after, 11, Evicts::Yes);
    let [Action::Taints(tainted)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(keys(tainted), [mine, unreachable("NoSchedule"), unreachable("NoExecute")]);
    after.spec = tainted.spec.clone();
    let plan = check(&after, 60, Evicts::Yes);
    assert!(plan.actions.is_empty() && plan.again.is_none(), "{plan:?}");
    // It comes back.
    let mut back = after;
    back.status = node("True", &[]).status;
    let plan = check(&back, 0, Evicts::Yes);
    let [Action::Taints(clean)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(keys(clean).len(), 1);
}

#[test]
fn pods_are_told_to_go_when_it_is_their_nodes_turn() {
    let (away, out) = ((UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute"));
    let (away_other, out_other) = ((NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute"));
    for (name, evicts, before, after) in [
        ("not yet", Evicts::NoMore, vec![], vec![away]),
        ("its turn", Evicts::Yes, vec![away], vec![away, out]),
        ("told before", Evicts::NoMore, vec![away, out], vec![away, out]),
        ("told otherwise before", Evicts::NoMore, vec![away_other, out_other], vec![away, out]),
        ("all are lost", Evicts::Nobody, vec![away, out], vec![away]),
    ] {
        let node = node("Unknown", &before);
        let plan = check(&node, 0, evicts);
        let tainted = plan.actions.iter().find_map(|a| if let Action::Taints(n) = a { Some(&**n) } else { None });
        let after: Vec<_> = after.into_iter().map(|(k, e)| (k.to_owned(), e.to_owned())).collect();
        assert_eq!(keys(tainted.unwrap_or(&node)), after, "{name}");
    }
}

/// Waits until the pods of these nodes, and of no others, have been told to go, and new ones stay away from all that are lost.
async fn told(cluster: &Cluster, expected: &[&str]) {
    let holds = |all: &[Arc<Node>]| {
        let told: Vec<&str> = all.iter().filter(|n| is_told(n)).map(|n| n.name()).collect();
        let kept_away = |n: &Node| keys(n).contains(&(NOT_READY.to_owned(), "NoSchedule".to_owned()));
        told == expected && all.iter().all(|n| is_ready(n) != kept_away(n))
    };
    cluster.until::<Node>(&format!("{expected:?} are told"), holds).await;
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_falls_apart_is_left_alone() {
    let cluster = Cluster::start(Kubelet::Absent).await;
    let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    for name in ["a", "b", "c", "d"] {
        let mut node = ready("True");
        node["metadata"] = json!({"name": name});
        cluster.create::<Node>(node).await;
    }
    let set = async |name: &str, status: &str| {
        let _: Node = cluster.client.patch_status("", name, Patch::Merge(&ready(status))).await.unwrap();
    };
    // With the node of the harness they are five.
    set("a", "False").await;
    told(&cluster, &["a"]).await;
    set("b", "False").await;
    told(&cluster, &["a", "b"]).await;
    set("c", "False").await;
    told(&cluster, &["a", "b"]).await;
    assert_eq!(cluster.writes_at_rest().await, Vec::<String>::new());
    told(&cluster, &["a", "b"]).await;
    for name in ["d", "n1"] {
        set(name, "False").await;
    }
    told(&cluster, &[]).await;
    assert_eq!(cluster.writes_at_rest().await, Vec::<String>::new());
    // They come back one by one; the two that do not are dead.
    for name in ["n1", "a", "b"] {
        set(name, "True").await;
    }
    told(&cluster, &["c", "d"]).await;
    cluster.stop().await;
}
