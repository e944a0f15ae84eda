//! Carries out probes and hooks: one attempt, its outcome. When to do so is the worker's decision.
//!
//! Source: `pkg/probe/{http,tcp,exec,grpc}`, `pkg/kubelet/prober/prober.go`, `pkg/kubelet/lifecycle/handlers.go`.

mod grpc;
mod http;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::{ContainerId, ExecSpec, PodId, Runtime};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::worker::input::Outcome;

/// What is kept of a probe's output or answer. Source: `maxRespBodyLength`, `maxReadLength`.
const OUTPUT_BYTES_MAX: usize = 10 * 1024;
/// Attempts when the probe itself fails. Source: `maxProbeRetries`.
const TRIES: usize = 3;
const USER_AGENT: &str = "kube-probe/1.36";

/// Where the probed container is.
#[derive(Clone)]
pub struct Target {
    pub runtime: Arc<dyn Runtime>,
    pub pod: PodId,
    pub container: ContainerId,
    pub spec: Arc<Container>,
    /// Primary pod address, the node's for hostNetwork.
    pub pod_ip: String,
}

/// One probe. Failures to carry it out are tried again at once a few times.
pub async fn probe(target: &Target, probe: &Probe) -> Outcome {
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    let mut outcome = Outcome::Error("no probe handler specified".into());
    for _ in 0..TRIES {
        outcome = once(target, probe, timeout).await;
        if !matches!(outcome, Outcome::Error(_)) {
            break;
        }
    }
    outcome
}

async fn once(target: &Target, p: &Probe, timeout: Duration) -> Outcome {
    if let Some(action) = &p.exec {
        return exec(target, action.command.clone().unwrap_or_default(), timeout).await;
    }
    if let Some(action) = &p.http_get {
        let (url, headers) = match http::url(target, action) {
            Ok(parts) => parts,
            Err(e) => return Outcome::Error(e.to_string()),
        };
        return http::get(&url, &headers, timeout).await;
    }
    if let Some(action) = &p.tcp_socket {
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.pod_ip.clone());
        return match port(&target.spec, &action.port) {
            Ok(port) => tcp(&host, port, timeout).await,
            Err(e) => Outcome::Error(e.to_string()),
        };
    }
    if let Some(action) = &p.grpc {
        let port = u16::try_from(action.port).unwrap_or(0);
        return grpc::check(&target.pod_ip, port, action.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Outcome::Error("no probe handler specified".into())
}

/// A number or the name of one of the container's ports.
fn port(c: &Container, wanted: &IntOrString) -> anyhow::Result<u16> {
    let number = match wanted {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => match c.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)) {
            Some(p) => p.container_port,
            None => name.parse().map_err(|_| anyhow!("couldn't find port: {name}"))?,
        },
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| anyhow!("invalid port number: {number}"))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn connect(host: &str, port: u16) -> anyhow::Result<TcpStream> {
    let address = join(host, port);
    TcpStream::connect(&address).await.map_err(|e| anyhow!("dial tcp {address}: connect: {}", words(&e)))
}

/// Errors of the kernel without Rust's decoration, lower case as Go prints them.
pub(crate) fn words(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => e.to_string(),
    }
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, connect(host, port)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(e)) => Outcome::Failure(e.to_string()),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", join(host, port))),
    }
}

fn seconds(d: Duration) -> String {
    crate::worker::backoff::shown(d)
}

async fn exec(target: &Target, command: Vec<String>, timeout: Duration) -> Outcome {
    match run(target, command, Some(timeout)).await {
        Ok(Ran::Exit(0, _)) => Outcome::Success,
        Ok(Ran::Exit(_, output)) => Outcome::Failure(output),
        Ok(Ran::TimedOut(command)) => {
            Outcome::Failure(format!("command timed out: \"{command}\" timed out after {}", seconds(timeout)))
        }
        Err(e) => Outcome::Error(format!("{e:#}")),
    }
}

enum Ran {
    Exit(i32, String),
    TimedOut(String),
}

/// Runs a command in the container; what it printed is cut to a bound.
async fn run(target: &Target, command: Vec<String>, timeout: Option<Duration>) -> anyhow::Result<Ran> {
    let shown = command.join(" ");
    let mut session = target.runtime.exec(&target.pod, &target.container, ExecSpec::new(command)).await?;
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let killer = Arc::clone(&session.killer);
    let output = async {
        let (out, err) = tokio::join!(read(stdout), read(stderr));
        let code = session.exit.await;
        let mut text = out;
        text.extend(err);
        text.truncate(OUTPUT_BYTES_MAX);
        code.map(|code| Ran::Exit(code, String::from_utf8_lossy(&text).into_owned()))
    };
    match timeout {
        None => Ok(output.await?),
        Some(limit) => match tokio::time::timeout(limit, output).await {
            Ok(result) => Ok(result?),
            Err(_) => {
                let _ = killer(libc::SIGKILL).await;
                Ok(Ran::TimedOut(shown))
            }
        },
    }
}

