//! What a container start costs with Debian's runc and crun, on the same host and in the same run: create and start of a
//! process that stays, in namespaces and a cgroup of its own, on a root filesystem of one directory. No image, no overlay, no
//! network, no API.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::report::{Row, ms};

const FOLDER: &str = "/run/shared/peers";

struct Peer {
    name: &'static str,
    bundle: PathBuf,
    times: Vec<f64>,
}

/// Those of the two that are here and can start a container.
pub struct Peers(Vec<Peer>);

impl Peers {
    /// `cgroup` is the host's own subtree.
    pub fn prepare(cgroup: &str) -> Result<Self> {
        let rootfs = Path::new(FOLDER).join("rootfs");
        for name in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        fs::copy("/bin/busybox", rootfs.join("bin/sleep")).context("a static busybox")?;
        let mut peers = Vec::new();
        for name in ["runc", "crun"] {
            let bundle = Path::new(FOLDER).join(name);
            fs::create_dir_all(&bundle)?;
            if !Command::new(name).arg("spec").current_dir(&bundle).status().is_ok_and(|s| s.success()) {
                eprintln!("{name}: not here");
                continue;
            }
            let path = bundle.join("config.json");
            let mut spec: Value = serde_json::from_slice(&fs::read(&path)?)?;
            spec["root"] = json!({"path": rootfs});
            spec["process"]["terminal"] = false.into();
            spec["process"]["args"] = json!(["/bin/sleep", "1000000"]);
            spec["linux"]["cgroupsPath"] = format!("{cgroup}/{name}").into();
            fs::write(&path, spec.to_string())?;
            let peer = Peer { name, bundle, times: Vec::new() };
            match peer.start("try") {
                Ok(_) => peers.push(peer),
                Err(error) => eprintln!("{error:#}"),
            }
        }
        Ok(Self(peers))
    }

    /// Starts one container of each.
    pub fn round(&mut self, number: usize) -> Result<()> {
        for peer in &mut self.0 {
            let time = peer.start(&format!("bench-{number}"))?;
            peer.times.push(time);
        }
        Ok(())
    }

    pub fn rows(self) -> Vec<Row> {
        let measured = self.0.into_iter().filter(|peer| !peer.times.is_empty());
        measured.map(|peer| Row::new(format!("{}_run_detached", peer.name), peer.times, "ms")).collect()
    }
}

impl Peer {
    /// Milliseconds until `run --detach` returned. The container is gone afterwards.
    fn start(&self, id: &str) -> Result<f64> {
        let name = self.name;
        // crun refuses hybrid hosts: it gets a mount namespace where the unified mount is hidden, which is 2 ms of its time.
        let mut command = if name == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", "umount /sys/fs/cgroup/unified; exec crun run --detach \"$0\"", id]);
            command
        } else {
            let mut command = Command::new(name);
            command.args(["run", "--detach", id]);
            command
        };
        let errors = self.bundle.join("errors");
        // Not a pipe: the container keeps it open, and its end would be waited for.
        command.current_dir(&self.bundle).stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&errors)?);
        let start = Instant::now();
        let status = command.status()?;
        let time = ms(start.elapsed());
        ensure!(status.success(), "{name} run: {}", fs::read_to_string(&errors)?.trim());
        let status = Command::new(name).args(["delete", "--force", id]).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "{name} delete: {status}");
        Ok(time)
    }
}
