//! Over real sockets: TLS, HTTP/1.1 and 2, certificates, documents, agents.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use apiserver::http::listener::{Tls, serve};
use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::harness::Server;

/// A server on a port of its own.
pub struct Listening {
    pub server: Server,
    pub address: SocketAddr,
    stop: CancellationToken,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl Listening {
    pub async fn start() -> Self {
        Self::of(Server::start().await).await
    }

    async fn of(server: Server) -> Self {
        let leaf = server.pki.api_server(&["127.0.0.1".into(), "localhost".into()]).unwrap();
        let tls = Tls::new(leaf.chain().unwrap(), leaf.key().unwrap(), server.pki.ca_der().clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, tls, server.api.clone(), stop.clone()));
        Self { server, address, stop, serving: Some(serving) }
    }

    fn client_tls(&self, leaf: Option<cluster::pki::Leaf>, alpn: &str) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.server.pki.ca_der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match leaf {
            Some(leaf) => builder.with_client_auth_cert(leaf.chain().unwrap(), leaf.key().unwrap()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }

    async fn connect(
        &self,
        leaf: Option<cluster::pki::Leaf>,
        alpn: &str,
    ) -> TokioIo<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.client_tls(leaf, alpn)));
        let name = ServerName::try_from("localhost").unwrap();
        TokioIo::new(connector.connect(name, tcp).await.unwrap())
    }

    async fn get(&self, leaf: Option<cluster::pki::Leaf>, alpn: &str, path: &str) -> (Version, u16, Value) {
        let stream = self.connect(leaf, alpn).await;
        let request = get_request(path);
        let response = if alpn == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let (version, code) = (response.version(), response.status().as_u16());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (version, code, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        self.serving.take().unwrap().await.unwrap();
    }
}

fn get_request(path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().uri(format!("https://localhost{path}")).header("host", "localhost");
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_certificate_expires_on_an_open_connection() {
    let later = Arc::new(AtomicI64::new(0));
    let hours = later.clone();
    let clock = move || crate::harness::now() + jiff::SignedDuration::from_hours(hours.load(Ordering::SeqCst));
    let listening = Listening::of(Server::start_with(|config| config.clock = Arc::new(clock)).await).await;
    let stream = listening.connect(Some(listening.server.pki.admin().unwrap()), "h2").await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    for (days, expected) in [(0, 200), (300, 200), (400, 401)] {
        later.store(days * 24, Ordering::SeqCst);
        let response = sender.send_request(get_request("/api/v1/namespaces")).await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "after {days} days");
    }
    drop(sender);
    listening.stop().await;
}

#[tokio::test]
async fn certificates_over_both_protocols() {
    let listening = Listening::start().await;
    let admin = listening.server.pki.admin().unwrap();
    for (alpn, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let (spoken, code, body) = listening.get(Some(admin.clone()), alpn, "/api/v1/namespaces").await;
        assert_eq!((spoken, code), (version, 200));
        assert_eq!(body["items"].as_array().unwrap().len(), 4);
        let (_, code, body) = listening.get(None, alpn, "/api/v1/namespaces").await;
        assert_eq!((code, &body["reason"]), (401, &json!("Unauthorized")));
    }
    let node = listening.server.pki.node_client("n1").unwrap();
    let (_, code, body) = listening.get(Some(node), "h2", "/api/v1/secrets").await;
    assert_eq!(code, 403);
    assert!(body["message"].as_str().unwrap().contains("User \"system:node:n1\" cannot list"));
    // A certificate of another authority, and one that is meant for servers.
    let folder = tempfile::tempdir().unwrap();
    let other = cluster::pki::Pki::open(folder.path(), crate::harness::now()).unwrap();
    let (_, code, body) = listening.get(Some(other.admin().unwrap()), "h2", "/version").await;
    assert_eq!((code, &body["message"]), (401, &json!("Unauthorized")));
    let serving = listening.server.pki.node_serving("n1", &["127.0.0.1".into()]).unwrap();
    let (_, code, _) = listening.get(Some(serving), "h2", "/version").await;
    assert_eq!(code, 401);
    listening.stop().await;
}

