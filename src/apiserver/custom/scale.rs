//! The Scale of a custom object, by the paths of its definition.
//!
//! Source: apiextensions-apiserver `pkg/registry/customresource/{etcd,validator}.go`.

use serde_json::{Map, Value, json};
use types::field::{FieldError, Path};

use super::definition::{Scale, Subresources};
use crate::hooks::json::{get, int, text};

fn steps(path: &str) -> Vec<&str> {
    path.strip_prefix('.').unwrap_or(path).split('.').collect()
}

/// The value at a path; `None` when there is none.
///
/// Errors: upstream's text when there is something else on the way.
fn find<'v>(object: &'v Value, path: &str) -> Result<Option<&'v Value>, String> {
    let steps = steps(path);
    let mut at = object;
    for (i, step) in steps.iter().enumerate() {
        let Value::Object(fields) = at else {
            if at.is_null() {
                return Ok(None);
            }
            let way = format!(".{}", steps[..i].join("."));
            return Err(format!(
                "{way} accessor error: {at} is of the type {}, expected map[string]interface{{}}",
                go(at)
            ));
        };
        match fields.get(*step) {
            Some(value) => at = value,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

fn go(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn wrong(value: &Value, path: &str, expected: &str) -> String {
    let shown = if let Value::String(text) = value { text.clone() } else { value.to_string() };
    format!(".{} accessor error: {shown} is of the type {}, expected {expected}", steps(path).join("."), go(value))
}

fn count(object: &Value, path: &str) -> Result<Option<i64>, String> {
    match find(object, path)? {
        None => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong(value, path, "int64")),
    }
}

fn selector<'v>(object: &'v Value, path: &str) -> Result<&'v str, String> {
    match find(object, path)? {
        None => Ok(""),
        Some(value) => value.as_str().ok_or_else(|| wrong(value, path, "string")),
    }
}

/// The Scale of an object.
///
/// Errors: upstream's text when a count is none.
pub fn scale_of(subresources: &Subresources, object: &Value) -> Result<Value, String> {
    let Scale { spec_replicas_path, status_replicas_path, label_selector_path } =
        subresources.scale.as_ref().ok_or("no scale")?;
    let replicas = count(object, spec_replicas_path)?.unwrap_or(0);
    let seen = count(object, status_replicas_path)?.unwrap_or(0);
    let selector = selector(object, label_selector_path.as_deref().unwrap_or_default())?;
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = get(object, "metadata").get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut status = json!({"replicas": seen});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "status": status,
        "spec": if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) }}))
}

/// Where the replicas are.
pub fn path(subresources: &Subresources) -> Vec<&str> {
    subresources.scale.as_ref().map(|scale| steps(&scale.spec_replicas_path)).unwrap_or_default()
}

/// Writes the replicas of a Scale into the object, and the version that its writer has seen.
pub fn apply(subresources: &Subresources, object: &mut Value, scale: &Value) {
    let path = path(subresources);
    let Some((last, way)) = path.split_last() else { return };
    let mut at = &mut *object;
    for step in way {
        if !at.is_object() {
            return;
        }
        at = &mut at[*step];
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
    }
    if at.is_object() {
        at[*last] = int(get(scale, "spec"), "replicas").unwrap_or(0).into();
    }
    let version = text(get(scale, "metadata"), "resourceVersion");
    if !version.is_empty() {
        object["metadata"]["resourceVersion"] = version.into();
    }
}

/// What is wrong with the counts of an object. `status_only`: it is its status that is written.
pub fn validate(subresources: &Subresources, object: &Value, status_only: bool) -> Vec<FieldError> {
    let Some(scale) = &subresources.scale else { return Vec::new() };
    let mut errors = Vec::new();
    let mut counted = |path: &str| {
        let at = Path::new(path);
        match count(object, path) {
            Err(why) => errors.push(FieldError::invalid(&at, 0, why)),
            Ok(Some(n)) if n < 0 => errors.push(FieldError::invalid(&at, n, "should be a non-negative integer")),
            Ok(Some(n)) if n > i64::from(i32::MAX) => {
                errors.push(FieldError::invalid(&at, n, format!("should be less than or equal to {}", i32::MAX)));
            }
            Ok(_) => {}
        }
    };
    if !status_only {
        counted(&scale.spec_replicas_path);
    }
    counted(&scale.status_replicas_path);
    if let Some(path) = &scale.label_selector_path
        && let Err(why) = selector(object, path)
    {
        errors.push(FieldError::invalid(&Path::new(path), "", why));
    }
    errors
}
