//! CertificateSigningRequest: who asks is written by the server, nobody changes what was asked, `approval` decides and
//! `status` answers.
//!
//! Source: `pkg/apis/certificates/validation/validation.go`, `pkg/apis/core/validation/names.go` `ValidateSignerName`,
//! `pkg/registry/certificates/certificates/strategy.go`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;
use types::time::rfc3339;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::check::{self, Errors, items};
use super::json::{copy, ensure_object, get, has, int, list, same, set, text};
use super::{Context, Hooks};
use crate::auth::certificate_request;

pub static SIGNING_REQUEST: Hooks = Hooks {
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    validate_name: |_| Vec::new(),
    ..Hooks::NEUTRAL
};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// A signer of older versions.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const SECONDS_MIN: i64 = 600;
/// Conditions that hold or are not there.
const DECIDED: [&str; 3] = ["Approved", "Denied", "Failed"];
/// A domain, and the longest name of an object in a namespace.
const SIGNER_MAX: usize = names::SUBDOMAIN_MAX + 1 + names::LABEL_MAX + 1 + names::SUBDOMAIN_MAX;

fn prepare_create(request: &mut Value, context: &Context) {
    set(request, "status", json!({}));
    let Some(spec) = ensure_object(request, "spec") else { return };
    let who = context.identity;
    for (field, value) in [
        ("username", json!(who.user)),
        ("uid", json!(who.uid)),
        ("groups", json!(who.groups)),
        ("extra", json!(who.extra)),
    ] {
        if super::json::is_empty(&value) {
            super::json::remove(spec, field);
        } else {
            set(spec, field, value);
        }
    }
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    copy(new, old, "spec");
    match context.subresource {
        "approval" => {
            date(new, old, context);
            let conditions = get(get(new, "status"), "conditions").clone();
            copy(new, old, "status");
            if let Some(status) = ensure_object(new, "status") {
                set(status, "conditions", conditions);
            }
        }
        "status" => {
            for kind in ["Approved", "Denied"] {
                keep_conditions(new, old, kind);
            }
            date(new, old, context);
        }
        _ => copy(new, old, "status"),
    }
}

fn of_type<'a>(request: &'a Value, kind: &'a str) -> impl Iterator<Item = (usize, &'a Value)> {
    list(get(request, "status"), "conditions").iter().enumerate().filter(move |(_, c)| text(c, "type") == kind)
}

fn conditions_mut(request: &mut Value) -> &mut [Value] {
    let conditions = request.get_mut("status").and_then(|s| s.get_mut("conditions"));
    conditions.and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Conditions of a type that are as many as before are what they were before.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let places: Vec<usize> = of_type(new, kind).map(|(i, _)| i).collect();
    let before: Vec<Value> = of_type(old, kind).map(|(_, c)| c.clone()).collect();
    if places.len() == before.len() {
        let conditions = conditions_mut(new);
        for (place, condition) in places.into_iter().zip(before) {
            conditions[place] = condition;
        }
    }
}

/// Times that the writer left out.
fn date(new: &mut Value, old: &Value, context: &Context) {
    let now = rfc3339(context.now);
    for condition in conditions_mut(new).iter_mut().filter(|c| c.is_object()) {
        if !has(condition, "lastUpdateTime") {
            set(condition, "lastUpdateTime", now.as_str());
        }
        if !has(condition, "lastTransitionTime") {
            let alike = |c: &&Value| {
                ["type", "status"].iter().all(|f| text(c, f) == text(condition, f)) && has(c, "lastTransitionTime")
            };
            let before = list(get(old, "status"), "conditions").iter().find(alike);
            let at = before.map_or(now.as_str(), |c| text(c, "lastTransitionTime")).to_owned();
            set(condition, "lastTransitionTime", at);
        }
    }
}

fn validate(request: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(request, "spec"), Path::new("spec"));
    if let Err(why) = parse(text(spec, "request")) {
        errors.push(FieldError::invalid(&path.child("request"), text(spec, "request"), why));
    }
    let usages = list(spec, "usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&path.child("usages"), ""));
    }
    for (path, usage) in items(spec, "usages", &path) {
        let usage = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(&path, usage, USAGES));
        }
    }
    for (i, (path, usage)) in items(spec, "usages", &path).enumerate() {
        if usages[..i].contains(usage) {
            errors.push(FieldError::duplicate(&path, usage));
        }
    }
    signer_name(text(spec, "signerName"), &path.child("signerName"), &mut errors);
    if let Some(n) = int(spec, "expirationSeconds").filter(|n| *n < SECONDS_MIN) {
        let words = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), n, words));
    }
    status(request, &mut errors);
    errors
}

