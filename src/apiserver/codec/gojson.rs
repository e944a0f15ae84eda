//! JSON with the error texts of Go's decoder, which is what clients have always been shown.
//!
//! Source: Go `encoding/json/scanner.go`; sigs.k8s.io/json.

use serde_json::Value;

/// Parses one JSON text. The error is what Go's decoder would say.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body)
        .map_err(|error| super::gojson_scan::syntax_error(body).unwrap_or_else(|| error.to_string()))
}

/// What Go calls the type of a JSON value.
pub const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
