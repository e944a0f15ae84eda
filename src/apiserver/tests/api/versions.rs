//! One set of objects served in several versions: written in one, read, listed, watched, patched and applied in the other.

use serde_json::{Value, json};

use crate::harness::Server;
use crate::managed::apply;

const V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const V2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const CORE: &str = "/api/v1/namespaces/default/events";
const NEWER: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn autoscaler(version: &str, spec: &Value) -> Value {
    let mut object = json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"}, "spec": {"maxReplicas": 4,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

#[tokio::test]
async fn autoscalers() {
    let server = Server::start().await;
    let admin = server.admin();
    let given = autoscaler("v1", &json!({"targetCPUUtilizationPercentage": 70}));
    let created = admin.post(V1, &given).await.expect(201).json();
    assert_eq!(created["apiVersion"], "autoscaling/v1");
    assert_eq!((&created["spec"]["minReplicas"], &created["status"]["currentReplicas"]), (&json!(1), &json!(0)));
    let newer = admin.get(&format!("{V2}/web")).await.expect(200).json();
    assert_eq!(newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    assert_eq!(newer["metadata"]["uid"], created["metadata"]["uid"]);
    // each entry speaks the version in which it was written
    assert_eq!(newer["metadata"]["managedFields"][0]["apiVersion"], "autoscaling/v1");
    let owned = &newer["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert_eq!((&owned["f:targetCPUUtilizationPercentage"], &owned["f:metrics"]), (&json!({}), &Value::Null));

    let listed = admin.get(V1).await.expect(200).json();
    assert_eq!(
        (&listed["apiVersion"], &listed["kind"]),
        (&json!("autoscaling/v1"), &json!("HorizontalPodAutoscalerList"))
    );
    assert_eq!(listed["items"][0]["spec"]["targetCPUUtilizationPercentage"], 70);
    assert_eq!(admin.get(V2).await.expect(200).json()["items"][0]["spec"]["metrics"][0]["type"], "Resource");

    // a patch is of the version of its path
    let patch = json!({"spec": {"targetCPUUtilizationPercentage": 50}});
    let patched = admin.patch(&format!("{V1}/web"), "merge", &patch).await.expect(200).json();
    assert_eq!(patched["spec"]["targetCPUUtilizationPercentage"], 50);
    let patch = json!({"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 30}}}});
    let patched = admin.patch(&format!("{V2}/web"), "merge", &patch).await.expect(200).json();
    assert_eq!(patched["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    assert_eq!(patched["spec"]["behavior"]["scaleDown"]["policies"][0]["type"], "Percent");
    // what v1 does not know survives a write of it
    let patch = json!({"spec": {"maxReplicas": 9}});
    admin.patch(&format!("{V1}/web"), "merge", &patch).await.expect(200);
    let newer = admin.get(&format!("{V2}/web")).await.expect(200).json();
    assert_eq!(newer["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"], 30);
    assert_eq!((&newer["spec"]["maxReplicas"], &newer["metadata"].get("annotations")), (&json!(9), &None));

    admin
        .post(V2, &autoscaler("v2", &json!({})))
        .await
        .refused(409, "horizontalpodautoscalers.autoscaling \"web\" already exists");
    let deleted = admin.delete(&format!("{V1}/web")).await.expect(200).json();
    assert_eq!(deleted["status"], "Success");
    admin.get(&format!("{V2}/web")).await.expect(404);
}

#[tokio::test]
async fn applied_in_two_versions() {
    let server = Server::start().await;
    let admin = server.admin();
    let path = |version: &str, manager: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/web?fieldManager={manager}")
    };
    let config = autoscaler("v1", &json!({"targetCPUUtilizationPercentage": 70}));
    apply(&admin, &path("v1", "one"), &config).await.expect(201);
    // the other version says the same field by another name: whoever changes it is in conflict
    let target = json!({"type": "Utilization", "averageUtilization": 30});
    let metrics = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
    let config = autoscaler("v2", &json!({"metrics": metrics}));
    let refused = apply(&admin, &path("v2", "two"), &config).await.expect(409).json();
    assert_eq!(refused["details"]["causes"][0]["message"], "conflict with \"one\"");
    assert_eq!(refused["details"]["causes"][0]["field"], ".spec.targetCPUUtilizationPercentage");
    apply(&admin, &format!("{}&force=true", path("v2", "two")), &config).await.expect(200);
    let shown = admin.get(&format!("{V1}/web")).await.expect(200).json();
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 30);
    let one = shown["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "one").unwrap();
    assert_eq!(one["fieldsV1"]["f:spec"].get("f:targetCPUUtilizationPercentage"), None);
}

#[tokio::test]
async fn events() {
    let server = Server::start().await;
    let admin = server.admin();
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "kubelet", "reportingInstance": "n1",
        "action": "Pulling", "reason": "Pulled", "type": "Normal", "note": "pulled",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let created = admin.post(NEWER, &event).await.expect(201).json();
    assert_eq!((&created["note"], &created["regarding"]["name"]), (&json!("pulled"), &json!("p")));
    let core = admin.get(&format!("{CORE}/e")).await.expect(200).json();
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("pulled"), &json!("p")));
    assert_eq!(core["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);

    let found = admin.get(&format!("{NEWER}?fieldSelector=regarding.name%3Dp,reportingController%3Dkubelet")).await;
    assert_eq!(found.expect(200).json()["items"][0]["note"], "pulled");
    admin
        .get(&format!("{NEWER}?fieldSelector=involvedObject.name%3Dp"))
        .await
        .refused(400, "field label not supported: involvedObject.name");

    // the newer group is stricter with new events
    let mut bad = event.clone();
    bad["metadata"]["name"] = json!("f");
    bad["deprecatedCount"] = json!(1);
    bad["type"] = json!("Odd");
    admin.post(NEWER, &bad).await.refused(
        422,
        "Event \"f\" is invalid: [type: Invalid value: \"\": has invalid value: Odd, count: Invalid value: \"\": needs to be unset]",
    );
    let patch = json!({"note": "other"});
    let refused = admin.patch(&format!("{NEWER}/e"), "merge", &patch).await;
    refused.refused(422, "Event \"e\" is invalid: message: Invalid value: \"other\": field is immutable");
    let patch = json!({"message": "other"});
    admin.patch(&format!("{CORE}/e"), "merge", &patch).await.expect(200);
    let mut watch = admin.watch(&format!("{NEWER}?watch=1")).await;
    let seen = watch.next().await.unwrap();
    assert_eq!((&seen["type"], &seen["object"]["note"]), (&json!("ADDED"), &json!("other")));
    assert_eq!(seen["object"]["apiVersion"], "events.k8s.io/v1");
    admin.delete(&format!("{NEWER}/e")).await.expect(200);
    assert_eq!(watch.brief().await, ("DELETED".into(), "e".into()));
    admin.get(&format!("{CORE}/e")).await.refused(404, "events \"e\" not found");
}

#[tokio::test]
async fn a_table_is_the_same_in_both() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(V2, &autoscaler("v2", &json!({}))).await.expect(201);
    let table = server.admin().with(&[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]);
    for path in [V1, V2] {
        let shown = table.get(path).await.expect(200).json();
        assert_eq!(
            shown["rows"][0]["cells"].as_array().unwrap()[1..6],
            [json!("Deployment/web"), json!("cpu: <unknown>/80%"), json!("1"), json!(4), json!(0)]
        );
    }
}

#[tokio::test]
async fn the_store_is_a_component() {
    let server = Server::start().await;
    let admin = server.admin();
    let listed = admin.get("/api/v1/componentstatuses").await.expect(200);
    assert_eq!(listed.json()["items"][0]["conditions"][0]["message"], "ok");
    admin.get("/api/v1/componentstatuses/etcd-0").await.expect(200);
    admin.get("/api/v1/componentstatuses/other").await.refused(404, "componentstatuses \"other\" not found");
    admin.delete("/api/v1/componentstatuses/etcd-0").await.expect(405);
}
