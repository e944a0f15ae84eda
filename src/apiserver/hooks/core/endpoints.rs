//! Endpoints. Source: `ValidateEndpoints`, `ValidateEndpointIP`, `pkg/apis/core/v1/defaults.go`.

use std::net::IpAddr;

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::Hooks;
use super::super::check::PORT_RANGE;
use super::super::json::{each_mut, int, list, set_blank, text};
use super::service::validate::PROTOCOLS;

pub static HOOKS: Hooks = Hooks {
    default,
    validate,
    create_on_update: true,
    // Source: core/v1 `types.go`, prerelease-lifecycle of Endpoints.
    deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ..Hooks::NEUTRAL
};

fn default(object: &mut Value) {
    for subset in each_mut(object, "subsets") {
        for port in each_mut(subset, "ports") {
            set_blank(port, "protocol", "TCP");
        }
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, subset) in list(object, "subsets").iter().enumerate() {
        let path = Path::new("subsets").index(i);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, address) in list(subset, field).iter().enumerate() {
                let path = path.child(field).index(j);
                ip(text(address, "ip"), &path.child("ip"), &mut errors);
                let host = text(address, "hostname");
                if !host.is_empty() {
                    errors.extend(
                        names::dns1123_label(host)
                            .into_iter()
                            .map(|e| FieldError::invalid(&path.child("hostname"), host, e)),
                    );
                }
            }
        }
        let ports = list(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            self::port(port, ports.len() > 1, &path.child("ports").index(j), &mut errors);
        }
    }
    errors
}

/// An address that endpoints may have. Errors as upstream's `ValidateEndpointIP`.
pub fn ip(address: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let Ok(ip) = address.parse::<IpAddr>() else {
        let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, address, words));
        return;
    };
    let mut refuse = |words| errors.push(FieldError::invalid(path, address, words));
    if ip.is_unspecified() {
        refuse("may not be unspecified (0.0.0.0 or ::)");
    }
    if ip.is_loopback() {
        refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    match ip {
        IpAddr::V4(v4) if v4.is_link_local() => {
            refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
        }
        IpAddr::V4(v4) if v4.octets()[..3] == [224, 0, 0] => {
            refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
        }
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xff00 && v6.segments()[0] & 0xf == 2 => {
            refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
        }
        _ => {}
    }
}

fn port(port: &Value, name_required: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let name = text(port, "name");
    if name.is_empty() {
        if name_required {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
    } else {
        errors
            .extend(names::dns1123_label(name).into_iter().map(|e| FieldError::invalid(&path.child("name"), name, e)));
    }
    let number = int(port, "port").unwrap_or(0);
    if !(1..=65535).contains(&number) {
        errors.push(FieldError::invalid(&path.child("port"), number, PORT_RANGE));
    }
    let protocol = text(port, "protocol");
    if protocol.is_empty() {
        errors.push(FieldError::required(&path.child("protocol"), ""));
    } else if !PROTOCOLS.contains(&protocol) {
        errors.push(FieldError::not_supported(&path.child("protocol"), protocol, PROTOCOLS));
    }
}
