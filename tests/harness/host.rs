//! One test host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::{Switch, sh, unique, wait};

/// The first process of a host: reaps what is orphaned, ends when its standard input closes.
const INIT: &str = "while read -r line; do :; done";

/// Builds the host's root and enters it. `$1`: the host's folder. The data folder is a plain directory, because an
/// overlay (a pod's root) cannot have its upper layer on another overlay.
const ENTER: &str = r#"
set -e
d=$1
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$d/upper,workdir=$d/work" "$d/root"
cd "$d/root"
mkdir -p old var/lib/kedge
for m in sys dev; do mount --rbind /$m $m; done
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/netns
mount --bind "$d/data" var/lib/kedge
mkdir -p run/shared
mount --rbind "$d/shared" run/shared
pivot_root . old
umount -l old
ip link set lo up
exec bash -c "$2"
"#;

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn ok(&self) -> bool {
        self.code == 0
    }
}

pub struct Host {
    pub name: String,
    folder: PathBuf,
    init: Child,
    /// The host's first process as this machine numbers it.
    pid: u32,
    port: String,
    switch: Arc<Switch>,
    cgroup: String,
}

impl Host {
    /// Boots a host with address `address/24` (and `fd99::<last>/64`) on the switch.
    pub fn boot(name: &str, switch: &Arc<Switch>, address: [u8; 4]) -> Result<Self> {
        let id = unique("kt");
        let folder = PathBuf::from("/var/tmp/kedge-tests").join(&id);
        for sub in ["upper", "work", "root", "data", "shared"] {
            fs::create_dir_all(folder.join(sub))?;
        }
        let script = folder.join("enter.sh");
        fs::write(&script, ENTER)?;
        let mut init = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "sh"])
            .arg(&script)
            .arg(&folder)
            .arg(INIT)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("init.log"))?)
            .spawn()
            .context("unshare")?;
        let outer = init.id();
        let booted = wait::until(&format!("host {name} to boot"), wait::BOOT, || {
            if let Ok(Some(status)) = init.try_wait() {
                bail!(
                    "host {name} ended: {status}: {}",
                    fs::read_to_string(folder.join("init.log")).unwrap_or_default()
                );
            }
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
            let Some(pid) = children.split_whitespace().next().and_then(|p| p.parse::<u32>().ok()) else {
                return Ok(None);
            };
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Ok((comm.trim() == "bash").then_some(pid))
        });
        let pid = match booted {
            Ok(pid) => pid,
            Err(error) => {
                let _ = init.kill();
                let _ = init.wait();
                return Err(error);
            }
        };
        let port = format!("p{}", id.trim_start_matches("kt").replace('-', "x"));
        let host =
            Self { name: name.into(), cgroup: format!("/{id}"), folder, init, pid, port, switch: Arc::clone(switch) };
        host.switch.plug(&host.port, pid)?;
        let [a, b, c, last] = address;
        let v4 = format!("{a}.{b}.{c}.{last}/24");
        host.must(&format!(
            "hostname {name} && ip addr add {v4} dev eth0 && ip addr add fd99::{last:x}/64 dev eth0 nodad && ip link set eth0 up"
        ))?;
        Ok(host)
    }

    /// The cgroup under which everything of this host lives; to be given to the daemon.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A folder of this machine that the host sees as `/run/shared`.
    pub fn shared(&self) -> PathBuf {
        self.folder.join("shared")
    }

    /// The host's `/var/lib/kedge`, as this machine sees it.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A command that will run in the host; for long-running ones.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--root", "--wdns=/", "-t"])
            .arg(self.pid.to_string())
            .arg(program);
        command
    }

    /// Runs a shell line in the host to its end.
    pub fn run(&self, line: &str) -> Result<Output> {
        let output = self.command("sh").args(["-c", line]).stdin(Stdio::null()).output()?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// As [`Host::run`]; a failure is an error that says what was printed. Returns standard output.
    pub fn must(&self, line: &str) -> Result<String> {
        let output = self.run(line)?;
        if !output.ok() {
            bail!("on {}: `{line}` exited with {}: {}{}", self.name, output.code, output.stdout, output.stderr);
        }
        Ok(output.stdout)
    }

    pub fn unplug(&self) -> Result<()> {
        self.switch.cable(&self.port, false)
    }

    pub fn replug(&self) -> Result<()> {
        self.switch.cable(&self.port, true)
    }

    /// The `nsenter` line with which a person looks at this host while a test waits.
    pub fn enter_line(&self) -> String {
        format!("nsenter --net --mount --uts --ipc --pid --root --wdns=/ -t {} bash", self.pid)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The end of the first process ends every other in its process namespace.
        let _ = self.init.kill();
        let _ = self.init.wait();
        let _ = sh("kill", &["-KILL", &self.pid.to_string()]);
        let _ = wait::until("the host's processes to end", wait::BOOT, || {
            Ok((!Path::new(&format!("/proc/{}", self.pid)).exists()).then_some(()))
        });
        for root in cgroup_roots() {
            remove_cgroup(&root.join(self.cgroup.trim_start_matches('/')));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where cgroup hierarchies are mounted: one for v2, one a controller for v1.
fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_cgroup = |line: &str| {
        let mut columns = line.split_whitespace();
        let (_, path, kind) = (columns.next()?, columns.next()?, columns.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(path))
    };
    mounts.lines().filter_map(of_cgroup).collect()
}

/// Removes a cgroup and those below it; a cgroup with processes in it stays.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}
