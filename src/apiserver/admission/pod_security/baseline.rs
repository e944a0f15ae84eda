//! The checks of the baseline level: nothing that is known to lead out of a container.
//! Source: `staging/src/k8s.io/pod-security-admission/policy/check_*.go`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Pod, Verdict, context, named, plural, quoted, setters, verdict};
use super::policy::Version;
use crate::hooks::json::{boolean, get, has, int, list, map, text, texts};

pub fn app_armor_profile(pod: &Pod, _: Version) -> Option<Verdict> {
    let mut values = BTreeSet::new();
    let mut is_bad = |profile: &Value| {
        let kind = text(profile, "type").to_owned();
        let bad = profile.is_object() && !matches!(kind.as_str(), "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind);
        }
        bad
    };
    let by_pod = is_bad(pod.context("appArmorProfile"));
    let containers = pod.bad(|c| is_bad(context(c, "appArmorProfile")));
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let mut annotations: Vec<String> = map(pod.metadata, "annotations")
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| value.as_str().filter(|v| !allowed(v)).map(|v| format!("{key}={v:?}")))
        .collect();
    annotations.sort_unstable();
    let mut who: Vec<String> = setters(by_pod, &containers).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).into());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    verdict(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)),
    )
}

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub fn capabilities(pod: &Pod, _: Version) -> Option<Verdict> {
    let mut added = BTreeSet::new();
    let containers = pod.bad(|c| {
        let bad: Vec<&str> = texts(context(c, "capabilities"), "add").filter(|c| !CAPABILITIES.contains(c)).collect();
        added.extend(bad.iter().copied());
        !bad.is_empty()
    });
    if containers.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", named(&containers), quoted(added));
    verdict("non-default capabilities", detail)
}

pub fn host_namespaces(pod: &Pod, _: Version) -> Option<Verdict> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| boolean(pod.spec, field));
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { verdict("host namespaces", shared.join(", ")) }
}

pub fn host_path_volumes(pod: &Pod, _: Version) -> Option<Verdict> {
    let volumes: Vec<&str> =
        list(pod.spec, "volumes").iter().filter(|v| has(v, "hostPath")).map(|v| text(v, "name")).collect();
    if volumes.is_empty() {
        return None;
    }
    verdict("hostPath volumes", format!("{} {}", plural("volume", "volumes", volumes.len()), quoted(&volumes)))
}

pub fn host_ports(pod: &Pod, _: Version) -> Option<Verdict> {
    // As texts, because they are sorted as such.
    let mut ports = BTreeSet::new();
    let containers = pod.bad(|c| {
        let taken: Vec<i64> = list(c, "ports").iter().filter_map(|p| int(p, "hostPort")).filter(|p| *p != 0).collect();
        ports.extend(taken.iter().map(ToString::to_string));
        !taken.is_empty()
    });
    if containers.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&containers),
        plural("uses", "use", containers.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    verdict("hostPort", detail)
}

pub fn host_probes(pod: &Pod, version: Version) -> Option<Verdict> {
    if !version.has(34) {
        return None;
    }
    let mut hosts = BTreeSet::new();
    let containers = pod.bad(|c| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].into_iter().map(|field| get(c, field));
        let handlers = ["postStart", "preStop"].into_iter().map(|field| get(get(c, "lifecycle"), field));
        let named: Vec<&str> = probes
            .chain(handlers)
            .flat_map(|action| ["httpGet", "tcpSocket"].map(|field| text(get(action, field), "host")))
            .filter(|host| !host.is_empty())
            .collect();
        hosts.extend(named.iter().copied());
        !named.is_empty()
    });
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<&str> = containers.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        named(&containers),
        plural("uses", "use", containers.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        quoted(hosts)
    );
    verdict("probe or lifecycle host", detail)
}

pub fn privileged(pod: &Pod, _: Version) -> Option<Verdict> {
    let containers = pod.bad(|c| context(c, "privileged") == true);
    if containers.is_empty() {
        return None;
    }
    verdict("privileged", format!("{} must not set securityContext.privileged=true", named(&containers)))
}

pub fn proc_mount(pod: &Pod, version: Version) -> Option<Verdict> {
    if version.has(35) && pod.has_own_users() { None } else { unmasked_proc(pod) }
}

