//! What a container start costs here and with Debian's runc and crun: create, start, exit and delete of `/bin/true` on the
//! same root filesystem. `cargo run -p kedge-runtime --example runtime_bench -- [rounds]`, as root. One line a
//! figure: name, min, median, max, unit. Asserts nothing.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement: it reads the clock and may fail")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use runtime::{
    Config, ContainerId, ContainerSpec, ContainerState, ExecSpec, Namespace, NetworkNamespace, PodId, PodSpec,
    Resources, Rootfs, Runtime, Seccomp, Shims,
};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|verb| verb == "shim") {
        runtime::shim::main(&args[2..]);
    }
    let rounds: usize = args.get(1).map_or(50, |n| n.parse().unwrap());
    let dir = tempfile::Builder::new().prefix("kedge-bench-").tempdir().unwrap();
    let rootfs = dir.path().join("rootfs");
    for name in ["bin", "proc", "dev", "sys"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for name in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(ours(
        dir.path(),
        &rootfs,
        rounds,
    ));
    theirs(dir.path(), &rootfs, rounds);
}

fn print(name: &str, mut times_ms: Vec<f64>) {
    times_ms.sort_by(f64::total_cmp);
    let (min, median, max) = (times_ms[0], times_ms[times_ms.len() / 2], times_ms[times_ms.len() - 1]);
    println!("{name} {min:.2} {median:.2} {max:.2} ms");
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

async fn ours(dir: &Path, rootfs: &Path, rounds: usize) {
    let root = format!("/kedge-bench-{}", std::process::id());
    let shims = Shims::open(Config::new(dir.join("run"), root)).unwrap();
    let pod = |id: String| PodSpec {
        cgroup: format!("kubepods/pod{id}"),
        id: PodId(id),
        hostname: "bench".into(),
        domainname: String::new(),
        network: NetworkNamespace::Host,
        ipc: Namespace::Pod,
        uts: Namespace::Pod,
        pid: Namespace::Container,
        sysctls: Default::default(),
        resources: Resources::default(),
        shm_size_bytes: 64 << 20,
        labels: Default::default(),
    };
    let container = |id: &str, seccomp: Seccomp| ContainerSpec {
        seccomp,
        ..ContainerSpec::new(id, vec!["true".into()], Rootfs::Directory(rootfs.to_owned()))
    };
    let mut whole = Vec::new();
    for n in 0..rounds {
        let start = Instant::now();
        let id = shims.start_pod(pod(format!("p{n}"))).await.unwrap().id;
        shims.start_container(&id, container("c", Seccomp::RuntimeDefault)).await.unwrap();
        shims.wait(&id, &ContainerId("c".into())).await.unwrap();
        shims.remove_pod(&id).await.unwrap();
        whole.push(milliseconds(start));
    }
    print("pod_and_container_to_removed", whole);
    let id = shims.start_pod(pod("one".into())).await.unwrap().id;
    for (name, seccomp) in [("seccomp", Seccomp::RuntimeDefault), ("unconfined", Seccomp::Unconfined)] {
        let (mut started, mut all) = (Vec::new(), Vec::new());
        for n in 0..rounds {
            let container_id = ContainerId(format!("c{n}"));
            let start = Instant::now();
            shims.start_container(&id, container(&container_id.0, seccomp.clone())).await.unwrap();
            started.push(milliseconds(start));
            shims.wait(&id, &container_id).await.unwrap();
            shims.remove_container(&id, &container_id).await.unwrap();
            all.push(milliseconds(start));
        }
        print(&format!("container_{name}_to_started"), started);
        print(&format!("container_{name}_to_removed"), all);
    }
    let mut sleeper = container("sleeper", Seccomp::RuntimeDefault);
    sleeper.args = vec!["sleep".into(), "1000".into()];
    let sleeper = shims.start_container(&id, sleeper).await.unwrap();
    let mut execs = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let session = shims.exec(&id, &sleeper.id, ExecSpec::new(vec!["true".into()])).await.unwrap();
        session.exit.await.unwrap();
        execs.push(milliseconds(start));
    }
    print("exec_true_to_exit", execs);
    if let ContainerState::Running { pid } = sleeper.state {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let shim: u32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
        let rollup = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
        for field in ["Rss", "Pss", "Private_Clean", "Private_Dirty"] {
            let line = rollup.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
            let kib = line.and_then(|l| l.split_whitespace().next()).unwrap();
            println!("shim_{} {kib} KiB", field.to_lowercase());
        }
    }
    shims.remove_pod(&id).await.unwrap();
    shims.remove_cgroups().unwrap();
}

fn theirs(dir: &Path, rootfs: &Path, rounds: usize) {
    for name in ["runc", "crun"] {
        let bundle = dir.join(name);
        fs::create_dir_all(&bundle).unwrap();
        if !Command::new(name).arg("spec").current_dir(&bundle).status().is_ok_and(|status| status.success()) {
            println!("{name}: not here");
            continue;
        }
        let path = bundle.join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        spec["root"] = serde_json::json!({"path": rootfs});
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = serde_json::json!(["/bin/true"]);
        spec["linux"]["cgroupsPath"] = format!("/kedge-bench-{}-{name}/c", std::process::id()).into();
        fs::write(&path, spec.to_string()).unwrap();
        let mut times = Vec::new();
        for n in 0..rounds {
            let run = format!("{name} run kedge-bench-{n}");
            // crun refuses hybrid hosts: it gets a mount namespace where the unified mount is hidden.
            let script = if name == "crun" {
                format!("umount /sys/fs/cgroup/unified; exec {run}")
            } else {
                format!("exec {run}")
            };
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", &script]).current_dir(&bundle).stdin(Stdio::null());
            let start = Instant::now();
            let output = command.output().unwrap();
            times.push(milliseconds(start));
            if !output.status.success() {
                println!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
                break;
            }
        }
        if times.len() == rounds {
            // unshare and the shell are about 2 ms of it
            print(&format!("{name}_run"), times);
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(" - cgroup")) {
            if let Some(mount) = line.split(' ').nth(4) {
                let group = Path::new(mount).join(format!("kedge-bench-{}-{name}", std::process::id()));
                let _ = runtime::cgroup::remove_tree(&group);
            }
        }
    }
}