fn pem(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

/// Reads the request and checks that it was signed with the key that it is for.
fn parse(request: &str) -> Result<(), String> {
    let der = certificate_request::der(request)?;
    let parsed = certificate_request::parse(&der)?;
    parsed.verify_signature().map_err(|_| "x509: signature verification failed".to_owned())
}

/// Certificates and nothing else, or nothing at all.
fn certificates(text: &str) -> Result<(), String> {
    let bytes = pem(text);
    if bytes.is_empty() {
        return Ok(());
    }
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&bytes).map_while(Result::ok) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        blocks += 1;
        X509Certificate::from_der(&block.contents).map_err(|_| "x509: malformed certificate".to_owned())?;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

fn signer_name(name: &str, path: &Path, errors: &mut Errors) {
    if name == LEGACY_SIGNER {
        let words = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(path, name, words));
        return;
    }
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let words = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, name, words));
        return;
    };
    if domain.len() > names::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, names::SUBDOMAIN_MAX));
    }
    labels(domain, names::dns1123_label, path, errors);
    if !domain.contains('.') {
        let words = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, words));
    }
    labels(rest, names::dns1123_subdomain, path, errors);
    if name.len() > SIGNER_MAX {
        errors.push(FieldError::too_long(path, SIGNER_MAX));
    }
}

/// What is wrong with the first label that is wrong.
fn labels(of: &str, check: fn(&str) -> Vec<String>, path: &Path, errors: &mut Errors) {
    if let Some((label, wrong)) = of.split('.').map(|l| (l, check(l))).find(|(_, wrong)| !wrong.is_empty()) {
        let say = |words| FieldError::invalid(path, of, format!("validating label {label:?}: {words}"));
        errors.extend(wrong.into_iter().map(say));
    }
}

fn status(request: &Value, errors: &mut Errors) {
    let status = get(request, "status");
    let all = Path::new("status.conditions");
    let (mut seen, mut decisions) = (Vec::new(), Vec::new());
    for (path, condition) in items(status, "conditions", &Path::new("status")) {
        let kind = check::required(errors, condition, "type", &path);
        let known: &[&str] = if DECIDED.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        check::required_one_of(errors, condition, "status", &path, known);
        if ["Approved", "Denied"].contains(&kind) {
            if decisions.iter().any(|other| *other != kind) {
                let words = "Approved and Denied conditions are mutually exclusive";
                errors.push(FieldError::invalid(&all, kind, words));
            }
            decisions.push(kind);
        }
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        seen.push(kind);
    }
    if let Err(why) = certificates(text(status, "certificate")) {
        errors.push(FieldError::invalid(&Path::new("status.certificate"), "<certificate data>", why));
    }
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if !context.subresource.is_empty() {
        status(new, &mut errors);
    }
    let path = Path::new("status.conditions");
    let all = |request, kind| -> Vec<&Value> { of_type(request, kind).map(|(_, c)| c).collect() };
    for kind in DECIDED {
        if all(new, kind).len() < all(old, kind).len() {
            let words = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden(&path, words));
        }
    }
    if context.subresource != "approval" {
        for kind in ["Approved", "Denied"] {
            if all(new, kind).len() > all(old, kind).len() {
                let words = format!("updates may not add a condition of type {kind:?}");
                errors.push(FieldError::forbidden(&path, words));
            }
        }
    }
    let (certificate, before) = (get(get(new, "status"), "certificate"), get(get(old, "status"), "certificate"));
    if !same(certificate, before) {
        let path = Path::new("status.certificate");
        if context.subresource != "status" {
            errors.push(FieldError::forbidden(&path, "updates may not set certificate content"));
        } else if !super::json::is_empty(before) {
            errors.push(FieldError::forbidden(&path, "updates may not modify existing certificate content"));
        }
    }
    errors
}
