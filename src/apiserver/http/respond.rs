//! Answers to responses: the shape and format that the client accepts, headers, errors.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use types::registry::{GroupVersionKind, Kind};
use types::status::Status;

use super::body::Body;
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
            out.push(b'\n');
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

/// What `as` makes of one object.
pub fn shaped(kind: &Kind, accepted: &Accepted, object: Value, include: IncludeObject, now: Timestamp) -> Value {
    match accepted.as_ {
        As::Object => object,
        As::TableV1 | As::TableV1beta1 => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let mut table = Table::new(kind, table_version(accepted.as_), include, now);
            table.push(&object);
            table.finish(metadata, true)
        }
        As::PartialObjectMetadata | As::PartialObjectMetadataList => partial(&object),
    }
}

pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

pub fn table_version(as_: As) -> &'static str {
    if as_ == As::TableV1beta1 { "v1beta1" } else { "v1" }
}

/// The `Content-Type` of a shaped answer: upstream echoes the parameters, in this order.
pub fn content_type(accepted: &Accepted) -> String {
    let media = accepted.content_type();
    match accepted.as_ {
        As::Object => media.to_owned(),
        As::TableV1 => format!("{media};as=Table;g=meta.k8s.io;v=v1"),
        As::TableV1beta1 => format!("{media};as=Table;g=meta.k8s.io;v=v1beta1"),
        As::PartialObjectMetadata => format!("{media};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
        As::PartialObjectMetadataList => format!("{media};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
    }
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
