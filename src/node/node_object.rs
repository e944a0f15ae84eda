//! The Node object: what this host has and is, and how the API shows it. Facts are read once; the rest is pure.
//!
//! Source: `pkg/kubelet/kubelet_node_status.go`, `nodestatus/setters.go`.

use std::collections::BTreeMap;
use std::fs;

use jiff::Timestamp;
use serde_json::{Value, json};
use types::quantity::Quantity;
use types::time::rfc3339;

use crate::config::Config;
use crate::images::Image;
use crate::translate::resources::Allocatable;

/// Images that a Node lists. Source: `nodeStatusMaxImages`.
const IMAGES_MAX: usize = 50;
/// Part of the disk kept free of pods' files, in hundredths. Source: hard eviction `nodefs.available<10%`.
const DISK_RESERVED_PERCENT: u64 = 10;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub cpus: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
}

impl Facts {
    /// What cannot be read is left empty.
    pub fn read(config: &Config) -> Facts {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let memory = text("/proc/meminfo")
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        let os = text("/etc/os-release");
        let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|n| n.trim_matches('"').to_owned());
        let disk = nix::sys::statvfs::statvfs(&config.data_dir)
            .or_else(|_| nix::sys::statvfs::statvfs("/"))
            .map_or(0, |s| s.blocks() * s.fragment_size());
        let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        Facts {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: memory.unwrap_or(0) * 1024,
            disk_bytes: disk,
            machine_id: text("/etc/machine-id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel,
            os_image: pretty.unwrap_or_else(|| "Linux".into()),
        }
    }

    pub fn allocatable(&self, config: &Config) -> Allocatable {
        Allocatable {
            cpu_millis: (self.cpus * 1000).saturating_sub(config.reserved_cpu_millis) as i64,
            memory_bytes: self.memory_bytes.saturating_sub(config.reserved_memory_bytes) as i64,
            ephemeral_storage_bytes: (self.disk_bytes - self.disk_bytes / 100 * DISK_RESERVED_PERCENT) as i64,
        }
    }
}

/// The processor's name in the API.
pub const fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else if cfg!(target_arch = "riscv64") {
        "riscv64"
    } else {
        "unknown"
    }
}

pub fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".into());
        labels.insert(format!("{prefix}/arch"), architecture().into());
    }
    labels.insert("kubernetes.io/hostname".into(), config.node_name.clone());
    labels
}

/// A Node as it is registered; the not-ready taint keeps pods away until its conditions have been seen.
pub fn new_node(config: &Config) -> Value {
    let mut taints: Vec<Value> = config.taints.iter().filter_map(|t| taint(t)).collect();
    taints.push(json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}));
    let mut spec = json!({"taints": taints});
    if let Some(first) = config.pod_cidrs.first() {
        spec["podCIDR"] = first.to_string().into();
        spec["podCIDRs"] = config.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().into();
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels(config),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": spec,
    })
}

/// `key=value:Effect` or `key:Effect`.
fn taint(text: &str) -> Option<Value> {
    let (head, effect) = text.rsplit_once(':')?;
    let (key, value) = head.split_once('=').unwrap_or((head, ""));
    let mut taint = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        taint["value"] = value.into();
    }
    Some(taint)
}

/// How the node is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `None` is ready.
    pub not_ready: Option<String>,
}

/// The node's status without heartbeats: two that are equal need not be sent twice. `extended`: resources that others put
/// into the capacity; they are there to be used.
pub fn status(
    config: &Config,
    facts: &Facts,
    health: &Health,
    images: &[Image],
    extended: &BTreeMap<String, String>,
    port: u16,
) -> Value {
    let a = facts.allocatable(config);
    let cpu = |millis: i64| Quantity::from_millis(millis).to_string();
    let bytes = |n: i64| format!("{}Ki", n / 1024);
    let mut capacity = json!({
        "cpu": cpu(facts.cpus as i64 * 1000), "memory": bytes(facts.memory_bytes as i64),
        "ephemeral-storage": bytes(facts.disk_bytes as i64), "pods": config.pods_max.to_string(),
    });
    let mut allocatable = json!({
        "cpu": cpu(a.cpu_millis), "memory": bytes(a.memory_bytes),
        "ephemeral-storage": a.ephemeral_storage_bytes.to_string(), "pods": config.pods_max.to_string(),
    });
    for (name, amount) in extended {
        capacity[name] = amount.as_str().into();
        allocatable[name] = amount.as_str().into();
    }
    let mut addresses: Vec<Value> =
        config.node_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let condition = |kind: &str, status: bool, reason: &str, message: &str| json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message});
    let ready = match &health.not_ready {
        None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Some(why) => condition("Ready", false, "KubeletNotReady", why),
    };
    let mut listed: Vec<&Image> = images.iter().collect();
    listed.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    let images: Vec<Value> = listed
        .into_iter()
        .take(IMAGES_MAX)
        .map(|i| {
            let names: Vec<&String> = i.digests.iter().chain(&i.names).collect();
            json!({"names": names, "sizeBytes": i.size_bytes})
        })
        .collect();
    json!({
        "capacity": capacity,
        "allocatable": allocatable,
        "addresses": addresses,
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ready,
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "machineID": facts.machine_id, "systemUUID": facts.system_uuid, "bootID": facts.boot_id,
            "kernelVersion": facts.kernel, "osImage": facts.os_image,
            "containerRuntimeVersion": format!("kedge://{}", config.version.trim_start_matches('v')),
            "kubeletVersion": config.version, "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": architecture(),
        },
        "images": images,
    })
}

/// Adds the times that conditions carry. `previous`: the conditions as last sent, with theirs.
pub fn with_times(status: &Value, previous: Option<&Value>, now: Timestamp) -> Value {
    let mut status = status.clone();
    let now = rfc3339(now);
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        let before = previous
            .and_then(|p| p.get("conditions"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|c| c["type"] == condition["type"] && c["status"] == condition["status"])
            .and_then(|c| c.get("lastTransitionTime").cloned());
        condition["lastTransitionTime"] = before.unwrap_or_else(|| now.clone().into());
        condition["lastHeartbeatTime"] = now.clone().into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::golden;

    #[test]
    fn the_node_as_the_api_shows_it() {
        let mut config = Config::new("n1", vec!["192.168.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        config.taints = vec!["a=b:NoSchedule".into(), "c:NoExecute".into()];
        config.pod_cidrs = vec!["10.42.0.0/24".parse().unwrap()];
        let facts = Facts {
            cpus: 4,
            memory_bytes: 8 << 30,
            disk_bytes: 100 << 30,
            machine_id: "m".into(),
            system_uuid: "s".into(),
            boot_id: "b".into(),
            kernel: "6.18".into(),
            os_image: "Debian".into(),
        };
        let image = Image {
            id: "sha256:1".into(),
            names: vec!["docker.io/library/a:1".into()],
            size_bytes: 7,
            ..Image::default()
        };
        let extended = [("example.com/foo".to_owned(), "5".to_owned())].into();
        let status = status(&config, &facts, &Health { not_ready: None }, &[image], &extended, 10250);
        let status = with_times(&status, None, "2026-01-01T00:00:00Z".parse().unwrap());
        let text = |v: &Value| serde_json::to_string_pretty(v).unwrap().replace(architecture(), "ARCH") + "\n";
        golden::check("node/status.json", &text(&status));
        golden::check("node/node.json", &text(&new_node(&config)));
        let later = with_times(&status, Some(&status), "2026-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(later["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(later["conditions"][0]["lastHeartbeatTime"], "2026-01-01T00:05:00Z");
    }
}
