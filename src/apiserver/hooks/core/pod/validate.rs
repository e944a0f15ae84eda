//! Pod: what is valid, of the whole spec. Containers, volumes, placement and security have files of their own.
//! Source: `ValidatePodCreate`, `ValidatePodTemplateSpec`, `ValidatePodSpec`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::super::check::{self, Errors, items, not_negative, one_of, required, required_one_of, unique, wrong};
use super::super::super::json::{boolean, get, has, int, list, map, text, texts};
use super::super::super::{metadata, scheduling};
use super::{container, placement, security, volume};

const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
/// What resolv.conf takes. Source: `pkg/apis/core/validation` `MaxDNS*`.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

pub fn pod(pod: &Value) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let spec = get(pod, "spec");
    self::spec(spec, &path, &mut errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        let words = "cannot be set on create";
        let bound = !text(spec, "nodeName").is_empty();
        if !bound {
            errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), words));
        }
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        let words = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), words));
    }
    errors
}

/// The template of a workload: its labels, annotations and spec.
pub fn template(template: &Value, path: &Path, errors: &mut Errors) {
    let (meta, at) = (get(template, "metadata"), path.child("metadata"));
    errors.extend(names::labels(&at.child("labels"), map(meta, "labels").map(|(k, v)| (k, v.as_str()))));
    metadata::annotations(meta, &at.child("annotations"), errors);
    spec(get(template, "spec"), &path.child("spec"), errors);
    if !list(get(template, "spec"), "ephemeralContainers").is_empty() {
        let words = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&path.child("spec").child("ephemeralContainers"), words));
    }
}

/// The spec of a pod or of a template.
pub fn spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let volumes = volume::volumes(spec, path, errors);
    container::containers(spec, path, &volumes, errors);
    required_one_of(errors, spec, "restartPolicy", path, RESTART_POLICIES);
    dns(spec, path, errors);
    let selector = map(spec, "nodeSelector").map(|(k, v)| (k, v.as_str()));
    errors.extend(names::labels(&path.child("nodeSelector"), selector));
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            wrong(errors, &path.child(field), value, rule(value));
        }
    }
    check::in_range(errors, spec, "activeDeadlineSeconds", path, 1, i64::from(i32::MAX));
    if !text(spec, "preemptionPolicy").is_empty() {
        scheduling::preemption_policy(text(spec, "preemptionPolicy"), &path.child("preemptionPolicy"), errors);
    }
    security::pod(spec, path, errors);
    placement::validate(spec, path, errors);
    host_aliases(spec, path, errors);
    for (path, gate) in items(spec, "readinessGates", path) {
        let kind = text(gate, "conditionType");
        wrong(errors, &path.child("conditionType"), kind, names::qualified_name(kind));
    }
    for (path, gate) in items(spec, "schedulingGates", path) {
        let name = text(gate, "name");
        wrong(errors, &path.child("name"), name, names::qualified_name(name));
    }
    unique(errors, list(spec, "schedulingGates"), "name", &path.child("schedulingGates"));
    if has(spec, "os") {
        required_one_of(errors, get(spec, "os"), "name", &path.child("os"), &["linux", "windows"]);
    }
    if boolean(spec, "setHostnameAsFQDN") && boolean(spec, "hostNetwork") {
        // the host's name is not the pod's to set
        let words = "cannot be set when hostNetwork is true";
        errors.push(FieldError::forbidden(&path.child("setHostnameAsFQDN"), words));
    }
    container::quantities(get(spec, "overhead"), &path.child("overhead"), errors);
    if has(spec, "resources") {
        container::resources(get(spec, "resources"), &path.child("resources"), errors);
    }
}

fn dns(spec: &Value, path: &Path, errors: &mut Errors) {
    required(errors, spec, "dnsPolicy", path);
    one_of(errors, spec, "dnsPolicy", path, DNS_POLICIES);
    let (config, at) = (get(spec, "dnsConfig"), path.child("dnsConfig"));
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            let words = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(&at, words));
            return;
        }
        if servers.is_empty() {
            let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&at.child("nameservers"), words));
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        let words = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(&at.child("nameservers"), get(config, "nameservers"), words));
    }
    for (i, server) in servers.iter().enumerate() {
        ip(server.as_str().unwrap_or_default(), &at.child("nameservers").index(i), errors);
    }
    let searches: Vec<&str> = texts(config, "searches").collect();
    let at_searches = at.child("searches");
    if searches.len() > SEARCHES_MAX {
        let words = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(&at_searches, get(config, "searches"), words));
    }
    if searches.join(" ").len() > SEARCH_CHARS_MAX {
        let words =
            format!("must not have more than {SEARCH_CHARS_MAX} characters (including spaces) in the search list");
        errors.push(FieldError::invalid(&at_searches, get(config, "searches"), words));
    }
    for (i, search) in searches.iter().enumerate() {
        // underscores are common in search domains and legal in DNS
        let bare = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if *search != "." {
            wrong(errors, &at_searches.index(i), search, names::dns1123_subdomain(&bare));
        }
    }
    for (path, option) in items(config, "options", &at) {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(&path, "must not be empty"));
        }
    }
}

pub fn ip(value: &str, path: &Path, errors: &mut Errors) {
    if value.parse::<std::net::IpAddr>().is_err() {
        let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, value, words));
    }
}

fn host_aliases(spec: &Value, path: &Path, errors: &mut Errors) {
    for (path, alias) in items(spec, "hostAliases", path) {
        ip(text(alias, "ip"), &path.child("ip"), errors);
        for (i, name) in texts(alias, "hostnames").enumerate() {
            wrong(errors, &path.child("hostnames").index(i), name, names::dns1123_subdomain(name));
        }
    }
}

/// Seconds and counts that a handler or a probe may not have below zero.
pub fn none_negative(object: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    for field in fields {
        not_negative(errors, object, field, path);
    }
}

/// User and group ids are of 31 bits.
pub fn id(object: &Value, field: &str, path: &Path, errors: &mut Errors) {
    if int(object, field).is_some() {
        check::in_range(errors, object, field, path, 0, i64::from(i32::MAX));
    }
}
