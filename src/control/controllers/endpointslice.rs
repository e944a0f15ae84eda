//! EndpointSlice controller. Lists, per Service and address family, the pods behind it in slices of up to a hundred; also
//! publishes the API server's own address behind `default/kubernetes`.
//!
//! Source: kubernetes `staging/src/k8s.io/endpointslice/{reconciler,utils}.go`, `pkg/controller/endpointslice`, KEP-752.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, DeleteParams, Key, Object, Recorder, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{Context, pods};

const NAME: &str = "endpointslice-controller";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints per slice; upstream's `--max-endpoints-per-slice`.
const SLICE_MAX: usize = 100;
/// Services worked on at once; upstream's `--concurrent-service-endpoint-syncs`.
const WORKERS: usize = 5;

pub struct Observed<'a> {
    pub service: &'a Service,
    /// Pods of the namespace.
    pub pods: &'a [Arc<Pod>],
    /// The slices of the service that this controller manages.
    pub slices: &'a [Arc<EndpointSlice>],
    /// The zone of a node, if it has one.
    pub zone: &'a dyn Fn(&str) -> Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Key, String),
}

/// Whether a service's endpoints are found by selecting pods.
pub fn selects(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

pub fn selected(service: &Service, pod: &Pod) -> bool {
    selects(service).is_some_and(|s| s.iter().all(|(k, v)| pod.label(k) == Some(v)))
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// `IPv4` and `IPv6`, in the service's order.
pub fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|s| s.ip_families.as_ref()).into_iter().flatten();
    let mut list: Vec<_> = named.map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if list.is_empty() {
        let six = spec
            .and_then(|s| s.cluster_ip.as_deref())
            .and_then(|ip| ip.parse::<IpAddr>().ok())
            .is_some_and(|ip| ip.is_ipv6());
        list.push(if six { "IPv6" } else { "IPv4" });
    }
    list
}

/// The pod's addresses of a family.
pub fn addresses(pod: &Pod, family: &str) -> Vec<String> {
    let status = pod.status.as_ref();
    let mut all: Vec<&str> =
        status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|i| i.ip.as_str()).collect();
    if all.is_empty() {
        all.extend(status.and_then(|s| s.pod_ip.as_deref()));
    }
    let six = family == "IPv6";
    all.retain(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == six));
    all.into_iter().map(Into::into).collect()
}

/// The number behind a service port in a pod; `None`: the pod has no port of that name.
pub fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let find = |c: &Container| {
                let ports = c.ports.iter().flatten();
                let mut named = ports
                    .filter(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
                named.next().map(|p| p.container_port)
            };
            spec.containers.iter().chain(sidecars).find_map(find)
        }
    }
}

fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
    let ports = ports.filter_map(|p| {
        Some(EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(target_port(p, pod)?),
            protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: p.app_protocol.clone(),
        })
    });
    ports.collect()
}

pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The host name under which a headless service's DNS lists the pod.
pub fn host_name(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let same = spec.subdomain.as_deref() == Some(service.name()) && service.namespace() == pod.namespace();
    spec.hostname.clone().filter(|h| same && !h.is_empty())
}

fn endpoint(observed: &Observed<'_>, pod: &Pod, addresses: Vec<String>) -> Endpoint {
    let publish = observed.service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (pods::is_ready(pod), pod.is_terminating());
    let node = pods::node_name(pod);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: host_name(observed.service, pod),
        node_name: Some(node.to_owned()).filter(|n| !n.is_empty()),
        target_ref: Some(reference(pod)),
        zone: (observed.zone)(node),
        ..Endpoint::default()
    }
}

/// Labels of a service's slices: the service's own, and ours.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name().into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

