//! The whole room at once, with a scripted runtime, images, network and API server: a pod's life, a daemon that dies, and the
//! streams of the HTTP server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use client::api::DeleteParams;
use client::fake::Fake as Api;
use client::{Client, Clock};
use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Service};
use parking_lot::Mutex;
use runtime::{ContainerId, Fake as Runtime, Runtime as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use crate::http::authority::Caller;
use crate::images::{Credentials, Image, ImageConfig, Images, PullError, Rootfs};
use crate::stream::spdy::frame::{Frame, decode, encode};
use crate::stream::spdy::headers::{Deflater, Inflater};
use crate::{Config, Handle, Network, Parts};

#[derive(Default)]
struct FakeImages {
    held: Mutex<BTreeSet<String>>,
    /// What is here from the beginning of a test on is everything but these.
    absent: Mutex<BTreeSet<String>>,
    added: watch::Sender<u64>,
}

impl FakeImages {
    fn import(&self, reference: &str) {
        self.absent.lock().remove(reference);
        self.added.send_modify(|n| *n += 1);
    }
}

impl Images for FakeImages {
    fn resolve<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, PullError>> {
        let image = Image {
            id: "sha256:1".into(),
            names: vec![reference.into()],
            digests: vec![format!("{reference}@sha256:2")],
            size_bytes: 7,
            config: ImageConfig { cmd: vec!["serve".into()], ..ImageConfig::default() },
        };
        let absent = self.absent.lock().contains(reference);
        Box::pin(async move { Ok((!absent).then_some(image)) })
    }
    fn pull<'a>(&'a self, _: &'a str, _: &'a [Credentials]) -> BoxFuture<'a, Result<Image, PullError>> {
        Box::pin(async { Err(PullError::Failed("manifest unknown".into())) })
    }
    fn prepare<'a>(&'a self, _: &'a str, container: &'a str) -> BoxFuture<'a, anyhow::Result<Rootfs>> {
        self.held.lock().insert(container.into());
        Box::pin(async { Ok(Rootfs::Directory("/rootfs".into())) })
    }
    fn release<'a>(&'a self, container: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.held.lock().remove(container);
        Box::pin(async { Ok(()) })
    }
    fn read_file<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, anyhow::Result<Option<String>>> {
        Box::pin(async { Ok(None) })
    }
    fn added(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }
    fn list(&self) -> BoxFuture<'_, anyhow::Result<Vec<Image>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn prepared(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        let held = self.held.lock().iter().cloned().collect();
        Box::pin(async move { Ok(held) })
    }
}

#[derive(Default)]
struct FakeNetwork {
    pods: Mutex<Vec<net::PodNet>>,
    table: Mutex<Option<net::ServiceTable>>,
}

impl Network for FakeNetwork {
    fn add_pod(&self, spec: net::PodSpec) -> BoxFuture<'_, anyhow::Result<net::PodNet>> {
        let pod = net::PodNet {
            id: spec.id,
            netns: "/run/netns/x".into(),
            ips: vec!["10.42.0.5".parse().unwrap()],
            gateways: vec![],
            link: "kedge-1".into(),
        };
        self.pods.lock().push(pod.clone());
        Box::pin(async move { Ok(pod) })
    }
    fn del_pod<'a>(&'a self, id: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.pods.lock().retain(|p| p.id != id);
        Box::pin(async { Ok(()) })
    }
    fn pods(&self) -> BoxFuture<'_, anyhow::Result<Vec<net::PodNet>>> {
        let pods = self.pods.lock().clone();
        Box::pin(async move { Ok(pods) })
    }
    fn set_services(&self, table: net::ServiceTable) -> BoxFuture<'_, anyhow::Result<()>> {
        *self.table.lock() = Some(table);
        Box::pin(async { Ok(()) })
    }
}

struct World {
    tmp: tempfile::TempDir,
    api: Api,
    client: Client,
    runtime: Runtime,
    images: Arc<FakeImages>,
    network: Arc<FakeNetwork>,
}

impl World {
    fn new() -> World {
        let api = Api::new(Clock::system());
        World {
            tmp: tempfile::tempdir().unwrap(),
            client: api.client(),
            api,
            runtime: Runtime::new(),
            images: Arc::default(),
            network: Arc::default(),
        }
    }