pub fn unmasked_proc(pod: &Pod) -> Option<Verdict> {
    let mut kinds = BTreeSet::new();
    let containers = pod.bad(|c| {
        let bad = context(c, "procMount").as_str().filter(|mount| *mount != "Default");
        kinds.extend(bad);
        bad.is_some()
    });
    if containers.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.procMount to {}", named(&containers), quoted(kinds));
    verdict("procMount", detail)
}

pub fn se_linux_options(pod: &Pod, version: Version) -> Option<Verdict> {
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: &Value| {
        let kind = text(options, "type");
        let allowed = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (kind == "container_engine_t" && version.has(31));
        if !allowed {
            kinds.insert(kind.to_owned());
        }
        let (sets_user, sets_role) = (!text(options, "user").is_empty(), !text(options, "role").is_empty());
        user |= sets_user;
        role |= sets_role;
        !allowed || sets_user || sets_role
    };
    let by_pod = is_bad(pod.context("seLinuxOptions"));
    let containers = pod.bad(|c| is_bad(context(c, "seLinuxOptions")));
    let who = setters(by_pod, &containers)?;
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(&kinds)));
    }
    if user {
        what.push("user may not be set".into());
    }
    if role {
        what.push("role may not be set".into());
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    verdict("seLinuxOptions", detail)
}

pub fn is_confined(profile: &Value) -> bool {
    matches!(text(profile, "type"), "RuntimeDefault" | "Localhost")
}

pub fn seccomp_profile(pod: &Pod, version: Version) -> Option<Verdict> {
    if !version.has(19) {
        return seccomp_annotations(pod);
    }
    let mut kinds = BTreeSet::new();
    let by_pod = unconfined(pod.context("seccompProfile"), &mut kinds);
    let containers = pod.bad(|c| unconfined(context(c, "seccompProfile"), &mut kinds));
    let who = setters(by_pod, &containers)?;
    verdict("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(kinds)))
}

/// Whether a profile is set that confines nothing; it is added to `kinds`.
pub fn unconfined(profile: &Value, kinds: &mut BTreeSet<String>) -> bool {
    let bad = profile.is_object() && !is_confined(profile);
    if bad {
        kinds.insert(text(profile, "type").to_owned());
    }
    bad
}

/// Before there was a field for it.
fn seccomp_annotations(pod: &Pod) -> Option<Verdict> {
    let allowed = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let of_pod = "seccomp.security.alpha.kubernetes.io/pod".to_owned();
    let of_containers =
        pod.containers().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(c, "name")));
    let annotations = get(pod.metadata, "annotations");
    let forbidden: BTreeSet<String> = std::iter::once(of_pod)
        .chain(of_containers)
        .filter_map(|key| {
            let value = get(annotations, &key).as_str().filter(|v| !allowed(v))?;
            Some(format!("{key}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", forbidden.len());
    verdict("seccompProfile", format!("forbidden {what} {}", forbidden.into_iter().collect::<Vec<_>>().join(", ")))
}

pub fn sysctls(pod: &Pod, version: Version) -> Option<Verdict> {
    let allowed = |name: &str| match name {
        "kernel.shm_rmid_forced"
        | "net.ipv4.ip_local_port_range"
        | "net.ipv4.tcp_syncookies"
        | "net.ipv4.ping_group_range"
        | "net.ipv4.ip_unprivileged_port_start" => true,
        "net.ipv4.ip_local_reserved_ports" => version.has(27),
        "net.ipv4.tcp_keepalive_time"
        | "net.ipv4.tcp_fin_timeout"
        | "net.ipv4.tcp_keepalive_intvl"
        | "net.ipv4.tcp_keepalive_probes" => version.has(29),
        "net.ipv4.tcp_rmem" | "net.ipv4.tcp_wmem" => version.has(32),
        _ => false,
    };
    let given = list(get(pod.spec, "securityContext"), "sysctls").iter().map(|s| text(s, "name"));
    let forbidden: Vec<&str> = given.filter(|name| !allowed(name)).collect();
    if forbidden.is_empty() { None } else { verdict("forbidden sysctls", forbidden.join(", ")) }
}

pub fn windows_host_process(pod: &Pod, _: Version) -> Option<Verdict> {
    let is_bad = |options: &Value| boolean(options, "hostProcess");
    let containers = pod.bad(|c| is_bad(context(c, "windowsOptions")));
    let who = setters(is_bad(pod.context("windowsOptions")), &containers)?;
    verdict("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
