//! `exec`: a command in a container, over a WebSocket; with `-it` the terminal is the command's.
//!
//! Source: KEP-4006 (`v5.channel.k8s.io`: channels 0 to 4 and CLOSE 255), kubectl `pkg/cmd/exec`.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use client::api::Query;
use client::https::Endpoint;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use types::status::Status;

use crate::failure::{Exit, usage};
use crate::manifest::text;
use crate::session::Session;
use crate::{logs, terminal};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Standard input is sent in pieces of so many bytes: a page's worth of typing, a fair size for a pipe.
const PIECE_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, Args)]
pub struct Exec {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD")]
    pub pod: Option<String>,
    /// Command and arguments, after --
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<String>,
    /// This container
    #[arg(long, short = 'c', default_value = "", hide_default_value = true)]
    pub container: String,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Say nothing but what the command says
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

pub async fn run(session: &Session, exec: &Exec) -> Result<()> {
    let Some(word) = &exec.pod else {
        return Err(usage("pod, type/name or --filename must be specified"));
    };
    if exec.command.is_empty() {
        return Err(usage("you must specify at least one command for the container"));
    }
    let pod = logs::one_pod(session, word, logs::ATTACH).await?.0;
    let phase = text(&pod.object, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") {
        anyhow::bail!("cannot exec into a container in a completed pod; current phase is {phase}");
    }
    let container = match exec.container.as_str() {
        "" => logs::default_container(session, &pod, exec.quiet),
        named => {
            let known = logs::container_names(&pod.object).iter().any(|n| n == named);
            anyhow::ensure!(known, "{}", logs::no_container(&pod, named));
            named.to_owned()
        }
    };
    let mut query = Query::default();
    for word in &exec.command {
        query.push("command", word);
    }
    query.push("container", &container);
    let ask = Ask::of(session, exec.stdin, exec.tty);
    let status = stream(session, &format!("{}/exec", pod.path()), query, ask, Ends::default()).await?;
    finish(session, &status)
}

/// Runs a command in a container between two queues: what it reads, and where what it writes goes.
pub async fn piped(session: &Session, pod: &str, container: &str, command: &[&str], ends: Ends) -> Result<Vec<u8>> {
    let mut query = Query::default();
    for word in command {
        query.push("command", word);
    }
    if !container.is_empty() {
        query.push("container", container);
    }
    let ask = Ask { stdin: ends.input.is_some(), tty: false };
    stream(session, &format!("{pod}/exec"), query, ask, ends).await
}

/// What stands for the standard streams; without, they are this process's own.
#[derive(Debug, Default)]
pub struct Ends {
    pub input: Option<mpsc::Receiver<Bytes>>,
    pub output: Option<mpsc::Sender<Bytes>>,
    /// Says nothing of what the command writes to its standard error.
    pub quiet: bool,
}

/// Which streams are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    stdin: bool,
    tty: bool,
}

