//! Who may do what, and how refusals read.

use apiserver::{Certificate, Identity, Peer};
use serde_json::json;

use crate::harness::{Server, config_map};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test]
async fn refusals_are_upstreams() {
    let server = Server::start().await;
    let bob = server.user(Identity::new("bob", &[]));
    bob.get("/api/v1/namespaces/default/pods").await.refused(
        403,
        r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#,
    );
    bob.get("/api/v1/nodes/n").await.refused(
        403,
        r#"nodes "n" is forbidden: User "bob" cannot get resource "nodes" in API group "" at the cluster scope"#,
    );
    bob.get("/metrics").await.refused(403, r#"forbidden: User "bob" cannot get path "/metrics""#);
    bob.get("/apis").await.expect(200);
    let stranger = server.stranger(&[]);
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        stranger.get(path).await.expect(200);
    }
    stranger.get("/api/v1/pods").await.refused(401, "Unauthorized");
    stranger.get("/apis").await.refused(401, "Unauthorized");
    server.stranger(&[("authorization", "Bearer nonsense")]).get("/version").await.refused(401, "Unauthorized");
    let mut wrong = server.stranger(&[]);
    wrong.peer = Peer::Remote { address: "192.0.2.9:1".parse().unwrap(), certificate: Certificate::Unknown };
    wrong.get("/version").await.refused(401, "Unauthorized");
}

#[tokio::test]
async fn roles_are_in_force_at_once() {
    let server = Server::start().await;
    let (admin, bob) = (server.admin(), server.user(Identity::new("bob", &[])));
    let maps = "/api/v1/namespaces/default/configmaps";
    bob.get(maps).await.expect(403);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    admin.post(&bindings, &binding).await.expect(201);
    bob.get(maps).await.expect(200);
    bob.post(maps, &config_map("a", &json!({}))).await.expect(201);
    bob.get("/api/v1/configmaps").await.expect(403);
    bob.get("/api/v1/namespaces/kube-system/configmaps").await.expect(403);
    admin.delete(&format!("{bindings}/b")).await.expect(200);
    bob.get(maps).await.expect(403);
}

#[tokio::test]
async fn aggregated_roles_gather_what_is_labelled() {
    let server = Server::start().await;
    let (admin, bob) = (server.admin(), server.user(Identity::new("bob", &[])));
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.expect(201);
    bob.get("/api/v1/nodes").await.expect(403);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]});
    admin.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
    bob.get("/api/v1/nodes").await.expect(200);
}

#[tokio::test]
async fn nobody_hands_out_more_than_they_have() {
    let server = Server::start().await;
    let (admin, eve) = (server.admin(), server.user(Identity::new("eve", &["team"])));
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "get", "list"]}]});
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    admin.post(&roles, &role).await.expect(201);
    let binding = |name: &str, kind: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}]})
    };
    admin.post(&bindings, &binding("b", "Role", "r")).await.expect(201);
    let wide = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "wide"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}]});
    eve.post(&roles, &wide).await.refused(
        403,
        "roles.rbac.authorization.k8s.io \"wide\" is forbidden: user \"eve\" (groups=[\"team\" \"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}",
    );
    eve.post(&bindings, &binding("c", "ClusterRole", "cluster-admin")).await.expect(403);
    let same = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "same"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["get"]}]});
    eve.post(&roles, &same).await.expect(201);
}

