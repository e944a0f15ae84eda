//! `metav1.Condition` as an item of a status. Source: apimachinery `pkg/apis/meta/v1/validation/validation.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::check::{self, Errors, items};
use super::json::{int, text};

const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;
const REASON_FORM: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";

/// Errors of the conditions under `path`.
pub fn validate(status: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (path, condition) in items(status, "conditions", path) {
        let kind = text(condition, "type");
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        seen.push(kind);
        check::wrong(errors, &path.child("type"), kind, names::qualified_name(kind));
        let known = ["False", "True", "Unknown"];
        if !known.contains(&text(condition, "status")) {
            errors.push(FieldError::not_supported(&path.child("status"), text(condition, "status"), &known));
        }
        if let Some(n) = int(condition, "observedGeneration").filter(|n| *n < 0) {
            let words = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(&path.child("observedGeneration"), n, words));
        }
        check::required(errors, condition, "lastTransitionTime", &path);
        let reason = check::required(errors, condition, "reason", &path);
        if !reason.is_empty() && !is_reason(reason) {
            let words = names::form(
                "a condition reason must start with alphabetic character, optionally followed by a string of \
                 alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                REASON_FORM,
                &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
            );
            errors.push(FieldError::invalid(&path.child("reason"), reason, words));
        }
        for (field, max) in [("reason", REASON_MAX), ("message", MESSAGE_MAX)] {
            if text(condition, field).len() > max {
                errors.push(FieldError::too_long(&path.child(field), max));
            }
        }
    }
}

fn is_reason(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().last().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b',' || b == b':')
}
