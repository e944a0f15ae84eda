//! IPAddress objects: one for each cluster IP in use, which says whose it is. They are written in one batch with their
//! Services, so that one is never there without the other; what an older version left out is repaired at the start.
//!
//! An address is taken when there is an object for it, whoever wrote that. What never lives here: which address is free else.
//!
//! Source: `pkg/registry/core/service/ipallocator/ipallocator.go`, `pkg/controlplane/.../repairip`, KEP-1880.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Expect, Op, View, Write};
use types::registry::{Kind, KindRef, by_kind};

use super::{Allocator, Item, Owner, Reservation, address, family_of};
use crate::hooks::json::{get, text};
use crate::managed::Managed;
use crate::verbs::object;

const LABEL_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const LABEL_MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";

pub(super) fn kind() -> Option<&'static Kind> {
    by_kind("networking.k8s.io", "v1", "IPAddress")
}

/// The object of an address that a Service holds.
pub(super) fn put(kind: &'static Kind, ip: IpAddr, owner: &Owner, expect: Expect, now: Timestamp) -> Write {
    let (namespace, name) = owner.split_once('/').unwrap_or(("", owner));
    let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": {"name": ip.to_string(), "labels": {LABEL_FAMILY: family_of(ip), LABEL_MANAGED_BY: MANAGER}},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}}});
    object::fill_new(&mut object, "", now);
    let value = object::to_store(&KindRef::from(kind), &object, &Managed::default());
    write(kind, &ip.to_string(), expect, Op::Put(value))
}

pub(super) fn write(kind: &Kind, name: &str, expect: Expect, op: Op) -> Write {
    Write { key: kind.store_key("", name).into(), expect, class: object::class(kind), op }
}

/// Whose address the object says that it is, when it is one of ours.
fn owner_in(object: &Value) -> Option<String> {
    let ours = text(get(get(object, "metadata"), "labels"), LABEL_MANAGED_BY) == MANAGER;
    let parent = get(get(object, "spec"), "parentRef");
    ours.then(|| format!("{}/{}", text(parent, "namespace"), text(parent, "name")))
}

impl Reservation<'_> {
    /// What is to be written together with the Service: objects of the addresses that it gets and no more of those that it
    /// gives up.
    pub fn objects(&self, view: &dyn View, now: Timestamp) -> Vec<Write> {
        let Some(kind) = kind() else { return Vec::new() };
        let taken = self.taken.iter().filter_map(|item| self.allocator.ip(*item));
        let mut all: Vec<Write> = taken.map(|ip| put(kind, ip, &self.owner, Expect::Absent, now)).collect();
        all.extend(self.allocator.gone(&self.given_up, &self.owner, view));
        all
    }
}

impl Allocator {
    pub(super) fn ip(&self, item: Item) -> Option<IpAddr> {
        match item {
            Item::Address(i, bits) => Some(address(bits, self.families[i] == "IPv4")),
            Item::NodePort(_) => None,
        }
    }

    /// Whether somebody holds the address by an object for it.
    pub(super) fn has_object(&self, item: Item, view: &dyn View) -> bool {
        let Some((kind, ip)) = kind().zip(self.ip(item)) else { return false };
        view.get(&kind.store_key("", &ip.to_string())).is_some()
    }

    /// What is to be written together with the deletion of a Service.
    pub fn objects_of_deleted(&self, service: &Value, view: &dyn View) -> Vec<Write> {
        self.gone(&self.items_of(get(service, "spec")), &super::owner_of(service), view)
    }

    fn gone(&self, items: &[Item], owner: &Owner, view: &dyn View) -> Vec<Write> {
        let Some(kind) = kind() else { return Vec::new() };
        let ips = items.iter().filter_map(|item| self.ip(*item));
        let ours = |ip: &IpAddr| {
            let entry = view.get(&kind.store_key("", &ip.to_string()))?;
            let object = serde_json::from_slice(entry.value()).ok()?;
            (owner_in(&object)?.as_str() == &**owner).then(|| write(kind, &ip.to_string(), Expect::Any, Op::Delete))
        };
        ips.filter_map(|ip| ours(&ip)).collect()
    }

    /// What is to be written so that there is an object for each address that is held, and of ours for no other.
    pub fn repairs(&self, view: &dyn View, now: Timestamp) -> Vec<Write> {
        let Some(kind) = kind() else { return Vec::new() };
        let mut missing: BTreeMap<String, (IpAddr, Owner)> = BTreeMap::new();
        for (i, pool) in self.state.lock().addresses.iter().enumerate() {
            for (bits, owner) in pool.all() {
                let ip = address(bits, self.families[i] == "IPv4");
                missing.insert(ip.to_string(), (ip, owner.clone()));
            }
        }
        let mut all = Vec::new();
        for entry in view.range(&kind.store_prefix(), None) {
            let Ok(found) = serde_json::from_slice::<Value>(entry.value()) else { continue };
            let name = text(get(&found, "metadata"), "name");
            let held = missing.get(name).map(|(_, owner)| &**owner);
            match owner_in(&found) {
                Some(owner) if held == Some(owner.as_str()) => {
                    missing.remove(name);
                }
                Some(_) if held.is_none() => all.push(write(kind, name, Expect::Any, Op::Delete)),
                // Somebody else's object of a free address is theirs; ours with another owner is written again.
                Some(_) | None => {}
            }
        }
        all.extend(missing.into_values().map(|(ip, owner)| put(kind, ip, &owner, Expect::Any, now)));
        all
    }
}
