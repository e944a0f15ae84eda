//! Endpoints controller. The older form of EndpointSlices: one object per Service, one address family, at most 1,000 addresses.
//!
//! Source: kubernetes `pkg/controller/endpoint/endpoints_controller.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, DeleteParams, Key, Object, Recorder, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

use super::endpointslice::{
    addresses, families, host_name, is_headless, reference, selected, selects, target_port, watch_pods,
};
use crate::{Context, pods};

const NAME: &str = "endpoint-controller";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object; beyond it the object says that it is truncated.
const ADDRESSES_MAX: usize = 1000;
const WORKERS: usize = 5;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create(Box<Endpoints>),
    Update(Box<Endpoints>),
    Delete(String),
}

/// Not ready, but part of the service: it may become ready again.
fn may_recover(pod: &Pod) -> bool {
    match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("Never") => !pods::is_finished(pod),
        Some("OnFailure") => pods::phase(pod) != "Succeeded",
        _ => true,
    }
}

pub fn plan(service: &Service, all: &[Arc<Pod>], current: Option<&Endpoints>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if service.is_terminating() || selects(service).is_none() {
        return plan;
    }
    let spec = service.spec.clone().unwrap_or_default();
    let tolerate = spec.publish_not_ready_addresses == Some(true);
    let service_ports = spec.ports.unwrap_or_default();
    let family = families(service)[0];
    // Ports are the key: pods whose named ports differ are in subsets of their own.
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut left = ADDRESSES_MAX;
    let mut truncated = false;
    for pod in all.iter().filter(|p| selected(service, p) && (tolerate || !p.is_terminating())) {
        let Some(ip) = addresses(pod, family).into_iter().next() else { continue };
        let ports: Vec<EndpointPort> = service_ports
            .iter()
            .filter_map(|p| {
                Some(EndpointPort {
                    name: p.name.clone().filter(|n| !n.is_empty()),
                    port: target_port(p, pod)?,
                    protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: p.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && !(service_ports.is_empty() && is_headless(service)) {
            continue;
        }
        let ready = tolerate || pods::is_ready(pod);
        if !ready && !may_recover(pod) {
            continue;
        }
        if left == 0 {
            truncated = true;
            break;
        }
        left -= 1;
        let address = EndpointAddress {
            ip,
            hostname: host_name(service, pod),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(reference(pod)),
        };
        let subset = groups.entry(serde_json::to_string(&ports).unwrap_or_default()).or_insert_with(|| {
            EndpointSubset { ports: Some(ports.clone()).filter(|p| !p.is_empty()), ..EndpointSubset::default() }
        });
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = groups.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by_key(|a| (a.ip.parse::<IpAddr>().ok(), a.target_ref.as_ref().and_then(|r| r.uid.clone())));
        }
        if let Some(ports) = &mut subset.ports {
            ports.sort_by(|a, b| (&a.name, a.port).cmp(&(&b.name, b.port)));
        }
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    push(service.key(), labels, subsets, truncated, current, &mut plan);
    plan
}

fn push(
    key: Key,
    labels: BTreeMap<String, String>,
    subsets: Vec<EndpointSubset>,
    truncated: bool,
    current: Option<&Endpoints>,
    plan: &mut Plan<Action>,
) {
    let subsets = Some(subsets).filter(|s| !s.is_empty());
    let mut new = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    });
    new.metadata.labels = Some(labels);
    new.subsets = subsets;
    let annotations = new.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        new.metadata.annotations = None;
    }
    match current {
        None => plan.push(Action::Create(Box::new(new)), "the service has no endpoints object"),
        Some(old) => {
            let empty = |s: &Option<Vec<EndpointSubset>>| s.as_ref().is_none_or(Vec::is_empty);
            let same = old.metadata.labels == new.metadata.labels
                && old.metadata.annotations.clone().unwrap_or_default()
                    == new.metadata.annotations.clone().unwrap_or_default()
                && (old.subsets == new.subsets || empty(&old.subsets) && empty(&new.subsets));
            if !same {
                plan.push(Action::Update(Box::new(new)), "endpoints changed");
            }
        }
    }
}

/// The endpoints of `default/kubernetes`: where this API server is reached.
pub fn plan_kubernetes(current: Option<&Endpoints>, advertise: &[IpAddr], port: u16) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(first) = advertise.first() else { return plan };
    let mut ips: Vec<IpAddr> = advertise.iter().filter(|a| a.is_ipv6() == first.is_ipv6()).copied().collect();
    ips.sort_unstable();
    let subset = EndpointSubset {
        addresses: Some(
            ips.iter().map(|ip| EndpointAddress { ip: ip.to_string(), ..EndpointAddress::default() }).collect(),
        ),
        ports: Some(vec![EndpointPort {
            name: Some("https".into()),
            port: port.into(),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }]),
        not_ready_addresses: None,
    };
    let mut labels = current.and_then(|c| c.metadata.labels.clone()).unwrap_or_default();
    labels.insert("endpointslice.kubernetes.io/skip-mirror".into(), "true".into());
    push(Key::new("default", "kubernetes"), labels, vec![subset], false, current, &mut plan);
    plan
}

