//! Writes the object of an address again that somebody deleted while a Service holds the address.
//!
//! What never lives here: who holds which address; the allocator knows, and the Service in the store has the last word.
//!
//! Source: `pkg/registry/core/service/ipallocator/controller/repairip.go`.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use store::{Event, Expect, Op, View, Write};
use types::registry::by_kind;

use super::objects::{kind, put, write};
use super::{Allocator, Item, Owner, bits, family_of, number};
use crate::follow::Follower;
use crate::hooks::json::get;
use crate::server::Shared;
use crate::verbs::{object, options};

/// Where the objects of addresses are kept.
pub const STORE_PREFIX: &str = "networking.k8s.io/ipaddresses/";

/// Follows the objects of addresses.
pub struct Keeper;

impl Follower for Keeper {
    fn whole<'a>(&'a mut self, shared: &'a Arc<Shared>) -> BoxFuture<'a, ()> {
        let missing = {
            let view = shared.store.snapshot();
            shared.allocator.without_object(&*view)
        };
        Box::pin(restore_all(shared, missing))
    }

    fn changed<'a>(&'a mut self, shared: &'a Arc<Shared>, events: &'a [Event]) -> BoxFuture<'a, ()> {
        let deleted = events.iter().filter(|event| matches!(event, Event::Delete { .. }));
        let ips = deleted.filter_map(|event| options::place(event.entry().key()).1.parse().ok()).collect();
        Box::pin(restore_all(shared, ips))
    }
}

async fn restore_all(shared: &Arc<Shared>, ips: Vec<IpAddr>) {
    for ip in ips {
        if let Err(error) = restore(shared, ip).await {
            tracing::warn!(%error, %ip, "the object of an address in use could not be written again");
        }
    }
}

/// Writes the object of the address if a stored Service holds it. A Service that goes away at the same time did not know of
/// the object: then it is taken back.
async fn restore(shared: &Arc<Shared>, ip: IpAddr) -> Result<(), store::Error> {
    let (Some(kind), Some(owner)) = (kind(), shared.allocator.owner(ip)) else { return Ok(()) };
    if !shared.allocator.holds(&owner, ip, &*shared.store.snapshot()) {
        return Ok(());
    }
    let object = put(kind, ip, &owner, Expect::Absent, (shared.config.clock)());
    let written = match unless_raced(shared.store.write(vec![object]).await)? {
        Some(written) => written,
        None => return Ok(()),
    };
    let Some(entry) = written.last().filter(|_| !shared.allocator.holds(&owner, ip, &*shared.store.snapshot())) else {
        tracing::info!(%ip, service = &*owner, "the object of an address in use was deleted and is written again");
        return Ok(());
    };
    let undone: Write = write(kind, &ip.to_string(), Expect::At(entry.modified()), Op::Delete);
    unless_raced(shared.store.write(vec![undone]).await).map(|_| ())
}

/// Whoever wrote first is right.
fn unless_raced<T>(written: Result<T, store::Error>) -> Result<Option<T>, store::Error> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(store::Error::Precondition { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Allocator {
    fn item(&self, ip: IpAddr) -> Option<Item> {
        self.family(family_of(ip)).map(|family| Item::Address(family, bits(ip)))
    }

    /// The Service that holds the address.
    fn owner(&self, ip: IpAddr) -> Option<Owner> {
        let item = self.item(ip)?;
        self.state.lock().pool(item).owner(number(item)).cloned()
    }

    /// Whether the Service is stored and has the address.
    fn holds(&self, owner: &Owner, ip: IpAddr, view: &dyn View) -> bool {
        let (Some(item), Some(services)) = (self.item(ip), by_kind("", "v1", "Service")) else { return false };
        let (namespace, name) = owner.split_once('/').unwrap_or(("", owner));
        let service = view.get(&services.store_key(namespace, name)).and_then(|entry| object::read(&entry).ok());
        service.is_some_and(|service| self.items_of(get(&service, "spec")).contains(&item))
    }

    /// Addresses that are held and have no object.
    fn without_object(&self, view: &dyn View) -> Vec<IpAddr> {
        let mut held = Vec::new();
        for (family, pool) in self.state.lock().addresses.iter().enumerate() {
            held.extend(pool.all().map(|(n, _)| Item::Address(family, n)));
        }
        held.into_iter().filter(|item| !self.has_object(*item, view)).filter_map(|item| self.ip(item)).collect()
    }
}
