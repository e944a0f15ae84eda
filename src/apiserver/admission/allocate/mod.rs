//! Cluster IPs and node ports of Services: reserved around the write, so that no two services ever get the same.
//!
//! Memory is the index, the store the truth: [`Allocator::load`] rebuilds it at start. A caller reserves, says that the
//! write is on its way, writes, and commits or undoes. A [`Reservation`] that is dropped before [`Reservation::sent`] gives
//! back what it took, so a dry run reserves and drops. One that is dropped after it (the client went away while the store
//! was writing) keeps everything: nobody knows whether the write happened, and an address too many that is held until the
//! service is deleted or the server starts again is better than one address for two services. There must be one allocator
//! for all writers of a store (in a cluster: the leader's).
//!
//! Whoever holds an address of whichever range holds it here; from which ranges one may be had is asked of the store
//! (`ranges`).
//!
//! ```text
//! create  reserve_create(&mut service) → sent → store.write (with its `objects`) → commit | undo
//! update  reserve_update(&mut new, old) → sent → store.write → commit | undo
//! delete  store.write → release(&deleted)
//! ```
//!
//! Source: `pkg/registry/core/service/storage/alloc.go`, `ipallocator`, `portallocator`, KEP-1880, KEP-3070, KEP-3668.

use std::cell::LazyCell;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::Value;
use store::View;
use types::registry::by_kind;
use types::status::Status;

use crate::hooks::core::service::{is_headless, needs_cluster_ip};
use crate::hooks::json::{get, list, text};

mod families;
pub mod keeper;
mod objects;
mod pool;
mod ports;
pub mod ranges;

use pool::{Pool, Range};

/// What may be handed out.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// One range, or one of each family; the first is the default family.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("one service range or one of each family is needed, not {0}")]
    Ranges(usize),
    #[error("both service ranges are of one family")]
    SameFamily,
    #[error("the service range {0} is too large: an IPv6 range must be /64 or smaller")]
    TooLarge(IpNet),
    #[error("the service range {0} is too small: it has no address to give")]
    TooSmall(IpNet),
    #[error("the node port range is empty")]
    NoPorts,
}

/// Who holds an address or a port: `namespace/name`.
type Owner = Arc<str>;

/// The one allocator of a store. Cheap to lock: nothing is awaited inside.
pub struct Allocator {
    /// The families that the cluster offers, the default one first.
    families: Vec<&'static str>,
    /// The default range, of each family.
    configured: Vec<IpNet>,
    first: IpAddr,
    node_ports: Range,
    state: Mutex<State>,
}

struct State {
    addresses: Vec<Pool>,
    node_ports: Pool,
}

/// One thing that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    /// Family by its place in [`Allocator::families`], and the address.
    Address(usize, u128),
    NodePort(u128),
}

/// What one write has taken and will give up. Dropped before [`Reservation::sent`], it undoes itself.
#[must_use = "commit after the write, or the addresses are given back"]
pub struct Reservation<'a> {
    allocator: &'a Allocator,
    owner: Owner,
    taken: Vec<Item>,
    given_up: Vec<Item>,
    sent: bool,
}

impl Allocator {
    /// # Errors
    /// [`ConfigError`] for ranges that cannot be served.
    pub fn new(config: Allocation) -> Result<Self, ConfigError> {
        let cidrs = &config.service_cidrs;
        let [first, rest @ ..] = cidrs.as_slice() else { return Err(ConfigError::Ranges(0)) };
        if rest.len() > 1 {
            return Err(ConfigError::Ranges(cidrs.len()));
        }
        if rest.first().is_some_and(|second| second.addr().is_ipv4() == first.addr().is_ipv4()) {
            return Err(ConfigError::SameFamily);
        }
        let mut families = Vec::new();
        for cidr in cidrs {
            addresses_of(*cidr)?;
            families.push(family_of(cidr.addr()));
        }
        if config.node_ports.is_empty() {
            return Err(ConfigError::NoPorts);
        }
        let node_ports = Range::ports(u128::from(*config.node_ports.start()), u128::from(*config.node_ports.end()));
        let first = address(addresses_of(*first)?.first, first.addr().is_ipv4());
        let state =
            State { addresses: families.iter().map(|_| Pool::default()).collect(), node_ports: Pool::default() };
        Ok(Self { families, configured: config.service_cidrs, first, node_ports, state: Mutex::new(state) })
    }

