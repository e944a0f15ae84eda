//! Port-forward: connections to a pod's own loopback, carried by SPDY (plain or inside WebSocket messages) or by WebSocket channels.
//!
//! Source: `k8s.io/kubelet/pkg/cri/streaming/portforward`, `apiserver/pkg/util/proxy/streamtunnel.go`.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming as RequestBody;
use hyper_util::rt::TokioIo;
use runtime::{NetworkNamespace, PodId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::exec::{Upgrade, offered, upgrade, websocket_answer};
use super::query::Query;
use super::spdy::{PROTOCOL_HEADER, refuse_versions, spdy_answer};
use super::{Body, Server, text};
use crate::pod;
use crate::stream::spdy::headers::get;
use crate::stream::spdy::{Stream, serve};
use crate::stream::websocket::{self, Protocol};
use crate::stream::{CHUNK, QUEUE};

const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Channels of one WebSocket: a port has two.
const PORTS_MAX: usize = 64;

/// Where a pod's loopback is.
#[derive(Clone)]
struct Target {
    name: String,
    uid: String,
    netns: Option<PathBuf>,
}

impl Target {
    /// Connects to a port of the pod's loopback. The namespace is entered by a thread of its own: no thread of the async
    /// runtime must ever be elsewhere.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let netns = self.netns.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        let dial = move || -> io::Result<std::net::TcpStream> {
            if let Some(path) = netns {
                let file = std::fs::File::open(path)?;
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
            }
            let addresses =
                [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
            let stream = std::net::TcpStream::connect(addresses[0])
                .or_else(|first| std::net::TcpStream::connect(addresses[1]).map_err(|_| first))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let spawned = std::thread::Builder::new().name("port-forward".into()).spawn(move || {
            let _ = tell.send(dial());
        });
        let result = match spawned {
            Ok(_) => told.await.unwrap_or_else(|_| Err(io::Error::other("the dialling thread died"))),
            Err(e) => Err(e),
        };
        result.and_then(TcpStream::from_std).map_err(|e| {
            format!("failed to connect to localhost:{port} inside namespace \"{}\", IPv4: dial tcp4 127.0.0.1:{port}: connect: {}", self.uid, crate::probe::words(&e))
        })
    }

    fn error(&self, port: u16, why: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid : {why}", self.name)
    }
}

impl Server {
    pub(super) fn port_forward(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        namespace: &str,
        name: &str,
        query: &Query,
    ) -> Response<Body> {
        let snapshot = match self.snapshot(namespace, name) {
            Ok(snapshot) => snapshot,
            Err(response) => return response,
        };
        let uid = pod::uid(&snapshot.pod).to_owned();
        let (server, shown) = (Arc::clone(self), format!("{namespace}/{name}"));
        let target = async move {
            let info = server.host.runtime.pod(&PodId(uid.clone())).await.ok()?;
            let netns = match &info.spec.network {
                NetworkNamespace::Host => None,
                NetworkNamespace::Path(path) => Some(path.clone()),
            };
            Some(Target { name: shown, uid, netns })
        };
        match upgrade(&request) {
            Upgrade::Spdy => {
                let offers = offered(&request, PROTOCOL_HEADER);
                if !offers.is_empty() && !offers.iter().any(|o| o == PORT_FORWARD) {
                    return refuse_versions(&offers, &[PORT_FORWARD]);
                }
                let upgraded = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    if let (Ok(io), Some(target)) = (upgraded.await, target.await) {
                        spdy(TokioIo::new(io), target).await;
                    }
                });
                spdy_answer(PORT_FORWARD)
            }
            Upgrade::WebSocket => {
                let offers = offered(&request, "sec-websocket-protocol");
                if offers.iter().any(|o| o == TUNNEL) {
                    return match websocket_answer(&request, TUNNEL) {
                        Err(response) => response,
                        Ok(response) => {
                            let upgraded = hyper::upgrade::on(&mut request);
                            tokio::spawn(async move {
                                if let (Ok(io), Some(target)) = (upgraded.await, target.await) {
                                    tunnel(TokioIo::new(io), target).await;
                                }
                            });
                            response
                        }
                    };
                }
                let Some(protocol) = websocket::choose(offers.iter().map(String::as_str)) else {
                    return text(
                        StatusCode::BAD_REQUEST,
                        format!("unable to upgrade: unknown subprotocols {offers:?}"),
                    );
                };
                let ports: Vec<u16> = query
                    .all("ports")
                    .iter()
                    .chain(&query.all("port"))
                    .flat_map(|l| l.split(','))
                    .filter_map(|p| p.parse().ok())
                    .collect();
                if ports.is_empty() || ports.len() > PORTS_MAX {
                    return text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required");
                }
                match websocket_answer(&request, protocol.name) {
                    Err(response) => response,
                    Ok(response) => {
                        let upgraded = hyper::upgrade::on(&mut request);
                        tokio::spawn(async move {
                            if let (Ok(io), Some(target)) = (upgraded.await, target.await) {
                                channels(TokioIo::new(io), protocol, target, ports).await;
                            }
                        });
                        response
                    }
                }
            }
            Upgrade::None => text(
                StatusCode::BAD_REQUEST,
                "unable to upgrade: missing upgrade headers in request: Upgrade request required",
            ),
        }
    }
}

