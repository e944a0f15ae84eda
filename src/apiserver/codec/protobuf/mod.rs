//! Protobuf, transcoded to and from the untyped value by the type table; no generated messages.
//!
//! Every top-level body is `k8s\0` followed by a `runtime.Unknown` that carries apiVersion and kind beside the object.
//! Presence follows Go's generated code: what is not a pointer, list or map there is always written, zero or not, so that
//! what is encoded here equals byte for byte what upstream would have sent. What is decoded leaves out the zero values
//! that Go's JSON would leave out; lists and maps that are empty are absent.
//!
//! Source: apimachinery `pkg/runtime/serializer/protobuf/protobuf.go`, `pkg/runtime/generated.proto`.

mod decode;
mod encode;
pub mod openapi;
mod wire;

use bytes::Bytes;
use serde_json::Value;
use types::registry::GroupVersionKind;
use types::status::Status;

use super::pieces::Pieces;
use super::tape::{self, Tape};
use super::{check_kind, unrecognized};
use crate::schema;

/// First bytes of every body but a watch frame.
const MAGIC: &[u8] = b"k8s\0";

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
    let unknown = wire::open(body).map_err(|why| unrecognized(body, expected, &why))?;
    check_kind(unknown.api_version, unknown.kind, expected)?;
    object(unknown.raw, expected)
}

/// As [`decode`], for kinds that upstream registers in every group: the version in the envelope is not compared.
pub fn decode_options(body: &[u8], expected: &GroupVersionKind) -> Result<Value, Status> {
    let unknown = wire::open(body).map_err(|why| unrecognized(body, expected, &why))?;
    check_kind("", unknown.kind, expected)?;
    object(unknown.raw, expected)
}

fn object(raw: &[u8], gvk: &GroupVersionKind) -> Result<Value, Status> {
    let GroupVersionKind { group, version, kind } = gvk;
    let cannot =
        |why: &str| Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"));
    let ty = schema::type_of(group, version, kind).ok_or_else(|| Status::unsupported_media_type(JSON_AND_YAML))?;
    let mut object = decode::message(ty, raw).map_err(|why| cannot(&why))?;
    object.insert("apiVersion".into(), Value::String(gvk.api_version()));
    object.insert("kind".into(), Value::String(kind.to_string()));
    Ok(Value::Object(object))
}

/// What is served for kinds that have no protobuf form.
const JSON_AND_YAML: &[&str] = &["application/json", "application/yaml"];

fn type_of(gvk: &GroupVersionKind) -> Result<&'static schema::Type, Status> {
    schema::type_of(&gvk.group, &gvk.version, &gvk.kind).ok_or_else(|| Status::not_acceptable(JSON_AND_YAML))
}

/// Encodes one object with its envelope. Fields that the type does not have are left out, so that an object given as
/// `PartialObjectMetadata` loses all but its metadata.
///
/// Errors: 406 when the kind has no protobuf form (custom kinds, Tables), 500 when the value does not fit the type.
pub fn encode(gvk: &GroupVersionKind, value: &Value) -> Result<Vec<u8>, Status> {
    Transcoder::default().object(gvk, &serde_json::to_vec(value).map_err(Status::internal)?)
}

/// First allocation for an encoded object; most are smaller than this.
const ENCODED_BYTES_TYPICAL: usize = 2048;

/// Makes protobuf of JSON texts without a value in between. Keeps its memory from one text to the next.
#[derive(Debug, Default)]
pub struct Transcoder {
    tape: Tape,
    slots: encode::Slots,
}

impl Transcoder {
    /// The object with its envelope; errors as [`encode`].
    pub fn object(&mut self, gvk: &GroupVersionKind, json: &[u8]) -> Result<Vec<u8>, Status> {
        let ty = type_of(gvk)?;
        let mut out = Vec::with_capacity(ENCODED_BYTES_TYPICAL.max(json.len()));
        let written = self.message(json, |value, slots| {
            encode::enveloped(&gvk.api_version(), &gvk.kind, &mut out, |out| encode::message(ty, value, slots, out))
        });
        written.map_err(Status::internal)?;
        Ok(out)
    }

    /// A list of `list_gvk` (`PodList`) with its envelope, in pieces to be sent one after the other. Nothing is copied but
    /// the items themselves.
    pub fn list<'a>(
        &mut self,
        list_gvk: &GroupVersionKind,
        meta: &ListMeta<'_>,
        items: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Bytes>, Status> {
        let ty = type_of(list_gvk)?;
        let item = ty.field("items").and_then(schema::Field::message);
        let item = item.ok_or_else(|| Status::not_acceptable(JSON_AND_YAML))?;
        let mut pieces = Pieces::default();
        for json in items {
            let out = pieces.room();
            let written = self
                .message(json, |value, slots| {
                    encode::nested(LIST_ITEMS, out, |out| encode::message(item, value, slots, out))
                })
                .map_err(Status::internal);
            written?;
        }
        let mut metadata = Vec::new();
        let written = encode::nested(LIST_METADATA, &mut metadata, |out| {
            encode::text(1, "", out); // selfLink, which nobody sets any more
            encode::text(2, meta.resource_version, out);
            encode::text(3, meta.continue_token, out);
            if let Some(remaining) = meta.remaining_item_count {
                encode::number(4, remaining, out);
            }
            Ok(())
        });
        written.map_err(Status::internal)?;
        // The envelope is written around what has a length by now.
        let (head, tail) =
            encode::envelope(&list_gvk.api_version(), &list_gvk.kind, metadata.len() + pieces.len(), &metadata);
        Ok(pieces.between(head, tail))
    }

    /// One frame of a watch stream, its 4-byte big-endian length included: a `WatchEvent` of `event_type` (`ADDED`, …) around
    /// the enveloped object. For an ERROR event the object is a Status (`v1`), for a BOOKMARK one of the watched kind.
    ///
    /// Errors: as [`encode`].
    pub fn watch_event(&mut self, event_type: &str, gvk: &GroupVersionKind, json: &[u8]) -> Result<Vec<u8>, Status> {
        let ty = type_of(gvk)?;
        let mut out = Vec::with_capacity(ENCODED_BYTES_TYPICAL.max(json.len()));
        out.extend_from_slice(&[0; 4]);
        encode::text(1, event_type, &mut out);
        let written = self.message(json, |value, slots| {
            encode::nested(2, &mut out, |out| {
                // RawExtension, whose one field is the object's own body
                encode::nested(1, out, |out| {
                    encode::enveloped(&gvk.api_version(), &gvk.kind, out, |out| encode::message(ty, value, slots, out))
                })
            })
        });
        written.map_err(Status::internal)?;
        let length = u32::try_from(out.len() - 4).map_err(Status::internal)?;
        out[..4].copy_from_slice(&length.to_be_bytes());
        Ok(out)
    }

    fn message(
        &mut self,
        json: &[u8],
        write: impl FnOnce(tape::Item<'_>, &mut encode::Slots) -> wire::Result<()>,
    ) -> wire::Result<()> {
        self.slots.clear();
        let value = self.tape.read(json).map_err(|e| e.to_string())?;
        write(value, &mut self.slots)
    }
}

/// Field numbers that all list types share; a test asserts it.
const LIST_METADATA: u16 = 1;
const LIST_ITEMS: u16 = 2;

#[cfg(test)]
mod tests;