impl Ask {
    /// A terminal is asked for only where there is one here to stand for it.
    pub fn of(session: &Session, stdin: bool, tty: bool) -> Self {
        let has_terminal = terminal::is_one();
        if tty && stdin && !has_terminal {
            session.note("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        Self { stdin, tty: tty && stdin && has_terminal }
    }

    pub fn is_interactive(self) -> bool {
        self.tty
    }
}

/// Streams of `exec` and `attach`, until the far end closes; returns the status that it ends with.
pub async fn stream(session: &Session, path: &str, mut query: Query, ask: Ask, ends: Ends) -> Result<Vec<u8>> {
    for (flag, name) in [(ask.stdin, "stdin"), (true, "stdout"), (!ask.tty, "stderr"), (ask.tty, "tty")] {
        if flag {
            query.push(name, "true");
        }
    }
    let endpoint = session.endpoint.as_ref().context("no connection that can be upgraded")?;
    let mut socket = dial(endpoint, &session.impersonation, &query.on(path), PROTOCOL).await?;
    let raw = if ask.tty { Some(terminal::Raw::enter().context("set the terminal up")?) } else { None };
    let result = talk(session, ask, ends, &mut socket).await;
    drop(raw);
    let _ = socket.close(None).await;
    result
}

/// The command's end as the server tells it: success, an exit code, or why it could not run.
pub fn finish(session: &Session, status: &[u8]) -> Result<()> {
    if status.is_empty() {
        return Ok(());
    }
    let status: Status = match serde_json::from_slice(status) {
        Ok(status) => status,
        Err(_) => anyhow::bail!("{}", String::from_utf8_lossy(status).trim()),
    };
    if status.status == "Success" {
        return Ok(());
    }
    let causes = status.details.as_deref().map(|d| d.causes.as_slice()).unwrap_or_default();
    let code = causes.iter().find(|c| c.reason == "ExitCode").and_then(|c| c.message.parse::<i32>().ok());
    match code {
        Some(code) => {
            session.note(format!("command terminated with exit code {code}"));
            Err(Exit(u8::try_from(code).unwrap_or(1)).into())
        }
        None => anyhow::bail!("{}", status.message),
    }
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// A WebSocket to the API server that speaks `protocol`.
pub async fn dial(
    endpoint: &Endpoint,
    headers: &http::HeaderMap,
    path: &str,
    protocol: &'static str,
) -> Result<Socket> {
    let uri: http::Uri = format!("{}{path}", endpoint.base).parse().context("form the request")?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|e| anyhow::anyhow!("Unable to connect to the server: {e}"))?;
    tcp.set_nodelay(true)?;
    let stream: Box<dyn Stream> = if secure {
        let name = match &endpoint.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host).context("server's name")?,
        };
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(&endpoint.tls));
        Box::new(tls.connect(name, tcp).await.map_err(|e| anyhow::anyhow!("Unable to connect to the server: {e}"))?)
    } else {
        Box::new(tcp)
    };
    let target = uri.to_string().replacen("http", "ws", 1);
    let mut request = target.into_client_request().context("form the request")?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Some(authorization) = &endpoint.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    request.headers_mut().extend(headers.clone());
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => {
            let code = answer.status();
            let body = answer.body().clone().unwrap_or_default();
            match serde_json::from_slice::<Status>(&body) {
                Ok(status) => Err(client::Error::from(status).into()),
                Err(_) => {
                    anyhow::bail!("unable to upgrade connection: {code} {}", String::from_utf8_lossy(&body).trim())
                }
            }
        }
        Err(error) => Err(error).context("unable to upgrade connection"),
    }
}

/// Carries bytes both ways until the command ends; the status that the server sends last. Neither way waits for the other:
/// a command that writes before it has read everything is not held up by what it is sent.
async fn talk(session: &Session, ask: Ask, ends: Ends, socket: &mut Socket) -> Result<Vec<u8>> {
    let Ends { input, output, quiet } = ends;
    let (sink, messages) = socket.split();
    let sending = send(ask, input, sink);
    let receiving = receive(session, output, quiet, messages);
    tokio::pin!(sending, receiving);
    let mut sends = true;
    loop {
        tokio::select! {
            status = &mut receiving => return status,
            // A command that has ended takes no more; how it ended is still to come.
            _ = &mut sending, if sends => sends = false,
        }
    }
}

async fn receive(
    session: &Session,
    output: Option<mpsc::Sender<Bytes>>,
    quiet: bool,
    mut messages: SplitStream<&mut Socket>,
) -> Result<Vec<u8>> {
    let mut status = Vec::new();
    loop {
        match messages.next().await {
            Some(Ok(Message::Binary(data))) => match data.split_first() {
                Some((&STDOUT, rest)) => match &output {
                    None => session.print_bytes(rest)?,
                    // Whoever reads has gone for a reason of their own, which they tell.
                    Some(output) => {
                        if output.send(data.slice_ref(rest)).await.is_err() {
                            return Ok(status);
                        }
                    }
                },
                Some((&STDERR, rest)) if !quiet => session.note_bytes(rest),
                Some((&ERROR, rest)) => status.extend_from_slice(rest),
                _ => {}
            },
            Some(Ok(Message::Close(_))) | None => return Ok(status),
            Some(Ok(_)) => {}
            // After the status, how the connection ends does not matter.
            Some(Err(_)) if !status.is_empty() => return Ok(status),
            Some(Err(error)) => return Err(error).context("the connection was lost"),
        }
    }
}

