//! Create, update, patch, delete.

use serde_json::{Value, json};

use crate::custom::until;
use crate::harness::{Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_life() {
    let server = Server::start().await;
    let admin = server.admin();
    let created = admin.post(MAPS, &config_map("a", &json!({"x": "1"}))).await.expect(201).json();
    let meta = &created["metadata"];
    assert_eq!((&meta["namespace"], meta["uid"].as_str().unwrap().len()), (&json!("default"), 36));
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let path = format!("{MAPS}/a");
    assert_eq!(admin.get(&path).await.expect(200).json(), created);
    admin.post(MAPS, &config_map("a", &json!({}))).await.refused(409, "configmaps \"a\" already exists");

    let mut changed = created.clone();
    changed["data"]["k"] = json!("w");
    let updated = admin.put(&path, &changed).await.expect(200).json();
    assert_ne!(updated["metadata"]["resourceVersion"], meta["resourceVersion"]);
    assert_eq!(updated["metadata"]["uid"], meta["uid"]);
    changed["data"]["k"] = json!("z");
    admin.put(&path, &changed).await.refused(
        409,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the \
         latest version and try again",
    );
    // Nothing changes: no new revision.
    let same = admin.put(&path, &updated).await.expect(200).json();
    assert_eq!(same, updated);
    // No version: the newest is replaced.
    let blind = config_map("a", &json!({}));
    let blind = admin.put(&path, &blind).await.expect(200).json();
    assert_eq!((&blind["data"]["k"], &blind["metadata"]["uid"]), (&json!("v"), &meta["uid"]));

    let gone = admin.delete(&path).await.expect(200).json();
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": meta["uid"]}));
    admin.get(&path).await.refused(404, "configmaps \"a\" not found");
    admin.delete(&path).await.refused(404, "configmaps \"a\" not found");
}

#[tokio::test]
async fn generated_names_and_dry_runs() {
    let server = Server::start().await;
    let admin = server.admin();
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let first = admin.post(MAPS, &body).await.expect(201).json();
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    admin.post(&format!("{MAPS}?dryRun=All"), &config_map("dry", &json!({}))).await.expect(201);
    admin.get(&format!("{MAPS}/dry")).await.expect(404);
    admin.delete(&format!("{MAPS}/{name}?dryRun=All")).await.expect(200);
    admin.get(&format!("{MAPS}/{name}")).await.expect(200);
    let refused = admin.post(&format!("{MAPS}?dryRun=Some"), &body).await.expect(422);
    assert!(refused.message().contains("dryRun: Unsupported value: \"Some\": supported values: \"All\""));
}

#[tokio::test]
async fn patches() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({"x": "1"}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let merged = admin.patch(&path, "merge", &json!({"data": {"k": null, "n": "1"}})).await.expect(200).json();
    assert_eq!(merged["data"], json!({"n": "1"}));
    let json_patch = json!([{"op": "add", "path": "/data/m", "value": "2"}]);
    let patched = admin.patch(&path, "json", &json_patch).await.expect(200).json();
    assert_eq!(patched["data"], json!({"n": "1", "m": "2"}));
    let strategic = admin.patch(&path, "strategic-merge", &json!({"metadata": {"labels": {"y": "2"}}})).await;
    assert_eq!(strategic.expect(200).json()["metadata"]["labels"], json!({"x": "1", "y": "2"}));
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "v"}});
    admin.patch(&path, "merge", &stale).await.expect(409);
    admin.patch(&path, "nonsense", &json!({})).await.expect(415);
    admin.patch(&format!("{MAPS}/missing"), "merge", &json!({})).await.expect(404);
}

#[tokio::test]
async fn a_patch_is_checked_as_the_object_is() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let unknown = json!({"bogus": 1, "data": {"n": "1"}});
    let warned = admin.patch(&path, "merge", &unknown).await.expect(200);
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"bogus\\\"\"");
    let refused = admin.patch(&format!("{path}?fieldValidation=Strict"), "merge", &unknown).await.expect(422);
    assert!(refused.message().contains("strict decoding error: unknown field \"bogus\""), "{}", refused.message());
    let wrong = admin.patch(&path, "merge", &json!({"data": {"n": 1}})).await.expect(422);
    assert!(wrong.message().starts_with(" \"\" is invalid: patch: Invalid value: "), "{}", wrong.message());
    let merge = admin.clone().with(&[("content-type", "application/merge-patch+json")]);
    let twice = merge.raw(http::Method::PATCH, &path, r#"{"data":{"a":"1"},"data":{"b":"1"}}"#).await.expect(200);
    assert_eq!(twice.header("warning"), "299 - \"duplicate field \\\"data\\\"\"");
}

