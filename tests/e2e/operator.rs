//! An operator built with controller-runtime, as `tests/run clients` leaves it: the script under `tests/e2e/operator`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use harness::kedge::{Server, add_images, checkout};
use harness::{Host, Switch};

use crate::script;

#[test]
fn an_operator_keeps_its_kind() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("operator", &switch, [10, 99, 5, 14]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    fs::copy(checkout().join("target/clients/operator"), host.shared().join("operator")).unwrap();
    let kubectl = std::env::var("KUBECTL").unwrap();
    script::programs(&host, &[("kubectl", Path::new(&kubectl))]).unwrap();
    let server = Server::start(&host, &[]).unwrap();
    script::run(&host, "operator/operator.script").unwrap();
    assert_eq!(server.must("get --raw /readyz").unwrap(), "ok");
}
