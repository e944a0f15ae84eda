//! The API under load: creates, gets, lists, watches. One server for all of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::daemon::{self, Daemon};
use crate::report::{Row, ms, percentile};
use crate::wire::{Admin, Http1, request, request_for};

const CONNECTIONS: usize = 64;
const CREATES: usize = 20_000;
const OBJECTS: usize = 10_000;
const ROUNDS: usize = 5;
const OBJECT_BYTES: usize = 1024;
const GETS: usize = 5_000;
const PODS: usize = 5_000;
/// A pod as clusters have them: 24 MB for 5,000.
const POD_BYTES: usize = 4_800;
const LISTS: usize = 15;
/// The forms a list is asked for in: plain, as controllers ask, as `kubectl get` asks.
const FORMS: [(&str, &str); 3] = [
    ("", "application/json"),
    ("_protobuf", "application/vnd.kubernetes.protobuf"),
    ("_table", "application/json;as=Table;v=v1;g=meta.k8s.io"),
];
/// Watchers, and how many changes they are told in a round: enough that the 99th percentile is not one unlucky change.
const WATCHERS: [(usize, usize); 3] = [(1, 300), (200, 200), (1_000, 100)];

pub async fn run(cgroup: &str, what: &str) -> Result<Vec<Row>> {
    let daemon = Daemon::start(cgroup, &["--disable-agent"]).await?;
    let rows = match what {
        "creates" => creates(&daemon).await?,
        "memory" => memory(&daemon).await?,
        "get" => gets(&daemon).await?,
        "list" => lists(&daemon.admin).await?,
        "watch" => {
            let mut rows = Vec::new();
            for (count, changes) in WATCHERS {
                rows.extend(watches(&daemon, count, changes).await?);
            }
            rows
        }
        other => bail!("no benchmark {other:?}"),
    };
    daemon.stop()?;
    Ok(rows)
}

async fn creates(daemon: &Daemon) -> Result<Vec<Row>> {
    let (mut http1, mut http2, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let before = daemon::usage(daemon.pid())?.cpu_ns;
        http1.push(create_many(&daemon.admin, &format!("one-{round}"), false).await?);
        cpu.push((daemon::usage(daemon.pid())?.cpu_ns - before) as f64 / 1e3 / CREATES as f64);
        http2.push(create_many(&daemon.admin, &format!("two-{round}"), true).await?);
    }
    let resident = daemon::memory_kib(daemon.pid(), "status", "VmRSS:")? as f64 / 1024.0;
    Ok(vec![
        Row::new("creates_http1_64_connections", http1, "1/s"),
        Row::new("creates_http2_64_connections", http2, "1/s"),
        Row::new("create_http1_server_cpu", cpu, "µs"),
        Row::new(format!("resident_after_{}_creates", 2 * ROUNDS * CREATES), vec![resident], "MiB"),
    ])
}

/// What the process grows by with objects, against their bytes as they are stored, keys included.
async fn memory(daemon: &Daemon) -> Result<Vec<Row>> {
    let anonymous = || daemon::memory_kib(daemon.pid(), "status", "RssAnon:");
    // What is allocated once, with the first connections and writes, is no object's.
    create_some(&daemon.admin, "warm", false, OBJECTS / 10).await?;
    let before = anonymous()?;
    let name = "kept";
    create_some(&daemon.admin, name, false, OBJECTS).await?;
    let grown = anonymous()?.saturating_sub(before) as f64 * 1024.0;
    let mut connection = daemon.admin.http1().await?;
    let list = connection.must("GET", &format!("/api/v1/namespaces/{name}/configmaps"), b"").await?.len();
    let key = format!("core/configmaps/{name}/c0000").len();
    Ok(vec![
        Row::new(format!("memory_of_{OBJECTS}_objects"), vec![grown / 1e6], "MB"),
        Row::new(
            format!("memory_of_{OBJECTS}_objects_to_stored_bytes"),
            vec![grown / (list + OBJECTS * key) as f64],
            "times",
        ),
    ])
}

pub async fn namespace(admin: &Admin, name: &str) -> Result<()> {
    let mut connection = admin.http1().await?;
    let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
    connection.must("POST", "/api/v1/namespaces", body.as_bytes()).await?;
    Ok(())
}

/// A ConfigMap of [`OBJECT_BYTES`] as it is sent.
pub fn config_map(name: &str) -> Vec<u8> {
    let head = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"bench"}}}},"data":{{"k":""#
    );
    let mut body = head.into_bytes();
    body.resize(OBJECT_BYTES - 3, b'x');
    body.extend_from_slice(b"\"}}");
    body
}

