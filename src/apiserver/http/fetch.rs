//! Reads a document over HTTPS: the keys of a foreign issuer. What never lives here: a cache, a redirect that is followed.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use crate::auth::issuer::Fetch;

/// From the first packet to the last byte. A request with a token waits for it.
const FETCH_SECONDS: u64 = 10;
/// A set of keys has some KB.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
const HTTPS_PORT: u16 = 443;

/// The host's authorities, and Mozilla's where the host has none of its own. Read once.
static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Arc::new(roots)
});

/// The network.
pub struct Https;

impl Fetch for Https {
    fn get<'a>(&'a self, url: &'a str, authorities: &'a str) -> store::Pending<'a, Result<Bytes, String>> {
        Box::pin(async move {
            let whole = tokio::time::timeout(Duration::from_secs(FETCH_SECONDS), get(url, authorities));
            whole.await.unwrap_or_else(|_| Err("no answer in time".into()))
        })
    }
}

async fn get(url: &str, authorities: &str) -> Result<Bytes, String> {
    let uri: Uri = url.parse().map_err(text)?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or("no https URL")?;
    // An IPv6 address stands in brackets.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(HTTPS_PORT);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(authorities)?));
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(text)?;
    let stream = connector.connect(ServerName::try_from(host).map_err(text)?, tcp).await.map_err(text)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(text)?;
    let request = Request::get(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(HOST, authority.as_str())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "kube-apiserver")
        .body(Empty::new())
        .map_err(text)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(text)?;
        if response.status() != StatusCode::OK {
            return Err(response.status().to_string());
        }
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await.map_err(text)?;
        Ok(body.to_bytes())
    };
    let mut answer = std::pin::pin!(answer);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end with the last byte that the answer still has to read.
        _ = &mut connection => answer.await,
    }
}

fn tls(authorities: &str) -> Result<ClientConfig, String> {
    let roots = if authorities.is_empty() {
        ROOTS.clone()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            roots.add(certificate.map_err(text)?).map_err(text)?;
        }
        Arc::new(roots)
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(text)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
