//! Checks of single fields that many kinds share. Each appends upstream's error for what is wrong.
//!
//! Source: `pkg/apis/core/validation/validation.go`, apimachinery `pkg/util/validation`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::json::{get, int, list, same, text};

pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const IMMUTABLE: &str = "field is immutable";
pub const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

pub type Errors = Vec<FieldError>;

/// Every message about the text at `path`.
pub fn wrong(errors: &mut Errors, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|m| FieldError::invalid(path, value, m)));
}

/// The field holds a text. Returns it.
pub fn required<'a>(errors: &mut Errors, object: &'a Value, field: &str, path: &Path) -> &'a str {
    let value = text(object, field);
    if value.is_empty() {
        errors.push(FieldError::required(&path.child(field), ""));
    }
    value
}

/// The field, when it has a text, holds one of these.
pub fn one_of(errors: &mut Errors, object: &Value, field: &str, path: &Path, known: &[&str]) {
    let value = text(object, field);
    if !value.is_empty() && !known.contains(&value) {
        errors.push(FieldError::not_supported(&path.child(field), value, known));
    }
}

/// The field holds one of these.
pub fn required_one_of(errors: &mut Errors, object: &Value, field: &str, path: &Path, known: &[&str]) {
    required(errors, object, field, path);
    one_of(errors, object, field, path, known);
}

/// The field, when it is there, is a number within the range.
pub fn in_range(errors: &mut Errors, object: &Value, field: &str, path: &Path, low: i64, high: i64) {
    if let Some(n) = int(object, field)
        && !(low..=high).contains(&n)
    {
        errors.push(FieldError::invalid(&path.child(field), n, format!("must be between {low} and {high}, inclusive")));
    }
}

pub fn not_negative(errors: &mut Errors, object: &Value, field: &str, path: &Path) {
    if let Some(n) = int(object, field).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(&path.child(field), n, NOT_NEGATIVE));
    }
}

/// Each item's `field` is unlike those before it.
pub fn unique(errors: &mut Errors, items: &[Value], field: &str, path: &Path) {
    for (i, item) in items.iter().enumerate() {
        let value = text(item, field);
        if !value.is_empty() && items[..i].iter().any(|other| text(other, field) == value) {
            errors.push(FieldError::duplicate(&path.index(i).child(field), value));
        }
    }
}

/// A path below a directory: relative, without going up.
pub fn descending_path(errors: &mut Errors, value: &str, path: &Path) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(errors, value, path);
}

pub fn no_backsteps(errors: &mut Errors, value: &str, path: &Path) {
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

/// How many of these fields are set.
pub fn count(object: &Value, fields: &[&str]) -> usize {
    fields.iter().filter(|f| !get(object, f).is_null()).count()
}

/// The name of a port. Source: `IsValidPortName`, RFC 6335 section 5.1.
pub fn port_name(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// The items of a list with their paths.
pub fn items<'a>(object: &'a Value, field: &str, path: &Path) -> impl Iterator<Item = (Path, &'a Value)> {
    let path = path.child(field);
    list(object, field).iter().enumerate().map(move |(i, item)| (path.index(i), item))
}

/// The field is what it was.
pub fn immutable(errors: &mut Errors, new: &Value, old: &Value, field: &str, path: &Path) {
    if !same(get(new, field), get(old, field)) {
        errors.push(FieldError::invalid(&path.child(field), get(new, field), IMMUTABLE));
    }
}

/// `acme.io/foo`: a domain and a path in it. Source: `IsDomainPrefixedPath`.
pub fn domain_prefixed_path(value: &str, path: &Path, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        errors.push(FieldError::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    wrong(errors, path, host, names::dns1123_subdomain(host));
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let form = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
        errors.push(FieldError::invalid(path, rest, format!("Invalid path (regex used for validation is '{form}')")));
    }
}