/// What a role is worth depends on its labels and on what it gathers, so these are handed out like rules.
#[tokio::test]
async fn gathering_is_no_way_around() {
    const MERGE: &str = "merge";
    const GATHERS: &str = "must have cluster-admin privileges to use the aggregationRule";
    let server = Server::start().await;
    let (admin, eve) = (server.admin(), server.user(Identity::new("eve", &[])));
    let roles = format!("{RBAC}/clusterroles");
    let bindings = format!("{RBAC}/clusterrolebindings");
    let role = |name: &str, labels: serde_json::Value, rules: serde_json::Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "labels": labels}, "rules": rules})
    };
    let binding = |name: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}]})
    };
    let writes = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles", "clusterrolebindings"],
        "verbs": ["create", "patch"]}]);
    admin.post(&roles, &role("writer", json!({}), writes)).await.expect(201);
    for (name, role) in [("eve-writes", "writer"), ("eve-views", "view")] {
        admin.post(&bindings, &binding(name, role)).await.expect(201);
    }
    let refused = |answer: crate::harness::Answer, words: &str| {
        let answer = answer.expect(403);
        assert!(answer.message().contains(words), "{}", answer.message());
    };

    // Rules that stay the same are given to more people by a label.
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    let grants = "attempting to grant RBAC permissions not currently held";
    refused(eve.patch(&format!("{roles}/cluster-admin"), MERGE, &label).await, grants);
    // Whoever gathers is not told what to gather, what to say of it, nor to stop.
    for change in [
        json!({"rules": []}),
        json!({"aggregationRule": null}),
        json!({"aggregationRule": {"clusterRoleSelectors": [{}]}}),
        json!({"metadata": {"labels": {"a": "b"}}}),
    ] {
        refused(eve.patch(&format!("{roles}/view"), MERGE, &change).await, GATHERS);
    }
    let mut gathering = role("gathering", json!({}), json!([]));
    gathering["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]});
    refused(eve.post(&roles, &gathering).await, GATHERS);
    // A binding grants what the role gathers, whatever rules are stored with it.
    admin.post(&roles, &gathering).await.expect(201);
    let secrets = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]);
    admin.post(&roles, &role("part", json!({"part": "yes"}), secrets)).await.expect(201);
    let words = "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"list\"]}";
    refused(eve.post(&bindings, &binding("b", "gathering")).await, words);

    // The garbage collector needs no rights of the roles that it collects.
    let finalizers = json!({"metadata": {"finalizers": ["example.com/wait"]}});
    eve.patch(&format!("{roles}/cluster-admin"), MERGE, &finalizers).await.expect(200);
    // Who says what a role gathers may.
    let controller = Identity::new("system:serviceaccount:kube-system:clusterrole-aggregation-controller", &[]);
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]});
    server.user(controller).patch(&format!("{roles}/gathering"), MERGE, &rules).await.expect(200);
}

#[tokio::test]
async fn a_node_sees_what_its_pods_use() {
    let server = Server::start().await;
    let (admin, node) = (server.admin(), server.user(Identity::node("n1")));
    let other = server.user(Identity::node("n2"));
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.post(secrets, &secret("used")).await.expect(201);
    admin.post(secrets, &secret("other")).await.expect(201);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n1",
        "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "used"}}]}]}});
    admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    node.get(&format!("{secrets}/used")).await.expect(200);
    let refused = node.get(&format!("{secrets}/other")).await.expect(403);
    assert!(
        refused.message().ends_with(": no relationship found between node 'n1' and this object"),
        "{}",
        refused.message()
    );
    other.get(&format!("{secrets}/used")).await.expect(403);
    node.get(secrets).await.expect(403);
    // The volume behind a claim of its pod, and no other.
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let spec =
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "mine"});
    let claim =
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec});
    admin.post(claims, &claim).await.expect(201);
    for name in ["mine", "theirs"] {
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"},
            "claimRef": {"namespace": "default", "name": "data"}}});
        admin.post("/api/v1/persistentvolumes", &volume).await.expect(201);
    }
    node.get("/api/v1/persistentvolumes/mine").await.expect(403);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "q"}, "spec": {"nodeName": "n1",
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    node.get(&format!("{claims}/data")).await.expect(200);
    node.get("/api/v1/persistentvolumes/mine").await.expect(200);
    node.get("/api/v1/persistentvolumes/theirs").await.expect(403);
    node.get("/api/v1/persistentvolumes").await.expect(403);
    other.get("/api/v1/persistentvolumes/mine").await.expect(403);
    node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    other.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(403);
    node.get("/api/v1/pods").await.expect(403);
    node.get("/api/v1/services").await.expect(200);
    node.get("/apis/discovery.k8s.io/v1/endpointslices").await.expect(200);
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    node.put(&format!("{leases}/n1"), &lease("n1")).await.expect(201);
    node.put(&format!("{leases}/n2"), &lease("n2")).await.expect(403);
}

