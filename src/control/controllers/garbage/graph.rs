//! Who owns whom, and what follows from it. Pure: no request, no clock.
//!
//! A node costs the same whether or not custom kinds are defined: kinds are numbered, and the names of kinds that are not
//! built in are kept only where an object is owned by one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use client::Propagation;
use client::runner::Plan;
use k8s_openapi::api::core::v1::ObjectReference;
use serde::Deserialize;
use types::registry::{self, BUILT_IN, Kind, KindRef, api_version};

pub use super::node::Node;
use super::node::Nodes;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

pub type Uid = Arc<str>;

/// Number of a watched kind in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u16);

/// What an owner reference names besides the uid.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Referent {
    BuiltIn {
        kind: &'static Kind,
        name: Box<str>,
    },
    /// Of a kind that may be served now, later or never.
    Other(Box<Other>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    api_version: Box<str>,
    kind: Box<str>,
    name: Box<str>,
}

impl Other {
    /// Whatever version the reference names: objects have one identity in all of them.
    fn is_a(&self, kind: &Kind) -> bool {
        *self.kind == *kind.kind && group_of(&self.api_version).0 == kind.group
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    uid: Uid,
    referent: Referent,
    blocks: bool,
}

/// The graph, by uid.
#[derive(Default)]
pub struct Graph {
    pub nodes: Nodes,
    /// Owner to dependents; also for owners that were not seen.
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    /// Owners that do not exist, as the API or their own watch said. Only those that something in the graph names.
    absent: HashSet<Uid>,
    /// The kinds of the nodes by their number; free numbers are used again.
    kinds: Vec<Option<KindRef>>,
}

/// Where an object is, for requests about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: String,
    pub uid: Uid,
}

