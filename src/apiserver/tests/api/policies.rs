//! Admission policies through the front door.

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";

fn maps() -> Value {
    json!({"resourceRules": [{
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE", "UPDATE"],
    }]})
}
/// The policy `p` with a spec of its own, over the config maps.
fn policy(kind: &str, spec: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "p"},
        "spec": {"matchConstraints": maps()},
    });
    for (field, value) in spec.as_object().unwrap() {
        policy["spec"][field] = value.clone();
    }
    policy
}
fn binding(kind: &str, spec: &Value) -> Value {
    let mut binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "b"},
        "spec": {"policyName": "p"},
    });
    for (field, value) in spec.as_object().unwrap() {
        binding["spec"][field] = value.clone();
    }
    binding
}
async fn validate(admin: &Client<'_>, spec: &Value, of_binding: &Value) {
    admin.post(POLICIES, &policy("ValidatingAdmissionPolicy", spec)).await.expect(201);
    admin.post(BINDINGS, &binding("ValidatingAdmissionPolicyBinding", of_binding)).await.expect(201);
}
async fn mutate(admin: &Client<'_>, mutations: Value, more: &Value) {
    let mut spec = json!({"reinvocationPolicy": "Never", "mutations": mutations});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    admin.post(MUTATING, &policy("MutatingAdmissionPolicy", &spec)).await.expect(201);
    admin.post(MUTATING_BINDINGS, &binding("MutatingAdmissionPolicyBinding", &json!({}))).await.expect(201);
}

/// Creates a config map again and again, dry, until a policy that was just written is in force for it.
async fn eventually(client: &Client<'_>, object: &Value, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = std::time::Duration::from_secs(10);
    let attempt = async {
        loop {
            let answer = client.post(&format!("{MAPS}?dryRun=All"), object).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(deadline, attempt).await.expect("the policy in force in time")
}
async fn refused(client: &Client<'_>, object: &Value) -> Answer {
    eventually(client, object, |answer| answer.code >= 400).await
}

#[tokio::test]
async fn a_policy_denies() {
    let server = Server::start().await;
    let admin = server.admin();
    let spec = json!({
        "variables": [{"name": "size", "expression": "object.data.size()"}],
        "validations": [
            {"expression": "variables.size < 2", "messageExpression": "'too many: ' + string(variables.size)"},
            {"expression": "!has(object.metadata.labels) || !('bad' in object.metadata.labels)", "message": "no bad label",
                "reason": "Forbidden"},
            {"expression": "request.userInfo.username != 'nobody' && namespaceObject.metadata.name == 'default'"},
        ],
    });
    validate(&admin, &spec, &json!({"validationActions": ["Deny"]})).await;
    let mut object = config_map("a", &json!({}));
    object["data"] = json!({"a": "1", "b": "2"});
    let answer = refused(&admin, &object).await;
    let message = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: too many: 2";
    answer.refused(422, &format!("configmaps \"a\" is forbidden: {message}"));
    let status = answer.json();
    assert_eq!((&status["reason"], &status["details"]["causes"][0]["message"]), (&json!("Invalid"), &json!(message)));
    let answer = refused(&admin, &config_map("a", &json!({"bad": "1"}))).await;
    answer.refused(
        403,
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no bad label",
    );
    // A mistake that the store would find is found after everybody has had a say.
    let mut versioned = object.clone();
    versioned["metadata"]["resourceVersion"] = json!("7");
    admin.post(MAPS, &versioned).await.expect(422);
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    // without its binding nothing is in force
    admin.delete(&format!("{BINDINGS}/b")).await.expect(200);
    eventually(&admin, &object, |answer| answer.code == 201 || answer.code == 409).await;
}

#[tokio::test]
async fn a_policy_warns() {
    let server = Server::start().await;
    let admin = server.admin();
    let spec = json!({"validations": [{"expression": "object.data.k == 'w'"}]});
    validate(&admin, &spec, &json!({"validationActions": ["Warn"]})).await;
    let answer = eventually(&admin, &config_map("a", &json!({})), |a| !a.header("warning").is_empty()).await;
    assert_eq!(
        answer.header("warning"),
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: object.data.k == 'w'\""
    );
}

#[tokio::test]
async fn errors_follow_the_failure_policy() {
    let server = Server::start().await;
    let admin = server.admin();
    let spec = json!({"validations": [{"expression": "object.data.missing == 'x'"}]});
    validate(&admin, &spec, &json!({"validationActions": ["Deny"]})).await;
    let object = config_map("a", &json!({}));
    refused(&admin, &object).await.refused(
        422,
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: expression \
         'object.data.missing == 'x'' resulted in error: no such key: missing",
    );
    let path = format!("{POLICIES}/p");
    admin.patch(&path, "merge", &json!({"spec": {"failurePolicy": "Ignore"}})).await.expect(200);
    eventually(&admin, &object, |answer| answer.code == 201).await;
    // a condition that is false leaves the policy out
    let conditions = json!([{"name": "c", "expression": "object.metadata.name != 'a'"}]);
    let change = json!({"spec": {"failurePolicy": "Fail", "matchConditions": conditions}});
    admin.patch(&path, "merge", &change).await.expect(200);
    refused(&admin, &config_map("b", &json!({}))).await;
    admin.post(MAPS, &object).await.expect(201);
}

#[tokio::test]
async fn parameters() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut params = config_map("limits", &json!({"kind": "params"}));
    params["data"] = json!({"max": "1"});
    admin.post(MAPS, &params).await.expect(201);
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.data.size() <= int(params.data.max)"}],
    });
    let reference = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
    validate(&admin, &spec, &json!({"validationActions": ["Deny"], "paramRef": reference})).await;
    let mut object = config_map("a", &json!({}));
    object["data"] = json!({"a": "1", "b": "2"});
    let answer = refused(&admin, &object).await;
    assert!(answer.message().ends_with("failed expression: object.data.size() <= int(params.data.max)"));
    admin.delete(&format!("{MAPS}/limits")).await.expect(200);
    refused(&admin, &object).await.refused(
        422,
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed to \
         configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
    );
}

