//! Stock Helm with the chart under `tests/e2e/helm`: the script beside it.

use std::path::Path;
use std::sync::Arc;

use harness::kedge::{Server, add_images, checkout};
use harness::{Host, Switch};

use crate::script;

#[test]
fn helm_installs_upgrades_and_takes_back() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("helm", &switch, [10, 99, 5, 13]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    let kubectl = std::env::var("KUBECTL").unwrap();
    let helm = checkout().join("target/clients/helm");
    script::programs(&host, &[("kubectl", Path::new(&kubectl)), ("helm", &helm)]).unwrap();
    let server = Server::start(&host, &[]).unwrap();
    script::run(&host, "helm/helm.script").unwrap();
    assert_eq!(server.must("get --raw /readyz").unwrap(), "ok");
}