pub fn plan(observed: &Observed<'_>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let service = observed.service;
    if service.is_terminating() || selects(service).is_none() {
        return plan;
    }
    // Family and ports decide which slices an endpoint may be in. Ports as JSON, because they have no order of their own.
    type Group = (&'static str, String);
    let mut wanted: BTreeMap<Group, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)> = BTreeMap::new();
    let has_ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).is_some_and(|p| !p.is_empty());
    for pod in observed.pods.iter().filter(|p| selected(service, p) && !pods::is_finished(p)) {
        let ports = ports_of(service, pod);
        if has_ports && ports.is_empty() {
            continue;
        }
        for family in families(service) {
            let addresses = addresses(pod, family);
            if !addresses.is_empty() {
                let group = (family, serde_json::to_string(&ports).unwrap_or_default());
                let slot = wanted.entry(group).or_insert_with(|| (ports.clone(), BTreeMap::new()));
                slot.1.insert(pod.uid().to_owned(), endpoint(observed, pod, addresses));
            }
        }
    }
    for family in families(service) {
        // Nothing behind it is said by one empty slice, so that "no endpoints" differs from "not looked yet".
        if !wanted.keys().any(|(f, _)| *f == family) {
            wanted.insert((family, String::new()), (Vec::new(), BTreeMap::new()));
        }
    }
    let mut left: Vec<&Arc<EndpointSlice>> = observed.slices.iter().filter(|s| !s.is_terminating()).collect();
    let labels = labels(service);
    for ((family, _), (ports, mut endpoints)) in wanted {
        let empty = endpoints.is_empty();
        let same_ports = |s: &EndpointSlice| s.ports.clone().unwrap_or_default() == ports;
        let (here, rest): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|s| s.address_type == family && (same_ports(s) || empty));
        left = rest;
        // Endpoints stay where they are; what is new fills the gaps, then new slices.
        let mut drafts: Vec<(Option<&EndpointSlice>, Vec<Endpoint>)> = Vec::new();
        for slice in &here {
            let uids = slice.endpoints.iter().flatten().filter_map(|e| e.target_ref.as_ref()?.uid.as_deref());
            let mut kept: Vec<Endpoint> = uids.filter_map(|uid| endpoints.remove(uid)).collect();
            let spare = kept.split_off(kept.len().min(SLICE_MAX));
            for e in spare {
                let uid = e.target_ref.as_ref().and_then(|r| r.uid.clone()).unwrap_or_default();
                endpoints.insert(uid, e);
            }
            drafts.push((Some(slice), kept));
        }
        drafts.sort_by_key(|(_, e)| std::cmp::Reverse(e.len()));
        let mut new = endpoints.into_values();
        for (_, draft) in &mut drafts {
            let room = SLICE_MAX - draft.len();
            draft.extend(new.by_ref().take(room));
        }
        loop {
            let more: Vec<Endpoint> = new.by_ref().take(SLICE_MAX).collect();
            if more.is_empty() {
                break;
            }
            drafts.push((None, more));
        }
        if empty && drafts.is_empty() {
            drafts.push((None, Vec::new()));
        }
        let mut placeholder = empty;
        for (slice, endpoints) in drafts {
            let keep = !endpoints.is_empty() || std::mem::take(&mut placeholder);
            match (slice, keep) {
                (Some(slice), false) => {
                    plan.push(Action::Delete(slice.key(), slice.uid().into()), format!("{} is empty", slice.name()));
                }
                (Some(slice), true) => {
                    let ports = Some(ports.clone());
                    let none = |e: &Option<Vec<Endpoint>>| e.as_ref().is_none_or(Vec::is_empty);
                    let same = slice.metadata.labels.as_ref() == Some(&labels)
                        && same_ports(slice)
                        && (slice.endpoints.as_ref() == Some(&endpoints)
                            || none(&slice.endpoints) && endpoints.is_empty());
                    if !same {
                        let mut new = slice.clone();
                        new.metadata.labels = Some(labels.clone());
                        new.ports = ports;
                        new.endpoints = Some(endpoints);
                        plan.push(Action::Update(Box::new(new)), format!("{} changed", slice.name()));
                    }
                }
                (None, _) => {
                    let metadata = ObjectMeta {
                        generate_name: Some(format!("{}-", service.name())),
                        namespace: service.metadata.namespace.clone(),
                        labels: Some(labels.clone()),
                        owner_references: Some(vec![pods::controller_reference(service)]),
                        ..ObjectMeta::default()
                    };
                    let slice = EndpointSlice {
                        metadata,
                        address_type: family.into(),
                        endpoints: Some(endpoints),
                        ports: Some(ports.clone()),
                    };
                    plan.push(Action::Create(Box::new(slice)), "endpoints without a slice");
                }
            }
        }
    }
    for slice in left {
        plan.push(Action::Delete(slice.key(), slice.uid().into()), format!("{} has no use any more", slice.name()));
    }
    plan
}

/// The slice that leads to the API server itself, if it is not as it should be.
pub fn plan_kubernetes(slice: Option<&EndpointSlice>, advertise: &[IpAddr], port: u16) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(first) = advertise.first() else { return plan };
    let mut addresses: Vec<IpAddr> = advertise.iter().filter(|a| a.is_ipv6() == first.is_ipv6()).copied().collect();
    addresses.sort_unstable();
    let ready = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
    let endpoints: Vec<Endpoint> = addresses
        .iter()
        .map(|a| Endpoint { addresses: vec![a.to_string()], conditions: Some(ready.clone()), ..Endpoint::default() })
        .collect();
    let ports = vec![EndpointPort {
        name: Some("https".into()),
        port: Some(port.into()),
        protocol: Some("TCP".into()),
        app_protocol: None,
    }];
    let mut new = slice.cloned().unwrap_or_default();
    new.metadata.name = Some("kubernetes".into());
    new.metadata.namespace = Some("default".into());
    new.metadata.labels.get_or_insert_default().insert(SERVICE_NAME.into(), "kubernetes".into());
    new.address_type = if first.is_ipv6() { "IPv6" } else { "IPv4" }.into();
    new.endpoints = Some(endpoints);
    new.ports = Some(ports);
    match slice {
        None => plan.push(Action::Create(Box::new(new)), "the API server has no slice"),
        Some(old) if *old != new => plan.push(Action::Update(Box::new(new)), "the API server's slice differs"),
        Some(_) => {}
    }
    plan
}

