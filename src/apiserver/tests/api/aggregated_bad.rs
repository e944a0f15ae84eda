//! What an aggregated server that is bad, and a client that is bad to one, cannot do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use apiserver::{Body, Certificate, Identity, Peer};
use futures_util::FutureExt as _;
use http::Method;
use serde_json::json;

use crate::aggregated::{
    AGGREGATED, Backend, ROCKETS, SERVICES, State, condition, endpoint, endpoint_gone, headers, registration,
};
use crate::custom::until;
use crate::harness::{Client, Server};

/// A client at the other end of a connection, which waits for its turn as others do.
fn remote<'a>(server: &'a Server, user: Identity) -> Client<'a> {
    let certificate = Certificate::Client(Arc::new(user));
    let peer = Peer::Remote { address: "192.0.2.9:1".parse().unwrap(), certificate };
    Client { peer, ..server.admin() }
}

#[tokio::test]
async fn clients_are_not_led_elsewhere() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    backend.register(&admin).await;
    let moved = format!("{ROCKETS}/moved");
    backend.state.script(&moved, 307, &[("location", "https://elsewhere.example/"), ("set-cookie", "a=b")], "");
    let answer = admin.get(&moved).await.expect(502);
    assert_eq!(answer.text(), "the backend attempted to redirect this request, which is not permitted");
    assert_eq!((answer.header("location"), answer.header("set-cookie")), ("", ""));

    let upgrading = admin.clone().with(&[("connection", "Upgrade"), ("upgrade", "a")]);
    let refused = |code| format!("invalid upgrade response: status code {code}\n");
    assert_eq!(upgrading.get(&moved).await.expect(503).text(), refused(307));
    assert_eq!(upgrading.get(&format!("{ROCKETS}?watch=1")).await.expect(503).text(), refused(200));
}

#[tokio::test]
async fn nobody_strips_what_this_server_says_of_them() {
    let server = Server::start().await;
    let backend = Backend::start(&server, State::default()).await;
    backend.register(&server.admin()).await;
    let named = "X-Remote-User, X-Remote-Group, Audit-Id, X-Forwarded-For";
    let ann = remote(&server, Identity::new("ann", &["system:masters"]));
    for (connection, upgrade) in [(format!("close, {named}"), None), (format!("Upgrade, {named}"), Some("a"))] {
        let mut asked = ann.clone().with(&[("connection", &*connection)]);
        if let Some(upgrade) = upgrade {
            asked = asked.with(&[("upgrade", upgrade)]);
        }
        let answer = asked.get(ROCKETS).await.expect(418);
        assert_eq!(headers(&answer, "x-remote-user"), ["ann"], "{connection}");
        assert_eq!(headers(&answer, "x-remote-group"), ["system:masters", "system:authenticated"]);
        assert_eq!(headers(&answer, "x-forwarded-for"), ["192.0.2.9"]);
        assert_eq!(headers(&answer, "audit-id").len(), 1);
        let expected = upgrade.map(|_| "Upgrade".to_owned()).into_iter().collect::<Vec<_>>();
        assert_eq!(headers(&answer, "connection"), expected);
    }
    // One of the two headers asks for nothing: the request keeps its body and its limit.
    let half = ann.clone().with(&[("upgrade", "a")]);
    assert_eq!(half.post(ROCKETS, &json!({"k": "v"})).await.expect(418).json()["body"], 9);
    backend.state.silent.store(true, Ordering::SeqCst);
    let late = half.get(&format!("{ROCKETS}?timeout=1s")).await.expect(503);
    assert_eq!(late.text(), "error trying to reach service: context deadline exceeded\n");
}