/// Reads to the end, keeping the beginning.
async fn read(stream: Option<runtime::Reader>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let (mut kept, mut buffer) = (Vec::new(), vec![0u8; 4096]);
    while let Ok(n) = stream.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
    }
    kept
}

/// A postStart or preStop hook, without a time limit of its own. Errors: why it failed.
pub async fn hook(target: &Target, handler: &LifecycleHandler) -> anyhow::Result<()> {
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        return match run(target, command.clone(), None).await? {
            Ran::Exit(0, _) => Ok(()),
            Ran::Exit(code, output) => {
                bail!("command '{}' exited with {code}: {output}", command.join(" "))
            }
            Ran::TimedOut(_) => Ok(()),
        };
    }
    if let Some(action) = &handler.http_get {
        let (uri, headers) = http::url(target, action)?;
        let (status, _) = http::request(&uri, &headers).await?;
        if !status.is_success() && !status.is_redirection() {
            bail!("Get \"{uri}\": statuscode {}", status.as_u16());
        }
        return Ok(());
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(action.seconds.max(0) as u64)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ::http;
    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use serde_json::json;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn target() -> Target {
        let spec: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        Target {
            runtime: Arc::new(runtime::Fake::new()),
            pod: PodId("p".into()),
            container: ContainerId("c".into()),
            spec: Arc::new(spec),
            pod_ip: "127.0.0.1".into(),
        }
    }

    /// Answers every connection on loopback with the same bytes; says what it was asked.
    async fn server(answer: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0u8; 4096];
                let n = stream.read(&mut buffer).await.unwrap_or(0);
                let _ = tell.send(String::from_utf8_lossy(&buffer[..n]).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, told)
    }

    fn http_probe(port: u16) -> Probe {
        serde_json::from_value(json!({"httpGet": {"port": port, "path": "/h?x=1", "httpHeaders": [{"name": "X-Me", "value": "1"}, {"name": "Host", "value": "other"}]}})).unwrap()
    }

    #[tokio::test]
    async fn http() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Outcome::Success),
            ("HTTP/1.1 399 Odd\r\nContent-Length: 0\r\n\r\n", Outcome::Success),
            (
                "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
                Outcome::Failure("HTTP probe failed with statuscode: 500".into()),
            ),
            (
                "HTTP/1.1 302 Go\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
                Outcome::Warning("Probe terminated redirects, Response body: http://elsewhere.example/".into()),
            ),
        ] {
            let (port, mut told) = server(answer).await;
            assert_eq!(probe(&target(), &http_probe(port)).await, expected);
            let asked = told.recv().await.unwrap().to_lowercase();
            assert!(asked.starts_with("get /h?x=1 http/1.1\r\n"), "{asked}");
            for header in ["host: other", "x-me: 1", "user-agent: kube-probe/1.36", "accept: */*", "connection: close"]
            {
                assert!(asked.contains(header), "{header} in {asked}");
            }
        }
        let (port, _told) = server("HTTP/1.1 302 Go\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n").await;
        assert!(
            matches!(probe(&target(), &http_probe(port)).await, Outcome::Failure(t) if t.contains("stopped after 10 redirects"))
        );
    }

    #[tokio::test]
    async fn tcp_and_refusals() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let p: Probe = serde_json::from_value(json!({"tcpSocket": {"port": port}})).unwrap();
        assert_eq!(probe(&target(), &p).await, Outcome::Success);
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(probe(&target(), &p).await, Outcome::Failure(refused.clone()));
        assert_eq!(
            probe(&target(), &http_probe(port)).await,
            Outcome::Failure(format!("Get \"http://127.0.0.1:{port}/h?x=1\": {refused}"))
        );
        let named: Probe = serde_json::from_value(json!({"tcpSocket": {"port": "nope"}})).unwrap();
        assert_eq!(probe(&target(), &named).await, Outcome::Error("couldn't find port: nope".into()));
        assert_eq!(super::port(&target().spec, &IntOrString::String("web".into())).unwrap(), 8080);
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let outcome =
            super::http::get(&format!("http://127.0.0.1:{port}/").parse().unwrap(), &vec![], Duration::from_millis(50))
                .await;
        assert!(matches!(outcome, Outcome::Failure(t) if t.contains("context deadline exceeded")));
    }

    #[tokio::test]
    async fn grpc_health() {
        for (status, expected) in [
            (1u8, Outcome::Success),
            (2, Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into())),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let served = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(&body[..], b"\0\0\0\0\x05\x0a\x03web");
                        let frames = futures_util::stream::iter([
                            Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(vec![
                                0, 0, 0, 0, 2, 8, status,
                            ]))),
                            Ok(hyper::body::Frame::trailers(
                                [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect(),
                            )),
                        ]);
                        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::StreamBody::new(frames)))
                    });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
            let p: Probe =
                serde_json::from_value(json!({"grpc": {"port": port, "service": "web"}, "timeoutSeconds": 5})).unwrap();
            assert_eq!(probe(&target(), &p).await, expected);
            served.abort();
        }
    }
}
