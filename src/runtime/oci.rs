//! From [`crate::spec`] to the OCI runtime spec. Pure: facts of the host come in as values, decisions go out as JSON.
//!
//! Source: opencontainers/runtime-spec config.md, config-linux.md; defaults as containerd's oci.WithDefaultSpec.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup::Version;
use crate::shim::protocol::{DeviceRule, IPC_FD, LENT, PID_FD, ROOTFS_DIR, Staged, StagedKind, UTS_FD};
use crate::spec::{
    ContainerSpec, Mount, MountSource, Namespace, NetworkNamespace, PodSpec, Propagation, Resources, Rootfs,
};
use crate::{capability, seccomp};

/// What must be known of the host.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: Version,
    /// Bit mask of capabilities that this process may hand out.
    pub capabilities: u64,
    /// Hard limits that cannot be exceeded, by `RLIMIT_` name; empty when this process may raise them.
    pub rlimits: BTreeMap<String, u64>,
    pub apparmor: bool,
}

/// What must be known of this container's place.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The container's directory.
    pub dir: PathBuf,
    /// The pod's `/dev/shm` on the host.
    pub shm: PathBuf,
    /// As an OCI spec names it.
    pub cgroup: String,
    /// v1: controller to the container's cgroup directory.
    pub controllers: BTreeMap<String, PathBuf>,
    /// Bind sources that are not directories: a file needs no staging.
    pub files: Vec<PathBuf>,
    /// The devices asked for, as they are on the host.
    pub devices: Vec<DeviceNode>,
    /// Host process whose process namespace is joined.
    pub pid_target: Option<u32>,
    /// Termination message: file on the host and path in the container.
    pub message: Option<(PathBuf, PathBuf)>,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    pub path: PathBuf,
    pub kind: char,
    pub major: i64,
    pub minor: i64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub access: String,
}

/// The spec, and what the creator must do beside it.
#[derive(Debug, Clone)]
pub struct Built {
    pub config: Value,
    pub staged: Vec<Staged>,
    /// The profile to compile. Not in `config`: the executor loads it, see [`lent`].
    pub seccomp: Option<Value>,
    /// Every allowed device, for v2.
    pub device_rules: Option<Vec<DeviceRule>>,
}

const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Parts of /proc and /sys that tell about, or change, the host.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const MASKED_MORE: [&str; 1] = ["/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Device rules that every container has: making nodes (not using them), null, zero, full, random, urandom, tty, the
/// terminals.
const DEVICES: [(char, Option<i64>, Option<i64>, &str); 10] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), None, "rwm"),
    ('c', Some(136), None, "rwm"),
    ('c', Some(10), Some(200), "rwm"),
];

/// Builds the spec. Errors: one line about the field that is wrong.
pub fn build(pod: &PodSpec, container: &ContainerSpec, place: &Place, facts: &Facts) -> Result<Built, String> {
    check(container)?;
    let capabilities: Vec<String> = container
        .capabilities
        .iter()
        .filter(|name| capability::number(name).is_some_and(|n| facts.capabilities >> n & 1 == 1))
        .cloned()
        .collect();
    let (mounts, staged) = mounts(container, place, facts)?;
    let shared = container.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional);
    let mut linux = json!({
        "namespaces": namespaces(pod, place),
        "cgroupsPath": place.cgroup,
        "resources": resources(container, place, facts),
        "rootfsPropagation": if shared { "shared" } else { "slave" },
    });
    if container.mask_proc && !container.privileged {
        linux["maskedPaths"] = json!(MASKED.iter().chain(&MASKED_MORE).collect::<Vec<_>>());
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    let seccomp = seccomp::profile(&container.seccomp, &capabilities)?;
    let lent = if seccomp.is_some() && !container.no_new_privileges { lent(&capabilities) } else { Vec::new() };
    if !place.devices.is_empty() {
        linux["devices"] = place
            .devices
            .iter()
            .map(|d| {
                json!({"path": d.path, "type": d.kind.to_string(), "major": d.major, "minor": d.minor,
                    "fileMode": d.mode, "uid": d.uid, "gid": d.gid})
            })
            .collect();
    }
    let root = match &container.rootfs {
        Rootfs::Overlay { .. } => place.dir.join(ROOTFS_DIR),
        Rootfs::Directory(path) => path.clone(),
    };
    // No host name: the shim has set it in the namespace that is joined, and without one it must not be set.
    let config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": root, "readonly": container.read_only_rootfs},
        "process": process(pod, container, &[capabilities, lent.clone()].concat(), facts),
        "mounts": mounts,
        "annotations": {LENT: lent.join(",")},
        "linux": linux,
    });
    let device_rules = (facts.version == Version::V2 && !container.privileged).then(|| device_rules(place));
    Ok(Built { config, staged, seccomp, device_rules })
}

/// Without no_new_privs a filter can only be loaded with CAP_SYS_ADMIN. So the process is lent that, and what it takes to
/// give it back, until just before exec: the filter goes on last, and the lent capabilities are cut off the bounding set,
/// which exec then applies.
fn lent(capabilities: &[String]) -> Vec<String> {
    let needed = ["CAP_SYS_ADMIN", "CAP_SETPCAP"];
    needed.iter().filter(|name| !capabilities.iter().any(|c| c == *name)).map(|name| (*name).to_owned()).collect()
}

