//! Logs and events over a WebSocket, message by message. The client sends nothing.
//!
//! Source: apimachinery `pkg/util/httpstream/wsstream` `Reader`, apiserver `pkg/endpoints/handlers/watch.go` `HandleWS`,
//! RFC 6455.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use types::status::Status;

use crate::Body;
use crate::codec::Media;

/// Subprotocols, best first; the second carries text.
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];

/// What a client may send at once, who has nothing to say but that it is still there.
const SAID_BYTES_MAX: usize = 4096;

fn listening() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(SAID_BYTES_MAX)).max_frame_size(Some(SAID_BYTES_MAX))
}

/// A client's wish for a WebSocket.
pub(crate) struct Wish {
    accept: String,
    /// Empty when none was offered.
    protocol: String,
    client: OnUpgrade,
}

impl Wish {
    /// A wish for logs, taken out of its request, which is then one for plain bytes.
    ///
    /// # Errors
    /// 400 for a handshake that is none, or that offers only what is not spoken here.
    pub(super) fn take(request: &mut http::Request<Body>) -> Result<Option<Self>, Status> {
        let Some(mut wish) = Self::of(request.headers(), request.extensions())? else { return Ok(None) };
        wish.protocol = protocol(request.headers())?.to_owned();
        for name in ["upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"] {
            request.headers_mut().remove(name);
        }
        Ok(Some(wish))
    }

    /// A wish for events: whatever protocol it names first, they have but one form.
    ///
    /// # Errors
    /// 400 for a handshake that is none.
    pub(crate) fn of(headers: &HeaderMap, extensions: &http::Extensions) -> Result<Option<Self>, Status> {
        if !headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Ok(None);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("no Sec-WebSocket-Key"))?;
        let client = extensions
            .get::<OnUpgrade>()
            .cloned()
            .ok_or_else(|| Status::bad_request("unable to upgrade: this connection cannot switch protocols"))?;
        let protocol = offered(headers).next().unwrap_or_default().to_owned();
        Ok(Some(Self { accept: derive_accept_key(key.as_bytes()), protocol, client }))
    }

    fn agree(&self) -> Result<Response<Body>, Status> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|e| Status::internal(e.to_string()));
        headers.insert(SEC_WEBSOCKET_ACCEPT, value(&self.accept)?);
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if !self.protocol.is_empty() {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value(&self.protocol)?);
        }
        Ok(response)
    }

    /// Agrees, and sends `body` on until it or the client ends.
    pub(super) fn grant(self, body: Body) -> Result<Response<Body>, Status> {
        let response = self.agree()?;
        let text = self.protocol == PROTOCOLS[1];
        let message = move |bytes: Bytes| {
            if text { Message::text(BASE64.encode(&bytes)) } else { Message::binary(bytes) }
        };
        tokio::spawn(async move {
            let Ok(client) = self.client.await else { return };
            let mut socket =
                WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(listening())).await;
            // An empty message says that the stream is open before there is anything to read.
            let opened = socket.send(message(Bytes::new())).await;
            let sent = match opened {
                Ok(()) => send(socket, body, |piece| vec![message(piece)]).await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "a log over a WebSocket ended");
            }
        });
        Ok(response)
    }

    /// Agrees, and sends the events of a watch: each is a message, JSON as text, protobuf as bytes.
    pub(crate) fn events(self, watch: Response<Body>, media: Media) -> Result<Response<Body>, Status> {
        let response = self.agree()?;
        let mut held = BytesMut::new();
        let messages = move |piece: Bytes| {
            held.extend_from_slice(&piece);
            std::iter::from_fn(|| event(&mut held, media)).collect()
        };
        tokio::spawn(async move {
            let Ok(client) = self.client.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(listening())).await;
            if let Err(error) = send(socket, watch.into_body(), messages).await {
                tracing::debug!(%error, "a watch over a WebSocket ended");
            }
        });
        Ok(response)
    }
}

/// The next event of a stream as a message.
fn event(held: &mut BytesMut, media: Media) -> Option<Message> {
    if media == Media::Protobuf {
        let length = u32::from_be_bytes(*held.first_chunk::<4>()?) as usize;
        if held.len() < 4 + length {
            return None;
        }
        held.advance(4);
        return Some(Message::binary(held.split_to(length).freeze()));
    }
    let end = memchr::memchr(b'\n', held)? + 1;
    Some(Message::text(String::from_utf8_lossy(&held.split_to(end)).into_owned()))
}

/// The subprotocols that a client offers.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|l| l.split(',')).map(str::trim).filter(|p| !p.is_empty())
}

fn protocol(headers: &HeaderMap) -> Result<&'static str, Status> {
    let offered: Vec<&str> = offered(headers).collect();
    if offered.is_empty() {
        return Ok("");
    }
    let known = PROTOCOLS.into_iter().find(|p| offered.contains(p));
    known.ok_or_else(|| {
        Status::bad_request(format!("requested protocol(s) are not supported: {offered:?}; supports {PROTOCOLS:?}"))
    })
}

/// Sends what `messages` makes of each piece, until the body or the client ends. What the client says is not heard.
async fn send<S>(
    mut socket: WebSocketStream<S>,
    mut body: Body,
    mut messages: impl FnMut(Bytes) -> Vec<Message>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        tokio::select! {
            piece = body.frame() => match piece {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    for message in messages(data) {
                        socket.send(message).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_messages_however_they_come() {
        for (media, stream, expected) in [
            (
                Media::Json,
                &b"{\"a\":1}\n{\"b\":2}\n"[..],
                vec![Message::text("{\"a\":1}\n"), Message::text("{\"b\":2}\n")],
            ),
            (
                Media::Protobuf,
                b"\0\0\0\x03abc\0\0\0\0\0\0\0\x01d",
                vec![Message::binary("abc"), Message::binary(""), Message::binary("d")],
            ),
        ] {
            for piece in [1, 2, 5, stream.len()] {
                let mut held = BytesMut::new();
                let mut messages = Vec::new();
                for part in stream.chunks(piece) {
                    held.extend_from_slice(part);
                    messages.extend(std::iter::from_fn(|| event(&mut held, media)));
                }
                assert_eq!(messages, expected, "in pieces of {piece}");
            }
        }
    }
}
