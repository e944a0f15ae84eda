//! What every cluster starts with: written where it is absent, completed where it is less than it must be, never reduced.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use ipnet::IpNet;
use serde_json::{Value, json};
use store::{Expect, Op, Store, Write};
use types::field::Path;
use types::registry::{Kind, by_kind};
use types::status::{Reason, Status};

use super::object::{self, fill_new, meta};
use crate::aggregator::{FrontProxy, trust};
use crate::auth::bootstrap;
use crate::hooks::json::{get, list};
use crate::hooks::{apiregistration, flowcontrol};
use crate::managed::Managed;
use crate::server::{ApiServer, Clock, Peer};
use crate::{Body, Identity, hooks};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Source: `pkg/apis/scheduling/v1/helpers.go`.
const PRIORITY_CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// The range that addresses of Services are taken from, which upstream's controller of the same name writes.
/// Source: `pkg/controlplane/controller/defaultservicecidr`.
pub fn service_cidr(ranges: &[IpNet]) -> Value {
    let cidrs: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes default Service CIDR is ready"}]}})
}

/// The default range gets that of the second family beside it when the server has been given one; it changes in no other way.
fn second_family(stored: &Value, wanted: &Value) -> Option<Value> {
    let (is, should) = (list(get(stored, "spec"), "cidrs"), list(get(wanted, "spec"), "cidrs"));
    if is == should {
        return None;
    }
    if is.len() != 1 || should.len() != 2 || is[0] != should[0] {
        tracing::warn!(?is, ?should, "the ServiceCIDR kubernetes is not the configured range: what is stored holds");
        return None;
    }
    let mut new = stored.clone();
    new["spec"]["cidrs"] = wanted["spec"]["cidrs"].clone();
    Some(new)
}

/// The namespaces of the system.
pub fn namespaces() -> Vec<Value> {
    NAMESPACES.iter().map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).collect()
}

fn wanted(ranges: &[IpNet]) -> Vec<Value> {
    let mut all = namespaces();
    all.extend(PRIORITY_CLASSES.iter().map(|(name, value, description)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description})
    }));
    all.extend(bootstrap::objects());
    all.extend(flowcontrol::bootstrap::objects());
    all.extend(apiregistration::built_in());
    all.push(service_cidr(ranges));
    all
}

/// Writes what is missing in one batch: a fresh store is ready after one flush.
pub async fn bootstrap(store: &dyn Store, clock: &Clock, ranges: &[IpNet]) -> Result<(), store::Error> {
    complete(store, clock, wanted(ranges)).await
}

/// Writes what is missing of these, and what is less than it must be.
pub async fn complete(store: &dyn Store, clock: &Clock, all: Vec<Value>) -> Result<(), store::Error> {
    let (view, now) = (store.snapshot(), clock());
    let identity = Identity::component("system:apiserver");
    let mut batch = Vec::new();
    for mut wanted in all {
        let Some(kind) = kind_of(&wanted) else { continue };
        let (namespace, name) = (meta(&wanted, "namespace").to_owned(), meta(&wanted, "name").to_owned());
        let key: Arc<str> = kind.store_key(&namespace, &name).into();
        let (object, managed, expect) = match view.get(&key) {
            None => {
                let hooks = hooks::of(kind);
                fill_new(&mut wanted, &namespace, now);
                // Only the defaults of custom kinds can be too many.
                let _ = hooks.default(&mut wanted);
                let context = hooks::Context { subresource: "", identity: &identity, now };
                let status = wanted.as_object_mut().and_then(|object| object.remove("status"));
                hooks.prepare_create(&mut wanted, &context);
                if let Some(mut status) = status {
                    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
                        condition["lastTransitionTime"] = types::time::rfc3339(now).into();
                    }
                    wanted["status"] = status;
                }
                // Nobody owns what was there before anybody came.
                (wanted, Managed::default(), Expect::Absent)
            }
            Some(entry) => {
                let Ok((stored, managed)) = object::open(&entry) else { continue };
                let reconcile = match &*kind.group {
                    "flowcontrol.apiserver.k8s.io" => flowcontrol::bootstrap::reconcile,
                    crate::aggregator::GROUP => apiregistration::reconcile,
                    "networking.k8s.io" => second_family,
                    _ => bootstrap::reconcile,
                };
                match reconcile(&stored, &wanted) {
                    Some(merged) => (merged, managed, Expect::At(entry.modified())),
                    None => continue,
                }
            }
        };
        let op = Op::Put(object::to_store(&kind.into(), &object, &managed));
        batch.push(Write { key, expect, class: store::Class::Durable, op });
    }
    if !batch.is_empty() {
        store.write(batch).await?;
    }
    Ok(())
}

