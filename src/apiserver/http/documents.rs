//! Paths that are no resources: discovery, version, health, metrics, OpenAPI, token keys.
//!
//! Source: apiserver `pkg/server/routes`, kube-openapi `pkg/handler3`.

use std::sync::Arc;

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Method, Response};
use serde_json::{Value, json};
use types::registry::GroupVersionKind;
use types::status::Status;

use super::query::Query;
use super::{discovery, health, respond};
use crate::Body;
use crate::aggregator::Registration;
use crate::codec::negotiate::choose;
use crate::codec::{Accepted, Media, protobuf};
use crate::custom::publish;
use crate::schema::openapi;
use crate::server::Shared;

/// Documents under a hash never change: a year.
const IMMUTABLE: &str = "public, immutable";
const FAR_FUTURE: &str = "Thu, 31 Dec 2099 23:59:59 GMT";

/// Paths that anybody may read without credentials.
pub fn is_public(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    matches!(path, "/livez" | "/readyz" | "/healthz" | "/version")
        || ["/livez/", "/readyz/", "/healthz/"].iter().any(|root| path.starts_with(root))
}

/// Who answers a document that is another server's: the discovery of its group and version, and their OpenAPI.
pub fn elsewhere(shared: &Shared, path: &str) -> Option<Arc<Registration>> {
    match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => shared.aggregator.remote("", version),
        ["apis", group, version] => shared.aggregator.remote(group, version),
        ["openapi", "v3", "apis", group, version] => {
            let found = shared.aggregator.remote(group, version)?;
            let told = found.remote.as_ref().is_some_and(|remote| !remote.link.told.load().v3.is_empty());
            told.then_some(found)
        }
        _ => None,
    }
}

/// Answers a path that names no resource.
///
/// # Errors
/// 404 and 405 as upstream.
pub fn answer(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
    accepted: Result<Accepted, Status>,
) -> Result<Response<Body>, Status> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    if let Some((code, text)) = health::answer(path, query, &*shared.store, &shared.out_of_step(), shared.stopping()) {
        let mut response = respond::text(code, text);
        let nosniff = HeaderValue::from_static("nosniff");
        response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
        return Ok(response);
    }
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let value = match segments.as_slice() {
        ["version"] => return json_only(headers, &version(shared)),
        ["metrics"] => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let text = shared.metrics.text(&*shared.store.snapshot(), &shared.aggregator, &shared.flow);
            return Ok(respond::bytes(200, content_type, text));
        }
        ["metrics", "slis"] => {
            let found = health::now(&*shared.store, &shared.out_of_step(), shared.stopping());
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            return Ok(respond::bytes(200, content_type, shared.metrics.indicators.text(&found)));
        }
        ["openid", "v1", "jwks"] => {
            let body = shared.authenticator.tokens.jwks().to_string();
            return Ok(respond::bytes(200, "application/jwk-set+json", body));
        }
        [".well-known", "openid-configuration"] => return json_only(headers, &shared.authenticator.tokens.discovery()),
        ["openapi", "v2"] => return openapi_v2(shared, headers),
        ["openapi", "v3"] => {
            let index = publish::v3_index(&shared.kinds.served(), &shared.aggregator.registered());
            return Ok(tagged(headers, "application/json", index.body, &format!("\"{}\"", index.hash)));
        }
        ["openapi", "v3", rest @ ..] => return openapi_v3(shared, &rest.join("/"), query, headers),
        [root @ ("api" | "apis")] => {
            if let Some(version) = discovery::wants_aggregated(accept(headers)) {
                let served = shared.kinds.served();
                let documents = shared.aggregator.documents(&served);
                let (body, tag) = discovery::aggregated_document(&served, &documents, *root == "api", version);
                let content_type =
                    format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
                return Ok(tagged(headers, &content_type, body, &tag));
            }
            legacy(shared, &segments)?
        }
        ["api" | "apis", ..] => legacy(shared, &segments)?,
        [""] => return json_only(headers, &json!({"paths": paths(shared)})),
        _ => return Err(Status::no_such_path()),
    };
    let accepted = accepted?;
    let mut response = match accepted.media {
        // The one answer that names no version of its own: upstream's protobuf of it is meta/v1's all the same.
        Media::Protobuf if value.get("apiVersion").is_none() => {
            let kind = GroupVersionKind::new("", "v1", "APIVersions");
            respond::bytes(200, accepted.content_type(), protobuf::encode(&kind, &value)?)
        }
        _ => respond::value(200, &accepted, &value),
    };
    if matches!(segments.first(), Some(&("api" | "apis"))) {
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    }
    Ok(response)
}