#[tokio::test]
async fn identity_in_a_patch_is_a_condition_and_managed_fields_stay() {
    let server = Server::start().await;
    let admin = server.admin();
    let created = admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201).json();
    let path = format!("{MAPS}/a");
    let (uid, version) = (&created["metadata"]["uid"], &created["metadata"]["resourceVersion"]);
    let other = json!({"metadata": {"uid": "other"}, "data": {"n": "1"}});
    admin.patch(&path, "merge", &other).await.refused(
        409,
        &format!(
            "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: other, UID in \
             object meta: {}",
            uid.as_str().unwrap()
        ),
    );
    let fields = json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:k": {}}}}]);
    let same = json!({"metadata": {"uid": uid, "resourceVersion": version, "managedFields": fields}});
    let kept = admin.patch(&path, "merge", &same).await.expect(200).json();
    assert_eq!(kept["metadata"]["managedFields"][0]["manager"], "m");
    // The version has moved on.
    admin.patch(&path, "merge", &same).await.expect(409);
    let put = admin.put(&path, &config_map("a", &json!({}))).await.expect(200).json();
    assert_eq!(put["metadata"]["managedFields"], kept["metadata"]["managedFields"]);
}

#[tokio::test]
async fn a_pod_waits_for_the_default_account_of_a_new_namespace() {
    let server = Server::start().await;
    let admin = server.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |account: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]}})
    };
    // Nobody makes other accounts, so nothing is waited for.
    let refused = admin.post(pods, &pod("robot")).await.expect(403);
    assert!(
        refused
            .message()
            .ends_with("error looking up service account default/robot: serviceaccount \"robot\" not found")
    );
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let (body, late) = (pod(""), admin.clone());
    // The pod's request is polled first, so that it is waiting when the account comes.
    let (created, account) =
        tokio::join!(biased; admin.post(pods, &body), async move { late.post(accounts, &account).await });
    account.expect(201);
    assert_eq!(created.expect(201).json()["spec"]["serviceAccountName"], "default");
    // It comes to an end when the account does not come.
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bare"}});
    admin.post("/api/v1/namespaces", &space).await.expect(201);
    admin.post("/api/v1/namespaces/bare/pods", &body).await.expect(403);
}

#[tokio::test]
async fn finalizers_hold_and_release() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut body = config_map("held", &json!({}));
    body["metadata"]["finalizers"] = json!(["example.com/wait"]);
    admin.post(MAPS, &body).await.expect(201);
    let path = format!("{MAPS}/held");
    let marked = admin.delete(&path).await.expect(200).json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let more = json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}});
    let refused = admin.patch(&path, "merge", &more).await.expect(422);
    assert!(refused.message().contains("no new finalizers can be added if the object is being deleted"));
    admin.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    admin.get(&path).await.expect(404);

    admin.post(MAPS, &config_map("owner", &json!({}))).await.expect(201);
    let path = format!("{MAPS}/owner");
    let marked = admin.delete(&format!("{path}?propagationPolicy=Foreground")).await.expect(202).json();
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    admin.delete(&format!("{path}?propagationPolicy=Background")).await.expect(200);
    admin.get(&path).await.expect(404);
}

#[tokio::test]
async fn preconditions_of_a_deletion() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let options = |conditions: Value| {
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": conditions}).to_string()
    };
    let refused = admin.raw(http::Method::DELETE, &path, options(json!({"uid": "other"}))).await.expect(409);
    assert!(refused.message().contains("the UID in the precondition (other) does not match the UID in record ("));
    let refused = admin.raw(http::Method::DELETE, &path, options(json!({"resourceVersion": "1"}))).await.expect(409);
    assert!(refused.message().contains("the ResourceVersion in the precondition (1) does not match"));
    admin.get(&path).await.expect(200);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let server = Server::start().await;
    let admin = server.admin();
    for (name, label) in [("a", "1"), ("b", "1"), ("c", "2")] {
        admin.post(MAPS, &config_map(name, &json!({"x": label}))).await.expect(201);
    }
    let deleted = admin.delete(&format!("{MAPS}?labelSelector=x%3D1")).await.expect(200).json();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = admin.get(MAPS).await.expect(200).json();
    let names: Vec<_> = left["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect();
    assert_eq!(names, [json!("c")]);
}

