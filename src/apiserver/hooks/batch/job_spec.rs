//! What is valid in the spec of a Job, also within a CronJob.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{Errors, not_negative, wrong};
use super::super::core::pod::{validate as pod, warnings};
use super::super::json::{get, has, int, text};
use super::policies;

/// Bounds that keep the lists of indexes in a status short enough.
const PARALLELISM_MAX_INDEXED: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_MAX_MANY: i64 = 10_000;
const FAILED_INDEXES_MAX_MANY: i64 = 10_000;
const MANAGED_BY_BYTES_MAX: usize = 63;
const REPLACEMENTS: &[&str] = &["Failed", "TerminatingOrFailed"];

pub fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(errors, spec, field, path);
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        let words = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(&path.child("backoffLimitPerIndex"), words));
    }
    managed_by(spec, path, errors);
    match text(spec, "completionMode") {
        "Indexed" => indexed(spec, path, errors),
        mode => {
            if !matches!(mode, "" | "NonIndexed") {
                let modes = ["NonIndexed", "Indexed"];
                errors.push(FieldError::not_supported(&path.child("completionMode"), mode, &modes));
            } else {
                for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                    if let Some(n) = int(spec, field) {
                        errors.push(FieldError::invalid(&path.child(field), n, "requires indexed completion mode"));
                    }
                }
            }
        }
    }
    policies::failure(spec, path, errors);
    policies::success(spec, path, errors);
    let (replacement, at) = (text(spec, "podReplacementPolicy"), path.child("podReplacementPolicy"));
    let known = if has(spec, "podFailurePolicy") { &REPLACEMENTS[..1] } else { REPLACEMENTS };
    if has(spec, "podReplacementPolicy") && !known.contains(&replacement) {
        errors.push(FieldError::not_supported(&at, replacement, known));
    }
    pod::template(get(spec, "template"), &path.child("template"), errors);
    restart_policy(spec, path, errors);
}

fn managed_by(spec: &Value, path: &Path, errors: &mut Errors) {
    let Some(manager) = get(spec, "managedBy").as_str() else { return };
    let path = path.child("managedBy");
    domain_prefixed_path(manager, &path, errors);
    if manager.len() > MANAGED_BY_BYTES_MAX {
        errors.push(FieldError::too_long(&path, MANAGED_BY_BYTES_MAX));
    }
}

/// A path behind a domain. Source: apimachinery `pkg/util/validation` `IsDomainPrefixedPath`.
fn domain_prefixed_path(value: &str, path: &Path, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        let words = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(path, value, words));
        return;
    };
    wrong(errors, path, host, names::dns1123_subdomain(host));
    let fits = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !rest.chars().all(fits) {
        let words = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid(path, rest, words));
    }
}

fn indexed(spec: &Value, path: &Path, errors: &mut Errors) {
    let (completions, parallelism) = (int(spec, "completions"), int(spec, "parallelism"));
    let failed = int(spec, "maxFailedIndexes");
    let above = |value: Option<i64>, most: i64| value.filter(|n| *n > most);
    if completions.is_none() {
        errors.push(FieldError::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if let Some(n) = above(parallelism, PARALLELISM_MAX_INDEXED) {
        let words = format!("must be less than or equal to {PARALLELISM_MAX_INDEXED} when completion mode is Indexed");
        errors.push(FieldError::invalid(&path.child("parallelism"), n, words));
    }
    let at_failed = path.child("maxFailedIndexes");
    if let Some(n) = completions.and_then(|completions| above(failed, completions)) {
        errors.push(FieldError::invalid(&at_failed, n, "must be less than or equal to completions"));
    }
    if let Some(n) = above(failed, FAILED_INDEXES_MAX) {
        let words = format!("must be less than or equal to {FAILED_INDEXES_MAX}");
        errors.push(FieldError::invalid(&at_failed, n, words));
    }
    if above(completions, COMPLETIONS_SOFT_MAX).is_none() || !has(spec, "backoffLimitPerIndex") {
        return;
    }
    if failed.is_none() {
        let words = format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
        errors.push(FieldError::required(&at_failed, &words));
    }
    let bounds =
        [(parallelism, PARALLELISM_MAX_MANY, path.child("parallelism")), (failed, FAILED_INDEXES_MAX_MANY, at_failed)];
    for (value, most, path) in bounds {
        if let Some(n) = above(value, most) {
            let words = format!(
                "must be less than or equal to {most} when completions are above {COMPLETIONS_SOFT_MAX} and used with \
                 backoff limit per index"
            );
            errors.push(FieldError::invalid(&path, n, words));
        }
    }
}

fn restart_policy(spec: &Value, path: &Path, errors: &mut Errors) {
    let policy = text(get(get(spec, "template"), "spec"), "restartPolicy");
    let path = path.child("template").child("spec").child("restartPolicy");
    match policy {
        "" | "Always" => errors.push(FieldError::required(&path, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" => {
            if has(spec, "podFailurePolicy") {
                let words = "only \"Never\" is supported when podFailurePolicy is specified";
                errors.push(FieldError::invalid(&path, policy, words));
            }
        }
        _ => errors.push(FieldError::not_supported(&path, policy, &["OnFailure", "Never"])),
    }
}

pub fn warn(spec: &Value, path: &Path, said: &mut Vec<String>) {
    let count = |field| int(spec, field).unwrap_or(0);
    if text(spec, "completionMode") == "Indexed"
        && count("completions") > COMPLETIONS_SOFT_MAX
        && count("parallelism") > PARALLELISM_MAX_MANY
    {
        said.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings::template_at(get(spec, "template"), &path.child("template"), said);
}
