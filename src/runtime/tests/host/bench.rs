//! A runtime of one test's own with what its containers are made of, and how a test waits for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime::{
    Config, ContainerId, ContainerSpec, ExecSpec, ExitStatus, LogPolicy, Namespace, NetworkNamespace, PodId, PodSpec,
    Resources, Rootfs, Runtime as _, Session, Shims,
};
use tokio::io::AsyncReadExt as _;

/// Nothing here takes longer unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A root filesystem of Debian's static busybox.
pub fn make_rootfs(root: &Path) {
    for dir in ["bin", "etc", "proc", "dev", "sys", "tmp", "root", "home/web"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "id", "sleep", "true", "false", "hostname", "stat", "ls", "mount", "umount", "kill", "dd",
        "head", "tty", "stty", "env", "pwd", "ps", "touch", "unshare", "grep", "df", "mknod", "sysctl", "yes",
        "chroot", "test",
    ] {
        std::os::unix::fs::symlink("/bin/busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n").unwrap();
    fs::write(root.join("bin/not-for-all"), "#!/bin/sh\nexit 9\n").unwrap();
    fs::write(root.join("bin/garbage"), "\x7fnothing").unwrap();
    for (name, mode) in [("not-for-all", 0o700), ("garbage", 0o755)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(root.join("bin").join(name), mode).unwrap();
    }
}

/// A runtime of one test's own, removed with everything in it.
pub struct Bench {
    pub shims: Shims,
    pub dir: tempfile::TempDir,
    pub root: String,
}

impl Bench {
    pub fn new() -> Bench {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = format!("/kedge-test-{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("kedge-test-").tempdir().unwrap();
        make_rootfs(&dir.path().join("rootfs"));
        let shims = Shims::open(Config::new(dir.path().join("run"), &root)).unwrap();
        Bench { shims, dir, root }
    }

    /// The runtime as a restarted daemon would have it.
    pub fn reopen(&self) -> Shims {
        Shims::open(Config::new(self.dir.path().join("run"), &self.root)).unwrap()
    }

    pub fn pod_spec(&self, id: &str) -> PodSpec {
        PodSpec {
            id: PodId(id.into()),
            hostname: format!("host-{id}"),
            domainname: String::new(),
            network: NetworkNamespace::Host,
            ipc: Namespace::Pod,
            uts: Namespace::Pod,
            pid: Namespace::Container,
            sysctls: BTreeMap::new(),
            cgroup: format!("kubepods/burstable/pod{id}"),
            resources: Resources::default(),
            shm_size_bytes: 64 << 20,
            labels: [("app".to_owned(), id.to_owned())].into(),
        }
    }

    pub async fn pod(&self, id: &str) -> PodId {
        self.shims.start_pod(self.pod_spec(id)).await.unwrap().id
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("logs/{id}/0.log"))
    }

    /// A container on an overlay of its own, with a log.
    pub fn container(&self, id: &str, args: &[&str]) -> ContainerSpec {
        let snapshot = self.dir.path().join("snapshots").join(id);
        let (upper, work) = (snapshot.join("upper"), snapshot.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let rootfs = Rootfs::Overlay { lower: vec![self.dir.path().join("rootfs")], upper, work };
        let mut spec = ContainerSpec::new(id, args.iter().map(|a| (*a).to_owned()).collect(), rootfs);
        spec.log = Some(LogPolicy { path: self.log_path(id), bytes_max: 10 << 20, files_max: 5 });
        spec
    }

    pub fn shell(&self, id: &str, script: &str) -> ContainerSpec {
        self.container(id, &["sh", "-c", script])
    }

    /// Runs to the end; status and the text of the log.
    pub async fn run(&self, pod: &PodId, spec: ContainerSpec) -> (ExitStatus, String) {
        let id = spec.id.clone();
        self.shims.start_container(pod, spec).await.unwrap();
        let status = within(self.shims.wait(pod, &id)).await.unwrap();
        (status, self.text(&id.0))
    }

    /// The log without its stamps; partial records are joined.
    pub fn text(&self, id: &str) -> String {
        text_of(&self.log_path(id))
    }

    /// Cgroups and the folder of one container that are there.
    pub fn leftovers_of(&self, pod: &PodId, container: &ContainerId) -> Vec<PathBuf> {
        let cgroup = format!("{}/kubepods/burstable/pod{pod}/{container}", self.root.trim_matches('/'));
        let cgroups = cgroup_mounts().into_iter().map(|mount| mount.join(&cgroup));
        let folder = self.dir.path().join(format!("run/pods/{pod}/c/{container}"));
        cgroups.chain([folder]).filter(|path| path.exists()).collect()
    }

    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let pods = self.dir.path().join("run/pods");
        found.extend(fs::read_dir(&pods).unwrap().map(|e| e.unwrap().path().display().to_string()));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(dir)).map(str::to_owned));
        for mount in cgroup_mounts() {
            for class in ["kubepods/burstable", "shims"] {
                let class = mount.join(self.root.trim_matches('/')).join(class);
                if let Ok(entries) = fs::read_dir(&class) {
                    let dirs = entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir());
                    found.extend(dirs.map(|p| p.display().to_string()));
                }
                // Processes that are dying are still listed for a moment, as shims that have answered are. They have closed
                // their sockets, and before that given up their memory with the program in it.
                if let Ok(procs) = fs::read_to_string(class.join("cgroup.procs")) {
                    let lives = |pid: &&str| fs::read_link(format!("/proc/{pid}/exe")).is_ok();
                    let living = procs.lines().filter(lives);
                    found.extend(living.map(|pid| format!("process {pid} in {}", class.display())));
                }
            }
        }
        found
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Also after a failed test: kill by cgroup, then remove what was made.
        for mount in cgroup_mounts() {
            let dir = mount.join(self.root.trim_matches('/'));
            for _ in 0..400 {
                let _ = runtime::cgroup::kill_tree(&dir);
                if runtime::cgroup::remove_tree(&dir).is_ok() {
                    break;
                }
                let _ = std::process::Command::new("/bin/sleep").arg("0.005").status();
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.path().to_str().unwrap_or("/nowhere").to_owned();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&dir)) {
            let _ = std::process::Command::new("umount").args(["-l", point]).status();
        }
    }
}

pub fn text_of(path: &Path) -> String {
    let mut text = String::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let mut parts = line.splitn(4, ' ');
        let (tag, rest) = (parts.nth(2).unwrap(), parts.next().unwrap());
        text.push_str(rest);
        if tag == "F" {
            text.push('\n');
        }
    }
    text
}

pub fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).collect()
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("takes too long")
}

pub async fn output(mut session: Session) -> (i32, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    if let Some(stream) = &mut session.stdout {
        within(stream.read_to_end(&mut out)).await.unwrap();
    }
    if let Some(stream) = &mut session.stderr {
        within(stream.read_to_end(&mut err)).await.unwrap();
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (within(session.exit).await.unwrap(), text(out), text(err))
}

pub fn exec(script: &str) -> ExecSpec {
    ExecSpec::new(vec!["sh".into(), "-c".into(), script.into()])
}

/// Reads until `wanted` appears.
pub async fn read_until(stream: &mut runtime::Reader, wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let mut buffer = [0; 1024];
        let count = within(stream.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "{wanted:?} did not appear in {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    seen
}

/// Waits until the container's log has `wanted`.
pub async fn logged(bench: &Bench, id: &str, wanted: &str) {
    within(async {
        while !bench.text(id).contains(wanted) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
