//! A request for an aggregated group and version, carried to its server in the name of its user, and the answer back.
//!
//! Whoever may send it has been decided. What is of the connection between client and server is not passed on, nor are the
//! client's credentials; the other server believes this one's certificate.
//!
//! Source: kube-aggregator `pkg/apiserver/handler_proxy.go`, apimachinery `pkg/util/proxy/upgradeaware.go`, Go
//! `net/http/httputil/reverseproxy.go`, RFC 9110 §7.6.1.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use store::Store;
use tokio::time::Instant;
use types::status::Status;

use super::link::{Failed, Outgoing};
use super::{Registration, Remote};
use crate::auth::front_proxy;
use crate::http::respond;
use crate::verbs::connect::{self, Broken};
use crate::{Body, Identity};

/// Discovery is asked by every client; one slow server must not make all of them slow.
pub const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);
/// A connection that switches protocols has no other limit.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// Of one connection, so not passed on in either direction.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Who sends a request, and how long it may take.
pub struct Sender<'a> {
    pub identity: &'a Identity,
    pub address: Option<IpAddr>,
    pub audit_id: &'a HeaderValue,
    /// `None` for a stream.
    pub limit: Option<Duration>,
}

/// Carries the request to the server of `registration`, which is remote.
///
/// # Errors
/// For a body that is too long or does not come. What goes wrong beyond is an answer, in plain text as upstream's.
pub async fn proxy(
    store: &dyn Store,
    registration: &Registration,
    request: Request<Body>,
    sender: &Sender<'_>,
) -> Result<Response<Body>, Status> {
    let Some(remote) = registration.remote.as_ref().filter(|remote| remote.link.is_available()) else {
        return Ok(plain(503, "service unavailable"));
    };
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    for own in [AUTHORIZATION, HOST] {
        parts.headers.remove(own);
    }
    remove(&mut parts.headers, |name| name.starts_with("impersonate-"));
    front_proxy::introduce(&mut parts.headers, sender.identity);
    parts.headers.insert("audit-id", sender.audit_id.clone());
    forwarded_for(&mut parts.headers, sender.address);
    if parts.headers.contains_key(UPGRADE) {
        return Ok(upgrade(store, remote, Request::from_parts(parts, body), &path).await);
    }
    hop_by_hop(&mut parts.headers);
    parts.headers.remove(CONTENT_LENGTH);
    let body = match parts.method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => body.read(&HeaderMap::new()).await?,
    };
    let deadline = sender.limit.map(|limit| Instant::now() + limit);
    let outgoing = Outgoing { method: &parts.method, path: &path, headers: parts.headers, body, deadline };
    match remote.link.send(store, outgoing).await {
        Ok(mut response) => {
            hop_by_hop(response.headers_mut());
            Ok(response)
        }
        Err(Failed::Full) => Err(Status::too_many_requests("Too many requests, please try again later.", 1)),
        Err(Failed::Transport(why)) => Ok(unreachable(&why)),
        Err(Failed::Late) => Ok(unreachable("context deadline exceeded")),
    }
}

async fn upgrade(store: &dyn Store, remote: &Remote, request: Request<Body>, path: &str) -> Response<Body> {
    let stream = match tokio::time::timeout(OPEN_LIMIT, remote.link.open(store)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => return unreachable(&why),
        Err(_) => return unreachable("i/o timeout"),
    };
    match connect::carry(stream, &remote.link.target().authority(), path, request).await {
        Ok(mut response) => {
            if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
                hop_by_hop(response.headers_mut());
            }
            response
        }
        Err(Broken::Transport(error)) => unreachable(&error.to_string()),
        Err(Broken::Refused(status)) => plain(status.code, &status.message),
    }
}

/// An answer of the layer itself. Source: Go `net/http` `Error`.
fn plain(code: u16, text: &str) -> Response<Body> {
    let mut response = respond::text(code, format!("{text}\n"));
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn unreachable(why: &str) -> Response<Body> {
    plain(503, &format!("error trying to reach service: {why}"))
}

fn remove(headers: &mut HeaderMap, which: impl Fn(&str) -> bool) {
    let names: Vec<_> = headers.keys().filter(|name| which(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Removes what is of the connection, and what `Connection` says is.
fn hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    remove(headers, |name| HOP_BY_HOP.contains(&name) || named.iter().any(|n| n == name));
}

fn forwarded_for(headers: &mut HeaderMap, address: Option<IpAddr>) {
    const NAME: &str = "x-forwarded-for";
    let Some(address) = address else { return };
    let before: Vec<&str> = headers.get_all(NAME).iter().filter_map(|v| v.to_str().ok()).collect();
    let chain = before.into_iter().map(str::to_owned).chain([address.to_string()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&chain) {
        headers.insert(NAME, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_connection_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "X-Mine, close"), ("x-mine", "1"), ("te", "trailers"), ("accept", "a")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["accept"]);
        forwarded_for(&mut headers, Some([192, 0, 2, 1].into()));
        forwarded_for(&mut headers, Some([192, 0, 2, 2].into()));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 192.0.2.2");
    }
}
