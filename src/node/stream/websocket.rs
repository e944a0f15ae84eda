//! Channels over WebSocket: the first byte of a message names the stream. Versions 1 to 5, binary and base64.
//!
//! The codec is pure; [`serve`] moves its messages. Source: `apimachinery/pkg/util/httpstream/wsstream`, KEP-4006 (version 5),
//! RFC 6455.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};

use super::{End, Incoming, Outgoing, Wanted, terminal_size};

/// Largest message taken from a client.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// How long a client may take to answer a close.
const LINGER: std::time::Duration = std::time::Duration::from_secs(10);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the stream named by the next byte has ended.
const CLOSE: u8 = 255;

/// A subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    pub version: u8,
    pub base64: bool,
    /// As it was offered; empty: none was.
    pub name: &'static str,
}

/// What is spoken here, best first.
pub const PROTOCOLS: [Protocol; 7] = [
    Protocol { version: 5, base64: false, name: "v5.channel.k8s.io" },
    Protocol { version: 4, base64: false, name: "v4.channel.k8s.io" },
    Protocol { version: 4, base64: true, name: "v4.base64.channel.k8s.io" },
    Protocol { version: 3, base64: false, name: "v3.channel.k8s.io" },
    Protocol { version: 2, base64: false, name: "v2.channel.k8s.io" },
    Protocol { version: 1, base64: false, name: "channel.k8s.io" },
    Protocol { version: 1, base64: true, name: "base64.channel.k8s.io" },
];

/// The best of the offered ones; without an offer the oldest. `None`: only unknown ones were offered.
pub fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Protocol> {
    let offered: Vec<&str> =
        offered.flat_map(|line| line.split(',')).map(str::trim).filter(|n| !n.is_empty()).collect();
    if offered.is_empty() {
        return Some(Protocol { version: 1, base64: false, name: "" });
    }
    PROTOCOLS.into_iter().find(|p| offered.contains(&p.name))
}

impl Protocol {
    /// A message for a channel.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len() * 4 / 3 + 4);
            text.push(char::from(b'0' + channel));
            BASE64.encode_string(data, &mut text);
            Message::text(text)
        } else {
            let mut bytes = BytesMut::with_capacity(1 + data.len());
            bytes.extend_from_slice(&[channel]);
            bytes.extend_from_slice(data);
            Message::Binary(bytes.freeze())
        }
    }

    /// Channel and data of a message; `None` for one that makes no sense.
    pub fn decode(self, message: &Message) -> Option<(u8, Bytes)> {
        match message {
            Message::Binary(bytes) if !self.base64 => Some((*bytes.first()?, bytes.slice(1..))),
            Message::Text(text) if self.base64 => {
                let (channel, data) = text.as_bytes().split_first()?;
                Some((channel.checked_sub(b'0')?, BASE64.decode(data).ok()?.into()))
            }
            // Clients that know better than their subprotocol: text as it is.
            Message::Text(text) => {
                let bytes = Bytes::copy_from_slice(text.as_bytes());
                Some((*bytes.first()?, bytes.slice(1..)))
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => None,
        }
    }

    fn incoming(self, message: &Message) -> Option<Incoming> {
        let (channel, data) = self.decode(message)?;
        match channel {
            STDIN if !data.is_empty() => Some(Incoming::Stdin(data)),
            RESIZE => terminal_size(&data).map(Incoming::Resize),
            CLOSE if self.version >= 5 && data.first() == Some(&STDIN) => Some(Incoming::StdinEnd),
            _ => None,
        }
    }

    fn outgoing(self, out: &Outgoing) -> Vec<Message> {
        match out {
            Outgoing::Stdout(data) => vec![self.encode(STDOUT, data)],
            Outgoing::Stderr(data) => vec![self.encode(STDERR, data)],
            Outgoing::End(end) if self.version >= 4 => vec![self.encode(ERROR, end.status().as_bytes())],
            Outgoing::End(end) => end.text().map(|t| self.encode(ERROR, t.as_bytes())).into_iter().collect(),
        }
    }
}

