//! The kinds of the smaller groups as clients meet them: written, read back in every form, and what a fresh server holds.

use apiserver::Identity;
use http::Method;
use serde_json::{Value, json};

use crate::harness::Server;

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Each collection with an object that has something to lose on its way through protobuf.
fn samples() -> Vec<(&'static str, Value)> {
    let claim = json!({"devices": {
        "requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu", "selectors": [{"cel": {"expression": "true"}}]}}],
        "config": [{"opaque": {"driver": "acme.io", "parameters": {"deep": [1, {"a": "b"}]}}}],
    }});
    let rule =
        json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"]});
    vec![
        (
            "/apis/networking.k8s.io/v1/ingressclasses",
            json!({"kind": "IngressClass", "spec": {"controller": "acme.io/web"}}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"kind": "Ingress", "spec": {
            "rules": [{"host": "a.b", "http": {"paths": [
                {"pathType": "Prefix", "path": "/", "backend": {"service": {"name": "web", "port": {"name": "http"}}}}]}}]}}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            json!({"kind": "NetworkPolicy", "spec": {
            "podSelector": {}, "ingress": [{"ports": [{"port": "http"}, {"port": 80, "endPort": 90}]}]}}),
        ),
        (
            "/apis/networking.k8s.io/v1/servicecidrs",
            json!({"kind": "ServiceCIDR", "spec": {"cidrs": ["10.99.0.0/16"]}}),
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"kind": "PodDisruptionBudget", "spec": {
            "maxUnavailable": "30%", "selector": {"matchLabels": {"a": "b"}}}}),
        ),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({"kind": "StorageClass", "provisioner": "acme.io/disk"})),
        ("/apis/storage.k8s.io/v1/csidrivers", json!({"kind": "CSIDriver", "spec": {}})),
        (
            "/apis/storage.k8s.io/v1/csinodes",
            json!({"kind": "CSINode", "spec": {
            "drivers": [{"name": "acme.io", "nodeID": "n", "topologyKeys": ["a.io/zone"], "allocatable": {"count": 3}}]}}),
        ),
        (
            "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
            json!({"kind": "CSIStorageCapacity",
            "storageClassName": "fast", "capacity": "1.5Gi"}),
        ),
        (
            "/apis/storage.k8s.io/v1/volumeattachments",
            json!({"kind": "VolumeAttachment", "spec": {
            "attacher": "acme.io", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}}),
        ),
        (
            "/apis/storage.k8s.io/v1/volumeattributesclasses",
            json!({"kind": "VolumeAttributesClass",
            "driverName": "acme.io", "parameters": {"iops": "1"}}),
        ),
        (
            "/apis/node.k8s.io/v1/runtimeclasses",
            json!({"kind": "RuntimeClass", "handler": "runc",
            "overhead": {"podFixed": {"cpu": "0.1"}}}),
        ),
        ("/apis/resource.k8s.io/v1/deviceclasses", json!({"kind": "DeviceClass", "spec": {}})),
        ("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", json!({"kind": "ResourceClaim", "spec": claim})),
        (
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates",
            json!({"kind": "ResourceClaimTemplate",
            "spec": {"spec": claim}}),
        ),
        (
            "/apis/resource.k8s.io/v1/resourceslices",
            json!({"kind": "ResourceSlice", "spec": {
            "driver": "acme.io", "allNodes": true, "pool": {"name": "p", "resourceSliceCount": 1},
            "devices": [{"name": "d", "attributes": {"n": {"int": 3}}, "capacity": {"memory": {"value": "1Gi"}}}]}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            json!({"kind": "ValidatingWebhookConfiguration",
            "webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
                "clientConfig": {"service": {"namespace": "a", "name": "b"}, "caBundle": "eA=="},
                "rules": [{"apiGroups": ["acme.io"], "apiVersions": ["v1"], "resources": ["none"], "operations": ["CREATE"]}]}]}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            json!({"kind": "ValidatingAdmissionPolicy", "spec": {
            "matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}}),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            json!({"kind": "PriorityLevelConfiguration",
            "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            json!({"kind": "FlowSchema", "spec": {
            "priorityLevelConfiguration": {"name": "system"}, "matchingPrecedence": 3000}}),
        ),
    ]
}

