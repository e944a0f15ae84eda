//! gRPC without a gRPC library: one unary call over a connection of its own, and the bytes of its messages ([`message`]).
//!
//! What never lives here: streams, a pool, retries. Whoever calls knows what its messages mean and whether to call again.
//!
//! Source: gRPC over HTTP2 (`doc/PROTOCOL-HTTP2.md`), `doc/statuscodes.md`.

pub mod message;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// Largest answer. Source: gRPC's default for what a client receives.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// One type for every kind of connection, so that there is one HTTP/2 client in the binary.
pub type Stream = Box<dyn Connection>;

pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// How a call failed. Source: gRPC `doc/statuscodes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    pub const CANCELLED: Code = Code(1);
    pub const UNKNOWN: Code = Code(2);
    pub const DEADLINE_EXCEEDED: Code = Code(4);
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    pub const ABORTED: Code = Code(10);
    pub const UNIMPLEMENTED: Code = Code(12);
    pub const INTERNAL: Code = Code(13);
    pub const UNAVAILABLE: Code = Code(14);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 17] = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
            "DataLoss",
            "Unauthenticated",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "Code({})", self.0),
        }
    }
}

/// The texts are those of Go's client: people search for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code} desc = {message}")]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into() }
    }

    /// Whether the call is over on the other side too: what it began is not going on, so that it may be undone.
    /// Source: `isFinalError` in `pkg/volume/csi/csi_client.go`.
    pub fn is_final(&self) -> bool {
        !matches!(
            self.code,
            Code::CANCELLED | Code::DEADLINE_EXCEEDED | Code::UNAVAILABLE | Code::RESOURCE_EXHAUSTED | Code::ABORTED
        )
    }
}

/// Connects to a socket and calls `method` (`/package.Service/Method`) there.
///
/// # Errors
/// What the other side says, or that it cannot be reached (`Unavailable`) or takes longer than `within` (`DeadlineExceeded`).
pub async fn call(socket: &Path, method: &str, message: Vec<u8>, within: Duration) -> Result<Bytes, Status> {
    let attempt = async {
        let stream = UnixStream::connect(socket).await.map_err(|e| {
            let dial = format!("dial unix {}: connect: {}", socket.display(), crate::probe::words(&e));
            Status::new(
                Code::UNAVAILABLE,
                format!("connection error: desc = \"transport: Error while dialing: {dial}\""),
            )
        })?;
        unary(Box::new(stream), "localhost", "grpc-kedge", method, message, within).await
    };
    match tokio::time::timeout(within, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Status::new(Code::DEADLINE_EXCEEDED, "context deadline exceeded")),
    }
}

/// Calls over a connection that is there, and closes it. `within` is told to the other side; to wait no longer is the
/// caller's part.
///
/// # Errors
/// As [`call`].
pub async fn unary(
    stream: Stream,
    authority: &str,
    agent: &str,
    method: &str,
    message: Vec<u8>,
    within: Duration,
) -> Result<Bytes, Status> {
    let broken = |e: hyper::Error| Status::new(Code::UNAVAILABLE, format!("error reading from server: {e}"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with the sender.
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{authority}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", within.as_millis().min(99_999_999)))
        .header("user-agent", agent)
        .body(Full::new(framed(&message)))
        .map_err(|e| Status::new(Code::INTERNAL, e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        let text = format!("unexpected HTTP status code received from server: {}", head.status);
        return Err(Status::new(Code::UNKNOWN, text));
    }
    let collected = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| Status::new(Code::UNAVAILABLE, format!("error reading from server: {e}")))?;
    // An answer without a message has its status in front.
    let said = collected.trailers().and_then(status).or_else(|| status(&head.headers));
    match said {
        Some(Status { code: Code(0), .. }) => unframed(collected.to_bytes()),
        Some(failure) => Err(failure),
        None => Err(Status::new(Code::INTERNAL, "server closed the stream without sending trailers")),
    }
}

fn status(headers: &HeaderMap) -> Option<Status> {
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|s| s.parse().ok()).map_or(Code::UNKNOWN, Code);
    Some(Status { code, message: headers.get("grpc-message").map(|m| decoded(&text(m))).unwrap_or_default() })
}

/// The percent-encoding of messages.
fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            (other, _) => {
                out.push(*other);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A message as it goes over the wire: uncompressed, with its length.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0u8];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

fn unframed(frame: Bytes) -> Result<Bytes, Status> {
    match *frame {
        [0, a, b, c, d, ..] if frame.len() - 5 == u32::from_be_bytes([a, b, c, d]) as usize => Ok(frame.slice(5..)),
        [1, ..] => Err(Status::new(Code::UNIMPLEMENTED, "the answer is compressed, which was not asked for")),
        _ => Err(Status::new(Code::INTERNAL, "the answer is no single message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_texts() {
        assert_eq!(framed(b"ab")[..], [0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(unframed(framed(b"ab")).unwrap()[..], *b"ab");
        for bad in [&b""[..], b"\0\0\0\0\x02a", b"\0\0\0\0\0a", b"\x01\0\0\0\0"] {
            assert!(unframed(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        assert_eq!(decoded("a%20b%C3%A4%zz%"), "a bä%zz%");
        let status = Status::new(Code::UNAVAILABLE, "gone");
        assert_eq!(status.to_string(), "rpc error: code = Unavailable desc = gone");
        assert!(!status.is_final() && Status::new(Code::INTERNAL, "").is_final());
        assert_eq!(Code(99).to_string(), "Code(99)");
    }

    #[tokio::test]
    async fn nobody_listens() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let failure = call(&socket, "/a.B/C", Vec::new(), Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(failure.code, Code::UNAVAILABLE);
        assert!(failure.message.ends_with("connect: connection refused\""), "{failure}");
    }
}
