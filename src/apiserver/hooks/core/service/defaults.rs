//! Service defaults, and what an update inherits from the Service as it is.
//! Source: `SetDefaults_Service`, `pkg/registry/core/service/strategy.go` (`patchAllocatedValues`,
//! `dropTypeDependentFields`), `NormalizeClusterIPs`.

use serde_json::{Value, json};

use super::super::super::json::{
    at, boolean, copy, each_mut, ensure_object, get, has, int, is_empty, list, remove, same, set, set_absent,
    set_blank, text,
};
use super::{needs_cluster_ip, needs_health_check, needs_node_port};

const AFFINITY_SECONDS: i64 = 10_800;

pub fn service(service: &mut Value) {
    let Some(spec) = ensure_object(service, "spec") else { return };
    set_blank(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => remove(spec, "sessionAffinityConfig"),
        "ClientIP" if !has(at(spec, &["sessionAffinityConfig", "clientIP"]), "timeoutSeconds") => {
            set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
        }
        _ => {}
    }
    set_blank(spec, "type", "ClusterIP");
    for port in each_mut(spec, "ports") {
        set_blank(port, "protocol", "TCP");
        let target = get(port, "targetPort");
        if is_empty(target) || target.as_i64() == Some(0) {
            copy_port(port);
        }
    }
    let kind = text(spec, "type").to_owned();
    if externally_accessible(spec) {
        set_blank(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        set_absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = service.get_mut("status").and_then(|s| s.get_mut("loadBalancer"));
        if let Some(balancer) = balancer {
            for ingress in each_mut(balancer, "ingress") {
                if !text(ingress, "ip").is_empty() {
                    set_absent(ingress, "ipMode", "VIP");
                }
            }
        }
    }
}

fn copy_port(port: &mut Value) {
    if let Some(number) = int(port, "port") {
        set(port, "targetPort", number);
    }
}

pub fn externally_accessible(spec: &Value) -> bool {
    matches!(text(spec, "type"), "LoadBalancer" | "NodePort")
        || (text(spec, "type") == "ClusterIP" && !list(spec, "externalIPs").is_empty())
}

/// `clusterIPs` follows `clusterIP` for writers that know only the one.
pub fn normalize_create(service: &mut Value) {
    let Some(spec) = ensure_object(service, "spec") else { return };
    let ip = text(spec, "clusterIP").to_owned();
    if !ip.is_empty() && list(spec, "clusterIPs").is_empty() {
        set(spec, "clusterIPs", json!([ip]));
    }
}

pub fn inherit(new: &mut Value, old: &Value) {
    let Some(spec) = ensure_object(new, "spec") else { return };
    let before = get(old, "spec");
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        if text(spec, "clusterIP").is_empty() && list(spec, "clusterIPs").is_empty() {
            copy(spec, before, "clusterIP");
        }
        if list(spec, "clusterIPs").is_empty() && text(spec, "clusterIP") == text(before, "clusterIP") {
            copy(spec, before, "clusterIPs");
        }
    }
    normalize_update(spec, before);
    if needs_node_port(before) && needs_node_port(spec) {
        inherit_node_ports(spec, before);
    }
    if needs_health_check(before) && needs_health_check(spec) && int(spec, "healthCheckNodePort").unwrap_or(0) == 0 {
        copy(spec, before, "healthCheckNodePort");
    }
    drop_by_type(spec, before);
}

fn normalize_update(spec: &mut Value, before: &Value) {
    let (ip, old_ip) = (text(spec, "clusterIP").to_owned(), text(before, "clusterIP"));
    let unchanged = same(get(spec, "clusterIPs"), get(before, "clusterIPs"));
    if list(spec, "clusterIPs").is_empty() {
        if !ip.is_empty() {
            set(spec, "clusterIPs", json!([ip]));
        }
    } else if unchanged && ip != old_ip {
        if ip.is_empty() { remove(spec, "clusterIPs") } else { set(spec, "clusterIPs", json!([ip])) }
    }
}

fn inherit_node_ports(spec: &mut Value, before: &Value) {
    let mut used: Vec<i64> =
        list(spec, "ports").iter().filter_map(|p| int(p, "nodePort")).filter(|n| *n != 0).collect();
    for port in each_mut(spec, "ports") {
        if int(port, "nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let twin = list(before, "ports")
            .iter()
            .find(|p| int(p, "port") == int(port, "port") && text(p, "protocol") == text(port, "protocol"))
            .and_then(|p| int(p, "nodePort"))
            .filter(|n| *n != 0 && !used.contains(n));
        if let Some(number) = twin {
            used.push(number);
            set(port, "nodePort", number);
        }
    }
}

/// What the old type needed and the new one cannot have, unless the writer changed it on purpose.
fn drop_by_type(spec: &mut Value, before: &Value) {
    let drop_same = |spec: &mut Value, field: &str| {
        if same(get(spec, field), get(before, field)) {
            remove(spec, field);
        }
    };
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            drop_same(spec, field);
        }
    }
    if needs_node_port(before) && !needs_node_port(spec) {
        let ports = |s: &Value| {
            list(s, "ports").iter().filter_map(|p| int(p, "nodePort")).filter(|n| *n != 0).collect::<Vec<_>>()
        };
        if ports(spec).iter().all(|n| ports(before).contains(n)) {
            each_mut(spec, "ports").for_each(|port| remove(port, "nodePort"));
        }
    }
    if needs_health_check(before) && !needs_health_check(spec) {
        drop_same(spec, "healthCheckNodePort");
    }
    if text(before, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            drop_same(spec, field);
        }
    }
    if externally_accessible(before) && !externally_accessible(spec) {
        drop_same(spec, "externalTrafficPolicy");
    }
    if text(spec, "type") == "ExternalName" && text(before, "type") != "ExternalName" {
        drop_same(spec, "internalTrafficPolicy");
    }
}

/// Whether ports of a load balancer are opened on the nodes as well.
pub fn allocates_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => !has(spec, "allocateLoadBalancerNodePorts") || boolean(spec, "allocateLoadBalancerNodePorts"),
        _ => false,
    }
}
