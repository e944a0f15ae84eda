//! metrics.k8s.io, with agents that say what they are told to.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::Server;

/// Agents: that of `n1` knows of one pod, that of `n2` does not answer.
struct Agents;

impl apiserver::verbs::connect::Dial for Agents {
    fn dial<'a>(
        &'a self,
        node: &'a str,
        _: &'a str,
        _: u16,
    ) -> store::Pending<'a, std::io::Result<Box<dyn apiserver::verbs::connect::Io>>> {
        if node != "n1" {
            return Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) });
        }
        let (here, mut there) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(there.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"GET /stats/usage HTTP/1.1\r\n"));
            let at = "2026-01-02T03:04:05Z";
            let body = json!({
                "node": {"timestamp": at, "windowNanoseconds": 60_500_000_000u64, "usage": [1_500_000_000, 5u64 << 30]},
                "pods": [{"uid": "u-web", "timestamp": at, "windowNanoseconds": 15_034_567_890u64,
                    "containers": [["app", [1_000_000, 1 << 20]], ["log", [234_567, 2048]]]}]
            });
            let body = body.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            there.write_all(answer.as_bytes()).await.unwrap();
        });
        Box::pin(async move { Ok(Box::new(here) as Box<dyn apiserver::verbs::connect::Io>) })
    }
}

async fn server() -> Server {
    let server = Server::start_in(tempfile::tempdir().unwrap(), Some(Arc::new(Agents))).await;
    for node in ["n1", "n2"] {
        let address = json!([{"type": "InternalIP", "address": "192.0.2.7"}]);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"zone": node}},
            "status": {"addresses": address}});
        server.write(&format!("core/nodes//{}", node["metadata"]["name"].as_str().unwrap()), &node).await;
    }
    for (name, node, phase) in [("web", "n1", "Running"), ("far", "n2", "Running"), ("new", "n1", "Pending")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": phase}, "spec": {"nodeName": node},
            "metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}"), "labels": {"app": name}}});
        server.write(&format!("core/pods/shop/{name}"), &pod).await;
    }
    server
}

#[tokio::test]
async fn what_is_used_is_asked_of_the_agents() {
    let server = server().await;
    let admin = server.admin();
    let root = "/apis/metrics.k8s.io/v1beta1";
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut web = admin.get(&format!("{root}/namespaces/shop/pods/web")).await.expect(200).json();
    web["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
    assert_eq!(
        web,
        json!({"kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
            "timestamp": "2026-01-02T03:04:05Z", "window": "15.034s",
            "containers": [{"name": "app", "usage": {"cpu": "1m", "memory": "1Mi"}},
                {"name": "log", "usage": {"cpu": "234567n", "memory": "2Ki"}}]})
    );
    for (path, expected) in [
        ("pods", vec!["web"]),
        ("namespaces/shop/pods", vec!["web"]),
        ("namespaces/other/pods", vec![]),
        ("pods?labelSelector=app%3Dfar", vec![]),
        ("pods?labelSelector=app%3Dweb&fieldSelector=metadata.name%3Dweb", vec!["web"]),
        ("nodes", vec!["n1"]),
        ("nodes?labelSelector=zone%3Dn2", vec![]),
    ] {
        let list = admin.get(&format!("{root}/{path}")).await.expect(200).json();
        assert_eq!(names(&list), expected, "{path}");
    }
    let node = admin.get(&format!("{root}/nodes/n1")).await.expect(200).json();
    assert_eq!((&node["window"], &node["usage"]), (&json!("1m0.5s"), &json!({"cpu": "1500m", "memory": "5Gi"})));
    let answer = admin.get(&format!("{root}/namespaces/shop/pods/far")).await;
    answer.refused(404, "pods.metrics.k8s.io \"shop/far\" not found");
    admin.get(&format!("{root}/namespaces/shop/pods/none")).await.refused(404, "pods \"none\" not found");
    let table = admin.clone().with(&[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]);
    let table = table.get(&format!("{root}/namespaces/shop/pods")).await.expect(200).json();
    assert_eq!(table["rows"][0]["cells"], json!(["web", "1234567n", "1026Ki", "15.034s"]));
    let wire = admin.clone().with(&[("accept", "application/vnd.kubernetes.protobuf")]);
    let wire = wire.get(&format!("{root}/nodes/n1")).await.expect(200);
    assert!(wire.body.starts_with(b"k8s\0") && wire.body.windows(5).any(|w| w == b"1500m"));
}

/// Somebody's own metrics-server takes the place of this one, and keeps it when the server starts again.
#[tokio::test]
async fn another_server_may_serve_metrics() {
    let server = server().await;
    let admin = server.admin();
    let path = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
    let mut own = admin.get(path).await.expect(200).json();
    assert_eq!(own["status"]["conditions"][0]["reason"], "Local");
    let wanted = own.clone();
    own["spec"]["service"] = json!({"name": "metrics-server", "namespace": "kube-system"});
    admin.put(path, &own).await.expect(200);
    let stored = admin.get(path).await.expect(200).json();
    assert_eq!(apiserver::hooks::apiregistration::reconcile(&stored, &wanted), None);
    let mut other = wanted.clone();
    other["spec"]["versionPriority"] = json!(7);
    assert!(apiserver::hooks::apiregistration::reconcile(&other, &wanted).is_some());
}
