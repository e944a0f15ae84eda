//! A connection to the API in the same process, on which things go wrong, and which can be cut for good.

use std::sync::Arc;

use apiserver::{ApiServer, Identity, Peer};
use bytes::Bytes;
use client::{Body, Client, Transport, TransportError};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;

use crate::faults::{Fate, Faults, Outcome, Piece};

tokio::task_local! {
    /// Whose request is being served.
    static CALLER: Caller;
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub name: Arc<str>,
    /// It will not hear the answer.
    pub unanswered: bool,
}

/// Whose request is being served: that of the API server itself when there is none.
pub fn caller() -> Caller {
    CALLER.try_with(Clone::clone).unwrap_or_else(|_| Caller { name: "api".into(), unanswered: false })
}

/// One asker's connection.
#[derive(Clone)]
pub struct Line {
    pub api: ApiServer,
    pub name: Arc<str>,
    pub identity: Arc<Identity>,
    /// `None`: nothing goes wrong.
    pub faults: Option<Faults>,
    /// Nothing passes while it is not up, in either direction.
    pub up: watch::Receiver<bool>,
}

impl Line {
    pub fn client(self) -> Client {
        Client::new(Arc::new(self))
    }

    async fn carry(self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let path = request.uri().path();
        let Fate { yields, before, after, outcome } = match &self.faults {
            Some(faults) => faults.fate(request.method(), path),
            None => {
                Fate { yields: 0, before: Default::default(), after: Default::default(), outcome: Outcome::Answered }
            }
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(before).await;
        let unanswered = match outcome {
            Outcome::Unreachable => return Err(TransportError::Connect("no route to host".into())),
            Outcome::Refused(status) => {
                let text = serde_json::to_string(&status).unwrap_or_default();
                let mut response = http::Response::new(client::full_body(text));
                *response.status_mut() = http::StatusCode::from_u16(status.code).unwrap_or_default();
                return Ok(response);
            }
            Outcome::Unanswered => true,
            Outcome::Answered => false,
        };
        let caller = Caller { name: Arc::clone(&self.name), unanswered };
        let is_watch = request.uri().query().is_some_and(|q| q.contains("watch=true"));
        let call = self.api.call(request.map(apiserver::Body::full), Peer::Local(Arc::clone(&self.identity)));
        let response = CALLER.scope(caller, call).await;
        if unanswered {
            return Err(TransportError::Lost("connection reset by peer".into()));
        }
        tokio::time::sleep(after).await;
        let body = response.map(|body| body.boxed_unsync());
        Ok(if is_watch { body.map(|body| self.watched(body)) } else { body })
    }

    /// The pieces of a watch as they arrive.
    fn watched(self, body: Body) -> Body {
        let pieces = stream::unfold(Some((self, body)), |state| async move {
            let (mut line, mut body) = state?;
            let frame = tokio::select! {
                biased;
                () = down(&mut line.up) => return lost(),
                frame = body.frame() => frame?,
            };
            let late = match line.faults.as_ref().map(Faults::piece) {
                Some(Piece::Comes(late)) => late,
                Some(Piece::Cut(None)) => return None,
                Some(Piece::Cut(Some(_))) => return lost(),
                None => Default::default(),
            };
            if !late.is_zero() {
                tokio::select! {
                    biased;
                    () = down(&mut line.up) => return lost(),
                    () = tokio::time::sleep(late) => {}
                }
            }
            Some((frame, Some((line, body))))
        });
        StreamBody::new(pieces).boxed_unsync()
    }
}

type Pieces = (Result<Frame<Bytes>, client::BodyError>, Option<(Line, Body)>);

fn lost() -> Option<Pieces> {
    Some((Err("the connection was lost".into()), None))
}

/// Resolves when the line goes down.
async fn down(up: &mut watch::Receiver<bool>) {
    // Whoever held the other end is gone: so is the line.
    let _ = up.wait_for(|up| !up).await;
}

impl Transport for Line {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let line = self.clone();
        Box::pin(async move {
            let mut up = line.up.clone();
            if !*up.borrow() {
                return Err(TransportError::Connect("the network is unreachable".into()));
            }
            tokio::select! {
                biased;
                () = down(&mut up) => Err(TransportError::Lost("the network went away".into())),
                answer = line.carry(request) => answer,
            }
        })
    }
}
