//! `metav1.LabelSelector` as a field of an object. Source: apimachinery `pkg/apis/meta/v1/validation/validation.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::json::{list, map, map_len, text};

/// Errors of a label selector at `path`.
pub fn validate(selector: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if !selector.is_object() {
        return;
    }
    errors
        .extend(names::labels(&path.child("matchLabels"), map(selector, "matchLabels").map(|(k, v)| (k, v.as_str()))));
    for (i, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let operator = text(requirement, "operator");
        let values = list(requirement, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(&path.child("operator"), operator, "not a valid selector operator")),
        }
        let key = text(requirement, "key");
        errors.extend(names::qualified_name(key).into_iter().map(|e| FieldError::invalid(&path.child("key"), key, e)));
        for (j, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let wrong = names::label_value(value);
            errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&path.child("values").index(j), value, e)));
        }
    }
}

/// Whether the selector names nothing, and so selects everything.
pub fn is_empty(selector: &Value) -> bool {
    map_len(selector, "matchLabels") + list(selector, "matchExpressions").len() == 0
}
