//! What can go wrong at this room's border.

use std::{io, path::PathBuf};

/// Errors of the network room. Messages carry which object; the source is not repeated in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration or a spec cannot work; retrying the same value never helps.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No address is left in this node's range of one family.
    #[error("no free address in {range}")]
    PoolExhausted {
        /// The node's pod range.
        range: ipnet::IpNet,
    },
    /// The host port is taken by another pod of this node.
    #[error("host port {port}/{protocol} is used by pod {holder}")]
    HostPortTaken {
        /// The port on the node.
        port: u16,
        /// Its protocol.
        protocol: crate::Protocol,
        /// The pod that has it.
        holder: String,
    },
    /// The kernel refused a netlink request.
    #[error("{what}")]
    Netlink {
        /// The operation and the object it was for.
        what: String,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("unexpected netlink answer to {what}")]
    Protocol {
        /// The operation.
        what: String,
    },
    /// A file, mount or sysctl failed.
    #[error("{what} {}", path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A namespace call failed.
    #[error("{what}")]
    Namespace {
        /// The system call and its object.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket could not be opened, bound or used.
    #[error("{what} {address}")]
    Socket {
        /// The verb.
        what: &'static str,
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The network thread has ended (shutdown, or it could not return to its namespace).
    #[error("the network thread has ended")]
    Closed,
    /// Several steps of a teardown failed; all were tried.
    #[error("{} of the teardown steps failed, first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Teardown(Vec<Error>),
}

impl Error {
    /// Whether the same call may succeed later without anyone changing its arguments.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::Protocol { .. } => false,
            Self::PoolExhausted { .. }
            | Self::HostPortTaken { .. }
            | Self::Netlink { .. }
            | Self::Io { .. }
            | Self::Namespace { .. }
            | Self::Socket { .. } => true,
            Self::Closed => false,
            Self::Teardown(all) => all.iter().any(Self::retryable),
        }
    }

    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { what, why: why.into() }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
