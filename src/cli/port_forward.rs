//! `port-forward`: local ports that lead to a pod's own, a WebSocket for each connection.
//!
//! The protocol has no half-closed connections: what a local program sends after it has been told the end is not waited for.
//!
//! Source: kubectl `pkg/cmd/portforward`, kubelet `portforward/websocket.go` (`v4.channel.k8s.io`: channel 0 data, 1 error,
//! both begin with the port).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use client::api::Query;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::exec::{Socket, dial};
use crate::failure::usage;
use crate::manifest::text;
use crate::session::Session;
use crate::target::{self, Target};
use crate::until::{self, Verdict};
use crate::{duration, logs};

const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Of a local connection, sent at once.
const PIECE_BYTES: usize = 32 * 1024;
/// Local connections of a port at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 256;

#[derive(Debug, Clone, Args)]
pub struct PortForward {
    /// POD or TYPE/NAME, then ports: LOCAL:REMOTE, :REMOTE for any local one, or one number for both
    #[arg(value_name = "POD PORT...")]
    pub words: Vec<String>,
    /// Addresses to listen on, separated by commas; localhost stands for both of its addresses
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    pub address: Vec<String>,
    /// How long to wait for a running pod
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "1m")]
    pub pod_running_timeout: Duration,
}

/// A port here and one of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    /// 0: any that is free.
    local: u16,
    remote: u16,
}

