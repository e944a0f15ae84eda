//! The health check of gRPC servers, without a gRPC library: one call, two small messages.
//!
//! Source: `pkg/probe/grpc`, grpc/health/v1/health.proto.

use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{OUTPUT_BYTES_MAX, USER_AGENT, connect, join, seconds};
use crate::worker::input::Outcome;

pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = join(host, port);
    let attempt = async {
        let stream = connect(host, port).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", USER_AGENT)
            .body(Full::new(health_request(service)))?;
        let answer = sender.send_request(request).await?;
        let early = answer.headers().get("grpc-status").cloned();
        let collected = http_body_util::Limited::new(answer.into_body(), OUTPUT_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| anyhow!("{e}"))?;
        let status = collected.trailers().and_then(|t| t.get("grpc-status").cloned()).or(early);
        let status = status.and_then(|s| s.to_str().ok()?.parse::<u32>().ok()).unwrap_or(2);
        Ok::<_, anyhow::Error>((status, health_status(&collected.to_bytes())))
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(Ok((0, 1))) => Outcome::Success,
        Ok(Ok((0, other))) => {
            let name =
                ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(other as usize).unwrap_or(&"UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
        }
        Ok(Ok((12, _))) => Outcome::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        ),
        Ok(Ok((code, _))) => Outcome::Failure(format!("error: health rpc failed: rpc error: code = {code}")),
        Ok(Err(e)) => Outcome::Failure(format!("error: failed to connect service \"{address}\": {e:#}")),
        Err(_) => {
            Outcome::Failure(format!("timeout: failed to connect service \"{address}\" within {}", seconds(timeout)))
        }
    }
}

/// A gRPC frame with `HealthCheckRequest { service }`. Source: grpc/health/v1/health.proto.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut n = service.len();
        while n >= 0x80 {
            message.push((n as u8) | 0x80);
            n >>= 7;
        }
        message.push(n as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0u8];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// The status in a framed `HealthCheckResponse`; 0 when there is none.
fn health_status(frame: &[u8]) -> u64 {
    match frame {
        [_, _, _, _, _, 0x08, value, ..] => u64::from(*value & 0x7f),
        _ => 0,
    }
}
