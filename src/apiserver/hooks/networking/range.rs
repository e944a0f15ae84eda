//! ServiceCIDR and IPAddress: the ranges that cluster IPs are taken from, and one object for each address in use.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::addresses;
use super::super::check::{self, Errors, IMMUTABLE, items};
use super::super::json::{get, list, text};
use super::super::{Context, Hooks, strategy};

pub static SERVICE_CIDR: Hooks = Hooks {
    prepare_create: |object, _| strategy::empty_status(object),
    prepare_update: strategy::update_ungenerated,
    validate_create: |range, _| ranges(range),
    validate_update,
    ..Hooks::NEUTRAL
};

pub static IP_ADDRESS: Hooks =
    Hooks { validate, validate_update: parent_stays, validate_name: address_name, ..Hooks::NEUTRAL };

fn ranges(range: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(range, "spec"), Path::new("spec.cidrs"));
    let all = list(spec, "cidrs");
    match all.len() {
        0 => errors.push(FieldError::required(&path, "at least one CIDR required")),
        1 | 2 => {
            let parsed: Vec<_> = items(spec, "cidrs", &Path::new("spec"))
                .filter_map(|(path, one)| {
                    addresses::canonical_cidr(one.as_str().unwrap_or_default(), &path, &mut errors)
                })
                .collect();
            if let [a, b] = parsed.as_slice()
                && a.addr().is_ipv4() == b.addr().is_ipv4()
            {
                let words = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.push(FieldError::invalid(&path, get(spec, "cidrs"), words));
            }
        }
        _ => errors.push(FieldError::invalid(&path, spec, "may only hold up to 2 values")),
    }
    errors
}

/// A range may get one of the other family beside it, and changes in no other way.
fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        return errors;
    }
    let path = Path::new("spec.cidrs");
    let (now, was) = (list(get(new, "spec"), "cidrs"), list(get(old, "spec"), "cidrs"));
    if now.len() == was.len() || (now.len(), was.len()) == (2, 1) {
        for (i, (now, was)) in now.iter().zip(was).enumerate() {
            if now != was {
                errors.push(FieldError::invalid(&path.index(i), now, IMMUTABLE));
            }
        }
        if now.len() != was.len() {
            errors.extend(ranges(new));
        }
    } else {
        errors.push(FieldError::invalid(&path, get(get(new, "spec"), "cidrs"), IMMUTABLE));
    }
    errors
}

/// The name is the address.
fn address_name(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    addresses::canonical_ip(name, &Path::root(), &mut errors);
    errors.into_iter().map(|e| e.detail).collect()
}

fn validate(address: &Value) -> Errors {
    let mut errors = Vec::new();
    let (parent, path) = (get(get(address, "spec"), "parentRef"), Path::new("spec.parentRef"));
    if parent.is_null() {
        errors.push(FieldError::required(&path, ""));
        return errors;
    }
    // the core group is the empty text
    let group = text(parent, "group");
    if !group.is_empty() {
        check::wrong(&mut errors, &path.child("group"), group, names::dns1123_subdomain(group));
    }
    for field in ["resource", "name"] {
        let value = check::required(&mut errors, parent, field, &path);
        check::wrong(&mut errors, &path.child(field), value, names::path_segment(value));
    }
    let namespace = text(parent, "namespace");
    check::wrong(&mut errors, &path.child("namespace"), namespace, names::path_segment(namespace));
    errors
}

fn parent_stays(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    check::immutable(&mut errors, get(new, "spec"), get(old, "spec"), "parentRef", &Path::new("spec"));
    errors
}
