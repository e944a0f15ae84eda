//! Connect: log, exec, attach and port-forward of a pod, carried to the agent of its node and back.
//!
//! The server reads nothing of what flows: after the agent has agreed to switch protocols, bytes are copied both ways until
//! one side ends. What never lives here: WebSocket, SPDY, a container.
//!
//! Source: `pkg/registry/core/pod/{strategy,rest/subresources,rest/log}.go`, kubelet `pkg/kubelet/server/server.go`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use types::percent::percent_encode;
use types::status::{Reason, Status};

use super::ask::{Answer, Ask, Change};
use super::{log_options, message_socket, object};
use crate::Body;
use crate::admission::{self, Operation};
use crate::http::{hop, respond};

/// What of an agent's error text is passed on. Source: apimachinery `maxReadLength` of the response checker.
const ERROR_BYTES_MAX: usize = 50_000;
/// Where agents listen unless their Node says otherwise.
const AGENT_PORT: u16 = 10250;
/// How long the other side may take to say whether it switches protocols: what any request has.
const SWITCH_LIMIT: Duration = crate::http::deadline::LIMIT;

/// A stream to an agent.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Reaches node agents. The default dials the node's address with TLS; a daemon that holds the agent in its own process or
/// at the end of a reverse tunnel brings its own.
pub trait Dial: Send + Sync {
    /// A stream on which the agent of `node` speaks HTTP/1.1, already authenticated as the API server.
    fn dial<'a>(&'a self, node: &'a str, host: &'a str, port: u16) -> store::Pending<'a, std::io::Result<Box<dyn Io>>>;
}

/// TLS with the API server's own client certificate to the address in the Node's status.
pub struct TlsDial(pub Arc<rustls::ClientConfig>);

impl Dial for TlsDial {
    fn dial<'a>(&'a self, _: &'a str, host: &'a str, port: u16) -> store::Pending<'a, std::io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let tcp = tokio::net::TcpStream::connect((host, port)).await?;
            tcp.set_nodelay(true)?;
            let name = match host.parse::<IpAddr>() {
                Ok(address) => rustls::pki_types::ServerName::IpAddress(address.into()),
                Err(_) => rustls::pki_types::ServerName::try_from(host.to_owned())
                    .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?,
            };
            let stream = tokio_rustls::TlsConnector::from(self.0.clone()).connect(name, tcp).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Carries the request to the agent of the pod's node. `request` has no body but what an upgrade will carry.
