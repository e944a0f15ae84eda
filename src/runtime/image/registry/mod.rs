//! The pulling side of the OCI distribution protocol: manifests and blobs as streams, over HTTP/1.1 with or without TLS.
//! Decides nothing about images; pushes nothing.
//!
//! Source: OCI Distribution Specification 1.1.

mod auth;
pub mod config;
mod connect;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;

pub use auth::Credentials;
use auth::{Challenge, escape};
use config::{Endpoint, Registries};
use connect::Http;
pub(super) use connect::plain_text;

use super::digest::Digest;
use super::error::{Error, Result};
use super::model::{DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_BYTES_MAX, OCI_INDEX, OCI_MANIFEST};
use super::reference::Version;

/// From the request to the answer's head; registries look things up in object stores meanwhile.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two pieces of a body. A link that is silent for so long is taken for dead and the download resumed.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Tries of one request that fails in a way that may pass; the caller (a kubelet-like back-off) tries later again.
const TRIES_MAX: u32 = 3;

/// Before the second try; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(250);

/// Most that a registry's `Retry-After` may make us wait within one pull.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// From one blob to where it lies. Source: containerd follows 10.
const REDIRECTS_MAX: usize = 10;

/// Bytes of an error's or a token's body that are read.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Authorizations kept, one per registry, repository and user.
const AUTHORIZATIONS_MAX: usize = 256;

/// Speaks to registries. One per host; connections to each endpoint are kept for a few seconds.
pub(super) struct Client {
    registries: Registries,
    http: Mutex<HashMap<String, Http>>,
    /// By endpoint, repository and user: the header that worked.
    authorizations: Mutex<HashMap<(String, String, String), HeaderValue>>,
}

/// One repository at one endpoint, for one user.
#[derive(Clone)]
pub(super) struct Repository {
    client: Arc<Client>,
    endpoint: Endpoint,
    credentials: Option<Credentials>,
}

/// A manifest or index as it came.
pub(super) struct Fetched {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Client {
    pub fn new(registries: Registries) -> Client {
        Client { registries, http: Mutex::default(), authorizations: Mutex::default() }
    }

    /// Every way to ask for a repository, in the order to try. Callers' credentials go to the registry itself only, never to a
    /// mirror: a mirror has its own in the registries file.
    pub fn repositories(self: &Arc<Client>, host: &str, path: &str, credentials: &[Credentials]) -> Vec<Repository> {
        let mut fitting: Vec<(usize, &Credentials)> =
            credentials.iter().filter_map(|c| Some((c.fits(host, path)?, c))).collect();
        fitting.sort_by_key(|(specific, _)| std::cmp::Reverse(*specific));
        let mut out = Vec::new();
        for endpoint in self.registries.endpoints(host, path) {
            let mut users: Vec<Option<Credentials>> = match endpoint.mirrors {
                None => fitting.iter().map(|(_, c)| Some((*c).clone())).collect(),
                Some(_) => Vec::new(),
            };
            if users.is_empty() {
                users.push(self.registries.credentials(&endpoint.host));
            }
            out.extend(users.into_iter().map(|credentials| Repository {
                client: self.clone(),
                endpoint: endpoint.clone(),
                credentials,
            }));
        }
        out
    }

    fn http(&self, host: &str) -> Result<Http> {
        if let Some(http) = self.http.lock().get(host) {
            return Ok(http.clone());
        }
        let tls = self.registries.config(host).and_then(|config| config.tls.clone()).unwrap_or_default();
        let http = connect::http(&tls)?;
        self.http.lock().insert(host.to_owned(), http.clone());
        Ok(http)
    }

    /// One request and the head of its answer.
    async fn once(&self, host: &str, method: &Method, url: &str, headers: &HeaderMap) -> Result<Response<Incoming>> {
        let shown: &'static str = if *method == Method::HEAD { "Head" } else { "Get" };
        let unreachable = |why: String| Error::Unreachable { method: shown, url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| Error::malformed(url, "not a URL"))?;
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(concat!("kedge/", env!("CARGO_PKG_VERSION"))));
        match tokio::time::timeout(HEAD_TIMEOUT, self.http(host)?.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(plain_text(&error))),
            Err(_) => Err(unreachable("timeout awaiting response headers".to_owned())),
        }
    }
}

impl Repository {
    /// Says where, for logs.
    pub fn endpoint(&self) -> &str {
        &self.endpoint.base
    }

    fn url(&self, rest: &str) -> String {
        let namespace = self.endpoint.mirrors.as_ref().map(|host| format!("?ns={}", escape(host))).unwrap_or_default();
        format!("{}/{}/{rest}{namespace}", self.endpoint.base, self.endpoint.repository)
    }

    /// What a tag means now, if the registry says so without sending it.
    pub async fn head(&self, version: &Version) -> Result<Option<Digest>> {
        let response = self.manifest_request(Method::HEAD, version).await?;
        Ok(content_digest(response.headers()))
    }

