//! Proxy: any HTTP request to a pod, to a pod behind a service, or to a node's agent, and its answer back as it is.
//!
//! The server dials pods itself, so it reaches those whose network it is on. Links in pages and redirects are made to lead
//! through the proxy (`proxy_links`).
//!
//! Source: `pkg/registry/core/{pod,service,node}/` `ResourceLocation`, apimachinery `pkg/util/proxy/upgradeaware.go`.

use std::net::IpAddr;

use http::header::{HOST, LOCATION};
use http::{HeaderValue, Method, Request, Response};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use types::status::Status;

use super::ask::{Answer, Ask, Change};
use super::connect::{self, Io};
use super::object;
use super::proxy_links::Links;
use crate::Body;
use crate::admission::{self, Operation};

/// `[scheme:]name[:port]`, as the name in the path spells it.
#[derive(Debug, PartialEq)]
struct Wanted<'a> {
    tls: bool,
    name: &'a str,
    /// A number, or a service's name for one; empty for the first there is.
    port: &'a str,
}

fn wanted(id: &str) -> Option<Wanted<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(Wanted {
        tls: scheme == "https",
        name,
        port,
    })
}

/// Carries the request to what the path names. The rest of the path and the query go on as they are.
///
/// # Errors
/// 404 when the object is not there, 400 for an address that is no pod's, 503 when nothing answers.
pub async fn proxy(ask: &mut Ask<'_>, mut request: Request<Body>) -> Result<Answer, Status> {
    let resource = ask.kind.singular.as_ref();
    let wanted =
        wanted(ask.name).ok_or_else(|| Status::bad_request(format!("invalid {resource} request {:?}", ask.name)))?;
    let view = ask.view();
    let read = |key: String| view.get(&key).and_then(|entry| object::read(&entry).ok());
    let found = read(ask.kind.store_key(ask.namespace, wanted.name));
    let found = found.ok_or_else(|| Status::not_found(ask.kind, wanted.name))?;
    let options = admission::Options::None;
    let change = Change { operation: Operation::Connect, name: ask.name, old: None, dry_run: false, options };
    let rest = rest(request.uri().path());
    let wish = format!("{}ProxyOptions", ask.kind.kind);
    let mut wish = json!({"kind": wish, "apiVersion": "v1", "path": rest});
    ask.admit(change, Some(&mut wish), &*view).await?;
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    if rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return moved(&format!("{}/{query}", request.uri().path()));
    }
    let path = format!("{}{query}", if rest.is_empty() { "/" } else { rest });
    let (stream, authority): (Box<dyn Io>, String) = if resource == "node" {
        let (host, port) = connect::address(&found)
            .ok_or_else(|| Status::internal(format!("no preferred addresses found of node {}", wanted.name)))?;
        let dialer = ask.shared.config.dialer.as_ref();
        let dialer =
            dialer.ok_or_else(|| Status::service_unavailable("this server has no way to reach node agents"))?;
        (dialer.dial(wanted.name, &host, port).await.map_err(|e| unreachable(&e))?, format!("{host}:{port}"))
    } else {
        let (ip, port) = if resource == "service" {
            let endpoints = read(format!("core/endpoints/{}/{}", ask.namespace, wanted.name)).unwrap_or_default();
            let has = |pod: &str, ip: &str| {
                let pod = read(format!("core/pods/{}/{pod}", ask.namespace)).unwrap_or_default();
                pod["status"]["podIPs"].as_array().into_iter().flatten().any(|own| own["ip"] == ip)
            };
            behind_service(&wanted, ask.name, &found, &endpoints, usize::from(random_byte()), &has)?
        } else {
            of_pod(&wanted, &found)?
        };
        (
            dial(ip, port, wanted.tls).await.map_err(|e| unreachable(&e))?,
            std::net::SocketAddr::new(ip, port).to_string(),
        )
    };
    drop(view);
    // The server behind is to know by which name and path it is asked for.
    let from = request.uri().path().to_owned();
    let asked = request.headers().get(HOST).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let asked = asked.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
    if let Ok(uri) = HeaderValue::from_str(&from) {
        request.headers_mut().insert("x-forwarded-uri", uri);
    }
    let host = if asked.is_empty() { &authority } else { &asked };
    let response = connect::carry(stream, host, &path, request).await;
    let mut response = response.map_err(|broken| broken.status(|why| unreachable(&why)))?;
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer::Response(response));
    }
    for own in OF_THE_ORIGIN {
        response.headers_mut().remove(*own);
    }
    let prefix = from.strip_suffix(path.split('?').next().unwrap_or_default()).unwrap_or(&from).to_owned();
    Ok(Answer::Response(Links { prefix, server: authority, asked }.rewrite(response)))
}