impl Place {
    fn new(kind: &Kind, namespace: &str, name: &str, uid: &Uid) -> Self {
        Self { path: client::api::object_path(&kind.path(namespace), name, ""), uid: Arc::clone(uid) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Delete(Place, Propagation),
    /// Removes references to these owners.
    Disown(Place, Vec<Uid>),
    /// Stops this object from holding back its owners.
    Unblock(Place),
    RemoveFinalizer(Place, &'static str),
    /// Asks the API whether the owner exists; the answer is remembered and the object decided again.
    LookUp(Place),
    /// Decide about these too.
    Wake(Vec<Uid>),
}

/// What a change of the graph asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Changed {
    /// Whose decisions may be others now.
    pub dirty: Vec<Uid>,
    /// Objects that name an owner of another namespace.
    pub misplaced: Vec<Misplaced>,
}

/// A reference to an owner where it cannot be: told as an event of the object that has it.
#[derive(Debug, PartialEq)]
pub struct Misplaced {
    pub about: ObjectReference,
    pub message: String,
}

impl Graph {
    /// Numbers a kind. `None`: there are no more numbers, which takes more kinds than an API server can serve.
    pub fn add_kind(&mut self, kind: KindRef) -> Option<Slot> {
        let at = self.kinds.iter().position(Option::is_none).unwrap_or(self.kinds.len());
        let slot = Slot(u16::try_from(at).ok()?);
        if at == self.kinds.len() {
            self.kinds.push(None);
        }
        self.set_kind(slot, kind);
        Some(slot)
    }

    /// The same objects are spoken of in another version from now on.
    pub fn set_kind(&mut self, slot: Slot, kind: KindRef) {
        if let Some(place) = self.kinds.get_mut(usize::from(slot.0)) {
            *place = Some(kind);
        }
    }

    /// Takes out a kind and its objects. `gone`: they do not exist any more; else nobody can tell, and what they own stays.
    pub fn drop_kind(&mut self, slot: Slot, gone: bool) -> Vec<Uid> {
        let uids = self.uids_of(slot, |_| true);
        let dirty = uids.iter().flat_map(|uid| self.remove(uid)).collect();
        if !gone {
            for uid in &uids {
                self.absent.remove(uid);
            }
        }
        if let Some(place) = self.kinds.get_mut(usize::from(slot.0)) {
            *place = None;
        }
        dirty
    }

    /// The objects of a kind that are not in the set.
    pub fn others(&self, slot: Slot, known: &HashSet<Uid>) -> Vec<Uid> {
        self.uids_of(slot, |uid| !known.contains(uid))
    }

    fn uids_of(&self, slot: Slot, wanted: impl Fn(&str) -> bool) -> Vec<Uid> {
        let of_kind = self.nodes.iter().filter(|node| node.slot == slot && wanted(node.uid()));
        of_kind.map(|node| node.uid().into()).collect()
    }

    /// Objects with an owner of this kind that is not in the graph: they could not be decided while it was not served.
    pub fn waiting_for(&self, slot: Slot) -> Vec<Uid> {
        let Some(kind) = self.kind(slot) else { return Vec::new() };
        let waits = |owner: &Owner| match &owner.referent {
            Referent::BuiltIn { .. } => false,
            Referent::Other(other) => other.is_a(kind) && !self.nodes.contains(&owner.uid),
        };
        let waiting = self.nodes.iter().filter(|node| node.owners.iter().any(waits));
        waiting.map(|node| node.uid().into()).collect()
    }

    fn kind(&self, slot: Slot) -> Option<&KindRef> {
        self.kinds.get(usize::from(slot.0))?.as_ref()
    }

    /// The owner's kind and name; `None` when its kind is not served.
    fn resolve<'a>(&'a self, referent: &'a Referent) -> Option<(&'a Kind, &'a str)> {
        match referent {
            Referent::BuiltIn { kind, name } => Some((*kind, &**name)),
            Referent::Other(other) => {
                let kind = self.kinds.iter().flatten().find(|kind| other.is_a(kind))?;
                Some((&**kind, &*other.name))
            }
        }
    }

    /// Takes in an object's newest state; `uid` is the node's.
    pub fn upsert(&mut self, uid: Uid, node: Node) -> Changed {
        let old = self.nodes.insert(node.clone());
        if old.as_ref() == Some(&node) {
            return Changed::default();
        }
        let mut dirty = vec![Arc::clone(&uid)];
        self.absent.remove(&uid);
        for owner in old.iter().flat_map(|o| o.owners.iter()) {
            // An owner that waits for this one may not have to any more.
            dirty.push(Arc::clone(&owner.uid));
            if !node.owners.iter().any(|o| o.uid == owner.uid) {
                self.unlink(&owner.uid, &uid);
            }
        }
        for owner in &node.owners {
            self.dependents.entry(Arc::clone(&owner.uid)).or_default().insert(Arc::clone(&uid));
        }
        let misplaced = self.misplaced(&uid, &node, old.as_ref());
        let nothing_to_decide = old.is_none() && node.owners.is_empty() && !node.deleting;
        if nothing_to_decide && !self.dependents.contains_key(&uid) {
            return Changed { dirty: Vec::new(), misplaced };
        }
        if node.deleting {
            dirty.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        Changed { dirty, misplaced }
    }

    /// The references that are first seen, on both sides, to lead to another namespace.
    fn misplaced(&self, uid: &Uid, node: &Node, old: Option<&Node>) -> Vec<Misplaced> {
        let mut found = Vec::new();
        for owner in &node.owners {
            let known = old.is_some_and(|old| old.owners.iter().any(|o| o.uid == owner.uid));
            if !known && self.nodes.get(&owner.uid).is_some_and(|of| of.is_elsewhere(node)) {
                found.extend(self.tell(uid, node, owner));
            }
        }
        if old.is_none() {
            for (dependent, other) in self.dependents_of(uid).filter(|(d, other)| *d != uid && node.is_elsewhere(other))
            {
                let owner = other.owners.iter().find(|o| o.uid == *uid);
                found.extend(owner.and_then(|owner| self.tell(dependent, other, owner)));
            }
        }
        found
    }

    fn tell(&self, uid: &Uid, node: &Node, owner: &Owner) -> Option<Misplaced> {
        let kind = self.kind(node.slot)?;
        let (version, of, name) = match &owner.referent {
            Referent::BuiltIn { kind, name } => (kind.api_version(), &*kind.kind, name),
            Referent::Other(other) => (other.api_version.to_string(), &*other.kind, &other.name),
        };
        let namespace = node.namespace();
        let identity = format!("[{version}/{of}, namespace: {namespace}, name: {name}, uid: {uid}]", uid = owner.uid);
        let about = ObjectReference {
            api_version: Some(api_version(&kind.group, &kind.version)),
            kind: Some(kind.kind.to_string()),
            namespace: Some(namespace.to_string()).filter(|n| !n.is_empty()),
            name: Some(node.name().to_owned()),
            uid: Some(uid.to_string()),
            ..ObjectReference::default()
        };
        let message = format!("ownerRef {identity} does not exist in namespace {namespace:?}");
        Some(Misplaced { about, message })
    }

    pub fn remove(&mut self, uid: &Uid) -> Vec<Uid> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut dirty: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            dirty.push(Arc::clone(&owner.uid));
        }
        // Its own watch said so: nothing to look up.
        self.is_absent(uid);
        dirty
    }