    /// Rebuilds the index from every stored Service. Call once, before the first write.
    pub fn load(&self, view: &dyn View) {
        let Some(services) = by_kind("", "v1", "Service") else { return };
        let mut state = self.state.lock();
        for entry in view.range(&services.store_prefix(), None) {
            let Ok(service) = serde_json::from_slice::<Value>(entry.value()) else { continue };
            let owner = owner_of(&service);
            for item in self.items_of(get(&service, "spec")) {
                state.pool(item).hold(number(item), &owner);
            }
        }
    }

    /// The address of the `kubernetes` service: the first of the default range.
    pub fn kubernetes_service_ip(&self) -> IpAddr {
        self.first
    }

    /// Completes a new Service: IP families and policy, cluster IPs, node ports.
    ///
    /// # Errors
    /// 422 with upstream's texts for what cannot be had; 500 when a range is used up. Nothing stays reserved.
    pub fn reserve_create(&self, service: &mut Value, view: &dyn View) -> Result<Reservation<'_>, Status> {
        self.reserve(service, None, view)
    }

    /// The same for a changed Service; what the change frees is free after the commit.
    ///
    /// # Errors
    /// As [`Allocator::reserve_create`].
    pub fn reserve_update(&self, new: &mut Value, old: &Value, view: &dyn View) -> Result<Reservation<'_>, Status> {
        self.reserve(new, Some(old), view)
    }

    fn reserve(&self, service: &mut Value, old: Option<&Value>, view: &dyn View) -> Result<Reservation<'_>, Status> {
        families::complete(self, service, old)?;
        let before = old.map(|old| self.items_of(get(old, "spec"))).unwrap_or_default();
        // from here on an early return drops the reservation, which gives back what it has taken
        let mut reservation = Reservation {
            allocator: self,
            owner: owner_of(service),
            taken: Vec::new(),
            given_up: Vec::new(),
            sent: false,
        };
        reservation.cluster_ips(service, &before, view)?;
        ports::reserve(&mut reservation, service, &before)?;
        let after = self.items_of(get(service, "spec"));
        reservation.given_up = before.into_iter().filter(|item| !after.contains(item)).collect();
        Ok(reservation)
    }

    /// Frees everything of a Service that has been deleted. Idempotent.
    pub fn release(&self, service: &Value) {
        let owner = owner_of(service);
        self.free(&self.items_of(get(service, "spec")), &owner);
    }

    fn free(&self, items: &[Item], owner: &Owner) {
        let mut state = self.state.lock();
        for item in items {
            state.pool(*item).free(number(*item), owner);
        }
    }

    /// Everything that a Service holds by its spec.
    fn items_of(&self, spec: &Value) -> Vec<Item> {
        let mut items = ports::items(spec);
        if needs_cluster_ip(spec) && !is_headless(spec) {
            let ips = list(spec, "clusterIPs").iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
            for ip in ips {
                if let Some(i) = self.family(family_of(ip)) {
                    items.push(Item::Address(i, bits(ip)));
                }
            }
        }
        items
    }

    fn family(&self, name: &str) -> Option<usize> {
        self.families.iter().position(|family| *family == name)
    }
}

impl State {
    fn pool(&mut self, item: Item) -> &mut Pool {
        match item {
            Item::Address(i, _) => &mut self.addresses[i],
            Item::NodePort(_) => &mut self.node_ports,
        }
    }
}

/// Why something cannot be had; the words are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("range is full")]
    Full,
    #[error("provided {0} is already allocated")]
    Allocated(&'static str),
    #[error("the provided network does not match the current range")]
    OutOfRange,
}

