//! Match conditions: named expressions that all have to hold.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, items};
use super::super::json::{list, text};

const CONDITIONS_MAX: usize = 64;

/// Source: `validateMatchConditions`.
pub fn validate(of: &Value, path: &Path, errors: &mut Errors) {
    let all = list(of, "matchConditions");
    if all.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(&path.child("matchConditions"), all.len(), CONDITIONS_MAX));
    }
    for (i, (path, condition)) in items(of, "matchConditions", path).enumerate() {
        expression(condition, "expression", "", &path, errors);
        let name = check::required(errors, condition, "name", &path);
        if name.is_empty() {
            continue;
        }
        check::wrong(errors, &path.child("name"), name, names::qualified_name(name));
        if all[..i].iter().any(|other| text(other, "name") == name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
}

/// An expression that says something.
pub fn expression<'a>(of: &'a Value, field: &str, why: &str, path: &Path, errors: &mut Errors) -> &'a str {
    let expression = text(of, field).trim();
    if expression.is_empty() {
        errors.push(FieldError::required(&path.child(field), why));
    }
    expression
}