async fn create_many(admin: &Admin, name: &str, http2: bool) -> Result<f64> {
    create_some(admin, name, http2, CREATES).await
}

/// Creates per second with [`CONNECTIONS`] connections, each waiting for its answer before the next.
async fn create_some(admin: &Admin, name: &str, http2: bool, count: usize) -> Result<f64> {
    namespace(admin, name).await?;
    let path = format!("/api/v1/namespaces/{name}/configmaps");
    let next = Arc::new(AtomicUsize::new(0));
    let mut ready = Vec::new();
    let mut ready2 = Vec::new();
    for _ in 0..CONNECTIONS {
        match http2 {
            true => ready2.push(admin.http2().await?),
            false => ready.push(admin.http1().await?),
        }
    }
    let start = Instant::now();
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for mut connection in ready {
        let (path, next) = (path.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                let (code, answer) =
                    connection.exchange(&request("POST", &path, &config_map(&format!("c{n}")))).await?;
                if code != 201 {
                    bail!("create: {code}: {}", String::from_utf8_lossy(answer));
                }
            }
        });
    }
    for mut sender in ready2 {
        let (uri, next) = (format!("https://kubernetes{path}"), next.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                let request = hyper::Request::post(&uri)
                    .header("content-type", "application/json")
                    .header("accept", "application/json")
                    .body(Full::new(Bytes::from(config_map(&format!("c{n}")))))?;
                let response = sender.send_request(request).await?;
                let code = response.status();
                let answer = response.into_body().collect().await?.to_bytes();
                if code != 201 {
                    bail!("create: {code}: {}", String::from_utf8_lossy(&answer));
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

async fn gets(daemon: &Daemon) -> Result<Vec<Row>> {
    let admin = &daemon.admin;
    namespace(admin, "gets").await?;
    let mut connection = admin.http1().await?;
    connection.must("POST", "/api/v1/namespaces/gets/configmaps", &config_map("one")).await?;
    let request = request("GET", "/api/v1/namespaces/gets/configmaps/one", b"");
    let (mut p50, mut p99, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut times = Vec::with_capacity(GETS);
        let before = daemon::usage(daemon.pid())?.cpu_ns;
        for _ in 0..GETS {
            let start = Instant::now();
            let (code, _) = connection.exchange(&request).await?;
            times.push(ms(start.elapsed()));
            if code != 200 {
                bail!("get: {code}");
            }
        }
        cpu.push((daemon::usage(daemon.pid())?.cpu_ns - before) as f64 / 1e3 / GETS as f64);
        p50.push(percentile(&mut times, 0.5)?);
        p99.push(percentile(&mut times, 0.99)?);
    }
    Ok(vec![Row::new("get_p50", p50, "ms"), Row::new("get_p99", p99, "ms"), Row::new("get_server_cpu", cpu, "µs")])
}

fn pod(name: &str) -> Vec<u8> {
    let make = |padding: &str| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "bench", "tier": "front"}, "annotations": {"padding": padding}},
            // Nobody's scheduler: the pods are there to be listed.
            "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "busybox",
                "env": [{"name": "A", "value": "1"}], "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}
        })
        .to_string()
    };
    // What defaulting and the server add to the object.
    const ADDED_BYTES: usize = 1_000;
    let bare = make("").len();
    make(&"x".repeat(POD_BYTES.saturating_sub(bare + ADDED_BYTES))).into_bytes()
}

