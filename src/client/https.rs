//! The transport over the network: HTTP/1.1 or 2 over TLS, to the server that a kubeconfig names.
//!
//! Upgrades (exec, attach, port-forward) are not made here; who needs them dials with [`Endpoint`], which has the same TLS.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HOST};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::kubeconfig::{Config, ConfigError};
use crate::transport::{Body, Transport, TransportError};

/// How long connecting may take, TLS excluded.
const CONNECT: Duration = Duration::from_secs(10);
/// A silent peer is asked for a sign of life after so long, and given up after as long again: a pulled cable is noticed
/// within half a minute although a watch may be silent for an hour.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// An idle connection is kept so long; above the keep-alive, so that watches and requests share one.
const IDLE: Duration = Duration::from_secs(90);

/// Where the server is and how to prove who we are: all that a dialler of its own needs.
#[derive(Clone)]
pub struct Endpoint {
    /// Scheme and authority, with a path prefix if the kubeconfig has one; no slash at the end.
    pub base: String,
    /// No ALPN is set: hyper adds h2 and http/1.1, an upgrade must not.
    pub tls: Arc<ClientConfig>,
    /// What to send as `Authorization`.
    pub authorization: Option<HeaderValue>,
    /// The name to verify instead of the URL's host.
    pub server_name: Option<ServerName<'static>>,
}

impl Endpoint {
    /// # Errors
    /// Certificates or keys that cannot be read, a server that is no URL.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let uri: http::Uri = config.server.parse().map_err(|_| ConfigError::Server(config.server.clone()))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err(ConfigError::Server(config.server.clone()));
        }
        let authorization = match (&config.token, &config.basic) {
            (Some(token), _) => Some(format!("Bearer {token}")),
            (None, Some((user, password))) => {
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                Some(format!("Basic {pair}"))
            }
            (None, None) => None,
        };
        let authorization = authorization
            .map(|text| {
                let mut value =
                    HeaderValue::try_from(text).map_err(|_| tls("the token has characters that HTTP lacks"))?;
                value.set_sensitive(true);
                Ok::<_, ConfigError>(value)
            })
            .transpose()?;
        let server_name = config
            .tls_server_name
            .clone()
            .map(|name| ServerName::try_from(name).map_err(|e| tls(format!("tls-server-name: {e}"))))
            .transpose()?;
        Ok(Self { base: config.server.clone(), tls: Arc::new(client_tls(config)?), authorization, server_name })
    }
}

fn tls(text: impl Into<String>) -> ConfigError {
    ConfigError::Tls(text.into())
}

fn client_tls(config: &Config) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| tls(e.to_string()))?;
    let builder = if config.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(trust_all::Anyone(provider)))
    } else if let Some(pem) = &config.ca {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| tls(format!("certificate authority: {e}")))?;
            roots.add(certificate).map_err(|e| tls(format!("certificate authority: {e}")))?;
        }
        if roots.is_empty() {
            return Err(tls("certificate authority: no certificate in it"));
        }
        builder.with_root_certificates(roots)
    } else {
        builder.with_webpki_roots()
    };
    let Some((certificate, key)) = &config.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| tls(format!("client certificate: {e}")))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| tls(format!("client key: {e}")))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| tls(format!("client certificate: {e}")))
}

/// A pool of connections to one server.
pub struct Https {
    endpoint: Endpoint,
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Https {
    /// # Errors
    /// As for [`Endpoint::new`]. Connects at the first request.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self::with(Endpoint::new(config)?))
    }

    pub fn with(endpoint: Endpoint) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        let builder = HttpsConnectorBuilder::new().with_tls_config((*endpoint.tls).clone()).https_or_http();
        let connector = match endpoint.server_name.clone() {
            Some(name) => {
                let resolver = hyper_rustls::FixedServerNameResolver::new(name);
                builder.with_server_name_resolver(resolver).enable_all_versions().wrap_connector(tcp)
            }
            None => builder.enable_all_versions().wrap_connector(tcp),
        };
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .build(connector);
        Self { endpoint, pool }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Transport for Https {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let uri = format!("{}{path}", self.endpoint.base).parse::<http::Uri>();
        if let Some(authorization) = &self.endpoint.authorization {
            head.headers.insert(AUTHORIZATION, authorization.clone());
        }
        // hyper fills it from the URI for the version that it speaks.
        head.headers.remove(HOST);
        let pool = self.pool.clone();
        Box::pin(async move {
            head.uri = uri.map_err(|e| TransportError::Connect(e.into()))?;
            let request = http::Request::from_parts(head, Full::new(body));
            let answer = pool.request(request).await.map_err(|e| {
                if e.is_connect() { TransportError::Connect(e.into()) } else { TransportError::Lost(e.into()) }
            })?;
            Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
        })
    }
}

/// For `insecure-skip-tls-verify` only.
mod trust_all {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Anyone(pub Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named() {
        let base = Config { server: "https://pi:6443".into(), ..Config::default() };
        assert!(Https::new(&base).is_ok());
        for (config, text) in [
            (Config { server: "pi".into(), ..base.clone() }, "server \"pi\" is not a URL"),
            (Config { ca: Some(b"junk".to_vec()), ..base.clone() }, "certificate authority: no certificate in it"),
            (Config { token: Some("a\nb".into()), ..base.clone() }, "the token has characters that HTTP lacks"),
        ] {
            assert_eq!(Endpoint::new(&config).err().map(|e| e.to_string()).as_deref(), Some(text));
        }
    }
}
