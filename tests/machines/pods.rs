//! The guestbook on pure cgroup v2, on both architectures: the machine passes `kedge check`, the guestbook comes up from the
//! airgap and manifests folders alone, is reached through its NodePort, its limits are the kernel's, and it comes back after a
//! power cut.

use std::path::PathBuf;

use harness::kedge::checkout;
use harness::machine::{CLUSTER, dist};
use harness::{Arch, Machine, MachineSpec};
use serde_json::Value;

/// No network: an interface that leads nowhere gives the node its address.
const NODE_IP: &str = "10.97.0.2";

/// Two pods that want more than they may have.
const GREEDY: &str = "
apiVersion: v1
kind: Pod
metadata: { name: hungry, namespace: default }
spec:
  restartPolicy: Never
  containers:
  - name: eat
    image: kedge.test/busybox:1
    command: [sh, -c, 'tail /dev/zero']
    resources: { limits: { memory: 24Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: busy, namespace: default }
spec:
  containers:
  - name: spin
    image: kedge.test/busybox:1
    command: [sh, -c, 'while :; do :; done']
    resources: { limits: { cpu: 100m, memory: 24Mi } }
";

const START: &str = "
ip link show node0 >/dev/null 2>&1 || ip link add node0 type dummy
ip addr add 10.97.0.2/24 dev node0 2>/dev/null
ip link set node0 up
setsid kedge server >>/var/log/kedge.log 2>&1 </dev/null &
";

fn image(name: &str, arch: Arch) -> PathBuf {
    let path = checkout().join(format!("images/out/{name}-{}.tar", arch.debian()));
    assert!(path.exists(), "{} is not there: run KEDGE_IMAGE_ARCH={} cargo xtask images", path.display(), arch.name());
    path
}

fn with_guestbook(arch: Arch) -> MachineSpec {
    let mut spec = MachineSpec::new("edge", arch).file(dist(arch).unwrap(), "/usr/local/bin/kedge", 0o755).file(
        checkout().join("docs/examples/guestbook.yaml"),
        "/var/lib/kedge/server/manifests/guestbook.yaml",
        0o644,
    );
    for name in ["busybox", "guestbook", "redis"] {
        spec = spec.file(image(name, arch), &format!("/var/lib/kedge/agent/images/{name}.tar"), 0o644);
    }
    spec
}

/// What went wrong, as the daemon tells it.
fn log(machine: &mut Machine) -> String {
    machine.run("tail -n 60 /var/log/kedge.log").map(|o| o.stdout).unwrap_or_default()
}

fn pods(machine: &mut Machine, namespace: &str) -> Vec<Value> {
    let Ok(text) = machine.must(&format!("kedge get pods -n {namespace} -o json")) else { return Vec::new() };
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Waits until the namespace's pods are as `done` wants them.
fn until_pods(machine: &mut Machine, namespace: &str, what: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let outcome = harness::wait::until(what, CLUSTER, || {
        let found = pods(machine, namespace);
        Ok(done(&found).then_some(found))
    });
    outcome.unwrap_or_else(|error| {
        let last = machine.run(&format!("kedge get pods -n {namespace} -o yaml")).map(|o| o.stdout).unwrap_or_default();
        panic!("{error:#}\n{last}\n{}", log(machine))
    })
}

fn cgroup(pod: &Value) -> String {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let class = match pod["status"]["qosClass"].as_str() {
        Some("Burstable") => "kubepods/burstable",
        Some("BestEffort") => "kubepods/besteffort",
        _ => "kubepods",
    };
    format!("/sys/fs/cgroup/kedge/{class}/pod{uid}")
}

fn named<'a>(pods: &'a [Value], prefix: &str) -> &'a Value {
    pods.iter().find(|p| p["metadata"]["name"].as_str().is_some_and(|n| n.starts_with(prefix))).unwrap()
}

/// The machine is of its architecture, with cgroup v2 alone, and Kedge finds itself at home there.
fn passes_the_check(machine: &mut Machine, arch: Arch) {
    assert_eq!(machine.must("uname -m").unwrap().trim(), arch.name());
    let controllers = machine.must("cat /sys/fs/cgroup/cgroup.controllers").unwrap();
    for wanted in ["cpu", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|c| c == wanted), "{wanted} is not among {controllers}");
    }
    assert!(!machine.must("cat /proc/mounts").unwrap().lines().any(|l| l.split(' ').nth(2) == Some("cgroup")));
    let version = machine.must("kedge version").unwrap();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let check = machine.run("kedge check").unwrap();
    assert_eq!(check.code, 0, "{}{}", check.stdout, check.stderr);
}

