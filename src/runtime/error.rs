//! What can go wrong at the border of this room.

use std::path::PathBuf;

use crate::spec::{ContainerId, PodId};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb of [`crate::Runtime`] failed. Messages are one line, lower case, and do not repeat their source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pod {0} is not known to the runtime")]
    PodNotFound(PodId),
    #[error("container {0} is not known to the runtime")]
    ContainerNotFound(ContainerId),
    #[error("{0} exists already")]
    AlreadyExists(String),
    /// The request cannot be carried out as written; asking again does not help.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The container could not be set up: mounts, cgroups, namespaces, security.
    #[error("failed to create container: {message}")]
    Create { container: ContainerId, message: String },
    /// The container was set up, its first process could not be executed. `message` words it as other runtimes do:
    /// `exec: "x": executable file not found in $PATH`.
    #[error("failed to start container: {message}")]
    Start { container: ContainerId, message: String },
    /// A further process in a running container could not be executed.
    #[error("failed to exec in container: {message}")]
    Exec { container: ContainerId, message: String },
    /// The container is not running (any more).
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The process that holds the pod is gone; the pod is lost and can only be removed.
    #[error("the shim of pod {0} is gone")]
    ShimGone(PodId),
    /// The shim answered something that this daemon does not understand.
    #[error("the shim of pod {pod} answered out of protocol: {message}")]
    Protocol { pod: PodId, message: String },
    #[error("cgroup {path}: {what}")]
    Cgroup {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the same call may succeed later without anyone changing the request.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Create { .. }
            | Error::Start { .. }
            | Error::Exec { .. }
            | Error::Cgroup { .. }
            | Error::Io { .. } => true,
            Error::PodNotFound(_)
            | Error::ContainerNotFound(_)
            | Error::AlreadyExists(_)
            | Error::Invalid(_)
            | Error::NotRunning(_)
            | Error::ShimGone(_)
            | Error::Protocol { .. } => false,
        }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }
}