/// A document that is no API object and so has one form: JSON, for whoever takes it at all.
fn json_only(headers: &HeaderMap, value: &Value) -> Result<Response<Body>, Status> {
    accepts_json(headers)?;
    Ok(respond::value(200, &Accepted::JSON, value))
}

fn legacy(shared: &Shared, segments: &[&str]) -> Result<Value, Status> {
    let served = shared.kinds.served();
    let documents = shared.aggregator.documents(&served);
    discovery::legacy(&served, &documents, segments, &shared.config.advertised()).ok_or_else(Status::no_such_path)
}

fn version(shared: &Shared) -> Value {
    let version = &shared.config.version;
    let numbers = version.git_version.trim_start_matches('v');
    let mut parts = numbers.split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    // The oldest version that is emulated is one minor behind, as upstream says of itself.
    let previous = minor.parse::<u32>().map_or_else(|_| minor.to_owned(), |m| m.saturating_sub(1).to_string());
    json!({
        "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": previous,
        "gitVersion": version.git_version, "gitCommit": version.git_commit, "gitTreeState": "clean",
        "buildDate": version.build_date, "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

fn paths(shared: &Shared) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend(health::paths());
    for kind in shared.kinds.served().iter().filter(|k| !k.group.is_empty()) {
        paths.push(format!("/apis/{}", kind.group));
        paths.push(format!("/apis/{}/{}", kind.group, kind.version));
    }
    for (remote, link) in shared.aggregator.registered().remotes() {
        paths.push(format!("/apis/{}", remote.group));
        paths.push(link.link.root().to_owned());
    }
    paths.sort();
    paths.dedup();
    paths
}

/// A document with its tag; 304 when the client has it.
fn tagged(headers: &HeaderMap, content_type: &str, body: impl Into<bytes::Bytes>, tag: &str) -> Response<Body> {
    let mut response = if is_known(headers, tag) {
        let mut response = respond::bytes(304, content_type, bytes::Bytes::new());
        response.headers_mut().remove(CONTENT_TYPE);
        response
    } else {
        respond::bytes(200, content_type, body)
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, value);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Whether the client has the document with this tag.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    known.is_some_and(|v| v.split(',').any(|t| t.trim().trim_start_matches("W/") == tag))
}

/// The forms of `/openapi/v2`. The last is a spelling of the second that clients ask for and that is no media type.
const OPENAPI_V2: &[&str] = &[
    "application/json",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

fn openapi_v2(shared: &Shared, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let chosen = choose(accept(headers), OPENAPI_V2).ok_or_else(|| Status::not_acceptable(OPENAPI_V2))?;
    // Both forms have the same tag: `Vary` tells them apart.
    let (served, registered) = (shared.kinds.served(), shared.aggregator.registered());
    let tag = format!("\"{}\"", publish::v2_hash(&served, &registered));
    let json = chosen == OPENAPI_V2[0];
    let body = match (is_known(headers, &tag), json) {
        (true, _) => bytes::Bytes::new(),
        (false, true) => openapi::v2(&publish::v2(&served, &registered)),
        (false, false) => openapi::v2_protobuf(&publish::v2(&served, &registered)).map_err(Status::internal)?,
    };
    Ok(tagged(headers, OPENAPI_V2[usize::from(!json)], body, &tag))
}

fn openapi_v3(shared: &Shared, path: &str, query: &Query, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    accepts_json(headers)?;
    let (served, registered) = (shared.kinds.served(), shared.aggregator.registered());
    let hash = publish::v3_hash(&served, &registered, path).ok_or_else(Status::no_such_path)?;
    let asked = query.text("hash");
    if let Some(asked) = asked
        && asked != hash
    {
        let mut response = respond::bytes(301, "text/html; charset=utf-8", bytes::Bytes::new());
        if let Ok(value) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={hash}")) {
            response.headers_mut().insert(LOCATION, value);
        }
        return Ok(response);
    }
    let document = publish::v3(&served, &registered, path).ok_or_else(Status::no_such_path)?;
    let mut response = tagged(headers, "application/json", document.body, &format!("\"{}\"", document.hash));
    if asked.is_some() {
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE));
        headers.insert(EXPIRES, HeaderValue::from_static(FAR_FUTURE));
    }
    Ok(response)
}

fn accepts_json(headers: &HeaderMap) -> Result<(), Status> {
    let json = &["application/json"];
    choose(accept(headers), json).map(|_| ()).ok_or_else(|| Status::not_acceptable(json))
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
}
