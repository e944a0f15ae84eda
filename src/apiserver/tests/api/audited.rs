//! What admission says for the audit log.

use serde_json::{Value, json};

use super::harness::config_map;
use super::operations::{events, recorded};
use super::webhooks::{Hooks, patch, register, webhook};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

/// The annotations of the event about the creation of a config map.
fn annotations(folder: &tempfile::TempDir) -> Value {
    let mut events = events(folder);
    events.retain(|e| e["verb"] == "create" && e["objectRef"]["name"] == "audited");
    assert_eq!(events.len(), 1, "{events:#?}");
    events[0]["annotations"].take()
}

fn check(annotations: &Value, expected: &[(&str, &str)]) {
    let all = annotations.as_object().unwrap().iter();
    let own = |key: &str| !key.starts_with("authorization.k8s.io/");
    let said: Vec<(&str, &str)> =
        all.map(|(key, value)| (key.as_str(), value.as_str().unwrap())).filter(|(key, _)| own(key)).collect();
    assert_eq!(said, expected);
}

#[tokio::test]
async fn webhooks_are_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let (server, log) = recorded(&folder).await;
    let admin = server.admin();
    let hooks = Hooks::start(|review| match review["path"].as_str().unwrap().split('?').next() {
        Some("/patch") => patch(&json!([{"op": "add", "path": "/data/x", "value": "y"}])),
        Some("/note") => json!({"allowed": true, "auditAnnotations": {"note": "hello", "no key": "x"}}),
        _ => json!({"code": 500}),
    })
    .await;
    let ignored = json!({"failurePolicy": "Ignore"});
    let broken = webhook("b.example.com", &hooks.url("/broken"), &ignored);
    register(&admin, "Mutating", &[webhook("m.example.com", &hooks.url("/patch"), &json!({})), broken.clone()]).await;
    let note = webhook("v.example.com", &hooks.url("/note"), &json!({}));
    register(&admin, "Validating", &[broken, note]).await;
    admin.post(MAPS, &config_map("audited", &json!({}))).await.expect(201);
    log.close();
    check(
        &annotations(&folder),
        &[
            ("failed-open.mutation.webhook.admission.k8s.io/round_0_index_1", "b.example.com"),
            ("failed-open.validating.webhook.admission.k8s.io/round_0_index_0", "b.example.com"),
            (
                "mutation.webhook.admission.k8s.io/round_0_index_0",
                r#"{"configuration":"test","webhook":"m.example.com","mutated":true}"#,
            ),
            (
                "mutation.webhook.admission.k8s.io/round_0_index_1",
                r#"{"configuration":"test","webhook":"b.example.com","mutated":false}"#,
            ),
            (
                "patch.webhook.admission.k8s.io/round_0_index_0",
                r#"{"configuration":"test","webhook":"m.example.com","patch":[{"op":"add","path":"/data/x","value":"y"}],"patchType":"JSONPatch"}"#,
            ),
            ("v.example.com/note", "hello"),
        ],
    );
}

#[tokio::test]
async fn policies_are_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let (server, log) = recorded(&folder).await;
    let admin = server.admin();
    let rules =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}]);
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p.example.com"}, "spec": {"matchConstraints": {"resourceRules": rules},
            "validations": [{"expression": "true"}, {"expression": "object.data.k == 'x'", "message": "not x"}],
            "auditAnnotations": [{"key": "k", "valueExpression": "'k is ' + object.data.k"},
                {"key": "nothing", "valueExpression": "null"}]}});
    admin.post(&format!("{REGISTRATION}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p.example.com", "validationActions": ["Warn", "Audit"]}});
    admin.post(&format!("{REGISTRATION}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    admin.post(MAPS, &config_map("audited", &json!({}))).await.expect(201);
    log.close();
    check(
        &annotations(&folder),
        &[
            ("p.example.com/k", "k is v"),
            (
                "validation.policy.admission.k8s.io/validation_failure",
                r#"[{"message":"not x","policy":"p.example.com","binding":"b","expressionIndex":1,"validationActions":["Warn","Audit"]}]"#,
            ),
        ],
    );
}