pub async fn connect(ask: &mut Ask<'_>, mut request: Request<Body>) -> Result<Answer, Status> {
    let view = ask.view();
    let entry = ask.current().await?;
    let pod = object::read(&entry)?;
    if ask.subresource != "log" {
        let options = admission::Options::None;
        let change = Change { operation: Operation::Connect, name: ask.name, old: None, dry_run: false, options };
        let mut wish = connect_options(ask);
        ask.admit(change, Some(&mut wish), &*view).await?;
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if ask.subresource == "log" {
        log_options::check(ask.name, ask.query)?;
    }
    let path = agent_path(ask, &pod)?;
    if node.is_empty() {
        // A pod that is nowhere has said nothing yet; there is nothing to enter.
        return if ask.subresource == "log" {
            Ok(Answer::Response(respond::text(200, "")))
        } else {
            Err(Status::bad_request(format!("pod {} does not have a host assigned", ask.name)))
        };
    }
    let (host, port) = view
        .get(&format!("core/nodes//{node}"))
        .and_then(|entry| object::read(&entry).ok())
        .and_then(|node| address(&node))
        .ok_or_else(|| Status::internal(format!("no preferred addresses found; known addresses: [] of node {node}")))?;
    let dialer = ask
        .shared
        .config
        .dialer
        .as_ref()
        .ok_or_else(|| Status::service_unavailable("this server has no way to reach node agents"))?;
    let unreachable = |error: &dyn std::fmt::Display| {
        Status::internal(format!("error dialing backend: dial tcp {host}:{port}: {error}"))
    };
    let stream = dialer.dial(node, &host, port).await.map_err(|e| unreachable(&e))?;
    // The agent speaks of logs in plain HTTP only.
    let socket = if ask.subresource == "log" { message_socket::Wish::take(&mut request)? } else { None };
    let carried = carry(stream, &format!("{host}:{port}"), &path, request).await;
    let response = carried.map_err(|broken| broken.status(|why| unreachable(&why)))?;
    if let Some(socket) = socket
        && response.status().is_success()
    {
        return socket.grant(response.into_body()).map(Answer::Response);
    }
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched || response.status().is_success() || response.status().is_redirection() {
        return Ok(Answer::Response(response));
    }
    Err(agent_error(ask, response).await)
}

/// Why a request could not be carried.
pub(crate) enum Broken {
    /// The other side is not there, does not speak HTTP, or says nothing.
    Transport(String),
    /// It was asked for another protocol, and did not refuse but answered with this.
    NotSwitched(u16),
    Refused(Status),
}

impl Broken {
    /// As the client is told; `unreachable` words what is wrong with the way.
    pub(crate) fn status(self, unreachable: impl FnOnce(&str) -> Status) -> Status {
        match self {
            Self::Transport(why) => unreachable(&why),
            Self::NotSwitched(code) => Status::new(Reason::InternalError, not_switched(code)),
            Self::Refused(status) => status,
        }
    }
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        Self::Transport(error.to_string())
    }
}

/// Source: apimachinery `pkg/util/proxy/upgradeaware.go` `tryUpgrade`.
pub(crate) fn not_switched(code: u16) -> String {
    format!("invalid upgrade response: status code {code}")
}

/// Sends `request` over `stream` to `path` there and hands back the answer, each without what is of its connection. When both
/// sides agree to switch protocols, bytes are copied between them until one ends; a request that asks for that has no body.
pub(crate) async fn carry(
    stream: Box<dyn Io>,
    authority: &str,
    path: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Broken> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    // Ends with the response's body or the upgraded stream: nothing else holds the connection.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a carried connection ended");
        }
    });
    let (mut parts, body) = request.into_parts();
    let upgrades = hop::is_upgrade(&parts.headers);
    let client_side = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    hop::strip_request(&mut parts.headers);
    // The other side trusts the server, not whoever is behind it.
    hop::remove(&mut parts.headers, |name| name == "authorization" || name.starts_with("impersonate-"));
    let mut outgoing = Request::new(if upgrades { Body::empty() } else { body });
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = path.parse().map_err(|e| Broken::Refused(Status::internal(format!("{e}"))))?;
    *outgoing.headers_mut() = parts.headers;
    if let Ok(value) = http::HeaderValue::from_str(authority) {
        outgoing.headers_mut().insert(HOST, value);
    }
    let sent = sender.send_request(outgoing);
    let mut response = if upgrades {
        let late = |_| Broken::Transport("net/http: timeout awaiting response headers".into());
        tokio::time::timeout(SWITCH_LIMIT, sent).await.map_err(late)??
    } else {
        sent.await?
    };
    let code = response.status();
    if upgrades && code != StatusCode::SWITCHING_PROTOCOLS && code.as_u16() < 400 {
        return Err(Broken::NotSwitched(code.as_u16()));
    }
    if code == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = client_side else {
            let why = "unable to upgrade: this connection cannot switch protocols";
            return Err(Broken::Refused(Status::bad_request(why)));
        };
        let other_side = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(client), Ok(other)) = (client_side.await, other_side.await) else { return };
            let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut other).await {
                tracing::debug!(%error, "a switched stream ended");
            }
        });
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    hop::strip(&mut parts.headers);
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// The agent's error as the client is shown it.
async fn agent_error(ask: &Ask<'_>, response: Response<Body>) -> Status {
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim_end().to_owned()).unwrap_or_default();
    match code {
        400 => Status::bad_request(text),
        404 => {
            let mut status = Status::new(
                Reason::NotFound,
                format!("the server could not find the requested resource ( {} {})", ask.kind.plural, ask.name),
            );
            if !text.is_empty() {
                status.message = text;
            }
            status.about(ask.kind, ask.name)
        }
        500 => Status::internal(text),
        _ => {
            let mut status = Status::new(Reason::InternalError, text);
            status.code = code;
            status
        }
    }
}