/// The `kubernetes` Service in `default` and its endpoint: how pods find this server. Goes the way of any other request, so
/// that the address is allocated; an endpoint that has moved is corrected. An address that no pod could reach is no endpoint: a
/// host without a network serves its own users, and what an earlier start published stays.
///
/// When the default range is not the configured one (which is how a cluster moves to another), the address may be one that
/// cannot be had: a Service that is there stays as it is, and one that is not is made once there is a range for it.
///
/// Source: `pkg/controlplane/controller/kubernetesservice`, `pkg/controlplane/reconcilers`.
pub async fn publish(server: &ApiServer) -> Result<(), Status> {
    let Some(advertise) = server.shared.config.advertise else { return Ok(()) };
    let address = server.shared.allocator.kubernetes_service_ip();
    let (host, port) = (advertise.ip().to_string(), advertise.port());
    let family = if advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address.to_string(),
            "ports": [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}]}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": [{"addresses": [host], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": host}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    let services = async {
        match ensure(server, "/api/v1/namespaces/default/services", &service).await {
            Err(status) if status.is(Reason::NotFound) => {
                tracing::warn!(%address, "the Service kubernetes could not be made: no ready range has its address");
                Ok(())
            }
            other => other,
        }
    };
    if !reachable(advertise.ip()) {
        return services.await;
    }
    // The three do not depend on each other: one flush serves them.
    let (a, b, c) = tokio::join!(
        services,
        ensure(server, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice),
        ensure(server, "/api/v1/namespaces/default/endpoints", &endpoints),
    );
    a.and(b).and(c)
}

/// Tells extension servers how to believe this one, besides what others have told them.
///
/// Source: `pkg/controlplane/controller/clusterauthenticationtrust`.
pub async fn tell(server: &ApiServer, proxy: &FrontProxy) -> Result<(), Status> {
    let there = server.store().snapshot().get(trust::STORE_KEY).and_then(|entry| object::read(&entry).ok());
    let there = there.unwrap_or_default();
    let map = trust::config_map(&there, proxy, server.now());
    if there["data"] == map["data"] {
        return Ok(());
    }
    ensure(server, "/api/v1/namespaces/kube-system/configmaps", &map).await
}

/// Whether an address may stand in an endpoint: not loopback, link-local or unspecified.
pub fn reachable(address: IpAddr) -> bool {
    let mut errors = Vec::new();
    hooks::core::endpoints::ip(&address.to_string(), &Path::new("ip"), &mut errors);
    errors.is_empty()
}

/// Creates the object, or merges it into the one that is there; a merge that changes nothing writes nothing.
async fn ensure(server: &ApiServer, collection: &str, object: &Value) -> Result<(), Status> {
    let created = send(server, Method::POST, collection, "application/json", object).await;
    let exists = |status: &Status| status.is(Reason::AlreadyExists) || status.is(Reason::Invalid);
    match created {
        Err(status) if exists(&status) => {
            let mut patch = object.clone();
            if let Some(spec) = patch["spec"].as_object_mut() {
                // An address once given is never changed.
                spec.remove("clusterIP");
            }
            let path = format!("{collection}/{}", meta(object, "name"));
            send(server, Method::PATCH, &path, "application/merge-patch+json", &patch).await
        }
        other => other,
    }
}

/// Merges `patch` into the object at `path`, as the server itself.
pub async fn merge(server: &ApiServer, path: &str, patch: &Value) -> Result<(), Status> {
    send(server, Method::PATCH, path, "application/merge-patch+json", patch).await
}

/// Sends a request as the server itself.
pub async fn send(
    server: &ApiServer,
    method: Method,
    path: &str,
    media: &'static str,
    body: &Value,
) -> Result<(), Status> {
    let mut request = Request::new(Body::full(body.to_string()));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(Status::internal)?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("kube-apiserver"));
    let response = server.call(request, Peer::Local(Arc::new(Identity::admin()))).await;
    if response.status().is_success() {
        return Ok(());
    }
    let body = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
    Err(serde_json::from_slice(&body).unwrap_or_else(Status::internal))
}

fn kind_of(object: &Value) -> Option<&'static Kind> {
    let gvk = crate::http::respond::gvk(object);
    by_kind(&gvk.group, &gvk.version, &gvk.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_range_gets_a_second_family_and_changes_in_no_other_way() {
        let range = |cidrs: &[&str]| json!({"metadata": {"uid": "u"}, "spec": {"cidrs": cidrs}});
        for (is, should, becomes) in [
            (&["10.43.0.0/16"][..], &["10.43.0.0/16"][..], false),
            (&["10.43.0.0/16"], &["10.43.0.0/16", "fd43::/112"], true),
            (&["10.43.0.0/16"], &["fd43::/112", "10.43.0.0/16"], false),
            (&["10.43.0.0/16", "fd43::/112"], &["10.43.0.0/16"], false),
            (&["10.43.0.0/16"], &["10.96.0.0/16"], false),
        ] {
            let expected = becomes.then(|| range(should));
            assert_eq!(second_family(&range(is), &range(should)), expected, "{is:?} {should:?}");
        }
    }
}
