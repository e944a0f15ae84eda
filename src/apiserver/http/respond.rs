//! Answers to responses: the shape and format that the client accepts, headers, errors.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use types::registry::{GroupVersionKind, Kind};
use types::status::Status;

use super::body::Body;
use crate::codec::tape::Tape;
use crate::codec::{Accepted, As, Media, protobuf};
use crate::printers::{self, IncludeObject, Table};

const STATUS_GVK: GroupVersionKind = GroupVersionKind::new("", "v1", "Status");
/// Warnings longer than this together are cut, as clients and proxies limit headers. Source: apiserver
/// `pkg/endpoints/filters/warning.go` `truncateAtTotalRunes`.
const WARNINGS_BYTES_MAX: usize = 4 * 1024;

fn response(code: u16, content_type: &str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Bytes as they are.
pub fn bytes(code: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    response(code, content_type, Body::full(body))
}

pub fn text(code: u16, body: impl Into<String>) -> Response<Body> {
    bytes(code, "text/plain; charset=utf-8", Bytes::from(body.into()))
}

pub fn stream(code: u16, content_type: &str, body: Body) -> Response<Body> {
    response(code, content_type, body)
}

/// A value in a format.
///
/// # Errors
/// 406 or 500 when the format cannot hold it.
pub fn encode(media: Media, pretty: bool, value: &Value) -> Result<Vec<u8>, Status> {
    match media {
        Media::Json if pretty => {
            let mut out = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"  ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(value, &mut serializer).map_err(Status::internal)?;
            Ok(out)
        }
        Media::Json => serde_json::to_vec(value).map_err(Status::internal),
        Media::Yaml => serde_yaml_ng::to_string(value).map(String::into_bytes).map_err(Status::internal),
        Media::Protobuf => protobuf::encode(&gvk(value), value),
    }
}

/// What a value says that it is.
pub fn gvk(value: &Value) -> GroupVersionKind {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let api_version = text("apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    GroupVersionKind { group: group.to_owned().into(), version: version.to_owned().into(), kind: text("kind").into() }
}

/// A value as it is, in the format that the client accepts.
pub fn value(code: u16, accepted: &Accepted, value: &Value) -> Response<Body> {
    match encode(accepted.media, accepted.pretty, value) {
        Ok(body) => bytes(code, accepted.content_type(), body),
        Err(status) => error(&Accepted::JSON, &status),
    }
}

/// An error. One that cannot be said in the accepted format is said in JSON.
pub fn error(accepted: &Accepted, status: &Status) -> Response<Body> {
    let value = serde_json::to_value(status).unwrap_or_else(|_| json!({}));
    let code = if status.code == 0 { 500 } else { status.code };
    let encoded = match accepted.media {
        Media::Protobuf => protobuf::encode(&STATUS_GVK, &value).map(|b| (accepted.content_type(), b)),
        media => encode(media, accepted.pretty, &value).map(|b| (accepted.content_type(), b)),
    };
    let (content_type, body) = encoded.unwrap_or_else(|_| ("application/json", value.to_string().into_bytes()));
    let mut response = bytes(code, content_type, body);
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A stored object, of which the text is at hand, in the format that the client accepts.
///
/// # Errors
/// 406 or 500 when the format cannot hold it.
pub fn object(code: u16, accepted: &Accepted, gvk: &GroupVersionKind, text: &Bytes) -> Result<Response<Body>, Status> {
    match accepted.media {
        Media::Protobuf => Ok(bytes(code, accepted.content_type(), protobuf::Transcoder::default().object(gvk, text)?)),
        Media::Json | Media::Yaml => formatted(code, accepted, vec![text.clone()]),
    }
}

/// What `as` makes of one object, in the format that the client accepts.
///
/// # Errors
/// 406 for a shape of lists, 400 for an `includeObject` that is none.
pub fn shaped(code: u16, shape: &Shape<'_>, text: &Bytes) -> Result<Response<Body>, Status> {
    let Shape { kind, accepted, .. } = shape;
    check_partial(kind, accepted, false)?;
    match accepted.as_ {
        As::Object => object(code, accepted, &kind.gvk(), text),
        As::TableV1 | As::TableV1beta1 => {
            let mut tape = Tape::default();
            let version = tape.read(text).ok().and_then(|o| o.get("metadata")?.get("resourceVersion"));
            let version = version.map(|v| String::from_utf8_lossy(v.quoted()).into_owned());
            let mut table = Table::new(kind, table_version(accepted.as_), shape.include, shape.now);
            table.push(text).map_err(Status::internal)?;
            formatted(code, accepted, table.finish(&json!({"resourceVersion": version}), true))
        }
        As::PartialObjectMetadata | As::PartialObjectMetadataList if accepted.media == Media::Protobuf => {
            object(code, accepted, &PARTIAL_GVK, text)
        }
        As::PartialObjectMetadata | As::PartialObjectMetadataList => {
            let mut out = Vec::new();
            printers::partial(&mut out, "v1", Tape::default().read(text).map_err(Status::internal)?);
            formatted(code, accepted, vec![out.into()])
        }
    }
}

/// In what form one object is wanted.
pub struct Shape<'a> {
    pub kind: &'a Kind,
    pub accepted: &'a Accepted,
    pub include: IncludeObject,
    pub now: Timestamp,
}

/// JSON that is there in pieces, in the format that the client accepts.
///
/// # Errors
/// 406 or 500 when the format cannot hold it.
pub fn formatted(code: u16, accepted: &Accepted, mut pieces: Vec<Bytes>) -> Result<Response<Body>, Status> {
    let body = if accepted.media == Media::Json && !accepted.pretty {
        if pieces.len() == 1 { Body::full(pieces.swap_remove(0)) } else { Body::whole(pieces) }
    } else {
        let value = serde_json::from_slice::<Value>(&pieces.concat()).map_err(Status::internal)?;
        Body::full(encode(accepted.media, accepted.pretty, &value)?)
    };
    Ok(response(code, accepted.content_type(), body))
}

/// The kind of an object of which only the metadata are wanted.
pub const PARTIAL_GVK: GroupVersionKind = GroupVersionKind::new("meta.k8s.io", "v1", "PartialObjectMetadata");

pub fn table_version(as_: As) -> &'static str {
    if as_ == As::TableV1beta1 { "v1beta1" } else { "v1" }
}

/// Whether what is answered, one object or a list, can be had in the shape that was asked for.
///
/// # Errors
/// 406 with the Go type of the answer, as upstream.
pub fn check_partial(kind: &Kind, accepted: &Accepted, list: bool) -> Result<(), Status> {
    let package = crate::codec::internal_package(&kind.group);
    let message = match (accepted.as_, list) {
        (As::PartialObjectMetadata, true) => format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{}List)",
            kind.kind
        ),
        (As::PartialObjectMetadataList, false) => format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{})",
            kind.kind
        ),
        _ => return Ok(()),
    };
    Err(Status::new(types::status::Reason::NotAcceptable, message))
}

/// Whether `as` can be had of this kind.
pub fn check_shape(kind: &Kind, accepted: &Accepted) -> Result<(), Status> {
    let table = matches!(accepted.as_, As::TableV1 | As::TableV1beta1);
    if table && !printers::printable(kind) { Err(Status::not_acceptable(Media::ALL)) } else { Ok(()) }
}

/// Adds `Warning: 299 - "…"` headers. Source: RFC 7234 §5.5, apiserver `pkg/warning`.
pub fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    let mut total = 0;
    let mut said: Vec<&str> = Vec::new();
    for warning in warnings {
        total += warning.len();
        if total > WARNINGS_BYTES_MAX {
            break;
        }
        if said.contains(&warning.as_str()) {
            continue;
        }
        said.push(warning);
        let clean: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(http::header::WARNING, value);
        }
    }
}