struct Slices {
    client: Client,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
    recorder: Recorder,
    advertise: Vec<IpAddr>,
    port: u16,
}

/// The slices of a service, by its key.
pub const BY_SERVICE: &str = "service";

/// Every slice, indexed by service.
pub fn slices_by_service(context: &Context) -> Arc<Cache<EndpointSlice>> {
    let slices = context.informers.cache::<EndpointSlice>(Selector::all());
    slices.add_index(BY_SERVICE, |s| {
        s.label(SERVICE_NAME).map(|n| format!("{}/{n}", s.namespace())).into_iter().collect()
    });
    slices
}

/// Marks the services that select a pod, before or after its change.
pub fn watch_pods(pods: &Cache<Pod>, services: &Arc<Cache<Service>>, queue: &Arc<client::queue::Queue>) {
    let (dirty, all) = (Arc::clone(queue), Arc::clone(services));
    pods.on_change(Box::new(move |old, new| {
        let Some(any) = new.or(old) else { return };
        for service in all.in_namespace(any.namespace()) {
            if old.into_iter().chain(new).any(|p| selected(&service, p)) {
                dirty.add(service.key());
            }
        }
    }));
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let services = context.informers.cache::<Service>(Selector::all());
    let nodes = context.informers.cache::<Node>(Selector::all());
    let slices = slices_by_service(context);
    let (pods, queue) = (context.pods(), context.queue());
    let dirty = Arc::clone(&queue);
    services.on_change(Box::new(move |old, new| {
        if let Some(s) = new.or(old) {
            dirty.add(s.key());
        }
    }));
    watch_pods(&pods, &services, &queue);
    let dirty = Arc::clone(&queue);
    slices.on_change(Box::new(move |old, new| {
        if let Some(name) = new.or(old).and_then(|s| s.label(SERVICE_NAME)) {
            dirty.add(Key::new(new.or(old).map(|s| s.namespace()).unwrap_or_default(), name));
        }
    }));
    let (advertise, port) = (context.config.advertise.clone(), context.config.api_port);
    if !advertise.is_empty() {
        queue.add(Key::new("default", "kubernetes"));
    }
    context.run(Slices { client, services, pods, nodes, slices, recorder, advertise, port }, queue, WORKERS);
}

impl Controller for Slices {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        if *key == Key::new("default", "kubernetes") {
            // Its service has no selector; the address is ours to know.
            let slice = self.slices.get(key);
            return plan_kubernetes(slice.as_deref(), &self.advertise, self.port);
        }
        // The slices of a service that is gone go with it: it owns them.
        let Some(service) = self.services.get(key) else { return Plan::nothing() };
        let pods = self.pods.in_namespace(&key.namespace);
        let mut slices = self.slices.indexed(BY_SERVICE, &key.to_string());
        slices.retain(|s| s.label(MANAGED_BY) == Some(MANAGER));
        let zone = |name: &str| {
            let node = self.nodes.get(&Key::cluster(name))?;
            node.label("topology.kubernetes.io/zone").map(Into::into)
        };
        plan(&Observed { service: &service, pods: &pods, slices: &slices, zone: &zone })
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let (what, outcome) = match action {
            Action::Create(slice) => ("create", self.client.create(&*slice).await),
            Action::Update(slice) => ("update", self.client.update(&*slice).await),
            Action::Delete(slice, uid) => {
                let params = DeleteParams::uid(&uid);
                return match self.client.delete::<EndpointSlice>(&slice.namespace, &slice.name, &params).await {
                    Ok(_) => Ok(vec![Box::pin(self.slices.going(&slice, &uid))]),
                    Err(error) if error.is_not_found() => Ok(vec![]),
                    Err(error) => Err(error),
                };
            }
        };
        match outcome {
            Ok(slice) => Ok(vec![Box::pin(self.slices.reached(slice.revision()))]),
            Err(error) if error.is_namespace_terminating() => Ok(vec![]),
            Err(error) => {
                if let Some(service) = self.services.get(key).filter(|_| !error.is_conflict()) {
                    let text = format!(
                        "Error updating Endpoint Slices for Service {key}: failed to {what} EndpointSlice: {error}"
                    );
                    self.recorder.warning(&*service, "FailedToUpdateEndpointSlices", text);
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
#[path = "endpointslice_tests.rs"]
mod tests;
