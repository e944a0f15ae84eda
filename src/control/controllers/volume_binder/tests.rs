//! Binder: tables of what is there and what is done about it, and a convergence over the API in memory.

use std::time::Duration;

use client::DeleteParams;
use serde_json::json;

use super::claim::Observed;
use super::*;
use crate::controllers::harness::{Cluster, Kubelet};
use crate::storage::SELECTED_NODE;

type Change = fn(&mut Value);
const SAME: Change = |_| ();

/// Ready and bound to each other; `uid` and revision are as the API has them.
fn claim() -> Value {
    json!({"metadata": {"name": "c", "namespace": "d", "uid": "cu", "resourceVersion": "1",
            "annotations": {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}},
            "storageClassName": "fast", "volumeName": "v"},
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}}})
}

fn volume() -> Value {
    json!({"metadata": {"name": "v", "uid": "vu", "resourceVersion": "2",
            "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}, "storageClassName": "fast",
            "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "d", "name": "c", "uid": "cu"}},
        "status": {"phase": "Bound"}})
}

fn class(mode: &str, provisioner: &str) -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": "fast"}, "provisioner": provisioner, "volumeBindingMode": mode}))
        .unwrap()
}

/// A fresh claim of the class, and a free volume.
fn fresh(c: &mut Value) {
    c["metadata"]["annotations"] = json!({});
    c["spec"]["volumeName"] = Value::Null;
    c["status"] = json!({"phase": "Pending"});
}

fn free(v: &mut Value) {
    v["metadata"]["annotations"] = json!({});
    v["spec"]["claimRef"] = Value::Null;
    v["status"]["phase"] = "Available".into();
}

fn shown(plan: &Plan<Action>) -> Vec<String> {
    let one = |action: &Action| match action {
        Action::Patch { what, status, patch, .. } => {
            let part = if *status { "status" } else { "spec" };
            let mut body = patch.clone();
            body.as_object_mut().unwrap().retain(|k, _| k == part);
            let annotations =
                patch["metadata"]["annotations"].as_object().map(|a| a.keys().cloned().collect::<Vec<_>>());
            let names = annotations.unwrap_or_default().join(" ");
            format!("{what:?} {body} {names}").replace("{}", "").replace("  ", " ").trim().to_owned()
        }
        Action::Tell { what, event_type, reason, message, .. } => format!("{what:?} {event_type} {reason}: {message}"),
        Action::Release { volume, claim, .. } => format!("release {volume} of {claim}"),
        Action::Lose { reason, message, .. } => format!("lost {reason}: {message}"),
    };
    plan.actions.iter().map(one).collect()
}

fn plan_of(claim: &Value, volumes: &[Value], class: Option<&StorageClass>, default: Option<&str>) -> Plan<Action> {
    let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
    let volumes: Vec<Arc<Volume>> =
        volumes.iter().map(|v| Arc::new(serde_json::from_value(types_without_null(v)).unwrap())).collect();
    claim::plan(&Observed { claim: &claim, volumes: &volumes, class, default_class: default, waiting: vec![] })
}

/// As the API stores objects: without nulls.
fn types_without_null(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), types_without_null(v))).collect()
        }
        other => other.clone(),
    }
}

const BOUND_VOLUME: &str = r#"Volume {"spec":{"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"c","namespace":"d","resourceVersion":"1","uid":"cu"}}}"#;
const BY_US: &str = "pv.kubernetes.io/bound-by-controller";

