//! Who owns which field, through every verb that writes, and server-side apply.

use apiserver::Identity;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub async fn apply(client: &Client<'_>, path: &str, config: &Value) -> Answer {
    let client = client.clone().with(&[("content-type", "application/apply-patch+yaml")]);
    client.raw(Method::PATCH, path, config.to_string()).await
}

/// Manager, operation and subresource of every entry.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    entries.iter().map(|e| [text(e, "manager"), text(e, "operation"), text(e, "subresource")].join(" ")).collect()
}

/// What the first entry of a manager has.
fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|e| e["manager"] == manager).map(|e| e["fieldsV1"].clone()).unwrap_or_default()
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}})
}

#[tokio::test]
async fn every_verb_says_who_wrote() {
    let server = Server::start().await;
    let admin = server.admin().with(&[("user-agent", "kubectl/v1.36.0 (linux/amd64)")]);
    let created =
        admin.post(&format!("{MAPS}?fieldManager=kubectl-create"), &config_map("a", &json!({"x": "1"}))).await;
    let created = created.expect(201).json();
    assert_eq!(owners(&created), ["kubectl-create Update "]);
    assert_eq!(
        fields(&created, "kubectl-create"),
        json!({"f:data": {".": {}, "f:k": {}}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}})
    );
    let path = format!("{MAPS}/a");
    assert_eq!(admin.get(&path).await.expect(200).json(), created);
    let patched = admin.patch(&path, "merge", &json!({"data": {"n": "1"}})).await.expect(200).json();
    assert_eq!((owners(&patched).len(), fields(&patched, "kubectl")), (2, json!({"f:data": {"f:n": {}}})));
    assert!(owners(&patched).contains(&"kubectl Update ".to_owned()));
    // What a client sent back unchanged changes nothing, whatever it writes of the entries.
    let mut same = patched.clone();
    let put = admin.put(&path, &same).await.expect(200).json();
    assert_eq!(put, patched);
    same["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(admin.put(&path, &same).await.expect(200).json(), patched);
    // An empty list ends the tracking, and nothing takes it up again but an apply.
    let reset = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let untracked = admin.patch(&path, "json", &reset).await.expect(200).json();
    assert_eq!(owners(&untracked), [""; 0]);
    let more = admin.patch(&path, "merge", &json!({"data": {"m": "1"}})).await.expect(200).json();
    assert_eq!(owners(&more), [""; 0]);
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"m": "1"}});
    let applied = apply(&admin, &format!("{path}?fieldManager=me"), &config).await.expect(200).json();
    assert_eq!(owners(&applied), ["me Apply ", "before-first-apply Update "]);
    let long = "x".repeat(129);
    let refused = admin.post(&format!("{MAPS}?fieldManager={long}"), &config_map("b", &json!({}))).await.expect(422);
    assert!(refused.message().contains("fieldManager: Too long: may not be more than 128"), "{}", refused.message());
}

