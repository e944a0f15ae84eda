//! Numbers in schemas. Source: kube-openapi `pkg/validation/validate/{validator,values}.go`.

use std::fmt::Write as _;

use serde_json::{Number, Value};
use types::field::FieldError;

use super::validate::Walk;
use super::{Checks, Type};

/// Numbers beyond are no integers in JSON. Source: `swag.maxJSONFloat`.
const JSON_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;
const EPSILON: f64 = 1e-9;

pub fn is_whole(n: &Number) -> bool {
    n.as_f64().is_some_and(whole)
}

/// Source: `swag.IsFloat64AJSONInteger`.
fn whole(f: f64) -> bool {
    if !f.is_finite() || f.abs() > JSON_INTEGER_MAX {
        return false;
    }
    let (fa, g) = (f.abs(), f.trunc().abs());
    let diff = (fa - g).abs();
    if fa == g {
        true
    } else if f == 0.0 || g == 0.0 {
        diff < f64::EPSILON
    } else {
        diff / (fa + g).min(f64::MAX) < EPSILON
    }
}

/// Whether an enumerated value is the value: numbers are compared whatever their form.
pub fn same(choice: &Value, value: &Value) -> bool {
    match (choice, value) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => choice == value,
    }
}

/// A float as Go's `%v` writes it.
pub fn go_float(f: f64) -> String {
    let exponent = if f == 0.0 { 0 } else { f.abs().log10().floor() as i32 };
    if !(-4..21).contains(&exponent) {
        let text = format!("{f:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
        let mut out = String::new();
        let _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
        return out;
    }
    f.to_string()
}

fn in_range(f: f64, integer: Option<i64>, type_: Type, format: &str) -> bool {
    match (type_, format) {
        (Type::Integer, "int32") => match integer {
            Some(i) => i32::try_from(i).is_ok(),
            None => f.fract() == 0.0 && f >= f64::from(i32::MIN) && f <= f64::from(i32::MAX),
        },
        (Type::Integer, _) => integer.is_some() || (f.fract() == 0.0 && f.abs() < 9.3e18),
        (_, "float") => f.abs() <= f64::from(f32::MAX),
        _ => true,
    }
}

/// Checks a number; `type_` is the only type that it may have, or [`Type::Any`].
pub fn check(walk: &Walk<'_>, n: &Number, type_: Type, checks: Option<&Checks>, errors: &mut Vec<FieldError>) {
    let format = checks.map_or("", |c| &*c.format);
    let (value, integer) = (n.as_f64().unwrap_or_default(), n.as_i64());
    let fits = |f: f64, integer: Option<i64>, what: &str, errors: &mut Vec<FieldError>| {
        if in_range(f, integer, type_, format) {
            return true;
        }
        let of = type_.as_str();
        let path = walk.path();
        let words = if format.is_empty() {
            format!("{what} value must be of type {of} (default format) in {path}")
        } else {
            format!("{what} value must be of type {of} with format {format} in {path}")
        };
        errors.push(walk.composite(words));
        false
    };
    let shown = Value::Number(n.clone());
    fits(value, integer, "Checked", errors);
    let Some(checks) = checks else { return };
    if let Some(factor) = checks.multiple_of {
        let native = fits(factor, None, "MultipleOf", errors);
        let words = match integer.filter(|_| native) {
            // As Go converts: cut off.
            Some(i) => match factor as i64 {
                f if f <= 0 => Some(positive(walk, &f.to_string())),
                f if i % f != 0 => Some(format!("{} in body should be a multiple of {f}", walk.path())),
                _ => None,
            },
            None if factor <= 0.0 => Some(positive(walk, &go_float(factor))),
            None => {
                let quotient = if factor < 1.0 { 1.0 / factor * value } else { value / factor };
                let words = format!("{} in body should be a multiple of {}", walk.path(), go_float(factor));
                (!whole(quotient)).then_some(words)
            }
        };
        if let Some(detail) = words {
            errors.push(FieldError { detail, ..walk.invalid(&shown, "") });
        }
    }
    let limits = [
        (checks.minimum, false, "Minimum boundary", "greater than"),
        (checks.maximum, true, "Maximum boundary", "less than"),
    ];
    for (limit, upper, what, words) in limits {
        let Some((limit, exclusive)) = limit else { continue };
        let native = fits(limit, None, what, errors);
        let (beyond, text) = match integer.filter(|_| native) {
            Some(i) => {
                let limit = limit as i64;
                let beyond = match (upper, exclusive) {
                    (true, true) => i >= limit,
                    (true, false) => i > limit,
                    (false, true) => i <= limit,
                    (false, false) => i < limit,
                };
                (beyond, limit.to_string())
            }
            None => {
                let beyond = match (upper, exclusive) {
                    (true, true) => value >= limit,
                    (true, false) => value > limit,
                    (false, true) => value <= limit,
                    (false, false) => value < limit,
                };
                (beyond, go_float(limit))
            }
        };
        if beyond {
            let or_equal = if exclusive { "" } else { " or equal to" };
            errors.push(walk.invalid(&shown, format!("should be {words}{or_equal} {text}")));
        }
    }
}

fn positive(walk: &Walk<'_>, factor: &str) -> String {
    format!("factor MultipleOf declared for {} must be positive: {factor}", walk.path())
}