#[test]
fn claims_and_volumes_find_each_other() {
    let whole = [
        format!("{BOUND_VOLUME} {BY_US}"),
        r#"Volume {"status":{"message":null,"phase":"Bound"}}"#.into(),
        format!(r#"Claim {{"spec":{{"volumeName":"v"}}}} pv.kubernetes.io/bind-completed {BY_US}"#),
        r#"Claim {"status":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"10Gi"},"phase":"Bound"}}"#.into(),
    ];
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    let external = "Claim Normal ExternalProvisioning: Waiting for a volume to be created either by the external provisioner \
                    'x.io/y' or manually by the system administrator. If volume creation is delayed, please verify that the \
                    provisioner is running and correctly registered.";
    let told = "Claim volume.beta.kubernetes.io/storage-provisioner volume.kubernetes.io/storage-provisioner";
    let provision = vec![told, external];
    let rows: Vec<(&str, Change, Change, Vec<&str>)> = vec![
        ("all well", SAME, SAME, vec![]),
        ("both free", fresh, free, whole.clone()),
        (
            "the volume names the claim",
            fresh,
            |v| {
                free(v);
                v["spec"]["claimRef"] = json!({"namespace": "d", "name": "c"});
                v["spec"]["storageClassName"] = "other".into();
            },
            [vec![BOUND_VOLUME], whole[1..].to_vec()].concat(),
        ),
        ("interrupted after the volume", fresh, |v| v["status"]["phase"] = "Available".into(), whole[1..].to_vec()),
        ("interrupted before the status", |c| c["status"] = json!({"phase": "Pending"}), SAME, whole[3..].to_vec()),
        (
            "too small",
            fresh,
            |v| {
                free(v);
                v["spec"]["capacity"]["storage"] = "1Gi".into();
            },
            provision.clone(),
        ),
        (
            "another class",
            fresh,
            |v| {
                free(v);
                v["spec"]["storageClassName"] = "slow".into();
            },
            provision.clone(),
        ),
        (
            "another mode",
            fresh,
            |v| {
                free(v);
                v["spec"]["volumeMode"] = "Block".into();
            },
            provision.clone(),
        ),
        (
            "other access",
            fresh,
            |v| {
                free(v);
                v["spec"]["accessModes"] = json!(["ReadOnlyMany"]);
            },
            provision.clone(),
        ),
        (
            "not available yet",
            fresh,
            |v| {
                free(v);
                v["status"]["phase"] = "Pending".into();
            },
            provision.clone(),
        ),
        ("somebody's", fresh, |v| v["spec"]["claimRef"]["uid"] = "x".into(), provision.clone()),
        (
            "going",
            fresh,
            |v| {
                free(v);
                v["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            },
            provision.clone(),
        ),
        (
            "not selected",
            |c| {
                fresh(c);
                c["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
            },
            free,
            provision.clone(),
        ),
        (
            "selected",
            |c| {
                fresh(c);
                c["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
            },
            |v| {
                free(v);
                v["metadata"]["labels"] = json!({"a": "b"});
            },
            whole.clone(),
        ),
        (
            "no class and no volume",
            |c| {
                fresh(c);
                c["spec"]["storageClassName"] = "".into();
            },
            free,
            vec![
                "Claim Normal FailedBinding: no persistent volumes available for this claim and no storage class is set",
            ],
        ),
        (
            "asks for the volume",
            |c| {
                fresh(c);
                c["spec"]["volumeName"] = "v".into();
            },
            free,
            vec![whole[0], whole[1], r#"Claim {"spec":{"volumeName":"v"}} pv.kubernetes.io/bind-completed"#, whole[3]],
        ),
        (
            "asks for one that does not fit",
            |c| {
                fresh(c);
                c["spec"]["volumeName"] = "v".into();
            },
            |v| {
                free(v);
                v["spec"]["capacity"]["storage"] = "1Gi".into();
            },
            vec!["Claim Warning VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small"],
        ),
        (
            "asks for somebody's",
            |c| {
                fresh(c);
                c["spec"]["volumeName"] = "v".into();
            },
            |v| v["spec"]["claimRef"]["uid"] = "x".into(),
            vec!["Claim Warning FailedBinding: volume \"v\" already bound to a different claim."],
        ),
        (
            "asks for one that is not there",
            |c| {
                fresh(c);
                c["spec"]["volumeName"] = "w".into();
            },
            free,
            vec![],
        ),
        (
            "lost",
            |c| c["spec"]["volumeName"] = "w".into(),
            SAME,
            vec!["lost ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"],
        ),
        (
            "lost its name",
            |c| c["spec"]["volumeName"] = Value::Null,
            SAME,
            vec!["lost ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"],
        ),
        (
            "misbound",
            SAME,
            |v| v["spec"]["claimRef"]["uid"] = "x".into(),
            vec!["lost ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly"],
        ),
    ];
    let class = class("Immediate", "x.io/y");
    for (name, of_claim, of_volume, expected) in rows {
        let (mut c, mut v) = (claim(), volume());
        of_claim(&mut c);
        of_volume(&mut v);
        let c = types_without_null(&c);
        let said: Vec<String> = shown(&plan_of(&c, &[v], Some(&class), None));
        assert_eq!(said, expected, "{name}");
    }
}

#[test]
fn classes_decide_when_and_by_whom() {
    let mut c = claim();
    fresh(&mut c);
    let c = types_without_null(&c);
    let mut v = volume();
    free(&mut v);
    let delayed = class("WaitForFirstConsumer", "x.io/y");
    let wait = "Claim Normal WaitForFirstConsumer: waiting for first consumer to be created before binding";
    assert_eq!(shown(&plan_of(&c, &[v.clone()], Some(&delayed), None)), [wait], "a free volume waits too");
    let mut chosen = c.clone();
    chosen["metadata"]["annotations"] = json!({SELECTED_NODE: "n"});
    let told = shown(&plan_of(&chosen, &[v.clone()], Some(&delayed), None));
    assert!(told[0].contains("storage-provisioner") && told[1].contains("ExternalProvisioning"), "{told:?}");
    assert_eq!(
        shown(&plan_of(&c, &[], None, None)),
        ["Claim Warning ProvisioningFailed: storageclass.storage.k8s.io \"fast\" not found"]
    );
    let no = class("Immediate", "kubernetes.io/no-provisioner");
    assert_eq!(
        shown(&plan_of(&c, &[], Some(&no), None)),
        ["Claim Warning ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"]
    );
    let mut nameless = c.clone();
    nameless["spec"].as_object_mut().unwrap().remove("storageClassName");
    assert_eq!(shown(&plan_of(&nameless, &[], None, Some("fast"))), [r#"Claim {"spec":{"storageClassName":"fast"}}"#]);
    nameless["spec"]["storageClassName"] = "".into();
    assert_eq!(shown(&plan_of(&nameless, &[], None, Some("fast"))).len(), 1, "none is a class too");
}

#[test]
fn the_smallest_volume_is_taken() {
    let mut c = claim();
    fresh(&mut c);
    let c = types_without_null(&c);
    let sized = |name: &str, size: &str, modes: &[&str]| {
        let mut v = volume();
        free(&mut v);
        v["metadata"]["name"] = name.into();
        v["spec"]["capacity"]["storage"] = size.into();
        v["spec"]["accessModes"] = json!(modes);
        v
    };
    let one = &["ReadWriteOnce"][..];
    let all = [
        sized("big", "100Gi", one),
        sized("small", "1Gi", one),
        sized("many", "6Gi", &["ReadWriteOnce", "ReadOnlyMany"]),
        sized("right", "7Gi", one),
    ];
    let plan = plan_of(&c, &all, None, None);
    let Some(Action::Patch { key, .. }) = plan.actions.first() else { panic!("{plan:?}") };
    assert_eq!(&*key.name, "right");
}

#[test]
fn volumes_follow_their_claims() {
    let released = r#"Volume {"status":{"message":null,"phase":"Available"}}"#;
    let rows: Vec<(&str, Option<Change>, Change, Vec<&str>)> = vec![
        ("all well", Some(SAME), SAME, vec![]),
        (
            "new",
            None,
            |v| {
                free(v);
                v["status"]["phase"] = "Pending".into();
            },
            vec![released],
        ),
        (
            "kept for a claim",
            None,
            |v| {
                v["spec"]["claimRef"]["uid"] = Value::Null;
                v["status"]["phase"] = "Available".into();
            },
            vec![],
        ),
        (
            "its claim is bound",
            Some(SAME),
            |v| v["status"]["phase"] = "Available".into(),
            vec![r#"Volume {"status":{"message":null,"phase":"Bound"}}"#],
        ),
        ("its claim is about to be", Some(fresh), SAME, vec![]),
        ("its claim is gone", None, SAME, vec!["release v of d/c"]),
        ("its claim is a namesake", Some(|c| c["metadata"]["uid"] = "x".into()), SAME, vec!["release v of d/c"]),
        ("released and kept", None, |v| v["status"]["phase"] = "Released".into(), vec![]),
        (
            "made by a provisioner",
            None,
            |v| {
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
                v["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] = "x.io/y".into();
            },
            vec![],
        ),
        (
            "a driver's",
            None,
            |v| {
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
                v["spec"]["csi"] = json!({"driver": "x"});
            },
            vec![],
        ),
        (
            "nobody can delete it",
            None,
            |v| {
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
            },
            vec![
                r#"Volume {"status":{"message":"error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched","phase":"Failed"}}"#,
                "Volume Warning VolumeFailedDelete: error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched",
            ],
        ),
        (
            "nobody recycles",
            None,
            |v| {
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Recycle".into();
            },
            vec![
                r#"Volume {"status":{"message":"No recycler plugin found for the volume!","phase":"Failed"}}"#,
                "Volume Warning VolumeFailedRecycle: No recycler plugin found for the volume!",
            ],
        ),
        (
            "failed once",
            None,
            |v| {
                v["status"]["phase"] = "Failed".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Recycle".into();
            },
            vec![],
        ),
        (
            "its claim has another",
            Some(|c| c["spec"]["volumeName"] = "w".into()),
            SAME,
            vec![r#"Volume {"spec":{"claimRef":null}} pv.kubernetes.io/bound-by-controller"#, released],
        ),
        (
            "meant for a claim that has another",
            Some(|c| c["spec"]["volumeName"] = "w".into()),
            |v| v["metadata"]["annotations"] = json!({}),
            vec![r#"Volume {"spec":{"claimRef":{"uid":null}}}"#, released],
        ),
        (
            "made for a claim that has another",
            Some(|c| c["spec"]["volumeName"] = "w".into()),
            |v| {
                v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
                v["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] = "x.io/y".into();
            },
            vec!["release v of d/c"],
        ),
    ];
    for (name, of_claim, of_volume, expected) in rows {
        let mut v = volume();
        of_volume(&mut v);
        let volume: Volume = serde_json::from_value(types_without_null(&v)).unwrap();
        let claim = of_claim.map(|change| {
            let mut c = claim();
            change(&mut c);
            serde_json::from_value::<PersistentVolumeClaim>(types_without_null(&c)).unwrap()
        });
        assert_eq!(shown(&volume::plan(&volume, claim.as_ref())), expected, "{name}");
    }
}

async fn create(cluster: &Cluster, path: &str, object: Value) {
    let _: Value = cluster.client.create_path(path, &object, &Default::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_bound_and_its_volume_outlives_it() {
    let cluster = Cluster::start(Kubelet::Works).await;
    let mut c = claim();
    fresh(&mut c);
    c["metadata"] = json!({"name": "c", "namespace": "shop", "finalizers": ["kubernetes.io/pvc-protection"]});
    create(&cluster, "/api/v1/namespaces/shop/persistentvolumeclaims", types_without_null(&c)).await;
    let mut v = volume();
    free(&mut v);
    v["metadata"] = json!({"name": "v", "finalizers": ["kubernetes.io/pv-protection"]});
    v["status"] = json!({});
    create(&cluster, "/api/v1/persistentvolumes", types_without_null(&v)).await;
    cluster
        .until::<PersistentVolumeClaim>("a bound claim", |all| {
            all.iter().any(|c| crate::storage::phase(c) == "Bound" && volume_name(c) == "v" && is_fully_bound(c))
        })
        .await;
    cluster.until::<Volume>("a bound volume", |all| all.iter().any(|v| v.status.phase == "Bound")).await;
    assert_eq!(cluster.writes_at_rest().await, Vec::<String>::new());
    // A pod that uses it keeps it.
    let pod = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": "n1", "containers": [{"name": "c"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}});
    create(&cluster, "/api/v1/namespaces/shop/pods", pod).await;
    cluster.until::<Pod>("a pod", |all| all.iter().any(|p| pods::is_ready(p))).await;
    cluster.client.delete::<PersistentVolumeClaim>("shop", "c", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.until::<PersistentVolumeClaim>("a claim that waits", |all| all.iter().any(|c| c.is_terminating())).await;
    cluster.client.delete::<Pod>("shop", "p", &DeleteParams::default()).await.unwrap();
    cluster.until::<PersistentVolumeClaim>("no claim", |all| all.is_empty()).await;
    cluster.until::<Volume>("a released volume", |all| all.iter().any(|v| v.status.phase == "Released")).await;
    cluster.client.delete::<Volume>("", "v", &DeleteParams::default()).await.unwrap();
    cluster.until::<Volume>("no volume", |all| all.is_empty()).await;
    cluster.stop().await;
}
