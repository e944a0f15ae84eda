//! Connections to the API: TLS with the administrator's certificate, HTTP/1.1 by hand, HTTP/2 by hyper.
//!
//! What never lives here: a measurement.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where `kedge server` listens on the test host.
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 6443);
/// What one read of a socket takes at most: a TLS record's worth and a bit.
const READ_BYTES: usize = 32 * 1024;

/// Who we are and whom we believe.
#[derive(Clone)]
pub struct Admin {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Admin {
    /// From the kubeconfig that the server writes, whose data are inline.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let field = |name: &str| -> Result<Vec<u8>> {
            let line = text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(':'));
            let line = line.with_context(|| format!("{} has no {name}", path.display()))?;
            Ok(base64::engine::general_purpose::STANDARD.decode(line.trim().trim_matches('"'))?)
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&field("certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let chain =
            CertificateDer::pem_slice_iter(&field("client-certificate-data")?).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&field("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut http1 = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let mut http2 = http1.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { http1: Arc::new(http1), http2: Arc::new(http2) })
    }

    pub async fn http1(&self) -> Result<Http1> {
        Ok(Http1 { stream: connect(&self.http1).await?, buffer: Vec::new() })
    }

    /// A connection for many streams; ends with the last clone of the sender.
    pub async fn http2(&self) -> Result<http2::SendRequest<Full<Bytes>>> {
        let stream = connect(&self.http2).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

async fn connect(config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(std::net::SocketAddr::from(ADDRESS)).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::from(std::net::IpAddr::from(ADDRESS.0));
    Ok(TlsConnector::from(config.clone()).connect(name, tcp).await?)
}

/// One kept-alive HTTP/1.1 connection with one request at a time.
pub struct Http1 {
    stream: TlsStream<TcpStream>,
    /// What was read and not consumed.
    buffer: Vec<u8>,
}

/// A request as it is sent.
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    request_for("application/json", method, path, body)
}

/// As [`request`]; the answer is to be of a media type.
pub fn request_for(accept: &str, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    message(accept, "application/json", method, path, body)
}

/// A merge patch as it is sent.
pub fn merge(path: &str, body: &[u8]) -> Vec<u8> {
    message("application/json", "application/merge-patch+json", "PATCH", path, body)
}

fn message(accept: &str, content_type: &str, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "{method} {path} HTTP/1.1\r\nHost: kubernetes\r\nAccept: {accept}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(body);
    out
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

impl Http1 {
    async fn fill(&mut self) -> Result<()> {
        self.buffer.reserve(READ_BYTES);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }

    /// Sends and reads the head: its status and text.
    async fn head(&mut self, request: &[u8]) -> Result<(u16, String)> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        self.buffer.drain(..end);
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no status line")?;
        Ok((code, head))
    }

    /// Sends a prepared [`request`] and reads the whole answer, whose length is announced.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        let (code, head) = self.head(request).await?;
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without length")?.trim().parse()?;
        self.buffer.reserve(length);
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok((code, &self.buffer[..length]))
    }

    /// As [`Http1::exchange`]; anything but success is an error.
    pub async fn must(&mut self, method: &str, path: &str, body: &[u8]) -> Result<&[u8]> {
        let (code, answer) = self.exchange(&request(method, path, body)).await?;
        if !(200..300).contains(&code) {
            bail!("{method} {path}: {code}: {}", String::from_utf8_lossy(answer));
        }
        Ok(answer)
    }

    /// Opens a watch; events come by [`Http1::event`].
    pub async fn watch(&mut self, path: &str) -> Result<()> {
        let (code, _) = self.head(&request("GET", path, b"")).await?;
        if code != 200 {
            bail!("{path}: {code}");
        }
        Ok(())
    }

    /// Waits for the next chunk of a watch, which is one event or several, and returns it.
    pub async fn event(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(line) = find(&self.buffer, b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line])?, 16)?;
                if size == 0 {
                    bail!("the watch ended");
                }
                let end = line + 2 + size;
                if self.buffer.len() >= end + 2 {
                    let chunk = self.buffer[line + 2..end].to_vec();
                    self.buffer.drain(..end + 2);
                    return Ok(chunk);
                }
            }
            self.fill().await?;
        }
    }
}
