//! The runtime on this host, for real: shims, containers, cgroups. Needs root. Everything made here has names of its own,
//! below `/kedge-test-<pid>` and a temporary directory, and is removed whatever happens.

#![expect(clippy::unwrap_used, reason = "a test binary: a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime::{
    AttachSpec, Config, ContainerId, ContainerSpec, ContainerState, Event, ExecSpec, ExitStatus, LogPolicy, Mount,
    Namespace, NetworkNamespace, PodId, PodSpec, PodState, Resources, Rootfs, Runtime, Seccomp, Session, Shims,
    TerminalSize, User,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// This test is its own shim: `/proc/self/exe shim <dir>` must become one before the test harness exists.
#[used]
// JUSTIFICATION: nothing else runs before `main` of the test harness, which starts threads.
// SAFETY: the C library calls functions in this section with the process's arguments before `main`.
#[unsafe(link_section = ".init_array")]
static BECOME_SHIM: extern "C" fn() = {
    extern "C" fn become_shim() {
        let args: Vec<String> = std::env::args().collect();
        if args.get(1).is_some_and(|verb| verb == "shim") {
            runtime::shim::main(&args[2..]);
        }
        if args.get(1).is_some_and(|verb| verb == "probe-seccomp") {
            probe_seccomp();
        }
    }
    become_shim
};

/// Puts the default filter on this process and prints what some system calls with arguments answer.
fn probe_seccomp() -> ! {
    let profile = runtime::seccomp::profile(&Seccomp::RuntimeDefault, &[]).unwrap().unwrap();
    let filter = runtime::seccomp::compile(&profile).unwrap();
    // JUSTIFICATION: nix's prctl feature is not enabled for one call.
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    runtime::seccomp::load(&filter).unwrap();
    let call = |name: &str, number: i64, first: i64| {
        // JUSTIFICATION: no library makes these calls with these arguments.
        // SAFETY: each takes integers only; a child that clone makes ends at once.
        let result = unsafe { libc::syscall(number, first, 0, 0, 0, 0) };
        if result == 0 && number == libc::SYS_clone {
            std::process::exit(0);
        }
        let answer = if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 };
        println!("{name} {answer}");
    };
    call("clone", libc::SYS_clone, i64::from(libc::SIGCHLD));
    call("clone-user", libc::SYS_clone, i64::from(libc::CLONE_NEWUSER | libc::SIGCHLD));
    call("clone-net", libc::SYS_clone, i64::from(libc::CLONE_NEWNET | libc::SIGCHLD));
    call("clone3", libc::SYS_clone3, 0);
    call("personality-linux", libc::SYS_personality, 0);
    call("personality-no-random", libc::SYS_personality, 0x0004_0000);
    call("socket-vsock", libc::SYS_socket, 40);
    call("unshare", libc::SYS_unshare, 0);
    std::process::exit(0)
}