    /// Remembers that an owner does not exist, for as long as something names it.
    pub fn is_absent(&mut self, uid: &Uid) {
        if self.dependents.contains_key(uid) {
            self.absent.insert(Arc::clone(uid));
        }
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
                self.absent.remove(owner);
            }
        }
    }

    fn place(&self, uid: &Uid) -> Option<Place> {
        let node = self.nodes.get(uid)?;
        Some(Place::new(self.kind(node.slot)?, node.namespace(), node.name(), uid))
    }

    fn dependents_of(&self, uid: &Uid) -> impl Iterator<Item = (&Uid, &Node)> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d).map(|n| (d, n)))
    }

    /// What to do about one object.
    pub fn decide(&self, uid: &Uid) -> Plan<Action> {
        let mut plan = Plan::nothing();
        let (Some(node), Some(place)) = (self.nodes.get(uid), self.place(uid)) else { return plan };
        if node.deleting {
            if node.foreground {
                self.foreground(uid, place, &mut plan);
            } else if node.orphan {
                for (dependent, _) in self.dependents_of(uid) {
                    if let Some(place) = self.place(dependent) {
                        plan.push(Action::Disown(place, vec![Arc::clone(uid)]), "its owner orphans it");
                    }
                }
                plan.push(Action::RemoveFinalizer(place, ORPHAN), "its dependents are orphaned");
            }
            return plan;
        }
        if node.owners.is_empty() {
            return plan;
        }
        let (mut solid, mut dangling, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in &node.owners {
            let found = self.nodes.get(&owner.uid).filter(|of| !of.is_elsewhere(node));
            if let Some(found) = found {
                if found.deleting && found.foreground {
                    waiting.push(Arc::clone(&owner.uid));
                } else {
                    solid += 1;
                }
                continue;
            }
            let resolved = self.resolve(&owner.referent);
            if resolved.is_some_and(|(kind, _)| kind.namespaced()) && node.namespace().is_empty() {
                // A cluster-scoped object cannot say in which namespace its owner is: no answer would be the right one.
                return Plan::nothing();
            }
            if self.absent.contains(&owner.uid) {
                dangling.push(Arc::clone(&owner.uid));
                continue;
            }
            // A kind that is not served (yet, or any more): who knows. When it is served, the object is decided again.
            let Some((kind, name)) = resolved else { return Plan::nothing() };
            let owner = Place::new(kind, node.namespace(), name, &owner.uid);
            plan.push(Action::LookUp(owner), "an owner is not known");
        }
        if !plan.actions.is_empty() {
            plan.push(Action::Wake(vec![Arc::clone(uid)]), "its owners are known then");
            return plan;
        }
        if solid > 0 {
            dangling.extend(waiting);
            if !dangling.is_empty() {
                plan.push(Action::Disown(place, dangling), "these owners are gone, others are not");
            }
            return plan;
        }
        if !waiting.is_empty() && self.dependents_of(uid).next().is_some() {
            if self.dependents_of(uid).any(|(_, d)| d.deleting && d.foreground) {
                // Owners in a circle would wait for each other.
                plan.push(Action::Unblock(place.clone()), "one of its dependents is its owner too");
            }
            plan.push(Action::Delete(place, Propagation::Foreground), "its owner waits for it, and it has dependents");
            return plan;
        }
        let propagation = match (node.orphan, node.foreground) {
            (true, _) => Propagation::Orphan,
            (false, true) => Propagation::Foreground,
            (false, false) => Propagation::Background,
        };
        plan.push(Action::Delete(place, propagation), "its owners are gone");
        plan
    }

    fn foreground(&self, uid: &Uid, place: Place, plan: &mut Plan<Action>) {
        let blocks = |n: &Node| n.owners.iter().any(|o| o.uid == *uid && o.blocks);
        let blocking: Vec<&Uid> = self.dependents_of(uid).filter(|(_, n)| blocks(n)).map(|(d, _)| d).collect();
        if blocking.is_empty() {
            plan.push(Action::RemoveFinalizer(place, FOREGROUND), "no dependent holds it back");
        } else {
            let idle = |d: &&Uid| self.nodes.get(d).is_some_and(|n| !n.deleting);
            let wake: Vec<Uid> = blocking.into_iter().filter(idle).cloned().collect();
            if !wake.is_empty() {
                plan.push(Action::Wake(wake), "its dependents go first");
            }
        }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 0
    }
}

/// For tests and `/debug`: owners with their dependents.
impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let map: BTreeMap<_, _> = self.dependents.iter().collect();
        f.debug_map().entries(map).finish()
    }
}

/// The part of an object that the graph is made of.
#[derive(Deserialize)]
pub struct Partial {
    pub metadata: Meta,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub name: Box<str>,
    #[serde(default)]
    pub namespace: Box<str>,
    pub uid: Box<str>,
    pub deletion_timestamp: Option<Box<str>>,
    pub finalizers: Option<Vec<Box<str>>>,
    owner_references: Option<Vec<Reference>>,
    pub resource_version: Option<String>,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    api_version: Box<str>,
    kind: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    #[serde(default)]
    block_owner_deletion: Option<bool>,
}

/// Group and version.
fn group_of(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The registry's entry for a reference, whatever version it names: objects have one identity in all of them.
fn kind_of(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = group_of(api_version);
    let found = registry::by_kind(group, version, kind);
    let found = found.or_else(|| BUILT_IN.iter().find(|k| k.group == group && k.kind == kind));
    match found.and_then(|kind| kind.kept_as.as_ref()) {
        Some(kept) => registry::by_kind(&kept.group, &kept.version, &kept.kind),
        None => found,
    }
}

impl Meta {
    pub fn owners(&self) -> Box<[Owner]> {
        let owner = |r: &Reference| Owner {
            uid: Arc::from(&*r.uid),
            referent: match kind_of(&r.api_version, &r.kind) {
                Some(kind) => Referent::BuiltIn { kind, name: r.name.clone() },
                None => Referent::Other(Box::new(Other {
                    api_version: r.api_version.clone(),
                    kind: r.kind.clone(),
                    name: r.name.clone(),
                })),
            },
            blocks: r.block_owner_deletion == Some(true),
        };
        self.owner_references.iter().flatten().map(owner).collect()
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
