//! Attributes and capacities of devices, and their names.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;
use types::quantity::Quantity;

use super::super::check::{self, Errors};
use super::super::json::{get, has, list, quantity, text};
use super::shared;

const ID_MAX: usize = 32;
const VALUE_MAX_BYTES: usize = 64;
const OPTIONS_MAX: usize = 10;
const C_FORM: &str = "[A-Za-z_][A-Za-z0-9_]*";

/// `name`, or `domain/name`. Source: `validateQualifiedName`.
pub fn name(name: &str, path: &Path, errors: &mut Errors) {
    match name.split_once('/') {
        None => identifier(name, path, errors),
        Some((_, rest)) if rest.contains('/') => {}
        Some((domain, rest)) => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                shared::driver(domain, path, errors);
            }
            if rest.is_empty() {
                errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(rest, path, errors);
            }
        }
    }
}

pub fn full_name(full: &str, path: &Path, errors: &mut Errors) {
    name(full, path, errors);
    if !full.contains('/') {
        let words = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, full, words));
    }
}

fn identifier(id: &str, path: &Path, errors: &mut Errors) {
    if id.len() > ID_MAX {
        errors.push(FieldError::too_long(path, ID_MAX));
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !id.bytes().all(word) || id.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
        let words = names::form(
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
             characters or '_'",
            C_FORM,
            &["my_name", "MY_NAME", "MyName"],
        );
        check::wrong(errors, path, id, vec![words]);
    }
}

/// Exactly one value, of a kind that is known.
pub fn value(of: &Value, path: &Path, errors: &mut Errors) {
    for field in ["string", "version"] {
        let text = text(of, field);
        if field == "version" && has(of, field) && !is_semver(text) {
            let words = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(FieldError::invalid(&path.child(field), text, words));
        }
        if text.len() > VALUE_MAX_BYTES {
            errors.push(FieldError::too_long(&path.child(field), VALUE_MAX_BYTES));
        }
    }
    match check::count(of, &["bool", "int", "string", "version"]) {
        0 => errors.push(FieldError::invalid(path, "", "exactly one value must be specified")),
        1 => {}
        _ => errors.push(FieldError::invalid(path, of, "exactly one value must be specified")),
    }
}

fn is_semver(text: &str) -> bool {
    let number = |n: &str| n == "0" || (!n.starts_with('0') && !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (text, build) = text.split_once('+').map_or((text, None), |(t, b)| (t, Some(b)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(c, p)| (c, Some(p)));
    let core: Vec<&str> = core.split('.').collect();
    core.len() == 3
        && core.iter().all(|n| number(n))
        && pre.is_none_or(|p| p.split('.').all(|w| word(w) && (!w.bytes().all(|b| b.is_ascii_digit()) || number(w))))
        && build.is_none_or(|b| b.split('.').all(word))
}

/// How much of a capacity one request may take. Source: `validateMultiAllocatableDeviceCapacity` and its other.
pub fn capacity(of: &Value, shared: bool, path: &Path, errors: &mut Errors) {
    let (policy, path) = (get(of, "requestPolicy"), path.child("requestPolicy"));
    if policy.is_null() {
        return;
    }
    if !shared {
        errors.push(FieldError::forbidden(&path, "allowMultipleAllocations must be true"));
        return;
    }
    let values = !list(policy, "validValues").is_empty();
    let range = has(policy, "validRange");
    let most = quantity(get(of, "value")).unwrap_or_default();
    match (values, range, quantity(get(policy, "default"))) {
        (true, true, _) => {
            let words = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same \
                         time";
            errors.push(FieldError::forbidden(&path, words));
        }
        (false, false, _) => {}
        (true, false, None) => {
            errors.push(FieldError::required(&path.child("default"), "required when validValues is defined"));
        }
        (false, true, None) => {
            errors.push(FieldError::required(&path.child("default"), "required when validRange is defined"));
        }
        (true, false, Some(default)) => options(policy, default, most, &path, errors),
        (false, true, Some(default)) => {
            self::range(get(policy, "validRange"), default, most, &path.child("validRange"), errors);
        }
    }
}

fn options(policy: &Value, default: Quantity, most: Quantity, path: &Path, errors: &mut Errors) {
    let all: Vec<Quantity> = list(policy, "validValues").iter().filter_map(quantity).collect();
    let at = path.child("validValues");
    for (i, pair) in all.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let words = "values must be sorted in ascending order";
            errors.push(FieldError::invalid(&at.index(i + 1), &pair[1].to_string(), words));
        }
    }
    if !shared::bounded(errors, policy, "validValues", OPTIONS_MAX, path) {
        return;
    }
    for (i, option) in all.iter().enumerate() {
        if *option > most {
            let words = format!("option is larger than capacity value: {most}");
            errors.push(FieldError::invalid(&at.index(i), &option.to_string(), words));
        }
        if all[..i].contains(option) {
            errors.push(FieldError::duplicate(&at.index(i), &option.to_string()));
        }
    }
    if !all.contains(&default) {
        let words = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(&at, &default.to_string(), words));
    }
}

fn range(of: &Value, default: Quantity, most: Quantity, path: &Path, errors: &mut Errors) {
    let Some(min) = quantity(get(of, "min")) else {
        errors.push(FieldError::required(&path.child("min"), "required when validRange is defined"));
        return;
    };
    let mut refuse = |wrong: bool, field: &str, shown: &Quantity, words: String| {
        if wrong {
            errors.push(FieldError::invalid(&path.child(field), &shown.to_string(), words));
        }
    };
    refuse(min > most, "min", &min, format!("min is larger than capacity value: {most}"));
    refuse(default < min, "min", &default, format!("default is less than min: {min}"));
    let max = quantity(get(of, "max"));
    if let Some(max) = &max {
        refuse(min > *max, "max", &min, format!("min is larger than max: {max}"));
        refuse(*max > most, "max", max, format!("max is larger than capacity value: {most}"));
        refuse(default > *max, "max", &default, format!("default is more than max: {max}"));
    }
    let Some(step) = quantity(get(of, "step")) else { return };
    let whole = |q: &Quantity| q.millis().div_euclid(1000);
    for value in std::iter::once(&default).chain(&max) {
        let off = whole(&step) == 0 || (whole(value) - whole(&min)) % whole(&step) != 0;
        refuse(off, "step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
    }
}
