//! What users see of a disk that is full, or that does not answer: a clear refusal, patience, and never the end of a process.

use std::process::Stdio;
use std::sync::Arc;

use harness::kedge::Server;
use harness::{Host, Switch, wait};

const REFUSAL: &str = "error: failed to create configmap: Internal error occurred: the store is read-only: no space left on the \
                       disk that holds /var/lib/kedge/server/state.db";

#[test]
fn a_full_disk_makes_the_api_read_only_until_there_is_space() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("full", &switch, [10, 99, 0, 1]).unwrap();
    host.must("mount -t tmpfs -o size=24m tmpfs /var/lib/kedge").unwrap();
    let server = Server::start(&host, &[]).unwrap();
    server.must("create configmap before --from-literal=a=b").unwrap();

    host.run("dd if=/dev/zero of=/var/lib/kedge/filler bs=64k; dd if=/dev/zero of=/var/lib/kedge/rest bs=4k").unwrap();
    let refused = server.kubectl("create configmap during --from-literal=a=b").unwrap();
    assert_eq!((refused.code, refused.stderr.trim()), (1, REFUSAL));
    let refused = server.kubectl("delete configmap before").unwrap();
    assert!(refused.stderr.contains("the store is read-only"), "{}", refused.stderr);
    // Reading goes on, the process lives, and says itself that it is not ready for everything.
    assert_eq!(server.must("get configmap before -o 'jsonpath={.data.a}'").unwrap(), "b");
    assert_eq!(server.must("get --raw /livez").unwrap(), "ok");
    assert!(!server.kubectl("get --raw /readyz").unwrap().ok());
    // The node's heartbeats are held in memory.
    let lease = "get lease -n kube-node-lease -o 'jsonpath={.items[0].spec.renewTime}'";
    let renewed = server.must(lease).unwrap();
    wait::until("the lease to be renewed", wait::CLUSTER, || Ok((server.must(lease)? != renewed).then_some(())))
        .unwrap();

    host.must("rm /var/lib/kedge/filler /var/lib/kedge/rest").unwrap();
    wait::until("the disk to be tried again", wait::CLUSTER, || {
        Ok(server.kubectl("create configmap after --from-literal=a=b")?.ok().then_some(()))
    })
    .unwrap();
    assert_eq!(server.must("get --raw /readyz").unwrap(), "ok");
    assert!(server.must("get configmaps -o name").unwrap().contains("configmap/before"));
}

/// A file system that takes no writes until this is dropped: as slow as a disk can be.
struct Frozen<'h>(&'h Host);

impl<'h> Frozen<'h> {
    fn new(host: &'h Host) -> Self {
        host.must("fsfreeze -f /var/lib/kedge").unwrap();
        Self(host)
    }
}

impl Drop for Frozen<'_> {
    /// Also when the test fails: what waits for a frozen file system cannot even be killed.
    fn drop(&mut self) {
        let _ = self.0.run("fsfreeze -u /var/lib/kedge");
    }
}

#[test]
fn a_disk_that_does_not_answer_makes_writes_wait_and_nothing_else() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("slow", &switch, [10, 99, 0, 1]).unwrap();
    host.must("truncate -s 64M /run/shared/disk && mkfs.ext4 -q /run/shared/disk && mount -o loop /run/shared/disk /var/lib/kedge")
        .unwrap();
    let server = Server::start(&host, &["--disable-agent"]).unwrap();
    let frozen = Frozen::new(&host);
    let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let line = format!("KUBECONFIG=/etc/kedge/kedge.yaml {kubectl} create configmap patient --from-literal=a=b");
    let mut create = host.command("sh").args(["-c", &line]).stdin(Stdio::null()).spawn().unwrap();
    // The writer sits in the kernel with it.
    wait::until("the write to reach the disk", wait::CLUSTER, || {
        let waits = host.run("cat /proc/$(pgrep -xo kedge)/task/*/stat | grep -F '(store-writer) D'")?;
        Ok(waits.ok().then_some(()))
    })
    .unwrap();
    for _ in 0..20 {
        server.must("get namespaces").unwrap();
    }
    assert_eq!(server.must("get --raw /readyz").unwrap(), "ok");
    assert!(create.try_wait().unwrap().is_none(), "a write was acknowledged that is on no disk");
    assert!(!server.kubectl("get configmap patient").unwrap().ok(), "a write is visible that is on no disk");
    drop(frozen);
    assert!(create.wait().unwrap().success());
    server.must("get configmap patient").unwrap();
}
