//! The seam between what asks and what carries. One trait, one body type; the carriers are `https`, `fake`, and the daemon's
//! call into its own API server.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};

pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// An answer's body: frames of bytes that may go on as long as a watch does.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Carries one request and brings back the answer's head; the body follows as it arrives.
///
/// Request URIs have a path and query only (`/api/v1/pods?limit=1`); a carrier that needs an authority adds its own. Dropping
/// the future or the body cancels the request. An HTTP status of failure is an answer, not an error.
pub trait Transport: Send + Sync + 'static {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
}

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("no connection")]
    Connect(#[source] BodyError),
    #[error("the connection was lost")]
    Lost(#[source] BodyError),
    #[error("no answer within {0} s")]
    TimedOut(u64),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the server is shutting down")]
    Closed,
}

impl TransportError {
    pub fn retryable(&self) -> bool {
        match self {
            TransportError::Connect(_)
            | TransportError::Lost(_)
            | TransportError::TimedOut(_)
            | TransportError::Closed => true,
            TransportError::TooLarge(_) => false,
        }
    }
}
