//! The health check of gRPC servers: one call, two small messages.
//!
//! Source: `pkg/probe/grpc`, grpc/health/v1/health.proto.

use std::time::Duration;

use super::{USER_AGENT, connect, join, seconds};
use crate::grpc::message::{Fields, Writer};
use crate::grpc::{self, Code};
use crate::worker::input::Outcome;

const METHOD: &str = "/grpc.health.v1.Health/Check";
const SERVING: u64 = 1;

pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = join(host, port);
    let unreached = |why: String| Outcome::Failure(format!("error: failed to connect service \"{address}\": {why}"));
    let attempt = async {
        let stream = connect(host, port).await.map_err(|e| unreached(format!("{e:#}")))?;
        let request = Writer::new().text(1, service).done();
        Ok(grpc::unary(Box::new(stream), &address, USER_AGENT, METHOD, request, timeout).await)
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(Err(outcome)) => outcome,
        Ok(Ok(Ok(answer))) => match Fields::of(&answer).number(1) {
            SERVING => Outcome::Success,
            other => {
                let name =
                    ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(other as usize).unwrap_or(&"UNKNOWN");
                Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
            }
        },
        Ok(Ok(Err(e))) if e.code == Code::UNIMPLEMENTED => Outcome::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        ),
        Ok(Ok(Err(e))) if e.code == Code::UNAVAILABLE => unreached(e.message),
        Ok(Ok(Err(e))) => Outcome::Failure(format!("error: health rpc failed: {e}")),
        Err(_) => {
            Outcome::Failure(format!("timeout: failed to connect service \"{address}\" within {}", seconds(timeout)))
        }
    }
}
