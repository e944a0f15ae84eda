//! FlowSchema and PriorityLevelConfiguration. Source: `pkg/apis/flowcontrol/validation/validation.go`,
//! `pkg/apis/flowcontrol/v1/defaults.go`, `pkg/registry/flowcontrol/*/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::check::{self, Errors, items};
use super::json::{copy, get, same, text};
use super::{Hooks, strategy};

pub mod bootstrap;
mod level;
mod schema;

const BASE: Hooks =
    Hooks { prepare_create: strategy::create, prepare_update: strategy::update_strictly, ..Hooks::NEUTRAL };

pub static FLOW_SCHEMA: Hooks = Hooks {
    default: schema::default,
    validate: schema::validate,
    validate_update: |new, _, context| if context.subresource == "status" { conditions(new) } else { Vec::new() },
    ..BASE
};
pub static PRIORITY_LEVEL: Hooks = Hooks {
    default: level::default,
    validate: level::validate,
    validate_update: |new, _, context| if context.subresource == "status" { conditions(new) } else { Vec::new() },
    ..BASE
};

fn conditions(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let status = get(object, "status");
    let mut seen = Vec::new();
    for (path, condition) in items(status, "conditions", &Path::new("status")) {
        let kind = text(condition, "type");
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        seen.push(kind);
        check::required(&mut errors, condition, "type", &path);
    }
    errors
}

/// The spec of an object that every server has must be what the server wrote.
fn mandatory(object: &Value, wanted: &[Value]) -> Option<FieldError> {
    let name = text(get(object, "metadata"), "name");
    let wanted = wanted.iter().find(|w| text(get(w, "metadata"), "name") == name)?;
    let (spec, fixed) = (get(object, "spec"), get(wanted, "spec"));
    // what of the exempt level is exempt may be tuned
    if name == level::EXEMPT && text(fixed, "type") == "Exempt" {
        let mut spec = spec.clone();
        copy(&mut spec, fixed, "exempt");
        let words = format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value");
        return (!same(&spec, fixed)).then(|| FieldError::invalid(&Path::new("spec"), get(object, "spec"), words));
    }
    let words = format!("spec of '{name}' must equal the fixed value");
    (!same(spec, fixed)).then(|| FieldError::invalid(&Path::new("spec"), spec, words))
}
