//! Clients in four languages, each a program of its own under `tests/clients` that stops at the first wrong answer.

use std::sync::Arc;

use harness::kedge::{Server, add_images, checkout};
use harness::{Host, Switch};

/// Each program, as `tests/run clients` leaves it.
const PROGRAMS: &[&str] =
    &["client-go", "kube-rs", "python/bin/python ../../tests/clients/python/main.py", "javascript/main.js"];

#[test]
fn clients_of_other_languages_find_a_cluster() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("clients", &switch, [10, 99, 0, 10]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    let server = Server::start(&host, &[]).unwrap();
    for program in PROGRAMS {
        let folder = checkout().join("target/clients");
        let line = format!("cd {} && KUBECONFIG=/etc/kedge/kedge.yaml timeout 240 ./{program}", folder.display());
        let said = host.run(&line).unwrap();
        assert!(said.ok(), "{program}: exit {}\n{}{}", said.code, said.stdout, said.stderr);
        println!("{program}\n{}", said.stdout);
    }
    // None of them has left the server the worse for it.
    assert_eq!(server.must("get --raw /readyz").unwrap(), "ok");
    assert!(!server.must("get --raw /metrics").unwrap().contains("apiserver_request_panics_total 1"));
}