    async fn node(&self) -> Handle {
        let mut config = Config::new("n1", vec!["192.168.0.2".parse().unwrap()]);
        let path = |name: &str| self.tmp.path().join(name);
        config.data_dir = path("data");
        config.kubelet_dir = path("data/kubelet");
        config.run_dir = path("run");
        config.pod_logs_dir = path("logs/pods");
        config.container_logs_dir = path("logs/containers");
        let parts = Parts {
            client: self.client.clone(),
            runtime: Arc::new(self.runtime.clone()),
            images: Arc::clone(&self.images) as _,
            network: Arc::clone(&self.network) as _,
            dns: None,
            clock: Clock::system(),
        };
        crate::start(config, parts).await.unwrap()
    }

    async fn create_pod(&self, name: &str, spec: serde_json::Value) -> Pod {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})).unwrap();
        self.client.create(&pod).await.unwrap()
    }

    /// Waits on a watch until the pod (`None`: not there) is as wanted.
    async fn pod_until(&self, name: &str, wanted: impl Fn(Option<&Pod>) -> bool) -> Option<Pod> {
        let informers = client::Informers::new(self.client.clone());
        let cache = informers.cache::<Pod>(client::Selector::namespace("ns"));
        let changed = Arc::new(tokio::sync::Notify::new());
        let tell = Arc::clone(&changed);
        cache.on_change(Box::new(move |_, _| tell.notify_one()));
        let key = client::Key::new("ns", name);
        let wait = async {
            cache.synced().await;
            while !wanted(cache.get(&key).as_deref()) {
                changed.notified().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), wait).await.is_err() {
            panic!("pod stays {:#?}\ncalls {:#?}", cache.get(&key), self.runtime.calls());
        }
        cache.get(&key).map(|p| (*p).clone())
    }

    async fn running(&self, name: &str, restarts: i32) -> Pod {
        let ready = |p: Option<&Pod>| {
            let status = p.and_then(|p| p.status.as_ref());
            let c = status.and_then(|s| s.container_statuses.as_ref()).and_then(|c| c.first());
            c.is_some_and(|c| c.ready && c.restart_count == restarts)
        };
        self.pod_until(name, ready).await.unwrap()
    }
}

fn container_id(pod: &Pod) -> ContainerId {
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    ContainerId(status.container_id.as_ref().unwrap().trim_start_matches("kedge://").to_owned())
}

