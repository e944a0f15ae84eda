//! exec and attach over SPDY/3.1: each stream is named by its `streamType` header.
//! Source: `k8s.io/kubelet/pkg/cri/streaming/remotecommand/httpstream.go`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming as RequestBody;
use hyper_util::rt::TokioIo;
use runtime::Session;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::exec::offered;
use super::{Body, text};
use crate::stream::spdy::headers::get;
use crate::stream::spdy::{Stream, Writer, serve};
use crate::stream::{End, Incoming, Outgoing, QUEUE, Wanted, session, terminal_size};

/// How long all of a client's streams may take to appear. Source: `DefaultStreamCreationTimeout`.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
pub(super) const PROTOCOL_HEADER: &str = "x-stream-protocol-version";
const VERSIONS: [(&str, u8); 4] =
    [("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3), ("v2.channel.k8s.io", 2), ("channel.k8s.io", 1)];

/// The answer that turns the connection into SPDY.
pub(super) fn spdy_answer(protocol: &str) -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.remove("content-type");
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    if let Ok(protocol) = HeaderValue::from_str(protocol)
        && !protocol.is_empty()
    {
        headers.insert(PROTOCOL_HEADER, protocol);
    }
    response
}

/// The client's first offer that is spoken here; a client without offers is of the first version.
fn negotiate(offers: &[String]) -> Option<(&'static str, u8)> {
    if offers.is_empty() {
        return Some(("", 1));
    }
    offers.iter().find_map(|o| VERSIONS.into_iter().find(|(name, _)| name == o))
}

pub(super) fn refuse_versions(offers: &[String], accepted: &[&str]) -> Response<Body> {
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {offers:?}, server accepts {accepted:?}"
    );
    let mut response = text(StatusCode::FORBIDDEN, message);
    for name in accepted {
        if let Ok(value) = HeaderValue::from_str(name) {
            response.headers_mut().append("x-accepted-stream-protocol-versions", value);
        }
    }
    response
}

pub(super) fn upgrade_exec(
    mut request: Request<RequestBody>,
    wanted: Wanted,
    begin: impl Future<Output = runtime::Result<Session>> + Send + 'static,
) -> Response<Body> {
    let offers = offered(&request, PROTOCOL_HEADER);
    let Some((name, version)) = negotiate(&offers) else {
        return refuse_versions(&offers, &VERSIONS.map(|(name, _)| name));
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(io) = upgraded.await {
            run(TokioIo::new(io), version, wanted, begin).await;
        }
    });
    spdy_answer(name)
}

#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn complete(&self, wanted: Wanted, version: u8) -> bool {
        self.error.is_some()
            && (!wanted.stdin || self.stdin.is_some())
            && (!wanted.stdout || self.stdout.is_some())
            && (!wanted.stderr || self.stderr.is_some())
            && (!wanted.tty || version < 3 || self.resize.is_some())
    }
}

/// Serves one session on an upgraded connection.
async fn run<S>(io: S, version: u8, wanted: Wanted, begin: impl Future<Output = runtime::Result<Session>> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (accept, mut accepted) = mpsc::channel::<Stream>(QUEUE);
    let served = tokio::spawn(serve(io, accept));
    let mut streams = Streams::default();
    let all = async {
        while !streams.complete(wanted, version) {
            let Some(stream) = accepted.recv().await else { return false };
            match get(&stream.headers, "streamtype") {
                Some("error") => streams.error = Some(stream),
                Some("stdin") => streams.stdin = Some(stream),
                Some("stdout") => streams.stdout = Some(stream),
                Some("stderr") => streams.stderr = Some(stream),
                Some("resize") => streams.resize = Some(stream),
                Some(_) | None => {}
            }
        }
        true
    };
    if !tokio::time::timeout(STREAMS_WITHIN, all).await.unwrap_or(false) {
        return;
    }
    match begin.await {
        Ok(session) => {
            let (to_session, incoming) = mpsc::channel(QUEUE);
            let (outgoing, from_session) = mpsc::channel(QUEUE);
            tokio::join!(
                session::pump(session, incoming, outgoing, wanted.leaves),
                carry(&mut streams, version, to_session, from_session)
            );
        }
        Err(e) => finish(&streams, version, &End::Error(e.to_string())).await,
    }
    // With the streams the connection's last users go; it closes when everything is written.
    drop(streams);
    drop(accepted);
    let _ = served.await;
}

/// Between the streams and the session, until the session has ended or the connection is gone.
async fn carry(
    streams: &mut Streams,
    version: u8,
    to_session: mpsc::Sender<Incoming>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let mut stdin = streams.stdin.as_mut().map(|s| &mut s.data);
    let mut resize = streams.resize.as_mut().map(|s| &mut s.data);
    let stdout = streams.stdout.as_ref().map(|s| s.writer.clone());
    let stderr = streams.stderr.as_ref().map(|s| s.writer.clone());
    let gone = streams.error.as_ref().map(|s| s.writer.clone());
    let input = async {
        if let Some(stdin) = &mut stdin {
            while let Some(bytes) = stdin.recv().await {
                if to_session.send(Incoming::Stdin(bytes)).await.is_err() {
                    break;
                }
            }
            let _ = to_session.send(Incoming::StdinEnd).await;
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if let Some(resize) = &mut resize {
            while let Some(bytes) = resize.recv().await {
                // Several sizes may come in one piece; each is an object of its own.
                for text in bytes.split_inclusive(|b| *b == b'}') {
                    if let Some(size) = terminal_size(text.trim_ascii()) {
                        let _ = to_session.send(Incoming::Resize(size)).await;
                    }
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let send = async |writer: &Option<Writer>, data: Bytes| match writer {
        Some(writer) => writer.send(data).await,
        None => true,
    };
    let output = async {
        while let Some(out) = outgoing.recv().await {
            let open = match out {
                Outgoing::Stdout(data) => send(&stdout, data).await,
                Outgoing::Stderr(data) => send(&stderr, data).await,
                Outgoing::End(end) => return Some(end),
            };
            if !open {
                return None;
            }
        }
        None
    };
    let closed = async {
        match &gone {
            Some(writer) => writer.closed().await,
            None => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        () = input => None,
        () = sizes => None,
        () = closed => None,
        end = output => end,
    };
    if let Some(end) = end {
        finish(streams, version, &end).await;
    }
}

/// The last word on the error stream, and the ends of all of this side's halves.
async fn finish(streams: &Streams, version: u8, end: &End) {
    for stream in [&streams.stdout, &streams.stderr].into_iter().flatten() {
        stream.writer.finish().await;
    }
    if let Some(error) = &streams.error {
        let text = if version >= 4 { Some(end.status()) } else { end.text() };
        if let Some(text) = text {
            error.writer.send(text.into()).await;
        }
        error.writer.finish().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let offers = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(negotiate(&offers(&["v5.channel.k8s.io", "v4.channel.k8s.io"])), Some(("v4.channel.k8s.io", 4)));
        assert_eq!(negotiate(&offers(&["channel.k8s.io"])), Some(("channel.k8s.io", 1)));
        assert_eq!(negotiate(&[]), Some(("", 1)));
        assert_eq!(negotiate(&offers(&["x"])), None);
    }
}
