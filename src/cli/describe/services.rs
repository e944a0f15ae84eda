//! Services and the addresses behind them.

use serde_json::Value;

use super::Facts;
use super::page::{NONE, Page, UNSET, flag, int, list, map, or, pairs_text, shown, strings};
use crate::manifest::text;

/// So many addresses are shown of a port.
const ADDRESSES_MAX: usize = 3;

pub fn service(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    let spec = &o["spec"];
    page.head(o);
    page.field(0, "Selector", pairs_text(&map(spec, "/selector")));
    page.field(0, "Type", text(spec, "/type"));
    page.field_if(0, "IP Family Policy", text(spec, "/ipFamilyPolicy"));
    page.field(0, "IP Families", or(&strings(spec, "/ipFamilies").join(","), NONE));
    page.field(0, "IP", text(spec, "/clusterIP"));
    page.field(0, "IPs", or(&strings(spec, "/clusterIPs").join(","), NONE));
    page.field_if(0, "External IPs", &strings(spec, "/externalIPs").join(","));
    page.field_if(0, "Desired LoadBalancer IP", text(spec, "/loadBalancerIP"));
    page.field_if(0, "External Name", text(spec, "/externalName"));
    let ingress = list(o, "/status/loadBalancer/ingress").iter().map(|i| match (text(i, "/ip"), text(i, "/ipMode")) {
        ("", _) => text(i, "/hostname").to_owned(),
        (ip, "") => ip.to_owned(),
        (ip, mode) => format!("{ip} ({mode})"),
    });
    page.field_if(0, "LoadBalancer Ingress", &ingress.collect::<Vec<_>>().join(", "));
    for port in list(spec, "/ports") {
        let (name, protocol) = (or(text(port, "/name"), UNSET), text(port, "/protocol"));
        page.field(0, "Port", format!("{name}\t{}/{protocol}", int(port, "/port")));
        page.field(0, "TargetPort", format!("{}/{protocol}", shown(port, "/targetPort")));
        page.field_if(0, "AppProtocol", text(port, "/appProtocol"));
        if int(port, "/nodePort") != 0 {
            page.field(0, "NodePort", format!("{name}\t{}/{protocol}", int(port, "/nodePort")));
        }
        page.field(0, "Endpoints", addresses(&facts.slices, text(port, "/name")));
    }
    page.field(0, "Session Affinity", text(spec, "/sessionAffinity"));
    page.field_if(0, "External Traffic Policy", text(spec, "/externalTrafficPolicy"));
    page.field_if(0, "Internal Traffic Policy", text(spec, "/internalTrafficPolicy"));
    if int(spec, "/healthCheckNodePort") != 0 {
        page.field(0, "HealthCheck NodePort", int(spec, "/healthCheckNodePort"));
    }
    page.field_if(0, "LoadBalancer Source Ranges", &strings(spec, "/loadBalancerSourceRanges").join(","));
    page.field_if(0, "Traffic Distribution", text(spec, "/trafficDistribution"));
    facts.write_events(page);
}

/// The ready addresses behind a port: the first few, and how many more.
fn addresses(slices: &[Value], port_name: &str) -> String {
    if slices.is_empty() {
        return NONE.into();
    }
    let mut all: Vec<String> = Vec::new();
    for slice in slices {
        let ready = || {
            let endpoints = list(slice, "/endpoints").iter();
            let endpoints =
                endpoints.filter(|e| e.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false));
            endpoints.filter_map(|e| e.pointer("/addresses/0").and_then(Value::as_str))
        };
        let ports = list(slice, "/ports");
        if ports.is_empty() {
            all.extend(ready().map(str::to_owned));
        }
        for port in ports.iter().filter(|p| text(p, "/name") == port_name) {
            let number = int(port, "/port");
            all.extend(
                ready().map(|a| if a.contains(':') { format!("[{a}]:{number}") } else { format!("{a}:{number}") }),
            );
        }
    }
    let more = all.len().saturating_sub(ADDRESSES_MAX);
    all.truncate(ADDRESSES_MAX);
    let shown = all.join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

pub fn endpoints(page: &mut Page, facts: &Facts<'_>) {
    page.head(facts.object);
    page.line(0, "Subsets:");
    for subset in list(facts.object, "/subsets") {
        for (title, field) in [("Addresses", "/addresses"), ("NotReadyAddresses", "/notReadyAddresses")] {
            let addresses: Vec<&str> = list(subset, field).iter().map(|a| text(a, "/ip")).collect();
            page.field(1, title, or(&addresses.join(","), NONE));
        }
        let ports = list(subset, "/ports");
        if !ports.is_empty() {
            page.line(1, "Ports:");
            page.line(2, "Name\tPort\tProtocol");
            page.line(2, "----\t----\t--------");
        }
        for port in ports {
            let (name, number) = (or(text(port, "/name"), UNSET), int(port, "/port"));
            page.line(2, format!("{name}\t{number}\t{}", text(port, "/protocol")));
        }
        page.line(0, "");
    }
    facts.write_events(page);
}

pub fn endpoint_slice(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    page.head(o);
    page.field(0, "AddressType", text(o, "/addressType"));
    let ports = list(o, "/ports");
    if ports.is_empty() {
        page.line(0, format!("Ports: {UNSET}"));
    } else {
        page.line(0, "Ports:");
        page.line(1, "Name\tPort\tProtocol");
        page.line(1, "----\t----\t--------");
    }
    for port in ports {
        let number = shown(port, "/port");
        let (name, number) = (or(text(port, "/name"), UNSET), or(&number, UNSET));
        page.line(1, format!("{name}\t{number}\t{}", text(port, "/protocol")));
    }
    let endpoints = list(o, "/endpoints");
    page.line(0, if endpoints.is_empty() { "Endpoints: <none>" } else { "Endpoints:" });
    for endpoint in endpoints {
        page.field(1, "- Addresses", or(&strings(endpoint, "/addresses").join(", "), NONE));
        page.line(2, "Conditions:");
        let ready = endpoint.pointer("/conditions/ready").map(|_| flag(endpoint, "/conditions/ready").to_string());
        page.field(3, "Ready", ready.as_deref().unwrap_or(UNSET));
        page.field(2, "Hostname", or(text(endpoint, "/hostname"), UNSET));
        if let Some(target) = endpoint.get("targetRef") {
            page.field(2, "TargetRef", format!("{}/{}", text(target, "/kind"), text(target, "/name")));
        }
        page.field(2, "NodeName", or(text(endpoint, "/nodeName"), UNSET));
        page.field(2, "Zone", or(text(endpoint, "/zone"), UNSET));
    }
    facts.write_events(page);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_counted_beyond_three() {
        let at = |a: &str, ready: bool| json!({"addresses": [a], "conditions": {"ready": ready}});
        let slice = |endpoints: Vec<Value>| vec![json!({"ports": [{"name": "", "port": 80}], "endpoints": endpoints})];
        for (slices, expected) in [
            (vec![], "<none>"),
            (slice(vec![at("10.0.0.1", true), at("10.0.0.2", false)]), "10.0.0.1:80"),
            (slice(vec![at("fd00::1", true)]), "[fd00::1]:80"),
            (
                slice((1..6).map(|i| at(&format!("10.0.0.{i}"), true)).collect()),
                "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...",
            ),
            (slice(vec![]), ""),
        ] {
            assert_eq!(addresses(&slices, ""), expected);
        }
    }
}
