//! Ingress. What a host, a path and a backend may be.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;

use super::super::addresses;
use super::super::check::{self, Errors, PORT_RANGE, items, port_name};
use super::super::json::{at, get, has, int, list, set, text};
use super::super::{Context, Hooks, strategy};
use super::class;

pub static HOOKS: Hooks = Hooks {
    prepare_create: |object, _| {
        set(object, "status", json!({"loadBalancer": {}}));
        strategy::first_generation(object);
    },
    prepare_update: strategy::update,
    validate,
    validate_create,
    validate_update,
    warnings_create,
    ..Hooks::NEUTRAL
};

/// How the class was named before it had a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: &[&str] = &["/..", "/."];
const NO_ADDRESS: &str = "must be a DNS name, not an IP address";

fn validate(ingress: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(ingress, "spec"), Path::new("spec"));
    if list(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
        let words = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&path, get(spec, "rules"), words));
    }
    if has(spec, "defaultBackend") {
        backend(get(spec, "defaultBackend"), &path.child("defaultBackend"), &mut errors);
    }
    for (path, rule) in items(spec, "rules", &path) {
        let name = text(rule, "host");
        if addresses::is_ip(name) {
            errors.push(FieldError::invalid(&path.child("host"), name, NO_ADDRESS));
        }
        if !name.is_empty() {
            host(name, &path.child("host"), &mut errors);
        }
        if has(rule, "http") {
            let (http, path) = (get(rule, "http"), path.child("http"));
            if list(http, "paths").is_empty() {
                errors.push(FieldError::required(&path.child("paths"), ""));
            }
            items(http, "paths", &path).for_each(|(path, of)| http_path(of, &path, &mut errors));
        }
    }
    for (path, tls) in items(spec, "tls", &path) {
        for (path, name) in items(tls, "hosts", &path) {
            host(name.as_str().unwrap_or_default(), &path, &mut errors);
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            check::wrong(&mut errors, &path.child("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    if has(spec, "ingressClassName") {
        let class = text(spec, "ingressClassName");
        check::wrong(&mut errors, &path.child("ingressClassName"), class, names::dns1123_subdomain(class));
    }
    errors
}

fn host(name: &str, path: &Path, errors: &mut Errors) {
    let wrong = if name.contains('*') { wildcard(name) } else { names::dns1123_subdomain(name) };
    check::wrong(errors, path, name, wrong);
}

/// Source: `IsWildcardDNS1123Subdomain`.
fn wildcard(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > names::SUBDOMAIN_MAX {
        errors.push(names::too_long(names::SUBDOMAIN_MAX));
    }
    let rest = name.strip_prefix("*.");
    if rest.is_none_or(|rest| !names::dns1123_subdomain(&rest[..rest.len().min(names::SUBDOMAIN_MAX)]).is_empty()) {
        errors.push(names::form(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{}", names::SUBDOMAIN_FORM),
            &["*.example.com"],
        ));
    }
    errors
}

fn http_path(of: &Value, path: &Path, errors: &mut Errors) {
    let (at, given) = (path.child("path"), text(of, "path"));
    let relative = !given.starts_with('/');
    match text(of, "pathType") {
        "" if !has(of, "pathType") => {
            errors.push(FieldError::required(&path.child("pathType"), "pathType must be specified"));
            return;
        }
        "Exact" | "Prefix" => {
            if relative {
                errors.push(FieldError::invalid(&at, given, "must be an absolute path"));
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| given.contains(**bad)) {
                errors.push(FieldError::invalid(&at, given, format!("must not contain '{bad}'")));
            }
            for bad in BAD_SUFFIXES.iter().filter(|bad| given.ends_with(**bad)) {
                errors.push(FieldError::invalid(&at, given, format!("cannot end with '{bad}'")));
            }
        }
        "ImplementationSpecific" => {
            if relative && !given.is_empty() {
                errors.push(FieldError::invalid(&at, given, "must be an absolute path"));
            }
        }
        other => errors.push(FieldError::not_supported(&path.child("pathType"), other, PATH_TYPES)),
    }
    backend(get(of, "backend"), &path.child("backend"), errors);
}

fn backend(of: &Value, path: &Path, errors: &mut Errors) {
    match (has(of, "resource"), has(of, "service")) {
        (true, true) => errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends")),
        (true, false) => class::reference(get(of, "resource"), &path.child("resource"), errors),
        (false, true) => service(get(of, "service"), path, errors),
        (false, false) => errors.push(FieldError::invalid(path, "", "resource or service backend is required")),
    }
}

fn service(service: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("service");
    let name = check::required(errors, service, "name", &at);
    if !name.is_empty() {
        check::wrong(errors, &at.child("name"), name, names::dns1123_label(name));
    }
    let port = get(service, "port");
    let (name, number) = (text(port, "name"), int(port, "number").unwrap_or(0));
    let at = at.child("port");
    match (name.is_empty(), number) {
        (false, 0) => check::wrong(errors, &at.child("name"), name, port_name(name)),
        (false, _) => errors.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
        (true, 0) => errors.push(FieldError::required(path, "port name or number is required")),
        (true, n) if !(1..=65535).contains(&n) => {
            errors.push(FieldError::invalid(&at.child("number"), n, PORT_RANGE));
        }
        (true, _) => {}
    }
}

fn annotation(ingress: &Value) -> Option<&str> {
    get(at(ingress, &["metadata", "annotations"]), CLASS_ANNOTATION).as_str()
}

fn validate_create(ingress: &Value, _: &Context) -> Errors {
    let class = get(get(ingress, "spec"), "ingressClassName").as_str();
    match (annotation(ingress), class) {
        (Some(annotated), Some(class)) if annotated != class => {
            let words = "must match `ingressClassName` when both are specified";
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            vec![FieldError::invalid(&path, annotated, words)]
        }
        _ => Vec::new(),
    }
}

fn warnings_create(ingress: &Value) -> Vec<String> {
    if annotation(ingress).is_none() || has(get(ingress, "spec"), "ingressClassName") {
        return Vec::new();
    }
    vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
}

fn validate_update(new: &Value, _: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource != "status" {
        return errors;
    }
    let balancer = at(new, &["status", "loadBalancer"]);
    for (path, ingress) in items(balancer, "ingress", &Path::new("status.loadBalancer")) {
        let (ip, name) = (text(ingress, "ip"), text(ingress, "hostname"));
        if !ip.is_empty() {
            addresses::ip(ip, &path.child("ip"), &mut errors);
        }
        if !name.is_empty() {
            let path = path.child("hostname");
            check::wrong(&mut errors, &path, name, names::dns1123_subdomain(name));
            if addresses::is_ip(name) {
                errors.push(FieldError::invalid(&path, name, NO_ADDRESS));
            }
        }
    }
    errors
}
