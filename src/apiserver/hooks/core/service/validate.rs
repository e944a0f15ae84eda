//! Service: what is valid. Source: `ValidateService`, `ValidateServiceUpdate`,
//! `ValidateServiceClusterIPsRelatedFields`.

use std::net::IpAddr;

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;

use super::super::super::Context;
use super::super::super::check::{PORT_RANGE, port_name};
use super::super::super::json::{at, get, has, int, list, map, text};
use super::super::endpoints;
use super::{defaults, is_headless, needs_cluster_ip};

pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONCE: &str = "may not change once set";
/// The kubelet's port, which must stay the node's own.
const NODE_AGENT_PORT: i64 = 10_250;
const AFFINITY_SECONDS_MAX: i64 = 86_400;

pub fn service(service: &Value) -> Vec<FieldError> {
    let (spec, path) = (get(service, "spec"), Path::new("spec"));
    let mut errors = Vec::new();
    let kind = text(spec, "type");
    let ports = list(spec, "ports");
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    by_type(spec, kind, &path, &mut errors);
    self::ports(ports, kind, &path.child("ports"), &mut errors);
    let selector = map(spec, "selector").map(|(k, v)| (k, v.as_str()));
    errors.extend(names::labels(&path.child("selector"), selector));
    session_affinity(spec, &path, &mut errors);
    if kind != "ExternalName" {
        cluster_ips(spec, &path, &mut errors);
    }
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        endpoints::ip(ip.as_str().unwrap_or_default(), &path.child("externalIPs").index(i), &mut errors);
    }
    if kind.is_empty() {
        errors.push(FieldError::required(&path.child("type"), ""));
    } else if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, TYPES));
    }
    source_ranges(spec, kind, &path, &mut errors);
    traffic(spec, kind, &path, &mut errors);
    errors
}

fn by_type(spec: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    match kind {
        "LoadBalancer" | "NodePort" => {
            if is_headless(spec) {
                let words = format!("may not be set to 'None' for {kind} services");
                errors.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", words));
            }
            if kind == "NodePort" {
                return;
            }
            for (i, port) in list(spec, "ports").iter().enumerate() {
                if int(port, "port") == Some(NODE_AGENT_PORT) {
                    let words = format!("may not expose port {NODE_AGENT_PORT} externally since it is used by kubelet");
                    errors.push(FieldError::invalid(&path.child("ports").index(i), NODE_AGENT_PORT, words));
                }
            }
        }
        "ExternalName" => {
            let words = "may not be set for ExternalName services";
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !super::super::super::json::is_empty(get(spec, field)) {
                    errors.push(FieldError::forbidden(&path.child(field), words));
                }
            }
            let (name, path) = (text(spec, "externalName"), path.child("externalName"));
            let bare = name.strip_suffix('.').unwrap_or(name);
            if bare.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                errors.extend(names::dns1123_subdomain(bare).into_iter().map(|e| FieldError::invalid(&path, bare, e)));
            }
        }
        _ => {}
    }
}

fn ports(ports: &[Value], kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        let number = int(port, "port").unwrap_or(0);
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(&path.child("name"), ""));
            }
        } else {
            let at = path.child("name");
            errors.extend(names::dns1123_label(name).into_iter().map(|e| FieldError::invalid(&at, name, e)));
            if ports[..i].iter().any(|p| text(p, "name") == name) {
                errors.push(FieldError::duplicate(&at, name));
            }
        }
        if !(1..=65535).contains(&number) {
            errors.push(FieldError::invalid(&path.child("port"), number, PORT_RANGE));
        }
        if protocol.is_empty() {
            errors.push(FieldError::required(&path.child("protocol"), ""));
        } else if !PROTOCOLS.contains(&protocol) {
            errors.push(FieldError::not_supported(&path.child("protocol"), protocol, PROTOCOLS));
        }
        port_or_name(get(port, "targetPort"), &path.child("targetPort"), errors);
        if has(port, "appProtocol") {
            let (name, at) = (text(port, "appProtocol"), path.child("appProtocol"));
            errors.extend(names::qualified_name(name).into_iter().map(|e| FieldError::invalid(&at, name, e)));
        }
        let node_port = int(port, "nodePort").unwrap_or(0);
        if node_port != 0 {
            let at = path.child("nodePort");
            if matches!(kind, "ClusterIP" | "ExternalName") {
                let words = format!("may not be used when `type` is '{kind}'");
                errors.push(FieldError::forbidden(&at, words));
            }
            let taken = |p: &Value| int(p, "nodePort") == Some(node_port) && text(p, "protocol") == protocol;
            if ports[..i].iter().any(taken) {
                errors.push(FieldError::duplicate(&at, node_port));
            }
        }
        if ports[..i].iter().any(|p| int(p, "port") == Some(number) && text(p, "protocol") == protocol) {
            errors.push(FieldError::duplicate(&path, &json!({"port": number, "protocol": protocol})));
        }
    }
}

/// A number of a port, or the name of one of the container's. Source: `ValidatePortNumOrName`.
pub fn port_or_name(port: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    match port {
        Value::String(name) => {
            errors.extend(port_name(name).into_iter().map(|e| FieldError::invalid(path, name, e)));
        }
        _ => {
            let number = port.as_i64().unwrap_or(0);
            if !(1..=65535).contains(&number) {
                errors.push(FieldError::invalid(path, number, PORT_RANGE));
            }
        }
    }
}

