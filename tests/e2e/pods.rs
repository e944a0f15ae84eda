//! Pods as their users know them: one server, the pods of `pods.yaml`, and what kubectl shows of them and does with them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use harness::kedge::{Server, add_images};
use harness::{Host, Switch, wait};
use serde_json::Value;

/// Shorter than every back-off.
const AT_ONCE: Duration = Duration::from_secs(5);

fn status(server: &Server, pod: &str) -> Result<Value> {
    let pod: Value = serde_json::from_str(&server.must(&format!("get pod {pod} -o json"))?)?;
    Ok(pod["status"].clone())
}

/// Waits until the status of a pod fits; the error shows the last one.
fn until(server: &Server, pod: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = wait::until(&format!("pod {pod}"), wait::CLUSTER, || {
        last = status(server, pod)?;
        Ok(fits(&last).then(|| last.clone()))
    });
    waited.with_context(|| format!("{last:#}"))
}

fn has(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "no {part:?} in {text:?}");
    }
    Ok(())
}

/// The waiting reason of the container at `index`.
fn waiting(status: &Value, index: usize) -> &str {
    status["containerStatuses"][index]["state"]["waiting"]["reason"].as_str().unwrap_or_default()
}

fn ends_and_restarts(server: &Server) -> Result<()> {
    let crash = until(server, "crash", |s| waiting(s, 0) == "CrashLoopBackOff")?;
    let c = &crash["containerStatuses"][0];
    ensure!(c["restartCount"] == 1 && c["lastState"]["terminated"]["exitCode"] == 3, "{c:#}");
    has(
        c["state"]["waiting"]["message"].as_str().unwrap_or_default(),
        &["back-off 10s restarting failed container=main"],
    )?;
    has(&server.must("logs crash --previous")?, &["bad run\n"])?;
    let oom = until(server, "oom", |s| s["phase"] == "Failed")?;
    let ended = &oom["containerStatuses"][0]["state"]["terminated"];
    ensure!(ended["reason"] == "OOMKilled" && ended["exitCode"] == 137, "{ended:#}");
    let fail = until(server, "fail", |s| s["phase"] == "Succeeded")?;
    let c = &fail["containerStatuses"][0];
    ensure!(c["restartCount"] == 1 && c["lastState"]["terminated"]["message"] == "because\n", "{c:#}");
    let init = until(server, "init", |s| s["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0)?;
    ensure!(init["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed", "{init:#}");
    has(&server.must("logs init -c main")?, &["one\n"])
}

fn what_cannot_start(server: &Server) -> Result<()> {
    until(server, "badimage", |s| {
        // Containers are shown in the order of the spec.
        ["ErrImagePull", "ImagePullBackOff"].contains(&waiting(s, 0))
            && waiting(s, 1) == "InvalidImageName"
            && waiting(s, 2) == "ErrImageNeverPull"
    })?;
    until(server, "badimage", |s| waiting(s, 0) == "ImagePullBackOff")?;
    let refused = server.kubectl("logs badimage -c main")?.stderr;
    has(&refused, &["is waiting to start: trying and failing to pull image"])?;
    let events = server.must("get events --field-selector involvedObject.name=badimage")?;
    has(&events, &["Error: ErrImagePull", "Error: ImagePullBackOff", "Back-off pulling image"])?;
    // What was waited for comes: nobody waits for the back-off, of which no more than its first seconds could be over.
    for (index, image) in [(0, "127.0.0.1:5999/nope:1"), (2, "kedge.test/none:1")] {
        server.host.must(&format!("kedge image tag kedge.test/busybox:1 {image}"))?;
        wait::until(&format!("the start with {image}"), AT_ONCE, || {
            let c = status(server, "badimage")?["containerStatuses"][index].clone();
            Ok((c["state"]["terminated"].is_object() || c["lastState"]["terminated"].is_object()).then_some(()))
        })?;
    }
    let cfg = until(server, "cfg", |s| waiting(s, 0) == "CreateContainerConfigError")?;
    ensure!(cfg["containerStatuses"][0]["state"]["waiting"]["message"] == "configmap \"late\" not found", "{cfg:#}");
    server.must("create configmap late --from-literal=a=b")?;
    server.must("wait --for=condition=Ready pod/cfg --timeout=20s")?;
    let sec = status(server, "sec")?;
    let root = sec["containerStatuses"].as_array().into_iter().flatten().find(|c| c["name"] == "root");
    ensure!(
        root.is_some_and(|c| c["state"]["waiting"]["reason"] == "CreateContainerConfigError"),
        "runAsNonRoot lets root in: {root:?}"
    );
    Ok(())
}

fn streams(server: &Server) -> Result<()> {
    let sh = |line: &str| server.host.run(&format!("export KUBECONFIG=/etc/kedge/kedge.yaml; {line}"));
    for protocol in ["true", "false"] {
        let flags = format!(
            "env KUBECTL_REMOTE_COMMAND_WEBSOCKETS={protocol} KUBECTL_PORT_FORWARD_WEBSOCKETS={protocol} kubectl"
        );
        let out = sh(&format!("{flags} exec io -c main -- sh -c 'echo out; echo err >&2; exit 7'"))?;
        ensure!(out.code == 7 && out.stdout == "out\n", "{} {:?} {:?}", out.code, out.stdout, out.stderr);
        has(&out.stderr, &["err\n", "exit code 7"])?;
        // The end of standard input arrives; nothing is lost on the way in or out.
        let out = sh(&format!("head -c 3000000 /dev/zero | timeout 20 {flags} exec -i io -c main -- wc -c"))?;
        ensure!(out.stdout.trim() == "3000000", "{:?} {:?}", out.stdout, out.stderr);
        let out = sh(&format!("{flags} exec io -c main -- head -c 3000000 /dev/zero | wc -c"))?;
        ensure!(out.stdout.trim() == "3000000", "{:?} {:?}", out.stdout, out.stderr);
        let tty = format!(
            "'stty rows 40 cols 100; {flags} exec -it io -c main -- sh -c \"until stty size 2>/dev/null | grep .; do sleep 0.1; done; exit 3\"'"
        );
        let out = sh(&format!("script -qec {tty} /dev/null </dev/null"))?;
        ensure!(out.code == 3, "{} {:?} {:?}", out.code, out.stdout, out.stderr);
        has(&out.stdout, &["40 100"])?;
        let copy = format!(
            "rm -rf /tmp/from /tmp/to; mkdir /tmp/from; head -c 500000 /dev/urandom > /tmp/from/b; {flags} cp /tmp/from io:/tmp/x \
             -c main && {flags} cp io:/tmp/x /tmp/to -c main && diff -r /tmp/from /tmp/to && kubectl exec io -c main -- rm -r /tmp/x"
        );
        let out = sh(&copy)?;
        ensure!(out.ok(), "cp: {} {:?} {:?}", out.code, out.stdout, out.stderr);
        let forward = format!(
            "{flags} port-forward pod/io 18080:8080 >/tmp/forward & pid=$!; curl -s --retry 40 --retry-delay 1 \
             --retry-connrefused 127.0.0.1:18080/hostname; kill $pid"
        );
        ensure!(sh(&forward)?.stdout == "io\n", "port-forward");
        has(&sh(&format!("(echo one; sleep 1) | timeout 3 {flags} attach -i cat"))?.stdout, &["got one"])?;
    }
    ensure!(server.kubectl("exec io -c main -- nosuch")?.code != 0, "a command that is not there");
    Ok(())
}

fn logs(server: &Server) -> Result<()> {
    has(&server.must("logs io -c side")?, &["side\n", "err\n"])?;
    let last = server.must("logs io -c main --tail=2")?;
    ensure!(last.lines().count() == 2, "{last:?}");
    let timed = server.must("logs io -c main --timestamps --since=1h")?;
    ensure!(timed.lines().next().is_some_and(|l| l.ends_with("Z line 0") && l.starts_with("20")), "{timed:?}");
    ensure!(server.must("logs io -c main --limit-bytes=4")? == "line", "limit");
    let all = server.must("logs -l app=io --all-containers --prefix --tail=1")?;
    has(&all, &["[pod/io/main] line", "[pod/io/side] err"])?;
    let followed = server.host.run("KUBECONFIG=/etc/kedge/kedge.yaml timeout 4 kubectl logs -f io -c main --tail=1")?;
    ensure!(followed.stdout.lines().count() >= 3, "{:?}", followed.stdout);
    ensure!(
        server.kubectl("logs io -c main --previous")?.stderr.contains("previous terminated container"),
        "no previous"
    );
    // What a container writes before somebody attaches is in its log only; this one writes afterwards.
    let run = "kubectl run once --rm -i --restart=Never --image=kedge.test/busybox:1 -- cat";
    let once = server.host.must(&format!("export KUBECONFIG=/etc/kedge/kedge.yaml; echo hi | {run}"))?;
    has(&once, &["hi\n"])?;
    let failed =
        server.kubectl("run failing --rm -i --restart=Never --image=kedge.test/busybox:1 -- sh -c 'exit 4'")?;
    ensure!(failed.code == 4, "{} {}", failed.code, failed.stderr);
    Ok(())
}

fn inside(server: &Server) -> Result<()> {
    let exec = |pod: &str, line: &str| server.must(&format!("exec {pod} -- sh -c '{line}'"));
    let env = exec("vols", "env")?;
    has(
        &env,
        &["A=x\n", "B=x-$(NOPE)-$(A)-10.43.", "MEM=67108864\n", "P_a=one\n", "P_b=two\n", "WEB_SERVICE_PORT=80\n"],
    )?;
    ensure!(!env.contains("OPT="), "an optional key that is not there");
    has(&exec("vols", "cat /one /cm/a /cm/b /d/labels /d/name")?, &["oneonetwotier=\"gold\"vols"])?;
    has(&exec("vols", "touch /sub/f; ls /e/x/y; df /m | tail -1; echo out > /h/f")?, &["f\n", "8192"])?;
    has(&server.host.must("cat /tmp/hp/f")?, &["out"])?;
    let token =
        exec("vols", "cd /var/run/secrets/kubernetes.io/serviceaccount; cat namespace; wc -c < token; head -1 ca.crt")?;
    has(&token, &["default", "BEGIN CERTIFICATE"])?;
    let limits = exec("vols", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us")?;
    ensure!(limits == "67108864\n25000\n", "{limits:?}");
    server.must("patch configmap cm -p '{\"data\":{\"a\":\"ONE\"}}'")?;
    wait::until("the volume to follow its ConfigMap", wait::BOOT, || {
        Ok((exec("vols", "cat /cm/a")? == "ONE").then_some(()))
    })?;
    ensure!(exec("vols", "cat /one")? == "one", "a sub-path never follows");
    let ro = server.must("exec sec -c ro -- sh -c 'id; touch /x; touch /e/y && cat /proc/self/status'")?;
    has(
        &ro,
        &[
            "uid=1000",
            "gid=2000",
            "groups=",
            "3000",
            "4000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "CapEff:\t0000000000000000",
        ],
    )?;
    let privileged =
        server.must("exec sec -c priv -- sh -c 'id -u; grep Seccomp: /proc/self/status; ls /dev | wc -l'")?;
    has(&privileged, &["0\n", "Seccomp:\t0"])?;
    ensure!(exec("hn", "hostname")?.trim() == "pods", "hostNetwork");
    Ok(())
}

fn names_and_services(server: &Server) -> Result<()> {
    let lookup = |name: &str| server.kubectl(&format!("exec vols -- nslookup {name}"));
    let cluster_ip = server.must("get service web -o jsonpath={.spec.clusterIP}")?;
    let pod_ip = server.must("get pod web -o jsonpath={.status.podIP}")?;
    has(&lookup("web.default.svc.cluster.local.")?.stdout, &[&cluster_ip])?;
    has(&lookup("web")?.stdout, &[&cluster_ip])?;
    has(&lookup("hl.default.svc.cluster.local.")?.stdout, &[&pod_ip])?;
    has(&lookup(&cluster_ip)?.stdout, &["web.default.svc.cluster.local"])?;
    has(&lookup("nope.default.svc.cluster.local.")?.stdout, &["NXDOMAIN"])?;
    for from in ["vols", "web"] {
        // From `web` to itself: the answer must come back through the service.
        // The statically linked wget crashes when it looks for the port of http, so not with wget.
        let request = format!("printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | nc -w 5 {cluster_ip} 80");
        let got = server.must(&format!("exec {from} -- sh -c '{request}'"))?;
        ensure!(got.ends_with("\nweb\n"), "from {from}: {got:?}");
    }
    let curl = |at: &str| server.host.run(&format!("curl -s -m 5 {at}"));
    ensure!(curl("127.0.0.1:8099")?.stdout == "web\n", "hostPort");
    ensure!(curl(&cluster_ip)?.stdout == "web\n", "from the host");
    server.must("exec web -- rm /w/ok")?;
    server.must("wait --for=condition=Ready=false pod/web --timeout=20s")?;
    wait::until("the service to have no endpoint", wait::BOOT, || Ok((curl(&cluster_ip)?.code == 7).then_some(())))?;
    server.must("exec web -- touch /w/ok")?;
    server.must("wait --for=condition=Ready pod/web --timeout=20s")?;
    wait::until(
        "the service to answer again",
        wait::BOOT,
        || Ok((curl(&cluster_ip)?.stdout == "web\n").then_some(())),
    )?;
    server.must("exec web -- rm /w/live")?;
    let web = until(server, "web", |s| s["containerStatuses"][0]["restartCount"] == 1)?;
    ensure!(web["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137, "{web:#}");
    let events = server.must("get events --field-selector involvedObject.name=web")?;
    has(&events, &["Container main failed liveness probe, will be restarted"])
}

/// Another hand writes the status that the node owns: the node writes it again.
fn status_is_kept(server: &Server) -> Result<()> {
    let ready = "{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\"}]}}";
    server.must(&format!("patch pod io --subresource=status -p '{ready}'"))?;
    server.must("wait --for=condition=Ready pod/io --timeout=20s").map(drop)
}

fn killed_process(server: &Server) -> Result<()> {
    let before = status(server, "io")?["containerStatuses"][1]["restartCount"].as_i64().unwrap_or(0);
    // The host sees the pod's processes: the only web server that shows /etc.
    server.host.must("kill -9 $(pgrep -f '^httpd -f -p 8080 -h /etc')")?;
    let io = until(server, "io", |s| {
        let c = &s["containerStatuses"][1];
        c["restartCount"].as_i64() == Some(before + 1) && c["ready"] == true
    })?;
    let last = &io["containerStatuses"][1]["lastState"]["terminated"];
    ensure!(last["exitCode"] == 137 && last["reason"] == "Error", "{last:#}");
    Ok(())
}

fn deletion(server: &Server) -> Result<()> {
    server.must("delete pod pre")?;
    ensure!(server.host.must("cat /tmp/hp/pre")? == "hook\nterm\n", "preStop, then the signal");
    server.must("delete pod --all --grace-period=1")?;
    nothing_left(server)
}

/// Neither mounts, namespaces, links nor cgroups of pods are there. The node's own shared folder for drivers of volumes is.
fn nothing_left(server: &Server) -> Result<()> {
    let look = format!(
        "awk '$2 ~ \"^/(run|var/lib)/kedge/\" && $2 != \"/var/lib/kedge/agent/kubelet\"' /proc/mounts | wc -l; ls /run/netns | wc -l; ip -o link | grep -c veth; \
         find /sys/fs/cgroup/memory{} -type d -name '*pod*-*' | wc -l; ls /var/lib/kedge/agent/pods 2>/dev/null | wc -l; true",
        server.host.cgroup()
    );
    let mut last = String::new();
    wait::until("the pods' leavings to be gone", wait::BOOT, || {
        last = server.host.run(&look)?.stdout;
        // eth0 of the host is itself one end of a veth pair, but its name is not: only pods' ends are called veth.
        Ok(last.lines().all(|l| l == "0").then_some(()))
    })
    .with_context(|| format!("mounts, namespaces, links, cgroups, folders: {last:?}"))
}

const MANY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: many}
spec:
  replicas: 20
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'kedge.test/busybox:1', command: [sleep, '10000']}]
";

/// The daemon dies while pods start: each of them runs in the end, once; and again after a power cut.
fn killed_while_pods_start(server: &mut Server) -> Result<()> {
    fs::write(server.host.shared().join("many.yaml"), MANY)?;
    server.must("create namespace many")?;
    server.must("run over -n many --image=kedge.test/busybox:1 --restart=Never -- sh -c 'echo out; exit 4'")?;
    server.must("wait -n many --for=jsonpath={.status.phase}=Failed pod/over --timeout=30s")?;
    let over = finished(server)?;
    server.must("apply -f /run/shared/many.yaml")?;
    wait::until("the first pods to start", wait::CLUSTER, || {
        Ok((server.host.run("pgrep -xc sleep")?.stdout.trim().parse::<u32>().unwrap_or(0) > 2).then_some(()))
    })?;
    server.kill()?;
    server.restart()?;
    server.must("rollout status -n many deployment/many --timeout=60s")?;
    let running = server.host.run("pgrep -fc '^sleep 10000'")?.stdout;
    ensure!(running.trim() == "20", "{running} containers for 20 pods");
    let restarts =
        server.must("get pods -n many -l app=many -o jsonpath={.items[*].status.containerStatuses[*].restartCount}")?;
    ensure!(restarts.split(' ').all(|r| r == "0"), "restarts: {restarts}");
    ensure!(finished(server)? == over, "a finished pod after a restart: {:?}, before: {over:?}", finished(server)?);

    server.kill()?;
    // A power cut: no process survives, nor does what lies in memory.
    server.host.run(
        "for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || [ $p = $$ ] || kill -9 $p 2>/dev/null; done; sleep 1; \
         umount -R $(awk '$2 ~ \"^/run/kedge/\" {print $2}' /proc/mounts | sort -r) 2>/dev/null; rm -rf /run/kedge; \
         for n in $(ls /run/netns); do ip netns del $n; done; ip link del kedge0; true",
    )?;
    server.restart()?;
    let mut last = String::new();
    wait::until("every pod to run again", wait::CLUSTER, || {
        last = server
            .must("get pods -n many -l app=many -o jsonpath={.items[*].status.containerStatuses[*].restartCount}")?;
        let ready = server.must("get deployment -n many many -o jsonpath={.status.readyReplicas}")?;
        Ok((ready == "20" && last.split(' ').all(|r| r == "1")).then_some(()))
    })
    .with_context(|| format!("restarts: {last}"))?;
    ensure!(finished(server)? == over, "a finished pod after a power cut: {:?}, before: {over:?}", finished(server)?);
    let running = server.host.run("pgrep -fc '^sleep 10000'")?.stdout;
    ensure!(running.trim() == "20", "{running} containers for 20 pods");
    server.must("delete namespace many")?;
    nothing_left(server)
}

/// What is told of the pod that has ended: its exit and its log.
fn finished(server: &Server) -> Result<(String, String)> {
    let ended = server.must("get pod -n many over -o jsonpath={.status.phase}{.status.containerStatuses[0].state}")?;
    ensure!(ended.contains("\"exitCode\":4"), "{ended}");
    Ok((ended, server.must("logs -n many over")?))
}

type Scenario = fn(&Server) -> Result<()>;

fn scenarios() -> Result<()> {
    let switch = Arc::new(Switch::new()?);
    let host = Host::boot("pods", &switch, [10, 99, 30, 1])?;
    add_images(&host, &["busybox"])?;
    let mut server = Server::start(&host, &[])?;
    fs::write(host.shared().join("pods.yaml"), include_str!("pods.yaml"))?;
    wait::until("the default account", wait::BOOT, || {
        Ok(server.kubectl("get serviceaccount default")?.ok().then_some(()))
    })?;
    server.must("apply -f /run/shared/pods.yaml")?;
    has(&server.must("get nodes")?, &["control-plane"])?;
    server.must("wait --for=condition=Ready pod/io pod/cat pod/web pod/vols pod/hn pod/pre --timeout=60s")?;
    let all: [(&str, Scenario); 9] = [
        ("ends and restarts", ends_and_restarts),
        ("what cannot start", what_cannot_start),
        ("streams", streams),
        ("logs", logs),
        ("inside", inside),
        ("names and services", names_and_services),
        ("status is kept", status_is_kept),
        ("killed process", killed_process),
        ("deletion", deletion),
    ];
    // All of them are tried: one that fails says nothing about the others.
    let failed: Vec<String> =
        all.iter().filter_map(|(name, scenario)| scenario(&server).err().map(|e| format!("{name}: {e:#}"))).collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    killed_while_pods_start(&mut server)
}

#[test]
fn pods_do_what_users_expect() {
    scenarios().unwrap();
}