fn check(container: &ContainerSpec) -> Result<(), String> {
    if container.args.first().is_none_or(String::is_empty) {
        return Err("no command specified".into());
    }
    if !container.cwd.as_os_str().is_empty() && !container.cwd.is_absolute() {
        return Err(format!("working directory {:?} is not absolute", container.cwd));
    }
    if let Some(entry) = container.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
        return Err(format!("environment entry {entry:?} is not NAME=value"));
    }
    for mount in &container.mounts {
        if !mount.destination.is_absolute() {
            return Err(format!("mount destination {:?} is not absolute", mount.destination));
        }
        if mount.recursive_read_only && (!mount.read_only || mount.propagation != Propagation::Private) {
            return Err(format!(
                "mount {:?}: recursive read-only needs read-only and no propagation",
                mount.destination
            ));
        }
    }
    if let Rootfs::Overlay { lower, .. } = &container.rootfs
        && lower.is_empty()
    {
        return Err("root filesystem has no layers".into());
    }
    Ok(())
}

fn process(pod: &PodSpec, container: &ContainerSpec, capabilities: &[String], facts: &Facts) -> Value {
    let mut env = container.env.clone();
    let missing = |env: &[String], name: &str| !env.iter().any(|entry| entry.split('=').next() == Some(name));
    if missing(&env, "PATH") {
        env.push(PATH_DEFAULT.into());
    }
    if missing(&env, "HOSTNAME") && !pod.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", pod.hostname));
    }
    if container.tty && missing(&env, "TERM") {
        env.push("TERM=xterm".into());
    }
    let cwd = if container.cwd.as_os_str().is_empty() { Path::new("/") } else { &container.cwd };
    let mut process = json!({
        "terminal": container.tty,
        "user": {"uid": container.user.uid, "gid": container.user.gid, "additionalGids": container.user.additional_gids,
            "umask": 0o022},
        "args": container.args,
        "env": env,
        "cwd": cwd,
        // No ambient set: added capabilities reach non-root users through file capabilities only, as everywhere.
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
    });
    // libcontainer 0.7 looks at whether the field is there, not at its value, to decide when to load the seccomp filter:
    // with `false` it loads it too late and fails. So the field is only ever there as `true`.
    if container.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if !container.rlimits.is_empty() {
        process["rlimits"] = container
            .rlimits
            .iter()
            .map(|limit| {
                let hard = facts.rlimits.get(&limit.kind).map_or(limit.hard, |most| limit.hard.min(*most));
                json!({"type": limit.kind, "soft": limit.soft.min(hard), "hard": hard})
            })
            .collect();
    }
    if let Some(profile) = container.apparmor_profile.as_ref().filter(|_| facts.apparmor) {
        process["apparmorProfile"] = json!(profile);
    }
    process
}

fn namespaces(pod: &PodSpec, place: &Place) -> Value {
    let held = |slot: i32| format!("/proc/self/fd/{slot}");
    let mut list = vec![json!({"type": "mount"})];
    if let NetworkNamespace::Path(path) = &pod.network {
        list.push(json!({"type": "network", "path": path}));
    }
    if pod.uts == Namespace::Pod {
        list.push(json!({"type": "uts", "path": held(UTS_FD)}));
    }
    if pod.ipc == Namespace::Pod {
        list.push(json!({"type": "ipc", "path": held(IPC_FD)}));
    }
    match (place.pid_target, pod.pid) {
        (Some(pid), _) => list.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})),
        (None, Namespace::Pod) => list.push(json!({"type": "pid", "path": held(PID_FD)})),
        (None, Namespace::Container) => list.push(json!({"type": "pid"})),
        (None, Namespace::Host) => {}
    }
    if place.controllers.is_empty() {
        // v2: the container sees its own cgroup as the root. On v1 single directories are bound instead.
        list.push(json!({"type": "cgroup"}));
    }
    json!(list)
}

