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
    let after = traces(&host);
    let only = |these: &str, those: &str| {
        these.lines().filter(|l| !those.lines().any(|o| o == *l)).collect::<Vec<_>>().join("\n")
    };
    assert!(before == after, "gone:\n{}\nleft behind:\n{}", only(&before, &after), only(&after, &before));
}

/// Serves `/run/shared/releases` on the host as a download site would.
const SITE: &str = "cd /run/shared/releases && (setsid python3 -m http.server 8099 --bind 127.0.0.1 >/dev/null 2>&1 </dev/null &) ; \
    curl -fsS --retry 5 --retry-connrefused -o /dev/null http://127.0.0.1:8099/install.sh";

#[test]
fn piped_from_a_download_site() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("piped", &switch, [10, 99, 0, 22]).unwrap();
    let releases = host.shared().join("releases");
    let latest = releases.join("latest/download");
    std::fs::create_dir_all(&latest).unwrap();
    let name = format!("kedge-{}", std::env::consts::ARCH);
    std::fs::copy(kedge::binary(), latest.join(&name)).unwrap();
    std::fs::copy(kedge::checkout().join("install.sh"), releases.join("install.sh")).unwrap();
    std::fs::write(latest.join(format!("{name}.sha256")), format!("{}  {name}\n", "0".repeat(64))).unwrap();
    host.must(SITE).unwrap();

    let exec = format!("server --cgroup-root {}", host.cgroup());
    let site = format!("INSTALL_KEDGE_URL=http://127.0.0.1:8099 INSTALL_KEDGE_EXEC='{exec}'");
    let piped = |settings: &str, as_who: &str| {
        host.run(&format!("cd /; curl -sfL http://127.0.0.1:8099/install.sh | {settings} {as_who} sh -")).unwrap()
    };
    // each is refused with a reason, before anything is changed
    for (settings, as_who, part) in [
        (site.clone(), "setpriv --reuid 65534 --regid 65534 --clear-groups", "run this as root"),
        (site.clone(), "", "the download is damaged"),
        (format!("{site} INSTALL_KEDGE_VERSION=v0"), "", "cannot download http://127.0.0.1:8099/download/v0/kedge-"),
        ("INSTALL_KEDGE_BIN=/none".into(), "", "INSTALL_KEDGE_BIN: /none is not there"),
        ("INSTALL_KEDGE_BIN=/etc/passwd".into(), "", "/etc/passwd does not run on this machine"),
        (
            "KEDGE_URL=https://10.99.0.1:6443 KEDGE_TOKEN=t INSTALL_KEDGE_BIN=/run/shared/releases/latest/download/kedge-$(uname -m)".into(),
            "",
            "joining a server is not served by this version",
        ),
    ] {
        let refused = piped(&settings, as_who);
        assert_eq!(refused.code, 1, "{settings}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains(part), "{settings}: {}", refused.stderr);
        host.must("! ls -d /usr/local/bin/*kedge* /usr/local/bin/.kedge* /etc/kedge /run/kedge 2>/dev/null").unwrap();
    }

    host.must(&format!("cd {} && sha256sum {name} >{name}.sha256", "/run/shared/releases/latest/download")).unwrap();
    let installed = piped(&format!("{site} INSTALL_KEDGE_SKIP_START=1"), "env -u HOME");
    assert!(installed.ok() && installed.stdout.contains("it was not started"), "{}", installed.stderr);
    host.must("kedge version && test ! -e /run/kedge").unwrap();
    let started = piped(&site, "");
    assert!(started.ok() && started.stdout.contains("Kedge is running"), "{}", started.stderr);
    host.must("kedge get nodes | grep -w Ready").unwrap();

    // a binary that is given by its name alone, and of which the caller may not change the mode
    host.must(&format!(
        "cp /run/shared/releases/latest/download/{name} /tmp/next && echo next >>/tmp/next && chmod 444 /tmp/next"
    ))
    .unwrap();
    let upgraded = host
        .run(&format!(
            "cd /tmp && INSTALL_KEDGE_BIN=next INSTALL_KEDGE_EXEC='{exec}' sh /run/shared/releases/install.sh"
        ))
        .unwrap();
    assert!(upgraded.ok() && upgraded.stdout.contains("upgrading"), "{}", upgraded.stderr);
    host.must(&format!(
        "cmp /tmp/next /usr/local/bin/kedge && test $(stat -c %a /tmp/next) = 444 && \
         cmp /usr/local/bin/kedge.previous /run/shared/releases/latest/download/{name} && kedge get nodes | grep -w Ready"
    ))
    .unwrap();

    // a binary that does not come up makes way for the one before it
    let broken = "#!/bin/sh\ncase $1 in version) ;; unit) exec /tmp/next-runs \"$@\" ;; *) exit 1 ;; esac\n";
    std::fs::write(host.shared().join("broken"), broken).unwrap();
    let refused = host
        .run(&format!(
            "cp /tmp/next /tmp/next-runs; chmod 755 /tmp/next-runs; \
             INSTALL_KEDGE_BIN=/run/shared/broken INSTALL_KEDGE_EXEC='{exec}' sh /run/shared/releases/install.sh"
        ))
        .unwrap();
    assert!(refused.code == 1 && refused.stderr.contains("the previous binary runs again"), "{}", refused.stderr);
    host.must("cmp /tmp/next /usr/local/bin/kedge && kedge get nodes | grep -w Ready").unwrap();
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
        (format!("{kedge} server --config /none"), 2, "/none: cannot be read: "),
        (format!("{kedge} server --config /dev/null --max-pods x"), 2, "--max-pods"),
        (format!("{kedge} agent --config /dev/null"), 1, "not served by this version"),
        (format!("{kedge} frobnicate"), 2, "frobnicate"),
        (
            format!(
                "python3 -c 'import socket,subprocess,sys; s=socket.create_server((\"\",6443)); sys.exit(subprocess.call([\"{kedge}\",\"server\",\"--config\",\"/dev/null\"]))'"
            ),
            1,
            "port 6443 is taken",
        ),
        (
            format!("head -c 5000 /dev/urandom > /var/lib/kedge/server/state.db; {kedge} server --config /dev/null"),
            1,
            "state.db",
        ),
    ] {
        let output = host.run(&line).unwrap();
        assert_eq!(output.code, code, "{line}: {}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains(part), "{line}: {}", output.stderr);
    }
}
