//! Requests. [`Client`] has one untyped core (`send`, `open`) and thin typed methods over it.
//!
//! Objects are k8s-openapi structs, or `serde_json::Value` with the path given. Nothing is retried here: who asks knows
//! whether asking again makes sense ([`Error::retryable`]).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use types::registry::Kind;
use types::status::Status;

use crate::object::{Object, Revision};
use crate::transport::{Body, Transport, TransportError};
use crate::watch::WatchStream;
use crate::{Error, Result};

/// Longest wait for an ordinary request's answer; upstream's API server gives up after the same time.
pub const REQUEST_SECONDS_MAX: u64 = 60;
/// Largest answer that is read into memory: ten times the list of 5,000 pods (24 MB) that the budgets know.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

const JSON: &str = "application/json";
/// Asks for metadata only. Source: KEP-2334, `meta/v1 PartialObjectMetadata`.
pub const ACCEPT_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
pub const ACCEPT_METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Asks the API. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: HeaderValue,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

/// What to list or watch.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    pub label_selector: String,
    pub field_selector: String,
    /// Zero: no limit.
    pub limit: u32,
    pub continue_token: String,
    pub resource_version: String,
    pub resource_version_match: &'static str,
}

impl ListParams {
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: selector.into(), ..Self::default() }
    }
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }
    pub fn query(&self) -> Query {
        let mut q = Query::default();
        q.text("labelSelector", &self.label_selector);
        q.text("fieldSelector", &self.field_selector);
        if self.limit > 0 {
            q.push("limit", &self.limit.to_string());
        }
        q.text("continue", &self.continue_token);
        q.text("resourceVersion", &self.resource_version);
        q.text("resourceVersionMatch", self.resource_version_match);
        q
    }
}

/// Options of creates, updates and patches.
#[derive(Debug, Clone, Default)]
pub struct WriteParams {
    pub dry_run: bool,
    pub field_manager: String,
    /// `Strict`, `Warn` or `Ignore`; empty: the server's default (`Warn`).
    pub field_validation: &'static str,
    /// Take fields over from other managers; server-side apply only.
    pub force: bool,
}

