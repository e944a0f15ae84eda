//! Drivers against a fake one on a socket: it answers as it is told, and says what it was asked.

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use client::fake::Fake;
use client::{Clock, Patch, WriteParams};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;
use crate::csi::mount::{Failure, Mounted};
use crate::csi::wanted::Wanted;
use crate::grpc::message::{Fields, Writer};
use crate::volume::token::Tokens;
use crate::worker::state::Now;

/// A driver and its registrar on one socket.
#[derive(Default)]
struct Script {
    /// Capabilities by number.
    abilities: Vec<u64>,
    volumes_max: u64,
    /// What methods fail with.
    fails: BTreeMap<&'static str, (u32, &'static str)>,
    /// What was asked: method and, for volumes, what distinguishes the call.
    asked: Vec<String>,
    /// The last message of each method.
    last: BTreeMap<String, Bytes>,
}

struct FakeDriver {
    script: Arc<Mutex<Script>>,
    told: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeDriver {
    fn listen(socket: &Path, script: Script) -> FakeDriver {
        let listener = UnixListener::bind(socket).unwrap();
        let (script, told) = (Arc::new(Mutex::new(script)), Arc::new(Notify::new()));
        let (known, tell) = (Arc::clone(&script), Arc::clone(&told));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, told) = (Arc::clone(&known), Arc::clone(&tell));
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (script, told) = (Arc::clone(&script), Arc::clone(&told));
                    async move {
                        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let (code, text, message) = answer(&mut script.lock(), &method, body.slice(5..));
                        told.notify_one();
                        let trailers = [
                            ("grpc-status".parse().unwrap(), code.to_string().parse().unwrap()),
                            ("grpc-message".parse().unwrap(), text.parse().unwrap()),
                        ];
                        let frames = [
                            Ok::<_, Infallible>(Frame::data(crate::grpc::framed(&message))),
                            Ok(Frame::trailers(trailers.into_iter().collect())),
                        ];
                        let body = StreamBody::new(futures_util::stream::iter(frames));
                        Ok::<_, Infallible>(http::Response::new(body))
                    }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        FakeDriver { script, told, task }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.script.lock().asked)
    }

    fn last(&self, method: &str) -> Bytes {
        self.script.lock().last[method].clone()
    }

    fn fail(&self, method: &'static str, code: u32) {
        self.script.lock().fails = [(method, (code, "no luck"))].into();
    }
}

fn answer(script: &mut Script, method: &str, message: Bytes) -> (u32, &'static str, Vec<u8>) {
    let fields = Fields::of(&message);
    let target = match method {
        "NodeStageVolume" => fields.text(3),
        "NodePublishVolume" => fields.text(4),
        "NodeUnstageVolume" | "NodeUnpublishVolume" | "NodeExpandVolume" => fields.text(2),
        _ => String::new(),
    };
    if !matches!(method, "NodeGetCapabilities" | "GetInfo") {
        let end = Path::new(&target).file_name().map(|n| format!(" {}", n.to_string_lossy())).unwrap_or_default();
        script.asked.push(format!("{method}{end}"));
    }
    script.last.insert(method.to_owned(), message.clone());
    if let Some((code, text)) = script.fails.get(method) {
        return (*code, text, Vec::new());
    }
    let reply = match method {
        "GetInfo" => Writer::new().text(1, "CSIPlugin").text(2, "d.io").texts(4, &["1.0.0".into()]),
        "NodeGetInfo" => {
            let topology = [("zone.d.io".to_owned(), "here".to_owned())].into();
            Writer::new().text(1, "id").number(2, script.volumes_max).within(3, Writer::new().map(1, &topology))
        }
        "NodeGetCapabilities" => script.abilities.iter().fold(Writer::new(), |all, ability| {
            all.within(1, Writer::new().within(1, Writer::new().number(1, *ability)))
        }),
        "NodePublishVolume" => {
            fs::create_dir(target).ok();
            Writer::new()
        }
        "NodeUnpublishVolume" => {
            fs::remove_dir(target).ok();
            Writer::new()
        }
        _ => Writer::new(),
    };
    (0, "", reply.done())
}

struct Bench {
    _dir: tempfile::TempDir,
    client: Client,
    csi: Arc<Csi>,
    tokens: Tokens,
    woken: Arc<Notify>,
}

