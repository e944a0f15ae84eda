//! The server as a value: what it is given, and the one door through which requests come.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{Request, Response};
use store::Store;

use crate::auth::identity::Identity;
use crate::http::body::Body;

/// The time, for everything that is written into objects. Comes in, so that tests can choose it.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// What `/version` says.
#[derive(Debug, Clone)]
pub struct Version {
    /// `v1.36.2+kedge0.1.0`.
    pub git_version: String,
    pub git_commit: String,
    /// RFC 3339.
    pub build_date: String,
}

/// What the server is given. Nothing is read from files or the environment here.
#[derive(Clone)]
pub struct Config {
    pub clock: Clock,
    pub version: Version,
    /// The `iss` of ServiceAccount tokens, e.g. `https://kubernetes.default.svc.cluster.local`.
    pub service_account_issuer: String,
    /// What a token is good for when its request names no audience.
    pub api_audiences: Vec<String>,
    /// The ES256 key that signs ServiceAccount tokens (PKCS#8 in PEM), from `cluster::pki`.
    pub service_account_key_pem: String,
    /// With which node agents are called (logs, exec, port-forward); `None`: those answer 503.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// Service address ranges, primary first; from `--service-cidr`.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// First and last node port; from `--service-node-port-range`.
    pub node_ports: (u16, u16),
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the token key is unusable: {0}")]
    TokenKey(String),
    #[error("the store refused the bootstrap objects")]
    Bootstrap(#[source] store::Error),
    #[error("cannot listen")]
    Listen(#[source] std::io::Error),
    #[error("the TLS configuration is unusable")]
    Tls(#[source] rustls::Error),
}

/// Where a request comes from, with what is already known of who sends it.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A part of the same process, which is believed.
    Local(Arc<Identity>),
    /// A connection. `certificate` is the identity of a client certificate that was verified for the whole connection,
    /// `Err` one that was not: such a request is answered with 401.
    Remote { address: SocketAddr, certificate: Result<Option<Arc<Identity>>, ()> },
}

/// The API server. A cheap handle.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub config: Config,
    pub store: Arc<dyn Store>,
}

impl ApiServer {
    /// Makes the server and writes what every cluster starts with (namespaces, priority classes, RBAC) where it is absent.
    /// The store must have been opened with [`crate::facts_of`].
    pub async fn new(config: Config, store: Arc<dyn Store>) -> Result<Self, Error> {
        Ok(Self { shared: Arc::new(Shared { config, store }) })
    }

    /// Answers one request. Never fails: what goes wrong is a `Status` in the response. Dropping the future abandons the
    /// answer; a write that was under way may still happen.
    pub async fn call(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        let _ = (request, peer, &self.shared.config, &self.shared.store);
        let mut response = Response::new(Body::full("not served yet"));
        *response.status_mut() = ::http::StatusCode::SERVICE_UNAVAILABLE;
        response
    }
}
