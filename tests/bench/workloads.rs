//! What controllers and scheduler take beyond the pods themselves: nodes are objects only, and this program answers for them at
//! once, so that what is measured is the control plane and the client's share of it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::namespace;
use crate::daemon::{self, Daemon};
use crate::report::{Row, ms, percentile};
use crate::wire::{Admin, Http1, merge, request};

const NODES: usize = 1_000;
/// Where few pods run: no node tells that it lives, and after forty seconds it counts as lost.
const FEW: usize = 10;
/// Pods of the one Deployment that is bound as a whole.
const PODS: usize = 10_000;
/// Pods of the Deployment that rolls.
const ROLLED: usize = 100;
const ROLLS: usize = 5;
const REPLACED: usize = 200;
/// Deployments that ask for nothing.
const QUIET: usize = 500;
const QUIET_FOR: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(60);
/// Connections over which the pretended nodes write.
const WRITERS: usize = 4;
const NAMESPACE: &str = "bench";

pub async fn run(cgroup: &str, what: &str) -> Result<Vec<Row>> {
    let daemon = Daemon::start(cgroup, &["--disable-agent"]).await?;
    namespace(&daemon.admin, NAMESPACE).await?;
    let rows = match what {
        "bound" => bound(&daemon).await?,
        "rolled" => rolled(&daemon.admin).await?,
        _ => quiet(&daemon).await?,
    };
    daemon.stop()?;
    Ok(rows)
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    generation: i64,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    replicas: Option<usize>,
    #[serde(default)]
    taints: Vec<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    replicas: Option<usize>,
    updated_replicas: Option<usize>,
    available_replicas: Option<usize>,
    observed_generation: Option<i64>,
}

/// Hands events over until `look` says that it has seen enough.
async fn until(events: &mut Http1, what: &str, mut look: impl FnMut(Event) -> bool) -> Result<()> {
    let wait = async {
        loop {
            for line in events.event().await?.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                if look(serde_json::from_slice(line)?) {
                    return Ok::<_, anyhow::Error>(());
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.with_context(|| format!("{what}: {}", daemon::log_text()))?
}

async fn watch(admin: &Admin, path: &str) -> Result<Http1> {
    let mut events = admin.http1().await?;
    events.watch(&format!("{path}?watch=true")).await?;
    Ok(events)
}

/// Nodes that are Ready, with room for 110 pods each; returns when none is tainted any more.
async fn nodes(admin: &Admin, count: usize) -> Result<()> {
    let mut connection = admin.http1().await?;
    let mut events = watch(admin, "/api/v1/nodes").await?;
    let room = json!({"cpu": "16", "memory": "64Gi", "pods": "110"});
    for n in 0..count {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("n{n}"), "labels": {"kubernetes.io/hostname": format!("n{n}"),
                "topology.kubernetes.io/zone": format!("z{}", n % 3)}},
            "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}
        });
        connection.must("POST", "/api/v1/nodes", node.to_string().as_bytes()).await?;
    }
    let mut open = HashSet::new();
    until(&mut events, "nodes without taints", |event| {
        if event.object.spec.taints.is_empty() {
            open.insert(event.object.metadata.name);
        }
        open.len() == count
    })
    .await
}

fn deployment(name: &str, replicas: usize, version: usize) -> Vec<u8> {
    let container = json!({"name": "c", "image": "kedge.test/none:1", "env": [{"name": "VERSION", "value": version.to_string()}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}], "containers": [container]}}}
    })
    .to_string()
    .into_bytes()
}

fn deployments() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
}

fn pods() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

/// From the create of one Deployment to the last of its pods bound, and what the process grows by for each.
async fn bound(daemon: &Daemon) -> Result<Vec<Row>> {
    nodes(&daemon.admin, NODES).await?;
    let anonymous = || daemon::memory_kib(daemon.pid(), "status", "RssAnon:");
    let mut events = watch(&daemon.admin, &pods()).await?;
    let mut connection = daemon.admin.http1().await?;
    let before = anonymous()?;
    let start = Instant::now();
    connection.must("POST", &deployments(), &deployment("many", PODS, 0)).await?;
    let mut names = HashSet::new();
    until(&mut events, "all pods bound", |event| {
        if event.object.spec.node_name.is_some() {
            names.insert(event.object.metadata.name);
        }
        names.len() == PODS
    })
    .await?;
    let took = start.elapsed().as_secs_f64();
    let grown = anonymous()?.saturating_sub(before) as f64;
    let stored = connection.must("GET", &pods(), b"").await?.len() as f64 / 1024.0;
    let each = |kib: f64| kib / PODS as f64;
    Ok(vec![
        Row::new(format!("deployment_of_{PODS}_bound"), vec![took], "s"),
        Row::new("memory_of_a_pod", vec![each(grown)], "KiB"),
        Row::new("memory_of_a_pod_beyond_its_bytes", vec![each((grown - stored).max(0.0))], "KiB"),
    ])
}

