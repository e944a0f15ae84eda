//! The server as a value: what it is given, and the one door through which requests come.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use ::http::header::HeaderValue;
use ::http::{Method, Request, Response};
use futures_util::FutureExt as _;
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use types::status::{Reason, Status};

use crate::admission::allocate::{self, Allocation, Allocator};
use crate::admission::{self, Plugins};
use crate::aggregator::{self, Aggregator, FrontProxy};
use crate::audit::{self, Stage};
use crate::auth::authenticate::Authenticator;
use crate::auth::identity::Identity;
use crate::auth::rbac::{self, Rbac};
use crate::auth::token::Tokens;
use crate::auth::{Authorizer, Settings};
use crate::codec::Accepted;
use crate::custom::{self, Kinds};
use crate::flow::{self, Flow};
use crate::follow::{Anew, Follower, Following, Kept, follow};
use crate::http::body::Body;
use crate::http::metrics::Metrics;
use crate::http::query::Query;
use crate::http::respond;
use crate::http::trace_context::{self, TraceContext};
use crate::request::{Trace, answered, audit_id, negotiate};
use crate::verbs::{self, connect::Dial, uphold};

/// Objects that are repaired in one write of the store: some hundred KB.
const REPAIRS_MAX: usize = 500;

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
    /// The ES256 key that signs ServiceAccount tokens (PKCS#8 in PEM), from `cluster::pki`; keys that follow it are believed.
    pub service_account_key_pem: String,
    /// Who else is believed.
    pub authentication: Settings,
    /// What is recorded of requests, if anything.
    pub audit: Option<audit::Settings>,
    /// Reaches node agents (logs, exec, port-forward); `None`: those answer 503.
    pub dialer: Option<Arc<dyn Dial>>,
    /// With what aggregated servers are asked; `None`: without a certificate.
    pub front_proxy: Option<FrontProxy>,
    /// Service address ranges, primary first; from `--service-cidr`.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// First and last node port; from `--service-node-port-range`.
    pub node_ports: (u16, u16),
    /// Where pods and other machines reach this server; becomes the endpoint of the `kubernetes` Service.
    pub advertise: Option<SocketAddr>,
}

impl Config {
    pub(crate) fn advertised(&self) -> String {
        self.advertise.map(|a| a.to_string()).unwrap_or_default()
    }
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the token key is unusable: {0}")]
    TokenKey(String),
    #[error("the certificate towards aggregated servers is unusable: {0}")]
    FrontProxy(String),
    #[error("the service ranges are unusable")]
    Ranges(#[source] crate::admission::allocate::ConfigError),
    #[error("the store refused the bootstrap objects")]
    Bootstrap(#[source] store::Error),
    #[error("the server's own Service, or what extension servers are told, could not be written")]
    Publish(#[source] Status),
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
    Remote {
        address: SocketAddr,
        certificate: Certificate,
    },
}

impl Peer {
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Local(_) => None,
            Self::Remote { address, .. } => Some(address.ip()),
        }
    }
}

/// The certificate that a client showed for the whole connection.
#[derive(Debug, Clone)]
pub enum Certificate {
    Absent,
    /// Verified, and this is whom it names.
    Client(Arc<Identity>),
    /// Verified as that of a proxy, which is believed about whom it asks for.
    FrontProxy,
    /// Signed by nobody who is believed, or not valid at this time. Requests need other credentials.
    Unknown,
}

/// The API server. A cheap handle.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
}

