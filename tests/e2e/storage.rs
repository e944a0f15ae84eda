//! Volumes that outlive their pods: a claim of the default class, by the real binary and stock kubectl.

use std::fs;
use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::kedge::{Server, add_images};
use harness::{Host, Switch, wait};

/// A claim and what uses it. `NAME`, `RUN` and `MORE` are filled in.
const CLAIM: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
";
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 2000, runAsUser: 1000}
  containers:
  - {name: main, image: \"kedge.test/busybox:1\", command: [sh, -c, \"RUN\"], volumeMounts: [{name: v, mountPath: /data}MORE]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
";

/// Runs a pod to its end and returns what it wrote.
fn run(server: &Server, name: &str, line: &str, more: &str) -> Result<String> {
    let text = POD.replace("NAME", name).replace("RUN", line).replace("MORE", more);
    apply(server, &text)?;
    server.must(&format!("wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=60s"))?;
    let log = server.must(&format!("logs {name}"))?;
    server.must(&format!("delete pod {name}"))?;
    Ok(log)
}

fn apply(server: &Server, text: &str) -> Result<String> {
    fs::write(server.host.shared().join("storage.yaml"), text)?;
    server.must("apply -f /run/shared/storage.yaml")
}

fn claim(server: &Server, path: &str) -> Result<String> {
    server.must(&format!("get pvc data -o 'jsonpath={{{path}}}'"))
}

fn folders(server: &Server) -> Result<String> {
    Ok(server.host.run("ls -A /var/lib/kedge/volumes 2>/dev/null")?.stdout)
}

fn data_outlive_pods(server: &mut Server) -> Result<()> {
    let class = server.must("get storageclass --no-headers")?;
    ensure!(class.starts_with("local-path (default)") && class.contains("kedge.io/local-path"), "{class}");
    apply(server, CLAIM)?;
    wait::until("the claim to wait", wait::CLUSTER, || {
        let events =
            server.must("get events --field-selector involvedObject.name=data -o jsonpath={.items[*].reason}")?;
        Ok(events.contains("WaitForFirstConsumer").then_some(()))
    })?;
    ensure!(claim(server, ".status.phase")? == "Pending");

    let log = run(
        server,
        "writer",
        "mkdir /data/deep; echo kept | tee /data/file > /data/deep/file; ls -ln /data/file; id",
        "",
    )?;
    ensure!(log.contains(" 1000 ") && log.contains(" 2000 ") && log.contains("groups="), "{log}");
    ensure!(claim(server, ".status.phase")? == "Bound" && claim(server, ".status.capacity.storage")? == "64Mi");
    let volume = claim(server, ".spec.volumeName")?;
    let shown = server.must(&format!("get pv {volume} -o 'jsonpath={{.spec.local.path}} {{.status.phase}}'"))?;
    let folder = format!("{volume}_default_data");
    ensure!(shown == format!("/var/lib/kedge/volumes/{folder} Bound"), "{shown}");
    ensure!(folders(server)?.trim() == folder);

    // A daemon that was killed finds its way back to the claim.
    server.kill()?;
    server.restart()?;
    let log = run(
        server,
        "reader",
        "cat /data/file /sub/file",
        ", {name: v, mountPath: /sub, subPath: deep, readOnly: true}",
    )?;
    ensure!(log == "kept\nkept\n", "{log}");

    let grow = r#"patch pvc data -p '{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}'"#;
    server.must(grow)?;
    server.must("wait --for=jsonpath={.status.capacity.storage}=128Mi pvc/data --timeout=20s")?;

    // In use, it stays.
    apply(server, &POD.replace("NAME", "user").replace("RUN", "sleep 1000").replace("MORE", ""))?;
    server.must("wait --for=condition=Ready pod/user --timeout=60s")?;
    server.must("delete pvc data --wait=false")?;
    let finalizers = claim(server, ".metadata.deletionTimestamp}{.metadata.finalizers")?;
    ensure!(finalizers.contains("pvc-protection"), "{finalizers}");
    ensure!(folders(server)?.trim() == folder);
    server.must("delete pod user")?;
    server.must(&format!("wait --for=delete pvc/data pv/{volume} --timeout=60s"))?;
    ensure!(folders(server)?.is_empty(), "{}", folders(server)?);
    let events = server.must("get events -o jsonpath={.items[*].reason}")?;
    for reason in ["ExternalProvisioning", "Provisioning", "ProvisioningSucceeded", "VolumeResizeSuccessful"] {
        ensure!(events.contains(reason), "no {reason} in {events}");
    }
    Ok(())
}

#[test]
fn claims_of_the_default_class_keep_their_data() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("storage", &switch, [10, 99, 31, 1]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    let mut server = Server::start(&host, &[]).unwrap();
    wait::until("the default account", wait::BOOT, || {
        Ok(server.kubectl("get serviceaccount default")?.ok().then_some(()))
    })
    .unwrap();
    data_outlive_pods(&mut server).unwrap();
}