/// Where the agent of a node listens: the addresses in upstream's order of preference, the port from the Node.
pub(super) fn address(node: &Value) -> Option<(String, u16)> {
    let addresses = node["status"]["addresses"].as_array()?;
    let host = ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|wanted| {
        addresses.iter().find(|a| a["type"] == *wanted).and_then(|a| a["address"].as_str().map(str::to_owned))
    })?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    Some((host, port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).unwrap_or(AGENT_PORT)))
}

/// Query parameters that a log request passes on.
const LOG_PARAMETERS: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
/// Query parameters of exec and attach by the agent's names.
const STREAM_PARAMETERS: &[(&str, &str)] =
    &[("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// What is asked for, as the object that admission sees. Source: `PodExecOptions` and its siblings in core/v1.
fn connect_options(ask: &Ask<'_>) -> Value {
    let kind = match ask.subresource {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if ask.subresource == "portforward" {
        let ports: Vec<u16> =
            ask.query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        options["ports"] = json!(ports);
        return options;
    }
    for (name, _) in STREAM_PARAMETERS.iter().filter(|(name, _)| ask.query.flag(name)) {
        options[*name] = true.into();
    }
    if let Some(container) = ask.query.text("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = ask.query.all("command").collect();
    if ask.subresource == "exec" && !command.is_empty() {
        options["command"] = json!(command);
    }
    options
}

/// The path and query at the agent.
fn agent_path(ask: &Ask<'_>, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (ask.namespace, ask.name);
    let mut query = String::new();
    let mut add = |name: &str, value: &str| {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        percent_encode(&mut query, value.as_bytes(), b"");
    };
    match ask.subresource {
        "log" => {
            let container = container(ask, pod)?;
            for parameter in LOG_PARAMETERS {
                if let Some(value) = ask.query.text(parameter) {
                    add(parameter, value);
                }
            }
            Ok(format!("/containerLogs/{namespace}/{name}/{container}{query}"))
        }
        "portforward" => {
            for port in ask.query.all("ports").flat_map(|p| p.split(',')) {
                add("port", port);
            }
            Ok(format!("/portForward/{namespace}/{name}{query}"))
        }
        verb => {
            let container = container(ask, pod)?;
            for (ours, theirs) in STREAM_PARAMETERS {
                if ask.query.flag(ours) {
                    add(theirs, "1");
                }
            }
            if verb == "exec" {
                for word in ask.query.all("command") {
                    add("command", word);
                }
            }
            Ok(format!("/{verb}/{namespace}/{name}/{container}{query}"))
        }
    }
}

/// The container that is meant; upstream's words when it is unclear or not there.
fn container(ask: &Ask<'_>, pod: &Value) -> Result<String, Status> {
    let names = |key: &str| -> Vec<String> {
        let list = pod["spec"][key].as_array().into_iter().flatten();
        list.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match ask.query.text("container") {
        Some(name) if containers.iter().chain(&init).chain(&ephemeral).any(|c| c == name) => Ok(name.to_owned()),
        Some(name) => Err(Status::bad_request(format!("container {name} is not valid for pod {}", ask.name))),
        None => match containers.as_slice() {
            [only] if init.is_empty() && ephemeral.is_empty() => Ok(only.clone()),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {}", ask.name))),
            several => {
                let mut text = format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    ask.name,
                    several.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                if !ephemeral.is_empty() {
                    text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
                }
                Err(Status::bad_request(text))
            }
        },
    }
}
