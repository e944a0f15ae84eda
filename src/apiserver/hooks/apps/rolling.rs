//! How many pods a rolling update may take at once: a number, or a part of all in percent.
//! Source: `ValidatePositiveIntOrPercent`, `IsNotMoreThan100Percent` in `pkg/apis/apps/validation/validation.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::check::{Errors, NOT_NEGATIVE};

/// The number, or the percentage.
pub fn number(v: &Value) -> Option<i64> {
    v.as_i64().or_else(|| v.as_str()?.strip_suffix('%')?.parse().ok())
}

pub fn positive(v: &Value, path: &Path, errors: &mut Errors) {
    match v {
        Value::String(s) => {
            let valid = s.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            if !valid {
                let words = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
                             or '93%', regex used for validation is '[0-9]+%')";
                errors.push(FieldError::invalid(path, s, words));
            }
        }
        _ => {
            if let Some(n) = v.as_i64().filter(|n| *n < 0) {
                errors.push(FieldError::invalid(path, n, NOT_NEGATIVE));
            }
        }
    }
}

pub fn at_most_all(v: &Value, path: &Path, errors: &mut Errors) {
    if v.is_string() && number(v).is_some_and(|n| n > 100) {
        errors.push(FieldError::invalid(path, v, "must not be greater than 100%"));
    }
}