pub async fn run(session: &Session, forward: &PortForward) -> Result<()> {
    let Some((word, ports)) = forward.words.split_first().filter(|(_, ports)| !ports.is_empty()) else {
        return Err(usage(
            "TYPE/NAME and list of ports are required for port-forward\nSee 'kedge port-forward -h' for help and examples",
        ));
    };
    let (pod, _) = logs::one_pod(session, word, logs::ATTACH).await?;
    let target = target_of(session, word).await?;
    let service = match &target {
        Some(target) if target.resource.kind == "Service" => Some(session.client.get_path(&target.path()).await?),
        _ => None,
    };
    let pairs = ports.iter().map(|p| pair(p, service.as_ref(), &pod.object)).collect::<Result<Vec<_>>>()?;
    // A pod of a workload may just be starting; one that is named is as it is.
    let is_named = target.is_none_or(|t| t.resource.kind == "Pod");
    let deadline = Instant::now() + forward.pod_running_timeout;
    until::seen(session, &pod, deadline, |object| match object.map(|o| text(o, "/status/phase")) {
        Some("Running") => Verdict::Done(()),
        Some(phase) if is_named || matches!(phase, "Succeeded" | "Failed") => {
            Verdict::Failed(format!("unable to forward port because pod is not running. Current status={phase}"))
        }
        Some(_) => Verdict::Wait,
        None => Verdict::Failed(format!("pods {:?} not found", pod.name)),
    })
    .await?;
    let path = format!("{}/portforward", pod.path());
    let mut listeners = Vec::new();
    for pair in pairs {
        listeners.extend(listen(session, &forward.address, pair).await?);
    }
    let serving = listeners.into_iter().map(|(listener, pair)| serve(session, listener, pair, &path));
    tokio::select! {
        _ = futures_util::future::join_all(serving) => Ok(()),
        // Ended by hand is ended well.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// What the word names, when it says more than a pod's name. The ports of a Service are not its pods'.
async fn target_of(session: &Session, word: &str) -> Result<Option<Target>> {
    if !word.contains('/') {
        return Ok(None);
    }
    Ok(target::of_words(session.discovery().await?, &[word.to_owned()], &session.namespace, false)?.pop())
}

/// A pair as it is spelled, with names and a service's ports resolved.
fn pair(spelled: &str, service: Option<&Value>, pod: &Value) -> Result<Pair> {
    let (local, remote) = match spelled.split_once(':') {
        Some(("", remote)) => (Some("0"), remote),
        Some((local, remote)) => (Some(local), remote),
        None => (None, spelled),
    };
    let malformed = || anyhow::anyhow!("invalid port format {spelled:?}");
    let number = match remote.parse::<u16>() {
        Ok(0) => anyhow::bail!("remote port must be > 0"),
        Ok(number) => service.map_or(Ok(number), |service| of_service(service, &remote.into(), number, pod))?,
        Err(_) if remote.is_empty() => return Err(malformed()),
        Err(_) => match service {
            Some(service) => of_service(service, &remote.into(), 0, pod)?,
            None => named(pod, remote).with_context(|| {
                format!("Pod '{}' does not have a named port '{remote}'", text(pod, "/metadata/name"))
            })?,
        },
    };
    let local = match local {
        Some(local) => local.parse().map_err(|e| anyhow::anyhow!("error parsing local port {local:?}: {e}"))?,
        // One number is both; of a name, the number that it stands for.
        None => remote.parse().unwrap_or(number),
    };
    Ok(Pair { local, remote: number })
}

/// Where a service's port leads in the pod.
fn of_service(service: &Value, name: &Value, number: u16, pod: &Value) -> Result<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports.into_iter().find(|p| p["port"] == number || p["name"] == *name);
    let port = port.with_context(|| {
        format!("Service {} does not have a service port {}", text(service, "/metadata/name"), text(name, ""))
    })?;
    if text(service, "/spec/clusterIP") == "None" {
        return Ok(port["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(number));
    }
    match &port["targetPort"] {
        Value::String(target) => named(pod, target)
            .with_context(|| format!("Pod '{}' does not have a named port '{target}'", text(pod, "/metadata/name"))),
        target => {
            let own = target.as_u64().filter(|p| *p > 0).or_else(|| port["port"].as_u64());
            own.and_then(|p| u16::try_from(p).ok()).context("the service's port is none")
        }
    }
}

/// A container's port by its name.
fn named(pod: &Value, name: &str) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.find(|p| p["name"] == name)?["containerPort"].as_u64().and_then(|p| u16::try_from(p).ok())
}

/// Listens for a pair on every address and says so.
async fn listen(session: &Session, addresses: &[String], pair: Pair) -> Result<Vec<(TcpListener, Pair)>> {
    let mut listeners = Vec::new();
    let mut pair = pair;
    let mut failed = Vec::new();
    for word in addresses {
        let both: Vec<IpAddr> = match word.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            other => vec![other.parse().map_err(|_| usage(format!("{other} is not a valid IP")))?],
        };
        for ip in both {
            match TcpListener::bind(SocketAddr::new(ip, pair.local)).await {
                Ok(listener) => {
                    let at = listener.local_addr()?;
                    // What was free on the first address is asked for on the others.
                    pair.local = at.port();
                    session.line(format!("Forwarding from {at} -> {}", pair.remote))?;
                    listeners.push((listener, pair));
                }
                Err(error) => {
                    let (family, at) = (if ip.is_ipv4() { 4 } else { 6 }, SocketAddr::new(ip, pair.local));
                    let why = match error.kind() {
                        std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
                        _ => error.to_string(),
                    };
                    failed.push(format!("unable to create listener: Error listen tcp{family} {at}: bind: {why}"));
                }
            }
        }
    }
    // One of localhost's two addresses is enough.
    if listeners.is_empty() {
        let Pair { local, remote } = pair;
        session.note(format!(
            "Unable to listen on port {local}: Listeners failed to create with the following errors: [{}]",
            failed.join(" ")
        ));
        anyhow::bail!("unable to listen on any of the requested ports: [{{{local} {remote}}}]");
    }
    Ok(listeners)
}

/// Carries the connections of one port beside each other.
async fn serve(session: &Session, listener: TcpListener, pair: Pair, path: &str) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => open.push(async move {
                    let _ = session.line(format!("Handling connection for {}", pair.local));
                    if let Err(error) = carry(session, stream, pair.remote, path).await {
                        session.note(format!("error: {error:#}"));
                    }
                }),
                Err(error) => {
                    session.note(format!("error: {error}"));
                    // Out of descriptors, most likely: others must be closed first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = open.next(), if !open.is_empty() => {}
        }
    }
}

/// One connection, to its end.
async fn carry(session: &Session, stream: TcpStream, port: u16, path: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let endpoint = session.endpoint.as_ref().context("no connection that can be upgraded")?;
    let mut query = Query::default();
    query.push("ports", &port.to_string());
    let socket = dial(endpoint, &session.impersonation, &query.on(path), PROTOCOL).await?;
    between(stream, socket, port).await
}