/// Who may read the answers, which this server decides for its origin.
///
/// Source: apimachinery `pkg/util/proxy/upgradeaware.go` `removeCORSHeaders`.
const OF_THE_ORIGIN: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Source: apimachinery `pkg/util/proxy/transport.go`.
fn unreachable(error: &dyn std::fmt::Display) -> Status {
    Status::service_unavailable(format!("error trying to reach service: {error}"))
}

/// What comes behind `…/<plural>/<name>/proxy`. The plural comes first behind `/api/v1` or the namespace, whatever that is
/// called.
fn rest(path: &str) -> &str {
    let before = if path.starts_with("/api/v1/namespaces/") { 7 } else { 5 };
    path.match_indices('/').nth(before).map_or("", |(at, _)| &path[at..])
}

/// A page of a server takes its links from below its path, so the path ends with a slash.
fn moved(to: &str) -> Result<Answer, Status> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
    let to = HeaderValue::from_str(to).map_err(|e| Status::internal(e.to_string()))?;
    response.headers_mut().insert(LOCATION, to);
    Ok(Answer::Response(response))
}

/// Which endpoint is asked first; nothing secret hangs on it.
fn random_byte() -> u8 {
    let mut byte = [0];
    types::random::fill(&mut byte);
    byte[0]
}

fn of_pod(wanted: &Wanted<'_>, pod: &Value) -> Result<(IpAddr, u16), Status> {
    let first = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let port = containers.filter_map(|c| c["ports"][0]["containerPort"].as_u64()).next();
        port.and_then(|p| u16::try_from(p).ok()).unwrap_or(if wanted.tls { 443 } else { 80 })
    };
    let port = if wanted.port.is_empty() { Some(first()) } else { wanted.port.parse().ok() };
    let port = port.ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", wanted.port)))?;
    let ip = pod["status"]["podIPs"][0]["ip"].as_str().unwrap_or_default();
    Ok((allowed(ip)?, port))
}

/// One of a service's ready endpoints; `seed` chooses, `has` says whether the pod of that name has that address.
fn behind_service(
    wanted: &Wanted<'_>,
    id: &str,
    service: &Value,
    endpoints: &Value,
    seed: usize,
    has: &dyn Fn(&str, &str) -> bool,
) -> Result<(IpAddr, u16), Status> {
    let mut port_name = wanted.port;
    if let Ok(number) = wanted.port.parse::<u64>() {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let port = ports.into_iter().find(|p| p["port"].as_u64() == Some(number)).ok_or_else(|| {
            Status::service_unavailable(format!("no service port {number} found for service {:?}", wanted.name))
        })?;
        port_name = port["name"].as_str().unwrap_or_default();
    }
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    let mut places = Vec::new();
    for subset in subsets {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let named = ports.into_iter().find(|p| p["name"].as_str().unwrap_or_default() == port_name);
        let Some(port) = named.and_then(|p| u16::try_from(p["port"].as_u64()?).ok()) else { continue };
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        places.extend(addresses.filter(|a| a["targetRef"]["kind"] == "Pod").map(|address| (address, port)));
    }
    let start = seed.checked_rem(places.len()).unwrap_or(0);
    // Only pods are reached: whoever writes Endpoints by hand must not point the server elsewhere.
    let chosen = places[start..].iter().chain(&places[..start]).find_map(|(address, port)| {
        let ip = address["ip"].as_str()?;
        let target = allowed(ip).ok()?;
        has(address["targetRef"]["name"].as_str()?, ip).then_some((target, *port))
    });
    chosen.ok_or_else(|| {
        let name = if endpoints["subsets"].as_array().is_none_or(Vec::is_empty) { wanted.name } else { id };
        Status::service_unavailable(format!("no endpoints available for service {name:?}"))
    })
}

