//! Garbage collector. Deletes what lost all its owners, and carries out foreground deletion and orphaning.
//!
//! A graph of every object's identity and owners is kept from metadata-only watches over all kinds of the registry. `decide`
//! is pure over the graph; an owner that the graph does not have is looked up in the API once before anything is deleted for
//! its absence, because one watch may be behind another.
//!
//! Source: kubernetes `pkg/controller/garbagecollector/{garbagecollector,graph_builder,graph,operations}.go`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use client::queue::Queue;
use client::reflector::{self, Sink, Source};
use client::runner::{Controller, Plan, Seen};
use client::{Client, DeleteParams, Key, Patch, Propagation, Result, Revision};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use types::registry::{self, BUILT_IN, Kind, Verb};

use crate::Context;

const NAME: &str = "generic-garbage-collector";
/// Objects worked on at once; upstream's `--concurrent-gc-syncs` is 20.
const WORKERS: usize = 8;
/// Owners known to be gone that are remembered; upstream's cache has the same size.
const ABSENT_MAX: usize = 500;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

type Uid = Arc<str>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    uid: Uid,
    kind: Option<&'static Kind>,
    name: Box<str>,
    blocks: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    kind: &'static Kind,
    namespace: Box<str>,
    name: Box<str>,
    owners: Box<[Owner]>,
    deleting: bool,
    foreground: bool,
    orphan: bool,
}

/// Who owns whom, by uid.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    /// Owner to dependents; also for owners that were not seen.
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    /// Owners that the API said do not exist.
    absent: HashSet<Uid>,
}

/// Where an object is, for requests about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    kind: &'static Kind,
    namespace: Box<str>,
    name: Box<str>,
    uid: Uid,
}

impl Place {
    fn path(&self) -> String {
        client::api::object_path(&self.kind.path(&self.namespace), &self.name, "")
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

impl Graph {
    /// Takes in an object's newest state. Returns whose decisions may change.
    fn upsert(&mut self, uid: Uid, node: Node) -> Vec<Uid> {
        let mut dirty = vec![Arc::clone(&uid)];
        let old = self.nodes.insert(Arc::clone(&uid), node.clone());
        if old.as_ref() == Some(&node) {
            return Vec::new();
        }
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
        let nothing_to_decide = old.is_none() && node.owners.is_empty() && !node.deleting;
        if nothing_to_decide && !self.dependents.contains_key(&uid) {
            return Vec::new();
        }
        if node.deleting {
            dirty.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        dirty
    }

    fn remove(&mut self, uid: &Uid) -> Vec<Uid> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut dirty: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            dirty.push(Arc::clone(&owner.uid));
        }
        if !dirty.is_empty() {
            self.forget_some();
            // Its own watch said so: nothing to look up.
            self.absent.insert(Arc::clone(uid));
        }
        dirty
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

    fn forget_some(&mut self) {
        if self.absent.len() >= ABSENT_MAX {
            // They are looked up again when they matter.
            self.absent.clear();
        }
    }

    fn place(&self, uid: &Uid) -> Option<Place> {
        let node = self.nodes.get(uid)?;
        Some(Place {
            kind: node.kind,
            namespace: node.namespace.clone(),
            name: node.name.clone(),
            uid: Arc::clone(uid),
        })
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
            let found = self.nodes.get(&owner.uid).filter(|n| n.namespace.is_empty() || n.namespace == node.namespace);
            match (found, owner.kind) {
                (Some(found), _) if found.deleting && found.foreground => waiting.push(Arc::clone(&owner.uid)),
                (Some(_), _) => solid += 1,
                // A kind that is not served (any more): who knows.
                (None, None) => solid += 1,
                (None, Some(_)) if self.absent.contains(&owner.uid) => dangling.push(Arc::clone(&owner.uid)),
                (None, Some(kind)) => {
                    let namespace = if kind.namespaced() { node.namespace.clone() } else { "".into() };
                    let uid = Arc::clone(&owner.uid);
                    let owner = Place { kind, namespace, name: owner.name.clone(), uid };
                    plan.push(Action::LookUp(owner), "an owner is not known");
                }
            }
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
            let idle = |d: &&Uid| self.nodes.get(*d).is_some_and(|n| !n.deleting);
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
        self.nodes.is_empty()
    }
}

#[derive(Deserialize)]
struct Partial {
    metadata: Meta,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Box<str>,
    #[serde(default)]
    namespace: Box<str>,
    uid: Box<str>,
    deletion_timestamp: Option<Box<str>>,
    finalizers: Option<Vec<Box<str>>>,
    owner_references: Option<Vec<Reference>>,
    resource_version: Option<String>,
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

/// The registry's entry for a reference, whatever version it names: objects have one identity in all of them.
fn kind_of(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = registry::by_kind(group, version, kind);
    let found = found.or_else(|| BUILT_IN.iter().find(|k| k.group == group && k.kind == kind));
    match found.and_then(|kind| kind.kept_as.as_ref()) {
        Some(kept) => registry::by_kind(&kept.group, &kept.version, &kept.kind),
        None => found,
    }
}

fn node(kind: &'static Kind, meta: &Meta) -> Node {
    let has = |name: &str| meta.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| **f == *name));
    let owners = meta.owner_references.iter().flatten().map(|r| Owner {
        uid: Arc::from(&*r.uid),
        kind: kind_of(&r.api_version, &r.kind),
        name: r.name.clone(),
        blocks: r.block_owner_deletion == Some(true),
    });
    Node {
        kind,
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        owners: owners.collect(),
        deleting: meta.deletion_timestamp.is_some(),
        foreground: has(FOREGROUND),
        orphan: has(ORPHAN),
    }
}

/// One kind's watch into the graph.
struct Feed {
    kind: &'static Kind,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue>,
    /// What the current listing brought; none while live.
    listing: Mutex<Option<HashSet<Uid>>>,
    synced: watch::Sender<usize>,
    done: std::sync::atomic::AtomicBool,
}

impl Feed {
    fn wake(&self, dirty: Vec<Uid>) {
        for uid in dirty {
            self.queue.add(Key::cluster(&uid));
        }
    }
}

impl Sink for Feed {
    fn begin(&self) {
        *self.listing.lock() = Some(HashSet::new());
    }

