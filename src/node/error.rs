//! What can go wrong at this room's border: only its start can.

use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The serving certificate, its key or the client CA cannot be used.
    #[error("the node's certificates are unusable: {0}")]
    Tls(String),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether starting again may help without anyone changing the configuration.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Tls(_) => false,
            Error::Listen { .. } => true,
        }
    }
}
