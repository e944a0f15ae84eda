//! install.sh, the systemd unit and `kedge reset` on a Debian that boots with systemd.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use harness::kedge::checkout;
use harness::machine::{CLUSTER, System, dist};
use harness::{Arch, Machine, MachineSpec};

/// What a newcomer's server has, and nothing for building.
const PACKAGES: &str = "--include=systemd,systemd-sysv,dbus,udev,iproute2,nftables,procps";

/// A Debian made once, as a folder.
fn debian() -> PathBuf {
    let folder = checkout().join("target/machines/debian-amd64");
    let ready = folder.with_extension("ready");
    if !ready.exists() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        let output = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--format=directory", "--architectures=amd64", PACKAGES, "bookworm"])
            .arg(&folder)
            .output()
            .expect("mmdebstrap is needed (apt-get install mmdebstrap)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(&ready, "").unwrap();
    }
    folder
}

/// An interface that leads nowhere gives the node its address; a fixed MAC, so that its link-local routes are the same
/// after a reboot.
const ADDRESS: &str = "ip link add node0 address 02:00:00:00:00:01 type dummy && \
    ip addr add 10.97.0.2/24 dev node0 && ip link set node0 up";

/// Everything that an installation could leave behind, one fact a line. Left out: what systemd and the kernel write by
/// themselves (journal, timestamps, random seed, caches of units), and the tests' own files.
const TRACES: &str = r#"
{
	cut -d' ' -f2,3 /proc/mounts | sed 's/^/mount /'
	ip -o link | sed 's/.*: \([^:@]*\)[:@].*mtu.*/link \1/'
	ip route show table all | grep -v ' dev lo ' | sed 's/^/route /'
	ip rule | sed 's/^/rule /'
	nft list ruleset | sed 's/^/nft /'
	find /sys/fs/cgroup -type d | sed 's/^/cgroup /' | grep -v -e '\.service$' -e '\.mount$' -e '\.socket$' -e '\.scope$'
	ps -eo comm= | grep -v -e '^kworker' -e '^ps$' -e '^sh$' -e '^sort$' -e '^grep$' -e '^find$' -e '^sed$' -e '^cut$' -e '^sd-pam' | sed 's/^/process /'
	find / -xdev | sed 's/^/file /'
	find /run -xdev | sed 's/^/file /'
} | grep -v -e '^file /var/log/journal' -e '^file /run/log' -e '^file /run/systemd' -e '^file /run/udev' \
	-e '^file /run/machine' -e '^file /var/lib/systemd' -e '^file /proc' -e '^file /sys' -e '^file /dev' \
	-e '^process systemd-' -e '^process (udev-worker)' -e '^file /tmp/systemd-private' -e '^file /var/tmp/systemd-private' | sort -u
"#;

/// Says that it is a Kedge, and does not serve.
const BROKEN: &str = "#!/bin/sh\ncase $1 in version) ;; unit) exec /root/kedge \"$@\" ;; *) exit 1 ;; esac\n";

#[test]
fn install_upgrade_and_reset_on_debian() {
    let mut spec = MachineSpec::new("debian", Arch::X86_64)
        .file(dist(Arch::X86_64).unwrap(), "/root/kedge", 0o755)
        .file(checkout().join("install.sh"), "/root/install.sh", 0o755);
    spec.system = System::Debian(debian());
    let mut machine = Machine::boot(spec).unwrap();
    machine
        .until(
            "systemd to be done",
            CLUSTER,
            "systemctl is-system-running --wait || systemctl --failed | grep -q '^0 '",
        )
        .unwrap();
    machine.must(ADDRESS).unwrap();
    let before = machine.must(TRACES).unwrap();

    let install = |machine: &mut Machine, binary: &str| {
        let output = machine.run_within(&format!("INSTALL_KEDGE_BIN={binary} /root/install.sh"), CLUSTER).unwrap();
        let journal = machine.run("journalctl -u kedge --no-pager -n 60").unwrap().stdout;
        assert!(output.ok(), "{}{}\n{journal}", output.stdout, output.stderr);
        output.stdout
    };
    install(&mut machine, "/root/kedge");
    let unit = "systemctl show kedge -p ActiveState -p Type -p KillMode -p Delegate -p UnitFileState";
    let shown = machine.must(unit).unwrap();
    for wanted in ["ActiveState=active", "Type=notify", "KillMode=process", "Delegate=yes", "UnitFileState=enabled"] {
        assert!(shown.lines().any(|l| l == wanted), "{wanted} is not in {shown}");
    }
    // Type=notify: when install.sh is done, the node is Ready.
    let nodes = machine.must("kedge get nodes").unwrap();
    assert!(nodes.contains(" Ready "), "{nodes}");

    // Once more with another binary (bytes after the end of an ELF file are nobody's): an upgrade in place.
    machine.must("cp /root/kedge /root/kedge-next && echo next >>/root/kedge-next").unwrap();
    let pid = "systemctl show kedge -p MainPID --value";
    let old = machine.must(pid).unwrap();
    let said = install(&mut machine, "/root/kedge-next");
    assert!(said.contains("upgrading"), "{said}");
    assert_ne!(machine.must(pid).unwrap(), old);
    machine.must("cmp /usr/local/bin/kedge /root/kedge-next && cmp /usr/local/bin/kedge.previous /root/kedge").unwrap();

    // A binary that does not come up makes way for the one before it.
    let broken = std::env::temp_dir().join(harness::unique("kedge-broken"));
    fs::write(&broken, BROKEN).unwrap();
    machine.push(&broken, "/root/broken", 0o755).unwrap();
    fs::remove_file(&broken).unwrap();
    let refused = machine.run_within("INSTALL_KEDGE_BIN=/root/broken /root/install.sh", CLUSTER).unwrap();
    assert!(refused.code == 1 && refused.stderr.contains("the previous binary runs again"), "{}", refused.stderr);
    machine
        .must("cmp /usr/local/bin/kedge /root/kedge-next && kedge get nodes | grep ' Ready ' && rm /root/broken")
        .unwrap();

    // It starts by itself after a power cut.
    machine.must("sync").unwrap();
    machine.cut_power().unwrap();
    machine.power_on().unwrap();
    machine.must(ADDRESS).unwrap();
    machine
        .until(
            "the service after a power cut",
            CLUSTER,
            "systemctl is-active kedge && kedge get nodes | grep ' Ready '",
        )
        .unwrap();

    machine.must("rm /root/kedge-next").unwrap();
    let reset = machine.run_within("kedge reset --yes", CLUSTER).unwrap();
    assert!(reset.ok(), "{}{}", reset.stdout, reset.stderr);
    let after = machine.must(TRACES).unwrap();
    let left: Vec<&str> = after.lines().filter(|l| !before.lines().any(|b| b == *l)).collect();
    let gone: Vec<&str> = before.lines().filter(|l| !after.lines().any(|a| a == *l)).collect();
    assert!(left.is_empty() && gone.is_empty(), "left behind: {left:#?}\ntaken away: {gone:#?}");
}