    fn upsert(&self, object: &str) -> serde_json::Result<()> {
        let object: Partial = serde_json::from_str(object)?;
        let uid: Uid = Arc::from(&*object.metadata.uid);
        if let Some(listing) = &mut *self.listing.lock() {
            listing.insert(Arc::clone(&uid));
        }
        let dirty = self.graph.lock().upsert(uid, node(self.kind, &object.metadata));
        self.wake(dirty);
        Ok(())
    }

    fn remove(&self, object: &str) -> serde_json::Result<()> {
        let object: Partial = serde_json::from_str(object)?;
        let dirty = self.graph.lock().remove(&Arc::from(&*object.metadata.uid));
        self.wake(dirty);
        Ok(())
    }

    fn complete(&self, _: Revision) {
        if let Some(seen) = self.listing.lock().take() {
            let mut graph = self.graph.lock();
            let of_kind = |n: &Node| std::ptr::eq(n.kind, self.kind);
            let gone: Vec<Uid> = graph
                .nodes
                .iter()
                .filter(|(u, n)| of_kind(n) && !seen.contains(*u))
                .map(|(u, _)| Arc::clone(u))
                .collect();
            let dirty: Vec<Uid> = gone.iter().flat_map(|uid| graph.remove(uid)).collect();
            drop(graph);
            self.wake(dirty);
        }
        if !self.done.swap(true, std::sync::atomic::Ordering::SeqCst) {
            self.synced.send_modify(|n| *n += 1);
        }
    }

    fn progress(&self, _: Revision) {}
}

struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue>,
}

/// Kinds whose objects can own or be owned. Events are neither, and there are many.
fn kinds() -> impl Iterator<Item = &'static Kind> {
    BUILT_IN.iter().filter(|k| k.keeps() && k.kind != "Event" && k.allows(Verb::Watch) && k.allows(Verb::Delete))
}

