//! `kedge image`: archives in and out of a host's image store, and what is told of those that are no good.

use std::fs;
use std::sync::Arc;

use harness::kedge::{Server, checkout};
use harness::{Host, Switch};

const IMAGE: &str = "kedge.test/busybox:1";
const OTHER: &str = "kedge.test/other:1";

/// Runs a line that must fail with 1 and one line on standard error that holds each of `parts`; returns standard output.
fn fails(host: &Host, line: &str, parts: &[&str]) -> String {
    let output = host.run(line).unwrap();
    assert_eq!(output.code, 1, "{line}: {}{}", output.stdout, output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{line}: {}", output.stderr);
    for part in parts {
        assert!(output.stderr.contains(part), "{line}: {}", output.stderr);
    }
    output.stdout
}

#[test]
fn archives_go_in_and_out() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("images", &switch, [10, 99, 5, 11]).unwrap();
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let archive = checkout().join(format!("images/out/busybox-{arch}.tar"));
    fs::copy(archive, host.shared().join("busybox.tar")).unwrap();
    let server = Server::start(&host, &[]).unwrap();
    // What follows runs in a folder where the archives are.
    let must = |line: &str| host.must(&format!("cd /run/shared && kedge image {line}")).unwrap();
    let listed = || must("ls -o name");
    assert_eq!(listed(), "");

    assert_eq!(must("import busybox.tar"), format!("{IMAGE}: imported from busybox.tar\n"));
    assert_eq!(must(&format!("tag {IMAGE} {OTHER}")), format!("{OTHER}: tagged\n"));
    assert_eq!(listed(), format!("{IMAGE}\n{OTHER}\n"));
    let table = must("ls");
    assert!(table.starts_with("IMAGE ") && table.lines().count() == 3, "{table}");
    assert_eq!(must(&format!("export both.tar {IMAGE} {OTHER}")), "both.tar: exported\n");
    fails(&host, "kedge image export /tmp/none.tar kedge.test/none:1", &["kedge.test/none:1"]);
    host.must("! ls /tmp/none.tar*").unwrap();

    // A name that is taken away leaves the image to its other name.
    assert!(must(&format!("rm {OTHER}")).starts_with(&format!("{OTHER}: removed\n")));
    assert_eq!(listed(), format!("{IMAGE}\n"));
    let removed = must(&format!("rm {IMAGE}"));
    assert!(removed.starts_with(&format!("{IMAGE}: removed\n")) && removed.contains(" freed in "), "{removed}");
    assert_eq!(listed(), "");
    fails(&host, &format!("kedge image rm {IMAGE}"), &[IMAGE]);

    // Bad archives are named, and keep nobody from the good one among them.
    host.must("cd /run/shared && head -c 300000 both.tar >cut.tar && head -c 20000000 /dev/urandom >noise.tar")
        .unwrap();
    for (bad, why) in [("cut.tar", "the archive is cut short"), ("noise.tar", ""), ("none.tar", "No such file")] {
        let line = format!("cd /run/shared && kedge image import {bad}");
        assert_eq!(fails(&host, &line, &[&format!("{bad}: "), why]), "");
        assert_eq!(listed(), "");
    }
    let out = fails(&host, "cd /run/shared && kedge image import cut.tar both.tar", &["cut.tar: ", "cut short"]);
    assert_eq!(out, format!("{IMAGE}: imported from both.tar\n{OTHER}: imported from both.tar\n"));
    // What came back is whole, and a bad archive takes nothing of it away.
    fails(&host, "cd /run/shared && kedge image import cut.tar", &["cut short"]);
    assert_eq!(listed(), format!("{IMAGE}\n{OTHER}\n"));
    let line = format!("kedge run one --image={OTHER} --restart=Never --command -- sleep 600");
    host.must(&line).unwrap();
    server.must("wait --for=condition=Ready pod/one --timeout=60s").unwrap();
    let exec = host.must("kedge exec one -- echo whole").unwrap();
    assert_eq!(exec, "whole\n");

    // An image in use stays; prune takes only what nothing uses.
    let out = fails(&host, &format!("kedge image rm {OTHER} {IMAGE}"), &["in use", IMAGE]);
    assert!(out.starts_with(&format!("{OTHER}: removed\n")), "{out}");
    assert_eq!(listed(), format!("{IMAGE}\n"));
    server.must("delete pod one --now").unwrap();
    let pruned = must("prune");
    assert!(pruned.starts_with("sha256:") && pruned.contains(" freed in "), "{pruned}");
    assert_eq!(listed(), "");

    let complete = host.must("bash -c 'source <(kedge completion bash) && complete -p kedge'").unwrap();
    assert!(complete.contains("-F _kedge"), "{complete}");
    for (shell, part) in [("zsh", "#compdef kedge"), ("fish", "complete -c kedge")] {
        assert!(host.must(&format!("kedge completion {shell}")).unwrap().contains(part), "{shell}");
    }
}
