//! What a request can end in. The API's own answer is kept whole: texts and reasons are for people and for branching.

use types::status::{Reason, Status};

use crate::transport::TransportError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API answered, and the answer was no.
    #[error("{0}")]
    Status(Box<Status>),
    /// No answer.
    #[error("request to {path} got no answer")]
    Transport {
        path: String,
        #[source]
        source: TransportError,
    },
    /// The answer was not what the path promises.
    #[error("answer of {path} could not be read")]
    Decode {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    /// The object given to a request has no JSON form.
    #[error("object for {path} could not be written as JSON")]
    Encode {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be formed: a header or path with characters that HTTP does not have.
    #[error("request to {path} is malformed: {why}")]
    Request { path: String, why: String },
}

impl Error {
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Status(status) => Some(status),
            Error::Transport { .. } | Error::Decode { .. } | Error::Encode { .. } | Error::Request { .. } => None,
        }
    }

    pub fn is(&self, reason: Reason) -> bool {
        self.status().is_some_and(|s| s.is(reason))
    }

    pub fn is_not_found(&self) -> bool {
        self.is(Reason::NotFound)
    }

    pub fn is_already_exists(&self) -> bool {
        self.is(Reason::AlreadyExists)
    }

    pub fn is_conflict(&self) -> bool {
        self.is(Reason::Conflict)
    }

    /// The history that was asked for is gone: list again.
    pub fn is_expired(&self) -> bool {
        self.status().is_some_and(|s| s.code == 410)
    }

    /// The server asked to come back after so many seconds.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.status()?.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    /// The namespace is going away, so that creating in it cannot succeed any more.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status()
            .and_then(|s| s.details.as_ref())
            .is_some_and(|d| d.causes.iter().any(|c| c.reason == NAMESPACE_TERMINATING))
    }

    /// Whether the same request may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Status(status) => status.retryable(),
            Error::Transport { source, .. } => source.retryable(),
            // A truncated body is a lost connection in disguise; a well-formed wrong one costs a few retries.
            Error::Decode { .. } => true,
            Error::Encode { .. } | Error::Request { .. } => false,
        }
    }
}

/// Cause that the API adds when it refuses a create in a terminating namespace. Source: core/v1 `types.go`.
pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error::Status(Box::new(status))
    }
}