    /// A manifest or index, its digest verified: against the one asked for, or the one that the registry announces.
    pub async fn manifest(&self, version: &Version) -> Result<Fetched> {
        let response = self.manifest_request(Method::GET, version).await?;
        let announced = content_digest(response.headers());
        let what = self.url("manifests");
        let bytes = read_all(response.into_body(), DOCUMENT_BYTES_MAX, &what).await?;
        let digest = Digest::of(&bytes);
        let expected = match version {
            Version::Digest(digest) => Some(digest.clone()),
            Version::Tag(_) => announced,
        };
        match expected {
            Some(expected) if expected != digest => {
                Err(Error::BadDigest { what: "manifest".to_owned(), expected, actual: digest })
            }
            _ => Ok(Fetched { digest, bytes }),
        }
    }

    async fn manifest_request(&self, method: Method, version: &Version) -> Result<Response<Incoming>> {
        let version = match version {
            Version::Tag(tag) => tag.as_str(),
            Version::Digest(digest) => digest.as_str(),
        };
        let mut headers = HeaderMap::new();
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*"].join(", ");
        headers.insert(ACCEPT, HeaderValue::try_from(accept).unwrap_or(HeaderValue::from_static("*/*")));
        self.request(method, self.url(&format!("manifests/{version}")), headers).await
    }

