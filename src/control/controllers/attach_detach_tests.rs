//! The plans of the attach/detach controller, as tables.

use k8s_openapi::api::core::v1::Event;
use serde_json::from_value;

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

fn pod(name: &str, namespace: &str, node: &str) -> Pod {
    from_value(json!({"metadata": {"name": name, "namespace": namespace, "uid": name},
        "spec": {"containers": [], "nodeName": node}}))
    .unwrap()
}

fn attachment(node: &str, status: Value) -> Arc<Attachment> {
    let name = attachment_name("d", "h", node);
    Arc::new(
        from_value(json!({"metadata": {"name": name, "uid": format!("on-{node}")}, "spec": {"attacher": "d",
            "nodeName": node, "source": {"persistentVolumeName": "pv"}}, "status": status}))
        .unwrap(),
    )
}

fn node(name: &str, ready: bool, in_use: bool, taint: Option<&str>) -> Arc<Node> {
    let in_use: &[&str] = if in_use { &["kubernetes.io/csi/d^h"] } else { &[] };
    let ready = if ready { "True" } else { "Unknown" };
    let taints: Vec<Value> = taint.iter().map(|key| json!({"key": key, "effect": "NoExecute"})).collect();
    Arc::new(
        from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}, "status":
            {"volumesInUse": in_use, "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap(),
    )
}

#[test]
fn what_a_volume_needs() {
    let volume = |mode: &str| -> Volume {
        from_value(json!({"metadata": {"name": "pv"}, "spec": {"accessModes": [mode],
            "csi": {"driver": "d", "volumeHandle": "h"}}}))
        .unwrap()
    };
    let (once, many) = (volume("ReadWriteOnce"), volume("ReadWriteMany"));
    let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
    let attached = || json!({"attached": true});
    let attach = |node: &str| Action::Attach {
        name: attachment_name("d", "h", node),
        driver: "d".into(),
        node: node.into(),
        volume: "pv".into(),
    };
    let detach = |node: &str| Action::Detach {
        name: attachment_name("d", "h", node),
        uid: format!("on-{node}"),
        node: node.into(),
        unique: "kubernetes.io/csi/d^h".into(),
    };
    let tell = |about: &str, pod: &str, message: &str| Action::Tell {
        about: about.into(),
        pods: vec![Key::new("ns", pod)],
        message: message.into(),
    };
    let (a, b) = (pod("a", "ns", "n1"), pod("b", "ns", "n2"));
    let foreign = pod("f", "other", "n1");
    struct Row<'a> {
        name: &'static str,
        volume: &'a Volume,
        pods: Vec<&'a Pod>,
        attachments: Vec<Arc<Attachment>>,
        nodes: Vec<Arc<Node>>,
        minutes: i64,
        expected: Vec<Action>,
        again: bool,
    }
    let base = |name, pods, attachments, nodes, expected| Row {
        name,
        volume: &once,
        pods,
        attachments,
        nodes,
        minutes: 0,
        expected,
        again: false,
    };
    let well = || vec![node("n1", true, true, None), node("n2", true, false, None)];
    let on_n1 = || vec![attachment("n1", attached())];
    let going = || {
        let mut going = (*attachment("n1", attached())).clone();
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        vec![Arc::new(going)]
    };
    let used_by_a = "Multi-Attach error for volume \"pv\" Volume is already used by pod(s) a";
    let rows = vec![
        base("all well", vec![&a], on_n1(), well(), vec![]),
        base("a pod came", vec![&a], vec![], well(), vec![attach("n1")]),
        base("to a node that is gone", vec![&a], vec![], vec![], vec![]),
        base("nobody's", vec![], vec![], well(), vec![]),
        base("the pod went, the node has it", vec![], on_n1(), well(), vec![]),
        base("the node let go", vec![], on_n1(), vec![node("n1", true, false, None)], vec![detach("n1")]),
        base("the node went", vec![], on_n1(), vec![], vec![detach("n1")]),
        base(
            "out of service",
            vec![],
            on_n1(),
            vec![node("n1", false, true, Some(OUT_OF_SERVICE))],
            vec![detach("n1")],
        ),
        Row { again: true, ..base("silent", vec![], on_n1(), vec![node("n1", false, true, None)], vec![]) },
        Row {
            minutes: 6,
            ..base("silent for long", vec![], on_n1(), vec![node("n1", false, true, None)], vec![detach("n1")])
        },
        Row { minutes: 60, ..base("slow", vec![], on_n1(), well(), vec![]) },
        base("going already", vec![], going(), vec![node("n1", true, false, None)], vec![]),
        base(
            "still there",
            vec![&b],
            going(),
            well(),
            vec![tell(
                "b/pv",
                "b",
                "Multi-Attach error for volume \"pv\" Volume is already exclusively attached to one node and can't be attached \
             to another",
            )],
        ),
        base("elsewhere", vec![&a, &b], on_n1(), well(), vec![tell("b/pv", "b", used_by_a)]),
        base(
            "somebody else's elsewhere",
            vec![&foreign, &b],
            on_n1(),
            well(),
            vec![tell(
                "b/pv",
                "b",
                "Multi-Attach error for volume \"pv\" Volume is already used by 1 pod(s) in different namespaces",
            )],
        ),
        base(
            "moved",
            vec![&b],
            on_n1(),
            vec![node("n1", true, false, None), node("n2", true, false, None)],
            vec![
                detach("n1"),
                tell(
                    "b/pv",
                    "b",
                    "Multi-Attach error for volume \"pv\" Volume is already exclusively attached to one node and can't be \
                 attached to another",
                ),
            ],
        ),
        Row { volume: &many, ..base("for many", vec![&a, &b], on_n1(), well(), vec![attach("n2")]) },
        base(
            "failed",
            vec![&a],
            vec![attachment("n1", json!({"attached": false, "attachError": {"message": "no"}}))],
            well(),
            vec![tell("on-n1", "a", "AttachVolume.Attach failed for volume \"pv\" : no")],
        ),
    ];
    for row in rows {
        let since = now - SignedDuration::from_mins(row.minutes);
        let unneeded = row.attachments.iter().map(|a| (a.name().to_owned(), since)).collect();
        let observed = Observed {
            volume: row.volume,
            attaches: true,
            pods: row.pods,
            attachments: &row.attachments,
            nodes: &|name: &str| row.nodes.iter().find(|n| n.name() == name).cloned(),
            unneeded: &unneeded,
        };
        let plan = plan(&observed, now);
        assert_eq!((plan.actions, plan.again.is_some()), (row.expected, row.again), "{}", row.name);
    }
}

