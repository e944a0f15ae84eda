//! `kedge check`: can this host run Kedge, and what to do about each thing that stands in the way.
//!
//! Reading the host ([`observe`]) and judging it ([`judge`]) are apart, so that every finding can be tested.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

#[derive(Debug, Clone, Args)]
pub struct Check {
    /// Where state would be kept
    #[arg(long, env = "KEDGE_DATA_DIR", value_name = "DIR", default_value = "/var/lib/kedge")]
    pub data_dir: PathBuf,
    /// Port of the API
    #[arg(long, env = "KEDGE_HTTPS_LISTEN_PORT", value_name = "PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Port of the node's own HTTPS API
    #[arg(long, env = "KEDGE_KUBELET_PORT", value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// Works, with something missing or slow.
    Warning,
    /// Kedge cannot run.
    Failure,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    pub what: &'static str,
    pub text: String,
}

/// The facts of the host that decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub root: bool,
    pub kernel: (u32, u32),
    pub filesystems: BTreeSet<String>,
    /// Controllers of cgroup v2, or of v1 when v2 has none.
    pub cgroup_v2: bool,
    pub controllers: BTreeSet<String>,
    /// Whether a nftables table could be asked for.
    pub nftables: bool,
    pub taken_ports: Vec<u16>,
    pub memory_bytes: u64,
    pub free_bytes: u64,
    /// One small write with fsync; `None` when the folder cannot be written.
    pub fsync: Option<Duration>,
    pub year: i16,
    pub ipv6: bool,
}

const MEMORY_MIN_BYTES: u64 = 256 << 20;
const FREE_MIN_BYTES: u64 = 512 << 20;
/// Slower than this and every acknowledged write is felt.
const FSYNC_SLOW: Duration = Duration::from_millis(50);
/// The first kernel with clone3 and the new mount calls that the runtime uses.
const KERNEL_MIN: (u32, u32) = (5, 4);
/// A clock before this was never set.
const YEAR_MIN: i16 = 2024;

pub fn judge(host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |what, level, text: String| findings.push(Finding { level, what, text });
    let fail_unless = |holds: bool, level| if holds { Level::Ok } else { level };

    match host.root {
        true => add("user", Level::Ok, "root".into()),
        false => add("user", Level::Failure, "not root: run kedge as root (sudo kedge check)".into()),
    }
    let (major, minor) = host.kernel;
    match host.kernel >= KERNEL_MIN {
        true => add("kernel", Level::Ok, format!("{major}.{minor}")),
        false => add("kernel", Level::Failure, format!("{major}.{minor} is too old: 5.4 or newer is needed")),
    }
    match host.filesystems.contains("overlay") {
        true => add("overlayfs", Level::Ok, "available".into()),
        false => add("overlayfs", Level::Failure, "missing: load it (modprobe overlay)".into()),
    }
    match host.nftables {
        true => add("nftables", Level::Ok, "available".into()),
        false => {
            add("nftables", Level::Failure, "missing: load it (modprobe nf_tables nft_nat nft_masq nft_numgen)".into())
        }
    }
    let wanted = ["cpu", "memory", "pids"];
    let missing: Vec<&str> = wanted.into_iter().filter(|c| !host.controllers.contains(*c)).collect();
    let version = if host.cgroup_v2 { "v2" } else { "v1" };
    match missing.as_slice() {
        [] if host.cgroup_v2 => add("cgroups", Level::Ok, version.into()),
        [] => add("cgroups", Level::Ok, "v1 (works; v2 is what new kernels and systemd use)".into()),
        _ => add(
            "cgroups",
            Level::Failure,
            format!(
                "{version} without {}: on a Raspberry Pi add `cgroup_enable=memory` to /boot/firmware/cmdline.txt and reboot",
                missing.join(", ")
            ),
        ),
    }
    match host.taken_ports.as_slice() {
        [] => add("ports", Level::Ok, "free".into()),
        taken => {
            let list: Vec<String> = taken.iter().map(u16::to_string).collect();
            let text = format!(
                "in use: {}: stop what listens there or choose others with --https-listen-port and --kubelet-port",
                list.join(", ")
            );
            add("ports", Level::Warning, text);
        }
    }
    let enough = host.memory_bytes >= MEMORY_MIN_BYTES;
    let text = format!("{} MiB{}", host.memory_bytes >> 20, if enough { "" } else { ": little room is left for pods" });
    add("memory", fail_unless(enough, Level::Warning), text);
    let enough = host.free_bytes >= FREE_MIN_BYTES;
    let text = format!("{} MiB free{}", host.free_bytes >> 20, if enough { "" } else { ": make room for images" });
    add("disk", fail_unless(enough, Level::Warning), text);
    match host.fsync {
        None => add(
            "disk writes",
            Level::Failure,
            "the data folder cannot be written: choose another with --data-dir".into(),
        ),
        Some(took) if took > FSYNC_SLOW => {
            add(
                "disk writes",
                Level::Warning,
                format!("{} ms for a flushed write: every change of the cluster waits that long", took.as_millis()),
            );
        }
        Some(took) => add("disk writes", Level::Ok, format!("{:.1} ms for a flushed write", took.as_secs_f64() * 1e3)),
    }
    match host.year >= YEAR_MIN {
        true => add("clock", Level::Ok, format!("year {}", host.year)),
        false => add(
            "clock",
            Level::Warning,
            format!(
                "says {}: set it (timedatectl set-ntp true); others will not trust certificates made now",
                host.year
            ),
        ),
    }
    match host.ipv6 {
        true => add("IPv6", Level::Ok, "available".into()),
        false => add("IPv6", Level::Warning, "absent: the cluster will have IPv4 only".into()),
    }
    findings
}

