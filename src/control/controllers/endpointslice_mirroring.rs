//! EndpointSlice mirroring controller. Endpoints that somebody wrote by hand, for a Service that selects no pods, are shown as
//! EndpointSlices too, so that readers need to know one form only.
//!
//! One slice for each subset and address family. Not mirrored: what is labelled so, and locks of leader elections.
//!
//! Source: kubernetes `pkg/controller/endpointslicemirroring/{reconciler,reconciler_helpers,utils}.go`,
//! `pkg/api/v1/endpoints/util.go` (RepackSubsets), KEP-752.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, DeleteParams, Key, Object, Recorder, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpointslice::{BY_SERVICE, MANAGED_BY, SERVICE_NAME, slices_by_service};
use crate::{Context, pods};

const NAME: &str = "endpointslicemirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Of the Endpoints themselves, not of what they say.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses that are mirrored of a subset; upstream's `--mirroring-max-endpoints-per-subset`.
const ADDRESSES_MAX: usize = 1000;
/// Endpoints worked on at once; upstream's `--mirroring-concurrent-service-endpoint-syncs`.
const WORKERS: usize = 5;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Key, String),
    /// A warning about the Endpoints.
    Say(&'static str, String),
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.label(SKIP) != Some("true") && endpoints.annotation(LEADER).is_none()
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.selector.is_some())
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.label(MANAGED_BY) == Some(MANAGER)
}

type Port = (String, i32, String, Option<String>);
/// Address and uid of what is behind it.
type Host = (String, String);
/// Ports, and the hosts that offer them with whether each is ready.
type Subset<'a> = (Vec<Port>, Vec<(&'a EndpointAddress, bool)>);

/// The ports, in order, of each set of hosts that offers the same, and whether each host is ready. A host that is ready in one
/// place and not in another is not.
fn subsets(endpoints: &Endpoints) -> Vec<Subset<'_>> {
    let mut hosts: BTreeMap<Host, &EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<Port>, BTreeMap<Host, bool>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let port = |p: &k8s_openapi::api::core::v1::EndpointPort| {
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            (p.name.clone().unwrap_or_default(), p.port, protocol, p.app_protocol.clone())
        };
        let mut ports: Vec<Option<Port>> = subset.ports.iter().flatten().map(|p| Some(port(p))).collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        for (address, ready) in ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false))) {
            let uid = address.target_ref.as_ref().and_then(|r| r.uid.clone()).unwrap_or_default();
            let host = (address.ip.clone(), uid);
            hosts.entry(host.clone()).or_insert(address);
            for port in &ports {
                let known = by_port.entry(port.clone()).or_default().entry(host.clone()).or_insert(true);
                *known &= ready;
            }
        }
    }
    let mut by_hosts: BTreeMap<BTreeMap<Host, bool>, Vec<Port>> = BTreeMap::new();
    for (port, hosts) in by_port {
        by_hosts.entry(hosts).or_default().extend(port);
    }
    let with_addresses = |(set, ports): (BTreeMap<Host, bool>, Vec<Port>)| {
        let mut all: Vec<_> = set.iter().filter_map(|(host, ready)| Some((*hosts.get(host)?, *ready))).collect();
        // Those that are ready come first, should there be too many.
        all.sort_by_key(|(_, ready)| !ready);
        (ports, all)
    };
    by_hosts.into_iter().map(with_addresses).collect()
}