#[tokio::test]
async fn subresources_own_what_they_write() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(&format!("{DEPLOYMENTS}?fieldManager=creator"), &deployment()).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let status = json!({"status": {"replicas": 1}, "spec": {"replicas": 9}});
    let changed =
        admin.patch(&format!("{path}/status?fieldManager=controller"), "merge", &status).await.expect(200).json();
    assert_eq!(changed["spec"]["replicas"], 2);
    assert!(owners(&changed).contains(&"controller Update status".to_owned()), "{changed}");
    let scaled =
        admin.patch(&format!("{path}/scale?fieldManager=scaler"), "merge", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(scaled.expect(200).json()["spec"]["replicas"], 3);
    let now = admin.get(&path).await.expect(200).json();
    let entries = now["metadata"]["managedFields"].as_array().unwrap();
    let of = |manager: &str| entries.iter().find(|e| e["manager"] == manager).unwrap();
    assert_eq!(
        (&of("scaler")["subresource"], &of("scaler")["fieldsV1"]),
        (&json!("scale"), &json!({"f:spec": {"f:replicas": {}}}))
    );
    assert!(of("creator")["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    let scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 4}});
    let refused = apply(&admin, &format!("{path}/scale?fieldManager=hpa"), &scale).await.expect(409);
    let words = "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert_eq!(refused.message(), words);
    let forced = apply(&admin, &format!("{path}/scale?fieldManager=hpa&force=true"), &scale).await.expect(200).json();
    assert_eq!(forced["spec"]["replicas"], 4);
    let now = admin.get(&path).await.expect(200).json();
    assert!(
        owners(&now).contains(&"hpa Apply scale".to_owned())
            && !owners(&now).contains(&"scaler Update scale".to_owned())
    );
}

#[tokio::test]
async fn applying() {
    let server = Server::start().await;
    let admin = server.admin();
    let path = format!("{DEPLOYMENTS}/d");
    let at = |query: &str| format!("{path}?{query}");
    apply(&admin, &path, &deployment()).await.refused(
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
    let dry = apply(&admin, &at("fieldManager=me&dryRun=All"), &deployment()).await.expect(201).json();
    assert_eq!(owners(&dry), ["me Apply "]);
    admin.get(&path).await.expect(404);
    let created = apply(&admin, &at("fieldManager=me"), &deployment()).await.expect(201).json();
    assert_eq!(
        (owners(&created), &created["spec"]["strategy"]["type"]),
        (vec!["me Apply ".to_owned()], &json!("RollingUpdate"))
    );
    let again = apply(&admin, &at("fieldManager=me"), &deployment()).await.expect(200).json();
    assert_eq!(again, created, "nothing is written");
    let mut other = deployment();
    other["spec"]["replicas"] = json!(5);
    let refused = apply(&admin, &at("fieldManager=you"), &other).await.expect(409).json();
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"me\"", "field": ".spec.replicas"}])
    );
    let forced = apply(&admin, &at("fieldManager=you&force=true"), &other).await.expect(200).json();
    assert_eq!((&forced["spec"]["replicas"], &forced["metadata"]["generation"]), (&json!(5), &json!(2)));
    // Whoever drops a field that another owns leaves it; the last owner takes it away, and the default is back.
    let mut less = deployment();
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let left = apply(&admin, &at("fieldManager=me"), &less).await.expect(200).json();
    assert_eq!(left["spec"]["replicas"], 5);
    let gone = apply(&admin, &at("fieldManager=you"), &less).await.expect(200).json();
    assert_eq!(gone["spec"]["replicas"], 1);

    for (query, config, code, message) in [
        (
            "fieldManager=me",
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet"}),
            400,
            "invalid object type: apps/v1, Kind=ReplicaSet",
        ),
        (
            "fieldManager=me",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "e"}}),
            400,
            "the name of the object (e) does not match the name on the URL (d)",
        ),
        (
            "fieldManager=me",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replica": 1}}),
            500,
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema",
        ),
    ] {
        apply(&admin, &at(query), &config).await.refused(code, message);
    }
    let forced = admin.patch(&at("force=true"), "merge", &json!({})).await.expect(422);
    assert!(forced.message().contains("force: Forbidden: may not be specified for non-apply patch"));
    let yaml = admin.clone().with(&[("content-type", "application/apply-patch+yaml")]);
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: b\n";
    let made = yaml.raw(Method::PATCH, &format!("{MAPS}/y?fieldManager=me"), text).await.expect(201).json();
    assert_eq!(made["data"], json!({"a": "b"}));
    let broken = yaml.raw(Method::PATCH, &format!("{MAPS}/y?fieldManager=me"), "a: [").await.expect(400);
    assert!(
        broken.message().starts_with("error decoding YAML: error converting YAML to JSON: yaml: "),
        "{}",
        broken.message()
    );
}

#[tokio::test]
async fn creating_by_apply_needs_the_right_to_create() {
    let server = Server::start().await;
    let admin = server.admin();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.post(&format!("{rbac}/roles"), &role).await.expect(201);
    admin.post(&format!("{rbac}/rolebindings"), &binding).await.expect(201);
    let jane = server.user(Identity::new("jane", &[]));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"m": "1"}});
    let path = format!("{MAPS}/a?fieldManager=jane");
    let refused = apply(&jane, &path, &config).await.expect(403);
    assert!(refused.message().contains("cannot create resource \"configmaps\""), "{}", refused.message());
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    apply(&jane, &path, &config).await.expect(200);
}

#[tokio::test]
async fn what_our_own_parts_renew_by_the_minute_is_not_tracked() {
    let server = Server::start().await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let made = server.admin().post(path, &lease).await.expect(201).json();
    assert_eq!(owners(&made), [""; 0]);
}