#[tokio::test]
async fn expressions_are_checked_when_they_are_written() {
    let server = Server::start().await;
    let admin = server.admin();
    let spec = json!({
        "variables": [{"name": "v", "expression": "object.foo."}],
        "validations": [
            {"expression": "variables.other", "messageExpression": "1"},
            {"expression": "object.x"},
            {"expression": "params.x == 1"},
        ],
        "matchConditions": [{"name": "c", "expression": "'a'"}],
    });
    let answer = admin.post(POLICIES, &policy("ValidatingAdmissionPolicy", &spec)).await.expect(422);
    let status = answer.json();
    let causes: Vec<(&str, &str)> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["field"].as_str().unwrap(), c["message"].as_str().unwrap()))
        .collect();
    let expected = [
        ("spec.matchConditions[0].expression", "Invalid value: \"'a'\": must evaluate to bool but got string"),
        (
            "spec.variables[0].expression",
            "Invalid value: \"object.foo.\": compilation failed: ERROR: <input>:1:12: Syntax error: ",
        ),
        (
            "spec.validations[0].expression",
            "Invalid value: \"variables.other\": compilation failed: ERROR: <input>:1:10: undefined field 'other'\n | variables.other\n | .........^",
        ),
        ("spec.validations[0].messageExpression", "Invalid value: \"1\": must evaluate to string but got int"),
        ("spec.validations[1].expression", "Invalid value: \"object.x\": must evaluate to bool but got dyn"),
        (
            "spec.validations[2].expression",
            "Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x == 1\n | ^",
        ),
    ];
    assert_eq!(causes.len(), expected.len(), "{causes:#?}");
    for ((field, message), (wanted_field, wanted)) in causes.iter().zip(expected) {
        assert_eq!(*field, wanted_field);
        assert!(message.starts_with(wanted), "{message}");
    }
}

#[tokio::test]
async fn a_policy_mutates() {
    let server = Server::start().await;
    let admin = server.admin();
    let mutations = json!([
        {"patchType": "ApplyConfiguration", "applyConfiguration": {
            "expression": "Object{metadata: Object.metadata{labels: {'added': request.operation}}}",
        }},
        {"patchType": "JSONPatch", "jsonPatch": {
            "expression": "[JSONPatch{op: 'test', path: '/data/k', value: 'v'}, JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('a.b'), value: 'x'}]",
        }},
        // a test that fails leaves everything as it is
        {"patchType": "JSONPatch", "jsonPatch": {
            "expression": "[JSONPatch{op: 'test', path: '/data/k', value: 'other'}, JSONPatch{op: 'remove', path: '/data'}]",
        }},
    ]);
    let conditions = json!({"matchConditions": [{"name": "c", "expression": "object.metadata.name != 'p'"}]});
    mutate(&admin, mutations, &conditions).await;
    let wanted = |answer: &Answer| answer.code == 201 && !answer.json()["metadata"]["labels"]["added"].is_null();
    let answer = eventually(&admin, &config_map("a", &json!({"own": "1"})), wanted).await.json();
    assert_eq!(answer["metadata"]["labels"], json!({"own": "1", "added": "CREATE"}));
    assert_eq!(answer["data"], json!({"k": "v", "a.b": "x"}));
}

