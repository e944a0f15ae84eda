//! The pools of devices that a node reaches. Slices of an older generation are not looked at; a pool of which slices are missing
//! gives no devices, and one whose slices contradict each other neither. Pure.
//!
//! Source: k8s.io/dynamic-resource-allocation `structured/internal/incubating/pools_incubating.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::Object as _;
use client::devices::{Device, Slice};
use k8s_openapi::api::core::v1::NodeSelector;
use types::quantity::Quantity;

use super::taken::{DeviceId, device_id};
use crate::scheduler::filter::matches_selector;
use crate::scheduler::snapshot::Facts;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Complete,
    /// Slices are missing.
    Incomplete,
    /// Its slices contradict each other.
    Invalid,
}

/// By set and counter.
pub type Counts = BTreeMap<(String, String), Quantity>;

#[derive(Debug)]
pub struct Pool {
    pub driver: String,
    pub name: String,
    pub state: State,
    /// With devices that the node reaches, by name.
    pub slices: Vec<Arc<Slice>>,
    /// With devices that other nodes reach: they take of the same counters.
    elsewhere: Vec<Arc<Slice>>,
    /// What devices share.
    pub counters: Counts,
}

impl Pool {
    pub fn id(&self, device: &Device) -> DeviceId {
        device_id(&self.driver, &self.name, &device.name)
    }

    /// Every device, also those of other nodes.
    pub fn all(&self) -> impl Iterator<Item = &Device> {
        self.slices.iter().chain(&self.elsewhere).flat_map(|slice| &slice.spec.devices)
    }

    fn has_binding_conditions(&self) -> bool {
        self.slices.iter().flat_map(|s| &s.spec.devices).any(|device| !device.binding_conditions.is_empty())
    }
}

/// Whether something is on a node.
pub fn is_on(node: &Facts, name: Option<&str>, everywhere: bool, selector: Option<&NodeSelector>) -> bool {
    match (name.filter(|n| !n.is_empty()), everywhere, selector) {
        (Some(name), _, _) => name == &*node.name,
        (None, true, _) => true,
        (None, false, Some(selector)) => matches_selector(selector, node),
        (None, false, None) => false,
    }
}

pub fn device_is_on(node: &Facts, device: &Device) -> bool {
    is_on(node, device.node_name.as_deref(), device.all_nodes, device.node_selector.as_ref())
}

fn concerns(slice: &Slice, node: &Facts) -> bool {
    let spec = &slice.spec;
    if !spec.shared_counters.is_empty() {
        return true;
    }
    if spec.per_device_node_selection {
        return spec.devices.iter().any(|device| device_is_on(node, device));
    }
    is_on(node, spec.node_name.as_deref(), spec.all_nodes, spec.node_selector.as_ref())
}

/// The pools of a node: by driver and name, those whose devices have to be got ready last. `slices`: those that may concern the
/// node; `whole`: every slice of a pool.
pub fn gather<'s>(
    node: &Facts,
    slices: impl Iterator<Item = &'s Arc<Slice>>,
    whole: &dyn Fn(&str, &str) -> Vec<Arc<Slice>>,
) -> Vec<Pool> {
    let mut found: BTreeMap<(&str, &str), Vec<&Arc<Slice>>> = BTreeMap::new();
    for slice in slices.filter(|slice| concerns(slice, node)) {
        let spec = &slice.spec;
        let pool = found.entry((&spec.driver, &spec.pool.name)).or_default();
        match pool.first().map(|known| known.spec.pool.generation.cmp(&spec.pool.generation)) {
            None | Some(std::cmp::Ordering::Equal) => pool.push(slice),
            Some(std::cmp::Ordering::Greater) => {}
            Some(std::cmp::Ordering::Less) => *pool = vec![slice],
        }
    }
    let mut pools: Vec<Pool> = found.into_values().filter_map(|slices| pool(&slices, whole)).collect();
    pools.sort_by_key(Pool::has_binding_conditions);
    pools
}

/// `None`: all that is known of it is of an older generation.
fn pool(slices: &[&Arc<Slice>], whole: &dyn Fn(&str, &str) -> Vec<Arc<Slice>>) -> Option<Pool> {
    let spec = &slices.first()?.spec;
    let mut pool = Pool {
        driver: spec.driver.clone(),
        name: spec.pool.name.clone(),
        state: State::Complete,
        slices: Vec::new(),
        elsewhere: Vec::new(),
        counters: Counts::new(),
    };
    let is_all = |n: usize| i64::try_from(n) == Ok(spec.pool.resource_slice_count);
    if !is_all(slices.len()) {
        // Those that are missing may be for other nodes.
        let mut all = whole(&spec.driver, &spec.pool.name);
        if all.iter().any(|slice| slice.spec.pool.generation > spec.pool.generation) {
            return None;
        }
        all.retain(|slice| slice.spec.pool.generation == spec.pool.generation);
        if !is_all(all.len()) {
            pool.state = State::Incomplete;
            return Some(pool);
        }
        all.retain(|slice| slices.iter().all(|known| known.name() != slice.name()));
        pool.elsewhere = all;
    }
    let (shared, devices): (Vec<_>, Vec<_>) = slices.iter().copied().partition(|s| !s.spec.shared_counters.is_empty());
    pool.slices = devices.into_iter().cloned().collect();
    pool.slices.sort_by(|a, b| a.name().cmp(b.name()));
    if count(&mut pool, &shared).is_none() {
        pool.state = State::Invalid;
        pool.slices.clear();
    }
    Some(pool)
}

/// Reads the counters. `None`: names are not unique, or a device takes of what there is not.
fn count(pool: &mut Pool, shared: &[&Arc<Slice>]) -> Option<()> {
    let (mut names, mut sets) = (BTreeSet::new(), BTreeSet::new());
    if !pool.slices.iter().flat_map(|s| &s.spec.devices).all(|device| names.insert(device.name.clone())) {
        return None;
    }
    for set in shared.iter().flat_map(|s| &s.spec.shared_counters) {
        if !sets.insert(set.name.as_str()) {
            return None;
        }
        let counters = set.counters.iter();
        pool.counters.extend(counters.map(|(name, counter)| ((set.name.clone(), name.clone()), counter.value)));
    }
    let known = pool.all().flat_map(|device| &device.consumes_counters).all(|taken| {
        let is = |name: &String| pool.counters.contains_key(&(taken.counter_set.clone(), name.clone()));
        sets.contains(taken.counter_set.as_str()) && taken.counters.keys().all(is)
    });
    known.then_some(())
}