/// An address, which may have zeros in front of its numbers as old ones do; one of IPv4 in an IPv6 form is one of IPv4.
fn parsed(text: &str) -> Option<IpAddr> {
    let plain = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let sloppy = || text.split('.').map(plain).collect::<Vec<_>>().join(".").parse().ok();
    Some(text.parse::<IpAddr>().ok().or_else(sloppy)?.to_canonical())
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// Addresses, host name, and the namespace and name of what is behind it.
type Identity = (Vec<String>, Option<String>, Option<String>, Option<String>);

/// In which order endpoints are compared, and which of them are the same.
fn identity(endpoint: &Endpoint) -> Identity {
    let target = endpoint.target_ref.as_ref();
    let (namespace, name) = (target.and_then(|r| r.namespace.clone()), target.and_then(|r| r.name.clone()));
    (endpoint.addresses.clone(), endpoint.hostname.clone(), namespace, name)
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let port = |p: &EndpointPort| {
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
        (p.name.clone().unwrap_or_default(), p.port.unwrap_or_default(), protocol, p.app_protocol.clone())
    };
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(port).collect();
    ports.sort_unstable();
    ports
}

/// What a slice is to say.
struct Wanted {
    family: &'static str,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

impl Wanted {
    fn slice(&self, endpoints: &Endpoints, old: Option<&EndpointSlice>) -> EndpointSlice {
        let own = &endpoints.metadata;
        let mut metadata = old.map(|o| o.metadata.clone()).unwrap_or_else(|| ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name())),
            namespace: own.namespace.clone(),
            ..ObjectMeta::default()
        });
        let mut labels = own.labels.clone().unwrap_or_default();
        labels.insert(SERVICE_NAME.into(), endpoints.name().into());
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        let mut annotations = own.annotations.clone().unwrap_or_default();
        annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
        metadata.labels = Some(labels);
        metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
        // Those that somebody has added besides stay; another object of the same name is no owner.
        let owner = pods::controller_reference(endpoints);
        let owners = metadata.owner_references.get_or_insert_default();
        if !owners.contains(&owner) {
            owners.retain(|o| o.kind != owner.kind && o.controller != Some(true));
            owners.push(owner);
        }
        let port = |(name, port, protocol, app_protocol): &Port| EndpointPort {
            name: Some(name.clone()),
            port: Some(*port),
            protocol: Some(protocol.clone()),
            app_protocol: app_protocol.clone(),
        };
        EndpointSlice {
            metadata,
            address_type: self.family.into(),
            endpoints: Some(self.endpoints.clone()),
            ports: Some(self.ports.iter().map(port).collect()),
        }
    }

    fn is_said_by(&self, slice: &EndpointSlice) -> bool {
        slice.address_type == self.family && ports_of(slice) == self.ports
    }
}

fn same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let sorted = |slice: &EndpointSlice| {
        let mut all = slice.endpoints.clone().unwrap_or_default();
        all.sort_by_cached_key(identity);
        all
    };
    let annotations = |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    old.metadata.labels == new.metadata.labels
        && annotations(old) == annotations(new)
        && old.metadata.owner_references == new.metadata.owner_references
        && ports_of(old) == ports_of(new)
        && sorted(old) == sorted(new)
}

/// `slices`: those of the service that this controller manages.
pub fn plan(endpoints: Option<&Endpoints>, service: Option<&Service>, slices: &[Arc<EndpointSlice>]) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let mut left: Vec<&EndpointSlice> = slices.iter().map(|s| &**s).filter(|s| !s.is_terminating()).collect();
    let mirrored = endpoints.filter(|e| is_mirrored(e) && service.is_some_and(|s| !has_selector(s)));
    if let Some(endpoints) = mirrored {
        let mut missing = Vec::new();
        for wanted in wanted(endpoints, &mut plan) {
            match left.iter().position(|s| wanted.is_said_by(s)) {
                Some(at) => update(&mut plan, &wanted, endpoints, left.remove(at)),
                None => missing.push(wanted),
            }
        }
        for wanted in missing {
            match left.iter().position(|s| s.address_type == wanted.family) {
                Some(at) => update(&mut plan, &wanted, endpoints, left.remove(at)),
                None if endpoints.is_terminating() => {}
                None => plan.push(Action::Create(Box::new(wanted.slice(endpoints, None))), "addresses without a slice"),
            }
        }
    }
    for slice in left {
        plan.push(Action::Delete(slice.key(), slice.uid().into()), format!("{} mirrors nothing", slice.name()));
    }
    plan
}

fn update(plan: &mut Plan<Action>, wanted: &Wanted, endpoints: &Endpoints, old: &EndpointSlice) {
    let new = wanted.slice(endpoints, Some(old));
    if !same(old, &new) {
        plan.push(Action::Update(Box::new(new)), format!("{} differs", old.name()));
    }
}

