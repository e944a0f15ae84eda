//! NetworkPolicy.

use serde_json::{Value, json};
use types::field::{FieldError, Path};

use super::super::addresses;
use super::super::check::{self, Errors, PORT_RANGE, items, port_name};
use super::super::json::{each_mut, ensure_object, get, has, int, is_empty, list, set, set_absent, text};
use super::super::{Hooks, selectors, strategy};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create: strategy::create_spec,
    prepare_update: strategy::update_spec,
    validate,
    warnings,
    ..Hooks::NEUTRAL
};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TYPES: &[&str] = &["Egress", "Ingress"];
/// The two directions: the rules and what a rule names the peers by.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn default(policy: &mut Value) {
    let Some(spec) = ensure_object(policy, "spec") else { return };
    ensure_object(spec, "podSelector");
    for (direction, _) in DIRECTIONS {
        for rule in each_mut(spec, direction) {
            for port in each_mut(rule, "ports") {
                set_absent(port, "protocol", "TCP");
            }
        }
    }
    if is_empty(get(spec, "policyTypes")) {
        let egress = !list(spec, "egress").is_empty();
        set(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn validate(policy: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(policy, "spec"), Path::new("spec"));
    selectors::validate(get(spec, "podSelector"), &path.child("podSelector"), &mut errors);
    for (direction, peers) in DIRECTIONS {
        for (path, rule) in items(spec, direction, &path) {
            items(rule, "ports", &path).for_each(|(path, of)| port(of, &path, &mut errors));
            items(rule, peers, &path).for_each(|(path, of)| peer(of, &path, &mut errors));
        }
    }
    let types = list(spec, "policyTypes");
    if types.len() > TYPES.len() {
        let words = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&path.child("policyTypes"), get(spec, "policyTypes"), words));
        return errors;
    }
    for (path, kind) in items(spec, "policyTypes", &path) {
        let kind = kind.as_str().unwrap_or_default();
        if !TYPES.contains(&kind) {
            errors.push(FieldError::not_supported(&path, kind, TYPES));
        }
    }
    errors
}

fn port(of: &Value, path: &Path, errors: &mut Errors) {
    if has(of, "protocol") && !PROTOCOLS.contains(&text(of, "protocol")) {
        errors.push(FieldError::not_supported(&path.child("protocol"), text(of, "protocol"), PROTOCOLS));
    }
    let (at, at_end, end) = (path.child("port"), path.child("endPort"), int(of, "endPort"));
    let outside = |n: i64| !(1..=65535).contains(&n);
    match get(of, "port") {
        Value::Null => {
            if let Some(end) = end {
                let words = "may not be specified when `port` is not specified";
                errors.push(FieldError::invalid(&at_end, end, words));
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                let words = "may not be specified when `port` is non-numeric";
                errors.push(FieldError::invalid(&at_end, end, words));
            }
            check::wrong(errors, &at, name, port_name(name));
        }
        number => {
            let number = number.as_i64().unwrap_or(0);
            if outside(number) {
                errors.push(FieldError::invalid(&at, number, PORT_RANGE));
            }
            let Some(end) = end else { return };
            if end < number {
                // Upstream shows the first port here.
                errors.push(FieldError::invalid(&at_end, number, "must be greater than or equal to `port`"));
            }
            if outside(end) {
                errors.push(FieldError::invalid(&at_end, end, PORT_RANGE));
            }
        }
    }
}

fn peer(of: &Value, path: &Path, errors: &mut Errors) {
    for field in ["podSelector", "namespaceSelector"] {
        selectors::validate(get(of, field), &path.child(field), errors);
    }
    if has(of, "ipBlock") {
        block(get(of, "ipBlock"), &path.child("ipBlock"), errors);
    }
    match check::count(of, &["podSelector", "namespaceSelector", "ipBlock"]) {
        0 => errors.push(FieldError::required(path, "must specify a peer")),
        n if n > 1 && has(of, "ipBlock") => {
            errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        _ => {}
    }
}

fn block(of: &Value, path: &Path, errors: &mut Errors) {
    let whole = check::required(errors, of, "cidr", path);
    if whole.is_empty() {
        return;
    }
    let Some(whole) = addresses::cidr(whole, &path.child("cidr"), errors) else { return };
    for (path, except) in items(of, "except", path) {
        let text = except.as_str().unwrap_or_default();
        let Some(part) = addresses::cidr(text, &path, errors) else { continue };
        if !whole.contains(&part.network()) || whole.prefix_len() >= part.prefix_len() {
            errors.push(FieldError::invalid(&path, text, "must be a strict subset of `cidr`"));
        }
    }
}

fn warnings(policy: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (direction, peers) in DIRECTIONS {
        for (path, rule) in items(get(policy, "spec"), direction, &Path::new("spec")) {
            for (path, peer) in items(rule, peers, &path) {
                let (block, path) = (get(peer, "ipBlock"), path.child("ipBlock"));
                warnings.extend(addresses::cidr_warnings(text(block, "cidr"), &path.child("cidr")));
                for (path, except) in items(block, "except", &path) {
                    warnings.extend(addresses::cidr_warnings(except.as_str().unwrap_or_default(), &path));
                }
            }
        }
    }
    warnings
}