#[test]
fn the_default_filter_looks_at_arguments() {
    let output = std::process::Command::new("/proc/self/exe").arg("probe-seccomp").output().unwrap();
    let (eperm, enosys) = (libc::EPERM, libc::ENOSYS);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!(
            "clone 0\nclone-user {eperm}\nclone-net {eperm}\nclone3 {enosys}\npersonality-linux 0\n\
             personality-no-random {eperm}\nsocket-vsock {eperm}\nunshare {eperm}\n"
        ),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Nothing here takes longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A root filesystem of Debian's static busybox.
fn make_rootfs(root: &Path) {
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
struct Bench {
    shims: Shims,
    dir: tempfile::TempDir,
    root: String,
}

impl Bench {
    fn new() -> Bench {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = format!("/kedge-test-{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("kedge-test-").tempdir().unwrap();
        make_rootfs(&dir.path().join("rootfs"));
        let shims = Shims::open(Config::new(dir.path().join("run"), &root)).unwrap();
        Bench { shims, dir, root }
    }

    /// The runtime as a restarted daemon would have it.
    fn reopen(&self) -> Shims {
        Shims::open(Config::new(self.dir.path().join("run"), &self.root)).unwrap()
    }

    fn pod_spec(&self, id: &str) -> PodSpec {
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

    async fn pod(&self, id: &str) -> PodId {
        self.shims.start_pod(self.pod_spec(id)).await.unwrap().id
    }

    fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("logs/{id}/0.log"))
    }

    /// A container on an overlay of its own, with a log.
    fn container(&self, id: &str, args: &[&str]) -> ContainerSpec {
        let snapshot = self.dir.path().join("snapshots").join(id);
        let (upper, work) = (snapshot.join("upper"), snapshot.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let rootfs = Rootfs::Overlay { lower: vec![self.dir.path().join("rootfs")], upper, work };
        let mut spec = ContainerSpec::new(id, args.iter().map(|a| (*a).to_owned()).collect(), rootfs);
        spec.log = Some(LogPolicy { path: self.log_path(id), bytes_max: 10 << 20, files_max: 5 });
        spec
    }

    fn shell(&self, id: &str, script: &str) -> ContainerSpec {
        self.container(id, &["sh", "-c", script])
    }

    /// Runs to the end; status and the text of the log.
    async fn run(&self, pod: &PodId, spec: ContainerSpec) -> (ExitStatus, String) {
        let id = spec.id.clone();
        self.shims.start_container(pod, spec).await.unwrap();
        let status = within(self.shims.wait(pod, &id)).await.unwrap();
        (status, self.text(&id.0))
    }

    /// The log without its stamps; partial records are joined.
    fn text(&self, id: &str) -> String {
        text_of(&self.log_path(id))
    }

    fn leftovers(&self) -> Vec<String> {
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
                // Processes that are dying are still listed for a moment; these are shims that have answered.
                if let Ok(procs) = fs::read_to_string(class.join("cgroup.procs")) {
                    found.extend(procs.lines().map(|pid| format!("process {pid} in {}", class.display())));
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

fn text_of(path: &Path) -> String {
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

fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).collect()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("takes too long")
}

async fn output(mut session: Session) -> (i32, String, String) {
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

fn exec(script: &str) -> ExecSpec {
    ExecSpec::new(vec!["sh".into(), "-c".into(), script.into()])
}

/// Reads until `wanted` appears.
async fn read_until(stream: &mut runtime::Reader, wanted: &str) -> String {
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
async fn logged(bench: &Bench, id: &str, wanted: &str) {
    within(async {
        while !bench.text(id).contains(wanted) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals() {
    let bench = Bench::new();
    let pod = bench.pod("exits").await;
    let mut events = bench.shims.events();
    let (status, text) = bench.run(&pod, bench.shell("seven", "echo out; echo err >&2; exit 7")).await;
    assert_eq!((status.code, status.signal, status.oom_killed, status.lost), (7, None, false, false));
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
    assert!(status.started_at <= status.finished_at);
    let raw = fs::read_to_string(bench.log_path("seven")).unwrap();
    assert!(
        raw.lines().any(|l| l.ends_with("Z stdout F out")) && raw.lines().any(|l| l.ends_with("Z stderr F err")),
        "{raw}"
    );
    let seven = ContainerId("seven".into());
    assert_eq!(
        within(events.next()).await,
        Some(Event::ContainerExited { pod: pod.clone(), container: seven.clone() })
    );

    let term = bench.shell("term", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    let id = bench.shims.start_container(&pod, term).await.unwrap().id;
    logged(&bench, "term", "ready").await;
    bench.shims.signal(&pod, &id, libc::SIGTERM).await.unwrap();
    assert_eq!(within(bench.shims.wait(&pod, &id)).await.unwrap().code, 3);

    let id = bench.shims.start_container(&pod, bench.shell("kill", "sleep 1000")).await.unwrap().id;
    bench.shims.signal(&pod, &id, libc::SIGKILL).await.unwrap();
    let status = within(bench.shims.wait(&pod, &id)).await.unwrap();
    assert_eq!((status.code, status.signal), (137, Some(9)));
    bench.shims.signal(&pod, &id, libc::SIGTERM).await.unwrap();

    let names: Vec<String> = bench.shims.pod(&pod).await.unwrap().containers.iter().map(|c| c.id.0.clone()).collect();
    assert_eq!(names, ["seven", "term", "kill"]);
    bench.shims.remove_container(&pod, &seven).await.unwrap();
    bench.shims.remove_container(&pod, &seven).await.unwrap();
    assert!(bench.log_path("seven").exists());
    bench.shims.remove_pod(&pod).await.unwrap();
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_fail_say_why() {
    let bench = Bench::new();
    let pod = bench.pod("fails").await;
    let check = async |name: &str, spec: ContainerSpec, expected: &str| {
        let error = bench.shims.start_container(&pod, spec).await.unwrap_err();
        assert_eq!(error.to_string(), expected, "{name}");
    };
    let start = "failed to start container: exec";
    check(
        "no such",
        bench.container("a", &["nope"]),
        &format!("{start}: \"nope\": executable file not found in $PATH"),
    )
    .await;
    check(
        "path",
        bench.container("b", &["/nope"]),
        &format!("{start}: \"/nope\": stat /nope: no such file or directory"),
    )
    .await;
    check("format", bench.container("c", &["/bin/garbage"]), &format!("{start} /bin/garbage: exec format error")).await;
    let mut other = bench.container("d", &["not-for-all"]);
    other.user = User { uid: 1000, gid: 1000, additional_gids: vec![] };
    check("denied", other, &format!("{start}: \"not-for-all\": permission denied")).await;
    let mut bad = bench.container("e", &["true"]);
    bad.mounts.push(Mount::bind("/no/such/dir", "/x", false));
    check(
        "mount",
        bad,
        "failed to create container: mount source /no/such/dir: No such file or directory (os error 2)",
    )
    .await;
    check("nothing", bench.container("f", &[]), "invalid request: no command specified").await;
    assert!(bench.shims.pod(&pod).await.unwrap().containers.is_empty());
    // Execute permission for the user alone is enough.
    let (status, _) = bench.run(&pod, bench.container("g", &["not-for-all"])).await;
    assert_eq!(status.code, 9);
    assert!(bench.shims.start_pod(bench.pod_spec("fails")).await.unwrap_err().to_string().contains("exists already"));
    let mut bad = bench.pod_spec("bad");
    bad.sysctls.insert("kernel.no_such".into(), "1".into());
    let error = bench.shims.start_pod(bad).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("kernel.no_such"), "{error:?}");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_confinement() {
    let bench = Bench::new();
    let mut spec = bench.pod_spec("ident");
    spec.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    spec.domainname = "example.org".into();
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let mut plain = bench.shell(
        "plain",
        "id -u; id -G; hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shm_rmid_forced; echo pid $$; pwd; \
         echo $HOME $HOSTNAME; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; \
         touch /x 2>&1; echo 1 2>/dev/null > /proc/sys/kernel/panic || echo ro; cat /proc/kcore | head -c 1 | wc -c 2>&1; \
         df /dev/shm | tail -1 2>&1; ls /dev",
    );
    plain.user = User { uid: 1000, gid: 1000, additional_gids: vec![2000, 3000] };
    plain.read_only_rootfs = true;
    plain.no_new_privileges = true;
    plain.cwd = "/home/web".into();
    let (status, text) = bench.run(&pod, plain).await;
    for wanted in [
        "1000\n1000 2000 3000\nhost-ident\nexample.org\n1\npid 1\n/home/web\n/home/web host-ident\n",
        "CapEff:\t0000000000000000\n",
        "CapBnd:\t00000000a80425fb\n",
        "NoNewPrivs:\t1\nSeccomp:\t2\n",
        "/x: Read-only file system",
        "\nro\n",
        "\nzero\n",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    assert_eq!(status.code, 0);

    // Without no_new_privs the filter must be there too; capabilities come as asked.
    let mut root = bench.shell(
        "root",
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; unshare -m true 2>/dev/null || echo denied; \
         mknod /tmp/n c 1 3 && echo made; mknod /tmp/m b 8 0 && head -c 1 /tmp/m 2>&1",
    );
    root.capabilities = runtime::capability::resolve(false, &["SYS_ADMIN".into()], &["CHOWN".into()]).unwrap();
    let (_, text) = bench.run(&pod, root).await;
    assert!(text.contains("CapEff:\t00000000a82425fa\nNoNewPrivs:\t0\nSeccomp:\t2\n"), "{text}");
    assert!(!text.contains("denied"), "CAP_SYS_ADMIN opens unshare in the default filter: {text}");
    assert!(text.contains("made\n") && text.contains("Operation not permitted"), "device allow-list: {text}");
    let (_, text) = bench
        .run(&pod, bench.shell("filtered", "grep ^Cap /proc/self/status; unshare -U true 2>&1 || echo denied"))
        .await;
    assert!(text.contains("denied"), "{text}");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(text.contains(&format!("{set}:\t00000000a80425fb\n")), "what was lent is given back: {text}");
    }
    let mut open = bench.shell("open", "grep ^Seccomp: /proc/self/status");
    open.seccomp = Seccomp::Unconfined;
    assert_eq!(bench.run(&pod, open).await.1, "Seccomp:\t0\n");
    let mut custom = bench.shell("custom", "touch /tmp/a && chmod 600 /tmp/a; echo $?");
    custom.seccomp = Seccomp::Profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#
            .into(),
    );
    // busybox from its own path: this shell has no chmod link.
    custom.args[2] = "touch /tmp/a; busybox chmod 600 /tmp/a 2>/dev/null || echo denied".into();
    assert_eq!(bench.run(&pod, custom).await.1, "denied\n");
    let mut privileged = bench.shell("priv", "grep ^Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted");
    privileged.privileged = true;
    privileged.seccomp = Seccomp::Unconfined;
    privileged.capabilities = runtime::capability::resolve(true, &[], &[]).unwrap();
    assert_eq!(bench.run(&pod, privileged).await.1, "Seccomp:\t0\nmounted\n");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_as_asked() {
    let bench = Bench::new();
    let pod = bench.pod("mounts").await;
    let volume = bench.dir.path().join("volume");
    fs::create_dir_all(volume.join("deep")).unwrap();
    fs::write(volume.join("file"), "content\n").unwrap();
    let mut spec = bench.shell(
        "mounts",
        "cat /data/file /one; echo x 2>/dev/null > /data/file || echo read-only; echo y > /rw/new && cat /rw/new; \
         echo z 2>/dev/null > /ro/deep/z || echo recursive; df -m /mem | tail -1 | busybox awk '{print $2}'; echo bye > /dev/end; \
         cat /img/marker",
    );
    let image = [bench.dir.path().join("l1"), bench.dir.path().join("l2")];
    for layer in &image {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join("marker"), layer.file_name().unwrap().to_str().unwrap()).unwrap();
    }
    spec.mounts = vec![
        Mount::bind(&volume, "/data", true),
        Mount::bind(volume.join("file"), "/one", true),
        Mount::bind(&volume, "/rw", false),
        Mount { recursive_read_only: true, ..Mount::bind(&volume, "/ro", true) },
        Mount {
            source: runtime::MountSource::Tmpfs { size_bytes: Some(5 << 20), mode: 0o700 },
            ..Mount::bind("", "/mem", false)
        },
        Mount { source: runtime::MountSource::Layers(image.to_vec()), ..Mount::bind("", "/img", true) },
    ];
    spec.termination_message_path = Some("/dev/end".into());
    let (status, text) = bench.run(&pod, spec).await;
    assert_eq!(text, "content\ncontent\nread-only\ny\nrecursive\n5\nl1", "{status:?}");
    assert_eq!((status.code, status.message.as_str()), (0, "bye\n"));
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "y\n");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_propagate_as_asked() {
    let bench = Bench::new();
    let pod = bench.pod("propagate").await;
    let shared = bench.dir.path().join("shared");
    fs::create_dir_all(shared.join("later")).unwrap();
    let mount = |args: &[&str]| {
        assert!(std::process::Command::new("mount").args(args).status().unwrap().success(), "{args:?}");
    };
    let path = shared.to_str().unwrap();
    mount(&["--bind", path, path]);
    mount(&["--make-rshared", path]);
    let with = |propagation| Mount { propagation, ..Mount::bind(&shared, "/shared", false) };
    let wait =
        "while ! test -e /shared/go; do sleep 0.01; done; test -e /shared/later/seen && echo seen || echo unseen";
    let mut ids = Vec::new();
    for (name, propagation) in
        [("private", runtime::Propagation::Private), ("slave", runtime::Propagation::HostToContainer)]
    {
        let mut spec = bench.shell(name, wait);
        spec.mounts.push(with(propagation));
        ids.push(bench.shims.start_container(&pod, spec).await.unwrap().id);
    }
    let later = shared.join("later");
    mount(&["-t", "tmpfs", "kedge-test", later.to_str().unwrap()]);
    fs::write(later.join("seen"), "").unwrap();
    fs::write(shared.join("go"), "").unwrap();
    for id in &ids {
        within(bench.shims.wait(&pod, id)).await.unwrap();
    }
    assert_eq!((bench.text("private").as_str(), bench.text("slave").as_str()), ("unseen\n", "seen\n"));

    // A mount made in the container arrives on the host only when that was asked for.
    for (name, propagation, arrives) in [
        ("from-slave", runtime::Propagation::HostToContainer, false),
        ("from-shared", runtime::Propagation::Bidirectional, true),
    ] {
        let mut spec =
            bench.shell(name, &format!("busybox mkdir /shared/{name} && mount -t tmpfs x /shared/{name} && echo ok"));
        spec.mounts.push(with(propagation));
        (spec.privileged, spec.seccomp) = (true, Seccomp::Unconfined);
        spec.capabilities = runtime::capability::resolve(true, &[], &[]).unwrap();
        assert_eq!(bench.run(&pod, spec).await.1, "ok\n");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(mounts.contains(&format!("{path}/{name} ")), arrives, "{name}");
    }
    assert!(std::process::Command::new("umount").args(["-R", path]).status().unwrap().success());
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_joined_or_the_hosts() {
    let bench = Bench::new();
    // A network namespace of the test's own, pinned like the network room pins them.
    let netns = bench.dir.path().join("netns");
    fs::write(&netns, "").unwrap();
    let pin = format!("--net={}", netns.display());
    assert!(std::process::Command::new("unshare").args([&pin, "true"]).status().unwrap().success());
    let mut spec = bench.pod_spec("joined");
    spec.network = NetworkNamespace::Path(netns.clone());
    spec.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let (_, text) = bench
        .run(&pod, bench.shell("net", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net"))
        .await;
    assert_eq!(text, "7\nlo\n");
    let here = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_ne!(here, "7\n", "the host's own stays as it is");
    bench.shims.remove_pod(&pod).await.unwrap();

    let mut spec = bench.pod_spec("host");
    (spec.pid, spec.ipc, spec.uts) = (Namespace::Host, Namespace::Host, Namespace::Host);
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let probe = "for n in pid ipc uts net; do busybox readlink /proc/self/ns/$n; done; hostname";
    let (_, text) = bench.run(&pod, bench.shell("ns", probe)).await;
    let mut wanted = String::new();
    for name in ["pid", "ipc", "uts", "net"] {
        wanted += &format!("{}\n", fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display());
    }
    assert_eq!(text, wanted + &fs::read_to_string("/proc/sys/kernel/hostname").unwrap());
    // Nothing of a container outlives it, although the process namespace does.
    let id = bench.shims.start_container(&pod, bench.shell("left", "sleep 1234 & echo $!; exit 0")).await.unwrap().id;
    within(bench.shims.wait(&pod, &id)).await.unwrap();
    let left: u32 = bench.text("left").trim().parse().unwrap();
    within(async {
        while fs::read_to_string(format!("/proc/{left}/cmdline")).is_ok_and(|line| line.contains("1234")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bench.shims.remove_pod(&pod).await.unwrap();
    let _ = nix::mount::umount(&netns);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_cut_and_rotated() {
    let bench = Bench::new();
    let pod = bench.pod("logs").await;
    let (_, text) =
        bench.run(&pod, bench.shell("long", "head -c 40000 /dev/zero | busybox tr '\\0' x; echo; printf end")).await;
    assert_eq!(text, format!("{}\nend", "x".repeat(40_000)));
    let raw = fs::read_to_string(bench.log_path("long")).unwrap();
    let tags: Vec<&str> = raw.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(tags, ["P", "P", "F", "P"]);
    let mut many =
        bench.shell("many", "for i in 1 2 3 4 5 6; do head -c 3000 /dev/zero | busybox tr '\\0' $i; echo; done");
    many.log = Some(LogPolicy { path: bench.log_path("many"), bytes_max: 7000, files_max: 2 });
    bench.run(&pod, many).await;
    let names: Vec<_> = fs::read_dir(bench.log_path("many").parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(fs::metadata(bench.log_path("many")).unwrap().len() <= 7000);
    assert!(bench.text("many").contains(&"6".repeat(3000)));

    let id = bench.shims.start_container(&pod, bench.shell("moved", "echo one; cat; echo two")).await.unwrap().id;
    logged(&bench, "moved", "two").await;
    within(bench.shims.wait(&pod, &id)).await.unwrap();
    bench.shims.remove_pod(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_and_without_terminal() {
    let bench = Bench::new();
    let pod = bench.pod("exec").await;
    let mut spec = bench.shell("main", "sleep 1000");
    spec.env = vec!["A=1".into(), "B=2".into()];
    spec.user = User { uid: 1000, gid: 1000, additional_gids: vec![2000] };
    let id = bench.shims.start_container(&pod, spec).await.unwrap().id;
    let run = async |spec: ExecSpec| output(bench.shims.exec(&pod, &id, spec).await.unwrap()).await;

    let script = "echo $A $B $HOME; id -u; id -G; hostname; grep -E '^(Seccomp|CapBnd|CapEff):' /proc/self/status; echo e >&2; exit 4";
    let (code, out, err) = run(ExecSpec { env: vec!["B=3".into()], ..exec(script) }).await;
    assert_eq!(
        out,
        "1 3 /home/web\n1000\n1000 2000\nhost-exec\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n"
    );
    assert_eq!((code, err.as_str()), (4, "e\n"));
    let root = User { uid: 0, gid: 0, additional_gids: vec![] };
    let (_, out, _) = run(ExecSpec { user: Some(root), cwd: Some("/etc".into()), ..exec("id -u; pwd") }).await;
    assert_eq!(out, "0\n/etc\n");

    let mut session = bench.shims.exec(&pod, &id, ExecSpec { stdin: true, ..exec("cat; echo done") }).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big = "line\n".repeat(100_000);
    let text = big.clone();
    let writing = tokio::spawn(async move { stdin.write_all(text.as_bytes()).await });
    let (code, out, _) = output(session).await;
    writing.await.unwrap().unwrap();
    assert_eq!((code, out), (0, format!("{big}done\n")));

    let size = Some(TerminalSize { columns: 100, rows: 30 });
    let spec =
        ExecSpec { tty: true, stdin: true, size, ..exec("tty; stty size; read x; stty size; echo got $x; exit 5") };
    let mut session = bench.shims.exec(&pod, &id, spec).await.unwrap();
    let mut stdout = session.stdout.take().unwrap();
    let seen = read_until(&mut stdout, "30 100").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    session.resizer.take().unwrap().resize(TerminalSize { columns: 80, rows: 24 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let seen = read_until(&mut stdout, "got hello").await;
    assert!(seen.contains("24 80"), "{seen}");
    assert_eq!(within(session.exit).await.unwrap(), 5);

    let session = bench.shims.exec(&pod, &id, exec("sleep 1000")).await.unwrap();
    session.kill().await.unwrap();
    assert_eq!(within(session.exit).await.unwrap(), 137);
    let error = bench.shims.exec(&pod, &id, ExecSpec::new(vec!["nope".into()])).await.err().unwrap();
    assert_eq!(error.to_string(), "failed to exec in container: exec: \"nope\": executable file not found in $PATH");
    let many = (0..16).map(|n| {
        let (shims, pod, id) = (bench.shims.clone(), pod.clone(), id.clone());
        tokio::spawn(async move { output(shims.exec(&pod, &id, exec(&format!("exit {n}"))).await.unwrap()).await.0 })
    });
    for (n, code) in futures_util::future::join_all(many).await.into_iter().enumerate() {
        assert_eq!(code.unwrap(), n as i32);
    }
    bench.shims.signal(&pod, &id, libc::SIGKILL).await.unwrap();
    within(bench.shims.wait(&pod, &id)).await.unwrap();
    assert!(bench.shims.exec(&pod, &id, exec("true")).await.is_err());
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_to_pipes_and_terminals() {
    let bench = Bench::new();
    let pod = bench.pod("attach").await;
    let all = AttachSpec { stdin: true, stdout: true, stderr: true };
    let mut spec = bench.shell("pipes", "while read x; do echo got $x; echo err $x >&2; done; echo end");
    (spec.stdin, spec.stdin_once) = (true, true);
    let id = bench.shims.start_container(&pod, spec).await.unwrap().id;
    let mut watcher =
        bench.shims.attach(&pod, &id, AttachSpec { stdin: false, stdout: true, stderr: false }).await.unwrap();
    let mut session = bench.shims.attach(&pod, &id, all).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got two").await;
    read_until(session.stderr.as_mut().unwrap(), "err two").await;
    session.stdin = None;
    let (code, out, _) = output(session).await;
    assert_eq!((code, out.as_str()), (0, "end\n"));
    let mut seen = String::new();
    within(watcher.stdout.take().unwrap().read_to_string(&mut seen)).await.unwrap();
    assert_eq!(seen, "got one\ngot two\nend\n");
    assert!(bench.text("pipes").contains("got one\n") && bench.text("pipes").contains("err two\n"));

    let mut spec = bench.shell("term", "tty; read x; stty size; echo got $x; exit 6");
    (spec.stdin, spec.tty) = (true, true);
    let id = bench.shims.start_container(&pod, spec).await.unwrap().id;
    let mut session =
        bench.shims.attach(&pod, &id, AttachSpec { stdin: true, stdout: true, stderr: false }).await.unwrap();
    session.resizer.as_ref().unwrap().resize(TerminalSize { columns: 90, rows: 20 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"tea\n").await.unwrap();
    let (code, out, _) = output(session).await;
    assert!(code == 6 && out.contains("20 90") && out.contains("got tea"), "{code} {out}");
    assert!(bench.text("term").contains("/dev/"), "{}", bench.text("term"));
    assert!(bench.shims.attach(&pod, &id, all).await.is_err());
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let bench = Bench::new();
    bench
        .shims
        .apply_cgroup("kubepods/burstable", &Resources { cpu_shares: Some(512), ..Resources::default() })
        .await
        .unwrap();
    let pod = bench.pod("limits").await;
    let mut eater = bench.shell("eater", "busybox tail /dev/zero");
    eater.resources.memory_limit_bytes = Some(32 << 20);
    let (status, _) = bench.run(&pod, eater).await;
    assert_eq!((status.code, status.oom_killed), (137, true));

    // A shell that cannot fork gives up: the inner one does, the outer one goes on.
    let script = "sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done' 2>&1; sleep 1000; :";
    let mut forks = bench.shell("forks", script);
    forks.resources = Resources { pids_limit: Some(5), cpu_quota_us: Some(50_000), ..Resources::default() };
    let id = bench.shims.start_container(&pod, forks).await.unwrap().id;
    let cgroup = format!("kubepods/burstable/podlimits/{id}");
    logged(&bench, "forks", "can't fork").await;
    // How many of the five are the script's own is the scheduler's to say: who made the container may still be among them.
    let pids = bench.shims.stats(&cgroup).await.unwrap().pids;
    assert!((2..=5).contains(&pids), "{pids} processes under a limit of 5");
    let bigger = Resources { memory_limit_bytes: Some(64 << 20), pids_limit: Some(50), ..Resources::default() };
    bench.shims.update_container(&pod, &id, &bigger).await.unwrap();
    let stats = bench.shims.stats(&cgroup).await.unwrap();
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    assert!(stats.memory_usage_bytes > 0 && stats.cpu_usage_ns > 0, "{stats:?}");
    assert!(bench.shims.stats("kubepods/burstable/podlimits").await.unwrap().memory_usage_bytes > 0);
    bench.shims.update_pod(&pod, &bigger).await.unwrap();
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share() {
    let bench = Bench::new();
    let mut spec = bench.pod_spec("shared");
    spec.pid = Namespace::Pod;
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let first = bench.shell("first", "echo shm > /dev/shm/x; echo ready; sleep 1000 & sleep 1000");
    let first = bench.shims.start_container(&pod, first).await.unwrap().id;
    logged(&bench, "first", "ready").await;
    let (_, text) = bench.run(&pod, bench.shell("second", "cat /dev/shm/x; hostname; ps")).await;
    assert!(text.starts_with("shm\nhost-shared\n"), "{text}");
    assert!(text.contains("sleep 1000") && text.contains("    1 "), "{text}");
    bench.shims.signal(&pod, &first, libc::SIGKILL).await.unwrap();
    within(bench.shims.wait(&pod, &first)).await.unwrap();
    let (_, text) = bench.run(&pod, bench.shell("third", "ps")).await;
    assert!(!text.contains("sleep 1000"), "the killed container's other processes are gone: {text}");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_adopts() {
    let bench = Bench::new();
    let pod = bench.pod("adopt").await;
    let spec = bench.shell("runs", "while :; do echo tick; sleep 0.05; done");
    let ContainerState::Running { pid } = bench.shims.start_container(&pod, spec).await.unwrap().state else {
        panic!()
    };
    let (ended, _) = bench.run(&pod, bench.shell("ended", "exit 5")).await;
    let before = bench.shims.pod(&pod).await.unwrap();
    let next = bench.reopen();
    let after = next.list().await.unwrap();
    assert_eq!(after, [before]);
    assert_eq!(after[0].labels["app"], "adopt");
    assert_eq!(after[0].containers[0].state, ContainerState::Running { pid });
    assert_eq!(after[0].containers[1].state, ContainerState::Exited(ended));
    logged(&bench, "runs", "tick\n").await;
    let id = ContainerId("runs".into());
    let (code, out, _) = output(next.exec(&pod, &id, exec("echo in")).await.unwrap()).await;
    assert_eq!((code, out.as_str()), (0, "in\n"));
    next.signal(&pod, &id, libc::SIGKILL).await.unwrap();
    assert_eq!(within(next.wait(&pod, &id)).await.unwrap().code, 137);
    next.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_a_dead_pod() {
    let bench = Bench::new();
    let pod = bench.pod("dead").await;
    let mut events = bench.shims.events();
    let id = bench.shims.start_container(&pod, bench.shell("orphan", "sleep 1000")).await.unwrap().id;
    let ContainerState::Running { pid } = bench.shims.pod(&pod).await.unwrap().containers[0].state else { panic!() };
    let shim = shim_of(pid);
    assert_ne!(shim, std::process::id());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(within(events.next()).await, Some(Event::PodDied { pod: pod.clone() }));
    let info = bench.shims.pod(&pod).await.unwrap();
    assert_eq!(info.state, PodState::Dead);
    let status = within(bench.shims.wait(&pod, &id)).await.unwrap();
    assert_eq!((status.code, status.lost), (137, true));
    let error = bench.shims.start_container(&pod, bench.shell("late", "true")).await.unwrap_err();
    assert!(matches!(error, runtime::Error::ShimGone(_)), "{error}");
    // The same to a daemon that was away when it happened.
    let next = bench.reopen();
    assert_eq!(next.list().await.unwrap()[0].state, PodState::Dead);
    next.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_without_its_socket_is_ended() {
    let bench = Bench::new();
    let pod = bench.pod("mute").await;
    bench.shims.start_container(&pod, bench.shell("runs", "sleep 1000")).await.unwrap();
    let ContainerState::Running { pid } = bench.shims.pod(&pod).await.unwrap().containers[0].state else { panic!() };
    let mut events = bench.shims.events();
    let shim = shim_of(pid);
    let socket = bench.dir.path().join("run/pods/mute/shim.sock");
    fs::remove_file(&socket).unwrap();
    let next = bench.reopen();
    assert_eq!(next.list().await.unwrap()[0].state, PodState::Dead);
    // The daemon of before sees its connection close: the shim itself is gone, not only its pod.
    assert_eq!(within(events.next()).await, Some(Event::PodDied { pod: pod.clone() }), "shim {shim} lives");
    next.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

/// The shim of a container's first process: the leader of its parent's session. The parent itself may still be the creator,
/// which has answered and is about to end.
fn shim_of(pid: u32) -> u32 {
    let field = |pid: u32, at: usize| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(at)?.parse().ok()
    };
    loop {
        if let Some(session) = field(pid, 1).and_then(|parent| field(parent, 3)) {
            return session;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_four_pods_at_once() {
    let bench = Bench::new();
    let starts = (0..24).map(|n| {
        let shims = bench.shims.clone();
        let (pod, container) =
            (bench.pod_spec(&format!("p{n}")), bench.shell(&format!("c{n}"), &format!("sleep 0.1; exit {n}")));
        tokio::spawn(async move {
            let id = container.id.clone();
            let pod = shims.start_pod(pod).await.unwrap().id;
            shims.start_container(&pod, container).await.unwrap();
            let status = shims.wait(&pod, &id).await.unwrap();
            shims.remove_pod(&pod).await.unwrap();
            status.code
        })
    });
    for (n, code) in within(futures_util::future::join_all(starts)).await.into_iter().enumerate() {
        assert_eq!(code.unwrap(), n as i32);
    }
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_is_small() {
    let bench = Bench::new();
    let pod = bench.pod("small").await;
    let id = bench.shims.start_container(&pod, bench.shell("c", "sleep 1000")).await.unwrap().id;
    for _ in 0..20 {
        assert_eq!(output(bench.shims.exec(&pod, &id, exec("true")).await.unwrap()).await.0, 0);
    }
    let ContainerState::Running { pid } = bench.shims.pod(&pod).await.unwrap().containers[0].state else { panic!() };
    let shim = shim_of(pid);
    let fds = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    assert!(fds <= 14, "{fds} descriptors are open in the shim");
    let threads = fs::read_dir(format!("/proc/{shim}/task")).unwrap().count();
    assert_eq!(threads, 1);
    bench.shims.remove_pod(&pod).await.unwrap();
}
