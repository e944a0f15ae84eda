//! A request for an aggregated group and version, carried to its server in the name of its user, and the answer back.
//!
//! Whoever may send it has been decided. What is of the connection between client and server is not passed on, nor are the
//! client's credentials; the other server believes this one's certificate.
//!
//! Source: kube-aggregator `pkg/apiserver/handler_proxy.go`, apimachinery `pkg/util/proxy/upgradeaware.go`.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use store::Store;
use tokio::time::Instant;
use types::percent::{IN_PATH, percent_encode};
use types::status::Status;

use super::link::{Failed, Outgoing};
use super::{Registration, Remote};
use crate::auth::front_proxy;
use crate::flow::Seat;
use crate::http::query::Query;
use crate::http::{hop, respond};
use crate::verbs::connect::{self, Broken};
use crate::{Body, Identity};

/// Discovery is asked by every client; one slow server must not make all of them slow.
pub const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);
/// What making a connection that switches protocols has.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// Who sends a request, what it has been authorized for, and how long it may take.
pub struct Sender<'a> {
    pub identity: &'a Identity,
    pub address: Option<IpAddr>,
    pub audit_id: &'a HeaderValue,
    /// As they were read when they were authorized: the other server is told nothing else.
    pub path: &'a str,
    pub query: &'a Query,
    /// `None` for a stream.
    pub limit: Option<Duration>,
    /// Kept until the answer has been passed on; of a stream until it has begun.
    pub seat: Option<Seat>,
}

/// Carries the request to the server of `registration`, which is remote.
///
/// # Errors
/// For a body that is too long or does not come. What goes wrong beyond is an answer, in plain text as upstream's.
pub async fn proxy(
    store: &dyn Store,
    registration: &Registration,
    request: Request<Body>,
    sender: Sender<'_>,
) -> Result<Response<Body>, Status> {
    let Some(remote) = registration.remote.as_ref().filter(|remote| remote.link.is_available()) else {
        return Ok(plain(503, "service unavailable"));
    };
    let deadline = sender.limit.map(|limit| Instant::now() + limit);
    let path = target(sender.path, sender.query);
    let (mut parts, body) = request.into_parts();
    let upgrades = hop::is_upgrade(&parts.headers);
    // First of all: the client must not be able to name what this server says itself.
    hop::strip_request(&mut parts.headers);
    for own in [AUTHORIZATION, HOST] {
        parts.headers.remove(own);
    }
    hop::remove(&mut parts.headers, |name| name.starts_with("impersonate-"));
    front_proxy::introduce(&mut parts.headers, sender.identity);
    parts.headers.insert("audit-id", sender.audit_id.clone());
    forwarded_for(&mut parts.headers, sender.address);
    if upgrades {
        return Ok(upgrade(store, remote, Request::from_parts(parts, body), &path).await);
    }
    let full = || Status::too_many_requests("Too many requests, please try again later.", 1);
    let permit = remote.link.enter().ok_or_else(full)?;
    parts.headers.remove(CONTENT_LENGTH);
    let body = match parts.method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => body.read(&HeaderMap::new()).await?,
    };
    let outgoing = Outgoing { method: &parts.method, path: &path, headers: parts.headers, body, deadline };
    match remote.link.send(store, outgoing).await {
        Ok(response) if redirects(&response) => {
            Ok(respond::text(502, "the backend attempted to redirect this request, which is not permitted"))
        }
        Ok(mut response) => {
            hop::strip(response.headers_mut());
            Ok(match deadline {
                Some(at) => response.map(|body| body.keeping((permit, sender.seat), at)),
                None => response,
            })
        }
        Err(Failed::Transport(why)) => Ok(unreachable(&why)),
        Err(Failed::Late) => Ok(unreachable("context deadline exceeded")),
    }
}

/// What is asked for, written anew. Source: `handler_proxy.go` `ServeHTTP`.
fn target(path: &str, query: &Query) -> String {
    let mut target = String::with_capacity(path.len());
    percent_encode(&mut target, path.as_bytes(), IN_PATH);
    let query = query.encode();
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query);
    }
    target
}

/// A client would follow with its credentials for this server (CVE-2022-3172).
fn redirects(response: &Response<Body>) -> bool {
    response.status().is_redirection() && response.headers().get(LOCATION).is_some_and(|to| !to.is_empty())
}

async fn upgrade(store: &dyn Store, remote: &Remote, request: Request<Body>, path: &str) -> Response<Body> {
    let stream = match tokio::time::timeout(OPEN_LIMIT, remote.link.open(store)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => return unreachable(&why),
        Err(_) => return unreachable("i/o timeout"),
    };
    match connect::carry(stream, &remote.link.target().authority(), path, request).await {
        Ok(response) => response,
        Err(Broken::Transport(why)) => unreachable(&why),
        Err(Broken::NotSwitched(code)) => plain(503, &connect::not_switched(code)),
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
    fn each_proxy_adds_whom_it_was_asked_by() {
        let mut headers = HeaderMap::new();
        forwarded_for(&mut headers, Some([192, 0, 2, 1].into()));
        forwarded_for(&mut headers, Some([192, 0, 2, 2].into()));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 192.0.2.2");
    }

    #[test]
    fn targets() {
        for (path, query, expected) in [
            ("/apis/a.b/v1/x", None, "/apis/a.b/v1/x"),
            ("/apis/a.b/v1/x/a b?", Some("y&x=1%262&x=+"), "/apis/a.b/v1/x/a%20b%3F?x=1%262&x=+&y="),
        ] {
            assert_eq!(target(path, &Query::parse(query)), expected);
        }
    }
}