#[tokio::test]
async fn a_document_that_is_not_right_spoils_nothing() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    let state = &backend.state;
    let wrong =
        json!({"items": [{"metadata": {"name": "acme.io"}, "versions": [3, {"version": "v1", "resources": [1]}]}]});
    let tagged = [("content-type", AGGREGATED), ("etag", "\"wrong\"")];
    state.script("/apis", 200, &tagged, &wrong.to_string());
    state.script("/openapi/v3", 200, &tagged, "[]");
    state.script("/openapi/v2", 200, &tagged, &json!({"paths": {"/apis/acme.io/v1/x": {"get": 3}}}).to_string());
    let mut watch = backend.register(&admin).await;
    // What the older form says stands, until there is better.
    let new = admin.clone().with(&[("accept", AGGREGATED)]);
    let categories = |answer: &crate::harness::Answer| {
        let groups = answer.json()["items"].as_array().unwrap().clone();
        let acme = groups.into_iter().find(|g| g["metadata"]["name"] == "acme.io").unwrap();
        let resource = acme["versions"][0]["resources"][0].clone();
        assert_eq!(resource["resource"], "rockets");
        resource["categories"].clone()
    };
    assert_eq!(categories(&new.get("/apis").await), json!(null));
    let protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    admin.clone().with(&[("accept", protobuf)]).get("/openapi/v2").await.expect(200);

    // The same tags again do not make the good documents known already. A new look is due when the endpoints change.
    state.scripted.lock().unwrap().clear();
    endpoint_gone(&server).await;
    condition(&mut watch, "EndpointsNotFound").await;
    endpoint(&server, backend.port).await;
    condition(&mut watch, "Passed").await;
    until(&new, "/apis", |answer| categories(answer) == json!(["all"])).await;
    until(&admin, "/openapi/v2", |answer| answer.json()["paths"]["/apis/acme.io/v1/rockets"].is_object()).await;
    admin.clone().with(&[("accept", protobuf)]).get("/openapi/v2").await.expect(200);
}

#[tokio::test]
async fn a_server_of_the_older_documents_is_in_the_newer_ones() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    backend.state.script("/openapi/v3", 404, &[], "");
    backend.register(&admin).await;
    let of = |answer: &crate::harness::Answer| answer.json()["paths"]["apis/acme.io/v1"].clone();
    let index = until(&admin, "/openapi/v3", |answer| of(answer).is_object()).await;
    let place = of(&index)["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(place.starts_with("/openapi/v3/apis/acme.io/v1?hash="), "{place}");
    let document = admin.get(&place).await.expect(200);
    assert_eq!(document.header("cache-control"), "public, immutable");
    let document = document.json();
    assert_eq!((&document["openapi"], &document["info"]), (&json!("3.0.0"), &json!({"title": "acme", "version": "1"})));
    assert_eq!(document["components"]["schemas"]["io.acme.v1.Rocket"]["description"], "Flies.");
    let answer = &document["paths"]["/apis/acme.io/v1/rockets"]["get"]["responses"]["200"];
    let schema = json!({"$ref": "#/components/schemas/io.acme.v1.Rocket"});
    assert_eq!(answer["content"]["application/json"]["schema"], schema);
    let other = admin.get("/openapi/v3/apis/acme.io/v1?hash=other").await.expect(301);
    assert_eq!(other.header("location"), place);
}

#[tokio::test]
async fn slow_clients_do_not_make_a_server_unavailable() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    let mut watch = backend.register(&admin).await;
    let opened = backend.state.connections.load(Ordering::SeqCst);
    // Bodies that never come: each has its place before anything of it is read.
    let mut slow: Vec<_> = (0..400)
        .map(|_| Box::pin(admin.open(Method::POST, ROCKETS, Body::pieces(futures_util::stream::pending()))))
        .collect();
    let mut waiting = 0;
    for request in &mut slow {
        waiting += usize::from(request.as_mut().now_or_never().is_none());
    }
    assert_eq!(waiting, 400);
    assert!(backend.state.connections.load(Ordering::SeqCst) <= opened + 4, "nothing is opened for them");
    admin.get(ROCKETS).await.refused(429, "Too many requests, please try again later.");
    // This server itself still sees that it is there.
    let probes = backend.state.probes.load(Ordering::SeqCst);
    endpoint_gone(&server).await;
    condition(&mut watch, "EndpointsNotFound").await;
    endpoint(&server, backend.port).await;
    condition(&mut watch, "Passed").await;
    assert!(backend.state.probes.load(Ordering::SeqCst) > probes);
    drop(slow);
    admin.get(ROCKETS).await.expect(418);
}

