//! The list of checks, and what they share. A check is a pure function over a pod's metadata and spec.
//!
//! Source: `staging/src/k8s.io/pod-security-admission/policy/{registry,checks,helpers,visitor}.go`.

use serde_json::Value;

use super::policy::{Level, Standard, Version};
use super::{baseline, restricted};
use crate::hooks::json::{get, list, text};

/// What is looked at: a pod, or a template of one.
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

/// Why a pod is not of a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub reason: String,
    /// May be empty.
    pub detail: String,
}

pub type Check = fn(&Pod, Version) -> Option<Verdict>;

/// In upstream's order, which is alphabetical by its names of the checks; the restricted ones come after all of these. The
/// second field: the version from which on the restricted level has a check of its own instead.
const BASELINE: &[(Check, u32)] = &[
    (baseline::app_armor_profile, NEVER),
    (baseline::capabilities, 22),
    (baseline::host_namespaces, NEVER),
    (baseline::host_path_volumes, 0),
    (baseline::host_ports, NEVER),
    (baseline::host_probes, NEVER),
    (baseline::privileged, NEVER),
    (baseline::proc_mount, 35),
    (baseline::se_linux_options, NEVER),
    (baseline::seccomp_profile, 19),
    (baseline::sysctls, NEVER),
    (baseline::windows_host_process, NEVER),
];
const NEVER: u32 = u32::MAX;
const RESTRICTED: &[Check] = &[
    restricted::privilege_escalation,
    restricted::capabilities,
    restricted::proc_mount,
    restricted::volumes,
    restricted::run_as_non_root,
    restricted::run_as_user,
    restricted::seccomp_profile,
];

/// Everything that keeps the pod from being what the standard asks for.
pub fn evaluate(standard: Standard, pod: &Pod) -> Vec<Verdict> {
    let Standard { level, version } = standard;
    if level == Level::Privileged {
        return Vec::new();
    }
    let stricter = level == Level::Restricted;
    let replaced = |since: u32| stricter && since != NEVER && version.has(since);
    let basic = BASELINE.iter().filter(|(_, since)| !replaced(*since)).filter_map(|(check, _)| check(pod, version));
    let strict = RESTRICTED.iter().filter(|_| stricter).filter_map(|check| check(pod, version));
    basic.chain(strict).collect()
}

impl<'a> Pod<'a> {
    /// Every container of any kind.
    pub fn containers(&self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| list(self.spec, field))
    }

    /// The names of containers of which `wrong` holds.
    pub fn bad(&self, mut wrong: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| wrong(c)).map(|c| text(c, "name")).collect()
    }

    /// A field of the pod's security context.
    pub fn context(&self, field: &str) -> &'a Value {
        get(get(self.spec, "securityContext"), field)
    }

    pub fn is_windows(&self) -> bool {
        text(get(self.spec, "os"), "name") == "windows"
    }

    /// Root in the pod is nobody on the host.
    pub fn has_own_users(&self) -> bool {
        get(self.spec, "hostUsers") == false
    }
}

/// A field of a container's security context.
pub fn context<'a>(container: &'a Value, field: &str) -> &'a Value {
    get(get(container, "securityContext"), field)
}

pub fn verdict(reason: impl Into<String>, detail: impl Into<String>) -> Option<Verdict> {
    Some(Verdict { reason: reason.into(), detail: detail.into() })
}

pub fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `"a", "b"`.
pub fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `containers "a", "b"`.
pub fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

/// `pod and container "a"`: who set something that must not be set; `None` when nobody did.
pub fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    match (pod, containers) {
        (false, []) => None,
        (true, []) => Some("pod".into()),
        (false, some) => Some(named(some)),
        (true, some) => Some(format!("pod and {}", named(some))),
    }
}
