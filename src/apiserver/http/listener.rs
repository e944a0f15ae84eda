//! The TLS listener: connections in, requests to [`ApiServer::call`].
//!
//! What never lives here: a route, a verb.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Method, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::body::Body;
use super::respond;
use crate::auth::x509;
use crate::server::{ApiServer, Certificate, Error, Peer};

/// Open connections. Each costs some tens of KiB while idle; more than this is a leak in some client.
const CONNECTIONS_MAX: usize = 4096;
/// A client that does not finish its handshake in this time is none.
const HANDSHAKE_SECONDS: u64 = 10;
/// Nor one that does not send its headers, once it has begun.
const HEADERS_SECONDS: u64 = 30;
/// Bytes of request line and headers; upstream's limit.
const HEADER_BYTES_MAX: usize = 1 << 20;
/// Streams of one HTTP/2 connection: a client multiplexes all of its watches over one. Source: apiserver
/// `http2-max-streams-per-connection`, 1000 for the kube-apiserver.
const HTTP2_STREAMS_MAX: u32 = 1000;
/// After an accept that failed: soon enough for the client's own timeout.
const ACCEPT_RETRY_MS: u64 = 200;
/// Open requests may finish for this long after the shutdown has begun; watches end at once.
const DRAIN_SECONDS: u64 = 5;

/// Accepts any certificate in the handshake and remembers nothing: whether its chain is good is decided right after, so
/// that a wrong certificate is answered with 401 and not with a broken connection. That the client holds the key is still
/// proven by the handshake.
#[derive(Debug)]
struct AskForCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AskForCertificate {
    fn offer_client_auth(&self) -> bool {
        true
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What the listener proves itself with, and whom it believes.
pub struct Tls {
    config: Arc<ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
    front_proxy: Option<FrontProxy>,
}

/// Proxies that are believed about whom they ask for.
struct FrontProxy {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Common names; empty: any.
    names: Vec<String>,
}

impl Tls {
    /// `chain` and `key` serve; certificates signed by `client_ca` are identities.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_ca: CertificateDer<'static>,
    ) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = verifier(client_ca)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_client_cert_verifier(Arc::new(AskForCertificate(clients.clone())))
            .with_single_cert(chain, key)
            .map_err(Error::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), clients, front_proxy: None })
    }

    /// Believes what certificates signed by `ca` say about whom they ask for, when their common name is one of `names`
    /// (empty: any).
    pub fn with_front_proxy(mut self, ca: CertificateDer<'static>, names: Vec<String>) -> Result<Self, Error> {
        self.front_proxy = Some(FrontProxy { verifier: verifier(ca)?, names });
        Ok(self)
    }
}

fn verifier(ca: CertificateDer<'static>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(Error::Tls)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|e| Error::Tls(rustls::Error::General(e.to_string())))
}

/// Serves until `stop`; then waits for open requests for a few seconds.
pub async fn serve(listener: TcpListener, tls: Tls, server: ApiServer, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tls = Arc::new(tls);
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = room.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: no event says when that has passed, and asking at once again
                    // would only burn a core.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
                    continue;
                }
            },
        };
        // A token of its own: each time there is something to do on the connection it is looked at, too.
        let (tls, server, stop) = (tls.clone(), server.clone(), stop.child_token());
        tokio::spawn(async move {
            connection(stream, address, tls, server, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    server.stop();
    let all = room.acquire_many(u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX));
    if tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS), all).await.is_err() {
        tracing::info!("connections were still open at the end of the shutdown");
    }
}