/// What every request needs.
pub struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authorizer: Authorizer,
    pub(crate) authenticator: Authenticator,
    pub(crate) allocator: Allocator,
    pub(crate) kinds: Kinds,
    pub(crate) aggregator: Aggregator,
    pub(crate) admission: Plugins,
    pub(crate) metrics: Metrics,
    pub(crate) frames: verbs::frame::Frames,
    pub(crate) flow: Arc<Flow>,
    /// What keeps memory in step with the store, and what must be stored.
    followers: OnceLock<Box<[Following]>>,
    /// Cancelled when the server begins to stop.
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// What is not in step with the store, not yet or not any more.
    pub(crate) fn out_of_step(&self) -> Vec<Kept> {
        match self.followers.get() {
            None => Kept::ALL.to_vec(),
            Some(all) => all.iter().filter(|one| !one.is_in_step()).map(|one| one.what).collect(),
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl ApiServer {
    /// Makes the server and writes what every cluster starts with (namespaces, priority classes, RBAC) where it is absent.
    /// The store must have been opened with [`crate::facts_of`].
    pub async fn new(config: Config, store: Arc<dyn Store>) -> Result<Self, Error> {
        let tokens = Tokens::new(
            config.service_account_issuer.clone(),
            config.api_audiences.clone(),
            &config.service_account_key_pem,
        )
        .map_err(Error::TokenKey)?;
        let allocation = Allocation {
            service_cidrs: config.service_cidrs.clone(),
            node_ports: config.node_ports.0..=config.node_ports.1,
        };
        let allocator = Allocator::new(allocation).map_err(Error::Ranges)?;
        verbs::start::bootstrap(&*store, &config.clock, &config.service_cidrs).await.map_err(Error::Bootstrap)?;
        allocator.load(&*store.snapshot());
        let repairs = allocator.repairs(&*store.snapshot(), (config.clock)());
        for batch in repairs.chunks(REPAIRS_MAX) {
            store.write(batch.to_vec()).await.map_err(Error::Bootstrap)?;
        }
        // Before anything is made of what is stored: who follows it misses nothing.
        let from = store.snapshot().revision();
        let kinds = Kinds::load(&*store.snapshot());
        let aggregator =
            Aggregator::load(&*store.snapshot(), config.front_proxy.as_ref()).map_err(Error::FrontProxy)?;
        let authorizer = Authorizer { rbac: Rbac::new(store.clone()) };
        let admission = Plugins::new(store.clone());
        let authenticator = Authenticator::new(tokens, config.authentication.clone());
        let flow = Flow::new(&*store.snapshot());
        let metrics = Metrics::new(&config, &flow);
        let shared = Arc::new(Shared {
            config,
            store,
            authorizer,
            authenticator,
            allocator,
            kinds,
            aggregator,
            admission,
            metrics,
            frames: verbs::frame::Frames::default(),
            flow,
            followers: OnceLock::new(),
            stop: CancellationToken::new(),
        });
        // Before anybody upholds it, so that two do not do the same at once.
        let server = Self { shared: shared.clone() };
        if let Some(proxy) = &server.shared.config.front_proxy {
            verbs::start::tell(&server, proxy).await.map_err(Error::Publish)?;
        }
        verbs::start::publish(&server).await.map_err(Error::Publish)?;
        let weak = || Arc::downgrade(&shared);
        let keep = |what, prefix: &'static str, follower: Box<dyn Follower>| {
            Following::begin(what, |step| follow(weak(), prefix, from, follower, step))
        };
        let anew = |what, prefix, make: fn(&Shared)| keep(what, prefix, Box::new(Anew::new(make)));
        let webhooks = |shared: &Shared| shared.admission.changed(admission::webhook::GROUP);
        let parameters = |shared: &Shared| shared.admission.changed(custom::GROUP);
        let flows = |shared: &Shared| shared.flow.changed(&*shared.store.snapshot());
        let followers = [
            anew(Kept::Webhooks, admission::webhook::STORE_PREFIX, webhooks),
            anew(Kept::Parameters, custom::STORE_PREFIX, parameters),
            anew(Kept::Roles, rbac::STORE_PREFIX, |shared| shared.authorizer.rbac.changed()),
            anew(Kept::Flows, flow::STORE_PREFIX, flows),
            keep(Kept::FlowStatus, flow::STORE_PREFIX, Box::new(flow::dangling::UPHELD)),
            keep(Kept::FlowDefaults, flow::STORE_PREFIX, Box::new(uphold::FLOWS)),
            keep(Kept::Namespaces, uphold::NAMESPACES_PREFIX, Box::new(uphold::NAMESPACES)),
            keep(Kept::DefaultRange, uphold::RANGE_KEY, Box::new(uphold::RANGE)),
            keep(Kept::OwnService, uphold::SERVICE_KEY, Box::new(uphold::SERVICE)),
            keep(Kept::Trust, aggregator::trust::STORE_KEY, Box::new(aggregator::trust::UPHELD)),
            keep(Kept::Definitions, custom::STORE_PREFIX, Box::<custom::keeper::Keeper>::default()),
            keep(Kept::Policies, admission::policy::status::PREFIX, Box::new(admission::policy::status::Checker)),
            keep(Kept::Registrations, aggregator::STORE_PREFIX, Box::<aggregator::keeper::Keeper>::default()),
            keep(Kept::Addresses, allocate::keeper::STORE_PREFIX, Box::new(allocate::keeper::Keeper)),
            Following::begin(Kept::OwnRegistrations, |step| aggregator::automatic::follow(weak(), step)),
        ];
        let _ = shared.followers.set(followers.into());
        Ok(server)
    }

    /// Resolves when everything that follows the store has taken in what was there: from then on the health checks pass.
    pub async fn in_step(&self) {
        for one in self.shared.followers.get().into_iter().flatten() {
            one.in_step().await;
        }
    }

    /// The server again, for what it does by itself.
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    /// The time by the server's clock.
    pub fn now(&self) -> jiff::Timestamp {
        (self.shared.config.clock)()
    }

    /// What signs and checks ServiceAccount tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.shared.authenticator.tokens
    }

    /// Has `/metrics` show what somebody else of this process counts, too.
    pub fn show(&self, others: crate::http::metrics::Others) {
        self.shared.metrics.show(others);
    }

    /// From here on `/readyz` fails, so that others send their requests elsewhere, and open watches end.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Answers one request. Never fails: what goes wrong is a `Status` in the response. Dropping the future abandons the
    /// answer; a write that was under way may still happen.
    pub async fn call(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        let started = tokio::time::Instant::now();
        let accepted = negotiate(request.headers(), &Query::parse(request.uri().query()));
        let audit_id = audit_id(request.headers());
        let context = TraceContext::of(request.headers());
        let mut trace = Trace::begin(&audit_id, context.as_ref());
        let span = trace.span.clone();
        let head = request.method() == Method::HEAD;
        let outcome = {
            let answer = AssertUnwindSafe(self.answer(request, &peer, &audit_id, &mut trace)).catch_unwind();
            // Where it is: what is put around it would move kilobytes each time.
            let answer = std::pin::pin!(answer);
            trace_context::within(context, answer.instrument(span.clone())).await
        };
        let mut record = trace.audit.take();
        let panicked = outcome.is_err();
        let mut response = match outcome {
            Ok(Ok(response)) => {
                answered(&mut record, response.status().as_u16(), None);
                response
            }
            Ok(Err(status)) => {
                answered(&mut record, status.code, Some(&status));
                respond::error(&accepted.unwrap_or(Accepted::JSON), &status)
            }
            Err(_) => {
                // The panic itself has been logged where it happened. Others' requests go on.
                self.shared.metrics.panicked();
                let text = "This request caused apiserver to panic. Look in the logs for details.";
                let status = Status::new(Reason::InternalError, text);
                answered(&mut record, status.code, Some(&status));
                respond::error(&Accepted::JSON, &status)
            }
        };
        if head && response.status() != ::http::StatusCode::SWITCHING_PROTOCOLS {
            *response.body_mut() = Body::empty();
        }
        let headers = response.headers_mut();
        headers.insert("audit-id", audit_id);
        if let Some(class) = &trace.class {
            for (name, uid) in [
                ("x-kubernetes-pf-flowschema-uid", &class.schema_uid),
                ("x-kubernetes-pf-prioritylevel-uid", &class.level_uid),
            ] {
                if let Ok(uid) = HeaderValue::from_str(uid) {
                    headers.insert(name, uid);
                }
            }
        }
        respond::add_warnings(headers, &trace.warnings);
        let code = response.status().as_u16();
        let took = started.elapsed();
        self.shared.metrics.observe(&trace.labels, code, took);
        tracing::debug!(parent: &span, code, us = took.as_micros() as u64, "answered");
        match record {
            None => response,
            Some(record) if panicked => {
                record.say(Stage::Panic);
                response
            }
            Some(record) if trace.streams && code != 101 => {
                record.say(Stage::ResponseStarted);
                response.map(|body| Body::stream(body.holding(record.until_the_end())))
            }
            Some(record) => {
                record.say(Stage::ResponseComplete);
                response
            }
        }
    }
}
