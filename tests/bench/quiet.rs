//! Starting, and doing nothing.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::daemon::{self, Daemon};
use crate::report::{Row, ms, percentile};

const STARTS: usize = 11;
/// After this the start's own work is over, and what only it needed is not given back yet.
pub const SETTLE: Duration = Duration::from_secs(10);
/// After as long again it is given back: `AFTER` in src/daemon/settled.rs.
pub const GIVEN_BACK: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// The first requests after idleness, for whom pages of the program are mapped again.
const FIRST_GETS: usize = 100;

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
    let memory = |file: &str, field: &str| -> Result<f64> {
        Ok(daemon::memory_kib(daemon.pid(), file, field)? as f64 * 1024.0 / 1e6)
    };
    tokio::time::sleep(SETTLE).await;
    let started = [memory("status", "VmRSS:")?, memory("status", "RssAnon:")?];
    tokio::time::sleep(GIVEN_BACK).await;
    let before = daemon::usage(daemon.pid())?;
    tokio::time::sleep(IDLE).await;
    let after = daemon::usage(daemon.pid())?;
    let cpu = (after.cpu_ns - before.cpu_ns) as f64 / IDLE.as_nanos() as f64 * 100.0;
    let wakeups = (after.wakeups - before.wakeups) as f64;
    let written = (after.written - before.written) as f64;
    let settled = [memory("status", "VmRSS:")?, memory("status", "RssAnon:")?];
    let mut connection = daemon.admin.http1().await?;
    let mut gets = Vec::with_capacity(FIRST_GETS);
    for _ in 0..FIRST_GETS {
        let start = Instant::now();
        connection.must("GET", "/api/v1/namespaces/default", b"").await?;
        gets.push(ms(start.elapsed()));
    }
    let first = gets[0];
    let rows = vec![
        Row::new(format!("idle_{name}_resident_at_first"), vec![started[0]], "MB"),
        Row::new(format!("idle_{name}_anonymous_at_first"), vec![started[1]], "MB"),
        Row::new(format!("idle_{name}_resident"), vec![settled[0]], "MB"),
        Row::new(format!("idle_{name}_anonymous"), vec![settled[1]], "MB"),
        Row::new(format!("idle_{name}_cpu"), vec![cpu], "%"),
        Row::new(format!("idle_{name}_wakeups_in_60_s"), vec![wakeups], "1"),
        Row::new(format!("idle_{name}_written_in_60_s"), vec![written], "B"),
        Row::new(format!("idle_{name}_first_get"), vec![first], "ms"),
        Row::new(format!("idle_{name}_first_{FIRST_GETS}_gets_p50"), vec![percentile(&mut gets, 0.5)?], "ms"),
        Row::new(format!("idle_{name}_first_{FIRST_GETS}_gets_p99"), vec![percentile(&mut gets, 0.99)?], "ms"),
    ];
    daemon.stop()?;
    Ok(rows)
}
