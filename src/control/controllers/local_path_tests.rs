//! Local-path provisioner: tables, and the life of a volume over the API in memory with nodes that answer.

use bytes::Bytes;
use client::fake::Fake;
use client::{Body, Clock, Informers, Transport, TransportError};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::Config;

type Change = fn(&mut Value);
const SAME: Change = |_| ();

/// Waits for its volume.
fn claim() -> Value {
    json!({"metadata": {"name": "data", "namespace": "d", "uid": "u", "resourceVersion": "1", "annotations": {
            "volume.kubernetes.io/storage-provisioner": PROVISIONER, "volume.kubernetes.io/selected-node": "n"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": CLASS},
        "status": {"phase": "Pending"}})
}

fn class() -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": CLASS}, "provisioner": PROVISIONER})).unwrap()
}

fn node() -> Node {
    serde_json::from_value(json!({"metadata": {"name": "n", "labels": {HOSTNAME: "host"}}})).unwrap()
}

fn shown(plan: &Plan<Action>) -> Vec<String> {
    let one = |action: &Action| match action {
        Action::Class => "class".into(),
        Action::Provision { node, folder, .. } => format!("provision {folder} on {node}"),
        Action::Claim { patch, .. } | Action::Volume { patch, .. } => {
            let mut patch = patch.clone();
            patch["metadata"].as_object_mut().unwrap().retain(|k, _| k == "annotations" || k == "finalizers");
            patch.to_string()
        }
        Action::Tell { reason, message, .. } => format!("{reason}: {message}"),
        Action::Remove { node, folder } => format!("remove {folder} on {node}"),
        Action::Delete { uid } => format!("delete {uid}"),
    };
    plan.actions.iter().map(one).collect()
}

#[test]
fn claims_get_folders() {
    let failed = |why: &str| {
        vec![format!("ProvisioningFailed: failed to provision volume with StorageClass \"local-path\": {why}")]
    };
    let rows: Vec<(&str, Change, Vec<String>)> = vec![
        ("asked for", SAME, vec!["provision pvc-u_d_data on n".into()]),
        (
            "bound",
            |c| {
                c["spec"]["volumeName"] = "v".into();
                c["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
            },
            vec![],
        ),
        ("about to be bound", |c| c["spec"]["volumeName"] = "v".into(), vec![]),
        (
            "another's to provision",
            |c| {
                c["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = "x.io/y".into();
            },
            vec![],
        ),
        ("going", |c| c["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(), vec![]),
        (
            "no node",
            |c| {
                c["metadata"]["annotations"].as_object_mut().unwrap().remove(SELECTED_NODE);
            },
            failed("configuration error, no node was specified"),
        ),
        (
            "a node that is gone",
            |c| c["metadata"]["annotations"][SELECTED_NODE] = "x".into(),
            vec![r#"{"metadata":{"annotations":{"volume.kubernetes.io/selected-node":null}}}"#.into()],
        ),
        (
            "shared",
            |c| c["spec"]["accessModes"] = json!(["ReadWriteMany"]),
            failed("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes"),
        ),
        (
            "of one pod",
            |c| c["spec"]["accessModes"] = json!(["ReadWriteOncePod"]),
            vec!["provision pvc-u_d_data on n".into()],
        ),
        ("selective", |c| c["spec"]["selector"] = json!({}), failed("claim.Spec.Selector is not supported")),
        (
            "a device",
            |c| c["spec"]["volumeMode"] = "Block".into(),
            failed("block volume provisioning is not supported"),
        ),
        (
            "a copy",
            |c| c["spec"]["dataSource"] = json!({"kind": "x", "name": "y"}),
            failed("data sources are not supported"),
        ),
        ("a long name", |c| c["metadata"]["name"] = "x".repeat(250).into(), vec!["provision pvc-u on n".into()]),
    ];
    for (name, change, expected) in rows {
        let mut c = claim();
        change(&mut c);
        let claim: PersistentVolumeClaim = serde_json::from_value(c).unwrap();
        let (class, node) = (class(), node());
        let node = (claim.annotation(SELECTED_NODE) == Some("n")).then_some(&node);
        let mut o = Observed { claim: &claim, class: Some(&class), node, volume: None };
        let plan = plan_claim(&o);
        assert_eq!(shown(&plan), expected, "{name}");
        if let Some(Action::Provision { volume, .. }) = plan.actions.first() {
            let volume: Volume = serde_json::from_value(volume.clone()).unwrap();
            assert_eq!((volume.name(), host_of(&volume)), ("pvc-u", Some("host")), "{name}");
            assert!(storage::is_bound_to(&volume, &claim) && capacity(&volume) == storage::requested(&claim), "{name}");
            o.volume = Some(&volume);
            assert!(plan_claim(&o).actions.is_empty(), "{name}: planned again");
        }
    }
}

fn made() -> Value {
    json!({"metadata": {"name": "pvc-u", "uid": "vu", "resourceVersion": "2", "finalizers": [FINALIZER, "x"],
            "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {"persistentVolumeReclaimPolicy": "Delete", "local": {"path": "/var/volumes/pvc-u_d_data"},
            "capacity": {"storage": "1Gi"}},
        "status": {"phase": "Released"}})
}

#[test]
fn folders_go_with_their_volumes() {
    let rows: Vec<(&str, Change, bool, Vec<&str>)> = vec![
        ("bound", |v| v["status"]["phase"] = "Bound".into(), true, vec![]),
        ("released", SAME, true, vec!["remove pvc-u_d_data on n", r#"{"metadata":{"finalizers":["x"]}}"#, "delete vu"]),
        ("kept", |v| v["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into(), true, vec![]),
        ("another's", |v| v["metadata"]["annotations"][PROVISIONED_BY] = "x".into(), true, vec![]),
        ("its node is gone", SAME, false, vec![r#"{"metadata":{"finalizers":["x"]}}"#, "delete vu"]),
        (
            "deleted by hand",
            |v| v["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            true,
            vec!["remove pvc-u_d_data on n", r#"{"metadata":{"finalizers":["x"]}}"#],
        ),
    ];
    for (name, change, has_node, expected) in rows {
        let mut v = made();
        change(&mut v);
        let node = node();
        let plan = plan_volume(&serde_json::from_value(v).unwrap(), has_node.then_some(&node));
        assert_eq!(shown(&plan), expected, "{name}");
    }
}

#[test]
fn a_larger_claim_has_a_larger_volume() {
    let mut c = claim();
    c["spec"]["volumeName"] = "pvc-u".into();
    c["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    c["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
    c["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    let mut v = made();
    let plan = |c: &Value, v: &Value| {
        let (claim, volume) = (serde_json::from_value(c.clone()).unwrap(), serde_json::from_value(v.clone()).unwrap());
        shown(&plan_claim(&Observed { claim: &claim, class: None, node: None, volume: Some(&volume) }))
    };
    assert_eq!(
        plan(&c, &v),
        [
            r#"{"metadata":{},"spec":{"capacity":{"storage":"2Gi"}}}"#,
            r#"{"metadata":{},"status":{"capacity":{"storage":"2Gi"}}}"#,
            "VolumeResizeSuccessful: Resize volume succeeded",
        ]
    );
    (c["status"]["capacity"]["storage"], v["spec"]["capacity"]["storage"]) = ("2Gi".into(), "2Gi".into());
    assert!(plan(&c, &v).is_empty(), "planned again");
}

/// The API in memory, and the agents of its nodes, of which one may be away.
struct Nodes {
    fake: Fake,
    asked: Arc<Mutex<Vec<String>>>,
    away: Arc<AtomicBool>,
}

impl Transport for Nodes {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let Some((_, folder)) = request.uri().path().split_once("/nodes/n/proxy/volumes/") else {
            return self.fake.call(request);
        };
        self.asked.lock().push(format!("{} {folder}", request.method()));
        let (status, body) = match self.away.load(Ordering::Relaxed) {
            true => (503, "away".to_owned()),
            false => (200, json!({"path": format!("/volumes/{folder}")}).to_string()),
        };
        let answer = http::Response::builder().status(status).body(client::full_body(body)).unwrap();
        Box::pin(async move { Ok(answer) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_bound_and_removed() {
    let clock = Clock::fake(Timestamp::from_second(1_700_000_000).unwrap());
    let (fake, asked, away) = (Fake::new(clock), Arc::default(), Arc::new(AtomicBool::new(true)));
    let nodes: Arc<dyn Transport> =
        Arc::new(Nodes { fake: fake.clone(), asked: Arc::clone(&asked), away: Arc::clone(&away) });
    let client = fake.client();
    let create = |path: &'static str, object: Value| {
        let client = client.clone();
        async move { client.create_path::<Value>(path, &object, &Default::default()).await.unwrap() }
    };
    let mut ready = json!({"metadata": {"name": "n", "labels": {HOSTNAME: "host"}}});
    create("/api/v1/nodes", ready.clone()).await;
    create("/api/v1/namespaces", json!({"metadata": {"name": "d"}})).await;
    let config = Config { clock, node_grace_seconds: 1_000_000, ..Config::default() };
    let handle = crate::start(Arc::new(move |_| Client::new(Arc::clone(&nodes))), config);
    handle.ready().await;
    let informers = Informers::new(client.clone());
    let until = |what: &'static str, holds: Box<dyn Fn(&Informers) -> bool>| {
        let informers = informers.clone();
        async move {
            let mut claims = informers.cache::<PersistentVolumeClaim>(Selector::all()).dirty();
            let mut volumes = informers.cache::<Volume>(Selector::all()).dirty();
            let mut classes = informers.cache::<StorageClass>(Selector::all()).dirty();
            let limit = tokio::time::sleep(std::time::Duration::from_secs(600));
            tokio::pin!(limit);
            while !holds(&informers) {
                tokio::select! {
                    _ = claims.next() => {}
                    _ = volumes.next() => {}
                    _ = classes.next() => {}
                    () = &mut limit => panic!("never: {what}"),
                }
            }
        }
    };
    until("the default class", Box::new(|i| i.cache::<StorageClass>(Selector::all()).len() == 1)).await;
    let mut c = claim();
    c["metadata"] = json!({"name": "data", "namespace": "d"});
    create("/api/v1/namespaces/d/persistentvolumeclaims", c).await;
    let select = json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}});
    let claim: PersistentVolumeClaim = client.patch("d", "data", Patch::Merge(&select)).await.unwrap();
    let folder = format!("pvc-{}_d_data", claim.uid());
    // Time is paused: it goes on when nobody has anything to do.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(asked.lock().first(), Some(&format!("PUT {folder}")), "the node is asked, and does not answer");
    // Back again, it is asked at once.
    away.store(false, Ordering::Relaxed);
    ready["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let _: Node = client.patch_status("", "n", Patch::Merge(&ready)).await.unwrap();
    until(
        "a bound claim",
        Box::new(|i| {
            let claims = i.cache::<PersistentVolumeClaim>(Selector::all()).all();
            claims.iter().any(|c| storage::phase(c) == "Bound")
        }),
    )
    .await;
    let volume: Volume = client.get("", &name_for(&claim)).await.unwrap();
    assert_eq!(volume.spec.local.as_ref().unwrap().path, format!("/volumes/{folder}"));
    assert_eq!(asked.lock().last().unwrap(), &format!("PUT {folder}"));
    client.delete::<PersistentVolumeClaim>("d", "data", &DeleteParams::default()).await.unwrap();
    until(
        "nothing is left",
        Box::new(|i| {
            i.cache::<PersistentVolumeClaim>(Selector::all()).is_empty()
                && i.cache::<Volume>(Selector::all()).is_empty()
        }),
    )
    .await;
    assert_eq!(asked.lock().last().unwrap(), &format!("DELETE {folder}"));
    handle.stop().await;
    informers.stop().await;
}