impl Bench {
    async fn new(driver: Value) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let client = Fake::new(Clock::system()).client();
        let create = async |path: &str, object: Value| {
            let _: Value = client.create_path(path, &object, &WriteParams::default()).await.unwrap();
        };
        create("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": {}}})).await;
        if !driver.is_null() {
            create(DRIVERS, json!({"metadata": {"name": "d.io"}, "spec": driver})).await;
        }
        let woken = Arc::new(Notify::new());
        let tell = Arc::clone(&woken);
        let changed: Changed = Arc::new(move |_| tell.notify_one());
        let folders = Folders::at(dir.path());
        for sub in ["plugins", "plugins_registry", "pods"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let csi = Csi::new(client.clone(), "n", Recorder::silent(), folders, changed);
        Bench { _dir: dir, tokens: Tokens::new(client.clone()), client, csi: Arc::new(csi), woken }
    }

    fn driver(&self, abilities: &[u64]) -> FakeDriver {
        let socket = self.csi.folders.registry().join("d.io-reg.sock");
        FakeDriver::listen(&socket, Script { abilities: abilities.to_vec(), volumes_max: 7, ..Script::default() })
    }

    async fn registered(&self, abilities: &[u64]) -> FakeDriver {
        let driver = self.driver(abilities);
        let socket = self.csi.folders.registry().join("d.io-reg.sock");
        self.csi.register("d.io", &socket, [1, 0, 0]).await.unwrap();
        driver.asked();
        driver
    }

    async fn set_up(&self, uid: &str, wanted: &Wanted) -> Result<Mounted, Failure> {
        self.csi.set_up(&pod(uid), wanted, &self.tokens, now(0)).await
    }

    async fn get(&self, path: &str) -> Value {
        self.client.get_path(path).await.unwrap()
    }

    /// Everything below the folder but the folders that are always there.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut open = vec![self.csi.folders.pods(), self.csi.folders.plugin()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                left.push(entry.path().strip_prefix(self._dir.path()).unwrap().display().to_string());
                open.push(entry.path());
            }
        }
        left.retain(|path| path != "plugins/kubernetes.io/csi/d.io" && !path.ends_with("volumeDevices"));
        left.retain(|path| !path.ends_with("volumeDevices/publish") && !path.ends_with("volumeDevices/staging"));
        left.sort();
        left
    }
}

fn now(seconds: u64) -> Now {
    Now { wall: "2026-01-01T00:00:00Z".parse().unwrap(), mono: Duration::from_secs(1000 + seconds) }
}

fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid}, "spec":
        {"serviceAccountName": "sa", "containers": [], "securityContext": {"fsGroup": 7}}}))
    .unwrap()
}

fn wanted(block: bool) -> Wanted {
    let mode = if block { "Block" } else { "Filesystem" };
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteMany"], "volumeMode": mode,
        "mountOptions": ["noatime"], "csi": {"driver": "d.io", "volumeHandle": "h", "fsType": "ext4",
            "volumeAttributes": {"a": "1"}}}});
    Wanted::of_volume(&serde_json::from_value(volume).unwrap(), false).unwrap()
}

fn unattached() -> Value {
    json!({"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Persistent", "Ephemeral"]})
}

#[tokio::test]
async fn a_driver_comes_and_goes() {
    let bench = Bench::new(Value::Null).await;
    let serving = tokio::spawn(registry::serve(Arc::clone(&bench.csi)));
    let driver = bench.driver(&[]);
    bench.csi.wait("u");
    while !driver.script.lock().last.contains_key("NotifyRegistrationStatus") {
        driver.told.notified().await;
    }
    let said = driver.last("NotifyRegistrationStatus");
    assert_eq!((Fields::of(&said).number(1), Fields::of(&said).text(2)), (1, String::new()));
    bench.woken.notified().await;
    let csi_node = bench.get("/apis/storage.k8s.io/v1/csinodes/n").await;
    assert_eq!(
        csi_node["spec"]["drivers"],
        json!([{"name": "d.io", "nodeID": "id", "topologyKeys": ["zone.d.io"], "allocatable": {"count": 7}}])
    );
    let node = bench.get("/api/v1/nodes/n").await;
    assert_eq!(csi_node["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    assert_eq!(node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"], "{\"d.io\":\"id\"}");
    assert_eq!(node["metadata"]["labels"]["zone.d.io"], "here");

    let informers = client::Informers::new(bench.client.clone());
    let nodes = informers.cache::<Node>(client::Selector::all());
    fs::remove_file(bench.csi.folders.registry().join("d.io-reg.sock")).unwrap();
    nodes.until(|| nodes.all().iter().any(|n| n.metadata.annotations.iter().flatten().next().is_none())).await;
    assert_eq!(bench.get("/apis/storage.k8s.io/v1/csinodes/n").await["spec"]["drivers"], json!([]));
    assert!(bench.csi.driver("d.io").is_err());
    serving.abort();
}

