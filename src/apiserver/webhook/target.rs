//! Where a webhook is: a URL, or a Service that is resolved to one of its endpoints when a connection is made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde_json::Value;
use socket2::{SockRef, TcpKeepalive};
use store::{Store, View};
use tokio::net::TcpStream;
use tokio::time::Instant;
use types::registry::by_kind;

use crate::hooks::json::{boolean, get, int, list, text, texts};
use crate::verbs::facts::facts;

/// What a port is when nothing else is said.
const HTTPS: u16 = 443;
/// Endpoints that one connection tries before it is given up.
const TRIED_MAX: usize = 4;
/// What reaching one of them has, all together. Source: Go's default transport.
const DIAL_LIMIT: Duration = Duration::from_secs(30);
/// How often the other side is asked whether it is still there, over a connection on which nothing is said: a stream has no
/// other limit. Source: Go's default transport.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Service { namespace: String, name: String, port: u16, path: String },
    Url { host: String, port: u16, authority: String, path: String },
}

impl Target {
    /// # Errors
    /// A text, when neither is given or the URL cannot be read.
    pub fn parse(config: &Value) -> Result<Self, String> {
        let service = get(config, "service");
        if service.is_object() {
            let path = text(service, "path");
            return Ok(Self::Service {
                namespace: text(service, "namespace").to_owned(),
                name: text(service, "name").to_owned(),
                port: int(service, "port").and_then(|p| u16::try_from(p).ok()).unwrap_or(HTTPS),
                path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            });
        }
        let url = text(config, "url");
        if url.is_empty() {
            return Err("webhook configuration must have either service or URL".into());
        }
        let uri: http::Uri = url.parse().map_err(|e| format!("Unparsable URL: {e}"))?;
        let authority = uri.authority().ok_or("Unparsable URL: no host")?;
        Ok(Self::Url {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(HTTPS),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }

    /// The `Host` of a request.
    pub fn authority(&self) -> String {
        match self {
            Self::Service { namespace, name, port, .. } => format!("{name}.{namespace}.svc:{port}"),
            Self::Url { authority, .. } => authority.clone(),
        }
    }

    /// The path of a request, which tells the webhook how long it has.
    pub fn path(&self, timeout: Duration) -> String {
        let (Self::Service { path, .. } | Self::Url { path, .. }) = self;
        let mark = if path.contains('?') { '&' } else { '?' };
        format!("{path}{mark}timeout={}s", timeout.as_secs())
    }

    pub fn url(&self, timeout: Duration) -> String {
        format!("https://{}{}", self.authority(), self.path(timeout))
    }

    /// What the certificate must be good for.
    pub fn server_name(&self) -> Result<ServerName<'static>, String> {
        let name = match self {
            Self::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
            Self::Url { host, .. } => match host.parse::<IpAddr>() {
                Ok(address) => return Ok(ServerName::IpAddress(address.into())),
                Err(_) => host.clone(),
            },
        };
        ServerName::try_from(name).map_err(|e| e.to_string())
    }

    /// A connection to the first address that takes one.
    pub async fn dial(&self, store: &dyn Store) -> Result<TcpStream, String> {
        let addresses = match self {
            Self::Service { namespace, name, port, .. } => {
                let found = resolve(&*store.snapshot(), namespace, name, *port)?;
                match found {
                    Resolved::Addresses(addresses) => addresses,
                    Resolved::Name(host, port) => lookup(&host, port).await?,
                }
            }
            Self::Url { host, port, .. } => lookup(host, *port).await?,
        };
        let deadline = Instant::now() + DIAL_LIMIT;
        let mut byte = [0];
        types::random::fill(&mut byte);
        let first = usize::from(byte[0]).checked_rem(addresses.len()).unwrap_or(0);
        let mut last = String::from("no such host");
        for address in addresses.iter().cycle().skip(first).take(addresses.len().min(TRIED_MAX)) {
            match connect(*address, deadline).await {
                Ok(tcp) => return Ok(tcp),
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

async fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream, String> {
    let connected = tokio::time::timeout_at(deadline, TcpStream::connect(address));
    let connected = connected.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let tcp = connected.map_err(|error| dial_text(address, &error))?;
    let kept = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    let ready = tcp.set_nodelay(true).and_then(|()| SockRef::from(&tcp).set_tcp_keepalive(&kept));
    ready.map_err(|e| e.to_string())?;
    Ok(tcp)
}

fn dial_text(address: SocketAddr, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {why}")
}

async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await;
    Ok(found.map_err(|_| format!("dial tcp: lookup {host}: no such host"))?.collect())
}

/// Whether a stored EndpointSlice belongs to the Service.
pub fn is_slice_of(entry: &store::Entry, service: &str) -> bool {
    types::selector::Labels::label(&facts(entry), "kubernetes.io/service-name") == Some(service)
}

/// The ready endpoints of an EndpointSlice behind the port of that name.
pub fn ready(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let port = list(slice, "ports").iter().find(|p| text(p, "name") == port_name).and_then(|p| int(p, "port"));
    let Some(port) = port.and_then(|p| u16::try_from(p).ok()) else { return Vec::new() };
    let is_ready = |endpoint: &&Value| {
        let conditions = get(endpoint, "conditions");
        // Absent means ready.
        get(conditions, "ready").is_null() || boolean(conditions, "ready")
    };
    let endpoints = list(slice, "endpoints").iter().filter(is_ready);
    let addresses = endpoints.flat_map(|endpoint| texts(endpoint, "addresses")).filter_map(|a| a.parse().ok());
    addresses.map(|address: IpAddr| SocketAddr::new(address, port)).collect()
}

enum Resolved {
    Addresses(Vec<SocketAddr>),
    /// An ExternalName.
    Name(String, u16),
}

/// The ready endpoints behind a port of a Service.
///
/// Source: apiserver `pkg/util/proxy/proxy.go` `ResolveEndpoint`.
fn resolve(view: &dyn View, namespace: &str, name: &str, port: u16) -> Result<Resolved, String> {
    let read = |key: &str| -> Option<Value> { serde_json::from_slice(view.get(key)?.value()).ok() };
    let service = by_kind("", "v1", "Service").and_then(|kind| read(&kind.store_key(namespace, name)));
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
    let spec = get(&service, "spec");
    if text(spec, "type") == "ExternalName" {
        return Ok(Resolved::Name(text(spec, "externalName").to_owned(), port));
    }
    let named = list(spec, "ports").iter().find(|p| int(p, "port") == Some(i64::from(port)));
    let port_name = text(named.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?, "name");
    let Some(slices) = by_kind("discovery.k8s.io", "v1", "EndpointSlice") else {
        return Err(format!("no endpoints available for service {name:?}"));
    };
    let mut addresses = Vec::new();
    for entry in view.range(&slices.store_key(namespace, ""), None).filter(|entry| is_slice_of(entry, name)) {
        let Ok(slice) = serde_json::from_slice::<Value>(entry.value()) else { continue };
        addresses.extend(ready(&slice, port_name));
    }
    if addresses.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    Ok(Resolved::Addresses(addresses))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn connections_are_kept_alive_and_not_waited_for_without_end() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let first = connect(address, Instant::now() + DIAL_LIMIT).await.unwrap();
        assert!(SockRef::from(&first).keepalive().unwrap());
        // Nobody accepts: soon the queue is full, and the next one is not answered.
        let (mut open, mut late) = (vec![first], None);
        while late.is_none() && open.len() < 8 {
            match connect(address, Instant::now() + Duration::from_millis(200)).await {
                Ok(tcp) => open.push(tcp),
                Err(why) => late = Some(why),
            }
        }
        assert_eq!(late, Some(format!("dial tcp {address}: i/o timeout")));
    }

    #[test]
    fn targets() {
        let second = Duration::from_secs(1);
        for (config, url) in [
            (json!({"service": {"namespace": "n", "name": "s", "path": "/a"}}), Ok("https://s.n.svc:443/a?timeout=1s")),
            (json!({"service": {"namespace": "n", "name": "s", "port": 8443}}), Ok("https://s.n.svc:8443/?timeout=1s")),
            (json!({"url": "https://host.example/x"}), Ok("https://host.example/x?timeout=1s")),
            (json!({"url": "https://[::1]:9443"}), Ok("https://[::1]:9443/?timeout=1s")),
            (json!({}), Err("webhook configuration must have either service or URL")),
        ] {
            let found = Target::parse(&config).map(|t| t.url(second));
            assert_eq!(found, url.map(str::to_owned).map_err(str::to_owned), "{config}");
        }
    }
}
