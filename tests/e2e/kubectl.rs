//! Every group of stock kubectl's commands against a cluster with a node: the scripts under `tests/e2e/kubectl`.

use std::path::Path;
use std::sync::Arc;

use harness::kedge::{Server, add_images};
use harness::{Host, Switch};

use crate::script;

#[test]
fn kubectl_finds_a_cluster() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("kubectl", &switch, [10, 99, 5, 15]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    let kubectl = std::env::var("KUBECTL").unwrap();
    script::programs(&host, &[("kubectl", Path::new(&kubectl))]).unwrap();
    let server = Server::start(&host, &[]).unwrap();
    for name in ["objects", "pods", "cluster"] {
        script::run(&host, &format!("kubectl/{name}.script")).unwrap();
    }
    assert_eq!(server.must("get --raw /readyz").unwrap(), "ok");
}
