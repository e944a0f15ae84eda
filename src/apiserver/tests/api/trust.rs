//! What extension servers are told, so that they believe this one.

use serde_json::json;

use crate::custom::until;
use crate::harness::{Answer, Server};

#[tokio::test]
async fn extension_servers_are_told_whom_to_believe() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_in(folder, None).await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = server.admin().get(path).await.expect(200).json();
    let data = &map["data"];
    let pem = |text: &str| text.replace("\r\n", "\n");
    assert_eq!(pem(data["client-ca-file"].as_str().unwrap()), pem(server.pki.ca_pem()));
    assert_eq!(pem(data["requestheader-client-ca-file"].as_str().unwrap()), pem(server.pki.front_proxy_ca_pem()));
    for (key, value) in [
        ("allowed-names", "front-proxy-client"),
        ("username-headers", "X-Remote-User"),
        ("uid-headers", "X-Remote-Uid"),
        ("group-headers", "X-Remote-Group"),
        ("extra-headers-prefix", "X-Remote-Extra-"),
    ] {
        assert_eq!(data[format!("requestheader-{key}")], format!("[{value:?}]"), "{key}");
    }
    let role =
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader";
    server.admin().get(role).await.expect(200);
}

#[tokio::test]
async fn extension_servers_are_told_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_in(folder, None).await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let told = admin.get(path).await.expect(200).json()["data"].clone();
    admin.delete(path).await.expect(200);
    until(&admin, path, |answer| answer.code == 200 && answer.json()["data"] == told).await;
    let less = json!({"data": {"client-ca-file": null, "requestheader-allowed-names": r#"["other"]"#, "own": "kept"}});
    admin.patch(path, "merge", &less).await.expect(200);
    let restored = |answer: &Answer| {
        let data = &answer.json()["data"];
        data["client-ca-file"] == told["client-ca-file"]
            && data["requestheader-allowed-names"] == r#"["other","front-proxy-client"]"#
            && data["own"] == "kept"
    };
    until(&admin, path, restored).await;
}
