//! What can go wrong with images. The texts are the ones users of other runtimes search for.

use std::path::PathBuf;

use super::digest::Digest;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something about an image failed. One line, lower case, not repeating the source; [`Error::chain`] writes it whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be one of an image; asking again does not help.
    #[error("couldn't parse image reference {reference:?}: {why}")]
    InvalidReference { reference: String, why: String },
    /// Nothing of this name is on this host.
    #[error("image {0:?} is not on this host")]
    Missing(String),
    /// A pull that failed; the source says why.
    #[error("failed to pull and unpack image {reference:?}")]
    Pull {
        reference: String,
        #[source]
        source: Box<Error>,
    },
    /// The name could not be turned into a manifest; the source says why.
    #[error("failed to resolve reference {reference:?}")]
    Resolve {
        reference: String,
        #[source]
        source: Box<Error>,
    },
    /// The registry answered that it has no such thing.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry wants other credentials than those it got (or any).
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Unauthorized(String),
    /// No answer: name not resolved, connection refused or cut, timeout, bad certificate.
    #[error("failed to do request: {method} {url:?}: {why}")]
    Unreachable { method: &'static str, url: String, why: String },
    /// An answer that is neither success nor one of the above.
    #[error("unexpected status from {method} request to {url}: {status}{message}")]
    Status { method: &'static str, url: String, status: http::StatusCode, message: String },
    /// The registry, or the archive, sent something that does not follow the specification.
    #[error("{what}: {why}")]
    Malformed { what: String, why: String },
    /// Content is not what its digest says.
    #[error("{what}: failed to verify digest: expected {expected}, got {actual}")]
    BadDigest { what: String, expected: Digest, actual: Digest },
    /// The image exists, but not for this machine.
    #[error("no match for platform in manifest: not found: {reference} has no {wanted}{available}")]
    NoMatchingPlatform { reference: String, wanted: String, available: String },
    /// The archive ends before its end.
    #[error("the archive is cut short: {0}")]
    CutShort(String),
    /// A layer that cannot be unpacked as written.
    #[error("layer entry {path:?}: {why}")]
    Layer { path: String, why: String },
    /// A container has a root filesystem of this image.
    #[error("image {image} is in use by container {container}")]
    InUse { image: String, container: String },
    #[error("image {image} is pinned{by}")]
    Pinned { image: String, by: String },
    /// Everyone who waited for it went away.
    #[error("canceled")]
    Canceled,
    /// The store on disk was written by a newer kedge.
    #[error(
        "image store {path} has format {found}, this kedge reads up to {known}; use the newer kedge or move it away"
    )]
    NewerStore { path: PathBuf, found: u32, known: u32 },
    /// Another process has the store.
    #[error("image store {0} is in use by another process")]
    Locked(PathBuf),
    #[error("registries file {path}: {why}")]
    Registries { path: PathBuf, why: String },
    #[error("{what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }

    pub(crate) fn nix(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(nix::Error) -> Error {
        let path = path.into();
        move |errno| Error::Io { what, path, source: errno.into() }
    }

    pub(crate) fn malformed(what: impl Into<String>, why: impl ToString) -> Error {
        Error::Malformed { what: what.into(), why: why.to_string() }
    }

    /// The error and everything beneath it on one line, as other runtimes print it.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    /// The innermost error of ours: what kind of failure it was.
    pub fn cause(&self) -> &Error {
        match self {
            Error::Pull { source, .. } | Error::Resolve { source, .. } => source.cause(),
            other => other,
        }
    }

    /// Whether the same call may succeed later without anyone changing the request.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Pull { source, .. } | Error::Resolve { source, .. } => source.retryable(),
            Error::Status { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 429),
            // Content that came wrong once may come right from the next try or the next mirror.
            Error::Unreachable { .. }
            | Error::BadDigest { .. }
            | Error::InUse { .. }
            | Error::Locked(_)
            | Error::Canceled
            | Error::Io { .. } => true,
            Error::InvalidReference { .. }
            | Error::Missing(_)
            | Error::NotFound(_)
            | Error::Unauthorized(_)
            | Error::Malformed { .. }
            | Error::NoMatchingPlatform { .. }
            | Error::CutShort(_)
            | Error::Layer { .. }
            | Error::Pinned { .. }
            | Error::NewerStore { .. }
            | Error::Registries { .. } => false,
        }
    }
}