#[tokio::test]
async fn a_namespace_waits_for_its_finalizer() {
    let server = Server::start().await;
    let admin = server.admin();
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let created = admin.post("/api/v1/namespaces", &body).await.expect(201).json();
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    let marked = admin.delete("/api/v1/namespaces/shop").await.expect(200).json();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = admin.post("/api/v1/namespaces/shop/configmaps", &config_map("a", &json!({}))).await.expect(403);
    assert!(refused.message().contains("because it is being terminated"), "{}", refused.message());
    let mut finalized = admin.get("/api/v1/namespaces/shop").await.json();
    finalized["spec"]["finalizers"] = json!([]);
    admin.put("/api/v1/namespaces/shop/finalize", &finalized).await.expect(200);
    admin.get("/api/v1/namespaces/shop").await.expect(404);
    admin
        .post("/api/v1/namespaces/nowhere/configmaps", &config_map("a", &json!({})))
        .await
        .refused(404, "namespaces \"nowhere\" not found");
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn scale_and_status() {
    let server = Server::start().await;
    let admin = server.admin();
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let created = admin.post(base, &deployment("web")).await.expect(201).json();
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{base}/web/scale");
    let scale = admin.get(&path).await.expect(200).json();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(5);
    let scaled = admin.put(&path, &wanted).await.expect(200).json();
    assert_eq!(scaled["spec"]["replicas"], 5);
    admin.put(&path, &wanted).await.expect(409);
    let patched = admin.patch(&path, "merge", &json!({"spec": {"replicas": 3}})).await.expect(200).json();
    assert_eq!(patched["spec"]["replicas"], 3);
    admin.patch(&path, "merge", &json!({"spec": {"replicas": -1}})).await.expect(422);
    let object = admin.get(&format!("{base}/web")).await.json();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(3), &json!(3)));
    let status = json!({"status": {"replicas": 3, "observedGeneration": 3}, "spec": {"replicas": 9}});
    let written = admin.patch(&format!("{base}/web/status"), "merge", &status).await.expect(200).json();
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"]), (&json!(3), &json!(3)));
    assert_eq!(written["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_pod_is_bound_once_and_dies_gracefully() {
    let server = Server::start().await;
    let admin = server.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    admin.post(pods, &pod).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    admin.post(&format!("{pods}/p/binding"), &binding).await.expect(201);
    let refused = admin.post(&format!("{pods}/p/binding"), &binding).await.expect(409);
    assert_eq!(
        refused.message(),
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let marked = admin.delete(&format!("{pods}/p")).await.expect(200).json();
    assert_eq!((&marked["kind"], &marked["metadata"]["deletionGracePeriodSeconds"]), (&json!("Pod"), &json!(30)));
    let again = admin.delete(&format!("{pods}/p?gracePeriodSeconds=5")).await.expect(200).json();
    assert_eq!(again["metadata"]["deletionGracePeriodSeconds"], 5);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    admin.post(&format!("{pods}/p/eviction"), &eviction).await.expect(201);
    admin.get(&format!("{pods}/p")).await.expect(404);
}

#[tokio::test]
async fn put_creates_where_upstream_does() {
    let server = Server::start().await;
    let admin = server.admin();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    admin.put(path, &lease).await.expect(201);
    let refused = admin.put(path, &lease).await.expect(422);
    assert!(
        refused.message().contains("metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"),
        "{}",
        refused.message()
    );
    admin
        .put(&format!("{MAPS}/none"), &config_map("none", &json!({})))
        .await
        .refused(404, "configmaps \"none\" not found");
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let server = Server::start().await;
    let admin = server.admin();
    let base = "/api/v1/namespaces/default/services";
    let own = admin.get(&format!("{base}/kubernetes")).await.expect(200).json();
    assert_eq!(own["spec"]["clusterIP"], "10.43.0.1");
    let slice = admin.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.expect(200);
    assert_eq!(slice.json()["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
    let (one, two) = (service("one"), service("two"));
    let (first, second) = tokio::join!(admin.post(base, &one), admin.post(base, &two));
    let (first, second) = (first.expect(201).json(), second.expect(201).json());
    let (a, b) = (first["spec"]["clusterIP"].as_str().unwrap(), second["spec"]["clusterIP"].as_str().unwrap());
    assert!(a.starts_with("10.43.") && b.starts_with("10.43.") && a != b, "{a} {b}");
}

/// A host without a network still serves its own users; its address is just no endpoint for pods.
#[tokio::test]
async fn a_server_on_loopback_publishes_no_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_at("127.0.0.1:6443", folder, None).await;
    let admin = server.admin();
    let service = admin.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200).json();
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    admin.get("/api/v1/namespaces/default/endpoints/kubernetes").await.expect(404);
    admin.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.expect(404);
    // With a network again, the next start publishes.
    let Server { api, store, pki, folder } = server;
    use store::Store as _;
    store.close().await.unwrap();
    drop((api, store, pki));
    let server = Server::start_in(folder, None).await;
    server.admin().get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.expect(200);
}

#[tokio::test]
async fn addresses_in_use_have_objects() {
    let server = Server::start().await;
    let admin = server.admin();
    let (addresses, services) = ("/apis/networking.k8s.io/v1/ipaddresses", "/api/v1/namespaces/default/services");
    let first = admin.get(&format!("{addresses}/10.43.0.1")).await.expect(200).json();
    let parent = json!({"resource": "services", "namespace": "default", "name": "kubernetes"});
    assert_eq!(first["spec"]["parentRef"], parent);
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(first["metadata"]["labels"], labels);
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    admin.post(&format!("{services}?dryRun=All"), &service).await.expect(201);
    let listed = admin.get(addresses).await.expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    for gives_up in [true, false] {
        let made = admin.post(services, &service).await.expect(201).json();
        let path = format!("{addresses}/{}", made["spec"]["clusterIP"].as_str().unwrap());
        let object = admin.get(&path).await.expect(200).json();
        assert_eq!(object["spec"]["parentRef"]["name"], "s");
        admin.delete(&path).await.expect(200);
        let again = until(&admin, &path, |answer| {
            answer.code == 200 && answer.json()["metadata"]["uid"] != object["metadata"]["uid"]
        });
        assert_eq!(again.await.json()["spec"], object["spec"]);
        if gives_up {
            let external = json!({"spec": {"type": "ExternalName", "externalName": "a.example", "clusterIP": null,
                "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null}});
            admin.patch(&format!("{services}/s"), "merge", &external).await.expect(200);
            admin.get(&path).await.expect(404);
        }
        admin.delete(&format!("{services}/s")).await.expect(200);
        admin.get(&path).await.expect(404);
    }
    let range = admin.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.expect(200).json();
    let ready = &range["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
}

#[tokio::test]
async fn services_get_addresses_of_further_ranges_and_the_default_one_is_kept() {
    let server = Server::start().await;
    let admin = server.admin();
    let (ranges, services) = ("/apis/networking.k8s.io/v1/servicecidrs", "/api/v1/namespaces/default/services");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"clusterIP": "203.0.113.10", "ports": [{"port": 80}]}});
    let refused = admin.post(services, &service).await.expect(422).json();
    let words = "Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"203.0.113.10\"]: failed to allocate IP \
        203.0.113.10: the provided network does not match the current range";
    assert_eq!(refused["message"], words);
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["203.0.113.0/24"]}});
    admin.post(ranges, &range).await.expect(201);
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    admin.patch(&format!("{ranges}/more/status"), "merge", &not_ready).await.expect(200);
    admin.post(services, &service).await.expect(422);
    admin.patch(&format!("{ranges}/more/status"), "merge", &json!({"status": null})).await.expect(200);
    admin.post(services, &service).await.expect(201);
    let address = admin.get("/apis/networking.k8s.io/v1/ipaddresses/203.0.113.10").await.expect(200).json();
    assert_eq!(address["spec"]["parentRef"]["name"], "s");

    // Nobody holds these back here: there are no controllers.
    for path in [&format!("{ranges}/kubernetes"), &format!("{services}/kubernetes")] {
        let before = admin.get(path).await.expect(200).json();
        admin.delete(path).await.expect(200);
        let again = until(&admin, path, |answer| {
            answer.code == 200 && answer.json()["metadata"]["uid"] != before["metadata"]["uid"]
        });
        let again = again.await.json();
        assert_eq!(
            (&again["spec"]["cidrs"], &again["spec"]["clusterIP"]),
            (&before["spec"]["cidrs"], &before["spec"]["clusterIP"])
        );
    }
}
