//! Where a webhook is: a URL, or a Service that is resolved to one of its endpoints when a connection is made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde_json::Value;
use store::{Store, View};
use tokio::net::TcpStream;
use types::registry::by_kind;

use crate::hooks::json::{boolean, get, int, list, text, texts};
use crate::verbs::facts::facts;

/// What a port is when nothing else is said.
const HTTPS: u16 = 443;
/// Endpoints that one connection tries before it is given up.
const TRIED_MAX: usize = 4;

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
        let mut byte = [0];
        types::random::fill(&mut byte);
        let first = usize::from(byte[0]).checked_rem(addresses.len()).unwrap_or(0);
        let mut last = String::from("no such host");
        for address in addresses.iter().cycle().skip(first).take(addresses.len().min(TRIED_MAX)) {
            match TcpStream::connect(address).await {
                Ok(tcp) => {
                    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
                    return Ok(tcp);
                }
                Err(error) => last = dial_text(*address, &error),
            }
        }
        Err(last)
    }
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

enum Resolved {
    Addresses(Vec<SocketAddr>),
    /// An ExternalName.
    Name(String, u16),
}

/// The ready endpoints behind a port of a Service.
///
/// Source: apiserver `pkg/util/proxy/proxy.go` `ResolveEndpoint`.
fn resolve(view: &dyn View, namespace: &str, name: &str, port: u16) -> Result<Resolved, String> {
    let read = |key: &str| -> Option<Value> { serde_json::from_slice(&view.get(key)?.value).ok() };
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
    for entry in view.range(&slices.store_key(namespace, ""), None) {
        if types::selector::Labels::label(facts(entry), "kubernetes.io/service-name") != Some(name) {
            continue;
        }
        let Ok(slice) = serde_json::from_slice::<Value>(&entry.value) else { continue };
        let port = list(&slice, "ports").iter().find(|p| text(p, "name") == port_name);
        let Some(port) = port.and_then(|p| int(p, "port")).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in list(&slice, "endpoints") {
            let conditions = get(endpoint, "conditions");
            // Absent means ready.
            if get(conditions, "ready").is_null() || boolean(conditions, "ready") {
                let parsed = texts(endpoint, "addresses").filter_map(|a| a.parse().ok());
                addresses.extend(parsed.map(|address: IpAddr| SocketAddr::new(address, port)));
            }
        }
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
