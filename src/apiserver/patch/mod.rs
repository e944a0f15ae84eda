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
        &[JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH]
    } else {
        &[JSON_PATCH, MERGE_PATCH]
    }
}

/// Applies a patch to `current`. Fields are not checked; [`apply_checked`] does both.
///
/// Errors: 415 for a type that is not served (server-side apply; strategic patches of custom kinds), 400 for a body that
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
        APPLY_PATCH => {
            let mut status = Status::unsupported_media_type(media_types(kind));
            status.message = format!("server-side apply is not served yet - {}", status.message);
            Err(status)
        }
        _ => Err(Status::unsupported_media_type(media_types(kind))),
    }
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
    let mut problems = Vec::new();
    if mode != FieldValidation::Ignore {
        let is_json_patch = content_type.trim_start().starts_with(JSON_PATCH);
        problems = strict_problems(body);
        if is_json_patch {
            problems.iter_mut().for_each(|p| p.insert_str(0, "json patch "));
        }
    }
    match fields::canonicalize(&kind.gvk(), &mut patched, mode != FieldValidation::Ignore) {
        Ok(unknown) => problems.extend(unknown),
        Err(why) => return Err(refused(body, &why)),
    }
    if mode == FieldValidation::Strict && !problems.is_empty() {
        return Err(refused(body, &fields::strict_error(&problems)));
    }
    Ok((patched, problems))
}

/// 422 about the field `patch`, without an object of its own.
fn refused(body: &[u8], why: &str) -> Status {
    let value = String::from_utf8_lossy(body);
    let problem = format!("Invalid value: {value:?}: {why}");
    let cause = Cause { reason: "FieldValueInvalid".into(), message: problem.clone(), field: "patch".into() };
    Status::new(Reason::Invalid, format!(" \"\" is invalid: patch: {problem}")).with_cause(cause)
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