/// Pairs of streams, error and data, joined by their request id.
async fn spdy<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S, target: Target) {
    let (accept, mut accepted) = mpsc::channel::<Stream>(QUEUE);
    let served = tokio::spawn(serve(io, accept));
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    while let Some(stream) = accepted.recv().await {
        // Clients older than request ids open the two right after each other.
        let id = get(&stream.headers, "requestid").or(get(&stream.headers, "port")).unwrap_or_default().to_owned();
        let is_error = |s: &Stream| get(&s.headers, "streamtype") == Some("error");
        match waiting.remove(&id) {
            None => {
                waiting.insert(id, stream);
            }
            Some(other) => {
                let (error, data) = if is_error(&other) { (other, stream) } else { (stream, other) };
                tokio::spawn(pair(target.clone(), error, data));
            }
        }
    }
    let _ = served.await;
}

async fn pair(target: Target, error: Stream, mut data: Stream) {
    let port = get(&data.headers, "port").and_then(|p| p.parse::<u16>().ok()).unwrap_or(0);
    match target.connect(port).await {
        Err(why) => {
            error.writer.send(target.error(port, &why).into()).await;
        }
        Ok(socket) => {
            let (mut from, mut to) = socket.into_split();
            let up = async {
                while let Some(bytes) = data.data.recv().await {
                    if to.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                let _ = to.shutdown().await;
            };
            let down = async {
                let mut buffer = vec![0u8; CHUNK];
                while let Ok(n) = from.read(&mut buffer).await {
                    if n == 0 || !data.writer.send(Bytes::copy_from_slice(&buffer[..n])).await {
                        break;
                    }
                }
                data.writer.finish().await;
            };
            tokio::pin!(up, down);
            // The server's end is the connection's; the client's end only closes its half.
            tokio::select! {
                () = &mut down => {}
                () = &mut up => down.await,
            }
        }
    }
    data.writer.finish().await;
    error.writer.finish().await;
}

/// A whole SPDY connection inside binary messages.
async fn tunnel<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S, target: Target) {
    let (mut sink, mut stream) = websocket::accept(io).await.split();
    let (near, far) = tokio::io::duplex(4 * CHUNK);
    let (mut from, mut to) = tokio::io::split(near);
    let up = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) if to.write_all(&bytes).await.is_err() => break,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = to.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0u8; CHUNK];
        while let Ok(n) = from.read(&mut buffer).await {
            if n == 0 || sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                break;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    tokio::join!(spdy(far, target), async { tokio::join!(up, down) });
}

/// Two channels per port: data, then error; each begins with the port.
async fn channels<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: S,
    protocol: Protocol,
    target: Target,
    ports: Vec<u16>,
) {
    let (mut sink, mut stream) = websocket::accept(io).await.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let mut inputs = Vec::new();
    for (i, port) in ports.into_iter().enumerate() {
        let (data, error) = (2 * i as u8, 2 * i as u8 + 1);
        let (input, bytes) = mpsc::channel::<Bytes>(QUEUE);
        inputs.push(input);
        tokio::spawn(one_port(target.clone(), port, (data, error), protocol, bytes, out.clone()));
    }
    drop(out);
    let write = async {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            if let Some((channel, bytes)) = protocol.decode(&message)
                && channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel) / 2)
            {
                let _ = input.send(bytes).await;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

async fn one_port(
    target: Target,
    port: u16,
    (data, error): (u8, u8),
    protocol: Protocol,
    mut input: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Message>,
) {
    for channel in [data, error] {
        let _ = out.send(protocol.encode(channel, &port.to_le_bytes())).await;
    }
    let socket = match target.connect(port).await {
        Ok(socket) => socket,
        Err(why) => {
            let _ = out.send(protocol.encode(error, target.error(port, &why).as_bytes())).await;
            return;
        }
    };
    let (mut from, mut to) = socket.into_split();
    let up = async {
        while let Some(bytes) = input.recv().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0u8; CHUNK];
        while let Ok(n) = from.read(&mut buffer).await {
            if n == 0 || out.send(protocol.encode(data, &buffer[..n])).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