/// Reads the host. Writes and removes one file in the data folder (or its nearest existing parent) to time a flush.
pub fn observe(check: &Check) -> Host {
    let filesystems =
        read("/proc/filesystems").lines().filter_map(|l| l.split_whitespace().last().map(str::to_owned)).collect();
    let (cgroup_v2, controllers) = controllers();
    let folder = nearest_existing(&check.data_dir);
    Host {
        root: nix::unistd::geteuid().is_root(),
        kernel: kernel(&read("/proc/sys/kernel/osrelease")),
        filesystems,
        cgroup_v2,
        controllers,
        nftables: nftables(),
        taken_ports: [check.https_listen_port, check.kubelet_port].into_iter().filter(|p| taken(*p)).collect(),
        memory_bytes: memory(&read("/proc/meminfo")),
        free_bytes: nix::sys::statvfs::statvfs(&folder)
            .map(|s| s.blocks_available() * s.fragment_size())
            .unwrap_or_default(),
        fsync: time_fsync(&folder),
        year: crate::clock::now().to_zoned(jiff::tz::TimeZone::UTC).year(),
        ipv6: Path::new("/proc/net/if_inet6").exists(),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn kernel(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).filter_map(|p| p.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find(|l| l.starts_with("MemTotal:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn controllers() -> (bool, BTreeSet<String>) {
    let v2: BTreeSet<String> =
        read("/sys/fs/cgroup/cgroup.controllers").split_whitespace().map(str::to_owned).collect();
    if !v2.is_empty() {
        return (true, v2);
    }
    let enabled = |line: &str| {
        let mut columns = line.split_whitespace();
        let name = columns.next()?;
        (columns.nth(2)? == "1").then(|| name.to_owned())
    };
    (false, read("/proc/cgroups").lines().filter(|l| !l.starts_with('#')).filter_map(enabled).collect())
}

/// Whether the kernel answers for nftables: a netlink socket of that family opens only when the module is there.
fn nftables() -> bool {
    Path::new("/proc/sys/net/netfilter").exists() || read("/proc/modules").contains("nf_tables")
}

fn taken(port: u16) -> bool {
    match TcpListener::bind(("::", port)) {
        Ok(_) => false,
        Err(e) => e.kind() == std::io::ErrorKind::AddrInUse,
    }
}

fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn time_fsync(folder: &Path) -> Option<Duration> {
    use std::io::Write as _;
    let path = folder.join(format!(".kedge-check-{}", std::process::id()));
    let attempt = || -> std::io::Result<Duration> {
        let mut file = std::fs::File::create_new(&path)?;
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        let start = crate::clock::monotonic();
        file.write_all(&[1; 4096])?;
        file.sync_all()?;
        Ok(crate::clock::monotonic() - start)
    };
    let took = attempt().ok();
    let _ = std::fs::remove_file(&path);
    took
}

/// Prints the findings, one line each; whether Kedge can run.
pub fn run(check: &Check) -> bool {
    let findings = judge(&observe(check));
    for finding in &findings {
        let mark = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Failure => "FAILED ",
        };
        println!("{mark}  {:<12}  {}", finding.what, finding.text);
    }
    findings.iter().all(|f| f.level != Level::Failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Host {
        Host {
            root: true,
            kernel: (6, 1),
            filesystems: ["overlay".to_owned()].into(),
            cgroup_v2: true,
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
            nftables: true,
            taken_ports: vec![],
            memory_bytes: 1 << 30,
            free_bytes: 1 << 34,
            fsync: Some(Duration::from_millis(2)),
            year: 2026,
            ipv6: true,
        }
    }

    #[test]
    fn every_finding_says_what_to_do() {
        assert!(judge(&good()).iter().all(|f| f.level == Level::Ok));
        type Change = fn(&mut Host);
        let rows: &[(&str, Change, Level, &str)] = &[
            ("user", |h| h.root = false, Level::Failure, "sudo"),
            ("kernel", |h| h.kernel = (4, 19), Level::Failure, "5.4"),
            ("overlayfs", |h| h.filesystems.clear(), Level::Failure, "modprobe overlay"),
            ("nftables", |h| h.nftables = false, Level::Failure, "modprobe"),
            (
                "cgroups",
                |h| {
                    h.controllers.remove("memory");
                },
                Level::Failure,
                "cgroup_enable=memory",
            ),
            ("ports", |h| h.taken_ports = vec![6443], Level::Warning, "--https-listen-port"),
            ("memory", |h| h.memory_bytes = 1 << 20, Level::Warning, "little room"),
            ("disk", |h| h.free_bytes = 1, Level::Warning, "make room"),
            ("disk writes", |h| h.fsync = None, Level::Failure, "--data-dir"),
            ("disk writes", |h| h.fsync = Some(Duration::from_secs(1)), Level::Warning, "waits"),
            ("clock", |h| h.year = 1970, Level::Warning, "timedatectl"),
            ("IPv6", |h| h.ipv6 = false, Level::Warning, "IPv4 only"),
        ];
        for (what, change, level, part) in rows {
            let mut host = good();
            change(&mut host);
            let findings = judge(&host);
            let found: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
            assert_eq!(found.len(), 1, "{what}");
            assert_eq!((found[0].what, found[0].level), (*what, *level));
            assert!(found[0].text.contains(part), "{what}: {}", found[0].text);
        }
    }

    #[test]
    fn kernel_releases() {
        assert_eq!(kernel("6.18.0-rc1+deb13"), (6, 18));
        assert_eq!(kernel("5.4"), (5, 4));
        assert_eq!(kernel(""), (0, 0));
    }
}
