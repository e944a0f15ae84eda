//! What servers and nodes need to trust each other, and (with more than one server) to agree.
//!
//! Today: the certificate authority, the leaves it signs, the key that signs ServiceAccount tokens, and the kubeconfigs
//! made from them ([`pki`]), what is signed for others ([`signing`]), and
//! the keys under which values are kept on disk ([`encryption`]). The Raft-replicated store will live here too. What never lives here: an API object, HTTP.

pub mod encryption;
pub mod files;
pub mod kubeconfig;
pub mod pki;
pub mod signing;

/// What can go wrong in this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {verb} {path}")]
    File {
        verb: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a valid {what}: {detail}")]
    Damaged { path: String, what: &'static str, detail: String },
    #[error("cannot make the certificate of {subject}")]
    Issue {
        subject: String,
        #[source]
        source: rcgen::Error,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody repairing something.
    pub fn retryable(&self) -> bool {
        match self {
            Error::File { .. } => true,
            Error::Damaged { .. } | Error::Issue { .. } => false,
        }
    }
}
