//! Who is asked about a change of the scale subresource sees the Scale.

use serde_json::{Value, json};

use crate::custom::{CARS, car, define};
use crate::custom_objects::full;
use crate::harness::{Client, Server};
use crate::webhooks::{Hooks, patch, register, webhook};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules(group: &str, plural: &str) -> Value {
    json!([{"operations": ["UPDATE"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [format!("{plural}/scale")]}])
}

/// A deployment and a custom object, each of two replicas.
async fn workloads(admin: &Client<'_>) -> [(&'static str, String); 2] {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    admin.post(DEPLOYMENTS, &deployment).await.expect(201);
    define(admin, &full()).await.expect(201);
    admin.post(CARS, &car("a", &json!({"wheels": 4, "replicas": 2}))).await.expect(201);
    [("apps", format!("{DEPLOYMENTS}/a")), ("example.com", format!("{CARS}/a"))]
}

#[tokio::test]
async fn webhooks_see_and_change_the_scale() {
    let server = Server::start().await;
    let admin = server.admin();
    let workloads = workloads(&admin).await;
    let adds = |_: &Value| patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]));
    let (mutating, validating) = (Hooks::start(adds).await, Hooks::start(|_| json!({"allowed": true})).await);
    for (group, path) in &workloads {
        let plural = path.split('/').nth_back(1).unwrap();
        for (kind, hooks) in [("Mutating", &mutating), ("Validating", &validating)] {
            let mut hook = webhook("w.example.com", &hooks.url("/"), &json!({}));
            hook["rules"] = rules(group, plural);
            register(&admin, kind, &[hook]).await;
        }
        let put = admin.get(&format!("{path}/scale")).await.expect(200).json();
        let merge = json!({"spec": {"replicas": 3}});
        let scaled = admin.patch(&format!("{path}/scale"), "merge", &merge).await.expect(200).json();
        assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
        let object = admin.get(path).await.json();
        assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(4), &json!(2)));
        for (hooks, expected) in [(&mutating, 3), (&validating, 4)] {
            let review = hooks.taken().remove(0);
            let asked = &review["request"];
            let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
            assert_eq!((&asked["kind"], &asked["requestKind"]), (&scale, &scale));
            assert_eq!((&asked["resource"]["resource"], &asked["subResource"]), (&json!(plural), &json!("scale")));
            assert_eq!(asked["oldObject"], put);
            let mut seen = asked["object"].clone();
            assert_eq!(seen["spec"]["replicas"].take(), json!(expected));
            assert_eq!((&seen["kind"], &seen["metadata"]["name"]), (&json!("Scale"), &json!("a")));
        }
    }
}

#[tokio::test]
async fn what_a_webhook_makes_of_a_scale_must_be_valid() {
    let server = Server::start().await;
    let admin = server.admin();
    let [(group, path), _] = workloads(&admin).await;
    let hooks = Hooks::start(|_| patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": -1}]))).await;
    let mut hook = webhook("w.example.com", &hooks.url("/"), &json!({}));
    hook["rules"] = rules(group, "deployments");
    register(&admin, "Mutating", &[hook]).await;
    admin.patch(&format!("{path}/scale"), "merge", &json!({"spec": {"replicas": 3}})).await.refused(
        422,
        "Scale.autoscaling \"a\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
    );
    assert_eq!(admin.get(&path).await.json()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn policies_see_the_scale() {
    let server = Server::start().await;
    let admin = server.admin();
    let [(group, path), _] = workloads(&admin).await;
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": rules(group, "deployments")},
        "validations": [{"expression": "object.kind == 'Scale' && request.kind.kind == 'Scale' && object.spec.replicas <= oldObject.spec.replicas + 1"}]}});
    admin.post(&format!("{REGISTRATION}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    admin.post(&format!("{REGISTRATION}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    let scale = format!("{path}/scale");
    admin.patch(&scale, "merge", &json!({"spec": {"replicas": 4}})).await.expect(422);
    admin.patch(&scale, "merge", &json!({"spec": {"replicas": 3}})).await.expect(200);
}
