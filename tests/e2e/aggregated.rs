//! An aggregated server, stock kubectl, and the script under `tests/e2e/aggregated`.

use std::path::Path;
use std::sync::Arc;

use harness::kedge::{Server, checkout};
use harness::{Host, Switch};

use crate::script;

#[test]
fn another_server_serves_a_group() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("aggregated", &switch, [10, 99, 6, 14]).unwrap();
    let kubectl = std::env::var("KUBECTL").unwrap();
    let program = checkout().join("target/clients/aggregated");
    script::programs(&host, &[("kubectl", Path::new(&kubectl)), ("aggregated", &program)]).unwrap();
    let server = Server::start(&host, &["--disable-agent"]).unwrap();
    script::run(&host, "aggregated/aggregated.script").unwrap();
    assert_eq!(server.must("get --raw /readyz").unwrap(), "ok");
    assert!(!server.must("get --raw /metrics").unwrap().contains("apiserver_request_panics_total 1"));
}
