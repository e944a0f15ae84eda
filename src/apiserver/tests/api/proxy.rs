//! `…/proxy` of pods, services and nodes.

use std::sync::Arc;

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::Server;

/// An agent that answers with the head of what it is asked, as HTML and with a code of its own.
struct Echo;

impl apiserver::verbs::connect::Dial for Echo {
    fn dial<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: u16,
    ) -> store::Pending<'a, std::io::Result<Box<dyn apiserver::verbs::connect::Io>>> {
        let (here, mut there) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(there.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 418 Tea\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length";
            let answer = format!("{answer}: {}\r\n\r\n{}", head.len(), String::from_utf8(head).unwrap());
            there.write_all(answer.as_bytes()).await.unwrap();
        });
        Box::pin(async move { Ok(Box::new(here) as Box<dyn apiserver::verbs::connect::Io>) })
    }
}

#[tokio::test]
async fn what_is_asked_and_answered_goes_through_as_it_is() {
    let server = Server::start_in(tempfile::tempdir().unwrap(), Some(Arc::new(Echo))).await;
    let admin = server.admin();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "proxy"}});
    admin.post("/api/v1/nodes", &node).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]}});
    admin.patch("/api/v1/nodes/proxy/status", "merge", &status).await.expect(200);
    let headers = [("accept", "text/html"), ("authorization", "Bearer secret"), ("x-mine", "kept")];
    let asked = admin.clone().with(&headers);
    let path = "/api/v1/nodes/proxy/proxy/a/b%2Fc/d/e/f/g/h/i?x=1&y";
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let answer = asked.raw(method.clone(), path, "").await.expect(418);
        assert_eq!((answer.header("content-type"), answer.header("connection")), ("text/html", ""));
        let head = answer.text();
        assert!(head.starts_with(&format!("{method} /a/b%2Fc/d/e/f/g/h/i?x=1&y HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("x-mine: kept\r\n") && head.contains("host: 192.0.2.7:10250\r\n"), "{head}");
        assert!(head.contains("x-forwarded-uri: /api/v1/nodes/proxy/proxy/a/b%2Fc/d/e/f/g/h/i\r\n"), "{head}");
        assert!(!head.contains("secret"), "{head}");
    }
    let root = admin.get("/api/v1/nodes/proxy/proxy?x=1").await.expect(301);
    assert_eq!(root.header("location"), "/api/v1/nodes/proxy/proxy/?x=1");
    assert!(admin.raw(Method::POST, "/api/v1/nodes/proxy/proxy", "").await.expect(418).text().starts_with("POST / "));
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let server = Server::start().await;
    let admin = server.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    admin.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    let at = |what: &str| format!("/api/v1/namespaces/default/{what}/proxy/x");
    admin.get(&at("pods/q:80")).await.refused(404, "pods \"q\" not found");
    // A pod that has no address yet, and one that claims the server's own.
    admin.get(&at("pods/p:80")).await.refused(400, "address not allowed");
    let status = json!({"status": {"podIPs": [{"ip": "127.0.0.1"}], "podIP": "127.0.0.1"}});
    admin.patch("/api/v1/namespaces/default/pods/p/status", "merge", &status).await.expect(200);
    admin.get(&at("pods/http:p:80")).await.refused(400, "address not allowed");
    admin.get(&at("pods/ftp:p:80")).await.refused(400, "invalid pod request \"ftp:p:80\"");
    admin.get(&at("services/s:80")).await.refused(503, "no endpoints available for service \"s\"");
    admin.get(&at("services/s:81")).await.refused(503, "no service port 81 found for service \"s\"");
    admin.get("/api/v1/nodes/n/proxy/").await.refused(404, "nodes \"n\" not found");
}
