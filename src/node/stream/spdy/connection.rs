//! A connection on which the client opens streams: frames in, streams out, and a writer that streams share.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::frame::{Frame, decode, encode};
use super::headers::{Deflater, Headers, Inflater};
use crate::stream::{CHUNK, QUEUE};

/// Streams open at once on one connection: a port-forward opens two per connection to the port.
const STREAMS_MAX: usize = 1024;
/// How long the client may take to close its side after the last frame.
const LINGER: Duration = Duration::from_secs(10);

/// A stream that the client has opened.
pub struct Stream {
    pub headers: Headers,
    /// What the client sends; ends with its half.
    pub data: mpsc::Receiver<Bytes>,
    pub writer: Writer,
}

/// This side's half of a stream. Dropping it leaves the half open; [`Writer::finish`] ends it.
#[derive(Clone)]
pub struct Writer {
    id: u32,
    out: mpsc::Sender<Frame>,
}

impl Writer {
    /// False when the connection is gone. Waits while the client is slow.
    pub async fn send(&self, data: Bytes) -> bool {
        for at in (0..data.len()).step_by(CHUNK) {
            let piece = data.slice(at..data.len().min(at + CHUNK));
            if self.out.send(Frame::Data { stream: self.id, data: piece, fin: false }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Nothing more comes from this side.
    pub async fn finish(&self) {
        let _ = self.out.send(Frame::Data { stream: self.id, data: Bytes::new(), fin: true }).await;
    }

    /// Waits until the connection is gone.
    pub async fn closed(&self) {
        self.out.closed().await;
    }
}

/// Runs a connection until either side ends it. New streams go to `accept`; when its receiver and all writers are gone, the
/// connection is closed after everything was written. Errors: the connection broke, or the client does not speak SPDY.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(io: S, accept: mpsc::Sender<Stream>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (out, mut frames) = mpsc::channel::<Frame>(QUEUE);
    let write = async {
        let mut deflater = Deflater::new();
        while let Some(frame) = frames.recv().await {
            let mut bytes = BytesMut::new();
            encode(&frame, &mut deflater, &mut bytes);
            writer.write_all(&bytes).await?;
            if frames.is_empty() {
                writer.flush().await?;
            }
        }
        let mut bytes = BytesMut::new();
        encode(&Frame::GoAway { last: 0, status: 0 }, &mut deflater, &mut bytes);
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        writer.shutdown().await
    };
    // The reader gives its sender up when nobody wants streams any more, so that the writer can end.
    let read = read(&mut reader, accept, out);
    tokio::pin!(write);
    tokio::select! {
        result = read => {
            result?;
            // What is queued still goes out.
            tokio::time::timeout(LINGER, write).await.unwrap_or(Ok(()))
        }
        result = &mut write => result,
    }
}

async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    accept: mpsc::Sender<Stream>,
    out: mpsc::Sender<Frame>,
) -> io::Result<()> {
    let mut inflater = Inflater::new();
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut out = Some(out);
    let mut accepting = true;
    loop {
        while let Some(frame) = decode(&mut buffer, &mut inflater).map_err(io::Error::other)? {
            match frame {
                Frame::SynStream { stream, headers, fin } => {
                    let Some(out) = out.as_ref().filter(|_| streams.len() < STREAMS_MAX) else { continue };
                    let (sender, data) = mpsc::channel(QUEUE);
                    if !fin {
                        streams.insert(stream, sender);
                    }
                    let _ = out.send(Frame::SynReply { stream, headers: Vec::new(), fin: false }).await;
                    let new = Stream { headers, data, writer: Writer { id: stream, out: out.clone() } };
                    if accept.send(new).await.is_err() {
                        streams.remove(&stream);
                    }
                }
                Frame::Data { stream, data, fin } => {
                    if let Some(sender) = streams.get(&stream)
                        && !data.is_empty()
                        && sender.send(data).await.is_err()
                    {
                        streams.remove(&stream);
                    }
                    if fin {
                        streams.remove(&stream);
                    }
                }
                Frame::Rst { stream, .. } => {
                    streams.remove(&stream);
                }
                Frame::Ping(id) => {
                    if let Some(out) = &out {
                        let _ = out.send(Frame::Ping(id)).await;
                    }
                }
                Frame::GoAway { .. } => return Ok(()),
                Frame::SynReply { .. } | Frame::Headers { .. } | Frame::Other => {}
            }
        }
        tokio::select! {
            read = reader.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            () = accept.closed(), if accepting => {
                accepting = false;
                out = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's side of a connection, by hand.
    struct Client<S> {
        io: S,
        deflater: Deflater,
        inflater: Inflater,
        buffer: BytesMut,
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
        fn new(io: S) -> Self {
            Client { io, deflater: Deflater::new(), inflater: Inflater::new(), buffer: BytesMut::new() }
        }
        async fn send(&mut self, frame: Frame) {
            let mut bytes = BytesMut::new();
            encode(&frame, &mut self.deflater, &mut bytes);
            self.io.write_all(&bytes).await.unwrap();
        }
        async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = decode(&mut self.buffer, &mut self.inflater).unwrap() {
                    return Some(frame);
                }
                if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                    return None;
                }
            }
        }
    }

    #[tokio::test]
    async fn streams_echo_and_the_connection_ends() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let (accept, mut accepted) = mpsc::channel(1);
        let served = tokio::spawn(serve(a, accept));
        let echo = tokio::spawn(async move {
            let mut stream = accepted.recv().await.unwrap();
            assert_eq!(super::super::headers::get(&stream.headers, "streamType"), Some("data"));
            while let Some(data) = stream.data.recv().await {
                assert!(stream.writer.send(data).await);
            }
            stream.writer.finish().await;
        });
        let mut client = Client::new(b);
        client
            .send(Frame::SynStream { stream: 1, headers: vec![("streamType".into(), "data".into())], fin: false })
            .await;
        assert_eq!(client.next().await, Some(Frame::SynReply { stream: 1, headers: vec![], fin: false }));
        client.send(Frame::Ping(9)).await;
        assert_eq!(client.next().await, Some(Frame::Ping(9)));
        client.send(Frame::Data { stream: 1, data: "hi".into(), fin: false }).await;
        assert_eq!(client.next().await, Some(Frame::Data { stream: 1, data: "hi".into(), fin: false }));
        client.send(Frame::Data { stream: 1, data: "".into(), fin: true }).await;
        assert_eq!(client.next().await, Some(Frame::Data { stream: 1, data: "".into(), fin: true }));
        echo.await.unwrap();
        assert!(matches!(client.next().await, Some(Frame::GoAway { .. })));
        assert_eq!(client.next().await, None);
        served.await.unwrap().unwrap();
    }
}
