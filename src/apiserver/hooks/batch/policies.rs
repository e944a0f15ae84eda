//! Policies of a Job: which failures of pods count, and when it has succeeded.

use std::collections::BTreeSet;

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{Errors, items, not_negative, wrong};
use super::super::json::{get, has, int, list, text};
use super::indexes;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const SUCCEEDED_INDEXES_BYTES_MAX: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATES: [&str; 3] = ["False", "True", "Unknown"];

/// As Go prints a list of texts.
fn quoted(values: &[&str]) -> String {
    format!("valid values: [{}]", values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" "))
}

/// A text that is there and known.
fn known(object: &Value, field: &str, values: &[&str], path: &Path, errors: &mut Errors) {
    let (value, path) = (text(object, field), path.child(field));
    if value.is_empty() {
        errors.push(FieldError::required(&path, &quoted(values)));
    } else if !values.contains(&value) {
        errors.push(FieldError::not_supported(&path, value, values));
    }
}

pub fn failure(spec: &Value, path: &Path, errors: &mut Errors) {
    let policy = get(spec, "podFailurePolicy");
    if policy.is_null() {
        return;
    }
    let path = path.child("podFailurePolicy");
    let rules = list(policy, "rules");
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path.child("rules"), rules.len(), RULES_MAX));
    }
    let pod = get(get(spec, "template"), "spec");
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| list(pod, field).iter().map(|container| text(container, "name")))
        .collect();
    for (path, rule) in items(policy, "rules", &path) {
        failure_rule(rule, has(spec, "backoffLimitPerIndex"), &containers, &path, errors);
    }
}

fn failure_rule(rule: &Value, by_index: bool, containers: &[&str], path: &Path, errors: &mut Errors) {
    if text(rule, "action") != "FailIndex" {
        known(rule, "action", &ACTIONS, path, errors);
    } else if !by_index {
        let words = "requires the backoffLimitPerIndex to be set";
        errors.push(FieldError::invalid(&path.child("action"), "FailIndex", words));
    }
    let (codes, patterns) = (get(rule, "onExitCodes"), list(rule, "onPodConditions"));
    if !codes.is_null() {
        exit_codes(codes, containers, &path.child("onExitCodes"), errors);
    }
    if patterns.len() > PATTERNS_MAX {
        errors.push(FieldError::too_many(&path.child("onPodConditions"), patterns.len(), PATTERNS_MAX));
    }
    for (path, pattern) in items(rule, "onPodConditions", path) {
        let kind = text(pattern, "type");
        wrong(errors, &path.child("type"), kind, names::qualified_name(kind));
        known(pattern, "status", &STATES, &path, errors);
    }
    match (codes.is_null(), patterns.is_empty()) {
        (false, false) => {
            errors.push(bare(path, "specifying both OnExitCodes and OnPodConditions is not supported"));
        }
        (true, true) => errors.push(bare(path, "specifying one of OnExitCodes and OnPodConditions is required")),
        _ => {}
    }
}

/// Invalid, without the value, which would be too long to show.
pub fn bare(path: &Path, words: &str) -> FieldError {
    FieldError { value: None, ..FieldError::invalid(path, "", words) }
}

fn exit_codes(codes: &Value, containers: &[&str], path: &Path, errors: &mut Errors) {
    known(codes, "operator", &OPERATORS, path, errors);
    if let Some(name) = get(codes, "containerName").as_str().filter(|name| !containers.contains(name)) {
        let words = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(&path.child("containerName"), name, words));
    }
    let (values, at) = (list(codes, "values"), path.child("values"));
    if values.is_empty() {
        errors.push(FieldError::invalid(&at, get(codes, "values"), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(&at, values.len(), EXIT_CODES_MAX));
    }
    let mut seen = BTreeSet::new();
    let values: Vec<i64> = values.iter().map(|v| v.as_i64().unwrap_or(0)).collect();
    for (i, code) in values.iter().enumerate() {
        if *code == 0 && text(codes, "operator") == "In" {
            errors.push(FieldError::invalid(&at.index(i), *code, "must not be 0 for the In operator"));
        }
        if !seen.insert(*code) {
            errors.push(FieldError::duplicate(&at.index(i), *code));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(&at, get(codes, "values"), "must be ordered"));
    }
}

pub fn success(spec: &Value, path: &Path, errors: &mut Errors) {
    let policy = get(spec, "successPolicy");
    if policy.is_null() {
        return;
    }
    let path = path.child("successPolicy");
    if text(spec, "completionMode") != "Indexed" {
        errors.push(FieldError::invalid(&path, policy, "requires indexed completion mode"));
        return;
    }
    let rules = list(policy, "rules");
    if rules.is_empty() {
        let words = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(&path.child("rules"), words));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path.child("rules"), rules.len(), RULES_MAX));
    }
    let completions = int(spec, "completions").unwrap_or(0);
    for (path, rule) in items(policy, "rules", &path) {
        success_rule(rule, completions, &path, errors);
    }
}

fn success_rule(rule: &Value, completions: i64, path: &Path, errors: &mut Errors) {
    let (count, listed) = (int(rule, "succeededCount"), get(rule, "succeededIndexes").as_str());
    if count.is_none() && listed.is_none() {
        let words = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, words));
    }
    let mut total = 0;
    if let Some(listed) = listed {
        let path = path.child("succeededIndexes");
        if listed.len() > SUCCEEDED_INDEXES_BYTES_MAX {
            errors.push(FieldError::too_long(&path, SUCCEEDED_INDEXES_BYTES_MAX));
        }
        match indexes::count(listed, completions) {
            Ok(n) => total = n,
            Err(why) => {
                let words = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(&path, listed, words));
            }
        }
    }
    let Some(count) = count else { return };
    not_negative(errors, rule, "succeededCount", path);
    let path = path.child("succeededCount");
    if count > completions {
        let words = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(FieldError::invalid(&path, count, words));
    }
    if listed.is_some() && count > total {
        let words = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(FieldError::invalid(&path, count, words));
    }
}
