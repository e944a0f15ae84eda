//! Logs over a WebSocket: what the agent answers, message by message. The client sends nothing.
//!
//! Source: apimachinery `pkg/util/httpstream/wsstream` `Reader`, RFC 6455.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use types::status::Status;

use crate::Body;

/// Subprotocols, best first; the second carries text.
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];

/// A client's wish for a WebSocket, taken out of its request, which is then one for plain bytes.
pub(super) struct Wish {
    accept: String,
    /// Empty when none was offered.
    protocol: &'static str,
    client: OnUpgrade,
}

impl Wish {
    /// # Errors
    /// 400 for a handshake that is none, or that offers only what is not spoken here.
    pub(super) fn take(request: &mut http::Request<Body>) -> Result<Option<Self>, Status> {
        let headers = request.headers();
        if !headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Ok(None);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("no Sec-WebSocket-Key"))?;
        let (accept, protocol) = (derive_accept_key(key.as_bytes()), protocol(headers)?);
        let client = request
            .extensions_mut()
            .remove::<OnUpgrade>()
            .ok_or_else(|| Status::bad_request("unable to upgrade: this connection cannot switch protocols"))?;
        for name in ["upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"] {
            request.headers_mut().remove(name);
        }
        Ok(Some(Self { accept, protocol, client }))
    }

    /// Agrees, and sends `body` on until it or the client ends.
    pub(super) fn grant(self, body: Body) -> Result<Response<Body>, Status> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        let accept = HeaderValue::from_str(&self.accept).map_err(|e| Status::internal(e.to_string()))?;
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if !self.protocol.is_empty() {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(self.protocol));
        }
        let text = self.protocol == PROTOCOLS[1];
        tokio::spawn(async move {
            let Ok(client) = self.client.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
            if let Err(error) = send(socket, body, text).await {
                tracing::debug!(%error, "a log over a WebSocket ended");
            }
        });
        Ok(response)
    }
}

fn protocol(headers: &HeaderMap) -> Result<&'static str, Status> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = lines.flat_map(|l| l.split(',')).map(str::trim).filter(|p| !p.is_empty()).collect();
    if offered.is_empty() {
        return Ok("");
    }
    let known = PROTOCOLS.into_iter().find(|p| offered.contains(p));
    known.ok_or_else(|| {
        Status::bad_request(format!("requested protocol(s) are not supported: {offered:?}; supports {PROTOCOLS:?}"))
    })
}

async fn send<S>(mut socket: WebSocketStream<S>, mut body: Body, text: bool) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = |bytes: bytes::Bytes| {
        if text { Message::text(BASE64.encode(&bytes)) } else { Message::binary(bytes) }
    };
    // An empty message says that the stream is open before there is anything to read.
    socket.send(message(bytes::Bytes::new())).await?;
    loop {
        tokio::select! {
            piece = body.frame() => match piece {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        socket.send(message(data)).await?;
                    }
                }
                Some(Err(_)) | None => return socket.close(None).await,
            },
            said = socket.next() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
}