#[tokio::test]
async fn a_pod_lives_survives_the_daemon_and_ends() {
    let world = World::new();
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "cm", "namespace": "ns"}, "data": {"k": "v"}})).unwrap();
    world.client.create(&map).await.unwrap();
    let service: Service = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"},
        "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 80}]}}))
    .unwrap();
    world.client.create(&service).await.unwrap();
    let node = world.node().await;
    node.ready().await;
    let shown: Node = world.client.get("", "n1").await.unwrap();
    assert_eq!(shown.metadata.labels.unwrap()["kubernetes.io/hostname"], "n1");
    let created = world
        .create_pod(
            "web",
            json!({"nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "main", "image": "img", "env": [
                    {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "configMap": {"name": "cm"}}]}),
        )
        .await;
    let pod = world.running("web", 0).await;
    let status = pod.status.as_ref().unwrap();
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.42.0.5")));
    let spec = world.runtime.container_spec(&container_id(&pod)).unwrap();
    assert_eq!(spec.args, ["serve"]);
    for expected in ["K=v", "IP=10.42.0.5", "WEB_SERVICE_HOST=10.43.0.7"] {
        assert!(spec.env.iter().any(|e| e == expected), "{expected} in {:?}", spec.env);
    }
    let uid = created.metadata.uid.clone().unwrap();
    assert_eq!(std::fs::read_to_string(world.tmp.path().join("run/volumes").join(&uid).join("v/k")).unwrap(), "v");
    assert!(world.client.get::<Lease>("kube-node-lease", "n1").await.is_ok());

    // a crash restarts it, and the status tells of the instance before
    world.runtime.exit(&container_id(&pod), 3);
    let pod = world.running("web", 1).await;
    let last = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 3);

    // another daemon finds everything as it is
    node.stop();
    world.runtime.take_calls();
    let node = world.node().await;
    node.ready().await;
    let other =
        world.create_pod("other", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "img"}]})).await;
    world.running("other", 0).await;
    let calls = world.runtime.calls();
    assert!(calls.iter().all(|c| !c.contains(&uid)), "the adopted pod is left alone: {calls:?}");
    assert_eq!(world.running("web", 1).await.metadata.uid, Some(uid.clone()));
    // … and its end is still noticed
    world.runtime.exit(&container_id(&pod), 4);
    let waiting = world
        .pod_until("web", |p| {
            let c = p.and_then(|p| p.status.as_ref()?.container_statuses.as_ref()?.first().cloned());
            // The second restart is still to come.
            c.is_some_and(|c| c.restart_count == 1 && c.state.is_some_and(|s| s.waiting.is_some()))
        })
        .await;
    assert!(waiting.is_some());

    // deletion stops it, cleans up, and only then removes the object
    for name in ["web", "other"] {
        world.client.delete::<Pod>("ns", name, &DeleteParams::default()).await.unwrap();
        assert!(world.pod_until(name, |p| p.is_none()).await.is_none());
    }
    // The scripted API server drops a pod as soon as it has ended; the node may still be tidying up.
    let tidy = async {
        while node.pods() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), tidy).await.unwrap();
    let left = world.runtime.list().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(world.images.held.lock().is_empty() && world.network.pods.lock().is_empty());
    for uid in [&uid, other.metadata.uid.as_ref().unwrap()] {
        let left = world.tmp.path().join("run/volumes").join(uid);
        let names: Vec<_> = std::fs::read_dir(&left).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(!left.exists(), "{names:?} of {uid}, calls {:#?}", world.runtime.calls());
    }
    assert_eq!(std::fs::read_dir(world.tmp.path().join("logs/pods")).unwrap().count(), 0);
    let events = world.client.list::<Event>("ns", &Default::default()).await.unwrap().items;
    let reasons: BTreeSet<String> = events.into_iter().filter_map(|e| e.reason).collect();
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.contains(reason), "{reason} in {reasons:?}");
    }
    assert_eq!(world.network.table.lock().as_ref().unwrap().frontends.len(), 1);
    drop(node);
    world.api.take_writes();
}

