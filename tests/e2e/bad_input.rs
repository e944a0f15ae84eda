//! Input that is wrong, given to the real binary: each is refused in one line that says what to do, the daemon goes on and
//! nothing is lost. What the API refuses is tested in `src/apiserver/tests/api/bad_input.rs`.

use std::process::Stdio;
use std::sync::Arc;

use harness::kedge::{Server, add_images, checkout};
use harness::{Host, Switch, wait};

const STATE: &str = "/var/lib/kedge/server/state.db";

/// A line that must fail with this code and say these words, last.
fn refused(host: &Host, line: &str, code: i32, words: &str) {
    let out = host.run(line).unwrap();
    assert!(out.code == code && out.stderr.trim_end().ends_with(words), "{line}: {} {:?}", out.code, out.stderr);
}

#[test]
fn the_daemon_refuses_and_goes_on() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("bad", &switch, [10, 99, 0, 10]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    let mut server = Server::start(&host, &[]).unwrap();
    server.must("create configmap kept --from-literal=k=v").unwrap();
    let second = format!("timeout 20 kedge server --cgroup-root {}/second", host.cgroup());

    // Clients that connect and say nothing, from before and from after the handshake.
    let silent = "import socket, ssl, time\n\
        plain = [socket.create_connection(('127.0.0.1', 6443)) for _ in range(900)]\n\
        context = ssl._create_unverified_context()\n\
        context.set_alpn_protocols(['h2'])\n\
        ready = [context.wrap_socket(socket.create_connection(('127.0.0.1', 6443))) for _ in range(20)]\n\
        for s in plain + ready:\n\
        \x20   s.settimeout(60)\n\
        \x20   while s.recv(4096): pass\n";
    std::fs::write(host.shared().join("silent.py"), silent).unwrap();
    let mut crowd = host.command("python3").arg("/run/shared/silent.py").spawn().unwrap();

    a_second_daemon(&server, &second);
    let alone = format!("{second} --disable-agent --run-dir /tmp/run");
    refused(&host, &format!("{alone} --data-dir /tmp/second"), 1, "or choose another with --https-listen-port");
    refused(
        &host,
        &format!("{alone} --https-listen-port 7443"),
        1,
        "the state database /var/lib/kedge/server/state.db is in use by another process",
    );
    host.must("mkdir -p /tmp/config && echo 'max-pdos: 7' > /tmp/config/config.yaml").unwrap();
    refused(
        &host,
        &format!("{second} --config /tmp/config/config.yaml"),
        2,
        "unknown key \"max-pdos\"; the keys are the flags of `kedge server --help` without the dashes",
    );
    let archive = checkout().join("images/out/busybox-amd64.tar");
    host.must(&format!("head -c 500000 {} > /tmp/cut.tar", archive.display())).unwrap();
    refused(&host, "kedge image import /tmp/cut.tar", 1, "the archive is cut short: it ends within a file");
    refused(&host, "kedge image pull 127.0.0.1:5999/no:1", 1, "Connection refused (os error 111)");
    refused(&host, "kedge image pull 'No Image'", 1, "invalid reference format: repository name must be lowercase");
    assert!(host.must("kedge image list").unwrap().contains("kedge.test/busybox:1"));

    // All of them are sent away, without a request having waited for it.
    assert_eq!(server.must("get configmap kept -o jsonpath={.data.k}").unwrap(), "v");
    let sent_away = wait::until("silent connections to be closed", wait::CLUSTER, || Ok(crowd.try_wait()?));
    let _ = crowd.kill();
    assert!(sent_away.unwrap().success());

    // A kind that is not served, in a group that is.
    let set = "apiVersion: apps/v1\nkind: StatelessSet\nmetadata: {name: db}\nspec: {serviceName: db}\n";
    std::fs::write(host.shared().join("set.yaml"), set).unwrap();
    for verb in ["apply", "create"] {
        let out = server.kubectl(&format!("{verb} -f /run/shared/set.yaml")).unwrap();
        let words = "no matches for kind \"StatelessSet\" in version \"apps/v1\"\nensure CRDs are installed first";
        assert!(out.code == 1 && out.stderr.trim_end().ends_with(words), "{verb}: {} {:?}", out.code, out.stderr);
    }

    // State of a newer version is left alone.
    server.kill().unwrap();
    let version = |n: u32| {
        let line = format!("import sqlite3; c = sqlite3.connect('{STATE}'); c.execute('pragma user_version = {n}')");
        host.must(&format!("python3 -c \"{line}\"")).unwrap();
    };
    version(99);
    let newer = format!("{STATE} was written by a newer version (schema 99, this one knows 1)");
    refused(&host, &second, 1, &newer);
    version(1);
    server.restart().unwrap();
    assert_eq!(server.must("get configmap kept -o jsonpath={.data.k}").unwrap(), "v");
}

