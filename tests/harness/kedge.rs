//! A Kedge server on a test host, and clients that speak to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};

use crate::{Host, Output, wait};

/// The binary under test: `KEDGE_BIN`, else the debug build of this checkout.
pub fn binary() -> PathBuf {
    match std::env::var_os("KEDGE_BIN") {
        Some(path) => path.into(),
        None => checkout().join("target/debug/kedge"),
    }
}

/// The checkout that these tests belong to.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout").to_owned()
}

/// Lays images of `cargo xtask images` into the host's air-gap folder.
pub fn add_images(host: &Host, names: &[&str]) -> Result<()> {
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let folder = host.data().join("agent/images");
    fs::create_dir_all(&folder)?;
    for name in names {
        let file = format!("{name}-{arch}.tar");
        let from = checkout().join("images/out").join(&file);
        fs::copy(&from, folder.join(&file)).with_context(|| format!("{} (cargo xtask images)", from.display()))?;
    }
    Ok(())
}

/// A daemon on a host. Dropping it leaves the host as it is: pods belong to their shims.
pub struct Server<'h> {
    pub host: &'h Host,
    flags: Vec<String>,
    daemon: Child,
}

impl<'h> Server<'h> {
    /// Starts `kedge server` with `flags` and waits until the API is ready (and the node, unless `--disable-agent`).
    pub fn start(host: &'h Host, flags: &[&str]) -> Result<Self> {
        fs::copy(binary(), host.shared().join("kedge")).context("the kedge binary (cargo build)")?;
        host.must("mkdir -p /usr/local/bin && ln -sf /run/shared/kedge /usr/local/bin/kedge")?;
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let daemon = spawn(host, &flags)?;
        let mut server = Self { host, flags, daemon };
        server.wait_ready()?;
        Ok(server)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let with_node = !self.flags.iter().any(|f| f == "--disable-agent");
        wait::until("the server to be ready", wait::CLUSTER, || {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("the daemon ended: {status}\n{}", self.log());
            }
            let ready = match with_node {
                true => {
                    let path = "{.items[*].status.conditions[?(@.type=='Ready')].status}";
                    self.kubectl(&format!("get nodes -o \"jsonpath={path}\""))?
                }
                false => self.kubectl("get --raw /readyz")?,
            };
            let done = if with_node { ready.stdout.trim() == "True" } else { ready.ok() };
            Ok(done.then_some(()))
        })
        .with_context(|| format!("log of the daemon:\n{}", self.log()))
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.host.shared().join("daemon.log")).unwrap_or_default()
    }

    /// Stock kubectl (`KUBECTL`, else the one on the path) on the server's host, with the administrator's kubeconfig.
    pub fn kubectl(&self, line: &str) -> Result<Output> {
        let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
        self.host.run(&format!("KUBECONFIG=/etc/kedge/kedge.yaml {kubectl} {line}"))
    }

    /// As [`Server::kubectl`]; a failure is an error. Returns standard output.
    pub fn must(&self, line: &str) -> Result<String> {
        let output = self.kubectl(line)?;
        if !output.ok() {
            bail!("kubectl {line}: exit {}: {}{}\n{}", output.code, output.stdout, output.stderr, tail(&self.log()));
        }
        Ok(output.stdout)
    }

    /// The daemon's process as this machine numbers it: nsenter's only child.
    fn pid(&self) -> Result<u32> {
        let outer = self.daemon.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        children.split_whitespace().next().and_then(|p| p.parse().ok()).context("the daemon is not running")
    }

    /// Ends the daemon as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        crate::sh("kill", &["-KILL", &self.pid()?.to_string()])?;
        self.daemon.wait()?;
        Ok(())
    }

    /// Starts the daemon again with the same flags and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon = spawn(self.host, &self.flags)?;
        self.wait_ready()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon on {}\n{}", self.host.name, tail(&self.log()));
        }
    }
}

fn spawn(host: &Host, flags: &[String]) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(host.shared().join("daemon.log"))?;
    host.command("/usr/local/bin/kedge")
        .args(["server", "--cgroup-root", host.cgroup()])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("kedge server")
}

fn tail(log: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
