//! From `create` to Running, with the image on the node; between two pods, the same with runc and crun.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::daemon::{self, Daemon};
use crate::peers::Peers;
use crate::report::{Row, ms};
use crate::wire::{Admin, Http1, request};

/// What `cargo xtask images busybox` makes; the outer half has put the archive into the air-gap folder.
const IMAGE: &str = "kedge.test/busybox:1";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ONE_BY_ONE: usize = 21;
const AT_ONCE: usize = 20;
const ROUNDS: usize = 5;
const DEADLINE: Duration = Duration::from_secs(60);

fn pod(name: &str) -> Vec<u8> {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000000"]}]}})
    .to_string()
    .into_bytes()
}

/// Events of all pods of the namespace.
struct Watch(Http1);

impl Watch {
    async fn open(admin: &Admin) -> Result<Self> {
        let mut connection = admin.http1().await?;
        connection.watch(&format!("{PODS}?watch=true")).await?;
        Ok(Self(connection))
    }

    /// Waits until `count` pods have done it.
    async fn until(&mut self, count: usize, what: &str, done: impl Fn(&Value) -> bool) -> Result<()> {
        let mut names = HashSet::new();
        let wait = async {
            while names.len() < count {
                for line in self.0.event().await?.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                    let event: Value = serde_json::from_slice(line)?;
                    if done(&event) {
                        names.insert(event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned());
                    }
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::time::timeout(DEADLINE, wait)
            .await
            .with_context(|| format!("{count} pods {what}: {}", daemon::log_text()))?
    }

    async fn running(&mut self, count: usize) -> Result<()> {
        self.until(count, "Running", |e| e["type"] != "DELETED" && e["object"]["status"]["phase"] == "Running").await
    }

    async fn gone(&mut self, count: usize) -> Result<()> {
        self.until(count, "gone", |e| e["type"] == "DELETED").await
    }
}

async fn create(connection: &mut Http1, name: &str) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (code, answer) = connection.exchange(&request("POST", PODS, &pod(name))).await?;
        match code {
            201 => return Ok(()),
            // The namespace's ServiceAccount is made by a controller, a moment after the start.
            403 if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => bail!("create: {code}: {}", String::from_utf8_lossy(answer)),
        }
    }
}

pub async fn run(cgroup: &str) -> Result<Vec<Row>> {
    let daemon = Daemon::start(cgroup, &[]).await?;
    daemon.node_ready().await?;
    let mut connection = daemon.admin.http1().await?;
    let mut watch = Watch::open(&daemon.admin).await?;
    // The first start unpacks the image.
    create(&mut connection, "first").await?;
    watch.running(1).await?;

    let (mut times, mut peers) = (Vec::new(), Peers::prepare(cgroup)?);
    for n in 0..ONE_BY_ONE {
        let name = format!("one-{n}");
        let mut watch = Watch::open(&daemon.admin).await?;
        // What the namespace holds already comes first.
        watch.running(1).await?;
        let start = Instant::now();
        create(&mut connection, &name).await?;
        watch
            .until(1, "Running", |e| {
                e["object"]["metadata"]["name"] == *name && e["object"]["status"]["phase"] == "Running"
            })
            .await?;
        times.push(ms(start.elapsed()));
        connection.must("DELETE", &format!("{PODS}/{name}"), b"").await?;
        watch.gone(1).await?;
        peers.round(n)?;
    }
    let mut rows = vec![Row::new("pod_running", times, "ms")];
    rows.extend(peers.rows());

    let (mut together, mut private) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..AT_ONCE).map(|n| format!("many-{round}-{n}")).collect();
        let mut watch = Watch::open(&daemon.admin).await?;
        watch.running(1).await?;
        let start = Instant::now();
        for name in &names {
            create(&mut connection, name).await?;
        }
        let prefix = format!("many-{round}-");
        watch
            .until(AT_ONCE, "Running", |e| {
                let name = e["object"]["metadata"]["name"].as_str().unwrap_or_default();
                name.starts_with(&prefix) && e["object"]["status"]["phase"] == "Running"
            })
            .await?;
        together.push(ms(start.elapsed()));
        private.extend(shims()?);
        for name in &names {
            connection.must("DELETE", &format!("{PODS}/{name}"), b"").await?;
        }
        watch.gone(AT_ONCE).await?;
    }
    rows.push(Row::new(format!("pods_running_{AT_ONCE}_at_once"), together, "ms"));
    if !private.is_empty() {
        rows.push(Row::new("shim_private_memory", private, "KiB"));
    }
    let resident = daemon::memory_kib(daemon.pid(), "status", "VmRSS:")? as f64 * 1024.0 / 1e6;
    rows.push(Row::new("resident_after_pods", vec![resident], "MB"));
    connection.must("DELETE", &format!("{PODS}/first"), b"").await?;
    watch.until(1, "gone", |e| e["type"] == "DELETED" && e["object"]["metadata"]["name"] == "first").await?;
    daemon.stop()?;
    Ok(rows)
}

/// Private memory of each shim of this host in KiB: what a pod costs beside its own processes.
fn shims() -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.split(|b| *b == 0).nth(1) != Some(b"shim") {
            continue;
        }
        let private = |field| daemon::memory_kib(pid, "smaps_rollup", field);
        // One that ends while it is looked at is left out.
        if let (Ok(clean), Ok(dirty)) = (private("Private_Clean:"), private("Private_Dirty:")) {
            found.push((clean + dirty) as f64);
        }
    }
    Ok(found)
}