fn wanted(endpoints: &Endpoints, plan: &mut Plan<Action>) -> Vec<Wanted> {
    let (mut all, mut invalid, mut skipped) = (Vec::new(), 0, 0);
    for (ports, addresses) in subsets(endpoints) {
        let mut families: BTreeMap<&'static str, BTreeMap<_, Endpoint>> = BTreeMap::new();
        let mut added = 0;
        for (address, ready) in addresses {
            if added >= ADDRESSES_MAX {
                skipped += 1;
                continue;
            }
            let Some(ip) = parsed(&address.ip) else {
                invalid += 1;
                continue;
            };
            added += 1;
            let endpoint = endpoint(address, ip, ready);
            let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            families.entry(family).or_default().insert(identity(&endpoint), endpoint);
        }
        let slices = families.into_iter().map(|(family, endpoints)| Wanted {
            family,
            ports: ports.clone(),
            endpoints: endpoints.into_values().collect(),
        });
        all.extend(slices);
    }
    if invalid > 0 {
        let text = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        plan.push(Action::Say("InvalidIPAddress", text), "addresses that are none");
    }
    if skipped > 0 {
        let text = format!(
            "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were \
             skipped",
            invalid + skipped
        );
        plan.push(Action::Say("TooManyAddressesToMirror", text), "more addresses than are mirrored");
    }
    all
}

struct Mirror {
    client: Client,
    endpoints: Arc<Cache<Endpoints>>,
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
    recorder: Recorder,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let endpoints = context.informers.cache::<Endpoints>(Selector::all());
    let services = context.informers.cache::<Service>(Selector::all());
    let (slices, queue) = (slices_by_service(context), context.queue());
    let dirty = Arc::clone(&queue);
    endpoints.on_change(Box::new(move |old, new| {
        if let Some(any) = new.or(old).filter(|_| old.into_iter().chain(new).any(|e| is_mirrored(e))) {
            dirty.add(any.key());
        }
    }));
    let dirty = Arc::clone(&queue);
    services.on_change(Box::new(move |old, new| {
        let selects = |s: Option<&Arc<Service>>| s.is_none_or(|s| has_selector(s));
        if let Some(any) = new.or(old).filter(|_| selects(old) != selects(new)) {
            dirty.add(any.key());
        }
    }));
    let dirty = Arc::clone(&queue);
    slices.on_change(Box::new(move |old, new| {
        for slice in old.into_iter().chain(new).filter(|s| is_ours(s)) {
            if let Some(name) = slice.label(SERVICE_NAME) {
                dirty.add(Key::new(slice.namespace(), name));
            }
        }
    }));
    context.run(Mirror { client, endpoints, services, slices, recorder }, queue, WORKERS);
}

impl Controller for Mirror {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let mut slices = self.slices.indexed(BY_SERVICE, &key.to_string());
        slices.retain(|s| is_ours(s));
        plan(self.endpoints.get(key).as_deref(), self.services.get(key).as_deref(), &slices)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let outcome = match action {
            Action::Create(slice) => self.client.create(&*slice).await,
            Action::Update(slice) => self.client.update(&*slice).await,
            Action::Delete(slice, uid) => {
                let params = DeleteParams::uid(&uid);
                return match self.client.delete::<EndpointSlice>(&slice.namespace, &slice.name, &params).await {
                    Ok(_) => Ok(vec![Box::pin(self.slices.going(&slice, &uid))]),
                    Err(error) if error.is_not_found() => Ok(vec![]),
                    Err(error) => Err(error),
                };
            }
            Action::Say(reason, text) => {
                if let Some(endpoints) = self.endpoints.get(key) {
                    self.recorder.warning(&*endpoints, reason, text);
                }
                return Ok(vec![]);
            }
        };
        match outcome {
            Ok(slice) => Ok(vec![Box::pin(self.slices.reached(slice.revision()))]),
            Err(error) if error.is_namespace_terminating() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[path = "endpointslice_mirroring_tests.rs"]
mod tests;
