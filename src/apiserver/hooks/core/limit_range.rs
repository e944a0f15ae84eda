//! LimitRange. Source: `ValidateLimitRange`, `SetDefaults_LimitRangeItem`, `pkg/registry/core/limitrange/strategy.go`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;
use types::quantity::Quantity;

use super::super::check::{Errors, items, wrong};
use super::super::json::{
    canonical_resources, each_mut, ensure_object, get, has, list, map, map_len, object_mut, quantity, set_absent, text,
};
use super::super::{Hooks, amounts};

pub static HOOKS: Hooks = Hooks { default, validate, create_on_update: true, ..Hooks::NEUTRAL };

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
/// Above it, amounts are compared whole, not in thousandths. Source: `resource.MaxMilliValue`.
const MILLIS_MAX: i64 = i64::MAX / 1000;

fn default(object: &mut Value) {
    let Some(spec) = object_mut(object, "spec") else { return };
    for limit in each_mut(spec, "limits") {
        for field in LISTS {
            canonical_resources(limit, field);
        }
        if text(limit, "type") != "Container" {
            continue;
        }
        // what is left out follows from the next stricter bound
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let given: Vec<_> = map(limit, from).map(|(k, v)| (k.clone(), v.clone())).collect();
            if given.is_empty() {
                continue;
            }
            if let Some(target) = ensure_object(limit, to) {
                for (name, amount) in given {
                    set_absent(target, &name, amount);
                }
            }
        }
    }
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    let limits = list(spec, "limits");
    for (i, (path, limit)) in items(spec, "limits", &path).enumerate() {
        let kind = text(limit, "type");
        type_name(kind, &path.child("type"), &mut errors);
        if limits[..i].iter().any(|other| text(other, "type") == kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        let amounts = amounts(limit, kind, &path, &mut errors);
        if kind == "PersistentVolumeClaim" && !has(get(limit, "min"), "storage") && !has(get(limit, "max"), "storage") {
            let words = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(FieldError::required(&path.child("limits"), words));
        }
        let names: BTreeSet<&str> = amounts.keys().map(|(_, name)| *name).collect();
        for name in names {
            compare(&amounts, name, &path, &mut errors);
        }
    }
    errors
}

fn type_name(kind: &str, path: &Path, errors: &mut Errors) {
    let messages = names::qualified_name(kind);
    if !messages.is_empty() {
        wrong(errors, path, kind, messages);
    } else if !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        errors.push(FieldError::invalid(path, kind, "must be a standard limit type or fully qualified"));
    }
}

type Amounts<'a> = BTreeMap<(&'static str, &'a str), Quantity>;

/// The amounts of a limit by list and name; their names are checked on the way.
fn amounts<'a>(limit: &'a Value, kind: &str, path: &Path, errors: &mut Errors) -> Amounts<'a> {
    let mut found = Amounts::new();
    for field in LISTS {
        if kind == "Pod" && field.starts_with("default") {
            if map_len(limit, field) > 0 {
                errors.push(FieldError::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, amount) in map(limit, field) {
            let at = path.child(field).key(name);
            match kind {
                "Pod" | "Container" => amounts::container_name(name, &at, errors),
                _ => amounts::name(name, &at, errors),
            }
            match quantity(amount) {
                Some(amount) => {
                    found.insert((field, name), amount);
                }
                None => {
                    amounts::parsed(amount, &at, errors);
                }
            }
        }
    }
    found
}

/// The bounds of one resource are in order.
fn compare(amounts: &Amounts<'_>, name: &str, path: &Path, errors: &mut Errors) {
    let of = |field: &'static str| amounts.get(&(field, name)).copied();
    let (min, max) = (of("min"), of("max"));
    let (default, request, ratio) = (of("default"), of("defaultRequest"), of("maxLimitRequestRatio"));
    let mut ordered =
        |low: Option<Quantity>, high: Option<Quantity>, at: &str, shown: Option<Quantity>, words: [&str; 2]| {
            if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
                && low > high
            {
                let words = format!("{} {low} is greater than {} {high}", words[0], words[1]);
                errors.push(FieldError::invalid(&path.child(at).key(name), &shown.to_string(), words));
            }
        };
    ordered(min, max, "min", min, ["min value", "max value"]);
    ordered(min, request, "defaultRequest", request, ["min value", "default request value"]);
    ordered(request, max, "defaultRequest", request, ["default request value", "max value"]);
    ordered(request, default, "defaultRequest", request, ["default request value", "default limit value"]);
    ordered(min, default, "default", min, ["min value", "default value"]);
    ordered(default, max, "default", max, ["default value", "max value"]);
    if let Some(ratio) = ratio {
        let path = path.child("maxLimitRequestRatio").key(name);
        if ratio.millis() < 1000 {
            let words = format!("ratio {ratio} is less than 1");
            errors.push(FieldError::invalid(&path, &ratio.to_string(), words));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = ratio_limit(&min, &max, &ratio);
            if most.0 > most.1 {
                let words = format!("ratio {ratio} is greater than max/min = {:.6}", most.1);
                errors.push(FieldError::invalid(&path, &ratio.to_string(), words));
            }
        }
    }
    if let (false, Some(default), Some(request)) = (amounts::may_overcommit(name), default, request)
        && default != request
    {
        let words = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        let path = path.child("defaultRequest").key(name);
        errors.push(FieldError::invalid(&path, &request.to_string(), words));
    }
}

/// The ratio, and the largest that the bounds allow.
#[allow(clippy::cast_precision_loss)] // as upstream: the ratio is shown with six digits
fn ratio_limit(min: &Quantity, max: &Quantity, ratio: &Quantity) -> (f64, f64) {
    let fine = [ratio, min, max].iter().all(|q| q.value() < MILLIS_MAX);
    let (min, max) = if fine { (min.millis(), max.millis()) } else { (min.value(), max.value()) };
    let ratio = if fine { ratio.millis() as f64 / 1000.0 } else { ratio.value() as f64 };
    (ratio, max as f64 / min as f64)
}