/// Carries bytes between a connection and a socket, until the far side ends.
async fn between(stream: impl crate::exec::Stream, socket: Socket, port: u16) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (mut sink, mut messages) = socket.split();
    let up = async {
        let mut piece = vec![0u8; 1 + PIECE_BYTES];
        piece[0] = DATA;
        while let Ok(n @ 1..) = from.read(&mut piece[1..]).await {
            let message = piece.get(..=n).unwrap_or_default().to_vec();
            if sink.send(Message::binary(message)).await.is_err() {
                return;
            }
        }
        // No more is sent, but what is still to come is waited for.
        std::future::pending::<()>().await;
    };
    let down = async {
        // Both channels begin with the port.
        let mut begun = [false; 2];
        let mut problem = Vec::new();
        while let Some(message) = messages.next().await {
            let data = match message {
                Ok(Message::Binary(data)) => data,
                Ok(Message::Close(_)) => break,
                Ok(_) => continue,
                Err(_) if !problem.is_empty() => break,
                Err(error) => return Err(error).context("the connection was lost"),
            };
            let Some((channel @ (&DATA | &ERROR), rest)) = data.split_first() else { continue };
            let first = !std::mem::replace(&mut begun[usize::from(*channel)], true);
            let rest = if first { rest.get(2..).unwrap_or_default() } else { rest };
            match *channel {
                DATA if to.write_all(rest).await.is_err() => return Ok(()),
                ERROR => problem.extend_from_slice(rest),
                _ => {}
            }
        }
        let _ = to.shutdown().await;
        let problem = String::from_utf8_lossy(&problem).into_owned();
        anyhow::ensure!(problem.is_empty(), "an error occurred forwarding {port}: {problem}");
        Ok(())
    };
    let result = tokio::select! {
        () = up => Ok(()),
        result = down => result,
    };
    let _ = sink.close().await;
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[test]
    fn pairs() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{}, {"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1", "ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "n", "port": 81, "targetPort": 9000}, {"port": 82}]}});
        for (spelled, of_service, expected) in [
            ("80", false, Ok((80, 80))),
            ("8000:80", false, Ok((8000, 80))),
            (":80", false, Ok((0, 80))),
            ("web", false, Ok((8080, 8080))),
            ("1:web", false, Ok((1, 8080))),
            ("80", true, Ok((80, 8080))),
            ("http", true, Ok((8080, 8080))),
            ("5:81", true, Ok((5, 9000))),
            ("82", true, Ok((82, 82))),
            ("0", false, Err("remote port must be > 0")),
            ("no", false, Err("Pod 'p' does not have a named port 'no'")),
            ("99", true, Err("Service s does not have a service port 99")),
            ("x:80", false, Err("error parsing local port \"x\": invalid digit found in string")),
            ("1:", false, Err("invalid port format \"1:\"")),
        ] {
            let found = pair(spelled, of_service.then_some(&service), &pod);
            let found = found.map(|p| (p.local, p.remote)).map_err(|e| e.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{spelled}");
        }
    }

    /// The agent's side: the port on both channels, then what `answer` says.
    async fn exchanged(answer: Vec<Vec<u8>>) -> (Vec<u8>, Vec<u8>, Result<()>) {
        let (near, far) = tokio::io::duplex(1024);
        let (program, connection) = tokio::io::duplex(1024);
        let agent = tokio::spawn(async move {
            let mut socket = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
            for channel in [DATA, ERROR] {
                socket.send(Message::binary([&[channel][..], &7u16.to_le_bytes()].concat())).await.unwrap();
            }
            let heard = loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(data))) => break data.to_vec(),
                    Some(Ok(_)) => {}
                    _ => break Vec::new(),
                }
            };
            for message in answer {
                socket.send(Message::binary(message)).await.unwrap();
            }
            let _ = socket.close(None).await;
            heard
        });
        let near: Box<dyn crate::exec::Stream> = Box::new(near);
        let socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let local = async {
            let (mut from, mut to) = tokio::io::split(program);
            to.write_all(b"hello").await.unwrap();
            to.shutdown().await.unwrap();
            let mut got = Vec::new();
            from.read_to_end(&mut got).await.unwrap();
            got
        };
        let (result, got) = tokio::join!(between(connection, socket, 7), local);
        (agent.await.unwrap(), got, result)
    }

    #[tokio::test]
    async fn bytes_go_both_ways() {
        let (heard, got, result) = exchanged(vec![b"\0wor".to_vec(), b"\0ld".to_vec()]).await;
        assert_eq!((&heard[..], &got[..]), (&b"\0hello"[..], &b"world"[..]));
        result.unwrap();
        let (_, got, result) = exchanged(vec![b"\x01refused".to_vec()]).await;
        assert_eq!(
            (&got[..], result.unwrap_err().to_string()),
            (&b""[..], "an error occurred forwarding 7: refused".into())
        );
    }
}
