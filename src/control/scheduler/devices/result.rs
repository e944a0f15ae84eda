//! What is written of the devices that a claim gets: whose they are, the configuration for their drivers, and where the claim can
//! be used. Pure.
//!
//! Source: k8s.io/dynamic-resource-allocation `structured/internal/incubating/allocator_incubating.go` (Allocate,
//! createNodeSelector).

use client::Object as _;
use client::devices::{Allocated, Allocation, Claim, Configuration, Picked};
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::allocate::{Pick, Want};
use super::pools::Pool;
use crate::scheduler::snapshot::Facts;

/// `chosen`: the alternative of each request. Shares of devices have an empty id, which whoever writes it fills in.
pub fn of(
    claim: &Claim,
    wants: &[Vec<Want<'_>>],
    chosen: &dyn Fn(usize) -> usize,
    picks: &[Pick],
    pools: &[Pool],
    node: &Facts,
) -> Allocation {
    let results = picks.iter().map(|pick| {
        let (pool, want) = (&pools[pick.place.0], &wants[pick.request][pick.alternative]);
        let device = &pool.slices[pick.place.1].spec.devices[pick.place.2];
        Picked {
            request: want.name(),
            driver: pool.driver.clone(),
            pool: pool.name.clone(),
            device: device.name.clone(),
            admin_access: want.wanted.admin_access.filter(|admin| *admin),
            tolerations: want.wanted.tolerations.clone(),
            binding_conditions: device.binding_conditions.clone(),
            binding_failure_conditions: device.binding_failure_conditions.clone(),
            share_id: pick.share.as_ref().map(|_| String::new()),
            consumed_capacity: pick.share.clone().unwrap_or_default(),
        }
    });
    let wants: Vec<&Want<'_>> =
        wants.iter().enumerate().filter_map(|(request, all)| all.get(chosen(request))).collect();
    Allocation {
        devices: Allocated { results: results.collect(), config: configuration(claim, &wants) },
        node_selector: node_selector(picks, pools, node),
        allocation_timestamp: None,
    }
}

/// First what the classes say, each once for all requests of it, then what the claim does.
fn configuration(claim: &Claim, wants: &[&Want<'_>]) -> Vec<Configuration> {
    let mut all: Vec<Configuration> = Vec::new();
    let mut classes: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
    for want in wants {
        let name = want.class.name();
        match classes.iter().find(|(known, _)| *known == name) {
            Some((_, range)) => all[range.clone()].iter_mut().for_each(|config| config.requests.push(want.name())),
            None => {
                let start = all.len();
                all.extend(want.class.spec.config.iter().map(|config| Configuration {
                    source: "FromClass".into(),
                    requests: vec![want.name()],
                    opaque: config.opaque.clone(),
                }));
                classes.push((name, start..all.len()));
            }
        }
    }
    for config in &claim.spec.devices.config {
        let concerns =
            |want: &&&Want<'_>| config.requests.iter().any(|name| *name == want.request || *name == want.name());
        let times = if config.requests.is_empty() { 1 } else { wants.iter().filter(concerns).count() };
        let own = Configuration { source: "FromClaim".into(), ..config.clone() };
        all.extend(std::iter::repeat_n(own, times));
    }
    all
}

/// `None`: the claim can be used everywhere.
fn node_selector(picks: &[Pick], pools: &[Pool], node: &Facts) -> Option<NodeSelector> {
    let mut all = NodeSelectorTerm::default();
    for pick in picks {
        let spec = &pools[pick.place.0].slices[pick.place.1].spec;
        let device = &spec.devices[pick.place.2];
        let (name, selector) = match spec.per_device_node_selection {
            true => (&device.node_name, &device.node_selector),
            false => (&spec.node_name, &spec.node_selector),
        };
        if name.is_some() || device.binds_to_node {
            let only = NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.name.to_string()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![only]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        if let Some(term) = selector.as_ref().and_then(|s| s.node_selector_terms.first()) {
            merge(&term.match_fields, &mut all.match_fields);
            merge(&term.match_expressions, &mut all.match_expressions);
        }
    }
    (all != NodeSelectorTerm::default()).then(|| NodeSelector { node_selector_terms: vec![all] })
}

fn merge(from: &Option<Vec<NodeSelectorRequirement>>, into: &mut Option<Vec<NodeSelectorRequirement>>) {
    let same = |a: &NodeSelectorRequirement, b: &NodeSelectorRequirement| {
        let sorted = |r: &NodeSelectorRequirement| {
            let mut values = r.values.clone().unwrap_or_default();
            values.sort_unstable();
            values.dedup();
            values
        };
        a.key == b.key && a.operator == b.operator && sorted(a) == sorted(b)
    };
    for requirement in from.iter().flatten() {
        let known = into.get_or_insert_default();
        if known.iter().all(|other| !same(other, requirement)) {
            known.push(requirement.clone());
        }
    }
}
