//! Webhooks and policies that name one version of a kind and are asked about requests in another.

use serde_json::{Value, json};

use super::custom::{CARS, car, cars, define};
use super::harness::{Client, Server};
use super::webhooks::{Hooks, patch, register, webhook};

const SCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const SCALERS_V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules(group: &str, version: &str, plural: &str) -> Value {
    json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": [version], "resources": [plural]}])
}

fn scaler(name: &str, percent: i64) -> Value {
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": {
        "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}}]}})
}

fn scaler_v1(name: &str, percent: i64) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": {
        "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "targetCPUUtilizationPercentage": percent}})
}

fn utilization(object: &Value) -> &Value {
    &object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
}

/// What a webhook saw last: kind and request's kind as versions, and the object.
fn last(hooks: &Hooks) -> (String, String, Value) {
    let request = hooks.taken().pop().expect("it was asked")["request"].take();
    let version = |field: &str| request[field]["version"].as_str().unwrap().to_owned();
    assert_eq!(request["kind"]["version"], request["resource"]["version"]);
    assert_eq!(request["requestKind"]["version"], request["requestResource"]["version"]);
    (version("kind"), version("requestKind"), request["object"].clone())
}

#[tokio::test]
async fn a_webhook_sees_the_version_that_its_rules_name() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(|review| match review["request"]["kind"]["version"].as_str() {
        Some("v1") => patch(&json!([{"op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 70}])),
        _ => json!({"allowed": true}),
    })
    .await;
    let of = |version: &str, more: Value| {
        let mut hook = webhook("w.example.com", &hooks.url("/"), &more);
        hook["rules"] = rules("autoscaling", version, "horizontalpodautoscalers");
        hook
    };
    register(&admin, "Mutating", &[of("v1", json!({}))]).await;
    let made = admin.post(SCALERS, &scaler("a", 50)).await.expect(201).json();
    assert_eq!((utilization(&made), &made["apiVersion"]), (&json!(70), &json!("autoscaling/v2")));
    let (kind, asked, object) = last(&hooks);
    assert_eq!((kind.as_str(), asked.as_str()), ("v1", "v2"));
    assert_eq!(object["apiVersion"], "autoscaling/v1");
    assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 50);

    // A request in the version that is named is seen as it is, although objects are kept in the other.
    let made = admin.post(SCALERS_V1, &scaler_v1("b", 50)).await.expect(201).json();
    assert_eq!(made["spec"]["targetCPUUtilizationPercentage"], 70);
    let (kind, asked, object) = last(&hooks);
    assert_eq!((kind.as_str(), asked.as_str(), &object["apiVersion"]), ("v1", "v1", &json!("autoscaling/v1")));

    register(&admin, "Mutating", &[of("v1", json!({"matchPolicy": "Exact"}))]).await;
    let made = admin.post(SCALERS, &scaler("c", 50)).await.expect(201).json();
    assert_eq!(utilization(&made), &json!(50));
    assert!(hooks.taken().is_empty());

    register(&admin, "Mutating", &[]).await;
    register(&admin, "Validating", &[of("v2", json!({}))]).await;
    admin.post(SCALERS_V1, &scaler_v1("d", 50)).await.expect(201);
    let (kind, asked, object) = last(&hooks);
    assert_eq!((kind.as_str(), asked.as_str()), ("v2", "v1"));
    assert_eq!(utilization(&object), &json!(50));
}

#[tokio::test]
async fn events_of_both_groups_are_one() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(|_| json!({"allowed": true})).await;
    let mut hook = webhook("w.example.com", &hooks.url("/"), &json!({}));
    hook["rules"] = rules("events.k8s.io", "v1", "events");
    register(&admin, "Validating", &[hook]).await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "hello",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    admin.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    let request = hooks.taken().remove(0)["request"].take();
    assert_eq!(request["kind"], json!({"group": "events.k8s.io", "version": "v1", "kind": "Event"}));
    assert_eq!(request["requestKind"], json!({"group": "", "version": "v1", "kind": "Event"}));
    assert_eq!(request["object"]["note"], "hello");
}

/// A definition of cars in two versions that differ in name only.
async fn two_versions(admin: &Client<'_>) {
    let mut definition = cars(&json!({}));
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}});
    definition["spec"]["versions"] = json!([
        {"name": "v1", "served": true, "storage": true, "schema": schema},
        {"name": "v2", "served": true, "storage": false, "schema": schema},
        {"name": "v3", "served": false, "storage": false, "schema": schema},
    ]);
    define(admin, &definition).await.expect(201);
}

#[tokio::test]
async fn custom_kinds_have_equivalents_too() {
    let server = Server::start().await;
    let admin = server.admin();
    two_versions(&admin).await;
    let hooks = Hooks::start(|_| patch(&json!([{"op": "add", "path": "/spec/painted", "value": true}]))).await;
    let mut hook = webhook("w.example.com", &hooks.url("/"), &json!({}));
    hook["rules"] = rules("example.com", "v2", "cars");
    register(&admin, "Mutating", &[hook.clone()]).await;
    let made = admin.post(CARS, &car("a", &json!({"wheels": 4}))).await.expect(201).json();
    assert_eq!((&made["apiVersion"], &made["spec"]["painted"]), (&json!("example.com/v1"), &json!(true)));
    let (kind, asked, object) = last(&hooks);
    assert_eq!((kind.as_str(), asked.as_str(), &object["apiVersion"]), ("v2", "v1", &json!("example.com/v2")));
    // A version that is not served is nobody's.
    hook["rules"] = rules("example.com", "v3", "cars");
    register(&admin, "Mutating", &[hook]).await;
    admin.post(CARS, &car("b", &json!({"wheels": 4}))).await.expect(201);
    assert!(hooks.taken().is_empty());
}

#[tokio::test]
async fn policies_see_the_version_that_they_name() {
    let server = Server::start().await;
    let admin = server.admin();
    let constraints = json!({"resourceRules": rules("autoscaling", "v1", "horizontalpodautoscalers")});
    for (kind, spec) in [
        (
            "ValidatingAdmissionPolicy",
            json!({"matchConstraints": constraints, "validations": [{
                "expression": "object.spec.targetCPUUtilizationPercentage < 90 && request.kind.version == 'v1' && request.requestKind.version == 'v2'",
                "message": "too hot"}]}),
        ),
        (
            "MutatingAdmissionPolicy",
            json!({"matchConstraints": constraints, "reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression":
                    "Object{spec: Object.spec{targetCPUUtilizationPercentage: object.spec.targetCPUUtilizationPercentage + 5}}"}}]}),
        ),
    ] {
        let plural = format!("{}ies", kind.to_lowercase().trim_end_matches('y'));
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "p"}, "spec": spec});
        admin.post(&format!("{REGISTRATION}/{plural}"), &policy).await.expect(201);
        let mut binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}Binding"),
            "metadata": {"name": "b"}, "spec": {"policyName": "p"}});
        if kind.starts_with('V') {
            binding["spec"]["validationActions"] = json!(["Deny"]);
        }
        let plural = format!("{}bindings", kind.to_lowercase());
        admin.post(&format!("{REGISTRATION}/{plural}"), &binding).await.expect(201);
    }
    let made = admin.post(SCALERS, &scaler("a", 50)).await.expect(201).json();
    assert_eq!(utilization(&made), &json!(55));
    let refused = admin.post(SCALERS, &scaler("b", 86)).await.expect(422);
    assert!(refused.message().ends_with("denied request: too hot"), "{}", refused.message());
}