/// Takes over an upgraded connection.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Carries a session's streams until its end or the client's.
pub async fn serve(
    io: TokioIo<hyper::upgrade::Upgraded>,
    protocol: Protocol,
    wanted: Wanted,
    incoming: mpsc::Sender<Incoming>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let (mut sink, mut stream) = accept(io).await.split();
    // An empty message on each stream that this side writes: so clients know that it is there.
    let opened = [(STDOUT, wanted.stdout), (STDERR, wanted.stderr && !wanted.tty), (ERROR, true)];
    for (channel, _) in opened.into_iter().filter(|(_, wanted)| *wanted) {
        if sink.send(protocol.encode(channel, b"")).await.is_err() {
            return;
        }
    }
    let read = async {
        let mut incoming = Some(incoming);
        // tungstenite answers pings itself, at the next read.
        while let Some(Ok(message)) = stream.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            if let (Some(input), Some(sender)) = (protocol.incoming(&message), &incoming)
                && sender.send(input).await.is_err()
            {
                incoming = None;
            }
        }
    };
    // Both at once: a process that waits for its output to be taken must not keep its input from being read, nor the other way.
    let write = async {
        while let Some(out) = outgoing.recv().await {
            let end = matches!(out, Outgoing::End(_));
            for message in protocol.outgoing(&out) {
                if sink.send(message).await.is_err() {
                    return false;
                }
            }
            if end {
                break;
            }
        }
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(close))).await.is_ok()
    };
    let closing = tokio::select! {
        () = read => false,
        sent = write => sent,
    };
    if closing && let Ok(mut whole) = sink.reunite(stream) {
        // No more follows, and the socket says so too: a client that polls it (Python's does) would otherwise not look at
        // the frames that came with the last piece it read.
        let _ = whole.get_mut().shutdown().await;
        // The client's answer to the close, so that nothing of what was sent is lost in a reset.
        let drained = async { while let Some(Ok(_)) = whole.next().await {} };
        let _ = tokio::time::timeout(LINGER, drained).await;
    }
}

/// Says why a session could not begin, to a client whose connection was upgraded already.
pub async fn refuse(io: TokioIo<hyper::upgrade::Upgraded>, protocol: Protocol, why: String) {
    let (sender, receiver) = mpsc::channel(1);
    let (incoming, _) = mpsc::channel(1);
    let _ = sender.send(Outgoing::End(End::Error(why))).await;
    serve(io, protocol, Wanted::default(), incoming, receiver).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers() {
        for (offered, expected) in [
            (vec![], Some("")),
            (vec!["v5.channel.k8s.io,v4.channel.k8s.io"], Some("v5.channel.k8s.io")),
            (vec!["v4.channel.k8s.io", "v5.channel.k8s.io"], Some("v5.channel.k8s.io")),
            (vec!["base64.channel.k8s.io"], Some("base64.channel.k8s.io")),
            (vec!["channel.k8s.io"], Some("channel.k8s.io")),
            (vec!["unknown"], None),
        ] {
            assert_eq!(choose(offered.iter().copied()).map(|p| p.name), expected, "{offered:?}");
        }
    }

    #[test]
    fn channels() {
        let v5 = PROTOCOLS[0];
        let b64 = PROTOCOLS[2];
        assert_eq!(v5.incoming(&Message::Binary(Bytes::from_static(b"\x00hi"))), Some(Incoming::Stdin("hi".into())));
        assert_eq!(v5.incoming(&Message::Binary(Bytes::from_static(b"\xff\x00"))), Some(Incoming::StdinEnd));
        assert_eq!(
            PROTOCOLS[1].incoming(&Message::Binary(Bytes::from_static(b"\xff\x00"))),
            None,
            "version 4 has no close"
        );
        assert_eq!(v5.incoming(&Message::Binary(Bytes::new())), None);
        assert_eq!(b64.incoming(&Message::text("0aGk=")), Some(Incoming::Stdin("hi".into())));
        assert_eq!(b64.encode(STDOUT, b"hi"), Message::text("1aGk="));
        assert_eq!(v5.encode(STDERR, b"x"), Message::Binary(Bytes::from_static(b"\x02x")));
        assert!(matches!(
            v5.incoming(&Message::Binary(Bytes::from_static(b"\x04{\"Width\":80,\"Height\":24}"))),
            Some(Incoming::Resize(_))
        ));
        assert!(PROTOCOLS[5].outgoing(&Outgoing::End(End::Exit(0))).is_empty(), "the oldest says nothing on success");
        assert_eq!(v5.outgoing(&Outgoing::End(End::Exit(0))).len(), 1);
    }
}