async fn connection(stream: TcpStream, address: SocketAddr, tls: Arc<Tls>, server: ApiServer, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %address, "cannot send without delay");
    }
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.config.clone());
    let stream = match tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS), acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, %address, "the TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let shown = Arc::new(Shown::new(&tls, &server, stream.get_ref().1.peer_certificates()));
    let activity = Arc::new(Activity::default());
    let watched = activity.clone();
    let mut builder = Builder::new(TokioExecutor::new());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let peer = Peer::Remote { address, certificate: shown.now(&tls, &server) };
        let (server, open) = (server.clone(), activity.begin());
        async move {
            let response = match host_problem(&request) {
                Some(why) => malformed(why),
                None => server.call(request.map(Into::into), peer).await,
            };
            Ok::<_, std::convert::Infallible>(response.map(|body| body.holding(open)))
        }
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADERS_SECONDS))
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX));
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => Some(ended),
        () = watched.over() => None,
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // What is open may finish.
            serving.as_mut().graceful_shutdown();
            let left = tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS), serving);
            left.await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &*error, %address, "a connection ended");
    }
}

/// What is wrong with the `Host` of an HTTP/1.1 request.
///
/// Source: RFC 9112 §3.2, Go `net/http/server.go` `readRequest`.
fn host_problem<B>(request: &hyper::Request<B>) -> Option<&'static str> {
    if request.version() != Version::HTTP_11 || request.method() == Method::CONNECT {
        return None;
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Some("missing required Host header"),
        (Some(_), Some(_)) => Some("too many Host headers"),
        // Which characters may stand in one, not what they mean.
        (Some(host), None) => {
            let valid = |b: &u8| b.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~@".contains(b);
            (!host.as_bytes().iter().all(valid)).then_some("malformed Host header")
        }
    }
}

fn malformed(why: &str) -> Response<Body> {
    let mut response = respond::text(400, format!("400 Bad Request: {why}"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The certificates that a client has shown, and whom they name for how long: a connection may outlive them.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    identity: Certificate,
    /// Until then they need not be looked at again.
    expires: i64,
}

impl Shown {
    fn new(tls: &Tls, server: &ApiServer, chain: Option<&[CertificateDer<'static>]>) -> Self {
        let chain = chain.unwrap_or_default().to_vec();
        let identity = identify(tls, server.now(), &chain);
        let expires = chain.iter().map(|certificate| x509::expires(certificate)).min().unwrap_or(i64::MAX);
        Self { chain, identity, expires }
    }

    /// Whom they name at this moment.
    fn now(&self, tls: &Tls, server: &ApiServer) -> Certificate {
        let now = server.now();
        if now.as_second() <= self.expires { self.identity.clone() } else { identify(tls, now, &self.chain) }
    }
}

/// Who the client's certificate names, if its chain is good at this moment.
fn identify(tls: &Tls, now: Timestamp, chain: &[CertificateDer<'static>]) -> Certificate {
    let Some((leaf, intermediates)) = chain.split_first() else { return Certificate::Absent };
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    if let Some(proxy) = &tls.front_proxy
        && proxy.verifier.verify_client_cert(leaf, intermediates, now).is_ok()
    {
        let name = x509::common_name(leaf);
        if proxy.names.is_empty() || proxy.names.contains(&name) {
            return Certificate::FrontProxy;
        }
        tracing::info!(name, "refused the certificate of a front proxy with this name");
        return Certificate::Unknown;
    }
    match tls.clients.verify_client_cert(leaf, intermediates, now) {
        Ok(_) => x509::identity(leaf).map_or(Certificate::Unknown, |i| Certificate::Client(Arc::new(i))),
        Err(error) => {
            tracing::info!(%error, "refused a client certificate");
            Certificate::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let missing = Some("missing required Host header");
        for (version, hosts, expected) in [
            (Version::HTTP_11, &["127.0.0.1:6443"][..], None),
            (Version::HTTP_11, &["[::1]:6443"], None),
            (Version::HTTP_11, &[""], None),
            (Version::HTTP_11, &[], missing),
            (Version::HTTP_11, &["a", "a"], Some("too many Host headers")),
            (Version::HTTP_11, &["a b"], Some("malformed Host header")),
            (Version::HTTP_10, &[], None),
            (Version::HTTP_2, &[], None),
        ] {
            let mut request = hyper::Request::new(());
            *request.version_mut() = version;
            for host in hosts {
                request.headers_mut().append(HOST, HeaderValue::from_static(host));
            }
            assert_eq!(host_problem(&request), expected, "{version:?} {hosts:?}");
        }
    }
}
