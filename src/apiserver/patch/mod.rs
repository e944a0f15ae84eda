//! JSON patch, JSON merge patch and strategic merge patch: current object and patch in, new object out. Pure.
//!
//! What never lives here: defaulting, validation, the retry after a conflict.

use bytes::Bytes;
use serde_json::Value;
use types::registry::Kind;
use types::status::Status;

/// Applies a patch to `current`. Fields are not checked: call [`crate::codec::fields::check`] on the result.
///
/// Errors: 415 for a type that is not served (strategic patches of custom kinds among them), 400 for a body that cannot be
/// read, 422 for a JSON patch that does not apply, all in upstream's words.
/// Source: apiserver `pkg/endpoints/handlers/patch.go`; RFC 6902; RFC 7386.
pub fn apply(kind: &Kind, content_type: &str, current: &Value, body: &Bytes) -> Result<Value, Status> {
    let _ = (kind, content_type, current, body);
    Err(Status::unsupported_media_type(&[]))
}