/// A daemon with data and ports of its own leaves what belongs to the first as it is: pods, run folder, network, kubeconfig.
fn a_second_daemon(server: &Server, second: &str) {
    let host = server.host;
    server.must("run goes-on --image=kedge.test/busybox:1 --image-pull-policy=IfNotPresent -- sleep 3600").unwrap();
    server.must("wait pod/goes-on --for=condition=Ready --timeout=60s").unwrap();
    let look = || {
        let pod = server.must("get pod goes-on -o jsonpath={.status.podIP},{.status.containerStatuses}").unwrap();
        let files = "cat /run/kedge/kedge.pid /etc/kedge/kedge.yaml && ls -i /run/kedge && pgrep -x sleep";
        (pod, host.must(files).unwrap(), host.must("nft list table inet kedge").unwrap())
    };
    let before = look();
    let own = format!("{second} --data-dir /tmp/second --https-listen-port 7443 --kubelet-port 11250");
    let pid = host.must("cat /run/kedge/kedge.pid").unwrap().trim().to_owned();
    let advice = "stop it, or start this one with --disable-agent and another --run-dir";
    refused(host, &own, 1, &format!("kedge server: /run/kedge is used by process {pid}: {advice}"));
    let network = "the network of this host (bridge kedge0, nft table kedge)";
    let elsewhere = format!("{own} --run-dir /tmp/run");
    refused(host, &elsewhere, 1, &format!("kedge server: {network} is used by process {pid}: {advice}"));
    let reset = "kedge reset --yes --keep-installation --run-dir /tmp/run --data-dir /tmp/second";
    let words = format!("{network} is used by process {pid}: stop it first; nothing was removed");
    refused(host, &format!("{reset} --cgroup-root {}/second", host.cgroup()), 1, &words);
    assert!(!host.run("test -e /tmp/second").unwrap().ok(), "the second daemon has written before it had the locks");
    assert_eq!(before, look());
    assert!(host.must("kedge image list").unwrap().contains("kedge.test/busybox:1"));
}

/// An image's way from the archive to a registry that asks for a password, and from there into the daemon.
#[test]
fn an_image_goes_through_a_registry() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("registry", &switch, [10, 99, 0, 10]).unwrap();
    let _server = Server::start(&host, &[]).unwrap();
    let config = "version: 0.1\nstorage: {filesystem: {rootdirectory: /tmp/registry}}\nhttp: {addr: \"127.0.0.1:5000\"}\n\
                  auth: {htpasswd: {realm: test, path: /run/shared/users}}\n";
    std::fs::write(host.shared().join("registry.yml"), config).unwrap();
    host.must("htpasswd -Bbc /run/shared/users ann secret").unwrap();
    let mut registry = host.command("docker-registry");
    registry.args(["serve", "/run/shared/registry.yml"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut registry = registry.spawn().unwrap();
    wait::until("the registry", wait::BOOT, || {
        Ok(host.run("curl -s -o /dev/null http://127.0.0.1:5000/v2/")?.ok().then_some(()))
    })
    .unwrap();
    let archive = checkout().join("images/out/busybox-amd64.tar");
    let to = "docker://127.0.0.1:5000/team/tools:1";
    let push = format!("--dest-tls-verify=false --dest-creds ann:secret oci-archive:{} {to}", archive.display());
    host.must(&format!("skopeo copy --quiet {push}")).unwrap();
    let refused = host.run("kedge image pull 127.0.0.1:5000/team/tools:1").unwrap();
    assert!(!refused.ok() && refused.stderr.contains("401 Unauthorized"), "{}", refused.stderr);
    host.must("kedge image pull --username ann --password secret 127.0.0.1:5000/team/tools:1").unwrap();
    let look = format!("skopeo inspect --tls-verify=false --creds ann:secret --format '{{{{.Digest}}}}' {to}");
    let digest = host.must(&look).unwrap();
    let by_digest = format!("127.0.0.1:5000/team/tools@{}", digest.trim());
    host.must(&format!("kedge image pull --username ann --password secret {by_digest}")).unwrap();
    assert!(host.must("kedge image list").unwrap().contains("127.0.0.1:5000/team/tools"));
    let _ = registry.kill();
    let _ = registry.wait();
}
