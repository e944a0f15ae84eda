//! The node's HTTPS server: logs, exec, attach, port-forward and a few looks inside, for the API server and for whom it lets.
//!
//! Source: `pkg/kubelet/server/server.go` (paths, parameters, texts).

pub mod authority;
mod delegate;
mod exec;
mod files;
mod forward;
pub mod logs;
pub mod query;
mod spdy;
mod usage;
mod volumes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::agent::Workers;
use crate::config::Tls;
use crate::host::Host;
use crate::measure::{Meter, Sample};
use crate::pod;
use crate::translate::container::log_folder;
use crate::worker::run::Snapshot;
use authority::Caller;
use query::Query;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Connections at once: the API server keeps a few, each stream has its own.
const CONNECTIONS_MAX: usize = 1024;

/// What every request needs.
pub(crate) struct Server {
    pub host: Arc<Host>,
    pub workers: Workers,
    pub meter: Meter,
    /// A permit for each question to the API server about a caller.
    questions: Semaphore,
}

pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(text.into())).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    let mut response = text(StatusCode::OK, serde_json::to_string(value).unwrap_or_default());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// Listens and serves in the background until stopped. Returns where.
pub(crate) async fn serve(
    host: Arc<Host>,
    workers: Workers,
    tls: &Tls,
    stop: CancellationToken,
) -> Result<SocketAddr, Error> {
    let acceptor = acceptor(tls).map_err(Error::Tls)?;
    let address = host.config.listen;
    let fail = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let own = listener.local_addr().map_err(fail)?;
    let server = Arc::new(Server::new(host, workers));
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, most likely: others must be closed first.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let (server, acceptor, stop) = (Arc::clone(&server), acceptor.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = connection(server, acceptor, stream) => {}
                }
                drop(permit);
            });
        }
    });
    Ok(own)
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(tls.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("serving certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(|e| format!("serving key: {e}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(tls.client_ca.as_bytes()) {
        roots.add(ca.map_err(|e| format!("client CA: {e}"))?).map_err(|e| format!("client CA: {e}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Those without a certificate get a readable 401 instead of a broken connection.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| format!("client CA: {e}"))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| format!("serving certificate: {e}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let caller = certificate.and_then(|c| Caller::from_certificate(c));
    let service = hyper::service::service_fn(move |request| {
        let (server, caller) = (Arc::clone(&server), caller.clone());
        async move { Ok::<_, Infallible>(server.handle(request, caller.as_ref()).await) }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

impl Server {
    pub fn new(host: Arc<Host>, workers: Workers) -> Self {
        Self { host, workers, meter: Meter::default(), questions: Semaphore::new(delegate::QUESTIONS_MAX) }
    }

    pub(crate) async fn handle(
        self: &Arc<Self>,
        request: Request<Incoming>,
        caller: Option<&Caller>,
    ) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let response = match self.admit(&request, caller).await {
            Ok(()) => self.answer(request).await,
            Err(refusal) => refusal,
        };
        if head { response.map(|_| empty()) } else { response }
    }

    /// Lets the API server in, and whomever it says; others get the answer that they are given.
    async fn admit(&self, request: &Request<Incoming>, caller: Option<&Caller>) -> Result<(), Response<Body>> {
        if caller.is_some_and(Caller::is_trusted) {
            return Ok(());
        }
        let unauthorized = || text(StatusCode::UNAUTHORIZED, "Unauthorized");
        let token = delegate::token(request.headers());
        if caller.is_none() && token.is_none() {
            return Err(unauthorized());
        }
        let _question = self.questions.acquire().await.map_err(|_| unauthorized())?;
        let client = &self.host.client;
        let caller = match (caller, token) {
            (Some(caller), _) => caller.clone(),
            (None, token) => match delegate::identify(client, token.unwrap_or_default()).await {
                Ok(caller) => caller.ok_or_else(unauthorized)?,
                Err(error) => {
                    tracing::warn!(%error, "it is not known whose token a caller has");
                    return Err(unauthorized());
                }
            },
        };
        let verb = delegate::verb(request.method());
        let subresources = delegate::subresources(request.uri().path());
        let asked = delegate::may(client, &caller, &self.host.config.node_name, verb, subresources).await;
        let what = |word: &str| {
            let (name, all) = (&caller.name, subresources.join(" "));
            format!("{word} (user={name}, verb={verb}, resource=nodes, subresource(s)=[{all}])")
        };
        match asked {
            Ok(true) => Ok(()),
            Ok(false) => Err(text(StatusCode::FORBIDDEN, what("Forbidden"))),
            Err(error) => {
                tracing::warn!(%error, "it is not known what a caller may do");
                Err(text(StatusCode::INTERNAL_SERVER_ERROR, what("Authorization error")))
            }
        }
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(query::decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            ["healthz"] => text(StatusCode::OK, "ok"),
            ["pods"] => self.pods(),
            ["metrics"] => self.metrics(),
            ["metrics", "resource"] => {
                self.measured(|sample| text(StatusCode::OK, usage::resource_metrics(sample))).await
            }
            ["stats", "summary"] => {
                let started = usage::boot_time(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
                self.measured(|sample| json(&usage::summary(sample, &self.host.config.node_name, started))).await
            }
            ["stats", "usage"] => self.measured(|sample| json(&usage::usage(sample))).await,
            ["containerLogs", namespace, name, container] => {
                self.container_logs(namespace, name, container, &query).await
            }
            ["exec", namespace, name, container] | ["exec", namespace, name, _, container] => {
                self.exec(request, namespace, name, container, &query, exec::Kind::Exec).await
            }
            ["attach", namespace, name, container] | ["attach", namespace, name, _, container] => {
                self.exec(request, namespace, name, container, &query, exec::Kind::Attach).await
            }
            ["portForward", namespace, name] | ["portForward", namespace, name, _] => {
                self.port_forward(request, namespace, name, &query)
            }
            ["logs", ref rest @ ..] => {
                if !matches!(*request.method(), Method::GET | Method::HEAD) {
                    return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
                }
                files::answer(&self.host.config.system_logs_dir, &rest.join("/"), path.ends_with('/')).await
            }
            ["volumes", name] => self.volumes(request.method(), name.to_owned()).await,
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pods(&self) -> Response<Body> {
        let items: Vec<_> = self
            .workers
            .snapshots()
            .into_iter()
            .map(|s| {
                let mut pod = (*s.pod).clone();
                pod.status = Some(s.status);
                pod
            })
            .collect();
        json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn metrics(&self) -> Response<Body> {
        let snapshots = self.workers.snapshots();
        let running: usize = snapshots.iter().map(|s| s.running.len()).sum();
        let pods = snapshots.iter().filter(|s| !s.running.is_empty()).count();
        let restarts: u32 = snapshots.iter().flat_map(|s| s.restarts.iter().map(|(_, n)| n)).sum();
        text(
            StatusCode::OK,
            format!(
                "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\n\
                 kubelet_running_pods {pods}\n\
                 # HELP kubelet_running_containers Number of containers currently running\n# TYPE kubelet_running_containers gauge\n\
                 kubelet_running_containers{{container_state=\"running\"}} {running}\n\
                 # HELP kubelet_container_restarts Restarts of the containers of this node's pods\n\
                 # TYPE kubelet_container_restarts gauge\nkubelet_container_restarts {restarts}\n"
            ),
        )
    }

    /// An answer of what the pods use now.
    async fn measured(&self, answer: impl FnOnce(&Sample) -> Response<Body>) -> Response<Body> {
        match self.meter.measure(&self.host, &self.workers).await {
            Ok(sample) => answer(&sample),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", anyhow::Error::from(e))),
        }
    }

    pub(crate) fn snapshot(&self, namespace: &str, name: &str) -> Result<Snapshot, Response<Body>> {
        let missing = || text(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist"));
        self.workers.named(namespace, name).map(|w| w.snapshot.read().clone()).ok_or_else(missing)
    }

    async fn container_logs(&self, namespace: &str, name: &str, container: &str, query: &Query) -> Response<Body> {
        let snapshot = match self.snapshot(namespace, name) {
            Ok(snapshot) => snapshot,
            Err(response) => return response,
        };
        let now = self.host.clock.now();
        let options = match log_options(query, now) {
            Ok(options) => options,
            Err(why) => return text(StatusCode::UNPROCESSABLE_ENTITY, why),
        };
        let instance = match log_instance(&snapshot, container, query.flag(&["previous"])) {
            Ok(instance) => instance,
            Err(why) => return text(StatusCode::BAD_REQUEST, why),
        };
        let folder = self.host.config.pod_logs_dir.join(log_folder(&snapshot.pod)).join(container);
        let path = folder.join(format!("{instance}.log"));
        let running = snapshot.running.iter().find(|(n, _, restarts)| n == container && *restarts == instance);
        let runtime = Arc::clone(&self.host.runtime);
        let uid = runtime::PodId(pod::uid(&snapshot.pod).to_owned());
        let id = running.map(|(_, id, _)| runtime::ContainerId(id.clone()));
        let ended = async move {
            if let Some(id) = id {
                let _ = runtime.wait(&uid, &id).await;
            }
        };
        if !path.exists() && running.is_none() {
            let message = format!(
                "failed to try resolving symlinks in path \"{0}\": lstat {0}: no such file or directory",
                path.display()
            );
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
        let (sender, receiver) = mpsc::channel(crate::stream::QUEUE);
        tokio::spawn(async move {
            if let Err(e) = logs::send(path.clone(), options, ended, sender).await {
                tracing::warn!(path = %path.display(), error = %e, "log not readable");
            }
        });
        let frames =
            futures_util::stream::unfold(receiver, |mut r| async { r.recv().await.map(|b| (Ok(Frame::data(b)), r)) });
        let mut response = Response::new(StreamBody::new(frames.boxed()).boxed_unsync());
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
        response
    }
}

/// Source: `pkg/apis/core/validation` (PodLogOptions), `containerLogs` parameters.
fn log_options(query: &Query, now: jiff::Timestamp) -> Result<logs::Options, String> {
    let number = |name: &str, least: i64| match query.get(name).filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(v) => match v.parse::<i64>() {
            Ok(n) if n >= least => Ok(Some(n)),
            _ => Err(format!("{name}: Invalid value: \"{v}\"")),
        },
    };
    let since = match (number("sinceSeconds", 1)?, query.get("sinceTime").filter(|v| !v.is_empty())) {
        (Some(s), _) => Some(now.checked_sub(jiff::SignedDuration::from_secs(s)).unwrap_or(jiff::Timestamp::MIN)),
        (None, Some(t)) => Some(t.parse().map_err(|_| format!("sinceTime: Invalid value: \"{t}\""))?),
        (None, None) => None,
    };
    Ok(logs::Options {
        tail_lines: number("tailLines", 0)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        since,
        limit_bytes: number("limitBytes", 1)?.map(|n| n as u64),
        timestamps: query.flag(&["timestamps"]),
        follow: query.flag(&["follow"]),
        stream: query.get("stream").map(str::to_owned),
    })
}

/// Which instance's log is meant. Source: `pkg/kubelet/kubelet_pods.go` validateContainerLogStatus.
fn log_instance(s: &Snapshot, container: &str, previous: bool) -> Result<u32, String> {
    let name = pod::name(&s.pod);
    let Some((_, restarts)) = s.restarts.iter().find(|(n, _)| n == container) else {
        return Err(format!("container \"{container}\" in pod \"{name}\" is not available"));
    };
    let lists =
        [&s.status.container_statuses, &s.status.init_container_statuses, &s.status.ephemeral_container_statuses];
    let status = lists.into_iter().flat_map(|l| l.iter().flatten()).find(|c| c.name == container);
    let state = status.and_then(|c| c.state.as_ref());
    let waiting = state.and_then(|s| s.waiting.as_ref());
    let last = status.and_then(|c| c.last_state.as_ref()).is_some_and(|l| l.terminated.is_some());
    match (waiting, previous, last) {
        (_, true, false) => Err(format!("previous terminated container \"{container}\" in pod \"{name}\" not found")),
        // Between two instances the one before is the one to read.
        (Some(_), _, true) | (None, true, true) => Ok(restarts.saturating_sub(1)),
        (Some(w), false, false) => Err(format!(
            "container \"{container}\" in pod \"{name}\" is waiting to start: {}",
            match w.reason.as_deref() {
                Some("ErrImagePull" | "ImagePullBackOff") => "trying and failing to pull image",
                other => other.unwrap_or("no reason"),
            }
        )),
        (None, false, _) => Ok(*restarts),
    }
}