/// Sends what there is to be read, its end, and the terminal's sizes.
async fn send(
    ask: Ask,
    mut input: Option<mpsc::Receiver<Bytes>>,
    mut sink: SplitSink<&mut Socket, Message>,
) -> Result<()> {
    let mut stdin = tokio::io::stdin();
    let mut reading = ask.stdin;
    let mut piece = vec![0u8; PIECE_BYTES];
    let mut resized = signal(SignalKind::window_change())?;
    if ask.tty {
        resize(&mut sink).await?;
    }
    while reading || ask.tty {
        let next = async {
            match &mut input {
                Some(input) => input.recv().await.unwrap_or_default(),
                None => match stdin.read(&mut piece).await {
                    Ok(n) => Bytes::copy_from_slice(&piece[..n]),
                    Err(_) => Bytes::new(),
                },
            }
        };
        tokio::select! {
            bytes = next, if reading => {
                reading = !bytes.is_empty();
                let message = if reading { [&[STDIN], &bytes[..]].concat() } else { vec![CLOSE, STDIN] };
                sink.send(Message::binary(message)).await?;
            }
            Some(()) = resized.recv(), if ask.tty => resize(&mut sink).await?,
        }
    }
    Ok(())
}

async fn resize(sink: &mut SplitSink<&mut Socket, Message>) -> Result<()> {
    let Some((width, height)) = terminal::size() else { return Ok(()) };
    let body: Value = json!({"Width": width, "Height": height});
    let message = [&[RESIZE], body.to_string().as_bytes()].concat();
    sink.send(Message::binary(message)).await.context("the connection was lost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn finished(status: &str) -> (Vec<String>, u8, String) {
        let err = Rc::new(RefCell::new(Vec::new()));
        let client = client::fake::Fake::new(client::Clock::system()).client();
        let session = Session::test(client, Rc::default(), Rc::clone(&err));
        let (lines, code) = match finish(&session, status.as_bytes()) {
            Ok(()) => (Vec::new(), 0),
            Err(error) => crate::failure::report(&error),
        };
        let noted = String::from_utf8(err.borrow().clone()).unwrap();
        (lines, code, noted)
    }

    /// A command that echoes: it writes what it reads, and is held up while nobody reads what it has written.
    #[tokio::test]
    async fn large_streams_go_both_ways_at_once() {
        const PIECES: usize = 400;
        let (here, there) = tokio::io::duplex(8 * 1024);
        let far = tokio::spawn(async move {
            let role = tungstenite::protocol::Role::Server;
            let mut socket = WebSocketStream::from_raw_socket(there, role, None).await;
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(data) if data.first() == Some(&STDIN) => {
                        let echo = [&[STDOUT], &data[1..]].concat();
                        socket.send(Message::binary(echo)).await.unwrap();
                    }
                    Message::Binary(data) if data[..] == [CLOSE, STDIN] => break,
                    _ => {}
                }
            }
            let status = [&[ERROR], &br#"{"status":"Success"}"#[..]].concat();
            socket.send(Message::binary(status)).await.unwrap();
            socket.close(None).await.unwrap();
        });
        let role = tungstenite::protocol::Role::Client;
        let near: Box<dyn Stream> = Box::new(here);
        let mut socket = WebSocketStream::from_raw_socket(near, role, None).await;
        let (input, pieces) = mpsc::channel(4);
        let (output, mut echoed) = mpsc::channel::<Bytes>(4);
        let piece = Bytes::from(vec![b'x'; PIECE_BYTES]);
        tokio::spawn(async move {
            for _ in 0..PIECES {
                input.send(piece.clone()).await.unwrap();
            }
        });
        let counted = tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(piece) = echoed.recv().await {
                bytes += piece.len();
            }
            bytes
        });
        let client = client::fake::Fake::new(client::Clock::system()).client();
        let session = Session::test(client, Rc::default(), Rc::default());
        let ends = Ends { input: Some(pieces), output: Some(output), quiet: true };
        let talk = talk(&session, Ask { stdin: true, tty: false }, ends, &mut socket);
        let status = tokio::time::timeout(std::time::Duration::from_secs(60), talk).await.unwrap().unwrap();
        assert_eq!(status, br#"{"status":"Success"}"#);
        assert_eq!(counted.await.unwrap(), PIECES * PIECE_BYTES);
        far.await.unwrap();
    }

    #[test]
    fn the_commands_end_is_the_verbs() {
        let ok = r#"{"status":"Success"}"#;
        assert_eq!(finished(ok), (vec![], 0, String::new()));
        let seven = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(finished(seven), (vec![], 7, "command terminated with exit code 7\n".into()));
        let none = r#"{"status":"Failure","reason":"InternalError","message":"no such file","code":500}"#;
        assert_eq!(finished(none), (vec!["error: no such file".into()], 1, String::new()));
        assert_eq!(finished("odd\n"), (vec!["error: odd".into()], 1, String::new()));
    }
}
