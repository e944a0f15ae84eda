//! What this host has to offer to containers: its capabilities and limits, and its device nodes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cgroup::Version;
use crate::oci::{DeviceNode, Facts};
use crate::shim::sys;
use crate::spec::ContainerSpec;
use crate::{Error, Result};

/// What this process may do for containers.
pub fn facts(version: Version) -> Facts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    let capabilities = bounding.unwrap_or(0);
    let may_raise = crate::capability::number("CAP_SYS_RESOURCE").is_some_and(|n| capabilities >> n & 1 == 1);
    let names = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let limits = names.iter().map(|name| format!("RLIMIT_{name}"));
    let rlimits = limits.filter_map(|name| Some((name.clone(), sys::hard_rlimit(&name)?)));
    let apparmor =
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    Facts { version, capabilities, rlimits: if may_raise { BTreeMap::new() } else { rlimits.collect() }, apparmor }
}

/// The devices that a container asked for; all of the host's when it is privileged.
pub fn devices(spec: &ContainerSpec) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    if spec.privileged {
        host_devices(Path::new("/dev"), 0, &mut nodes);
    }
    for device in &spec.devices {
        let node =
            device_node(&device.host_path, device.container_path.clone(), &device.permissions).ok_or_else(|| {
                Error::Create {
                    container: spec.id.clone(),
                    message: format!("{} is not a device", device.host_path.display()),
                }
            })?;
        nodes.retain(|known| known.path != node.path);
        nodes.push(node);
    }
    Ok(nodes)
}

/// Depth of /dev that is looked at for privileged containers: `/dev/bus/usb/001/002` is the deepest in use.
const DEV_DEPTH_MAX: u32 = 4;

fn host_devices(dir: &Path, depth: u32, nodes: &mut Vec<DeviceNode>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(|entry| entry.ok()) {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        // Mounted or made by the runtime itself.
        if depth == 0 && ["pts", "shm", "fd", "mqueue", "console", "ptmx"].iter().any(|own| name == *own) {
            continue;
        }
        if kind.is_dir() && depth < DEV_DEPTH_MAX {
            host_devices(&path, depth + 1, nodes);
        } else if kind.is_char_device() || kind.is_block_device() {
            nodes.extend(device_node(&path, path.clone(), "rwm"));
        }
    }
}

fn device_node(host: &Path, path: PathBuf, access: &str) -> Option<DeviceNode> {
    let metadata = fs::metadata(host).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(DeviceNode {
        path,
        kind,
        major: i64::from(libc::major(metadata.rdev())),
        minor: i64::from(libc::minor(metadata.rdev())),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}