impl WriteParams {
    pub fn query(&self) -> Query {
        let mut q = Query::default();
        if self.dry_run {
            q.push("dryRun", "All");
        }
        q.text("fieldManager", &self.field_manager);
        q.text("fieldValidation", self.field_validation);
        if self.force {
            q.push("force", "true");
        }
        q
    }
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// Options of deletes. The preconditions make a delete of a namesake impossible.
#[derive(Debug, Clone, Default)]
pub struct DeleteParams {
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl DeleteParams {
    /// Deletes only the object with this uid.
    pub fn uid(uid: &str) -> Self {
        Self { uid: Some(uid.to_owned()), ..Self::default() }
    }
    /// At once, without waiting for the node.
    pub fn now() -> Self {
        Self { grace_period_seconds: Some(0), ..Self::default() }
    }
    pub fn propagation(self, propagation: Propagation) -> Self {
        Self { propagation: Some(propagation), ..self }
    }

    fn body(&self) -> Bytes {
        let mut options = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            options["propagationPolicy"] = propagation.as_str().into();
        }
        if let Some(uid) = &self.uid {
            options["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(rv) = &self.resource_version {
            options["preconditions"]["resourceVersion"] = rv.as_str().into();
        }
        if self.dry_run {
            options["dryRun"] = serde_json::json!(["All"]);
        }
        options.to_string().into()
    }
}

/// The four ways to change a part of an object.
#[derive(Debug, Clone, Copy)]
pub enum Patch<'a> {
    /// RFC 6902.
    Json(&'a Value),
    /// RFC 7386.
    Merge(&'a Value),
    /// Kubernetes' own, which knows the keys of lists.
    Strategic(&'a Value),
    /// Server-side apply; needs a field manager.
    Apply(&'a Value),
}

impl Patch<'_> {
    fn parts(&self) -> (&'static str, &Value) {
        match self {
            Patch::Json(v) => ("application/json-patch+json", v),
            Patch::Merge(v) => ("application/merge-patch+json", v),
            Patch::Strategic(v) => ("application/strategic-merge-patch+json", v),
            Patch::Apply(v) => ("application/apply-patch+yaml", v),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListHead {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub continue_token: String,
    pub remaining_item_count: Option<i64>,
}

impl ListHead {
    pub fn revision(&self) -> Revision {
        Revision::parse(&self.resource_version)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct List<T> {
    #[serde(default)]
    pub metadata: ListHead,
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    pub items: Vec<T>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
}

/// The path of a kind's collection; `namespace` empty: across namespaces, or a cluster-scoped kind.
pub fn collection_path<K: Object>(namespace: &str) -> String {
    resource_path(K::GROUP, K::VERSION, namespace, K::URL_PATH_SEGMENT)
}

/// As [`collection_path`], for kinds known by name only.
pub fn resource_path(group: &str, version: &str, namespace: &str, plural: &str) -> String {
    let mut path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    if !namespace.is_empty() {
        let _ = write!(path, "/namespaces/{}", Escaped(namespace));
    }
    let _ = write!(path, "/{plural}");
    path
}

/// The path of one object and, if not empty, of one of its subresources.
pub fn object_path(collection: &str, name: &str, subresource: &str) -> String {
    if subresource.is_empty() {
        format!("{collection}/{}", Escaped(name))
    } else {
        format!("{collection}/{}/{subresource}", Escaped(name))
    }
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, user_agent: HeaderValue::from_static(concat!("kedge/", env!("CARGO_PKG_VERSION"))) }
    }

    /// Names who asks; shows up in `managedFields` and audit logs as the part before the slash.
    #[must_use]
    pub fn with_user_agent(&self, agent: &str) -> Self {
        let user_agent = HeaderValue::from_str(agent).unwrap_or_else(|_| self.user_agent.clone());
        Self { transport: Arc::clone(&self.transport), user_agent }
    }

    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    // --- the untyped core ---

    /// Sends a request and returns the answer's head and open body. The answer has a status of success; others become
    /// [`Error::Status`]. No time limit is put on the body.
    pub async fn open(&self, method: Method, path: &str, accept: &str, body: Option<(&str, Bytes)>) -> Result<Body> {
        let bad = |why: String| Error::Request { path: path.to_owned(), why };
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, accept)
            .header(USER_AGENT, self.user_agent.clone());
        let body = match body {
            Some((content_type, bytes)) => {
                request = request.header(CONTENT_TYPE, content_type);
                bytes
            }
            None => Bytes::new(),
        };
        let request = request.body(body).map_err(|e| bad(e.to_string()))?;
        let lost = |source| Error::Transport { path: path.to_owned(), source };
        let call = tokio::time::timeout(Duration::from_secs(REQUEST_SECONDS_MAX), self.transport.call(request));
        let answer = call.await.map_err(|_| lost(TransportError::TimedOut(REQUEST_SECONDS_MAX)))?.map_err(lost)?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let bytes = read(path, body).await?;
        Err(status_of(head.status, &bytes).into())
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Any of [`Error`]'s; after [`REQUEST_SECONDS_MAX`] without an answer, or an answer above [`ANSWER_BYTES_MAX`].
    pub async fn send(&self, method: Method, path: &str, accept: &str, body: Option<(&str, Bytes)>) -> Result<Bytes> {
        let body = self.open(method, path, accept, body).await?;
        tokio::time::timeout(Duration::from_secs(REQUEST_SECONDS_MAX), read(path, body)).await.map_err(|_| {
            Error::Transport { path: path.to_owned(), source: TransportError::TimedOut(REQUEST_SECONDS_MAX) }
        })?
    }

    async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<T> {
        let bytes = self.send(method, path, JSON, body).await?;
        decode(path, &bytes)
    }

    // --- by path, untyped or any type ---

    /// Any path's JSON, e.g. discovery or a [`Value`] of one object.
    pub async fn get_path<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send_json(Method::GET, path, None).await
    }

    pub async fn list_path<T: DeserializeOwned>(&self, collection: &str, params: &ListParams) -> Result<List<T>> {
        self.send_json(Method::GET, &params.query().on(collection), None).await
    }

    /// Lists metadata only; `T` reads what it wants of each `PartialObjectMetadata`.
    pub async fn list_metadata<T: DeserializeOwned>(&self, collection: &str, params: &ListParams) -> Result<List<T>> {
        let path = params.query().on(collection);
        let bytes = self.send(Method::GET, &path, ACCEPT_METADATA_LIST, None).await?;
        decode(&path, &bytes)
    }

    pub async fn create_path<T: DeserializeOwned>(
        &self,
        collection: &str,
        object: &impl serde::Serialize,
        params: &WriteParams,
    ) -> Result<T> {
        let path = params.query().on(collection);
        self.send_json(Method::POST, &path, Some((JSON, encode(&path, object)?))).await
    }

    pub async fn update_path<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &impl serde::Serialize,
        params: &WriteParams,
    ) -> Result<T> {
        let path = params.query().on(path);
        self.send_json(Method::PUT, &path, Some((JSON, encode(&path, object)?))).await
    }

    pub async fn patch_path<T: DeserializeOwned>(
        &self,
        path: &str,
        patch: Patch<'_>,
        params: &WriteParams,
    ) -> Result<T> {
        let path = params.query().on(path);
        let (content_type, body) = patch.parts();
        self.send_json(Method::PATCH, &path, Some((content_type, encode(&path, body)?))).await
    }

    /// Deletes one object, or with a collection's path (and a selector in `query`) all of them. The answer is the object
    /// (marked for deletion, or its final state) or a `Status`.
    pub async fn delete_path(&self, path: &str, params: &DeleteParams) -> Result<Value> {
        self.send_json(Method::DELETE, path, Some((JSON, params.body()))).await
    }

    /// Opens a watch; `query` is built by the caller ([`crate::reflector`] does it whole).
    pub async fn watch_path(&self, collection: &str, mut query: Query, accept: &str) -> Result<WatchStream> {
        query.push("watch", "true");
        let path = query.on(collection);
        let body = self.open(Method::GET, &path, accept, None).await?;
        Ok(WatchStream::new(path, body))
    }

    // --- typed ---

    async fn send_object<K: Object>(&self, method: Method, path: &str, body: Option<(&str, Bytes)>) -> Result<K> {
        let bytes = self.send(method, path, JSON, body).await?;
        decode_with(path, &bytes, K::decode)
    }

    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K> {
        let path = object_path(&collection_path::<K>(namespace), name, "");
        self.send_object(Method::GET, &path, None).await
    }

    pub async fn list<K: Object>(&self, namespace: &str, params: &ListParams) -> Result<List<K>> {
        self.list_path(&collection_path::<K>(namespace), params).await
    }

    /// Creates in the namespace that the object names.
    pub async fn create<K: Object>(&self, object: &K) -> Result<K> {
        let path = collection_path::<K>(object.namespace());
        self.send_object(Method::POST, &path, Some((JSON, encode(&path, object)?))).await
    }

    /// Replaces the object; its `resourceVersion`, if there is one, must still be the newest.
    pub async fn update<K: Object>(&self, object: &K) -> Result<K> {
        self.update_sub(object, "").await
    }

    pub async fn update_status<K: Object>(&self, object: &K) -> Result<K> {
        self.update_sub(object, "status").await
    }

    pub async fn update_sub<K: Object>(&self, object: &K, subresource: &str) -> Result<K> {
        let path = object_path(&collection_path::<K>(object.namespace()), object.name(), subresource);
        self.send_object(Method::PUT, &path, Some((JSON, encode(&path, object)?))).await
    }

    pub async fn patch<K: Object>(&self, namespace: &str, name: &str, patch: Patch<'_>) -> Result<K> {
        self.patch_sub(namespace, name, "", patch).await
    }

    pub async fn patch_status<K: Object>(&self, namespace: &str, name: &str, patch: Patch<'_>) -> Result<K> {
        self.patch_sub(namespace, name, "status", patch).await
    }

    pub async fn patch_sub<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: Patch<'_>,
    ) -> Result<K> {
        let path = object_path(&collection_path::<K>(namespace), name, subresource);
        let (content_type, body) = patch.parts();
        self.send_object(Method::PATCH, &path, Some((content_type, encode(&path, body)?))).await
    }

    pub async fn delete<K: Object>(&self, namespace: &str, name: &str, params: &DeleteParams) -> Result<Value> {
        self.delete_path(&object_path(&collection_path::<K>(namespace), name, ""), params).await
    }

    pub async fn delete_collection<K: Object>(
        &self,
        namespace: &str,
        which: &ListParams,
        params: &DeleteParams,
    ) -> Result<Value> {
        self.delete_path(&which.query().on(&collection_path::<K>(namespace)), params).await
    }

    /// Opens a watch on a typed collection, starting where `params.resource_version` says.
    pub async fn watch<K: Object>(&self, namespace: &str, params: &ListParams) -> Result<WatchStream> {
        let mut query = params.query();
        query.push("allowWatchBookmarks", "true");
        self.watch_path(&collection_path::<K>(namespace), query, JSON).await
    }
}

/// The collection of a registry kind; a helper for code that walks the registry.
pub fn kind_path(kind: &Kind, namespace: &str) -> String {
    kind.path(namespace)
}

async fn read(path: &str, mut body: Body) -> Result<Bytes> {
    let failed = |source| Error::Transport { path: path.to_owned(), source };
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| failed(TransportError::Lost(e)))?.into_data() else { continue };
        if whole.len() + first.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(failed(TransportError::TooLarge(ANSWER_BYTES_MAX)));
        }
        // An answer of one frame, which is every answer in process, is not copied.
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// The Status in a failed answer's body; one is made up when a proxy or a dying server sent something else.
fn status_of(code: http::StatusCode, body: &[u8]) -> Status {
    if let Ok(mut status) = serde_json::from_slice::<Status>(body)
        && status.kind == "Status"
        && (status.code != 0 || !status.reason.is_empty())
    {
        if status.code == 0 {
            status.code = code.as_u16();
        }
        return status;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(512)]);
    let text = text.trim();
    let reason = code.canonical_reason().unwrap_or("unknown");
    let message = if text.is_empty() { format!("the server answered {reason}") } else { text.to_owned() };
    Status { code: code.as_u16(), reason: reason_of(code.as_u16()).into(), message, ..Status::default() }
}

/// The reason that upstream's client assumes for a bare HTTP status. Source: apimachinery `NewGenericServerResponse`.
fn reason_of(code: u16) -> &'static str {
    use types::status::Reason as R;
    match code {
        400 => R::BadRequest.as_str(),
        401 => R::Unauthorized.as_str(),
        403 => R::Forbidden.as_str(),
        404 => R::NotFound.as_str(),
        405 => R::MethodNotAllowed.as_str(),
        406 => R::NotAcceptable.as_str(),
        409 => R::Conflict.as_str(),
        410 => R::Gone.as_str(),
        413 => R::RequestEntityTooLarge.as_str(),
        415 => R::UnsupportedMediaType.as_str(),
        422 => R::Invalid.as_str(),
        429 => R::TooManyRequests.as_str(),
        503 => R::ServiceUnavailable.as_str(),
        504 => R::Timeout.as_str(),
        _ => R::InternalError.as_str(),
    }
}

fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T> {
    decode_with(path, bytes, |text| serde_json::from_str(text))
}

fn decode_with<T>(path: &str, bytes: &[u8], read: impl FnOnce(&str) -> serde_json::Result<T>) -> Result<T> {
    let text = std::str::from_utf8(bytes).map_err(serde::de::Error::custom);
    text.and_then(read).map_err(|source| Error::Decode { path: path.to_owned(), source })
}

fn encode(path: &str, object: &impl serde::Serialize) -> Result<Bytes> {
    match serde_json::to_vec(object) {
        Ok(bytes) => Ok(bytes.into()),
        Err(source) => Err(Error::Encode { path: path.to_owned(), source }),
    }
}

/// A query string in the making.
#[derive(Debug, Clone, Default)]
pub struct Query(String);

impl Query {
    pub fn push(&mut self, name: &str, value: &str) {
        let sep = if self.0.is_empty() { "" } else { "&" };
        let _ = write!(self.0, "{sep}{name}={}", Escaped(value));
    }
    /// As `push`, unless the value is empty.
    pub fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.push(name, value);
        }
    }
    pub fn on(&self, path: &str) -> String {
        if self.0.is_empty() {
            path.to_owned()
        } else {
            let sep = if path.contains('?') { '&' } else { '?' };
            format!("{path}{sep}{}", self.0)
        }
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for b in self.0.bytes() {
            match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => f.write_char(char::from(b))?,
                _ => write!(f, "%{b:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Node;

    #[test]
    fn paths() {
        assert_eq!(collection_path::<Deployment>("shop"), "/apis/apps/v1/namespaces/shop/deployments");
        assert_eq!(collection_path::<Node>(""), "/api/v1/nodes");
        assert_eq!(object_path("/api/v1/nodes", "a/b", "status"), "/api/v1/nodes/a%2Fb/status");
        let q = ListParams { label_selector: "a in (b,c)".into(), limit: 5, ..ListParams::default() }.query();
        assert_eq!(q.on("/x"), "/x?labelSelector=a%20in%20%28b%2Cc%29&limit=5");
    }

    #[test]
    fn a_status_is_kept_whole_and_a_proxys_page_becomes_one() {
        let body = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"gone","reason":"Expired","code":410}"#;
        let error = Error::from(status_of(http::StatusCode::GONE, body));
        assert!(error.is_expired());
        assert_eq!(error.to_string(), "gone");
        let error = Error::from(status_of(http::StatusCode::SERVICE_UNAVAILABLE, b"<html>busy</html>"));
        assert!(error.retryable());
        assert_eq!(error.status().unwrap().reason, "ServiceUnavailable");
    }

    #[test]
    fn an_empty_list_may_be_null() {
        let list: List<Value> = serde_json::from_str(r#"{"metadata":{"resourceVersion":"7"},"items":null}"#).unwrap();
        assert!(list.items.is_empty());
        assert_eq!(list.metadata.revision(), Revision(7));
    }
}