pub fn start(context: &Context) {
    let graph = Arc::new(Mutex::new(Graph::default()));
    // What the watches mark dirty before all of them are complete waits here, and is worked on afterwards.
    let queue = context.queue();
    let synced = watch::Sender::new(0usize);
    let mut expected = 0;
    let client = context.client(NAME);
    for kind in kinds() {
        expected += 1;
        let feed = Feed {
            kind,
            graph: Arc::clone(&graph),
            queue: Arc::clone(&queue),
            listing: Mutex::new(None),
            synced: synced.clone(),
            done: false.into(),
        };
        let source = Source {
            client: client.clone(),
            collection: kind.path(""),
            label_selector: String::new(),
            field_selector: String::new(),
            metadata_only: true,
        };
        context.spawn(reflector::run(source, Arc::new(feed), context.stopping()));
    }
    let collector: Arc<dyn client::runner::Reconcile> =
        Arc::new(Collector { client, graph, queue: Arc::clone(&queue) });
    let (stop, clock) = (context.stopping(), context.config.clock);
    context.spawn(async move {
        let mut ready = synced.subscribe();
        tokio::select! {
            _ = ready.wait_for(|n| *n >= expected) => {}
            () = stop.cancelled() => return,
        }
        client::runner::run(collector, queue, clock, WORKERS, stop).await;
    });
}

impl Collector {
    async fn live(&self, place: &Place) -> Result<Option<Meta>> {
        match self.client.get_path::<Partial>(&place.path()).await {
            Ok(object) if *object.metadata.uid == *place.uid => Ok(Some(object.metadata)),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes one list of the live object's metadata; a conflict is tried again by the runner.
    async fn change(&self, place: &Place, edit: impl FnOnce(&mut serde_json::Value) -> bool) -> Result<()> {
        let mut object: serde_json::Value = match self.client.get_path(&place.path()).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let meta = &mut object["metadata"];
        if meta["uid"] != *place.uid || !edit(meta) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "finalizers": meta["finalizers"],
            "ownerReferences": meta["ownerReferences"],
        }});
        match self
            .client
            .patch_path::<serde_json::Value>(&place.path(), Patch::Merge(&patch), &client::WriteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn retain(meta: &mut serde_json::Value, field: &str, keep: impl Fn(&serde_json::Value) -> bool) -> bool {
    let Some(list) = meta[field].as_array_mut() else { return false };
    let before = list.len();
    list.retain(|v| keep(v));
    let changed = list.len() != before;
    if list.is_empty() {
        // An empty list and none are the same; the patch says none.
        meta[field] = serde_json::Value::Null;
    }
    changed
}

impl Controller for Collector {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        self.graph.lock().decide(&Arc::from(&*key.name))
    }

    async fn apply(&self, _: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Delete(place, propagation) => {
                // The newest state decides: somebody may have given it an owner, or deleted it, meanwhile.
                let Some(live) = self.live(&place).await? else { return Ok(vec![]) };
                let known = self.graph.lock().nodes.get(&place.uid).cloned();
                let current = node(place.kind, &live);
                if live.deletion_timestamp.is_some() || known.is_none_or(|n| n.owners != current.owners) {
                    return Ok(vec![]);
                }
                let params = DeleteParams {
                    resource_version: live.resource_version,
                    ..DeleteParams::uid(&place.uid).propagation(propagation)
                };
                match self.client.delete_path(&place.path(), &params).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            Action::Disown(place, owners) => {
                let gone = |r: &serde_json::Value| owners.iter().any(|o| r["uid"] == **o);
                self.change(&place, |meta| retain(meta, "ownerReferences", |r| !gone(r))).await?;
            }
            Action::Unblock(place) => {
                self.change(&place, |meta| {
                    let mut changed = false;
                    for reference in meta["ownerReferences"].as_array_mut().into_iter().flatten() {
                        changed |= reference["blockOwnerDeletion"] == true;
                        reference["blockOwnerDeletion"] = false.into();
                    }
                    changed
                })
                .await?;
            }
            Action::RemoveFinalizer(place, name) => {
                self.change(&place, |meta| retain(meta, "finalizers", |f| f != name)).await?;
            }
            Action::LookUp(owner) => {
                if self.live(&owner).await?.is_none() {
                    let mut graph = self.graph.lock();
                    graph.forget_some();
                    graph.absent.insert(owner.uid);
                }
                // It exists, but its watch is behind: its arrival decides, and the back-off looks again until then.
                else if !self.graph.lock().nodes.contains_key(&owner.uid) {
                    return Err(types::status::Status::service_unavailable("an owner is not in the graph yet").into());
                }
            }
            Action::Wake(uids) => {
                for uid in uids {
                    self.queue.add(Key::cluster(&uid));
                }
            }
        }
        Ok(vec![])
    }
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;

/// For tests and `/debug`: owners with their dependents.
impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let map: BTreeMap<_, _> = self.dependents.iter().collect();
        f.debug_map().entries(map).finish()
    }
}
