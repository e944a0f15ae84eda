//! Rows of Services, Endpoints and EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::cells::{NONE, capped, created, host_port, labels, or};
use super::{first, joined_or_none, name, with_age};
use crate::hooks::json::{at, get, int, list, text, texts};

/// How many endpoints and ports a cell names.
const SHOWN_MAX: usize = 3;

pub fn service(service: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = get(service, "spec");
    let kind = text(spec, "type");
    let ports: Vec<String> = list(spec, "ports")
        .iter()
        .map(|p| {
            let (port, protocol) = (int(p, "port").unwrap_or(0), text(p, "protocol"));
            match int(p, "nodePort").unwrap_or(0) {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(service),
        kind.into(),
        or(or(first(spec, "clusterIPs"), text(spec, "clusterIP")), NONE).into(),
        external(service, spec, kind).into(),
        joined_or_none(&ports).into(),
        created(service, now).into(),
        labels(spec, "selector").into(),
    ]
}

fn external(service: &Value, spec: &Value, kind: &str) -> String {
    let ips: Vec<String> = texts(spec, "externalIPs").map(str::to_owned).collect();
    match kind {
        "ClusterIP" | "NodePort" => joined_or_none(&ips),
        "LoadBalancer" => {
            let ingress = list(at(service, &["status", "loadBalancer"]), "ingress");
            let given: BTreeSet<&str> = ingress.iter().map(|i| or(text(i, "ip"), text(i, "hostname"))).collect();
            let all: Vec<String> = given.into_iter().filter(|i| !i.is_empty()).map(str::to_owned).chain(ips).collect();
            capped(&all, usize::MAX, "<pending>")
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => "<unknown>".into(),
    }
}

pub fn endpoints(endpoints: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut shown = Vec::new();
    for subset in list(endpoints, "subsets") {
        let addresses = list(subset, "addresses").iter().map(|a| text(a, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            shown.extend(addresses.map(str::to_owned));
            continue;
        }
        for port in ports {
            let number = int(port, "port").unwrap_or(0);
            shown.extend(addresses.clone().map(|ip| host_port(ip, number)));
        }
    }
    with_age(endpoints, now, [capped(&shown, SHOWN_MAX, NONE).into()])
}

pub fn endpoint_slice(slice: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(slice, "ports")
        .iter()
        .map(|p| match int(p, "port") {
            Some(n) => n.to_string(),
            None => or(text(p, "name"), "*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> =
        list(slice, "endpoints").iter().flat_map(|e| texts(e, "addresses")).map(str::to_owned).collect();
    with_age(
        slice,
        now,
        [
            text(slice, "addressType").into(),
            capped(&ports, SHOWN_MAX, "<unset>").into(),
            capped(&addresses, SHOWN_MAX, "<unset>").into(),
        ],
    )
}