async fn lists(admin: &Admin) -> Result<Vec<Row>> {
    namespace(admin, "lists").await?;
    let mut connection = admin.http1().await?;
    let account = br#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    // Its controller may have been faster.
    connection.exchange(&request("POST", "/api/v1/namespaces/lists/serviceaccounts", account)).await?;
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for worker in 0..CONNECTIONS {
        let mut connection = admin.http1().await?;
        tasks.spawn(async move {
            for n in (worker..PODS).step_by(CONNECTIONS) {
                connection.must("POST", "/api/v1/namespaces/lists/pods", &pod(&format!("pod-{n}"))).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let mut rows = Vec::new();
    // In turns, so that what the machine does beside it falls on all of them.
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); FORMS.len()];
    let mut bytes = vec![0; FORMS.len()];
    for _ in 0..LISTS {
        for (form, (_, accept)) in FORMS.iter().enumerate() {
            let request = request_for(accept, "GET", "/api/v1/namespaces/lists/pods", b"");
            let start = Instant::now();
            let (code, answer) = connection.exchange(&request).await?;
            samples[form].push(ms(start.elapsed()));
            bytes[form] = answer.len();
            if code != 200 {
                bail!("list: {code}");
            }
        }
    }
    for ((name, _), (times, bytes)) in FORMS.iter().zip(samples.into_iter().zip(bytes)) {
        rows.push(Row::new(format!("list_5000_pods{name}"), times, "ms"));
        rows.push(Row::new(format!("list_5000_pods{name}_size"), vec![bytes as f64 / 1e6], "MB"));
    }
    Ok(rows)
}

/// What the data of [`config_map`] begin with, and how near to the start of an event.
const OURS: &[u8] = b"{\"k\":\"xxx";
const OURS_WITHIN: usize = 200;

/// When each watcher had the event. The watchers do not wake whoever waits for them one by one, which would cost as much as
/// what is measured: only the last does.
struct Arrivals {
    count: usize,
    times: Mutex<Vec<Result<Instant>>>,
    all: Notify,
}

impl Arrivals {
    fn say(&self, at: Result<Instant>) {
        let failed = at.is_err();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.push(at);
        if failed || times.len() == self.count {
            self.all.notify_one();
        }
    }

    /// Waits for all of them.
    async fn take(&self) -> Result<Vec<Instant>> {
        tokio::time::timeout(ARRIVALS, self.all.notified()).await.context("an event did not reach all watchers")?;
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.drain(..).collect()
    }
}

/// An event that takes so long is lost.
const ARRIVALS: Duration = Duration::from_secs(10);

/// Waits for events of ours and says when they came, until one fails.
async fn look(mut connection: Http1, arrivals: Arc<Arrivals>) {
    loop {
        let event = connection.event().await;
        let at = Instant::now();
        // The namespace's own ConfigMap is nobody's measurement; it may come in one piece with the first that is ours.
        let ours = |line: &[u8]| line.windows(OURS.len()).take(OURS_WITHIN).any(|w| w == OURS);
        if event.as_ref().is_ok_and(|e| !e.split(|b| *b == b'\n').any(ours)) {
            continue;
        }
        let failed = event.is_err();
        arrivals.say(event.map(|_| at));
        if failed {
            return;
        }
    }
}

/// From just before a create is sent to the moment when each watcher, on a connection of its own, has the event.
async fn watches(daemon: &Daemon, count: usize, changes: usize) -> Result<Vec<Row>> {
    let admin = &daemon.admin;
    let name = format!("watch-{count}");
    namespace(admin, &name).await?;
    let path = format!("/api/v1/namespaces/{name}/configmaps");
    let arrivals = Arc::new(Arrivals { count, times: Mutex::default(), all: Notify::new() });
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let mut connection = admin.http1().await?;
        connection.watch(&format!("{path}?watch=true")).await?;
        tasks.spawn(look(connection, arrivals.clone()));
    }
    let mut connection = admin.http1().await?;
    let (mut creates, mut fan_out, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut server, mut client) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut times = Vec::with_capacity(count * changes);
        let cpu = |pid| Ok::<_, anyhow::Error>(daemon::usage(pid)?.cpu_ns as f64 / 1e3);
        let before = (cpu(daemon.pid())?, cpu(std::process::id())?);
        for n in 0..changes {
            let request = request("POST", &path, &config_map(&format!("c{round}-{n}")));
            let start = Instant::now();
            let (code, _) = connection.exchange(&request).await?;
            creates.push(ms(start.elapsed()));
            if code != 201 {
                bail!("create: {code}");
            }
            let arrived = arrivals.take().await?;
            let (first, last) = (arrived.iter().min().context("nobody")?, arrived.iter().max().context("nobody")?);
            fan_out.push(ms(*last - *first));
            times.extend(arrived.into_iter().map(|at| ms(at - start)));
        }
        let events = (count * changes) as f64;
        server.push((cpu(daemon.pid())? - before.0) / events);
        client.push((cpu(std::process::id())? - before.1) / events);
        p50.push(percentile(&mut times, 0.5)?);
        p99.push(percentile(&mut times, 0.99)?);
    }
    tasks.shutdown().await;
    Ok(vec![
        Row::new(format!("watch_{count}_p50"), p50, "ms"),
        Row::new(format!("watch_{count}_p99"), p99, "ms"),
        Row::new(format!("watch_{count}_create"), creates, "ms"),
        // From the first watcher that has it to the last: no disk in it.
        Row::new(format!("watch_{count}_fan_out"), fan_out, "ms"),
        Row::new(format!("watch_{count}_server_cpu"), server, "µs"),
        Row::new(format!("watch_{count}_client_cpu"), client, "µs"),
    ])
}
