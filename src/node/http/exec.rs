//! exec and attach: finds the container, upgrades the connection, joins the streams.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming as RequestBody;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Container;
use runtime::{AttachSpec, ContainerId, ExecSpec, PodId, Session};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::query::Query;
use super::{Body, Server, text};
use crate::pod;
use crate::stream::{QUEUE, Wanted, session, websocket};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Exec,
    Attach,
}

/// How a client wants its connection upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    WebSocket,
    Spdy,
    None,
}

pub fn upgrade<B>(request: &Request<B>) -> Upgrade {
    let has = |name: &str, value: &str| {
        let mut lines = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
        lines.any(|l| l.split(',').any(|part| part.trim().eq_ignore_ascii_case(value)))
    };
    if !has("connection", "upgrade") {
        Upgrade::None
    } else if has("upgrade", "websocket") {
        Upgrade::WebSocket
    } else if has("upgrade", "SPDY/3.1") {
        Upgrade::Spdy
    } else {
        Upgrade::None
    }
}

/// Both the node's own parameter names and those of the API.
fn wanted(query: &Query) -> Wanted {
    let tty = query.flag(&["tty"]);
    Wanted {
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        // A terminal has one output.
        stderr: query.flag(&["error", "stderr"]) && !tty,
        tty,
        leaves: false,
    }
}

/// Whether the end of a client's input ends what it attached to a container with, and nothing else: where it does not end the
/// container's own input. Source: containerd `internal/cri/io/container_io.go` Attach.
fn leaves(container: &Container) -> bool {
    container.stdin_once != Some(true) || container.tty == Some(true)
}

impl Server {
    pub(super) async fn exec(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        namespace: &str,
        name: &str,
        container: &str,
        query: &Query,
        kind: Kind,
    ) -> Response<Body> {
        let snapshot = match self.snapshot(namespace, name) {
            Ok(snapshot) => snapshot,
            Err(response) => return response,
        };
        let mut wanted = wanted(query);
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
        }
        let command = query.all("command");
        if kind == Kind::Exec && command.is_empty() {
            return text(StatusCode::BAD_REQUEST, "you must specify at least one command");
        }
        let Some((_, id, _)) = snapshot.running.iter().find(|(n, _, _)| n == container) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")"));
        };
        wanted.leaves =
            kind == Kind::Attach && pod::container(&snapshot.pod, container).is_some_and(|(_, c)| leaves(&c));
        let (uid, id) = (PodId(pod::uid(&snapshot.pod).to_owned()), ContainerId(id.clone()));
        let server = Arc::clone(self);
        let begin = async move { server.session(kind, uid, id, command, wanted).await };
        match upgrade(&request) {
            Upgrade::WebSocket => websocket_upgrade(request, wanted, begin),
            Upgrade::Spdy => super::spdy::upgrade_exec(request, wanted, begin),
            Upgrade::None => text(
                StatusCode::BAD_REQUEST,
                "unable to upgrade: missing upgrade headers in request: Upgrade request required",
            ),
        }
    }

    async fn session(
        &self,
        kind: Kind,
        pod: PodId,
        id: ContainerId,
        command: Vec<String>,
        wanted: Wanted,
    ) -> runtime::Result<Session> {
        match kind {
            Kind::Exec => {
                let spec = ExecSpec {
                    stdin: wanted.stdin,
                    stdout: wanted.stdout,
                    stderr: wanted.stderr,
                    tty: wanted.tty,
                    ..ExecSpec::new(command)
                };
                self.host.runtime.exec(&pod, &id, spec).await
            }
            Kind::Attach => {
                let spec = AttachSpec { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr };
                let session = self.host.runtime.attach(&pod, &id, spec).await?;
                // How a container ended is said in the pod's status only: its end is the success of who watched it. Clients
                // that hear of a failure take it for one of the connection, and show the log as well.
                let exit = session.exit;
                Ok(Session { exit: Box::pin(async move { exit.await.map(|_| 0) }), ..session })
            }
        }
    }
}

/// The answer that turns the connection into a WebSocket, if the request is a proper one.
pub(super) fn websocket_answer<B>(request: &Request<B>, protocol: &str) -> Result<Response<Body>, Response<Body>> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return Err(text(StatusCode::BAD_REQUEST, "unable to upgrade: missing Sec-WebSocket-Key"));
    };
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.remove("content-type");
    headers.insert("connection", http::HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", http::HeaderValue::from_static("websocket"));
    if let Ok(accept) = http::HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert("sec-websocket-accept", accept);
    }
    if let Ok(protocol) = http::HeaderValue::from_str(protocol)
        && !protocol.is_empty()
    {
        headers.insert("sec-websocket-protocol", protocol);
    }
    Ok(response)
}

pub(super) fn offered<B>(request: &Request<B>, header: &str) -> Vec<String> {
    let lines = request.headers().get_all(header).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|l| l.split(',')).map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn websocket_upgrade(
    mut request: Request<RequestBody>,
    wanted: Wanted,
    begin: impl Future<Output = runtime::Result<Session>> + Send + 'static,
) -> Response<Body> {
    let offers = offered(&request, "sec-websocket-protocol");
    let Some(protocol) = websocket::choose(offers.iter().map(String::as_str)) else {
        return text(StatusCode::BAD_REQUEST, format!("unable to upgrade: unknown subprotocols {offers:?}"));
    };
    let response = match websocket_answer(&request, protocol.name) {
        Ok(response) => response,
        Err(response) => return response,
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(io) = upgraded.await else { return };
        let io = TokioIo::new(io);
        match begin.await {
            Ok(session) => {
                let (to_session, incoming) = mpsc::channel(QUEUE);
                let (outgoing, from_session) = mpsc::channel(QUEUE);
                tokio::join!(
                    session::pump(session, incoming, outgoing, wanted.leaves),
                    websocket::serve(io, protocol, wanted, to_session, from_session)
                );
            }
            Err(e) => websocket::refuse(io, protocol, e.to_string()).await,
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_attaches_to_an_input_that_stays_open_leaves_at_the_end_of_his_own() {
        for (stdin_once, tty, expected) in
            [(None, None, true), (Some(false), None, true), (Some(true), None, false), (Some(true), Some(true), true)]
        {
            let container = Container { stdin: Some(true), stdin_once, tty, ..Container::default() };
            assert_eq!(leaves(&container), expected, "{stdin_once:?} {tty:?}");
        }
    }
}
