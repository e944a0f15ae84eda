//! The way to one aggregated server: its connections, and what it has told last.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, ETAG, HOST, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::told::Told;
use crate::Identity;
use crate::auth::front_proxy;
use crate::http::body::{Body, BoxError};
use crate::tls::Trust;
use crate::verbs::connect::Io;
use crate::webhook::{Connections, Target};

/// Clients' requests that are under way to one server at the same time, streams not counted. Source: kube-apiserver
/// `--max-requests-inflight`: no server that is made like it takes more.
const UNDER_WAY_MAX: usize = 400;
/// What a server may say about itself in one document.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
const AGENT: HeaderValue = HeaderValue::from_static("kube-aggregator");

/// Why a request was not answered.
#[derive(Debug, PartialEq)]
pub enum Failed {
    /// In the words of Go's library.
    Transport(String),
    Late,
}

pub struct Link {
    connections: Connections<Full<Bytes>>,
    trust: Trust,
    /// The path of its group and version.
    root: String,
    /// As it was when it was last looked at: requests go there as soon as the condition is seen to say so.
    available: AtomicBool,
    under_way: Arc<Semaphore>,
    pub told: ArcSwap<Told>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("target", self.target()).finish_non_exhaustive()
    }
}

/// A request whose body is there.
pub struct Outgoing<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Until when the answer must have been read; `None` for streams.
    pub deadline: Option<Instant>,
}

impl Link {
    pub fn new(target: Target, trust: Trust, root: &str, available: bool) -> Self {
        Self {
            connections: Connections::new(target, trust.clone()),
            trust,
            root: root.to_owned(),
            available: AtomicBool::new(available),
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            told: ArcSwap::default(),
        }
    }

    pub fn target(&self) -> &Target {
        self.connections.target()
    }

    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Release);
    }

    pub fn root(&self) -> &str {
        &self.root
    }

    /// Whether both lead to the same server, which is recognised in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = self.target() == other.target() && self.root == other.root;
        same && self.trust.bundle == other.trust.bundle && self.trust.insecure == other.trust.insecure
    }

    /// Closes idle connections: what lies between may have lost them.
    pub fn forget(&self) {
        self.connections.forget();
    }

    /// A place among the clients' requests that are under way; `None` when it has as many as it may have. What this server
    /// itself asks needs none.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.under_way.clone().try_acquire_owned().ok()
    }

    /// A new connection, for a request that will switch protocols.
    ///
    /// # Errors
    /// In the words of Go's library.
    pub async fn open(&self, store: &dyn Store) -> Result<Box<dyn Io>, String> {
        Ok(Box::new(self.connections.open(store).await?))
    }

    /// Sends a request; the answer's body comes as it is made.
    ///
    /// # Errors
    /// There is no answer, or none in time.
    pub async fn send(self: &Arc<Self>, store: &dyn Store, outgoing: Outgoing<'_>) -> Result<Response<Body>, Failed> {
        let Outgoing { method, path, headers, body, deadline } = outgoing;
        let make = || {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = path.parse().map_err(|e| format!("{e}"))?;
            *request.headers_mut() = headers.clone();
            let host = HeaderValue::from_str(&self.target().authority()).map_err(|e| e.to_string())?;
            request.headers_mut().insert(HOST, host);
            Ok(request)
        };
        let replayable = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let sent = self.connections.send(store, replayable, make);
        let sent = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, sent).await.map_err(|_| Failed::Late)?,
            None => sent.await,
        };
        let (response, sender) = sent.map_err(Failed::Transport)?;
        let (parts, incoming) = response.into_parts();
        let late = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let mut body = Answer { incoming, lease: Some((self.clone(), sender)), late };
        body.give_back();
        Ok(Response::from_parts(parts, Body::stream(body)))
    }

    /// Reads a document that the server has about itself, as `identity`. `tag` is that of the one that is known.
    ///
    /// # Errors
    /// As for [`Link::send`]; and for a document that is too large.
    pub async fn read(
        self: &Arc<Self>,
        store: &dyn Store,
        identity: &Identity,
        asked: &Asked<'_>,
    ) -> Result<Read, String> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, AGENT);
        if let Ok(accept) = HeaderValue::from_str(asked.accept) {
            headers.insert(ACCEPT, accept);
        }
        if let Ok(tag) = HeaderValue::from_str(asked.tag)
            && !asked.tag.is_empty()
        {
            headers.insert(IF_NONE_MATCH, tag);
        }
        front_proxy::introduce(&mut headers, identity);
        let deadline = Some(Instant::now() + asked.limit);
        let outgoing = Outgoing { method: &Method::GET, path: asked.path, headers, body: Bytes::new(), deadline };
        let response = self.send(store, outgoing).await.map_err(|failed| match failed {
            Failed::Transport(why) => why,
            Failed::Late => "context deadline exceeded".into(),
        })?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
        let text = |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
        let tag = text(ETAG).to_owned();
        let media = text(http::header::CONTENT_TYPE).to_owned();
        Ok(Read { code: parts.status.as_u16(), tag, media, body })
    }
}

/// A document that is asked for.
pub struct Asked<'a> {
    pub path: &'a str,
    pub accept: &'a str,
    pub tag: &'a str,
    pub limit: Duration,
}

/// What was answered.
pub struct Read {
    pub code: u16,
    pub tag: String,
    pub media: String,
    pub body: Bytes,
}

/// The body of an answer. At its end its connection is free for the next request; dropped before, the connection closes.
struct Answer {
    incoming: Incoming,
    lease: Option<(Arc<Link>, SendRequest<Full<Bytes>>)>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    fn give_back(&mut self) {
        if self.incoming.is_end_stream()
            && let Some((link, sender)) = self.lease.take()
        {
            link.connections.keep(sender);
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            match &frame {
                Some(Ok(_)) => self.give_back(),
                Some(Err(_)) => self.lease = None,
                None => {
                    if let Some((link, sender)) = self.lease.take() {
                        link.connections.keep(sender);
                    }
                }
            }
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        if let Some(late) = &mut self.late
            && late.as_mut().poll(cx).is_ready()
        {
            self.lease = None;
            return Poll::Ready(Some(Err("the answer did not end in time".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.incoming.size_hint()
    }
}