struct Legacy {
    client: Client,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    endpoints: Arc<Cache<Endpoints>>,
    recorder: Recorder,
    /// Services that were seen to go; their endpoints go too, whoever wrote them.
    gone: Arc<Mutex<BTreeSet<Key>>>,
    advertise: Vec<IpAddr>,
    port: u16,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let services = context.informers.cache::<Service>(Selector::all());
    let endpoints = context.informers.cache::<Endpoints>(Selector::all());
    let (pods, queue) = (context.pods(), context.queue());
    let gone = Arc::new(Mutex::new(BTreeSet::new()));
    let (dirty, went) = (Arc::clone(&queue), Arc::clone(&gone));
    services.on_change(Box::new(move |old, new| {
        if let Some(s) = new.or(old) {
            if new.is_none() {
                went.lock().insert(s.key());
            }
            dirty.add(s.key());
        }
    }));
    watch_pods(&pods, &services, &queue);
    let dirty = Arc::clone(&queue);
    endpoints.on_change(Box::new(move |old, new| {
        if let Some(e) = new.or(old) {
            dirty.add(e.key());
        }
    }));
    let (advertise, port) = (context.config.advertise.clone(), context.config.api_port);
    if !advertise.is_empty() {
        queue.add(Key::new("default", "kubernetes"));
    }
    context.run(Legacy { client, services, pods, endpoints, recorder, gone, advertise, port }, queue, WORKERS);
}

impl Controller for Legacy {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let current = self.endpoints.get(key);
        if *key == Key::new("default", "kubernetes") {
            return plan_kubernetes(current.as_deref(), &self.advertise, self.port);
        }
        let went = self.gone.lock().remove(key);
        match (self.services.get(key), current) {
            (Some(service), current) => plan(&service, &self.pods.in_namespace(&key.namespace), current.as_deref()),
            (None, Some(current)) if went || current.label(MANAGED_BY.0) == Some(MANAGED_BY.1) => {
                let mut plan = Plan::nothing();
                plan.push(Action::Delete(current.uid().into()), "its service is gone");
                plan
            }
            (None, _) => Plan::nothing(),
        }
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let outcome = match action {
            Action::Create(e) => self.client.create(&*e).await,
            Action::Update(e) => self.client.update(&*e).await,
            Action::Delete(uid) => {
                let params = DeleteParams::uid(&uid);
                return match self.client.delete::<Endpoints>(&key.namespace, &key.name, &params).await {
                    Ok(_) => Ok(vec![Box::pin(self.endpoints.going(key, &uid))]),
                    Err(error) if error.is_not_found() => Ok(vec![]),
                    Err(error) => {
                        self.gone.lock().insert(key.clone());
                        Err(error)
                    }
                };
            }
        };
        match outcome {
            Ok(e) => Ok(vec![Box::pin(self.endpoints.reached(e.revision()))]),
            Err(error) if error.is_namespace_terminating() => Ok(vec![]),
            Err(error) => {
                if let Some(service) = self.services.get(key).filter(|_| !error.is_conflict()) {
                    let text = format!("Failed to update endpoint {key}: {error}");
                    self.recorder.warning(&*service, "FailedToUpdateEndpoint", text);
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "http"}]}}))
        .unwrap()
    }
    fn pod(name: &str, ip: &str, ready: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "namespace": "shop", "labels": {"app": "web"}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn lists_ready_and_unready_by_port() {
        let pods = [pod("b", "10.1.0.10", "True"), pod("a", "10.1.0.9", "True"), pod("c", "10.1.0.3", "False")];
        let Action::Create(made) = plan(&service(), &pods, None).actions.remove(0) else { panic!("no create") };
        let value = serde_json::to_value(&made.subsets).unwrap();
        let ips =
            |list: &str| -> Vec<Value> { value[0][list].as_array().unwrap().iter().map(|a| a["ip"].clone()).collect() };
        assert_eq!(ips("addresses"), ["10.1.0.9", "10.1.0.10"]);
        assert_eq!(ips("notReadyAddresses"), ["10.1.0.3"]);
        assert_eq!(value[0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
        assert_eq!(made.label(MANAGED_BY.0), Some(MANAGED_BY.1));
        assert_eq!(made.label("team"), Some("a"));
        assert!(plan(&service(), &pods, Some(&made)).actions.is_empty(), "applied, nothing is left");
        let mut none = made.clone();
        none.subsets = None;
        assert!(plan(&service(), &[], Some(&none)).actions.is_empty());
        assert!(matches!(plan(&service(), &pods[..1], Some(&made)).actions[..], [Action::Update(_)]));
    }

    #[test]
    fn the_api_server_lists_itself() {
        let addresses = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let Action::Create(made) = plan_kubernetes(None, &addresses, 6443).actions.remove(0) else {
            panic!("no create")
        };
        assert_eq!(made.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), 1);
        assert!(plan_kubernetes(Some(&made), &addresses, 6443).actions.is_empty());
        assert_eq!(plan_kubernetes(Some(&made), &addresses, 6444).actions.len(), 1);
    }
}
