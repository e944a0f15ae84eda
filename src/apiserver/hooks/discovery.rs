//! EndpointSlice. Source: `pkg/apis/discovery/validation/validation.go`, `pkg/apis/discovery/v1/defaults.go`,
//! `pkg/registry/discovery/endpointslice/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::check::PORT_RANGE;
use super::core::endpoints;
use super::core::service::validate::PROTOCOLS;
use super::json::{each_mut, ensure_object, get, int, list, same, set, set_absent, text};
use super::strategy::first_generation;
use super::{Context, Hooks};

/// Upstream's bounds, so that a slice stays small enough to be sent to every node.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

pub static ENDPOINT_SLICE: Hooks = Hooks {
    default,
    prepare_create: |object, _| first_generation(object),
    prepare_update,
    validate,
    validate_update,
    ..Hooks::NEUTRAL
};

fn default(object: &mut Value) {
    for port in each_mut(object, "ports") {
        set_absent(port, "name", "");
        set_absent(port, "protocol", "TCP");
    }
}

fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    let changed = ["addressType", "endpoints", "ports"].iter().any(|f| !same(get(new, f), get(old, f)))
        || !same(get(get(new, "metadata"), "labels"), get(get(old, "metadata"), "labels"));
    let generation = int(get(old, "metadata"), "generation").unwrap_or(0) + i64::from(changed);
    if let Some(meta) = ensure_object(new, "metadata") {
        set(meta, "generation", generation);
    }
}

fn validate(slice: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(slice, "addressType");
    if kind.is_empty() {
        errors.push(FieldError::required(&Path::new("addressType"), ""));
    } else if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&Path::new("addressType"), kind, TYPES));
    }
    let endpoints = list(slice, "endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&Path::new("endpoints"), endpoints.len(), ENDPOINTS_MAX));
        return errors;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        self::endpoint(endpoint, kind, &Path::new("endpoints").index(i), &mut errors);
    }
    let ports = list(slice, "ports");
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&Path::new("ports"), ports.len(), PORTS_MAX));
        return errors;
    }
    for (i, port) in ports.iter().enumerate() {
        let path = Path::new("ports").index(i);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if ports[..i].iter().any(|p| text(p, "name") == name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        if !name.is_empty() {
            let wrong = names::dns1123_label(name);
            errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&path.child("name"), name, e)));
        }
        if protocol.is_empty() {
            errors.push(FieldError::required(&path.child("protocol"), ""));
        } else if !PROTOCOLS.contains(&protocol) {
            errors.push(FieldError::not_supported(&path.child("protocol"), protocol, PROTOCOLS));
        }
        if let Some(number) = int(port, "port")
            && !(1..=65535).contains(&number)
        {
            errors.push(FieldError::invalid(&path.child("port"), number, PORT_RANGE));
        }
    }
    errors
}

fn endpoint(endpoint: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let addresses = list(endpoint, "addresses");
    let at = path.child("addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(&at, addresses.len(), ADDRESSES_MAX));
    }
    for (i, address) in addresses.iter().enumerate().map(|(i, a)| (i, a.as_str().unwrap_or_default())) {
        let at = at.index(i);
        match kind {
            "IPv4" if address.parse::<std::net::Ipv4Addr>().is_ok() => endpoints::ip(address, &at, errors),
            "IPv6" if address.parse::<std::net::Ipv6Addr>().is_ok() => endpoints::ip(address, &at, errors),
            "IPv4" => errors.push(FieldError::invalid(&at, address, "must be an IPv4 address")),
            "IPv6" => errors.push(FieldError::invalid(&at, address, "must be an IPv6 address")),
            "FQDN" => {
                let wrong = names::dns1123_subdomain(address.trim_end_matches('.'));
                errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&at, address, e)));
            }
            _ => {}
        }
    }
    let node = text(endpoint, "nodeName");
    if !node.is_empty() {
        let wrong = names::dns1123_subdomain(node);
        errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&path.child("nodeName"), node, e)));
    }
    let host = text(endpoint, "hostname");
    if !host.is_empty() {
        let wrong = names::dns1123_label(host);
        errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&path.child("hostname"), host, e)));
    }
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Vec<FieldError> {
    let kind = text(new, "addressType");
    if kind == text(old, "addressType") {
        return Vec::new();
    }
    vec![FieldError::invalid(&Path::new("addressType"), kind, "field is immutable")]
}
