//! The one body type of requests and responses, over a socket or within the process.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use types::status::Status;

/// Bytes of a request body. Source: apiserver `MaxRequestBodyBytes`.
const BODY_BYTES_MAX: usize = 3 << 20;
/// What is read and dropped of a body that is too long, so that the client hears why before it meets a closed connection.
const BODY_BYTES_DRAINED: usize = 16 << 20;
/// A request has this long to arrive whole. Source: kube-apiserver `--request-timeout` 1m0s.
const BODY_SECONDS: u64 = 60;
/// Why a body could not be read or made to the end.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or response's body. Small ones are one piece of bytes and cost no allocation; streams are boxed.
pub struct Body(Kind);

enum Kind {
    /// `None` once it has been handed out, or empty from the start.
    Full(Option<Bytes>),
    Incoming(Incoming),
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    pub fn empty() -> Self {
        Self(Kind::Full(None))
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }

    pub fn stream(body: impl HttpBody<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Self(Kind::Stream(Box::pin(body)))
    }

    /// A body made of pieces that become ready one after the other.
    pub fn pieces(stream: impl futures_util::Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        use futures_util::StreamExt as _;
        Self::stream(http_body_util::StreamBody::new(stream.map(|piece| piece.map(Frame::data))))
    }

    /// A body whose pieces are all there, sent one after the other.
    pub fn whole(pieces: Vec<Bytes>) -> Self {
        let left = pieces.iter().map(|p| p.len() as u64).sum();
        Self::stream(Whole { pieces: pieces.into(), left })
    }

    /// Keeps `kept` until the body has been read or is dropped; at the latest until `at`, however slowly it is read.
    pub fn keeping(self, kept: impl Send + 'static, at: Instant) -> Self {
        if self.is_end_stream() {
            return self;
        }
        let kept = tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            drop(kept);
        });
        Self::stream(self.holding(Kept(kept.abort_handle())))
    }

    /// The body with something that goes when the body does: read to its end, or abandoned.
    pub fn holding<T>(self, held: T) -> Holding<T> {
        Holding { body: self, _held: held }
    }

    /// The bytes, when the body is one piece that has not been read yet.
    pub fn as_full(&self) -> Option<&Bytes> {
        match &self.0 {
            Kind::Full(bytes) => bytes.as_ref(),
            Kind::Incoming(_) | Kind::Stream(_) => None,
        }
    }

    /// Reads a request's body to its end; `headers` say how long it should be.
    ///
    /// # Errors
    /// 413 for one that is too long, 400 for one that breaks off, 504 for one that does not come in time.
    pub async fn read(self, headers: &HeaderMap) -> Result<Bytes, Status> {
        let whole = tokio::time::timeout(Duration::from_secs(BODY_SECONDS), self.read_whole(headers));
        whole
            .await
            .unwrap_or_else(|_| Err(Status::timeout("Timeout: request did not complete within the allotted timeout")))
    }

    async fn read_whole(mut self, headers: &HeaderMap) -> Result<Bytes, Status> {
        let too_large = || Status::too_large(format!("Request entity too large: limit is {BODY_BYTES_MAX}"));
        if let Some(bytes) = self.as_full() {
            return if bytes.len() > BODY_BYTES_MAX { Err(too_large()) } else { Ok(bytes.clone()) };
        }
        let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut length = 0;
        while let Some(frame) = self.frame().await {
            let frame = frame.map_err(|e| Status::bad_request(format!("error reading the request body: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            if length > BODY_BYTES_DRAINED {
                return Err(too_large());
            }
            if length <= BODY_BYTES_MAX {
                pieces.push(data);
            } else {
                pieces.clear();
            }
        }
        if length > BODY_BYTES_MAX {
            return Err(too_large());
        }
        if announced.is_some_and(|n| n != length) {
            return Err(Status::bad_request("error reading the request body: unexpected EOF"));
        }
        // Small bodies come in one piece, which is not copied.
        match pieces.len() {
            0 => Ok(Bytes::new()),
            1 => Ok(pieces.swap_remove(0)),
            _ => Ok(pieces.concat().into()),
        }
    }
}

struct Kept(AbortHandle);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A [`Body`] that holds something as long as it lives, and is otherwise the same.
pub struct Holding<T> {
    body: Body,
    _held: T,
}

// What is held is never looked at.
impl<T> Unpin for Holding<T> {}

impl<T> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Whole {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |p| p.len() as u64);
        Poll::Ready(piece.map(|p| Ok(Frame::data(p))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self(Kind::Incoming(incoming))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Kind::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_not_waited_for() {
        let body = Body::pieces(futures_util::stream::pending());
        let refused = body.read(&HeaderMap::new()).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (504, "Timeout: request did not complete within the allotted timeout")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_given_back_though_nobody_reads() {
        let kept = std::sync::Arc::new(());
        let at = Instant::now() + Duration::from_secs(60);
        let body = |kept| Body::pieces(futures_util::stream::pending()).keeping(kept, at);
        let (dropped, slow) = (body(kept.clone()), body(kept.clone()));
        assert_eq!(std::sync::Arc::strong_count(&kept), 3);
        drop(dropped);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(std::sync::Arc::strong_count(&kept), 2);
        tokio::time::sleep_until(at + Duration::from_secs(1)).await;
        assert_eq!(std::sync::Arc::strong_count(&kept), 1);
        drop(slow);
    }
}
