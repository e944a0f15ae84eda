//! Token requests and access reviews: posted, answered, never stored.
//! Source: `pkg/apis/authentication/validation`, `pkg/apis/authorization/validation/validation.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::Hooks;
use super::json::{ensure_object, get, has, int, list, set_absent, text};

/// A token lives an hour unless asked otherwise.
const TOKEN_SECONDS: i64 = 3600;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

pub static TOKEN_REQUEST: Hooks = Hooks { default: token_defaults, validate: token_request, ..Hooks::NEUTRAL };
pub static TOKEN_REVIEW: Hooks = Hooks { ..Hooks::NEUTRAL };
pub static SELF_SUBJECT_REVIEW: Hooks = Hooks { ..Hooks::NEUTRAL };
pub static SELF_SUBJECT_RULES_REVIEW: Hooks = Hooks { ..Hooks::NEUTRAL };
pub static SUBJECT_ACCESS_REVIEW: Hooks = Hooks { validate: subject_access_review, ..Hooks::NEUTRAL };
pub static SELF_SUBJECT_ACCESS_REVIEW: Hooks =
    Hooks { validate: |review| attributes(get(review, "spec")), ..Hooks::NEUTRAL };

fn token_defaults(request: &mut Value) {
    if let Some(spec) = ensure_object(request, "spec") {
        set_absent(spec, "expirationSeconds", TOKEN_SECONDS);
    }
}

fn token_request(request: &Value) -> Vec<FieldError> {
    let path = Path::new("spec.expirationSeconds");
    match int(get(request, "spec"), "expirationSeconds").unwrap_or(TOKEN_SECONDS) {
        n if n < TOKEN_SECONDS_MIN => {
            vec![FieldError::invalid(&path, n, "may not specify a duration less than 10 minutes")]
        }
        n if n > TOKEN_SECONDS_MAX => {
            vec![FieldError::invalid(&path, n, "may not specify a duration larger than 2^32 seconds")]
        }
        _ => Vec::new(),
    }
}

fn subject_access_review(review: &Value) -> Vec<FieldError> {
    let spec = get(review, "spec");
    let mut errors = attributes(spec);
    if text(spec, "user").is_empty() && list(spec, "groups").is_empty() {
        let words = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&Path::new("spec.user"), text(spec, "user"), words));
    }
    errors
}

fn attributes(spec: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let other = get(spec, "nonResourceAttributes");
    match (has(spec, "resourceAttributes"), !other.is_null()) {
        (true, true) => vec![FieldError::invalid(
            &path.child("nonResourceAttributes"),
            other,
            "cannot be specified in combination with resourceAttributes",
        )],
        (false, false) => vec![FieldError::invalid(
            &path.child("resourceAttributes"),
            other,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )],
        _ => Vec::new(),
    }
}