/// What a driver needs for a volume, what is left to do when it grew, and whether it is attached.
#[tokio::test]
async fn a_node_sees_what_its_drivers_need() {
    let server = Server::start().await;
    let (admin, node) = (server.admin(), server.user(Identity::node("n1")));
    let other = server.user(Identity::node("n2"));
    let (core, attachments) = ("/api/v1/namespaces/default", "/apis/storage.k8s.io/v1/volumeattachments");
    let named = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    admin.post(&format!("{core}/serviceaccounts"), &named("ServiceAccount", "default")).await.expect(201);
    admin.post(&format!("{core}/secrets"), &named("Secret", "sealed")).await.expect(201);
    let size = json!({"storage": "1Gi"});
    let mut claim = named("PersistentVolumeClaim", "data");
    claim["spec"] = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": size}, "volumeName": "mine"});
    admin.post(&format!("{core}/persistentvolumeclaims"), &claim).await.expect(201);
    let mut volume = named("PersistentVolume", "mine");
    volume["spec"] = json!({"accessModes": ["ReadWriteOnce"], "capacity": size,
        "claimRef": {"namespace": "default", "name": "data"}, "csi": {"driver": "d", "volumeHandle": "h",
            "nodeStageSecretRef": {"namespace": "default", "name": "sealed"}}});
    admin.post("/api/v1/persistentvolumes", &volume).await.expect(201);
    for at in ["n1", "n2"] {
        let attachment = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": at},
            "spec": {"attacher": "d", "nodeName": at, "source": {"persistentVolumeName": "mine"}}});
        admin.post(attachments, &attachment).await.expect(201);
    }
    let (secret, status) = (format!("{core}/secrets/sealed"), format!("{core}/persistentvolumeclaims/data/status"));
    let grown = json!({"status": {"capacity": size}});
    node.get(&secret).await.expect(403);
    node.patch(&status, "merge", &grown).await.expect(403);
    let mut pod = named("Pod", "p");
    pod["spec"] = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    admin.post(&format!("{core}/pods"), &pod).await.expect(201);
    node.get(&secret).await.expect(200);
    node.patch(&status, "merge", &grown).await.expect(200);
    other.get(&secret).await.expect(403);
    other.patch(&status, "merge", &grown).await.expect(403);
    node.get(&format!("{attachments}/n1")).await.expect(200);
    node.get(&format!("{attachments}/n2")).await.expect(403);
    node.get(attachments).await.expect(403);
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let server = Server::start().await;
    let admin = server.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.post(accounts, &account).await.expect(201);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201).json();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]}}});
    let issued = admin.post(&format!("{accounts}/default/token"), &request).await.expect(201).json();
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let holder = server.stranger(&[("authorization", &bearer)]);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = holder.post(path, &review).await.expect(201).json();
    assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    assert_eq!(me["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    holder.get("/api/v1/namespaces/default/secrets").await.expect(403);
    let mut forged = token.clone();
    forged.replace_range(token.len() - 4.., "AAAA");
    server.stranger(&[("authorization", &format!("Bearer {forged}"))]).get("/version").await.expect(401);
    let token_review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &token_review).await.expect(201).json();
    assert_eq!(reviewed["status"]["authenticated"], true);
    admin.delete("/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0").await.expect(200);
    holder.get("/version").await.refused(401, "Unauthorized");
    let short =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 10}});
    let refused = admin.post(&format!("{accounts}/default/token"), &short).await.expect(422);
    assert!(refused.message().contains("may not specify a duration less than 10 minutes"));
    let keys = admin.get("/openid/v1/jwks").await.expect(200).json();
    assert_eq!(keys["keys"][0]["alg"], "ES256");
}

#[tokio::test]
async fn impersonation_and_reviews() {
    let server = Server::start().await;
    let admin = server.admin();
    let as_bob = admin.clone().with(&[("impersonate-user", "bob"), ("impersonate-group", "team")]);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let me = as_bob.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.expect(201).json();
    assert_eq!(me["status"]["userInfo"], json!({"username": "bob", "groups": ["team", "system:authenticated"]}));
    let eve = server.user(Identity::new("eve", &[])).with(&[("impersonate-user", "bob")]);
    eve.get("/version").await.refused(
        403,
        r#"users "bob" is forbidden: User "eve" cannot impersonate resource "users" in API group "" at the cluster scope"#,
    );
    let access = |verb: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}})
    };
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(admin.post(path, &access("get")).await.expect(201).json()["status"]["allowed"], true);
    assert_eq!(as_bob.post(path, &access("get")).await.expect(201).json()["status"]["allowed"], false);
    let subject = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "x", "groups": ["system:masters"], "nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let answer = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &subject).await.expect(201).json();
    assert_eq!(answer["status"]["allowed"], true);
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let answer = as_bob.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &rules).await.expect(201).json();
    assert!(answer["status"]["resourceRules"].to_string().contains("selfsubjectaccessreviews"));
}
