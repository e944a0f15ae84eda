//! Starting, and doing nothing.

use std::time::Duration;

use anyhow::Result;

use crate::daemon::{self, Daemon};
use crate::report::{Row, ms};

const STARTS: usize = 11;
/// After this the start's own work is over.
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

/// Empty disk to API ready and, with an agent, to node Ready.
pub async fn start(cgroup: &str) -> Result<Vec<Row>> {
    let (mut api, mut node) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let daemon = Daemon::start(cgroup, &["--disable-agent"]).await?;
        api.push(ms(daemon.api_ready));
        daemon.stop()?;
    }
    let mut rows = vec![Row::new("start_api_ready", api, "ms")];
    let mut api = Vec::new();
    for _ in 0..STARTS {
        let daemon = Daemon::start(cgroup, &[]).await?;
        api.push(ms(daemon.api_ready));
        match daemon.node_ready().await {
            Ok(time) => node.push(ms(time)),
            Err(error) => {
                eprintln!("start_node_ready: unmeasured: {error:#}");
                return Ok(rows);
            }
        }
        daemon.stop()?;
    }
    rows.push(Row::new("start_with_node_api_ready", api, "ms"));
    rows.push(Row::new("start_node_ready", node, "ms"));
    Ok(rows)
}

/// A server without pods: memory, processor time, bytes written. `name` is `api_only` or `with_node`.
pub async fn idle(cgroup: &str, name: &str) -> Result<Vec<Row>> {
    let flags: &[&str] = if name == "api_only" { &["--disable-agent"] } else { &[] };
    let daemon = Daemon::start(cgroup, flags).await?;
    if flags.is_empty() {
        daemon.node_ready().await?;
    }
    tokio::time::sleep(SETTLE).await;
    let before = daemon::usage(daemon.pid())?;
    tokio::time::sleep(IDLE).await;
    let after = daemon::usage(daemon.pid())?;
    let memory = |file: &str, field: &str| -> Result<f64> {
        Ok(daemon::memory_kib(daemon.pid(), file, field)? as f64 * 1024.0 / 1e6)
    };
    let cpu = (after.cpu_ns - before.cpu_ns) as f64 / IDLE.as_nanos() as f64 * 100.0;
    let written = (after.written - before.written) as f64;
    let rows = vec![
        Row::new(format!("idle_{name}_resident"), vec![memory("status", "VmRSS:")?], "MB"),
        Row::new(format!("idle_{name}_anonymous"), vec![memory("status", "RssAnon:")?], "MB"),
        Row::new(format!("idle_{name}_cpu"), vec![cpu], "%"),
        Row::new(format!("idle_{name}_written_in_60_s"), vec![written], "B"),
    ];
    daemon.stop()?;
    Ok(rows)
}
