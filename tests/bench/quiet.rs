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

/// A server without pods: memory, processor time, bytes written.
pub async fn idle(cgroup: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, flags) in [("api_only", &["--disable-agent"][..]), ("with_node", &[])] {
        let daemon = Daemon::start(cgroup, flags).await?;
        if flags.is_empty()
            && let Err(error) = daemon.node_ready().await
        {
            eprintln!("idle_{name}: unmeasured: {error:#}");
            break;
        }
        tokio::time::sleep(SETTLE).await;
        let before = daemon::usage(daemon.pid())?;
        tokio::time::sleep(IDLE).await;
        let after = daemon::usage(daemon.pid())?;
        let memory = |file: &str, field: &str| -> Result<f64> {
            Ok(daemon::memory_kib(daemon.pid(), file, field)? as f64 * 1024.0 / 1e6)
        };
        rows.push(Row::new(format!("idle_{name}_resident"), vec![memory("status", "VmRSS:")?], "MB"));
        rows.push(Row::new(format!("idle_{name}_anonymous"), vec![memory("status", "RssAnon:")?], "MB"));
        let cpu = (after.cpu_ns - before.cpu_ns) as f64 / IDLE.as_nanos() as f64 * 100.0;
        rows.push(Row::new(format!("idle_{name}_cpu"), vec![cpu], "%"));
        let written = (after.written - before.written) as f64;
        rows.push(Row::new(format!("idle_{name}_written_in_60_s"), vec![written], "B"));
        daemon.stop()?;
    }
    Ok(rows)
}