    /// A small blob (a configuration), verified.
    pub async fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let response = self.request(Method::GET, self.url(&format!("blobs/{digest}")), HeaderMap::new()).await?;
        let bytes = read_all(response.into_body(), DOCUMENT_BYTES_MAX, digest.as_str()).await?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(Error::BadDigest { what: "image configuration".to_owned(), expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    /// A blob's bytes from `offset` on, and where the answer really starts: registries may ignore the range.
    pub async fn blob(&self, digest: &Digest, offset: u64) -> Result<(u64, Incoming)> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            headers.insert(
                RANGE,
                HeaderValue::try_from(format!("bytes={offset}-")).unwrap_or(HeaderValue::from_static("")),
            );
        }
        let response = self.request(Method::GET, self.url(&format!("blobs/{digest}")), headers).await?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => response
                .headers()
                .get(http::header::CONTENT_RANGE)
                .and_then(|value| value.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok())
                .ok_or_else(|| Error::malformed(digest.as_str(), "a partial answer that does not say which part"))?,
            _ => 0,
        };
        if start > offset {
            return Err(Error::malformed(digest.as_str(), format!("asked from byte {offset}, got from {start}")));
        }
        Ok((start, response.into_body()))
    }

    /// A successful answer to one request: authorized, redirected and retried as needed.
    async fn request(&self, method: Method, url: String, headers: HeaderMap) -> Result<Response<Incoming>> {
        let mut wait = BACKOFF;
        for attempt in 1.. {
            let (error, after) = match self.authorized(&method, &url, &headers).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let after = retry_after(response.headers());
                    (self.refusal(&method, &url, response).await, after)
                }
                Err(error) => (error, None),
            };
            // A range beyond the end is the caller's business, everything else that may pass is tried again.
            if attempt >= TRIES_MAX || !error.retryable() {
                return Err(error);
            }
            tracing::debug!(url, error = %error.chain(), "registry request failed, trying again");
            tokio::time::sleep(after.unwrap_or(wait).min(RETRY_AFTER_MAX)).await;
            wait *= 2;
        }
        Err(Error::Canceled)
    }

    async fn authorized(&self, method: &Method, url: &str, headers: &HeaderMap) -> Result<Response<Incoming>> {
        let user = self
            .credentials
            .as_ref()
            .map(|c| format!("{}\0{}\0{}", c.username, c.password, c.token))
            .unwrap_or_default();
        let key = (self.endpoint.base.clone(), self.endpoint.repository.clone(), user);
        let known = self.client.authorizations.lock().get(&key).cloned();
        let response = self.redirected(method, url, headers, known.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let asked = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(authorization) = self.answer(Challenge::parse(asked), url).await? else { return Ok(response) };
        {
            let mut authorizations = self.client.authorizations.lock();
            if authorizations.len() >= AUTHORIZATIONS_MAX {
                authorizations.clear();
            }
            authorizations.insert(key, authorization.clone());
        }
        self.redirected(method, url, headers, Some(&authorization)).await
    }

    /// The authorization that a challenge asks for; `None` when there is nothing to answer with.
    async fn answer(&self, challenge: Option<Challenge>, url: &str) -> Result<Option<HeaderValue>> {
        let secret = |text: String| {
            let mut value = HeaderValue::try_from(text)
                .map_err(|_| Error::Unauthorized("credentials cannot be sent".to_owned()))?;
            value.set_sensitive(true);
            Ok(value)
        };
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match &self.credentials {
                Some(credentials) if !credentials.username.is_empty() => Ok(Some(secret(credentials.basic())?)),
                _ => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
                let separator = if realm.contains('?') { '&' } else { '?' };
                let mut token_url = format!("{realm}{separator}scope={}", escape(&scope));
                if let Some(service) = service {
                    token_url.push_str(&format!("&service={}", escape(&service)));
                }
                let mut headers = HeaderMap::new();
                if let Some(credentials) = &self.credentials {
                    // A password is never sent in the clear because a registry reached over TLS says so.
                    if url.starts_with("https:") && !token_url.starts_with("https:") {
                        return Err(Error::Unauthorized(format!("token server {realm} is not reached over TLS")));
                    }
                    if !credentials.token.is_empty() {
                        // The form that Docker's identity tokens take on the GET flow.
                        let identity = Credentials {
                            username: "<token>".to_owned(),
                            password: credentials.token.clone(),
                            ..Credentials::default()
                        };
                        headers.insert(AUTHORIZATION, secret(identity.basic())?);
                    } else if !credentials.username.is_empty() {
                        headers.insert(AUTHORIZATION, secret(credentials.basic())?);
                    }
                }
                let host = token_url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
                let response = self.client.once(&host.unwrap_or_default(), &Method::GET, &token_url, &headers).await?;
                if !response.status().is_success() {
                    return Err(self.refusal(&Method::GET, &realm, response).await);
                }
                let body = read_all(response.into_body(), MESSAGE_BYTES_MAX, &realm).await?;
                let token: Token = serde_json::from_slice(&body).map_err(|error| Error::malformed(&realm, error))?;
                let token = if token.token.is_empty() { token.access_token } else { token.token };
                if token.is_empty() {
                    return Err(Error::malformed(
                        realm,
                        "authorization server did not include a token in the response",
                    ));
                }
                Ok(Some(secret(format!("Bearer {token}"))?))
            }
        }
    }

    async fn redirected(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>> {
        let mut url = url.to_owned();
        let mut headers = headers.clone();
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let mut host = self.endpoint.host.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.client.once(&host, method, &url, &headers).await?;
            let status = response.status();
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let (true, Some(location)) = (matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308), location) else {
                return Ok(response);
            };
            let next = connect::join(&url, location).ok_or_else(|| Error::malformed(&url, "redirects to nowhere"))?;
            let next_host = next.authority().map(ToString::to_string).unwrap_or_default();
            // Storage behind registries gets a signed URL, not our secrets.
            if next_host != host || (url.starts_with("https:") && next.scheme_str() == Some("http")) {
                headers.remove(AUTHORIZATION);
            }
            (host, url) = (next_host, next.to_string());
        }
        Err(Error::malformed(url, format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// The error that an unsuccessful answer is.
    async fn refusal(&self, method: &Method, url: &str, response: Response<Incoming>) -> Error {
        let status = response.status();
        let json = response.headers().get(CONTENT_TYPE).is_some_and(|t| t.to_str().is_ok_and(|t| t.contains("json")));
        let body = read_all(response.into_body(), MESSAGE_BYTES_MAX, url).await.unwrap_or_default();
        let message = if json { server_message(&body) } else { String::new() };
        match status {
            StatusCode::NOT_FOUND => Error::NotFound(url.split('?').next().unwrap_or(url).to_owned()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = if message.is_empty() { format!("{status}") } else { message };
                Error::Unauthorized(format!("server message: {message}"))
            }
            _ => Error::Status {
                method: if *method == Method::HEAD { "HEAD" } else { "GET" },
                url: url.to_owned(),
                status,
                message: if message.is_empty() { message } else { format!(": {message}") },
            },
        }
    }
}

/// `CODE: message` of a registry's error body.
fn server_message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let errors = serde_json::from_slice::<Errors>(body).map(|errors| errors.errors).unwrap_or_default();
    let all: Vec<String> = errors.iter().map(|one| format!("{}: {}", one.code.to_lowercase(), one.message)).collect();
    all.join(", ").chars().filter(|c| !c.is_control()).take(512).collect()
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get("docker-content-digest")?.to_str().ok()?).ok()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// A body of at most `max` bytes.
async fn read_all(mut body: Incoming, max: usize, what: &str) -> Result<Vec<u8>> {
    let unreachable = |why: String| Error::Unreachable { method: "Get", url: what.to_owned(), why };
    let mut out = Vec::new();
    loop {
        match tokio::time::timeout(BODY_TIMEOUT, body.frame()).await {
            Err(_) => return Err(unreachable("timeout reading body".to_owned())),
            Ok(None) => return Ok(out),
            Ok(Some(Err(error))) => return Err(unreachable(plain_text(&error))),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    if out.len() + data.len() > max {
                        return Err(Error::malformed(what, format!("more than {max} bytes")));
                    }
                    out.extend_from_slice(&data);
                }
            }
        }
    }
}