#[tokio::test]
async fn what_cannot_run_says_why_and_what_is_gone_is_ended() {
    let world = World::new();
    let node = world.node().await;
    node.ready().await;
    let reason = |p: Option<&Pod>| -> Option<String> {
        let c = p?.status.as_ref()?.container_statuses.as_ref()?.first()?.clone();
        c.state?.waiting?.reason
    };
    world.images.absent.lock().extend(["absent".into(), "later".into()]);
    world.create_pod("pull", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "absent"}]})).await;
    world.pod_until("pull", |p| reason(p).as_deref() == Some("ErrImagePull")).await;
    world.create_pod("later", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "later"}]})).await;
    world.pod_until("later", |p| reason(p).as_deref() == Some("ErrImagePull")).await;
    // once it is here nobody waits for the back-off, which is longer than a test waits
    world.images.import("later");
    world.running("later", 0).await;
    world.client.delete::<Pod>("ns", "later", &DeleteParams::now()).await.unwrap();
    let env = json!([{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]);
    world
        .create_pod("late", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "img", "env": env}]}))
        .await;
    world.pod_until("late", |p| reason(p).as_deref() == Some("CreateContainerConfigError")).await;
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "late", "namespace": "ns"}, "data": {"k": "v"}})).unwrap();
    world.client.create(&map).await.unwrap();
    world.running("late", 0).await;
    // too large for any node
    let huge = json!({"nodeName": "n1", "containers": [{"name": "main", "image": "img", "resources": {"requests": {"cpu": "100k"}}}]});
    world.create_pod("huge", huge).await;
    let failed = |p: Option<&Pod>| p.and_then(|p| p.status.as_ref()?.phase.as_deref()) == Some("Failed");
    let huge = world.pod_until("huge", failed).await.unwrap().status.unwrap();
    assert_eq!(huge.reason.as_deref(), Some("OutOfcpu"));
    // a Job's pod ends well, and leaves nothing running
    world
        .create_pod(
            "once",
            json!({"nodeName": "n1", "restartPolicy": "Never", "containers": [{"name": "main", "image": "img"}]}),
        )
        .await;
    let once = world.running("once", 0).await;
    world.runtime.exit(&container_id(&once), 0);
    let done = |p: Option<&Pod>| p.and_then(|p| p.status.as_ref()?.phase.as_deref()) == Some("Succeeded");
    world.pod_until("once", done).await;
    // the daemon is away while a pod is forced out of the API
    node.stop();
    world.client.delete::<Pod>("ns", "late", &DeleteParams::now()).await.unwrap();
    let mut events = world.runtime.events();
    let node = world.node().await;
    node.ready().await;
    let gone = async {
        loop {
            let pods = world.runtime.list().await.unwrap();
            // What is left are the sandboxes of the pods that wait for their image.
            if pods.iter().all(|p| p.containers.is_empty()) {
                return;
            }
            tokio::select! {
                _ = events.next() => {}
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
}

/// Serves the node's HTTP on loopback without TLS, as the API server's own name.
async fn http(node: &Handle) -> std::net::SocketAddr {
    let server = node.server();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = Arc::clone(&server);
            let service = hyper::service::service_fn(move |request| {
                let server = Arc::clone(&server);
                async move {
                    let caller = Caller { name: "kube-apiserver-kubelet-client".into(), ..Caller::default() };
                    Ok::<_, std::convert::Infallible>(server.handle(request, Some(&caller)).await)
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(async move {
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = builder.serve_connection_with_upgrades(io, service).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn logs_and_exec_over_both_protocols() {
    let world = World::new();
    let node = world.node().await;
    node.ready().await;
    world.create_pod("web", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "img"}]})).await;
    let pod = world.running("web", 0).await;
    let id = container_id(&pod);
    let address = http(&node).await;

    let log = world.runtime.container_spec(&id).unwrap().log.unwrap().path;
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F hello\n2026-01-01T00:00:01Z stderr F world\n").unwrap();
    let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
    raw.write_all(b"GET /containerLogs/ns/web/main?tailLines=1 HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("world") && !answer.contains("hello"), "{answer}");

    // An answer without a body, which over HTTP/2 nobody else sees to.
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let head = http::Request::head(format!("http://{address}/metrics"));
    let answer = sender.send_request(head.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes().is_empty());

    for (protocol, ends) in [("v5.channel.k8s.io", "\"message\":\"3\""), ("v4.channel.k8s.io", "ExitCode")] {
        world.runtime.script_exec(&id, Ok((3, b"output".to_vec())));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(format!(
            "ws://{address}/exec/ns/web/main?command=x&output=1&error=1"
        ))
        .unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        let (mut stdout, mut error) = (Vec::new(), Vec::new());
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(b) if b[0] == 1 => stdout.extend_from_slice(&b[1..]),
                Message::Binary(b) if b[0] == 3 => error.extend_from_slice(&b[1..]),
                _ => {}
            }
        }
        let _ = socket.close(None).await;
        let _ = socket.flush().await;
        let error = String::from_utf8(error).unwrap();
        assert_eq!(stdout, b"output", "{protocol}");
        assert!(error.contains("NonZeroExitCode") && error.contains(ends), "{error}");
    }

    world.runtime.script_exec(&id, Ok((0, b"spdy".to_vec())));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(
            b"POST /exec/ns/web/main?command=x&output=1 HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
              X-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n",
        )
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("x-stream-protocol-version: v4.channel.k8s.io"),
        "{head}"
    );
    let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
    let mut bytes = BytesMut::new();
    for (stream, kind) in [(1, "error"), (3, "stdout")] {
        encode(
            &Frame::SynStream { stream, headers: vec![("streamtype".into(), kind.into())], fin: false },
            &mut deflater,
            &mut bytes,
        );
    }
    stream.write_all(&bytes).await.unwrap();
    let (mut buffer, mut got) = (BytesMut::new(), [Vec::new(), Vec::new()]);
    'read: loop {
        while let Some(frame) = decode(&mut buffer, &mut inflater).unwrap() {
            match frame {
                Frame::Data { stream: 1, data, .. } => got[0].extend_from_slice(&data),
                Frame::Data { stream: 3, data, .. } => got[1].extend_from_slice(&data),
                Frame::GoAway { .. } => break 'read,
                _ => {}
            }
        }
        if stream.read_buf(&mut buffer).await.unwrap() == 0 {
            break;
        }
    }
    assert_eq!(got[1], b"spdy");
    assert_eq!(String::from_utf8(got[0].clone()).unwrap(), r#"{"metadata":{},"status":"Success"}"#);
}

fn condition<'a>(pod: Option<&'a Pod>, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod?.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

fn is_ready(pod: Option<&Pod>) -> bool {
    let good = |kind| condition(pod, kind).is_some_and(|c| c.status == "True" && c.reason.is_none());
    good("Ready") && good("ContainersReady")
}

/// A status that the server did not take at first, or that another hand wrote over, is what everybody sees in the end.
#[tokio::test]
async fn what_the_node_knows_of_its_pods_is_what_is_shown() {
    use types::status::{OBJECT_MODIFIED, Status};
    let world = World::new();
    let node = world.node().await;
    node.ready().await;
    let pods = types::registry::BUILT_IN.iter().find(|k| k.kind == "Pod").unwrap();
    // Each answer is given once to each status of a pod, whatever that says.
    let mut left = vec![
        Status::conflict(pods, "web", OBJECT_MODIFIED),
        Status::forbidden(pods, "web", "the authorizer has not read its roles yet"),
        Status::internal("the disk is slow"),
    ];
    world.api.set_fault(Some(Box::new(move |method, path, _| {
        if method == http::Method::PATCH && path.ends_with("/pods/web/status") { left.pop() } else { None }
    })));
    world.create_pod("web", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "img"}]})).await;
    world.pod_until("web", is_ready).await;
    // As the node lifecycle controller does for a node that was silent: more than once, while the node is at it.
    for _ in 0..3 {
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        world.client.patch_status::<Pod>("ns", "web", client::Patch::Merge(&patch)).await.unwrap();
    }
    world.pod_until("web", is_ready).await;
    // A pod of the same name is another one: it owes nothing to what is said of the first.
    let uid = world.client.get::<Pod>("ns", "web").await.unwrap().metadata.uid;
    world.client.delete::<Pod>("ns", "web", &DeleteParams::now()).await.unwrap();
    world.create_pod("web", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "img"}]})).await;
    let second = world.pod_until("web", |p| p.is_some_and(|p| p.metadata.uid != uid) && is_ready(p)).await;
    assert!(second.is_some());
}