impl Reservation<'_> {
    /// The write has happened: keeps what was taken, frees what was given up.
    pub fn commit(mut self) {
        self.taken.clear();
        self.allocator.free(&self.given_up, &self.owner);
    }

    /// The write is on its way and may happen even if its caller goes away. Call right before it.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// The write has failed for certain: gives back what was taken.
    pub fn undo(mut self) {
        self.sent = false;
    }

    /// Takes exactly this, which must be in one of the ranges.
    fn take(&mut self, item: Item, ranges: &[Range]) -> Result<(), Refusal> {
        if !ranges.iter().any(|range| range.contains(number(item))) {
            return Err(Refusal::OutOfRange);
        }
        if !self.allocator.state.lock().pool(item).take(number(item), &self.owner) {
            let what = if matches!(item, Item::Address(..)) { "IP" } else { "port" };
            return Err(Refusal::Allocated(what));
        }
        self.taken.push(item);
        Ok(())
    }

    /// Takes any of the kind of `like` that is `free` also elsewhere, from the first range that has one.
    fn take_any(&mut self, like: Item, ranges: &[Range], free: impl Fn(Item) -> bool) -> Result<Item, Refusal> {
        let item = |n| match like {
            Item::Address(i, _) => Item::Address(i, n),
            Item::NodePort(_) => Item::NodePort(n),
        };
        let mut state = self.allocator.state.lock();
        let pool = state.pool(like);
        let taken = ranges.iter().find_map(|range| pool.take_any(range, &self.owner, |n| free(item(n))));
        drop(state);
        let item = item(taken.ok_or(Refusal::Full)?);
        self.taken.push(item);
        Ok(item)
    }

    /// One address for each family, those that are named and those that are not.
    fn cluster_ips(&mut self, service: &mut Value, before: &[Item], view: &dyn View) -> Result<(), Status> {
        let allocator = self.allocator;
        let free = |item| !allocator.has_object(item, view);
        let spec = get(service, "spec");
        if !needs_cluster_ip(spec) || is_headless(spec) {
            return Ok(());
        }
        let wanted: Vec<String> =
            list(spec, "ipFamilies").iter().filter_map(|f| Some(f.as_str()?.to_owned())).collect();
        let given: Vec<String> = list(spec, "clusterIPs").iter().filter_map(|f| Some(f.as_str()?.to_owned())).collect();
        let mut ips = Vec::new();
        let ranges = LazyCell::new(|| allocator.ranges(view));
        for (i, family) in wanted.iter().enumerate() {
            let Some(place) = allocator.family(family) else { continue };
            let own = || -> Vec<Range> {
                ranges.iter().filter(|(family, _)| *family == place).map(|(_, range)| *range).collect()
            };
            match given.get(i).filter(|ip| !ip.is_empty()) {
                Some(text) => {
                    let Ok(ip) = text.parse::<IpAddr>() else { continue };
                    let item = Item::Address(place, bits(ip));
                    if !before.contains(&item) {
                        let taken = self
                            .take(item, &own())
                            .and_then(|()| if free(item) { Ok(()) } else { Err(Refusal::Allocated("IP")) });
                        taken.map_err(|refusal| ip_refused(service, text, refusal))?;
                    }
                    ips.push(text.clone());
                }
                None => {
                    let item = self
                        .take_any(Item::Address(place, 0), &own(), free)
                        .map_err(|refusal| Status::internal(format!("failed to allocate a serviceIP: {refusal}")))?;
                    ips.push(address(number(item), family == "IPv4").to_string());
                }
            }
        }
        if let Some(spec) = service.get_mut("spec").filter(|_| !ips.is_empty()) {
            spec["clusterIP"] = ips[0].as_str().into();
            spec["clusterIPs"] = ips.into();
        }
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.sent {
            self.allocator.free(&self.taken, &self.owner);
        }
    }
}

fn ip_refused(service: &Value, ip: &str, refusal: Refusal) -> Status {
    let path = types::field::Path::new("spec.clusterIPs");
    let all = get(get(service, "spec"), "clusterIPs");
    invalid(service, types::field::FieldError::invalid(&path, all, format!("failed to allocate IP {ip}: {refusal}")))
}

fn invalid(service: &Value, error: types::field::FieldError) -> Status {
    let kind = by_kind("", "v1", "Service").expect("the registry serves services");
    Status::invalid(kind, text(get(service, "metadata"), "name"), &[error])
}

fn owner_of(service: &Value) -> Owner {
    let meta = get(service, "metadata");
    format!("{}/{}", text(meta, "namespace"), text(meta, "name")).into()
}

fn number(item: Item) -> u128 {
    match item {
        Item::Address(_, n) | Item::NodePort(n) => n,
    }
}

fn family_of(ip: IpAddr) -> &'static str {
    crate::hooks::core::service::validate::family_of(ip)
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) }
}

/// Every address of the range but the network's own and, for IPv4, the broadcast address.
fn addresses_of(cidr: IpNet) -> Result<Range, ConfigError> {
    if cidr.addr().is_ipv6() && cidr.prefix_len() < 64 {
        return Err(ConfigError::TooLarge(cidr));
    }
    let first = bits(cidr.network()) + 1;
    let last = bits(cidr.broadcast()) - u128::from(cidr.addr().is_ipv4());
    if last < first || cidr.prefix_len() >= cidr.max_prefix_len() {
        return Err(ConfigError::TooSmall(cidr));
    }
    Ok(Range::addresses(first, last))
}

#[cfg(test)]
mod tests;