#[tokio::test]
async fn objects_survive_every_form() {
    let server = Server::start().await;
    let admin = server.admin();
    let protobuf = "application/vnd.kubernetes.protobuf";
    let reader = admin.clone().with(&[("accept", protobuf)]);
    let writer = admin.clone().with(&[("content-type", protobuf)]);
    let table = admin.clone().with(&[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]);
    for (collection, mut object) in samples() {
        let version = collection.split('/').skip(2).take(2).collect::<Vec<_>>().join("/");
        object["apiVersion"] = json!(version);
        object["metadata"] = json!({"name": "sample"});
        let created = admin.post(collection, &object).await.expect(201).json();
        let path = format!("{collection}/sample");
        // Through protobuf and back nothing changes, so that nothing is written. The first status of some kinds comes meanwhile.
        let mut unwritten = false;
        for _ in 0..3 {
            let before = admin.get(&path).await.expect(200).json();
            let bytes = reader.get(&path).await.expect(200).body;
            let answer = writer.raw(Method::PUT, &path, bytes).await;
            if answer.code == 409 {
                continue;
            }
            let back = answer.expect(200).json();
            assert_eq!(back["spec"], created["spec"], "{collection}");
            unwritten = back["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"];
            if unwritten {
                break;
            }
        }
        assert!(unwritten, "{collection}");
        let shown = table.get(collection).await.expect(200).json();
        let (columns, rows) = (shown["columnDefinitions"].as_array().unwrap(), shown["rows"].as_array().unwrap());
        assert!(rows.iter().all(|r| r["cells"].as_array().unwrap().len() == columns.len()), "{collection}");
        let applied = admin.clone().with(&[("content-type", "application/apply-patch+yaml")]);
        let apply = format!("{path}?fieldManager=test&force=true");
        applied.raw(Method::PATCH, &apply, object.to_string()).await.expect(200);
        admin.delete(&path).await.expect(200);
    }
}

#[tokio::test]
async fn a_fresh_server_holds_what_upstreams_does() {
    let server = Server::start().await;
    let admin = server.admin();
    let table = admin.clone().with(&[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]);
    let flows = table.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas").await.expect(200).json();
    let cells = |row: &Value, i: usize| row["cells"][i].clone();
    let rows = flows["rows"].as_array().unwrap();
    assert_eq!((rows.len(), cells(&rows[0], 0), cells(&rows[10], 0)), (11, json!("exempt"), json!("catch-all")));
    assert!(rows.iter().all(|row| cells(row, 5) == "False"));
    let range = admin.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.expect(200).json();
    assert_eq!(
        (&range["spec"]["cidrs"], &range["status"]["conditions"][0]["type"]),
        (&json!(["10.43.0.0/16"]), &json!("Ready"))
    );
    let local = admin.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").await.expect(200).json();
    assert_eq!(
        local["spec"],
        json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17_800, "versionPriority": 15})
    );
    assert_eq!(local["status"]["conditions"][0]["reason"], "Local");
    admin.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.").await.expect(200);
}

#[tokio::test]
async fn signing_requests_are_decided_and_answered_apart() {
    let server = Server::start().await;
    let admin = server.admin();
    let ann = server.user(Identity::new("ann", &["system:masters"]));
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "ann"}, "spec": {"request": include_str!("../../hooks/tests/request.b64"),
            "signerName": "acme.io/people", "usages": ["client auth"], "username": "root"}});
    let mut stored = ann.post(CSRS, &request).await.expect(201).json();
    assert_eq!(stored["spec"]["username"], "ann");
    stored["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Known"}]});
    let refused = admin.put(&format!("{CSRS}/ann/status"), &stored).await.expect(422);
    assert!(
        refused.message().contains("updates may not add a condition of type \"Approved\""),
        "{}",
        refused.message()
    );
    let approved = admin.put(&format!("{CSRS}/ann/approval"), &stored).await.expect(200).json();
    assert!(approved["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let listed = admin.get(&format!("{CSRS}?fieldSelector=spec.signerName%3Dacme.io/people")).await.expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let none = admin.get(&format!("{CSRS}?fieldSelector=spec.signerName%3Dacme.io/other")).await.expect(200).json();
    assert_eq!(none["items"], json!([]));
}
