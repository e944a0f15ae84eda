//! ControllerRevision: a state that a controller keeps to go back to.
//! Source: `ValidateControllerRevision*`, `pkg/registry/apps/controllerrevision/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::check::Errors;
use super::super::json::{get, same, set_absent};
use super::super::{Context, Hooks};
use super::not_negative;

pub static HOOKS: Hooks = Hooks { default, validate, validate_create, validate_update, ..Hooks::NEUTRAL };

fn default(object: &mut Value) {
    set_absent(object, "revision", 0);
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    not_negative(object, &Path::root(), &["revision"], &mut errors);
    errors
}

fn validate_create(object: &Value, _: &Context) -> Errors {
    let words = match get(object, "data") {
        Value::Object(_) => return Vec::new(),
        Value::Null => "data is mandatory",
        _ => "data must be a valid JSON object",
    };
    vec![FieldError::required(&Path::new("data"), words)]
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let (data, before) = (get(new, "data"), get(old, "data"));
    if same(data, before) {
        return Vec::new();
    }
    vec![FieldError::invalid(&Path::new("data"), data, "field is immutable")]
}
