//! The checks that the restricted level adds: what good practice asks for.
//! Source: `staging/src/k8s.io/pod-security-admission/policy/check_*.go`.

use std::collections::BTreeSet;

use super::baseline;
use super::checks::{Pod, Verdict, context, named, plural, quoted, setters, verdict};
use super::policy::Version;
use crate::hooks::json::{has, list, text, texts};

pub fn privilege_escalation(pod: &Pod, version: Version) -> Option<Verdict> {
    if !version.has(8) || (version.has(25) && pod.is_windows()) {
        return None;
    }
    let containers = pod.bad(|c| context(c, "allowPrivilegeEscalation") != false);
    if containers.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&containers));
    verdict("allowPrivilegeEscalation != false", detail)
}

pub fn capabilities(pod: &Pod, version: Version) -> Option<Verdict> {
    if !version.has(22) || (version.has(25) && pod.is_windows()) {
        return None;
    }
    let keeping = pod.bad(|c| !texts(context(c, "capabilities"), "drop").any(|dropped| dropped == "ALL"));
    let mut added = BTreeSet::new();
    let adding = pod.bad(|c| {
        let bad: Vec<&str> = texts(context(c, "capabilities"), "add").filter(|c| *c != "NET_BIND_SERVICE").collect();
        added.extend(bad.iter().copied());
        !bad.is_empty()
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adding),
            quoted(added)
        ));
    }
    if details.is_empty() { None } else { verdict("unrestricted capabilities", details.join("; ")) }
}

pub fn proc_mount(pod: &Pod, version: Version) -> Option<Verdict> {
    if version.has(35) { baseline::unmasked_proc(pod) } else { None }
}

const ALLOWED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// The field of the volume, and how it is called in the text.
const OTHER_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub fn volumes(pod: &Pod, _: Version) -> Option<Verdict> {
    let mut kinds = BTreeSet::new();
    let mut names = Vec::new();
    for volume in list(pod.spec, "volumes") {
        if ALLOWED_VOLUMES.iter().any(|field| has(volume, field)) {
            continue;
        }
        names.push(text(volume, "name"));
        kinds.insert(OTHER_VOLUMES.iter().copied().find(|field| has(volume, field)).unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds)
    );
    verdict("restricted volume types", detail)
}

pub fn run_as_non_root(pod: &Pod, version: Version) -> Option<Verdict> {
    if version.has(35) && pod.has_own_users() {
        return None;
    }
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = pod.context("runAsNonRoot").as_bool();
    let explicit = pod.bad(|c| context(c, "runAsNonRoot") == false);
    if let Some(who) = setters(of_pod == Some(false), &explicit) {
        return verdict(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.bad(|c| context(c, "runAsNonRoot").is_null() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    verdict(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)))
}

pub fn run_as_user(pod: &Pod, version: Version) -> Option<Verdict> {
    if !version.has(23) || (version.has(35) && pod.has_own_users()) {
        return None;
    }
    let containers = pod.bad(|c| context(c, "runAsUser") == 0);
    let who = setters(pod.context("runAsUser") == 0, &containers)?;
    verdict("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub fn seccomp_profile(pod: &Pod, version: Version) -> Option<Verdict> {
    if !version.has(19) || (version.has(25) && pod.is_windows()) {
        return None;
    }
    const REASON: &str = "seccompProfile";
    let of_pod = pod.context("seccompProfile");
    let mut kinds = BTreeSet::new();
    let by_pod = baseline::unconfined(of_pod, &mut kinds);
    let explicit = pod.bad(|c| baseline::unconfined(context(c, "seccompProfile"), &mut kinds));
    if let Some(who) = setters(by_pod, &explicit) {
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(kinds));
        return verdict(REASON, detail);
    }
    let silent = pod.bad(|c| context(c, "seccompProfile").is_null() && !baseline::is_confined(of_pod));
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        named(&silent)
    );
    verdict(REASON, detail)
}
