//! Volumes of a CSI driver, by the real binary and stock kubectl. What its sidecars would do is done by hand.

use std::fs;
use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::kedge::{Server, add_images, checkout};
use harness::{Host, Switch, wait};

fn apply(server: &Server, name: &str) -> Result<String> {
    fs::copy(checkout().join("tests/e2e/csi").join(name), server.host.shared().join(name))?;
    server.must(&format!("apply -f /run/shared/{name}"))
}

/// What of the driver's is mounted on the host.
fn mounts(server: &Server) -> Result<String> {
    Ok(server.host.run("grep kubernetes.io /proc/self/mountinfo | cut -d' ' -f5")?.stdout)
}

fn of_node(server: &Server, path: &str) -> Result<String> {
    server.must(&format!("get nodes -o 'jsonpath={{.items[0]{path}}}'"))
}

fn drivers(server: &Server) -> Result<String> {
    let (name, count) = ("{.items[0].spec.drivers[*].name}", "{.items[0].spec.drivers[*].allocatable.count}");
    server.must(&format!("get csinodes -o 'jsonpath={name}{count}'"))
}

fn driver_comes(server: &Server) -> Result<()> {
    apply(server, "driver.yaml")?;
    server.must("rollout status -n folders deployment/driver --timeout=90s")?;
    wait::until("the driver to register", wait::CLUSTER, || {
        Ok((drivers(server)? == "folders.kedge.test3").then_some(()))
    })?;
    let labels = of_node(server, ".metadata.labels")?;
    ensure!(labels.contains("folders.kedge.test/node"), "{labels}");
    let ids = of_node(server, ".metadata.annotations")?;
    ensure!(ids.contains("csi.volume.kubernetes.io/nodeid"), "{ids}");
    Ok(())
}

/// A pod that writes, under a daemon that is killed meanwhile, and goes.
fn writes(server: &mut Server, volume: &str) -> Result<()> {
    server.must("wait --for=condition=Ready pod/writer --timeout=120s")?;
    let events =
        server.must("get events --field-selector involvedObject.name=writer -o jsonpath={.items[*].message}")?;
    ensure!(events.contains(&format!("AttachVolume.Attach succeeded for volume \"{volume}\"")), "{events}");
    let shown = "exec writer -- cat /data/file /own/note";
    ensure!(server.must(shown)? == "kept\nmine of writer\n");
    let owner = server.must("exec writer -- stat -c %g:%a /data")?;
    ensure!(owner.starts_with("2000:2"), "{owner}");
    let attached = of_node(server, ".status.volumesAttached[*].name")?;
    ensure!(attached == format!("kubernetes.io/csi/folders.kedge.test^{volume}"), "{attached}");
    ensure!(of_node(server, ".status.volumesInUse[*]")? == attached);
    ensure!(mounts(server)?.lines().count() == 3, "{}", mounts(server)?);

    // A daemon that was killed finds what is mounted, and takes it down when the pod goes.
    server.kill()?;
    server.restart()?;
    ensure!(server.must(shown)? == "kept\nmine of writer\n");
    server.must("delete pod writer --timeout=60s")?;
    wait::until("the volumes to be unmounted", wait::CLUSTER, || Ok(mounts(server)?.is_empty().then_some(())))?;
    wait::until("the volume to be detached", wait::CLUSTER, || {
        Ok(server.must("get volumeattachments -o name")?.is_empty().then_some(()))
    })?;
    let left = of_node(server, ".status.volumesAttached}{.items[0].status.volumesInUse")?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

fn driver_goes(server: &Server) -> Result<()> {
    server.must("delete deployment driver -n folders --timeout=60s")?;
    server.host.must("rm -f /var/lib/kubelet/plugins_registry/*")?;
    wait::until("the driver to be forgotten", wait::CLUSTER, || Ok(drivers(server)?.is_empty().then_some(())))?;
    let left = server.host.must("cd /var/lib/kubelet && find pods plugins/kubernetes.io -type d | sort")?;
    ensure!(!left.contains("mount") && !left.contains("pods/"), "{left}");
    Ok(())
}

/// Its volumes are made and attached by hand.
fn a_driver_alone(server: &mut Server) -> Result<()> {
    driver_comes(server)?;
    server.host.must("mkdir -m 777 /var/lib/folders/known")?;
    apply(server, "known.yaml")?;
    apply(server, "user.yaml")?;
    let attachment = wait::until("the volume to be wanted", wait::CLUSTER, || {
        let name = server.must("get volumeattachments -o name")?;
        Ok((!name.is_empty()).then_some(name))
    })?;
    wait::until("the node to say that it waits", wait::CLUSTER, || {
        Ok((!of_node(server, ".status.volumesInUse")?.is_empty()).then_some(()))
    })?;
    let id = format!("id-of-{}", of_node(server, ".metadata.name")?);
    let status = format!(r#"{{"status":{{"attached":true,"attachmentMetadata":{{"attached-to":"{id}"}}}}}}"#);
    server.must(&format!("patch {} --subresource=status --type=merge -p '{status}'", attachment.trim()))?;
    writes(server, "known")?;
    ensure!(server.host.must("cat /var/lib/folders/known/file")? == "kept\n");
    ensure!(server.host.must("ls -A /var/lib/folders")? == "known\n", "what was the pod's alone is gone");
    driver_goes(server)?;
    server.kill()?;
    let root = server.host.cgroup();
    server.host.must(&format!("kedge reset --yes --keep-installation --cgroup-root {root}"))?;
    server.host.must("test ! -e /var/lib/kubelet && ! grep kubelet /proc/self/mountinfo")?;
    Ok(())
}

fn on_a_host(name: &str, last: u8, programs: &[&str], test: fn(&mut Server) -> Result<()>) {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot(name, &switch, [10, 99, 32, last]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    let folder = host.shared().join("programs");
    fs::create_dir_all(&folder).unwrap();
    for name in programs {
        fs::copy(checkout().join("target/clients").join(name), folder.join(name)).unwrap();
    }
    let mut server = Server::start(&host, &[]).unwrap();
    wait::until("the default account", wait::BOOT, || {
        Ok(server.kubectl("get serviceaccount default")?.ok().then_some(()))
    })
    .unwrap();
    test(&mut server).unwrap();
}

#[test]
fn a_driver_needs_no_sidecars() {
    on_a_host("csi", 1, &["csi-driver"], a_driver_alone);
}