#[tokio::test]
async fn a_driver_is_told_why_it_is_refused() {
    let bench = Bench::new(Value::Null).await;
    let driver = bench.driver(&[]);
    driver.fail("NodeGetInfo", 13);
    let serving = tokio::spawn(registry::serve(Arc::clone(&bench.csi)));
    while !driver.script.lock().last.contains_key("NotifyRegistrationStatus") {
        driver.told.notified().await;
    }
    let said = driver.last("NotifyRegistrationStatus");
    assert_eq!(Fields::of(&said).number(1), 0);
    assert_eq!(
        Fields::of(&said).text(2),
        "RegisterPlugin error -- plugin registration failed with err: rpc error: code = Internal desc = no luck"
    );
    serving.abort();
}

#[tokio::test]
async fn a_volume_is_staged_once_and_published_for_each_pod() {
    let bench = Bench::new(unattached()).await;
    let driver = bench.registered(&[1, 5]).await;
    let wanted = wanted(false);
    let mounted = bench.set_up("u1", &wanted).await.unwrap();
    assert_eq!(mounted, Mounted { path: bench.csi.folders.target("u1", "pv"), again_at: None });
    bench.set_up("u2", &wanted).await.unwrap();
    assert_eq!(driver.asked(), ["NodeStageVolume globalmount", "NodePublishVolume mount", "NodePublishVolume mount"]);
    let published = driver.last("NodePublishVolume");
    let published = Fields::of(&published);
    assert_eq!(published.text(3), bench.csi.folders.staging("d.io", "h").display().to_string());
    let attributes = published.map(8);
    assert_eq!((attributes["a"].as_str(), attributes["csi.storage.k8s.io/pod.name"].as_str()), ("1", "u2"));
    let mount = published.messages(5).next().unwrap().messages(2).next().unwrap();
    assert_eq!((mount.text(1), mount.texts(2), mount.text(3)), ("ext4".into(), vec!["noatime".into()], String::new()));
    assert_eq!(bench.csi.in_use(), [""; 0], "nobody attaches it");

    bench.csi.tear_down("u1").await.unwrap();
    assert_eq!(driver.asked(), ["NodeUnpublishVolume mount"]);
    bench.csi.tear_down("u2").await.unwrap();
    assert_eq!(driver.asked(), ["NodeUnpublishVolume mount", "NodeUnstageVolume globalmount"]);
    assert_eq!(bench.left(), [""; 0]);
    bench.csi.tear_down("u2").await.unwrap();
    assert_eq!(driver.asked(), [""; 0]);
}

#[tokio::test]
async fn a_device_is_linked_and_taken_down() {
    let bench = Bench::new(unattached()).await;
    let driver = bench.registered(&[1]).await;
    let mounted = bench.set_up("u1", &wanted(true)).await.unwrap();
    assert_eq!(mounted.path, bench.csi.folders.device_publish("pv", "u1"));
    assert_eq!(driver.asked(), ["NodeStageVolume pv", "NodePublishVolume u1"]);
    let published = driver.last("NodePublishVolume");
    assert_eq!(Fields::of(&published).messages(5).next().unwrap().messages(1).count(), 1, "a block device");
    let link = bench.csi.folders.devices_of_pod("u1").join("pv");
    assert_eq!(fs::read_link(&link).unwrap(), mounted.path);
    bench.csi.tear_down("u1").await.unwrap();
    assert_eq!(driver.asked(), ["NodeUnpublishVolume u1", "NodeUnstageVolume pv"]);
    assert_eq!(bench.left(), [""; 0]);
}

