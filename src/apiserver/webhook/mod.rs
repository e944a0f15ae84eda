//! Calling webhooks: one JSON document is posted, one comes back. Admission and conversion of custom resources share this.
//!
//! An [`Endpoint`] is what a `clientConfig` says, parsed once, together with the connections to it that are open. Services are
//! resolved in this process, to one of their endpoints, so that no service table has to be in place. Endpoints are kept by
//! whoever keeps the configuration; dropping one closes its connections.
//!
//! ```text
//! Endpoint::post ─▶ Connections ─▶ idle, else resolve ─▶ TCP ─▶ TLS (caBundle, <service>.<namespace>.svc) ─▶ HTTP/1.1
//! ```
//!
//! Aggregated servers are reached through the same [`Connections`].
//!
//! What never lives here: what the documents mean, and when a failure may be ignored.
//!
//! Source: apiserver `pkg/util/webhook/client.go`, client-go `rest/request.go`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use store::Store;

use crate::http::trace_context::TraceContext;
use crate::tls::Trust;

mod connections;
mod target;
pub use connections::Connections;
pub use target::{Target, is_slice_of, ready};

/// What a webhook may answer: an object of the largest size, as a base64 text in a patch that carries it whole, and its frame.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// What of an answer that is no JSON is shown.
const SHOWN_BYTES_MAX: usize = 1024;
const AGENT: HeaderValue = HeaderValue::from_static("kube-apiserver-admission");

/// Why a call brought no answer, in upstream's words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    pub message: String,
    /// What the webhook answered instead, 0 when it did not.
    pub code: u16,
}

impl CallError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 0 }
    }
}

/// Where a webhook listens and how it is recognised, with its open connections.
pub struct Endpoint {
    connections: Connections<Full<Bytes>>,
}

impl Endpoint {
    pub fn new(target: Target, ca_bundle: Vec<u8>) -> Self {
        let trust = Trust { bundle: ca_bundle, ..Trust::default() };
        Self { connections: Connections::new(target, trust) }
    }

    /// Of a `clientConfig` as admission registrations and custom resource definitions have it.
    ///
    /// # Errors
    /// A text, for a configuration that names no usable target; validation lets none through.
    pub fn parse(config: &serde_json::Value) -> Result<Self, String> {
        use base64::Engine as _;
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let bundle = base64::engine::general_purpose::STANDARD.decode(bundle);
        let bundle = bundle.map_err(|e| format!("unable to load root certificates: {e}"))?;
        Ok(Self::new(Target::parse(config)?, bundle))
    }

    /// Posts `body` and hands back the body of the answer, which said 200.
    ///
    /// Dropping the future gives the call up; the connection is closed then, as nobody knows what is still on it.
    ///
    /// # Errors
    /// When nobody answers in time, when the other side is not who it must be, or does not answer with success.
    pub async fn post(&self, store: &dyn Store, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        let url = self.connections.target().url(timeout);
        let named = |why: &str| CallError::new(format!("Post {url:?}: {why}"));
        match tokio::time::timeout(timeout, self.exchange(store, &body, timeout)).await {
            Err(_) => Err(named("context deadline exceeded")),
            Ok(Err(Failed::Transport(why))) => Err(named(&why)),
            Ok(Err(Failed::Answered(error))) => Err(error),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    async fn exchange(&self, store: &dyn Store, body: &Bytes, timeout: Duration) -> Result<Bytes, Failed> {
        let make = || self.request(body.clone(), timeout);
        let sent = self.connections.send(store, true, make).await;
        let (response, sender) = sent.map_err(Failed::Transport)?;
        let answer = read(response).await?;
        self.connections.keep(sender);
        Ok(answer)
    }

    fn request(&self, body: Bytes, timeout: Duration) -> Result<Request<Full<Bytes>>, String> {
        let path = self.connections.target().path(timeout);
        let host = self.connections.target().authority();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(ACCEPT, HeaderValue::from_static("application/json, */*"))
            .header(USER_AGENT, AGENT)
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        TraceContext::say(request.headers_mut());
        Ok(request)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("target", self.connections.target()).finish_non_exhaustive()
    }
}

enum Failed {
    /// No whole answer; the words come after `Post "…": `.
    Transport(String),
    /// An answer that is no success.
    Answered(CallError),
}

async fn read(response: Response<Incoming>) -> Result<Bytes, Failed> {
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|e| Failed::Transport(e.to_string()))?.to_bytes();
    if code.is_success() { Ok(body) } else { Err(Failed::Answered(refused(code, &body))) }
}

/// Source: client-go `rest/request.go` `transformResponse`, apimachinery `NewGenericServerResponse`.
fn refused(code: StatusCode, body: &[u8]) -> CallError {
    let status = serde_json::from_slice::<types::status::Status>(body).ok();
    let said = status.filter(|s| s.kind == "Status" && s.status == "Failure").map(|s| s.message);
    let message = said.unwrap_or_else(|| match code.as_u16() {
        400 => "the server rejected our request for an unknown reason".into(),
        401 => "the server has asked for the client to provide credentials".into(),
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        413 => "the request entity was too large".into(),
        415 => "the media type of the request is not supported".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        503 => "the server is currently unable to handle the request".into(),
        500.. => {
            let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
            let shown = shown.trim();
            let shown = if shown.is_empty() { "unknown" } else { shown };
            format!("an error on the server ({shown:?}) has prevented the request from succeeding")
        }
        other => format!("the server responded with the status code {other} but did not return more information"),
    });
    CallError { message, code: code.as_u16() }
}