/// An address that may be dialed: not the server's own loopback, nor a link's.
fn allowed(ip: &str) -> Result<IpAddr, Status> {
    let refused = || Status::bad_request("address not allowed");
    let ip: IpAddr = ip.parse::<IpAddr>().map_err(|_| refused())?.to_canonical();
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() { Err(refused()) } else { Ok(ip) }
}

async fn dial(ip: IpAddr, port: u16, tls: bool) -> std::io::Result<Box<dyn Io>> {
    let tcp = tokio::net::TcpStream::connect((ip, port)).await?;
    tcp.set_nodelay(true)?;
    if !tls {
        return Ok(Box::new(tcp));
    }
    // Their certificates are their own affair, as upstream has it.
    let config = crate::tls::unverified().map_err(std::io::Error::other)?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(ServerName::IpAddress(ip.into()), tcp).await?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (id, expected) in [
            ("p", Some((false, "p", ""))),
            ("p:80", Some((false, "p", "80"))),
            ("http:p:web", Some((false, "p", "web"))),
            ("https:p:", Some((true, "p", ""))),
            ("ftp:p:1", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            let found = wanted(id).map(|w| (w.tls, w.name, w.port));
            assert_eq!(found, expected, "{id}");
        }
    }

    #[test]
    fn pods() {
        let pod = |ip: &str| json!({"spec": {"containers": [{}, {"ports": [{"containerPort": 9}]}]}, "status": {"podIPs": [{"ip": ip}]}});
        for (id, ip, expected) in [
            ("p", "10.0.0.1", Ok(9)),
            ("p:81", "fd00::1", Ok(81)),
            ("p", "127.0.0.1", Err("address not allowed")),
            ("p", "169.254.169.254", Err("address not allowed")),
            ("p", "fe80::1", Err("address not allowed")),
            ("p", "::ffff:127.0.0.1", Err("address not allowed")),
            ("p", "::ffff:169.254.169.254", Err("address not allowed")),
            ("p", "", Err("address not allowed")),
            ("p:web", "10.0.0.1", Err("invalid pod request \"web\"")),
        ] {
            let found = of_pod(&wanted(id).unwrap(), &pod(ip)).map(|(_, port)| port).map_err(|s| s.message);
            assert_eq!(found, expected.map_err(str::to_owned), "{id} {ip}");
        }
    }

    #[test]
    fn services() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "other", "port": 81}]}});
        let pod = json!({"kind": "Pod", "name": "p"});
        let endpoints = json!({"subsets": [{
            "addresses": [{"ip": "10.0.0.1", "targetRef": pod}, {"ip": "10.0.0.2", "targetRef": pod}, {"ip": "1.1.1.1"},
                {"ip": "1.1.1.2", "targetRef": pod}],
            "ports": [{"name": "web", "port": 8080}],
        }]});
        let none = json!({});
        for (id, endpoints, seed, expected) in [
            ("s:web", &endpoints, 0, Ok("10.0.0.1:8080")),
            ("s:80", &endpoints, 4, Ok("10.0.0.2:8080")),
            ("s:80", &endpoints, 2, Ok("10.0.0.1:8080")),
            ("s:81", &endpoints, 0, Err("no endpoints available for service \"s:81\"")),
            ("s:82", &endpoints, 0, Err("no service port 82 found for service \"s\"")),
            ("s:web", &none, 0, Err("no endpoints available for service \"s\"")),
        ] {
            let has = |name: &str, ip: &str| name == "p" && ip.starts_with("10.0.0.");
            let found = behind_service(&wanted(id).unwrap(), id, &service, endpoints, seed, &has);
            let found = found.map(|(ip, port)| format!("{ip}:{port}")).map_err(|s| s.message);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{id}");
        }
    }

    #[test]
    fn rest_of_the_path() {
        for (path, expected) in [
            ("/api/v1/namespaces/a/pods/p/proxy", ""),
            ("/api/v1/namespaces/a/pods/p/proxy/", "/"),
            ("/api/v1/namespaces/proxy/pods/proxy/proxy/x", "/x"),
            ("/api/v1/nodes/proxy/proxy/pods", "/pods"),
            ("/api/v1/namespaces/a/pods/p:80/proxy/a/proxy/b%2Fc", "/a/proxy/b%2Fc"),
        ] {
            assert_eq!(rest(path), expected, "{path}");
        }
    }
}
