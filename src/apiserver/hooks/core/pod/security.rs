//! Security contexts and host namespaces. Source: `ValidatePodSecurityContext`, `ValidateSecurityContext`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::super::check::{Errors, items, one_of, required};
use super::super::super::json::{boolean, get, has, list, text, texts};
use super::validate::id;

const SECCOMP: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

pub fn pod(spec: &Value, path: &Path, errors: &mut Errors) {
    if boolean(spec, "shareProcessNamespace") && boolean(spec, "hostPID") {
        let words = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), &Value::Bool(true), words));
    }
    if get(spec, "hostUsers").as_bool() == Some(false) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if boolean(spec, field) {
                errors.push(FieldError::forbidden(&path.child(field), "when `hostUsers` is false"));
            }
        }
    }
    let (context, path) = (get(spec, "securityContext"), path.child("securityContext"));
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(context, field, &path, errors);
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        if let Some(n) = group.as_i64().filter(|n| !(0..=i64::from(i32::MAX)).contains(n)) {
            let words = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(&path.child("supplementalGroups").index(i), n, words));
        }
    }
    one_of(errors, context, "fsGroupChangePolicy", &path, &["Always", "OnRootMismatch"]);
    one_of(errors, context, "supplementalGroupsPolicy", &path, &["Merge", "Strict"]);
    sysctls(context, &path, errors);
    profiles(context, &path, errors);
}

fn sysctls(context: &Value, path: &Path, errors: &mut Errors) {
    let all = list(context, "sysctls");
    for (i, (path, sysctl)) in items(context, "sysctls", path).enumerate() {
        let name = text(sysctl, "name");
        let at = path.child("name");
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let edge = |b: Option<u8>| b.is_some_and(|b| inner(b) && !matches!(b, b'-' | b'_'));
        let segment = |s: &str| edge(s.bytes().next()) && edge(s.bytes().next_back()) && s.bytes().all(inner);
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if name.len() > names::SUBDOMAIN_MAX || !name.split(['.', '/']).all(segment) {
            let words = "must have at most 253 characters and match regex \
                         ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(&at, name, words));
        } else if all[..i].iter().any(|s| text(s, "name") == name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
}

/// Seccomp and AppArmor of a pod or a container.
fn profiles(context: &Value, path: &Path, errors: &mut Errors) {
    for (field, words) in [
        ("seccompProfile", "must be set when seccomp type is Localhost "),
        ("appArmorProfile", "must be set when AppArmor type is Localhost"),
    ] {
        if !has(context, field) {
            continue;
        }
        let (profile, path) = (get(context, field), path.child(field));
        let kind = required(errors, profile, "type", &path);
        one_of(errors, profile, "type", &path, SECCOMP);
        let local = has(profile, "localhostProfile");
        let at = path.child("localhostProfile");
        if kind == "Localhost" && !local {
            errors.push(FieldError::required(&at, words));
        } else if kind != "Localhost" && local {
            let what = if field == "seccompProfile" { "seccomp" } else { "AppArmor" };
            let words = format!("can only be set when {what} type is Localhost");
            errors.push(FieldError::invalid(&at, text(profile, "localhostProfile"), words));
        }
    }
}

pub fn container(container: &Value, path: &Path, errors: &mut Errors) {
    if !has(container, "securityContext") {
        return;
    }
    let (context, path) = (get(container, "securityContext"), path.child("securityContext"));
    for field in ["runAsUser", "runAsGroup"] {
        id(context, field, &path, errors);
    }
    one_of(errors, context, "procMount", &path, &["Default", "Unmasked"]);
    profiles(context, &path, errors);
    if get(context, "allowPrivilegeEscalation").as_bool() == Some(false) {
        if boolean(context, "privileged") {
            let words = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(&path, context, words));
        }
        if texts(get(context, "capabilities"), "add").any(|c| matches!(c, "CAP_SYS_ADMIN" | "SYS_ADMIN")) {
            let words = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(&path, context, words));
        }
    }
}