fn mounts(container: &ContainerSpec, place: &Place, facts: &Facts) -> Result<(Vec<Value>, Vec<Staged>), String> {
    let system = |destination: &str, kind: &str, options: &[&str]| {
        (
            PathBuf::from(destination),
            json!({"destination": destination, "type": kind, "source": kind, "options": options}),
        )
    };
    let sys = if container.privileged { "rw" } else { "ro" };
    let mut list = vec![
        system("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        system("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        system("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        system("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        system("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
    ];
    match facts.version {
        Version::V2 => list.push(system("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys])),
        Version::V1 => {
            list.push(system("/sys/fs/cgroup", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755", "size=64k"]));
            for (controller, dir) in &place.controllers {
                let destination = Path::new("/sys/fs/cgroup").join(controller);
                let mount = json!({"destination": destination, "type": "bind", "source": dir,
                    "options": ["bind", "nosuid", "noexec", "nodev", sys]});
                list.push((destination, mount));
            }
        }
    }
    let shm = json!({"destination": "/dev/shm", "type": "bind", "source": place.shm,
        "options": ["bind", "nosuid", "noexec", "nodev"]});
    list.push(("/dev/shm".into(), shm));

    let mut wanted: Vec<Mount> = container.mounts.clone();
    if let Some((file, path)) = &place.message {
        wanted.push(Mount::bind(file, path, false));
    }
    list.retain(|(destination, _)| !wanted.iter().any(|mount| mount.destination == *destination));
    // Outer ones first, so that none hides another; otherwise as given.
    wanted.sort_by_key(|mount| mount.destination.components().count());
    let mut staged = Vec::new();
    for mount in wanted {
        let mut stage = |kind: StagedKind| {
            let name = format!("v{}", staged.len());
            let path = place.dir.join(&name);
            staged.push(Staged { name, kind });
            path
        };
        let mut options = vec!["rbind".to_owned()];
        let source = match mount.source {
            MountSource::Bind(source) if place.files.contains(&source) => source,
            MountSource::Bind(source) => stage(match mount.propagation {
                Propagation::Private => StagedKind::Private(source),
                Propagation::HostToContainer | Propagation::Bidirectional => StagedKind::Peer(source),
            }),
            MountSource::Layers(layers) => {
                if layers.is_empty() {
                    return Err(format!("mount {:?} has no layers", mount.destination));
                }
                stage(StagedKind::Layers(layers))
            }
            MountSource::Tmpfs { size_bytes, mode } => {
                options = vec!["nosuid".into(), "nodev".into(), format!("mode={mode:o}")];
                options.extend(size_bytes.map(|bytes| format!("size={bytes}")));
                "tmpfs".into()
            }
        };
        if mount.recursive_read_only {
            options.push("rro".into());
        } else if mount.read_only {
            options.push("ro".into());
        }
        let kind = if source == Path::new("tmpfs") { "tmpfs" } else { "bind" };
        let value = json!({"destination": mount.destination, "type": kind, "source": source, "options": options});
        list.push((mount.destination, value));
    }
    Ok((list.into_iter().map(|(_, mount)| mount).collect(), staged))
}

fn device_rules(place: &Place) -> Vec<DeviceRule> {
    let fixed = DEVICES.iter().map(|(kind, major, minor, access)| DeviceRule {
        kind: *kind,
        major: *major,
        minor: *minor,
        access: (*access).to_owned(),
    });
    let more = place.devices.iter().map(|d| DeviceRule {
        kind: d.kind,
        major: Some(d.major),
        minor: Some(d.minor),
        access: d.access.clone(),
    });
    fixed.chain(more).collect()
}

fn resources(container: &ContainerSpec, place: &Place, facts: &Facts) -> Value {
    let limits: &Resources = &container.resources;
    let mut out = json!({});
    let mut memory = json!({});
    if let Some(bytes) = limits.memory_limit_bytes {
        memory["limit"] = json!(bytes);
    }
    if let Some(bytes) = limits.memory_and_swap_limit_bytes {
        memory["swap"] = json!(bytes);
    }
    let mut cpu = json!({});
    if let Some(shares) = limits.cpu_shares {
        cpu["shares"] = json!(shares.clamp(2, 262_144));
    }
    if let Some(quota) = limits.cpu_quota_us {
        cpu["quota"] = json!(quota);
        cpu["period"] = json!(limits.cpu_period_us.unwrap_or(100_000));
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        cpu["cpus"] = json!(cpus);
    }
    if let Some(mems) = &limits.cpuset_mems {
        cpu["mems"] = json!(mems);
    }
    for (key, value) in [("memory", memory), ("cpu", cpu)] {
        if value.as_object().is_some_and(|object| !object.is_empty()) {
            out[key] = value;
        }
    }
    if let Some(pids) = limits.pids_limit {
        out["pids"] = json!({"limit": pids});
    }
    if !limits.hugepages_bytes.is_empty() {
        let pages = limits.hugepages_bytes.iter().filter(|(_, bytes)| **bytes > 0);
        out["hugepageLimits"] = pages.map(|(size, bytes)| json!({"pageSize": size, "limit": bytes})).collect();
    }
    if facts.version == Version::V2 {
        let mut unified = BTreeMap::new();
        if let Some(bytes) = limits.memory_min_bytes {
            unified.insert("memory.min", bytes.to_string());
        }
        if let Some(bytes) = limits.memory_high_bytes {
            unified.insert("memory.high", bytes.to_string());
        }
        if let Some(group) = limits.oom_group {
            unified.insert("memory.oom.group", u8::from(group).to_string());
        }
        if !unified.is_empty() {
            out["unified"] = json!(unified);
        }
    }
    let rule = |rule: &DeviceRule| {
        json!({"allow": true, "type": rule.kind.to_string(), "major": rule.major, "minor": rule.minor,
            "access": rule.access})
    };
    out["devices"] = if container.privileged {
        json!([{"allow": true, "access": "rwm"}])
    } else {
        let rules = device_rules(place);
        std::iter::once(json!({"allow": false, "access": "rwm"})).chain(rules.iter().map(rule)).collect()
    };
    out
}

#[cfg(test)]
#[path = "oci/tests.rs"]
mod tests;