#[tokio::test]
async fn failures_are_told_and_leave_what_may_go_on() {
    let mount = "MountVolume.MountDevice failed for volume \"pv\" : ";
    let set_up = "MountVolume.SetUp failed for volume \"pv\" : ";
    // the method, the code, the event, whether the driver must be asked to take it down
    for (method, code, expected, goes_on) in [
        ("NodeGetCapabilities", 14, format!("{mount}rpc error: code = Unavailable desc = no luck"), false),
        ("NodeStageVolume", 13, format!("{mount}rpc error: code = Internal desc = no luck"), false),
        ("NodeStageVolume", 4, format!("{mount}rpc error: code = DeadlineExceeded desc = no luck"), true),
        ("NodeStageVolume", 10, format!("{mount}rpc error: code = Aborted desc = no luck"), true),
        ("NodePublishVolume", 3, format!("{set_up}rpc error: code = InvalidArgument desc = no luck"), false),
        ("NodePublishVolume", 14, format!("{set_up}rpc error: code = Unavailable desc = no luck"), true),
    ] {
        let bench = Bench::new(unattached()).await;
        let driver = bench.registered(&[1]).await;
        driver.fail(method, code);
        assert_eq!(bench.set_up("u1", &wanted(false)).await, Err(Failure::Failed(expected)), "{method} {code}");
        let (staged, published) = (
            records::Record::read(bench.csi.folders.staging("d.io", "h").parent().unwrap()),
            records::of_pod(&bench.csi.folders, "u1"),
        );
        match method {
            "NodePublishVolume" => {
                assert_eq!((staged.is_ok(), published.len()), (true, usize::from(goes_on)), "{code}")
            }
            _ => assert_eq!((staged.is_ok(), published.len()), (goes_on, 0), "{method} {code}"),
        }
        // The pod goes: whatever may have been made is asked for to be taken down.
        driver.script.lock().fails.clear();
        driver.asked();
        bench.csi.tear_down("u1").await.unwrap();
        let asked = driver.asked();
        assert_eq!(asked.iter().any(|a| a.starts_with("NodeUnstage")), staged.is_ok(), "{method} {code}");
        assert_eq!(bench.left(), [""; 0], "{method} {code}");
    }
}

#[tokio::test]
async fn taking_down_is_tried_until_it_works() {
    for method in ["NodeUnpublishVolume", "NodeUnstageVolume"] {
        let bench = Bench::new(unattached()).await;
        let driver = bench.registered(&[1]).await;
        bench.set_up("u1", &wanted(false)).await.unwrap();
        driver.fail(method, 13);
        let why = bench.csi.tear_down("u1").await.unwrap_err();
        assert!(why.ends_with("rpc error: code = Internal desc = no luck"), "{why}");
        driver.script.lock().fails.clear();
        bench.csi.tear_down("u1").await.unwrap();
        assert_eq!(bench.left(), [""; 0], "{method}");
    }
}

#[tokio::test]
async fn a_pod_waits_for_its_driver() {
    let bench = Bench::new(unattached()).await;
    let Err(Failure::Failed(why)) = bench.set_up("u1", &wanted(false)).await else { panic!("there is no driver") };
    assert_eq!(
        why,
        "MountVolume.MountDevice failed for volume \"pv\" : kubernetes.io/csi: attacher.MountDevice failed to create \
         newCsiDriverClient: driver name d.io not found in the list of registered CSI drivers"
    );
    let _driver = bench.registered(&[]).await;
    bench.woken.notified().await;
    bench.set_up("u1", &wanted(false)).await.unwrap();
}

#[tokio::test]
async fn a_volume_waits_until_it_is_attached() {
    let bench = Bench::new(Value::Null).await;
    let driver = bench.registered(&[1]).await;
    let wanted = wanted(false);
    assert_eq!(bench.set_up("u1", &wanted).await, Err(Failure::Waits));
    let name = "kubernetes.io/csi/d.io^h";
    assert_eq!(bench.csi.in_use(), [name], "so that nobody detaches it");
    let node = |in_use: &[&str], attached: &[&str]| -> Node {
        let attached: Vec<Value> = attached.iter().map(|n| json!({"name": n, "devicePath": ""})).collect();
        serde_json::from_value(json!({"status": {"volumesInUse": in_use, "volumesAttached": attached}})).unwrap()
    };
    bench.csi.node_changed(&node(&[], &[name]));
    bench.woken.notified().await;
    assert_eq!(bench.set_up("u1", &wanted).await, Err(Failure::Waits), "the node has not said yet that it uses it");
    let late = bench.csi.set_up(&pod("u1"), &wanted, &bench.tokens, now(200)).await;
    assert!(
        matches!(late, Err(Failure::Failed(why)) if why.contains("timed out waiting for external-attacher of d.io CSI driver"))
    );
    bench.csi.node_changed(&node(&[name], &[name]));
    bench.woken.notified().await;
    let id = client::csi::attachment_name("d.io", "h", "n");
    let failed =
        |why: &str| Err(Failure::Failed(format!("MountVolume.WaitForAttach failed for volume \"pv\" : {why}")));
    let Err(Failure::Failed(why)) = bench.set_up("u1", &wanted).await else { panic!("it is not there") };
    assert!(why.contains(&format!("volume h has GET error for volume attachment {id}: ")), "{why}");
    let attachment = json!({"metadata": {"name": id}, "spec": {"attacher": "d.io", "nodeName": "n",
        "source": {"persistentVolumeName": "pv"}}, "status": {"attached": false}});
    let _: Value = bench.client.create_path(ATTACHMENTS, &attachment, &WriteParams::default()).await.unwrap();
    assert_eq!(
        bench.set_up("u1", &wanted).await,
        failed(&format!("volume h is not attached for volume attachment {id}"))
    );
    let patch = async |status: Value| {
        let patch = json!({"status": status});
        let _: client::csi::Attachment = bench.client.patch_status("", &id, Patch::Merge(&patch)).await.unwrap();
    };
    patch(json!({"attachError": {"message": "no luck"}})).await;
    assert_eq!(bench.set_up("u1", &wanted).await, failed("no luck"));
    assert_eq!(driver.asked(), [""; 0]);
    patch(json!({"attached": true, "attachError": null, "attachmentMetadata": {"device": "sdb"}})).await;
    bench.set_up("u1", &wanted).await.unwrap();
    let staged = driver.last("NodeStageVolume");
    assert_eq!(Fields::of(&staged).map(2)["device"], "sdb");
    bench.csi.tear_down("u1").await.unwrap();
    assert_eq!(bench.csi.in_use(), [""; 0]);
}