fn guestbook(arch: Arch) {
    let mut machine = Machine::boot(with_guestbook(arch)).unwrap();
    passes_the_check(&mut machine, arch);
    machine.must(START).unwrap();
    let four_ready = |pods: &[Value]| pods.len() == 4 && pods.iter().all(ready);
    let found = until_pods(&mut machine, "guestbook", "the guestbook to be ready", four_ready);

    let url = format!("http://{NODE_IP}:30080");
    machine.until("the page", CLUSTER, &format!("timeout 20 wget -qO - {url}/ | grep 'Guestbook on Kedge'")).unwrap();
    let form = format!("message=hello-from-{}", arch.name());
    let post = format!(
        "POST / HTTP/1.0\\r\\nContent-Type: application/x-www-form-urlencoded\\r\\nContent-Length: {}\\r\\n\\r\\n{form}",
        form.len()
    );
    // busybox' wget would follow the answer's redirection with another POST
    let posted = machine.must(&format!("printf '{post}' | timeout 60 nc {NODE_IP} 30080")).unwrap();
    assert!(posted.lines().next().is_some_and(|l| l.contains(" 303 ")), "{posted}");
    let messages = machine.must(&format!("timeout 20 wget -qO - {url}/messages")).unwrap();
    assert!(messages.contains(&format!("hello-from-{}", arch.name())), "{messages}");

    // Limits as the kernel has them.
    let web = cgroup(named(&found, "web-"));
    assert_eq!(machine.must(&format!("cat {web}/memory.max {web}/cpu.max")).unwrap(), "100663296\n50000 100000\n");
    // no limit of processes unless the node is told one, as upstream; they are counted all the same
    let pids = machine.must(&format!("cat {web}/pids.max {web}/pids.current")).unwrap();
    let (max, current) = pids.trim().split_once('\n').unwrap();
    assert!(max == "max" && current.parse::<u32>().unwrap() >= 1, "{pids}");
    let redis = cgroup(named(&found, "redis-"));
    assert_eq!(machine.must(&format!("cat {redis}/memory.max")).unwrap(), "134217728\n");
    assert!(machine.must(&format!("cat {redis}/cpu.max")).unwrap().starts_with("max "));

    // Limits as they are felt.
    let greedy = std::env::temp_dir().join(harness::unique("kedge-greedy"));
    std::fs::write(&greedy, GREEDY).unwrap();
    machine.push(&greedy, "/var/lib/kedge/server/manifests/greedy.yaml", 0o644).unwrap();
    std::fs::remove_file(&greedy).unwrap();
    let found = until_pods(&mut machine, "default", "the hungry pod to be ended and the busy one to run", |pods| {
        let phase = |name: &str| pods.iter().find(|p| p["metadata"]["name"] == name).map(|p| &p["status"]["phase"]);
        phase("hungry").is_some_and(|p| p == "Failed") && phase("busy").is_some_and(|p| p == "Running")
    });
    let ended = &named(&found, "hungry")["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((ended["reason"].as_str(), ended["exitCode"].as_i64()), (Some("OOMKilled"), Some(137)), "{ended}");
    let busy = cgroup(named(&found, "busy"));
    machine
        .until("the busy pod to be held back", CLUSTER, &format!("grep -E '^nr_throttled [1-9]' {busy}/cpu.stat"))
        .unwrap();

    // Nobody says goodbye before a power cut.
    machine
        .must("rm /var/lib/kedge/server/manifests/greedy.yaml && kedge delete pod busy -n default --wait=false")
        .unwrap();
    machine.cut_power().unwrap();
    machine.power_on().unwrap();
    machine.must(START).unwrap();
    machine.until("the page after a power cut", CLUSTER, &format!("timeout 20 wget -qO - {url}/ready")).unwrap();
    until_pods(&mut machine, "guestbook", "the guestbook to be ready again", four_ready);
}

#[test]
fn guestbook_on_x86_64() {
    guestbook(Arch::X86_64);
}

#[test]
fn guestbook_on_aarch64() {
    guestbook(Arch::Aarch64);
}
