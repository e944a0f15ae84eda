//! JSON patch, JSON merge patch and strategic merge patch: current object and patch in, new object out. Pure.
//!
//! What never lives here: defaulting, validation, the retry after a conflict.

mod json_patch;
mod merge;
mod strategic;

use bytes::Bytes;
use serde_json::Value;
use types::registry::Kind;
use types::status::{Cause, Reason, Status};

use crate::codec::fields::{self, FieldValidation};
use crate::codec::strict_problems;
use crate::schema;

pub const JSON_PATCH: &str = "application/json-patch+json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// The patch types of a kind, for 415 and OpenAPI; custom kinds have no strategic merge patch.
pub fn media_types(kind: &Kind) -> &'static [&'static str] {
    if schema::type_of(&kind.group, &kind.version, &kind.kind).is_some() {
        &[JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH]
    } else {
        &[JSON_PATCH, MERGE_PATCH, APPLY_PATCH]
    }
}

/// Whether the body is a configuration to be applied, which is [`crate::managed`]'s.
pub fn is_apply(content_type: Option<&str>) -> bool {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(APPLY_PATCH)
}

/// Applies a patch to `current`. Fields are not checked; [`apply_checked`] does both.
///
/// Errors: 415 for a type that is none of these three, or a strategic patch of a custom kind, 400 for a body that
/// cannot be read, 413 for more than 10,000 JSON patch operations, 422 for a JSON patch that does not apply, all in
/// upstream's words.
/// Source: apiserver `pkg/endpoints/handlers/patch.go`; RFC 6902; RFC 7386.
pub fn apply(kind: &Kind, content_type: &str, current: &Value, body: &Bytes) -> Result<Value, Status> {
    let essence = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        JSON_PATCH => json_patch::apply(current, body),
        MERGE_PATCH => merge::apply(current, body),
        STRATEGIC_MERGE_PATCH => match schema::type_of(&kind.group, &kind.version, &kind.kind) {
            Some(ty) => strategic::apply(ty, current, body),
            None => Err(Status::unsupported_media_type(media_types(kind))),
        },
        _ => Err(Status::unsupported_media_type(media_types(kind))),
    }
}

/// Applies a JSON patch that is somebody's answer, not a client's request.
///
/// Errors: as [`apply`]; what is wrong is in the first cause.
pub fn json_patched(current: &Value, operations: &[u8]) -> Result<Value, Status> {
    json_patch::apply(current, operations)
}

/// [`apply`], then [`fields::check`] on the result, whose findings upstream words differently after a patch. Returns the
/// new object in canonical form and the warnings of mode Warn.
///
/// Errors: as [`apply`]; 422 about the field `patch` for wrong types, and in mode Strict for unknown fields in the result
/// or duplicate fields in the patch.
pub fn apply_checked(
    kind: &Kind,
    content_type: &str,
    current: &Value,
    body: &Bytes,
    mode: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let mut patched = apply(kind, content_type, current, body)?;
    let essence = content_type.trim_start();
    let strategic = essence.starts_with(STRATEGIC_MERGE_PATCH);
    let mut problems = Vec::new();
    if mode != FieldValidation::Ignore {
        problems = strict_problems(body);
        if essence.starts_with(JSON_PATCH) {
            problems.iter_mut().for_each(|p| p.insert_str(0, "json patch "));
        }
    }
    // Shown in errors alone: a strategic patch itself as Go prints a map, for the others the object that they make.
    let shown = || match strategic {
        true => json(body).map(|patch| go_text(&patch)).unwrap_or_default(),
        false => apply(kind, content_type, current, body).map(|object| object.to_string()).unwrap_or_default(),
    };
    match fields::canonicalize_kind(kind, &mut patched, mode != FieldValidation::Ignore) {
        Ok(unknown) => problems.extend(unknown),
        Err(why) if strategic => return Err(refused(&shown(), &converter_words(&why))),
        Err(why) => return Err(refused(&shown(), &why)),
    }
    if mode == FieldValidation::Strict && !problems.is_empty() {
        return Err(refused(&shown(), &fields::strict_error(&problems)));
    }
    Ok((patched, problems))
}

/// 422 about the field `patch`, without an object of its own.
fn refused(value: &str, why: &str) -> Status {
    let problem = format!("Invalid value: {value:?}: {why}");
    let cause = Cause { reason: "FieldValueInvalid".into(), message: problem.clone(), field: "patch".into() };
    Status::new(Reason::Invalid, format!(" \"\" is invalid: patch: {problem}")).with_cause(cause)
}

/// A value as Go's `%+v` prints it.
pub(crate) fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

/// A wrong type in the words of the converter that upstream's strategic patches go through, not of its JSON decoder.
///
/// Source: apimachinery `pkg/runtime/converter.go`.
fn converter_words(why: &str) -> String {
    let parts = why.strip_prefix("json: cannot unmarshal ").and_then(|rest| rest.split_once(" into Go "));
    let Some((what, go)) = parts.and_then(|(what, rest)| Some((what, rest.rsplit_once(" of type ")?.1))) else {
        return why.to_owned();
    };
    let what = match what.split(' ').next().unwrap_or_default() {
        "object" => "map",
        "array" => "slice",
        "number" if what.contains('.') => "float64",
        "number" => "int64",
        other => other,
    };
    match go.trim_start_matches('*') {
        // These read JSON themselves.
        "v1.Time" | "v1.MicroTime" | "resource.Quantity" | "intstr.IntOrString" => why.to_owned(),
        go if go.starts_with("map[") => format!("cannot restore map from {what}"),
        go if go.starts_with("[]") => format!("cannot restore slice from {what}"),
        go if go.contains('.') => format!("cannot restore struct from: {what}"),
        go => format!("unrecognized type: {go}"),
    }
}

/// Any JSON text, with Go's words when it is none.
fn json(body: &[u8]) -> Result<Value, String> {
    crate::codec::parse_json(body)
}

/// A JSON object, with Go's words when it is none; `null` is an empty one.
fn object(body: &[u8]) -> Result<serde_json::Map<String, Value>, String> {
    match json(body)? {
        Value::Object(object) => Ok(object),
        Value::Null => Ok(serde_json::Map::new()),
        other => {
            let what = crate::codec::json_type(&other);
            Err(format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"))
        }
    }
}

#[cfg(test)]
mod tests;