#[tokio::test]
async fn documents() {
    let server = Server::start().await;
    let admin = server.admin();
    let version = admin.get("/version").await.expect(200).json();
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    // What is no API object has no protobuf form; a client that prefers it gets JSON.
    for path in ["/version", "/", "/.well-known/openid-configuration"] {
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        let answer = admin.clone().with(&[("accept", protobuf)]).get(path).await.expect(200);
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        admin.clone().with(&[("accept", "text/html")]).get(path).await.expect(406);
    }
    let verbose = admin.get("/readyz?verbose").await.expect(200).text();
    assert!(verbose.contains("[+]ping ok\n") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(admin.get("/livez").await.expect(200).text(), "ok");
    let metrics = admin.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("apiserver_request_total"));
    assert!(
        metrics.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"global-default\"} 49"),
        "{metrics}"
    );
    // OpenMetrics that who reads Prometheus' own format understands, too.
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        let sort = line.rsplit(' ').next().unwrap_or_default();
        assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&sort), "{line}");
    }
    let indicators = admin.get("/metrics/slis").await.expect(200).text();
    assert!(indicators.contains("kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1"), "{indicators}");
    let nonsense = "invalid timeout specified in the request URL - time: invalid duration \"invalid\"";
    admin.get("/version?timeout=invalid").await.refused(400, nonsense);
    admin.get("/version?timeout=3m").await.expect(200);
    assert!(admin.get("/").await.expect(200).json()["paths"].as_array().unwrap().contains(&json!("/apis/apps/v1")));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let first = admin.clone().with(&[("accept", accept)]).get("/apis").await.expect(200);
    assert_eq!(first.header("content-type"), "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let tag = first.header("etag").to_owned();
    let second = admin.clone().with(&[("accept", accept), ("if-none-match", &tag)]).get("/apis").await.expect(304);
    assert!(second.body.is_empty());
    assert_eq!(admin.get("/apis").await.expect(200).json()["kind"], "APIGroupList");
    assert_eq!(
        admin.get("/.well-known/openid-configuration").await.expect(200).json()["id_token_signing_alg_values_supported"],
        json!(["ES256"])
    );
    let answer = admin.clone().with(&[("audit-id", "abc")]).get("/version").await;
    assert_eq!(answer.header("audit-id"), "abc");
    server.api.stop();
    admin.get("/readyz").await.expect(500);
    admin.get("/livez").await.expect(200);
}

/// An agent at the other end of a pipe: answers each request by what its path begins with.
struct PipeAgent;

impl apiserver::verbs::connect::Dial for PipeAgent {
    fn dial<'a>(
        &'a self,
        node: &'a str,
        host: &'a str,
        port: u16,
    ) -> store::Pending<'a, std::io::Result<Box<dyn apiserver::verbs::connect::Io>>> {
        assert_eq!((node, host, port), ("n1", "192.0.2.7", 10999));
        let (here, mut there) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(there.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let line = head.lines().next().unwrap().to_owned();
            if line.starts_with("GET /containerLogs/default/p/c?tailLines=5 ") {
                there.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n").await.unwrap();
            } else if line.starts_with("GET /containerLogs/") {
                let text = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
                let answer = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                there.write_all(answer.as_bytes()).await.unwrap();
            } else {
                assert_eq!(line, "POST /exec/default/p/c?input=1&output=1&command=echo&command=a%20b HTTP/1.1");
                assert!(head.to_ascii_lowercase().contains("upgrade: spdy/3.1"), "{head}");
                assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
                there
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n")
                    .await
                    .unwrap();
                // What arrives goes back, in capitals.
                let mut bytes = [0u8; 5];
                there.read_exact(&mut bytes).await.unwrap();
                there.write_all(&bytes.to_ascii_uppercase()).await.unwrap();
            }
        });
        Box::pin(async move { Ok(Box::new(here) as Box<dyn apiserver::verbs::connect::Io>) })
    }
}