fn session_affinity(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let config = path.child("sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "" => errors.push(FieldError::required(&path.child("sessionAffinity"), "")),
        "None" => {
            if has(spec, "sessionAffinityConfig") {
                errors.push(FieldError::forbidden(&config, "must not be set when session affinity is None"));
            }
        }
        "ClientIP" => {
            let seconds = int(at(spec, &["sessionAffinityConfig", "clientIP"]), "timeoutSeconds");
            let at = config.child("clientIP").child("timeoutSeconds");
            match seconds {
                None => errors.push(FieldError::required(&config, "when session affinity type is ClientIP")),
                Some(n) if !(1..=AFFINITY_SECONDS_MAX).contains(&n) => {
                    let words = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    errors.push(FieldError::invalid(&at, n, words));
                }
                Some(_) => {}
            }
        }
        other => errors.push(FieldError::not_supported(&path.child("sessionAffinity"), other, &["ClientIP", "None"])),
    }
}

/// Cluster IPs, families and policy fit each other. Also asked before addresses are handed out.
pub fn cluster_ips(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (ips, at_ips) = (list(spec, "clusterIPs"), path.child("clusterIPs"));
    let (families, at_families) = (list(spec, "ipFamilies"), path.child("ipFamilies"));
    let policy = text(spec, "ipFamilyPolicy");
    if !matches!(policy, "" | "SingleStack" | "PreferDualStack" | "RequireDualStack") {
        let known = &["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.push(FieldError::not_supported(&path.child("ipFamilyPolicy"), policy, known));
    }
    for (i, family) in families.iter().enumerate() {
        let name = family.as_str().unwrap_or_default();
        if !matches!(name, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&at_families.index(i), name, &["IPv4", "IPv6"]));
        } else if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&at_families.index(i), name));
        }
    }
    if families.len() > 2 {
        errors.push(FieldError::invalid(&at_families, get(spec, "ipFamilies"), "may only hold up to 2 values"));
    }
    let before = errors.len();
    let all = get(spec, "clusterIPs");
    let first = ips.first().and_then(Value::as_str).unwrap_or_default();
    if !ips.is_empty() && text(spec, "clusterIP") != first {
        errors.push(FieldError::invalid(&at_ips, all, "first value must match `clusterIP`"));
    }
    if ips.len() > 2 {
        errors.push(FieldError::invalid(&at_ips, all, "may only hold up to 2 values"));
    }
    let mut parsed = Vec::new();
    for (i, ip) in ips.iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if ip == "None" {
            if ips.len() > 1 {
                errors.push(FieldError::invalid(&at_ips, all, "'None' must be the first and only value"));
            }
            continue;
        }
        match ip.parse::<IpAddr>() {
            Ok(ip) => parsed.push(ip),
            Err(_) => {
                let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                errors.push(FieldError::invalid(&at_ips.index(i), ip, words));
            }
        }
    }
    if errors.len() > before {
        return;
    }
    if parsed.len() == 2 && parsed[0].is_ipv4() == parsed[1].is_ipv4() {
        errors.push(FieldError::invalid(&at_ips, all, "may specify no more than one IP for each IP family"));
    }
    for (i, (ip, family)) in parsed.iter().zip(families).enumerate() {
        let wanted = family.as_str().unwrap_or_default();
        if wanted != family_of(*ip) {
            let words = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
            errors.push(FieldError::invalid(&at_ips.index(i), &ip.to_string(), words));
        }
    }
}

pub fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn source_ranges(spec: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let ranges = list(spec, "loadBalancerSourceRanges");
    let path = path.child("loadBalancerSourceRanges");
    if !ranges.is_empty() && kind != "LoadBalancer" {
        errors.push(FieldError::forbidden(&path, "may only be used when `type` is 'LoadBalancer'"));
    }
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            let words = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(&path.index(i), range, words));
        }
    }
}

fn traffic(spec: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if has(spec, field) && kind != "LoadBalancer" {
            errors.push(FieldError::forbidden(&path.child(field), "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    let external = text(spec, "externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    if defaults::externally_accessible(spec) {
        if external.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if !matches!(external, "Cluster" | "Local") {
            errors.push(FieldError::not_supported(&at, external, &["Cluster", "Local"]));
        }
    } else if !external.is_empty() {
        errors.push(FieldError::invalid(&at, external, "may only be set for externally-accessible services"));
    }
    if let Some(n) = int(spec, "healthCheckNodePort").filter(|n| *n != 0)
        && !super::needs_health_check(spec)
    {
        let words = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&path.child("healthCheckNodePort"), n, words));
    }
    let internal = text(spec, "internalTrafficPolicy");
    if !internal.is_empty() && !matches!(internal, "Cluster" | "Local") {
        let at = path.child("internalTrafficPolicy");
        errors.push(FieldError::not_supported(&at, internal, &["Cluster", "Local"]));
    }
    let distribution = text(spec, "trafficDistribution");
    let known = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    if !distribution.is_empty() && !known.contains(&distribution) {
        errors.push(FieldError::not_supported(&path.child("trafficDistribution"), distribution, known));
    }
}

pub fn update(new: &Value, old: &Value, context: &Context) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        return errors;
    }
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        for field in ["clusterIPs", "ipFamilies"] {
            let (now, was) = (list(spec, field), list(before, field));
            let path = Path::new("spec").child(field);
            for (i, value) in was.iter().enumerate() {
                // families that were left out are inferred when addresses are handed out
                let gone = i == 0 && now.is_empty() && field == "clusterIPs";
                if gone || now.get(i).is_some_and(|n| n != value) {
                    errors.push(FieldError::invalid(&path.index(i), get(spec, field), ONCE));
                }
            }
        }
    }
    let class = |s: &Value| (text(s, "type") == "LoadBalancer").then(|| text(s, "loadBalancerClass").to_owned());
    if let (Some(now), Some(was)) = (class(spec), class(before))
        && now != was
    {
        errors.push(FieldError::invalid(&Path::new("spec.loadBalancerClass"), &now, ONCE));
    }
    errors
}
