//! In which form answers come: media types, shapes, indentation; and which code says that something is not done yet.

use apiserver::Identity;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn shapes_that_do_not_fit_are_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let as_one = admin.clone().with(&[("accept", one)]);
    let as_list = admin.clone().with(&[("accept", list)]);
    as_one.get(&format!("{MAPS}/a")).await.expect(200);
    as_list.get(MAPS).await.expect(200);
    as_one
        .get(MAPS)
        .await
        .refused(406, "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)");
    as_list.get(&format!("{MAPS}/a")).await.refused(
        406,
        "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)",
    );
    let yaml = admin.clone().with(&[("accept", "application/yaml")]);
    let refused = yaml.get(&format!("{MAPS}?watch=1")).await.expect(406);
    let text = "only the following media types are accepted: application/json;stream=watch, \
                application/vnd.kubernetes.protobuf;stream=watch";
    assert!(refused.text().contains(text), "{}", refused.text());
    let listed = yaml.get(MAPS).await.expect(200);
    assert!(listed.text().contains("kind: ConfigMapList\n"), "{}", listed.text());
}

#[tokio::test]
async fn people_are_shown_indented_json() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    let curl = admin.clone().with(&[("user-agent", "curl/8.5.0")]);
    let one = format!("{MAPS}/a");
    for path in [one.as_str(), MAPS, "/api/v1/namespaces/default/configmaps/none", "/api/v1"] {
        let (plain, pretty) = (admin.get(path).await, curl.get(path).await);
        assert!(!plain.text().contains("\n  ") && pretty.text().starts_with("{\n  "), "{path}: {}", pretty.text());
        assert_eq!(plain.json(), pretty.json());
        let asked = format!("{path}?pretty=false");
        assert!(!curl.get(&asked).await.text().contains("\n  "), "{path}");
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    assert!(curl.with(&[("accept", table)]).get(MAPS).await.text().starts_with("{\n  "));
}

/// Every form of a list says the same.
#[tokio::test]
async fn forms_of_a_list_agree() {
    let server = Server::start().await;
    let admin = server.admin();
    for name in ["a", "b", "c"] {
        admin.post(MAPS, &config_map(name, &json!({"quoted": "x.y_z"}))).await.expect(201);
    }
    let names = |items: &Value, at: &str| -> Vec<Value> {
        items.as_array().unwrap().iter().map(|i| i.pointer(at).unwrap()["metadata"]["name"].clone()).collect()
    };
    let expected = [json!("a"), json!("b"), json!("c")];
    let json = admin.get(MAPS).await.json();
    assert_eq!(names(&json["items"], ""), expected);
    for include in ["", "&includeObject=Object", "&includeObject=Metadata"] {
        let accept = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
        let table = admin.clone().with(&[("accept", accept)]).get(&format!("{MAPS}?limit=10{include}")).await.json();
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1beta1")));
        assert_eq!(names(&table["rows"], "/object"), expected);
        assert_eq!(table["metadata"]["resourceVersion"], json["metadata"]["resourceVersion"]);
        let whole = include.ends_with("Object");
        assert_eq!(table["rows"][0]["object"].get("data").is_some(), whole);
    }
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let partial = admin.clone().with(&[("accept", partial)]).get(MAPS).await.json();
    assert_eq!(partial["items"][1]["metadata"], json["items"][1]["metadata"]);
    // Empty lists have items too.
    let empty = "/api/v1/namespaces/kube-public/configmaps";
    for accept in ["application/json", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"] {
        let list = admin.clone().with(&[("accept", accept)]).get(empty).await.json();
        assert_eq!(list["items"], json!([]), "{accept}");
    }
}

#[tokio::test]
async fn a_deletion_that_goes_on_is_accepted() {
    let server = Server::start().await;
    let admin = server.admin();
    for (name, query, code) in [
        ("a", "", 200),
        ("b", "?propagationPolicy=Foreground", 202),
        ("c", "?propagationPolicy=Orphan", 200),
        ("d", "?propagationPolicy=Background", 200),
        ("e", "?orphanDependents=false", 200),
    ] {
        admin.post(MAPS, &config_map(name, &json!({}))).await.expect(201);
        admin.delete(&format!("{MAPS}/{name}{query}")).await.expect(code);
    }
    let mut held = config_map("held", &json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/mine"]);
    admin.post(MAPS, &held).await.expect(201);
    let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "orphanDependents": false}).to_string();
    admin.raw(Method::DELETE, &format!("{MAPS}/held"), body).await.expect(202);
    // An Event owns nothing, so nothing waits for what it owns.
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"namespace": "default"}});
    let events = "/api/v1/namespaces/default/events";
    admin.post(events, &event).await.expect(201);
    admin.delete(&format!("{events}/e?propagationPolicy=Foreground")).await.expect(200);
    admin.get(&format!("{events}/e")).await.expect(404);
}

#[tokio::test]
async fn who_puts_what_is_not_there_must_be_allowed_to_create_it() {
    let server = Server::start().await;
    let (admin, bob) = (server.admin(), server.user(Identity::new("bob", &[])));
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update", "get"]}]});
    admin.post(&format!("{rbac}/roles"), &role).await.expect(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    admin.post(&format!("{rbac}/rolebindings"), &binding).await.expect(201);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    bob.put(path, &lease).await.refused(
        403,
        "leases.coordination.k8s.io \"l\" is forbidden: User \"bob\" cannot create resource \"leases\" in API group \
         \"coordination.k8s.io\" in the namespace \"default\"",
    );
    let created = admin.put(path, &lease).await.expect(201).json();
    bob.put(path, &created).await.expect(200);
}

/// `kubectl get --subresource=scale` shows the Scale, not what is scaled.
#[tokio::test]
async fn a_scale_has_columns_of_its_own() {
    let server = Server::start().await;
    let admin = server.admin();
    let labels = json!({"a": "b"});
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    admin.post(deployments, &object).await.expect(201);
    let table = admin.clone().with(&[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]);
    let shown = table.get(&format!("{deployments}/d/scale")).await.expect(200).json();
    let columns: Vec<&Value> = shown["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(shown["rows"][0]["cells"].as_array().unwrap()[..3], [json!("d"), json!(2), json!(0)]);
    let shown = table.get(&format!("{deployments}/d")).await.expect(200).json();
    assert_eq!(shown["columnDefinitions"][1]["name"], "Ready");
}