#[tokio::test]
async fn what_drivers_ask_for_they_are_told() {
    let mut spec = unattached();
    spec["requiresRepublish"] = true.into();
    spec["tokenRequests"] = json!([{"audience": "vault"}]);
    let bench = Bench::new(spec).await;
    let driver = bench.registered(&[6]).await;
    let secret = json!({"metadata": {"name": "s", "namespace": "ns"}, "data": {"key": "dmFsdWU="}});
    let _: Value =
        bench.client.create_path("/api/v1/namespaces/ns/secrets", &secret, &WriteParams::default()).await.unwrap();
    let source = serde_json::from_value(json!({"driver": "d.io", "readOnly": true, "fsType": "xfs",
        "nodePublishSecretRef": {"name": "s"}, "volumeAttributes": {"a": "1"}}))
    .unwrap();
    let inline = Wanted::inline(&pod("u1"), "scratch", &source);
    // The fake API gives no tokens.
    let Err(Failure::Failed(why)) = bench.set_up("u1", &inline).await else { panic!("no token") };
    assert!(why.starts_with("MountVolume.SetUp failed for volume \"scratch\" : failed to fetch token"), "{why}");
    let without = json!({"spec": {"tokenRequests": null}});
    let _: client::csi::Driver = bench.client.patch("", "d.io", Patch::Merge(&without)).await.unwrap();
    let mounted = bench.set_up("u1", &inline).await.unwrap();
    assert_eq!(mounted.again_at, Some(now(90).mono));
    let published = driver.last("NodePublishVolume");
    let published = Fields::of(&published);
    assert_eq!((published.text(1), published.number(6)), (inline.handle.clone(), 1));
    assert_eq!(published.map(7)["key"], "value");
    assert_eq!(published.map(8)["csi.storage.k8s.io/ephemeral"], "true");
    assert_eq!(published.messages(5).next().unwrap().messages(2).next().unwrap().text(3), "7", "the driver's to give");
    assert_eq!(driver.asked(), ["NodePublishVolume mount"]);
    bench.csi.tear_down("u1").await.unwrap();
    assert_eq!((driver.asked(), bench.left()), (vec!["NodeUnpublishVolume mount".to_owned()], vec![]));
}

#[tokio::test]
async fn a_later_daemon_takes_down_what_is_left() {
    let bench = Bench::new(unattached()).await;
    let driver = bench.registered(&[1]).await;
    bench.set_up("u1", &wanted(false)).await.unwrap();
    driver.asked();
    // Another one, which knows what is written down.
    let later = Csi::new(bench.client.clone(), "n", Recorder::silent(), bench.csi.folders.clone(), Arc::new(|_| ()));
    let found = records::found(&later.folders).into_iter();
    later.state.lock().users.extend(found.map(|(v, pods)| (v, Users { pods, attachable: true, staged: false })));
    assert_eq!(later.in_use(), ["kubernetes.io/csi/d.io^h"]);
    assert!(later.tear_down("u1").await.is_err(), "its driver is not there yet");
    later.orphan("u1");
    let known = Driver(later.folders.registry().join("d.io-reg.sock"));
    later.state.lock().drivers.insert("d.io".into(), Registered { driver: known, version: [1, 0, 0] });
    later.sweep("d.io").await;
    assert_eq!(later.in_use(), [""; 0]);
    assert_eq!(driver.asked(), ["NodeUnpublishVolume mount", "NodeUnstageVolume globalmount"]);
    assert_eq!(bench.left(), [""; 0]);
}
