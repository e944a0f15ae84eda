//! The ways to say who one is, besides the tokens of `access`.

use std::sync::Arc;

use apiserver::auth::settings::{self, Anonymous};
use apiserver::{Certificate, Peer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{Client, Server};

const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// What the server calls the user.
async fn user_info(client: &Client<'_>) -> Value {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    client.post(SELF, &review).await.expect(201).json()["status"]["userInfo"].clone()
}

#[tokio::test]
async fn a_bootstrap_token_is_good_as_long_as_its_secret_says_so() {
    let server = Server::start().await;
    let admin = server.admin();
    let holder = server.stranger(&[("authorization", "Bearer abcdef.0123456789abcdef")]);
    holder.get("/version").await.refused(401, "Unauthorized");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token", "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:workers",
            "expiration": "2999-01-01T00:00:00Z"}});
    admin.post(SECRETS, &secret).await.expect(201);
    let wanted = json!({"username": "system:bootstrap:abcdef",
        "groups": ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]});
    assert_eq!(user_info(&holder).await, wanted);
    let wrong = server.stranger(&[("authorization", "Bearer abcdef.0123456789abcdee")]);
    wrong.get("/version").await.refused(401, "Unauthorized");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": "abcdef.0123456789abcdef"}});
    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201).json();
    assert_eq!(reviewed["status"]["user"]["username"], "system:bootstrap:abcdef");
    let secret = format!("{SECRETS}/bootstrap-token-abcdef");
    for (key, value) in [
        ("expiration", "2001-01-01T00:00:00Z"),
        ("expiration", "soon"),
        ("usage-bootstrap-authentication", "false"),
        ("auth-extra-groups", "system:masters"),
    ] {
        let before = admin.get(&secret).await.expect(200).json()["data"][key].clone();
        let change = |value: Value| json!({"data": {key: value}});
        admin.patch(&secret, "merge", &change(json!(STANDARD.encode(value)))).await.expect(200);
        holder.get("/version").await.refused(401, "Unauthorized");
        admin.patch(&secret, "merge", &change(before)).await.expect(200);
        holder.get("/version").await.expect(200);
    }
}

#[tokio::test]
async fn only_a_front_proxy_is_believed_about_others() {
    let server = Server::start().await;
    let headers = [("x-remote-user", "ann"), ("x-remote-group", "team"), ("x-remote-extra-scope", "all")];
    let mut proxy = server.stranger(&headers);
    proxy.get(SELF).await.refused(401, "Unauthorized");
    proxy.peer = Peer::Remote { address: "192.0.2.9:1".parse().unwrap(), certificate: Certificate::FrontProxy };
    let ann = user_info(&proxy).await;
    assert_eq!(
        ann,
        json!({"username": "ann", "groups": ["team", "system:authenticated"], "extra": {"scope": ["all"]}})
    );
    // A proxy has no name of its own.
    proxy.headers.remove("x-remote-user");
    proxy.get("/version").await.refused(401, "Unauthorized");
}

#[tokio::test]
async fn a_wrong_certificate_does_not_spoil_a_good_token() {
    let server = Server::start().await;
    let admin = server.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let issued = admin.post(path, &request).await.expect(201).json();
    let bearer = format!("Bearer {}", issued["status"]["token"].as_str().unwrap());
    let mut holder = server.stranger(&[("authorization", &bearer)]);
    holder.peer = Peer::Remote { address: "192.0.2.9:1".parse().unwrap(), certificate: Certificate::Unknown };
    holder.get("/version").await.expect(200);
}

#[tokio::test]
async fn the_configuration_says_where_nobody_in_particular_is_served() {
    let paths = Anonymous::Paths(vec!["/version".into()]);
    for (anonymous, version, health, pods) in
        [(Anonymous::Nowhere, 401, 401, 401), (paths, 200, 401, 401), (Anonymous::Everywhere, 200, 200, 403)]
    {
        let server = Server::start_with(|config| config.authentication.anonymous = anonymous.clone()).await;
        let stranger = server.stranger(&[]);
        for (path, code) in [("/version", version), ("/livez", health), ("/api/v1/pods", pods)] {
            assert_eq!(stranger.get(path).await.code, code, "{anonymous:?} {path}");
        }
    }
}

#[tokio::test]
async fn keys_that_signed_before_are_believed() {
    let folder = tempfile::tempdir().unwrap();
    let other = cluster::pki::Pki::open(&folder.path().join("other"), crate::harness::now()).unwrap();
    let old = other.service_account_key_pem().to_owned();
    let first = Server::start_with(|config| config.service_account_key_pem = old.clone()).await;
    let second = Server::start_with(|config| config.service_account_key_pem += &old).await;
    let keys = second.admin().get("/openid/v1/jwks").await.expect(200).json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    let old_keys = first.admin().get("/openid/v1/jwks").await.expect(200).json();
    assert_eq!(keys["keys"][1], old_keys["keys"][0]);
}

/// An issuer that answers nothing: what is refused before its keys are needed.
struct Silent;
impl apiserver::auth::issuer::Fetch for Silent {
    fn get<'a>(&'a self, _: &'a str, _: &'a str) -> store::Pending<'a, Result<bytes::Bytes, String>> {
        Box::pin(async { Err("no route to host".into()) })
    }
}

#[tokio::test]
async fn an_issuer_that_cannot_be_reached_is_no_reason_to_believe() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: \
                'https://issuer.example', audiences: [kedge]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n";
    let settings = settings::parse(text, "https://kubernetes.default.svc").unwrap_or_else(|e| panic!("{e}"));
    let server = Server::start_with(|config| {
        config.authentication = settings;
        config.authentication.fetch = Some(Arc::new(Silent));
    })
    .await;
    let encode = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let token = format!(
        "{}.{}.AAAA",
        encode(json!({"alg": "ES256", "kid": "k"})),
        encode(json!({"iss": "https://issuer.example", "sub": "ann", "aud": "kedge", "exp": 9_999_999_999_i64}))
    );
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let status = server.admin().post(path, &review).await.expect(201).json()["status"].clone();
    assert_eq!(status["authenticated"], Value::Null);
    assert!(status["error"].as_str().unwrap().contains("no route to host"), "{status}");
    let bearer = format!("Bearer {token}");
    server.stranger(&[("authorization", &bearer)]).get("/version").await.refused(401, "Unauthorized");
}
