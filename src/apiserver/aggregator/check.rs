//! Whether an aggregated server is there: its Service, an endpoint behind it, an answer from it.
//!
//! Source: kube-aggregator `pkg/controllers/status/remote/remote_available_controller.go`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use store::{Store, View};
use types::registry::by_kind;

use super::link::{Asked, Link, Read};
use crate::Identity;
use crate::auth::identity::GROUP_MASTERS;
use crate::hooks::json::{get, int, list, text};
use crate::webhook::{Target, is_slice_of, ready};

/// What one request has.
const LIMIT: Duration = Duration::from_secs(5);
/// Requests at once after a first one that failed: another endpoint may answer.
const MORE: usize = 4;

/// The condition that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    pub fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".into() }
    }

    fn not(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }

    /// It was asked and did not answer well, which nothing in this cluster tells of when it passes.
    pub fn failed_to_answer(message: String) -> Self {
        Self::not("FailedDiscoveryCheck", message)
    }
}

/// Looks at what this cluster says of the server. Returns where it is, as messages name it.
///
/// # Errors
/// The verdict that there is nothing to be asked.
pub fn place(view: &dyn View, target: &Target) -> Result<String, Verdict> {
    let Target::Service { namespace, name, port, .. } = target else { return Ok(target.authority()) };
    let read = |key: &str| -> Option<Value> { serde_json::from_slice(view.get(key)?.value()).ok() };
    let service = by_kind("", "v1", "Service").and_then(|kind| read(&kind.store_key(namespace, name)));
    let Some(service) = service else {
        return Err(Verdict::not("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    let slices: Vec<Value> = by_kind("discovery.k8s.io", "v1", "EndpointSlice")
        .into_iter()
        .flat_map(|kind| view.range(&kind.store_key(namespace, ""), None))
        .filter(|entry| is_slice_of(entry, name))
        .filter_map(|entry| serde_json::from_slice(entry.value()).ok())
        .collect();
    decide(&service, &slices, (namespace, name, *port))
}

fn decide(service: &Value, slices: &[Value], at: (&str, &str, u16)) -> Result<String, Verdict> {
    let (namespace, name, port) = at;
    let spec = get(service, "spec");
    if text(spec, "type") != "ClusterIP" {
        let host = [text(spec, "externalName"), text(spec, "clusterIP")].into_iter().find(|h| !h.is_empty());
        return Ok(host_port(host.unwrap_or(name), port));
    }
    let Some(found) = list(spec, "ports").iter().find(|p| int(p, "port") == Some(i64::from(port))) else {
        let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(Verdict::not("ServicePortError", why));
    };
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Err(Verdict::not("EndpointsNotFound", why));
    }
    let port_name = text(found, "name");
    if slices.iter().all(|slice| ready(slice, port_name).is_empty()) {
        let why = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Err(Verdict::not("MissingEndpoints", why));
    }
    let address = text(spec, "clusterIP");
    Ok(host_port(if matches!(address, "" | "None") { name } else { address }, port))
}

fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Asks the server for what it must serve, and hands back its answer.
///
/// # Errors
/// The last of the failures, when all fail.
pub async fn probe(store: &dyn Store, link: &Arc<Link>, place: &str) -> Result<Read, Verdict> {
    let url = format!("https://{place}{}", link.root());
    let identity = aggregator();
    let asked = Asked { path: link.root(), accept: "application/json", tag: "", limit: LIMIT };
    let once = || async {
        let why = match link.read(store, &identity, &asked).await {
            Ok(read) if (200..300).contains(&read.code) => return Ok(read),
            Ok(read) => format!("bad status from {url}: {}", read.code),
            Err(why) => format!("Get {url:?}: {why}"),
        };
        link.forget();
        Err(Verdict::failed_to_answer(format!("failing or missing response from {url}: {why}")))
    };
    let mut last = once().await;
    if last.is_err() {
        let mut more: FuturesUnordered<_> = (0..MORE).map(|_| once()).collect();
        while last.is_err()
            && let Some(next) = more.next().await
        {
            last = next;
        }
    }
    last
}

/// In whose name this server itself asks.
pub fn aggregator() -> Identity {
    Identity { user: "system:kube-aggregator".into(), groups: vec![GROUP_MASTERS.into()], ..Identity::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts() {
        let service =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.43.0.9", "ports": [{"port": 443, "name": "https"}]}});
        let slice = json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "https", "port": 8443}]});
        let with = |base: &Value, path: &str, value: Value| {
            let mut changed = base.clone();
            *changed.pointer_mut(path).unwrap() = value;
            changed
        };
        let missing = "endpointslices for service/s in \"n\" have no addresses with port name \"https\"";
        for (service, slices, expected) in [
            (service.clone(), vec![slice.clone()], Ok("10.43.0.9:443")),
            (with(&service, "/spec/clusterIP", json!("fd00::1")), vec![slice.clone()], Ok("[fd00::1]:443")),
            (with(&service, "/spec/clusterIP", json!("None")), vec![slice.clone()], Ok("s:443")),
            (
                with(&service, "/spec/ports/0/port", json!(80)),
                vec![slice.clone()],
                Err(("ServicePortError", "service/s in \"n\" is not listening on port 443")),
            ),
            (with(&service, "/spec/type", json!("NodePort")), vec![], Ok("10.43.0.9:443")),
            (json!({"spec": {"type": "ExternalName", "externalName": "a.example"}}), vec![], Ok("a.example:443")),
            (service.clone(), vec![], Err(("EndpointsNotFound", "cannot find endpointslices for service/s in \"n\""))),
            (service.clone(), vec![with(&slice, "/endpoints", json!([]))], Err(("MissingEndpoints", missing))),
            (
                service.clone(),
                vec![with(&slice, "/endpoints/0", json!({"conditions": {"ready": false}}))],
                Err(("MissingEndpoints", missing)),
            ),
            (service.clone(), vec![with(&slice, "/ports/0/name", json!("x"))], Err(("MissingEndpoints", missing))),
        ] {
            let found = decide(&service, &slices, ("n", "s", 443));
            let expected = expected.map(str::to_owned).map_err(|(reason, why)| Verdict::not(reason, why.into()));
            assert_eq!(found, expected, "{service} {slices:?}");
        }
    }
}
