//! Field errors: which field of an object is wrong and why, in upstream's words.
//!
//! Source: apimachinery `pkg/util/validation/field/errors.go` and `path.go`.

use std::fmt;

use crate::status::Cause;

/// A path into an object: `spec.containers[0].name`, `metadata.labels[app]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    pub fn root() -> Self {
        Self::default()
    }
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "<nil>" } else { &self.0 }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    NotFound,
    Internal,
}

impl Problem {
    pub const fn reason(self) -> &'static str {
        match self {
            Problem::Required => "FieldValueRequired",
            Problem::Duplicate => "FieldValueDuplicate",
            Problem::Invalid => "FieldValueInvalid",
            Problem::NotSupported => "FieldValueNotSupported",
            Problem::Forbidden => "FieldValueForbidden",
            Problem::TooLong => "FieldValueTooLong",
            Problem::TooMany => "FieldValueTooMany",
            Problem::TypeInvalid => "FieldValueTypeInvalid",
            Problem::NotFound => "FieldValueNotFound",
            Problem::Internal => "InternalError",
        }
    }
    const fn words(self) -> &'static str {
        match self {
            Problem::Required => "Required value",
            Problem::Duplicate => "Duplicate value",
            Problem::Invalid | Problem::TypeInvalid => "Invalid value",
            Problem::NotSupported => "Unsupported value",
            Problem::Forbidden => "Forbidden",
            Problem::TooLong => "Too long",
            Problem::TooMany => "Too many",
            Problem::NotFound => "Not found",
            Problem::Internal => "Internal error",
        }
    }
}

/// One wrong field. `value` is already rendered as upstream shows it (strings quoted, objects as JSON); `None` where
/// upstream shows none (required, forbidden, too long, too many).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub path: Path,
    pub problem: Problem,
    pub value: Option<String>,
    pub detail: String,
}

impl FieldError {
    pub fn required(path: &Path, detail: &str) -> Self {
        Self { path: path.clone(), problem: Problem::Required, value: None, detail: detail.into() }
    }
    pub fn invalid(path: &Path, value: impl Shown, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::Invalid, value: Some(value.shown()), detail: detail.into() }
    }
    pub fn type_invalid(path: &Path, value: impl Shown, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::TypeInvalid, value: Some(value.shown()), detail: detail.into() }
    }
    pub fn duplicate(path: &Path, value: impl Shown) -> Self {
        Self { path: path.clone(), problem: Problem::Duplicate, value: Some(value.shown()), detail: String::new() }
    }
    pub fn not_found(path: &Path, value: impl Shown) -> Self {
        Self { path: path.clone(), problem: Problem::NotFound, value: Some(value.shown()), detail: String::new() }
    }
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::Forbidden, value: None, detail: detail.into() }
    }
    pub fn not_supported(path: &Path, value: impl Shown, supported: &[&str]) -> Self {
        let mut sorted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        sorted.sort();
        Self {
            path: path.clone(),
            problem: Problem::NotSupported,
            value: Some(value.shown()),
            detail: format!("supported values: {}", sorted.join(", ")),
        }
    }
    pub fn too_long(path: &Path, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self { path: path.clone(), problem: Problem::TooLong, value: None, detail }
    }
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} items");
        Self { path: path.clone(), problem: Problem::TooMany, value: Some(actual.to_string()), detail }
    }

    /// The message without the path, as it stands in a cause.
    pub fn body(&self) -> String {
        let mut text = self.problem.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    pub fn cause(&self) -> Cause {
        Cause { reason: self.problem.reason().into(), message: self.body(), field: self.path.to_string() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// How a value looks inside a field error.
pub trait Shown {
    fn shown(&self) -> String;
}
impl Shown for &str {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
impl Shown for &String {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
impl Shown for i64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl Shown for &serde_json::Value {
    fn shown(&self) -> String {
        match self {
            serde_json::Value::String(s) => format!("{s:?}"),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(FieldError::required(&path, "").to_string(), "spec.containers[0].name: Required value");
        assert_eq!(
            FieldError::not_supported(&Path::new("spec.type"), "Foo", &["NodePort", "ClusterIP"]).to_string(),
            r#"spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "NodePort""#
        );
        assert_eq!(
            FieldError::too_long(&path, 63).to_string(),
            "spec.containers[0].name: Too long: may not be more than 63 bytes"
        );
    }
}