/// What `GET path` answers as JSON.
async fn get_json(address: std::net::SocketAddr, path: &str) -> serde_json::Value {
    let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).await.unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    // The body is one chunk or has a length.
    serde_json::from_str(&body[body.find('{').unwrap()..=body.rfind('}').unwrap()]).unwrap()
}

#[tokio::test]
async fn what_pods_use_is_measured_when_somebody_asks() {
    let world = World::new();
    let node = world.node().await;
    node.ready().await;
    world.create_pod("web", json!({"nodeName": "n1", "containers": [{"name": "main", "image": "img"}]})).await;
    let pod = world.running("web", 0).await;
    let cgroup = world.runtime.list().await.unwrap()[0].spec.cgroup.clone();
    let container = format!("{cgroup}/{}", container_id(&pod).0);
    let used = |cpu_usage_ns| runtime::Stats { cpu_usage_ns, memory_working_set_bytes: 4096, ..Default::default() };
    world.runtime.set_stats(&container, used(1_000_000_000));
    let address = http(&node).await;
    // Nobody asked before: two looks are taken, and the counter moves between them.
    let runtime = world.runtime.clone();
    let (asked, ()) = tokio::join!(get_json(address, "/stats/usage"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        runtime.set_stats(&container, used(1_500_000_000));
    });
    let told = &asked["pods"][0];
    assert_eq!(told["uid"], json!(pod.metadata.uid));
    let (rate, bytes) = (&told["containers"][0][1][0], &told["containers"][0][1][1]);
    let window = told["windowNanoseconds"].as_u64().unwrap();
    assert_eq!((rate.as_u64().unwrap(), bytes), (500_000_000 * 1_000_000_000 / window, &json!(4096)));
    assert!(asked["node"]["usage"][1].as_u64().unwrap() > 0, "{asked}");
    // The summary is of the same measure.
    let summary = get_json(address, "/stats/summary").await;
    assert_eq!(&summary["pods"][0]["containers"][0]["cpu"]["usageNanoCores"], rate);
    assert_eq!(summary["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000u64);
}