#[tokio::test]
async fn a_carried_request_keeps_its_seat() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    backend.register(&admin).await;
    backend.state.silent.store(true, Ordering::SeqCst);
    let ann = remote(&server, Identity::new("ann", &["pilots"]));
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "ann"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &role).await.expect(201);
    // Few seats, none of others, and nobody waits.
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "few"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1,
            "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    admin.post(&format!("{flow}/prioritylevelconfigurations"), &level).await.expect(201);
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "few"},
        "spec": {"priorityLevelConfiguration": {"name": "few"}, "matchingPrecedence": 2, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "ann"}}], "resourceRules": [{"verbs": ["*"],
                "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}});
    let schema = admin.post(&format!("{flow}/flowschemas"), &schema).await.expect(201).json();
    let nodes = "/api/v1/nodes";
    let uid = &schema["metadata"]["uid"];
    until(&ann, nodes, |answer| *uid == *answer.header("x-kubernetes-pf-flowschema-uid")).await;

    let log = format!("{ROCKETS}/a/log");
    let begun = |path| {
        let mut request = Box::pin(ann.open(Method::GET, path, Body::empty()));
        assert!(request.as_mut().now_or_never().is_none());
        request
    };
    let followed: Vec<_> = (0..20).map(|_| begun(&log)).collect();
    ann.get(nodes).await.expect(200);
    let mut carried = vec![begun(ROCKETS)];
    while ann.get(nodes).await.code == 200 {
        assert!(carried.len() < 20, "nothing is taken");
        carried.push(begun(ROCKETS));
    }
    drop(carried);
    ann.get(nodes).await.expect(200);
    drop(followed);
}

#[tokio::test]
async fn who_is_registered_is_never_asked_of_another_server() {
    let server = Server::start().await;
    let admin = server.admin();
    let name = "v1.apiregistration.k8s.io";
    admin.get(&format!("{SERVICES}/{name}")).await.expect(404);
    let mut object = registration(443, &json!({"group": "apiregistration.k8s.io", "insecureSkipTLSVerify": true}));
    object["metadata"]["name"] = json!(name);
    admin.post(SERVICES, &object).await.expect(201);
    let mut watch = admin.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name={name}")).await;
    condition(&mut watch, "ServiceNotFound").await;
    let resources = admin.get("/apis/apiregistration.k8s.io/v1").await.expect(200).json();
    assert_eq!(resources["resources"][0]["name"], "apiservices");
    admin.delete(&format!("{SERVICES}/{name}")).await.expect(200);
}

#[tokio::test]
async fn a_condition_that_was_refused_is_written_later() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    let mut watch = backend.register(&admin).await;
    // Nobody may say that it is served here.
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": ["apiregistration.k8s.io"],
            "apiVersions": ["v1"], "resources": ["apiservices/status"], "operations": ["UPDATE"]}]},
            "validations": [{"expression": "object.status.conditions.all(c, c.reason != 'Local')"}]}});
    admin.post(policies, &policy).await.expect(201);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    admin.post("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", &binding).await.expect(201);
    let status = format!("{SERVICES}/v1.acme.io/status?dryRun=All");
    let said = json!({"status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local"}]}});
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while admin.patch(&status, "merge", &said).await.code != 422 {
        assert!(tokio::time::Instant::now() < deadline, "the policy is not in force");
    }
    let local = json!({"spec": {"service": null, "caBundle": null}});
    admin.patch(&format!("{SERVICES}/v1.acme.io"), "merge", &local).await.expect(200);
    watch.next().await.unwrap();
    // Others are attended to meanwhile.
    let mut other = registration(443, &json!({"version": "v2", "insecureSkipTLSVerify": true}));
    other["metadata"]["name"] = json!("v2.acme.io");
    admin.post(SERVICES, &other).await.expect(201);
    until(&admin, &format!("{SERVICES}/v2.acme.io"), |a| a.json()["status"]["conditions"][0]["reason"].is_string())
        .await;
    let one = admin.get(&format!("{SERVICES}/v1.acme.io")).await.json();
    assert_eq!(one["status"]["conditions"][0]["reason"], "Passed");
    admin.delete(&format!("{policies}/p")).await.expect(200);
    condition(&mut watch, "Local").await;
}
