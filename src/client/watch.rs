//! A watch's answer: one JSON object per line, each a type and an object that stays undecoded until its reader wants it.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use types::status::Status;

use crate::transport::{Body, TransportError};
use crate::{Error, Result};

/// Longest line: an object may have 3 MiB as a request body; its event adds managed fields and framing.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

/// One event.
#[derive(Debug)]
pub struct WatchEvent {
    pub event: EventType,
    /// The object's JSON within the line.
    object: Bytes,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    event: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl WatchEvent {
    /// The object's JSON text.
    pub fn object(&self) -> &str {
        str::from_utf8(&self.object).unwrap_or_default()
    }
    pub fn decode<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.object())
    }
}

/// Reads events off an open body. Dropping it ends the watch.
#[derive(Debug)]
pub struct WatchStream {
    path: String,
    body: Body,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    scanned: usize,
}

impl WatchStream {
    pub fn new(path: String, body: Body) -> Self {
        Self { path, body, buffer: BytesMut::new(), scanned: 0 }
    }

    /// The next event; `None` when the server ended the watch, as it does after its time limit.
    ///
    /// # Errors
    /// An ERROR event becomes [`Error::Status`]; a lost connection or a line that is no event ends the watch too.
    ///
    /// Cancel safe: what was read stays buffered.
    pub async fn next(&mut self) -> Option<Result<WatchEvent>> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Some(self.parse(line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Some(Err(self.lost(TransportError::TooLarge(LINE_BYTES_MAX))));
            }
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Err(source) => return Some(Err(self.lost(TransportError::Lost(source)))),
            }
        }
    }

    fn lost(&self, source: TransportError) -> Error {
        Error::Transport { path: self.path.clone(), source }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        match memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
            Some(at) => {
                let line = self.buffer.split_to(self.scanned + at + 1).freeze();
                self.scanned = 0;
                Some(line)
            }
            None => {
                self.scanned = self.buffer.len();
                // An idle watch holds no memory.
                if self.buffer.is_empty() && self.buffer.capacity() > 0 {
                    self.buffer = BytesMut::new();
                }
                None
            }
        }
    }

    fn parse(&self, line: Bytes) -> Result<WatchEvent> {
        let bad = |source| Error::Decode { path: self.path.clone(), source };
        let head: Line<'_> = serde_json::from_slice(&line).map_err(bad)?;
        let event = match &*head.event {
            "ADDED" => EventType::Added,
            "MODIFIED" => EventType::Modified,
            "DELETED" => EventType::Deleted,
            "BOOKMARK" => EventType::Bookmark,
            "ERROR" => {
                let status: Status = serde_json::from_str(head.object.get()).map_err(bad)?;
                return Err(status.into());
            }
            other => {
                let why = format!("unknown watch event type {other:?}");
                return Err(bad(serde::de::Error::custom(why)));
            }
        };
        let object = line.slice_ref(head.object.get().as_bytes());
        Ok(WatchEvent { event, object })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    fn stream_of(parts: &[&'static str]) -> WatchStream {
        let frames: Vec<_> = parts.iter().map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes())))).collect();
        WatchStream::new("/test".into(), StreamBody::new(stream::iter(frames)).boxed_unsync())
    }

    #[tokio::test]
    async fn lines_may_be_cut_anywhere() {
        let text = "{\"type\":\"ADDED\",\"object\":{\"a\":1}}\n\n{\"type\":\"BOOKMARK\",\"object\":{}}\n";
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            let mut s = stream_of(&[a, b]);
            let first = s.next().await.unwrap().unwrap();
            assert_eq!((first.event, first.object()), (EventType::Added, "{\"a\":1}"), "cut at {cut}");
            assert_eq!(s.next().await.unwrap().unwrap().event, EventType::Bookmark);
            assert!(s.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn errors_end_it() {
        let mut s = stream_of(&[
            "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"status\":\"Failure\",\"reason\":\"Expired\",\"code\":410}}\n",
        ]);
        assert!(s.next().await.unwrap().unwrap_err().is_expired());
        let mut s = stream_of(&["{\"type\":\"NEW\",\"object\":{}}\n"]);
        assert!(matches!(s.next().await, Some(Err(Error::Decode { .. }))));
        let mut s = stream_of(&["nonsense\n"]);
        assert!(matches!(s.next().await, Some(Err(Error::Decode { .. }))));
    }
}
