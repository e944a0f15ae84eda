//! Connections to one server, kept open for the next request: HTTP/1.1 over TLS, to an endpoint of a Service or to a URL.
//!
//! What never lives here: what is said over them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::Target;
use crate::tls::Trust;

/// Connections that are kept open for the next request. More requests at once open more, which are closed after them.
const IDLE_MAX: usize = 8;
/// A connection that has been idle for longer may be half closed by what lies between. Source: Go's default transport.
const IDLE_SECONDS_MAX: u64 = 90;
/// Connections that a request tries: a kept one may turn out to be closed by the other side.
const ATTEMPTS: usize = 3;

/// What agreeing on keys has. Source: Go's default transport.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A server's place, how it is recognised, and its open connections. `B` is the body of requests.
pub struct Connections<B> {
    target: Target,
    trust: Trust,
    tls: OnceLock<Result<Arc<rustls::ClientConfig>, String>>,
    idle: Mutex<Vec<Idle<B>>>,
}

struct Idle<B> {
    sender: SendRequest<B>,
    since: Instant,
}

impl<B> Connections<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(target: Target, trust: Trust) -> Self {
        Self { target, trust, tls: OnceLock::new(), idle: Mutex::default() }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Sends the request that `make` makes, once more when a kept connection was closed before it was seen; of one that is
    /// not `replayable` that must be certain. With the answer comes the connection, to be handed to [`Connections::keep`]
    /// when the answer has been read to its end.
    ///
    /// Dropping the future gives the request up; the connection is closed then, as nobody knows what is still on it.
    ///
    /// # Errors
    /// Why there is no answer, in the words of Go's library.
    pub async fn send(
        &self,
        store: &dyn Store,
        replayable: bool,
        make: impl Fn() -> Result<Request<B>, String>,
    ) -> Result<(Response<Incoming>, SendRequest<B>), String> {
        for attempt in 1..=ATTEMPTS {
            let kept = if attempt < ATTEMPTS { self.take().await } else { None };
            let reused = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect(store).await?,
            };
            match sender.send_request(make()?).await {
                Ok(response) => return Ok((response, sender)),
                // The other side closed it before it saw the request.
                Err(error) if reused && (error.is_canceled() || error.is_closed()) => {}
                Err(error) if reused && replayable && error.is_incomplete_message() => {}
                Err(error) => return Err(transport_text(&error)),
            }
        }
        Err("EOF".into())
    }

    /// A kept connection that is ready for a request.
    async fn take(&self) -> Option<SendRequest<B>> {
        loop {
            let Idle { mut sender, since } = self.idle.lock().pop()?;
            let fresh = since.elapsed() < Duration::from_secs(IDLE_SECONDS_MAX);
            if fresh && !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    pub fn keep(&self, sender: SendRequest<B>) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Closes what is open and idle.
    pub fn forget(&self) {
        self.idle.lock().clear();
    }

    async fn connect(&self, store: &dyn Store) -> Result<SendRequest<B>, String> {
        let stream = self.open(store).await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|e| transport_text(&e))?;
        // Ends with the sender, or when the other side closes.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another server ended");
            }
        });
        Ok(sender)
    }

    /// A new connection on which nothing has been said.
    ///
    /// # Errors
    /// As for [`Connections::send`].
    pub async fn open(&self, store: &dyn Store) -> Result<TlsStream<TcpStream>, String> {
        let config = self.tls.get_or_init(|| self.trust.config().map_err(|e| e.to_string())).clone()?;
        let tcp = self.target.dial(store).await?;
        handshake(config, self.target.server_name()?, tcp).await
    }
}

async fn handshake<S>(
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    stream: S,
) -> Result<TlsStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shaken = tokio_rustls::TlsConnector::from(config).connect(name, stream);
    match tokio::time::timeout(HANDSHAKE_LIMIT, shaken).await {
        Ok(stream) => stream.map_err(|e| tls_text(&e)),
        Err(_) => Err("net/http: TLS handshake timeout".into()),
    }
}

fn transport_text(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return "EOF".into();
    }
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// A failed handshake, as Go's library words the usual ones.
fn tls_text(error: &std::io::Error) -> String {
    use rustls::CertificateError as Bad;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match tls {
        // A bad signature: an authority of the same name, but another one.
        Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        )) => "x509: certificate has expired or is not yet valid".to_owned(),
        Some(rustls::Error::InvalidCertificate(Bad::NotValidForNameContext { expected, presented })) => {
            format!("x509: certificate is valid for {}, not {}", presented.join(", "), expected.to_str())
        }
        Some(rustls::Error::InvalidCertificate(other)) => format!("x509: {other}"),
        _ => return error.to_string(),
    };
    format!("tls: failed to verify certificate: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_not_waited_for() {
        let config = Trust { insecure: true, ..Trust::default() }.config().unwrap();
        let (stream, _silent) = tokio::io::duplex(64 << 10);
        let shaken = handshake(config, "a.example".try_into().unwrap(), stream).await;
        assert_eq!(shaken.err().as_deref(), Some("net/http: TLS handshake timeout"));
    }
}