/// Answers for every node: what is bound is Running at once, what is to end is gone.
async fn pretend(admin: &Admin) -> Result<()> {
    let mut events = watch(admin, &pods()).await?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let (to, mut requests) = mpsc::unbounded_channel::<Vec<u8>>();
        let mut connection = admin.http1().await?;
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                // A pod that went meanwhile is no concern of a node.
                connection.exchange(&request).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
        writers.push(to);
    }
    tokio::spawn(async move {
        let mut turn = 0;
        loop {
            for line in events.event().await?.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let Event { r#type, object } = serde_json::from_slice(line)?;
                let path = format!("{}/{}", pods(), object.metadata.name);
                let request = match (object.spec.node_name, object.status.phase.as_deref()) {
                    _ if r#type == "DELETED" => continue,
                    _ if object.metadata.deletion_timestamp.is_some() => {
                        request("DELETE", &path, br#"{"gracePeriodSeconds":0}"#)
                    }
                    (Some(_), Some("Pending")) => {
                        let yes = |kind: &str| json!({"type": kind, "status": "True"});
                        let status = json!({"phase": "Running", "podIP": "10.42.0.1", "conditions": [yes("PodScheduled"),
                            yes("Initialized"), yes("ContainersReady"),
                            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
                        merge(&format!("{path}/status"), json!({"status": status}).to_string().as_bytes())
                    }
                    _ => continue,
                };
                writers[turn % WRITERS].send(request)?;
                turn += 1;
            }
        }
        #[expect(unreachable_code, reason = "names the error of the questions above")]
        Ok::<(), anyhow::Error>(())
    });
    Ok(())
}

/// A Deployment's template changes: how long until all of its pods are new, for each pod. Then its pods are deleted one by one:
/// how long until the replacement is there.
async fn rolled(admin: &Admin) -> Result<Vec<Row>> {
    nodes(admin, FEW).await?;
    pretend(admin).await?;
    let mut connection = admin.http1().await?;
    let path = format!("{}/rolled", deployments());
    let mut events = watch(admin, &deployments()).await?;
    let mut each = Vec::new();
    for version in 0..=ROLLS {
        let start = Instant::now();
        let answer = match version {
            0 => connection.must("POST", &deployments(), &deployment("rolled", ROLLED, version)).await?,
            _ => connection.must("PUT", &path, &deployment("rolled", ROLLED, version)).await?,
        };
        let generation = serde_json::from_slice::<Object>(answer)?.metadata.generation;
        until(&mut events, "the roll's end", |event| {
            let s = event.object.status;
            s.observed_generation >= Some(generation)
                && [s.replicas, s.updated_replicas, s.available_replicas] == [event.object.spec.replicas; 3]
        })
        .await?;
        // The first time nothing rolls.
        if version > 0 {
            each.push(ms(start.elapsed()) / ROLLED as f64);
        }
    }
    let mut events = watch(admin, &pods()).await?;
    let mut names: HashSet<String> = HashSet::new();
    until(&mut events, "the pods", |event| {
        names.insert(event.object.metadata.name);
        names.len() == ROLLED
    })
    .await?;
    let mut times = Vec::new();
    for _ in 0..REPLACED {
        let victim = names.iter().next().context("a pod")?.clone();
        let start = Instant::now();
        connection.must("DELETE", &format!("{}/{victim}", pods()), br#"{"gracePeriodSeconds":0}"#).await?;
        let mut replacement = String::new();
        until(&mut events, "a replacement", |event| {
            let new = event.r#type == "ADDED" && !names.contains(&event.object.metadata.name);
            if new {
                replacement = event.object.metadata.name;
            }
            new
        })
        .await?;
        times.push(ms(start.elapsed()));
        names.remove(&victim);
        names.insert(replacement.clone());
        // At idle: not while the last replacement still starts.
        until(&mut events, "it runs", |event| {
            event.object.metadata.name == replacement && event.object.status.phase.as_deref() == Some("Running")
        })
        .await?;
    }
    Ok(vec![
        Row::new(format!("roll_of_{ROLLED}_for_each_pod"), each, "ms"),
        Row::new("replacement_p50", vec![percentile(&mut times, 0.5)?], "ms"),
        Row::new("replacement_p99", vec![percentile(&mut times, 0.99)?], "ms"),
    ])
}

/// What a server does in a minute with objects that ask for nothing, against one without any.
async fn quiet(daemon: &Daemon) -> Result<Vec<Row>> {
    let mut connection = daemon.admin.http1().await?;
    for n in 0..QUIET {
        connection.must("POST", &deployments(), &deployment(&format!("quiet{n}"), 0, 0)).await?;
    }
    let mut events = watch(&daemon.admin, &deployments()).await?;
    let mut seen = HashSet::new();
    until(&mut events, "all seen to", |event| {
        if event.object.status.observed_generation.is_some() {
            seen.insert(event.object.metadata.name);
        }
        seen.len() == QUIET
    })
    .await?;
    drop((events, connection));
    // As long as an idle server is left alone before it is looked at.
    tokio::time::sleep(crate::quiet::SETTLE + crate::quiet::GIVEN_BACK).await;
    let before = daemon::usage(daemon.pid())?;
    tokio::time::sleep(QUIET_FOR).await;
    let after = daemon::usage(daemon.pid())?;
    Ok(vec![
        Row::new(
            format!("idle_{QUIET}_deployments_wakeups_in_60_s"),
            vec![(after.wakeups - before.wakeups) as f64],
            "1",
        ),
        Row::new(
            format!("idle_{QUIET}_deployments_written_in_60_s"),
            vec![(after.written - before.written) as f64],
            "B",
        ),
    ])
}
