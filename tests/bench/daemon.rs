//! The server under measurement, on the test host that this process is already in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::wire::Admin;

const BINARY: &str = "/run/shared/kedge";
const KUBECONFIG: &str = "/etc/kedge/kedge.yaml";
/// A server that is not ready by then never is.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks whether the API answers. There is no event to wait for; shorter only takes a core from the server.
const LOOK: Duration = Duration::from_micros(500);

pub struct Daemon {
    child: Child,
    pub admin: Admin,
    /// From exec to the first good answer of `/readyz`.
    pub api_ready: Duration,
    started: Instant,
}

impl Daemon {
    /// Starts with an empty disk (but for the air-gap folder of images), and waits for the API.
    pub async fn start(cgroup: &str, flags: &[&str]) -> Result<Self> {
        for folder in ["/var/lib/kedge/server", "/etc/kedge", "/run/kedge"] {
            let _ = fs::remove_dir_all(folder);
        }
        for entry in fs::read_dir("/var/lib/kedge/agent").into_iter().flatten().flatten() {
            if entry.file_name() != "images" {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let log = fs::File::create("/run/shared/daemon.log")?;
        let started = Instant::now();
        let mut child = Command::new(BINARY)
            .args(["server", "--cgroup-root", cgroup])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context(BINARY)?;
        loop {
            if let Ok(admin) = Admin::read(Path::new(KUBECONFIG))
                && let Ok(mut connection) = admin.http1().await
                && connection.must("GET", "/readyz", b"").await.is_ok()
            {
                return Ok(Self { child, admin, api_ready: started.elapsed(), started });
            }
            if let Some(status) = child.try_wait()? {
                bail!("kedge server ended: {status}: {}", log_text());
            }
            if started.elapsed() > DEADLINE {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the API is not ready after {} s: {}", DEADLINE.as_secs(), log_text());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the node is Ready; how long after exec that was.
    pub async fn node_ready(&self) -> Result<Duration> {
        let wait = async {
            let mut connection = self.admin.http1().await?;
            connection.watch("/api/v1/nodes?watch=true").await?;
            loop {
                for line in connection.event().await?.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                    let event: Value = serde_json::from_slice(line)?;
                    let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
                    if conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
                        return Ok::<_, anyhow::Error>(self.started.elapsed());
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.context("no node is Ready")?
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> Result<()> {
        self.signal("TERM");
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn log_text() -> String {
    fs::read_to_string("/run/shared/daemon.log").unwrap_or_default()
}

/// What the kernel says of a process.
pub struct Usage {
    /// Nanoseconds on a core, all threads.
    pub cpu_ns: u64,
    /// Times that a thread waited for something and was woken.
    pub wakeups: u64,
    /// Bytes that it caused to be written to a disk.
    pub written: u64,
}

pub fn usage(pid: u32) -> Result<Usage> {
    let (mut cpu_ns, mut wakeups) = (0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        wakeups += number(&task.join("status"), "voluntary_ctxt_switches:")?;
        let text = fs::read_to_string(task.join("schedstat"))?;
        cpu_ns += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).context("schedstat")?;
    }
    Ok(Usage { cpu_ns, wakeups, written: number(&PathBuf::from(format!("/proc/{pid}/io")), "write_bytes:")? })
}

/// KiB of a field of `/proc/PID/status` or `smaps_rollup`.
pub fn memory_kib(pid: u32, file: &str, field: &str) -> Result<u64> {
    number(&PathBuf::from(format!("/proc/{pid}/{file}")), field)
}

fn number(path: &Path, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    let line = line.with_context(|| format!("{} has no {field}", path.display()))?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}