#[tokio::test]
async fn mutations_that_cannot_be_made() {
    let server = Server::start().await;
    let admin = server.admin();
    let wrong = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {
        "expression": "Object{data: Object.metadata{k: 'x'}}",
    }}]);
    mutate(&admin, wrong, &json!({})).await;
    let answer = refused(&admin, &config_map("a", &json!({}))).await;
    answer.refused(
        403,
        "policy 'p' with binding 'b' denied request: type mismatch: unexpected type name \"Object.metadata\", expected \
         \"Object.data\", which matches field name path from root Object type",
    );
    assert_eq!(answer.json()["reason"], "Invalid");
    let unfit = json!({"spec": {"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "1"}}]}});
    let answer = admin.patch(&format!("{MUTATING}/p"), "merge", &unfit).await.expect(422);
    assert!(answer.message().contains("must evaluate to list(JSONPatch) but got int"), "{}", answer.message());
}

#[tokio::test]
async fn policies_are_checked_against_types() {
    let server = Server::start().await;
    let admin = server.admin();
    let spec = json!({"validations": [{"expression": "object.data.k.startsWith('a') && object.immutable == 'x'"}]});
    admin.post(POLICIES, &policy("ValidatingAdmissionPolicy", &spec)).await.expect(201);
    let path = format!("{POLICIES}/p");
    let checked = |generation: i64| {
        let (admin, path) = (&admin, &path);
        let attempt = async move {
            loop {
                let status = admin.get(path).await.expect(200).json()["status"].clone();
                if status["observedGeneration"] == generation {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), attempt)
    };
    let status = checked(1).await.unwrap();
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!((warnings.len(), warnings[0]["fieldRef"].as_str().unwrap()), (1, "spec.validations[0].expression"));
    assert!(warnings[0]["warning"].as_str().unwrap().contains("'_==_' applied to '(bool, string)'"));
    let mended = json!({"spec": {"validations": [{"expression": "object.immutable == true"}]}});
    admin.patch(&path, "merge", &mended).await.expect(200);
    assert_eq!(checked(2).await.unwrap()["typeChecking"], json!({}));
}

#[tokio::test]
async fn conditions_of_webhooks() {
    let server = Server::start().await;
    let admin = server.admin();
    let hook = |conditions: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "h"}, "webhooks": [{
            "name": "h.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "matchConditions": conditions,
            "rules": maps()["resourceRules"],
        }]})
    };
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let wrong = admin.post(path, &hook(json!([{"name": "c", "expression": "1"}]))).await.expect(422);
    assert!(
        wrong
            .message()
            .contains("webhooks[0].matchConditions[0].expression: Invalid value: \"1\": must evaluate to bool"),
        "{}",
        wrong.message()
    );
    let conditions = json!([
        {"name": "c", "expression": "object.metadata.name != 'a'"},
        {"name": "d", "expression": "object.metadata.name == 'b' || object.data.missing == 'x'"},
    ]);
    admin.post(path, &hook(conditions)).await.expect(201);
    // asked, and nobody answers
    let answer = eventually(&admin, &config_map("b", &json!({})), |answer| answer.code == 500).await;
    assert!(answer.message().contains("failed calling webhook \"h.example.com\""), "{}", answer.message());
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    refused(&admin, &config_map("c", &json!({}))).await.refused(
        403,
        "configmaps \"c\" is forbidden: expression 'object.metadata.name == 'b' || object.data.missing == 'x'' \
         resulted in error: no such key: missing",
    );
}

#[tokio::test]
async fn policies_are_checked_against_custom_kinds() {
    let server = Server::start().await;
    let admin = server.admin();
    let integer = json!({"type": "integer"});
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": integer}}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.acme.io"},
        "spec": {"group": "acme.io", "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    admin.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.expect(201);
    let rules = json!({"resourceRules": [{
        "apiGroups": ["acme.io"], "apiVersions": ["v1"], "resources": ["crontabs"], "operations": ["CREATE"],
    }]});
    let spec = json!({
        "matchConstraints": rules, "paramKind": {"apiVersion": "acme.io/v1", "kind": "CronTab"},
        "validations": [
            {"expression": "object.spec.replicas > 1 && params.spec.replicas > 1"},
            {"expression": "object.spec.maxRetries < 10"},
        ],
    });
    admin.post(POLICIES, &policy("ValidatingAdmissionPolicy", &spec)).await.expect(201);
    let status = async {
        loop {
            let status = admin.get(&format!("{POLICIES}/p")).await.expect(200).json()["status"].clone();
            if status["observedGeneration"] == 1 {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(std::time::Duration::from_secs(10), status).await.unwrap();
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(
        (warnings.len(), &warnings[0]["fieldRef"]),
        (1, &json!("spec.validations[1].expression")),
        "{warnings:?}"
    );
    let warning = warnings[0]["warning"].as_str().unwrap();
    assert!(
        warning.starts_with("acme.io/v1, Kind=CronTab: ERROR: <input>:1:12: undefined field 'maxRetries'"),
        "{warning}"
    );
    // the policy's parameters are objects of that kind
    let reference = json!({"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"});
    let of_binding = json!({"validationActions": ["Deny"], "paramRef": reference});
    admin.post(BINDINGS, &binding("ValidatingAdmissionPolicyBinding", &of_binding)).await.expect(201);
    let crontab = |name: &str, replicas: i64| json!({"apiVersion": "acme.io/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": {"replicas": replicas}});
    let crontabs = "/apis/acme.io/v1/namespaces/default/crontabs";
    let refusal = async {
        loop {
            let answer = admin.post(&format!("{crontabs}?dryRun=All"), &crontab("a", 3)).await;
            if answer.code >= 400 {
                return answer.message();
            }
            tokio::task::yield_now().await;
        }
    };
    let refusal = tokio::time::timeout(std::time::Duration::from_secs(10), refusal).await.unwrap();
    assert!(refusal.ends_with("no params found for policy binding with `Deny` parameterNotFoundAction"), "{refusal}");
}