async fn with_pod(agent: Arc<dyn apiserver::verbs::connect::Dial>) -> Server {
    let server = Server::start_in(tempfile::tempdir().unwrap(), Some(agent)).await;
    let admin = server.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    admin.post("/api/v1/nodes", &node).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10999}}}});
    admin.patch("/api/v1/nodes/n1/status", "merge", &status).await.expect(200);
    let pod = |name: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
    };
    admin.post("/api/v1/namespaces/default/pods", &pod("p", "n1")).await.expect(201);
    admin.post("/api/v1/namespaces/default/pods", &pod("q", "")).await.expect(201);
    server
}

#[tokio::test]
async fn logs_come_from_the_agent() {
    let server = with_pod(Arc::new(PipeAgent)).await;
    let admin = server.admin();
    let log = "/api/v1/namespaces/default/pods/p/log";
    assert_eq!(admin.get(&format!("{log}?tailLines=5")).await.expect(200).text(), "hello\n");
    admin.get(log).await.refused(400, "container \"c\" in pod \"p\" is waiting to start: ContainerCreating");
    admin.get(&format!("{log}?container=x")).await.refused(400, "container x is not valid for pod p");
    assert_eq!(admin.get("/api/v1/namespaces/default/pods/q/log").await.expect(200).text(), "");
    let exec = admin.raw(Method::POST, "/api/v1/namespaces/default/pods/q/exec?command=x", Bytes::new()).await;
    exec.refused(400, "pod q does not have a host assigned");
}

/// A plain connection in front of the door, as the TLS listener would be.
fn plain(server: &Server) -> tokio::io::DuplexStream {
    let (client, service_side) = tokio::io::duplex(64 * 1024);
    let api = server.api.clone();
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let api = api.clone();
            let peer = apiserver::Peer::Local(Arc::new(apiserver::Identity::admin()));
            async move { Ok::<_, std::convert::Infallible>(api.call(request.map(Into::into), peer).await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(service_side), service);
        connection.with_upgrades().await.unwrap();
    });
    client
}

/// The head of the answer to what `request` says on a plain connection.
async fn ask(client: &mut tokio::io::DuplexStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn an_upgrade_is_a_tunnel() {
    let server = with_pod(Arc::new(PipeAgent)).await;
    let mut client = plain(&server);
    let request = "POST /api/v1/namespaces/default/pods/p/exec?command=echo&command=a+b&stdin=true&stdout=true HTTP/1.1\r\n\
                   host: x\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nauthorization: Bearer secret\r\ncontent-length: 0\r\n\r\n";
    let head = ask(&mut client, request).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.to_ascii_lowercase().contains("upgrade: spdy/3.1"), "{head}");
    client.write_all(b"hello").await.unwrap();
    let mut back = [0u8; 5];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"HELLO");
}

#[tokio::test]
async fn logs_go_over_a_websocket() {
    let server = with_pod(Arc::new(PipeAgent)).await;
    // The key and its answer are those of RFC 6455 §1.3.
    let request = |protocol: &str| {
        format!(
            "GET /api/v1/namespaces/default/pods/p/log?tailLines=5 HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
        )
    };
    for (protocol, frames) in [
        ("binary.k8s.io", &b"\x82\x00\x82\x06hello\n\x88\x00"[..]),
        ("base64.binary.k8s.io", &b"\x81\x00\x81\x08aGVsbG8K\x88\x00"[..]),
    ] {
        let mut client = plain(&server);
        let head = ask(&mut client, &request(protocol)).await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        assert!(head.contains(&format!("sec-websocket-protocol: {protocol}\r\n")), "{head}");
        let mut back = vec![0u8; frames.len()];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back, frames);
    }
    let head = ask(&mut plain(&server), &request("v9.nonsense")).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[tokio::test]