#[test]
fn what_a_node_lists() {
    let mut node = (*node("n1", true, true, None)).clone();
    let attached: BTreeMap<String, String> = [("kubernetes.io/csi/d^h".to_owned(), "pv".to_owned())].into();
    let plan = plan_node(&node, &attached, |_| vec![Key::new("ns", "a")]);
    let Action::List { attached: list, new, .. } = &plan.actions[0] else { panic!("{plan:?}") };
    assert_eq!(*list, [json!({"name": "kubernetes.io/csi/d^h", "devicePath": ""})]);
    assert_eq!(*new, [("pv".to_owned(), vec![Key::new("ns", "a")])]);
    let status = node.status.as_mut().unwrap();
    status.volumes_attached =
        from_value(json!([{"name": "kubernetes.io/csi/d^h", "devicePath": ""}, {"name": "x", "devicePath": ""}]))
            .unwrap();
    assert_eq!(plan_node(&node, &attached, |_| vec![]), Plan::nothing());
    let plan = plan_node(&node, &BTreeMap::new(), |_| vec![]);
    let Action::List { attached: list, .. } = &plan.actions[0] else { panic!("{plan:?}") };
    assert_eq!(*list, [json!({"name": "x", "devicePath": ""})], "another's is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_volume_comes_and_goes_with_its_pod() {
    let cluster = Cluster::start(Kubelet::Absent).await;
    let claim: PersistentVolumeClaim = cluster
        .create(json!({"metadata": {"name": "data", "namespace": "shop"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "", "volumeName": "pv", "resources": {"requests": {"storage": "1Gi"}}}}))
        .await;
    let _: Volume = cluster
        .create(json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "shop", "name": "data", "uid": claim.uid()},
            "csi": {"driver": "d", "volumeHandle": "h"}}, "status": {"phase": "Available"}}))
        .await;
    let pod: Pod = cluster
        .create(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": "n1", "containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}))
        .await;
    cluster.until::<Attachment>("attachment", |all| all.len() == 1).await;
    let name = attachment_name("d", "h", "n1");
    let in_use = json!({"status": {"volumesInUse": ["kubernetes.io/csi/d^h"]}});
    let _: Node = cluster.client.patch_status("", "n1", Patch::Merge(&in_use)).await.unwrap();
    let _: Attachment =
        cluster.client.patch_status("", &name, Patch::Merge(&json!({"status": {"attached": true}}))).await.unwrap();
    cluster.until::<Node>("it is listed", |all| !listed(&all[0]).is_empty()).await;
    cluster
        .until::<Event>("event", |all| all.iter().any(|e| e.reason.as_deref() == Some("SuccessfulAttachVolume")))
        .await;
    assert_eq!(cluster.writes_at_rest().await, [""; 0]);
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(pod.uid()) };
    cluster.client.delete::<Pod>("shop", "p", &now).await.unwrap();
    assert_eq!(cluster.client.list::<Attachment>("", &Default::default()).await.unwrap().items.len(), 1, "in use");
    let free = json!({"status": {"volumesInUse": null}});
    let _: Node = cluster.client.patch_status("", "n1", Patch::Merge(&free)).await.unwrap();
    cluster.until::<Attachment>("detachment", <[_]>::is_empty).await;
    cluster.until::<Node>("it is not listed", |all| listed(&all[0]).is_empty()).await;
    cluster.stop().await;
}
