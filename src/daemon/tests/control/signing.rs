//! Certificates and tokens that controllers sign, from the request to their use.

use std::sync::Arc;

use apiserver::Identity;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::local;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A request of a node for its client certificate, or of a person when `group` is another.
fn request(name: &str, signer: &str, common_name: &str, group: &str) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    use base64::Engine as _;
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": base64::engine::general_purpose::STANDARD.encode(pem), "signerName": signer,
            "usages": ["digital signature", "client auth"], "expirationSeconds": 3600}})
}

fn certificate(all: &[Arc<CertificateSigningRequest>], name: &str) -> Option<String> {
    let request = all.iter().find(|r| r.metadata.name.as_deref() == Some(name))?;
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    String::from_utf8(certificate.0.clone()).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_approved_and_signed() {
    let cluster = Cluster::start().await;
    // Nodes may renew their certificates: nobody need approve that.
    let role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let binding = json!({"metadata": {"name": "renewal"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    let node = local::client(&cluster.api, Identity::node("n1"));
    let of_node = request("node", "kubernetes.io/kube-apiserver-client-kubelet", "system:node:n1", "system:nodes");
    let _: Value = node.create_path(REQUESTS, &of_node, &Default::default()).await.unwrap();
    cluster
        .until::<CertificateSigningRequest>("the node's certificate", |all| certificate(all, "node").is_some())
        .await;

    // A person's waits for a person.
    let of_ann = request("ann", "kubernetes.io/kube-apiserver-client", "ann", "team");
    let mut pending = cluster.post(REQUESTS, &of_ann).await;
    pending["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "Test", "message": "known"}]);
    let path = format!("{REQUESTS}/ann/approval");
    let _: Value = cluster.admin.update_path(&path, &pending, &Default::default()).await.unwrap();
    cluster
        .until::<CertificateSigningRequest>("the person's certificate", |all| {
            certificate(all, "ann").is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----"))
        })
        .await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_get_their_accounts_tokens() {
    let cluster = Cluster::start().await;
    cluster.namespace("shop").await;
    let account = json!({"metadata": {"name": "ci"}});
    cluster.post("/api/v1/namespaces/shop/serviceaccounts", &account).await;
    cluster
        .until::<ServiceAccount>("the account", |all| all.iter().any(|a| a.metadata.name.as_deref() == Some("ci")))
        .await;
    let secret = json!({"metadata": {"name": "ci-token", "annotations": {"kubernetes.io/service-account.name": "ci"}},
        "type": "kubernetes.io/service-account-token"});
    cluster.post("/api/v1/namespaces/shop/secrets", &secret).await;
    let token = std::sync::Mutex::new(String::new());
    cluster
        .until::<Secret>("the token", |all| {
            let secret = all.iter().find(|s| s.metadata.name.as_deref() == Some("ci-token"));
            let data = secret.and_then(|s| s.data.as_ref()).and_then(|d| d.get("token"));
            data.is_some_and(|found| {
                *token.lock().unwrap() = String::from_utf8(found.0.clone()).unwrap();
                true
            })
        })
        .await;
    let token = token.into_inner().unwrap();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:shop:ci");
    // With the account its tokens go.
    let path = "/api/v1/namespaces/shop/serviceaccounts/ci";
    cluster.admin.delete_path(path, &Default::default()).await.unwrap();
    cluster
        .until::<Secret>("no token", |all| !all.iter().any(|s| s.metadata.name.as_deref() == Some("ci-token")))
        .await;
    let reviewed = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(reviewed["status"]["authenticated"], Value::Null);
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_gather_what_is_labelled_for_them() {
    let cluster = Cluster::start().await;
    let role = json!({"metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await;
    cluster
        .until::<ClusterRole>("the rule among those of view", |all| {
            let view = all.iter().find(|r| r.metadata.name.as_deref() == Some("view"));
            view.into_iter()
                .flat_map(|r| r.rules.iter().flatten())
                .any(|r| r.resources.iter().flatten().any(|r| r == "widgets"))
        })
        .await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
