//! `exec`: a command in a container, over a WebSocket; with `-it` the terminal is the command's.
//!
//! Source: KEP-4006 (`v5.channel.k8s.io`: channels 0 to 4 and CLOSE 255), kubectl `pkg/cmd/exec`.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use client::api::Query;
use client::https::Endpoint;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
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
    let pod = logs::one_pod(session, word).await?.0;
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
    let status =
        stream(session, &format!("{}/exec", pod.path()), query, Ask::of(session, exec.stdin, exec.tty)).await?;
    finish(session, &status)
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
pub async fn stream(session: &Session, path: &str, mut query: Query, ask: Ask) -> Result<Vec<u8>> {
    for (flag, name) in [(ask.stdin, "stdin"), (true, "stdout"), (!ask.tty, "stderr"), (ask.tty, "tty")] {
        if flag {
            query.push(name, "true");
        }
    }
    let endpoint = session.endpoint.as_ref().context("no connection that can be upgraded")?;
    let mut socket = dial(endpoint, &session.impersonation, &query.on(path)).await?;
    let raw = if ask.tty { Some(terminal::Raw::enter().context("set the terminal up")?) } else { None };
    let result = talk(session, ask.stdin, ask.tty, &mut socket).await;
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

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

type Socket = WebSocketStream<Box<dyn Stream>>;

async fn dial(endpoint: &Endpoint, headers: &http::HeaderMap, path: &str) -> Result<Socket> {
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
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
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

/// Carries bytes both ways until the command ends; the status that the server sends last.
async fn talk(session: &Session, with_stdin: bool, tty: bool, socket: &mut Socket) -> Result<Vec<u8>> {
    let mut stdin = tokio::io::stdin();
    let mut reading = with_stdin;
    let mut piece = vec![0u8; PIECE_BYTES];
    let mut resized = signal(SignalKind::window_change())?;
    if tty {
        resize(socket).await?;
    }
    let mut status = Vec::new();
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(data))) => match data.split_first() {
                    Some((&STDOUT, rest)) => session.print_bytes(rest)?,
                    Some((&STDERR, rest)) => session.note_bytes(rest),
                    Some((&ERROR, rest)) => status.extend_from_slice(rest),
                    _ => {}
                },
                Some(Ok(Message::Close(_))) | None => return Ok(status),
                Some(Ok(_)) => {}
                // After the status, how the connection ends does not matter.
                Some(Err(_)) if !status.is_empty() => return Ok(status),
                Some(Err(error)) => return Err(error).context("the connection was lost"),
            },
            read = stdin.read(&mut piece), if reading => {
                let message = match read {
                    Ok(0) | Err(_) => {
                        reading = false;
                        vec![CLOSE, STDIN]
                    }
                    Ok(n) => [&[STDIN], &piece[..n]].concat(),
                };
                socket.send(Message::binary(message)).await.context("the connection was lost")?;
            }
            Some(()) = resized.recv(), if tty => resize(socket).await?,
        }
    }
}

async fn resize(socket: &mut Socket) -> Result<()> {
    let Some((width, height)) = terminal::size() else { return Ok(()) };
    let body: Value = json!({"Width": width, "Height": height});
    let message = [&[RESIZE], body.to_string().as_bytes()].concat();
    socket.send(Message::binary(message)).await.context("the connection was lost")
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