async fn a_watch_goes_over_a_websocket() {
    let server = with_pod(Arc::new(PipeAgent)).await;
    let mut client = plain(&server);
    let request = "GET /api/v1/namespaces/default/pods?watch=1 HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let head = ask(&mut client, request).await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    // Not masked, text, a length of two bytes.
    let mut frame = [0u8; 4];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[..2], [0x81, 126]);
    let mut text = vec![0u8; usize::from(u16::from_be_bytes([frame[2], frame[3]]))];
    client.read_exact(&mut text).await.unwrap();
    let event: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("p")));
}

/// An agent that is a bug.
struct BrokenAgent;

impl apiserver::verbs::connect::Dial for BrokenAgent {
    fn dial<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: u16,
    ) -> store::Pending<'a, std::io::Result<Box<dyn apiserver::verbs::connect::Io>>> {
        panic!("a bug in the server")
    }
}

#[tokio::test]
async fn a_bug_in_one_request_is_that_requests_alone() {
    let server = with_pod(Arc::new(BrokenAgent)).await;
    let admin = server.admin();
    admin
        .get("/api/v1/namespaces/default/pods/p/log")
        .await
        .refused(500, "This request caused apiserver to panic. Look in the logs for details.");
    admin.get("/api/v1/namespaces/default/pods/p").await.expect(200);
    assert!(admin.get("/metrics").await.text().contains("apiserver_request_panics_total 1"));
}

#[tokio::test]
async fn an_open_watch_ends_when_the_server_stops() {
    let server = Server::start().await;
    let mut watch = server.admin().watch("/api/v1/namespaces?watch=1").await;
    for _ in 0..4 {
        assert_eq!(watch.next().await.unwrap()["type"], "ADDED");
    }
    server.api.stop();
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn openapi_documents_are_tagged_and_found_by_their_hash() {
    let server = Server::start().await;
    let admin = server.admin();
    let index = admin.get("/openapi/v3").await.expect(200).json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = admin.get(&url).await.expect(200);
    assert_eq!(document.header("cache-control"), "public, immutable");
    assert!(document.json()["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let tag = document.header("etag").to_owned();
    admin.clone().with(&[("if-none-match", &tag)]).get(&url).await.expect(304);
    let moved = admin.get("/openapi/v3/apis/apps/v1?hash=OLD").await.expect(301);
    assert_eq!(moved.header("location"), url);
    admin.get("/openapi/v3/apis/nothing/v1").await.expect(404);
    admin.clone().with(&[("accept", "text/html")]).get("/openapi/v2").await.expect(406);
    let json = admin.get("/openapi/v2").await.expect(200);
    assert_eq!(json.json()["swagger"], "2.0");
    for spelling in ["spec.v2@v1.0+protobuf", "spec.v2.v1.0+protobuf"] {
        let asked = format!("application/com.github.proto-openapi.{spelling}");
        let client = admin.clone().with(&[("accept", &asked)]);
        let protobuf = client.get("/openapi/v2").await.expect(200);
        assert_eq!(protobuf.header("content-type"), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
        assert!(protobuf.body.starts_with(b"\x0a\x032.0"), "the version is the first field");
        let tag = protobuf.header("etag");
        assert_eq!((tag, protobuf.header("vary")), (json.header("etag"), "Accept"));
        let known = admin.clone().with(&[("accept", asked.as_str()), ("if-none-match", tag)]);
        assert!(known.get("/openapi/v2").await.expect(304).body.is_empty());
    }
}

#[tokio::test]
async fn a_head_has_no_body_and_a_wrong_method_is_named() {
    let server = Server::start().await;
    let admin = server.admin();
    let answer = admin.raw(Method::HEAD, "/api/v1/namespaces/default", Bytes::new()).await.expect(200);
    assert!(answer.body.is_empty());
    let answer = admin.raw(Method::POST, "/version", Bytes::new()).await;
    answer.refused(405, "the server does not allow this method on the requested resource");
}
