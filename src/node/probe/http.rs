//! HTTP GET as probes and hooks make it: one connection, few redirects, nobody's certificate checked.
//!
//! Source: `pkg/probe/http`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;

use super::{OUTPUT_BYTES_MAX, Target, USER_AGENT, connect, join, port};
use crate::worker::input::Outcome;

const REDIRECTS_MAX: usize = 10;

pub(super) type Headers = Vec<(String, String)>;

pub(super) fn url(target: &Target, action: &HTTPGetAction) -> anyhow::Result<(::http::Uri, Headers)> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.pod_ip.clone());
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let text = format!("{scheme}://{}{slash}{path}", join(&host, port(&target.spec, &action.port)?));
    let uri = text.parse().with_context(|| format!("invalid URL {text}"))?;
    let headers = action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
    Ok((uri, headers))
}

pub(super) async fn get(uri: &::http::Uri, headers: &Headers, timeout: Duration) -> Outcome {
    let attempt = async {
        let mut uri = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let (status, location) = request(&uri, headers).await?;
            if status.is_redirection()
                && let Some(location) = location
            {
                let next = redirect(&uri, &location)?;
                if next.host() != uri.host() {
                    return Ok(Outcome::Warning(format!("Probe terminated redirects, Response body: {location}")));
                }
                uri = next;
                continue;
            }
            return Ok(if status.is_success() || status.is_redirection() {
                Outcome::Success
            } else {
                Outcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
            });
        }
        Ok::<_, anyhow::Error>(Outcome::Failure(format!("Get \"{uri}\": stopped after {REDIRECTS_MAX} redirects")))
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(e)) => Outcome::Failure(format!("Get \"{uri}\": {e:#}")),
        Err(_) => Outcome::Failure(format!(
            "Get \"{uri}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

fn redirect(from: &::http::Uri, location: &str) -> anyhow::Result<::http::Uri> {
    if location.contains("://") {
        return location.parse().context("invalid Location");
    }
    let authority = from.authority().map(::http::uri::Authority::as_str).unwrap_or_default();
    let slash = if location.starts_with('/') { "" } else { "/" };
    format!("{}://{authority}{slash}{location}", from.scheme_str().unwrap_or("http"))
        .parse()
        .context("invalid Location")
}

/// A GET on a connection of its own; the answer's status and Location. Its body is read to a bound and dropped.
pub(super) async fn request(
    uri: &::http::Uri,
    headers: &Headers,
) -> anyhow::Result<(::http::StatusCode, Option<String>)> {
    let https = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let stream = connect(&host, port).await?;
    let mut request = ::http::Request::builder().uri(uri.path_and_query().map_or("/", |p| p.as_str()));
    let named = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
    let authority = uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
    request = request.header("Host", named("host").unwrap_or(authority));
    request = request.header("User-Agent", named("user-agent").unwrap_or_else(|| USER_AGENT.into()));
    request = request.header("Accept", named("accept").unwrap_or_else(|| "*/*".into())).header("Connection", "close");
    for (name, value) in headers {
        if !["host", "user-agent", "accept"].iter().any(|n| name.eq_ignore_ascii_case(n)) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = if https {
        let name = rustls::pki_types::ServerName::try_from(host).context("invalid server name")?;
        let stream = tokio_rustls::TlsConnector::from(insecure()).connect(name, stream).await?;
        send(stream, request).await?
    } else {
        send(stream, request).await?
    };
    let location = answer.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
    let status = answer.status();
    // Servers log an error when the body is not taken; a little is enough.
    let _ = http_body_util::Limited::new(answer.into_body(), OUTPUT_BYTES_MAX).collect().await;
    Ok((status, location))
}

async fn send<S>(
    stream: S,
    request: ::http::Request<Empty<Bytes>>,
) -> anyhow::Result<::http::Response<hyper::body::Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// Probes trust whoever answers: they ask whether a server is well, not who it is.
fn insecure() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::LazyLock<Arc<rustls::ClientConfig>> = std::sync::LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Anyone(Arc::clone(&provider)));
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Arc::new(config)
    });
    Arc::clone(&CONFIG)
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
