//! kube-rs against a cluster: the verbs of `Api`, watcher and reflector both ways they can begin, logs, exec, port-forward.
//! Stops at the first answer that is not what a cluster gives, with a non-zero exit code.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Discovery, ResourceExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const NAMESPACE: &str = "kube-rs";
/// How long anything may take that the cluster does on its own.
const PATIENCE: Duration = Duration::from_secs(60);

fn map(name: &str) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": "kube-rs"}}, "data": {"k": "v"}}))?)
}

fn refused<T: Debug>(code: u16, reason: &str, answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == code && status.reason == reason => Ok(()),
        other => bail!("expected {code} {reason}, got {other:?}"),
    }
}

async fn verbs(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let post = PostParams::default();
    let mut one = maps.create(&post, &map("one")?).await?;
    ensure!(one.uid().is_some() && maps.get("one").await? == one, "created: {one:?}");
    refused(409, "AlreadyExists", maps.create(&post, &map("one")?).await)?;
    refused(422, "Invalid", maps.create(&post, &map("Not_A_Name")?).await)?;
    refused(404, "NotFound", maps.get("none").await)?;
    let merge = json!({"data": {"merge": "1"}});
    let none = PatchParams::default();
    maps.patch("one", &none, &Patch::Merge(&merge)).await?;
    maps.patch("one", &none, &Patch::Strategic(json!({"data": {"strategic": "1"}}))).await?;
    one.data = Some(BTreeMap::new());
    refused(409, "Conflict", maps.replace("one", &post, &one).await)?;
    let fresh = maps.get("one").await?;
    ensure!(fresh.data.as_ref().is_some_and(|d| d.len() == 3), "after the patches: {fresh:?}");
    for i in 0..4 {
        maps.create(&post, &map(&format!("page-{i}"))?).await?;
    }
    let mut pages = ListParams::default().labels("app=kube-rs").limit(2);
    let mut names = Vec::new();
    loop {
        let page = maps.list(&pages).await?;
        names.extend(page.items.iter().map(|m| m.name_any()));
        let Some(token) = page.metadata.continue_.filter(|t| !t.is_empty()) else { break };
        pages = pages.continue_token(&token);
    }
    ensure!(names == ["one", "page-0", "page-1", "page-2", "page-3"], "pages: {names:?}");
    maps.delete("one", &DeleteParams::default()).await?;
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=kube-rs")).await?;
    ensure!(maps.list(&ListParams::default().labels("app=kube-rs")).await?.items.is_empty(), "not deleted");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let body = serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
        "spec": {"containers": [{"name": "c", "image": "kedge.test/none:1"}]}}}}))?;
    deployments.create(&post, &body).await?;
    let scale = deployments.get_scale("d").await?;
    ensure!(scale.status.and_then(|s| s.selector).as_deref() == Some("app=d"), "scale");
    deployments.delete("d", &DeleteParams::background()).await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    ensure!(discovery.has_group("apps") && discovery.groups().count() > 5, "discovery");
    Ok(())
}

/// A store that a watcher fills and keeps, once begun with a list and once with a watch that brings the initial state.
async fn reflects(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let post = PostParams::default();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        maps.create(&post, &map("before")?).await?;
        let (store, writer) = reflector::store();
        let events = watcher(maps.clone(), config.labels("app=kube-rs"));
        let mut changes = Box::pin(reflector::reflector(writer, events).default_backoff().applied_objects());
        let first = changes.try_next().await?.context("no first event")?;
        ensure!(first.name_any() == "before", "first: {first:?}");
        maps.create(&post, &map("after")?).await?;
        let second = changes.try_next().await?.context("no second event")?;
        ensure!(second.name_any() == "after", "second: {second:?}");
        ensure!(
            store.get(&ObjectRef::new("before").within(NAMESPACE)).is_some() && store.len() == 2,
            "{:?}",
            store.state()
        );
        for name in ["before", "after"] {
            maps.delete(name, &DeleteParams::default()).await?;
        }
        // Deletions are not in this stream; the next creation is, and by then they are in the store.
        maps.create(&post, &map("last")?).await?;
        let third = changes.try_next().await?.context("no third event")?;
        ensure!(third.name_any() == "last" && store.len() == 1, "{:?}", store.state());
        maps.delete("last", &DeleteParams::default()).await?;
    }
    Ok(())
}

const SCRIPT: &str = "echo started; mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www";

async fn streams(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "kedge.test/busybox:1", "command": ["sh", "-c", SCRIPT],
            "readinessProbe": {"periodSeconds": 1, "tcpSocket": {"port": 8080}}}]}}))?;
    pods.create(&PostParams::default(), &pod).await?;
    let ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|p| p.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    await_condition(pods.clone(), "web", ready).await?;
    ensure!(pods.logs("web", &LogParams::default()).await? == "started\n", "log");
    let follow = LogParams { follow: true, ..LogParams::default() };
    let line = pods.log_stream("web", &follow).await?.lines().try_next().await?;
    ensure!(line.as_deref() == Some("started"), "followed: {line:?}");

    let script = ["sh", "-c", "echo err >&2; cat; exit 7"];
    let mut process = pods.exec("web", script, &AttachParams::default().stdin(true)).await?;
    let mut input = process.stdin().context("stdin")?;
    input.write_all(b"there and back").await?;
    // Version 5 of the protocol closes standard input alone.
    input.shutdown().await?;
    drop(input);
    let (mut out, mut err) = (String::new(), String::new());
    process.stdout().context("stdout")?.read_to_string(&mut out).await?;
    process.stderr().context("stderr")?.read_to_string(&mut err).await?;
    ensure!((out.as_str(), err.as_str()) == ("there and back", "err\n"), "{out:?} {err:?}");
    let status = process.take_status().context("status")?.await.context("no status")?;
    ensure!(status.reason.as_deref() == Some("NonZeroExitCode"), "{status:?}");
    process.join().await?;

    let mut forward = pods.portforward("web", &[8080]).await?;
    let mut port = forward.take_stream(8080).context("the port's stream")?;
    port.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut page = String::new();
    port.read_to_string(&mut page).await?;
    ensure!(page.ends_with("\r\n\r\nhello\n"), "{page:?}");
    drop(port);
    forward.abort();

    let uid = pods.get("web").await?.uid().context("uid")?;
    pods.delete("web", &DeleteParams::default()).await?;
    await_condition(pods, "web", conditions::is_deleted(&uid)).await?;
    Ok(())
}

async fn all() -> Result<()> {
    let client = Client::try_default().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let mut began = Instant::now();
    let mut said = |story: &str| {
        println!("{story}: ok in {:?}", began.elapsed());
        began = Instant::now();
    };
    verbs(&client).await.context("verbs")?;
    said("verbs");
    tokio::time::timeout(PATIENCE, reflects(&client)).await.context("reflects")?.context("reflects")?;
    said("reflects");
    tokio::time::timeout(PATIENCE, streams(&client)).await.context("streams")?.context("streams")?;
    said("streams");
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    Ok(())
}

fn main() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(all())
}
