//! install.sh and `kedge reset` on a host with neither systemd nor OpenRC: up, upgraded, and gone without a trace.

use std::sync::Arc;

use harness::{Host, Switch, kedge};

/// Everything that an installation may leave on a host, as text.
fn traces(host: &Host) -> String {
    host.must(
        "awk '{print $2, $3}' /proc/self/mounts | grep -v '^/sys\\|^/dev' | sort; ip -br link | awk '{print $1}' | sed 's/@.*//' | sort; \
         ip -4 route; ip -6 route | grep -v fe80; nft list tables; ls /run/netns 2>/dev/null; \
         ps -eo comm= | grep -c '^kedge$' || true; \
         find /etc /usr/local /var/lib /var/log /run /root -xdev \\( -path /run/shared -o -path /root/.cache -o -path /root/.kube \\) -prune -o -print 2>/dev/null | sort; \
         find /sys/fs/cgroup -maxdepth 2 -name 'kedge*' | sort",
    )
    .unwrap()
}

#[test]
fn installs_upgrades_and_leaves_nothing() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("fresh", &switch, [10, 99, 0, 20]).unwrap();
    std::fs::copy(kedge::binary(), host.shared().join("kedge")).unwrap();
    std::fs::copy(kedge::checkout().join("install.sh"), host.shared().join("install.sh")).unwrap();
    let before = traces(&host);

    let exec = format!("server --cgroup-root {}", host.cgroup());
    let line = format!(
        "INSTALL_KEDGE_BIN=/run/shared/kedge INSTALL_KEDGE_EXEC='{exec}' KEDGE_LOG_LEVEL=debug /run/shared/install.sh"
    );
    let printed = host.must(&line).unwrap();
    assert!(printed.contains("Kedge is running") && printed.contains("export KUBECONFIG"), "{printed}");
    host.must("kedge get nodes | grep -w Ready").unwrap();
    host.must("kedge run keeper --image=kedge.test/none:1 --restart=Never").ok();
    let mode = host.must("stat -c %a /etc/kedge/kedge.yaml /etc/kedge/kedge.env").unwrap();
    assert_eq!(mode, "600\n600\n");

    // again: an upgrade in place
    let first = host.must("cat /run/kedge/kedge.pid").unwrap();
    let again = host.must(&line).unwrap();
    assert!(again.contains("Kedge is running"), "{again}");
    assert_ne!(first, host.must("cat /run/kedge/kedge.pid").unwrap());
    assert!(host.must("cat /etc/kedge/kedge.env").unwrap().contains("KEDGE_LOG_LEVEL=debug"));

    // without confirmation nothing happens
    let refused = host.run("kedge reset </dev/null").unwrap();
    assert_eq!(refused.code, 1);
    host.must("kedge get nodes").unwrap();

    let gone = host.must(&format!("kedge reset --yes --cgroup-root {}", host.cgroup())).unwrap();
    assert!(gone.contains("every trace"), "{gone}");
    assert_eq!(before, traces(&host));
}

#[test]
fn bad_input_is_answered_in_one_line() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("strict", &switch, [10, 99, 0, 21]).unwrap();
    std::fs::copy(kedge::binary(), host.shared().join("kedge")).unwrap();
    host.must("mkdir -p /etc/kedge /var/lib/kedge/server && echo 'max-pdos: 7' > /etc/kedge/config.yaml").unwrap();
    let kedge = "/run/shared/kedge";
    for (line, code, part) in [
        (format!("{kedge} server"), 2, "unknown key \"max-pdos\""),
        (format!("{kedge} server --config /none --max-pods x"), 2, "--max-pods"),
        (format!("{kedge} agent --config /none"), 1, "not served by this version"),
        (format!("{kedge} frobnicate"), 2, "frobnicate"),
        (
            format!(
                "python3 -c 'import socket,subprocess,sys; s=socket.create_server((\"\",6443)); sys.exit(subprocess.call([\"{kedge}\",\"server\",\"--config\",\"/none\"]))'"
            ),
            1,
            "port 6443 is taken",
        ),
        (
            format!("head -c 5000 /dev/urandom > /var/lib/kedge/server/state.db; {kedge} server --config /none"),
            1,
            "state.db",
        ),
    ] {
        let output = host.run(&line).unwrap();
        assert_eq!(output.code, code, "{line}: {}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains(part), "{line}: {}", output.stderr);
    }
}
