//! Probes and lifecycle handlers of a container. Source: `validateProbe`, `validateHandler`, `validateLifecycle`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::super::check::{Errors, PORT_RANGE, items, required, required_one_of};
use super::super::super::json::{get, has, int, list, text};
use super::super::service::validate::port_or_name;
use super::validate::none_negative;

const COUNTS: &[&str] =
    &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

pub fn validate(container: &Value, path: &Path, errors: &mut Errors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, name) {
            probe(get(container, name), name, &path.child(name), errors);
        }
    }
    let (lifecycle, path) = (get(container, "lifecycle"), path.child("lifecycle"));
    for name in ["postStart", "preStop"] {
        if has(lifecycle, name) {
            handler(get(lifecycle, name), &["exec", "httpGet", "tcpSocket", "sleep"], &path.child(name), errors);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &Path, errors: &mut Errors) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    none_negative(probe, COUNTS, path, errors);
    if let Some(n) = int(probe, "terminationGracePeriodSeconds") {
        let at = path.child("terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            errors.push(FieldError::invalid(&at, n, "must not be set for readinessProbes"));
        } else if n <= 0 {
            errors.push(FieldError::invalid(&at, n, "must be greater than 0"));
        }
    }
    if let Some(n) = int(probe, "successThreshold").filter(|n| *n != 1 && name != "readinessProbe") {
        errors.push(FieldError::invalid(&path.child("successThreshold"), n, "must be 1"));
    }
}

fn handler(handler: &Value, kinds: &[&str], path: &Path, errors: &mut Errors) {
    let mut found = kinds.iter().filter(|k| has(handler, k));
    let Some(kind) = found.next() else {
        errors.push(FieldError::required(path, "must specify a handler type"));
        return;
    };
    for other in found {
        errors.push(FieldError::forbidden(&path.child(other), "may not specify more than 1 handler type"));
    }
    let (action, path) = (get(handler, kind), path.child(kind));
    match *kind {
        "exec" if list(action, "command").is_empty() => {
            errors.push(FieldError::required(&path.child("command"), ""));
        }
        "httpGet" => {
            required(errors, action, "path", &path);
            port_or_name(get(action, "port"), &path.child("port"), errors);
            required_one_of(errors, action, "scheme", &path, &["HTTP", "HTTPS"]);
            for (path, header) in items(action, "httpHeaders", &path) {
                let name = text(header, "name");
                if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                    let words = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                                 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
                    errors.push(FieldError::invalid(&path.child("name"), name, words));
                }
            }
        }
        "tcpSocket" => port_or_name(get(action, "port"), &path.child("port"), errors),
        "grpc" => {
            let n = int(action, "port").unwrap_or(0);
            if !(1..=65535).contains(&n) {
                errors.push(FieldError::invalid(&path.child("port"), n, PORT_RANGE));
            }
        }
        "sleep" => none_negative(action, &["seconds"], &path, errors),
        _ => {}
    }
}
