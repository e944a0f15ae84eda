//! Attach/detach controller. A driver's volume that a pod on a node needs has a VolumeAttachment there, which others make true;
//! it goes when no pod needs it and the node has let go of it, or can no longer be waited for.
//!
//! A volume's key is its name; a node's has [`NODES`] for a namespace: its status lists what is attached. One worker takes both, so
//! that no volume is given to two nodes from the same view.
//!
//! Source: kubernetes `pkg/controller/volume/attachdetach`, `pkg/volume/csi/csi_attacher.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::csi::{Attachment, Driver, attachment_name};
use client::runner::{Controller, Plan, Seen};
use client::storage::Volume;
use client::{Cache, Client, DeleteParams, Key, Object, Patch, Recorder, Result, Selector, WriteParams};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::failures::{Failure, Failures};
use crate::storage::{POD_BY_CLAIM, claim_key, claim_keys, volume_name};
use crate::{Context, pods};

const NAME: &str = "attachdetach-controller";
const WORKERS: usize = 1;
/// What stands for a namespace in the keys of nodes. No object of ours has it.
const NODES: &str = "node";
/// How long a node that is not ready may hold on to a volume. Source: `ReconcilerMaxWaitForUnmountDuration`.
const HOLDS_SECONDS_MAX: i64 = 360;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Indexes of attachments.
const BY_VOLUME: &str = "volume";
pub const BY_NODE: &str = "node";

/// As nodes list a volume. Source: `GetUniqueVolumeName`, `GetVolumeName` of the plugin.
pub fn unique_name(volume: &Volume) -> Option<String> {
    volume.spec.csi.as_ref().map(|csi| format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Attach {
        name: String,
        driver: String,
        node: String,
        volume: String,
    },
    /// The node's status first, so that nobody there begins to use it.
    Detach {
        name: String,
        uid: String,
        node: String,
        unique: String,
    },
    /// Once for each cause.
    Tell {
        about: String,
        pods: Vec<Key>,
        message: String,
    },
    /// Replaces what the node's status lists, and tells the pods that waited for each volume that is new.
    List {
        node: String,
        attached: Vec<Value>,
        revision: Option<String>,
        new: Vec<(String, Vec<Key>)>,
    },
}

/// What there is to decide about one volume.
pub struct Observed<'a> {
    pub volume: &'a Volume,
    /// Whether its driver wants it attached.
    pub attaches: bool,
    /// The pods that use it and have a node, and have not ended.
    pub pods: Vec<&'a Pod>,
    pub attachments: &'a [Arc<Attachment>],
    /// By name.
    pub nodes: &'a dyn Fn(&str) -> Option<Arc<Node>>,
    /// Since when attachments are not needed, by their names.
    pub unneeded: &'a BTreeMap<String, Timestamp>,
}

/// Whether a volume may be at several nodes; of one that says nothing others know. Source: `IsMultiAttachAllowed`.
fn may_be_shared(volume: &Volume) -> bool {
    let modes = &volume.spec.access_modes;
    modes.is_empty() || modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany")
}

pub fn plan(o: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let (Some(csi), Some(unique)) = (&o.volume.spec.csi, unique_name(o.volume)) else { return plan };
    let mut wanted: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in o.pods.iter().filter(|_| o.attaches) {
        wanted.entry(pods::node_name(pod)).or_default().push(pod);
    }
    for attachment in o.attachments.iter().filter(|a| !a.is_terminating()) {
        let node_name = attachment.spec.node_name.as_str();
        if let Some(pods) = wanted.get(node_name) {
            if let Some(error) = attachment.status.attach_error.as_ref().filter(|_| !attachment.status.attached) {
                let name = o.volume.name();
                let message = format!("AttachVolume.Attach failed for volume \"{name}\" : {}", error.message);
                tell(&mut plan, attachment.uid(), pods, message);
            }
            continue;
        }
        let node = (o.nodes)(node_name);
        let since = o.unneeded.get(attachment.name()).copied().unwrap_or(now);
        let until = since + SignedDuration::from_secs(HOLDS_SECONDS_MAX);
        let detach = Action::Detach {
            name: attachment.name().to_owned(),
            uid: attachment.uid().to_owned(),
            node: node_name.to_owned(),
            unique: unique.clone(),
        };
        match node.as_deref() {
            None => plan.push(detach, "its node is gone"),
            Some(node) if !is_in_use(node, &unique) => plan.push(detach, "no pod needs it there"),
            Some(node) if is_out_of_service(node) => plan.push(detach, "its node is out of service"),
            Some(node) if !is_ready(node) && until <= now => plan.push(detach, "its node does not answer"),
            Some(node) if !is_ready(node) => plan.again_at(until),
            // The node's word that it has let go of it brings the key again.
            Some(_) => {}
        }
    }
    for (node_name, users) in wanted {
        if (o.nodes)(node_name).is_none() || o.attachments.iter().any(|a| a.spec.node_name == node_name) {
            continue;
        }
        let others: BTreeSet<&str> = o.attachments.iter().map(|a| a.spec.node_name.as_str()).collect();
        // One that was decided on a moment ago counts too.
        let decided = plan.actions.iter().any(|a| matches!(a, Action::Attach { .. }));
        if !may_be_shared(o.volume) && (!others.is_empty() || decided) {
            multi_attach(o, node_name, &users, &mut plan);
            continue;
        }
        let attach = Action::Attach {
            name: attachment_name(&csi.driver, &csi.volume_handle, node_name),
            driver: csi.driver.clone(),
            node: node_name.to_owned(),
            volume: o.volume.name().to_owned(),
        };
        plan.push(attach, "a pod needs it there");
    }
    plan
}

fn tell(plan: &mut Plan<Action>, about: &str, pods: &[&Pod], message: String) {
    let tell = Action::Tell { about: about.to_owned(), pods: pods.iter().map(|p| p.key()).collect(), message };
    plan.push(tell, "somebody should know");
}

/// By which a pod's want of a volume is known among what was told.
fn told_about(pod: &Pod, volume: &Volume) -> String {
    format!("{}/{}", pod.uid(), volume.name())
}

/// Source: `reportMultiAttachError`.
fn multi_attach(o: &Observed<'_>, node: &str, users: &[&Pod], plan: &mut Plan<Action>) {
    let others: Vec<&&Pod> = o.pods.iter().filter(|p| pods::node_name(p) != node).collect();
    for pod in users {
        let local: Vec<&str> = others.iter().filter(|p| p.namespace() == pod.namespace()).map(|p| p.name()).collect();
        let foreign = others.len() - local.len();
        let why = match (local.is_empty(), foreign) {
            (true, 0) => {
                "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
            }
            (true, n) => format!("Volume is already used by {n} pod(s) in different namespaces"),
            (false, 0) => format!("Volume is already used by pod(s) {}", local.join(", ")),
            (false, n) => {
                format!("Volume is already used by pod(s) {} and {n} pod(s) in different namespaces", local.join(", "))
            }
        };
        let message = format!("Multi-Attach error for volume \"{}\" {why}", o.volume.name());
        tell(plan, &told_about(pod, o.volume), &[*pod], message);
    }
}

fn is_in_use(node: &Node, unique: &str) -> bool {
    node.status.as_ref().is_some_and(|s| s.volumes_in_use.iter().flatten().any(|v| v == unique))
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.as_ref().is_some_and(|s| s.taints.iter().flatten().any(|t| t.key == OUT_OF_SERVICE))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn listed(node: &Node) -> Vec<String> {
    node.status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.clone()).collect()
}

/// Brings a node's list in line with what is attached to it: volumes by the names that nodes give them, with their own.
pub fn plan_node(node: &Node, attached: &BTreeMap<String, String>, waiting: impl Fn(&str) -> Vec<Key>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let before = listed(node);
    // What drivers have nothing to do with is somebody else's to list.
    let is_ours = |name: &&String| name.starts_with("kubernetes.io/csi/");
    let ours: BTreeSet<&String> = before.iter().filter(is_ours).collect();
    if ours == attached.keys().collect::<BTreeSet<_>>() {
        return plan;
    }
    let theirs = before.iter().filter(|name| !is_ours(name));
    let all = theirs.chain(attached.keys()).map(|name| json!({"name": name, "devicePath": ""})).collect();
    let new = attached.iter().filter(|(name, _)| !ours.contains(name)).map(|(_, v)| (v.clone(), waiting(v)));
    let list = Action::List {
        node: node.name().to_owned(),
        attached: all,
        revision: node.metadata.resource_version.clone(),
        new: new.collect(),
    };
    plan.push(list, "other volumes are attached than it lists");
    plan
}

struct AttachDetach {
    client: Client,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<Volume>>,
    nodes: Arc<Cache<Node>>,
    drivers: Arc<Cache<Driver>>,
    attachments: Arc<Cache<Attachment>>,
    /// Since when attachments are not needed. An entry goes with its attachment.
    unneeded: Mutex<BTreeMap<String, Timestamp>>,
    told: Failures,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let (pods, queue) = (context.pods(), context.queue());
    let claims = context.informers.cache::<PersistentVolumeClaim>(Selector::all());
    let volumes = context.informers.cache::<Volume>(Selector::all());
    let nodes = context.informers.cache::<Node>(Selector::all());
    let drivers = context.informers.cache::<Driver>(Selector::all());
    let attachments = context.informers.cache::<Attachment>(Selector::all());
    attachments.add_index(BY_VOLUME, |a| vec![a.volume().to_owned()]);
    attachments.add_index(BY_NODE, |a| vec![a.spec.node_name.clone()]);
    let (dirty, of) = (Arc::clone(&queue), Arc::clone(&claims));
    pods.on_change(Box::new(move |old, new| {
        let needs =
            |p: &Arc<Pod>| (!pods::node_name(p).is_empty() && !pods::is_finished(p)).then(|| p.uid().to_owned());
        if old.map(needs) == new.map(needs) {
            return;
        }
        let keys = new.or(old).into_iter().flat_map(|pod| claim_keys(pod));
        for claim in keys.filter_map(|key| of.get(&key)).filter(|c| !volume_name(c).is_empty()) {
            dirty.add(Key::cluster(volume_name(&claim)));
            let nodes = [old, new].into_iter().flatten().map(|p| pods::node_name(p)).filter(|n| !n.is_empty());
            nodes.for_each(|node| dirty.add(Key::new(NODES, node)));
        }
    }));
    let dirty = Arc::clone(&queue);
    claims.on_change(Box::new(move |old, new| {
        let names = [old, new].map(|c| c.map(|c| volume_name(c)).unwrap_or_default());
        if names[0] != names[1] {
            names.iter().filter(|n| !n.is_empty()).for_each(|n| dirty.add(Key::cluster(n)));
        }
    }));
    let dirty = Arc::clone(&queue);
    volumes.on_change(Box::new(move |_, new| {
        new.into_iter().filter(|v| v.spec.csi.is_some()).for_each(|v| dirty.add(v.key()));
    }));
    let dirty = Arc::clone(&queue);
    attachments.on_change(Box::new(move |old, new| {
        let Some(attachment) = new.or(old) else { return };
        dirty.add(Key::cluster(attachment.volume()));
        dirty.add(Key::new(NODES, &attachment.spec.node_name));
    }));
    let (dirty, at) = (Arc::clone(&queue), Arc::clone(&attachments));
    let mine = Arc::clone(&pods);
    let of = Arc::clone(&claims);
    nodes.on_change(Box::new(move |old, new| {
        let Some(node) = new.or(old) else { return };
        let facts = |n: &Arc<Node>| {
            let in_use = n.status.as_ref().and_then(|s| s.volumes_in_use.clone()).unwrap_or_default();
            (in_use, listed(n), is_ready(n), is_out_of_service(n))
        };
        if old.map(facts) == new.map(facts) {
            return;
        }
        dirty.add(Key::new(NODES, node.name()));
        at.indexed(BY_NODE, node.name()).iter().for_each(|a| dirty.add(Key::cluster(a.volume())));
        if old.is_none() {
            // Its pods were there before it was.
            let pods = mine.indexed(crate::POD_BY_NODE, node.name());
            let claims = pods.iter().flat_map(|p| claim_keys(p)).filter_map(|key| of.get(&key));
            claims.filter(|c| !volume_name(c).is_empty()).for_each(|c| dirty.add(Key::cluster(volume_name(&c))));
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&volumes));
    drivers.on_change(Box::new(move |old, new| {
        let attaches = |d: &Arc<Driver>| d.spec.attach_required != Some(false);
        let Some(driver) = new.or(old).filter(|_| old.map(attaches) != new.map(attaches)) else { return };
        let of = |v: &&Arc<Volume>| v.spec.csi.as_ref().is_some_and(|csi| csi.driver == driver.name());
        all.all().iter().filter(of).for_each(|v| dirty.add(v.key()));
    }));
    let controller = AttachDetach {
        client,
        recorder,
        pods,
        claims,
        volumes,
        nodes,
        drivers,
        attachments,
        unneeded: Mutex::default(),
        told: Failures::default(),
    };
    context.run(controller, queue, WORKERS);
}

impl AttachDetach {
    /// The pods on nodes that use a volume, by way of the claim that it belongs to.
    fn users(&self, volume: &Volume) -> Vec<Arc<Pod>> {
        let Some(reference) = &volume.spec.claim_ref else { return Vec::new() };
        let key = claim_key(reference);
        let bound = self.claims.get(&key).is_some_and(|c| volume_name(&c) == volume.name());
        if !bound {
            return Vec::new();
        }
        let mut pods = self.pods.indexed(POD_BY_CLAIM, &key.to_string());
        pods.retain(|p| !pods::node_name(p).is_empty() && !pods::is_finished(p));
        pods
    }

    fn plan_volume(&self, volume: &Volume, now: Timestamp) -> Plan<Action> {
        let attachments = self.attachments.indexed(BY_VOLUME, volume.name());
        let Some(csi) = &volume.spec.csi else { return Plan::nothing() };
        let driver = self.drivers.get(&Key::cluster(&csi.driver));
        let attaches = driver.is_none_or(|d| d.spec.attach_required != Some(false));
        let users = self.users(volume);
        let mut unneeded = self.unneeded.lock();
        unneeded.retain(|name, _| self.attachments.get(&Key::cluster(name)).is_some());
        for attachment in &attachments {
            let needed = attaches && users.iter().any(|p| pods::node_name(p) == attachment.spec.node_name);
            match needed {
                true => drop(unneeded.remove(attachment.name())),
                false => drop(unneeded.entry(attachment.name().to_owned()).or_insert(now)),
            }
        }
        let plan = plan(
            &Observed {
                volume,
                attaches,
                pods: users.iter().map(|p| &**p).collect(),
                attachments: &attachments,
                nodes: &|name: &str| self.nodes.get(&Key::cluster(name)),
                unneeded: &unneeded,
            },
            now,
        );
        if !plan.actions.iter().any(|a| matches!(a, Action::Tell { .. })) {
            for attachment in &attachments {
                self.told.clear(attachment.uid());
            }
            for pod in &users {
                self.told.clear(&told_about(pod, volume));
            }
        }
        plan
    }

    fn plan_of_node(&self, node: &Node) -> Plan<Action> {
        let mut attached = BTreeMap::new();
        for attachment in self.attachments.indexed(BY_NODE, node.name()) {
            let Some(volume) = self.volumes.get(&Key::cluster(attachment.volume())) else { continue };
            let needed = self.users(&volume).iter().any(|p| pods::node_name(p) == node.name());
            // Of one that is on its way out nobody should begin to use anything; who uses it says so itself.
            if attachment.status.attached && !attachment.is_terminating() && needed {
                attached.extend(unique_name(&volume).map(|name| (name, volume.name().to_owned())));
            }
        }
        plan_node(node, &attached, |name| {
            let volume = self.volumes.get(&Key::cluster(name));
            let users = volume.map(|v| self.users(&v)).unwrap_or_default();
            users.iter().filter(|p| pods::node_name(p) == node.name()).map(|p| p.key()).collect()
        })
    }

    fn tell(&self, key: &Key, event_type: &'static str, reason: &str, message: &str) {
        if let Some(pod) = self.pods.get(key) {
            self.recorder.event(&*pod, event_type, reason, message);
        }
    }

    async fn list(&self, node: &str, attached: &[Value], revision: Option<&str>) -> Result<Vec<Seen>> {
        let attached = if attached.is_empty() { Value::Null } else { attached.into() };
        let patch = json!({"metadata": {"resourceVersion": revision}, "status": {"volumesAttached": attached}});
        match self.client.patch_status::<Node>("", node, Patch::Merge(&patch)).await {
            Ok(written) => Ok(vec![Box::pin(self.nodes.reached(written.revision()))]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

impl Controller for AttachDetach {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        if &*key.namespace == NODES {
            let node = self.nodes.get(&Key::cluster(&key.name));
            return node.map_or_else(Plan::nothing, |node| self.plan_of_node(&node));
        }
        if let Some(volume) = self.volumes.get(key) {
            return self.plan_volume(&volume, now);
        }
        // Without its volume nobody can use it.
        let mut plan = Plan::nothing();
        for attachment in self.attachments.indexed(BY_VOLUME, &key.name).iter().filter(|a| !a.is_terminating()) {
            let detach = Action::Detach {
                name: attachment.name().to_owned(),
                uid: attachment.uid().to_owned(),
                node: attachment.spec.node_name.clone(),
                unique: String::new(),
            };
            plan.push(detach, "its volume is gone");
        }
        plan
    }

    async fn apply(&self, _: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Attach { name, driver, node, volume } => {
                let attachment = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
                    "metadata": {"name": name},
                    "spec": {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": volume}}});
                let path = client::api::collection_path::<Attachment>("");
                match self.client.create_path::<Attachment>(&path, &attachment, &WriteParams::default()).await {
                    Ok(made) => Ok(vec![Box::pin(self.attachments.reached(made.revision()))]),
                    Err(error) if error.is_already_exists() => Ok(vec![]),
                    Err(error) => Err(error),
                }
            }
            Action::Detach { name, uid, node, unique } => {
                let mut seen = Vec::new();
                let found = self.nodes.get(&Key::cluster(&node)).filter(|n| listed(n).contains(&unique));
                if let Some(found) = found {
                    let left: Vec<Value> = listed(&found)
                        .into_iter()
                        .filter(|listed| *listed != unique)
                        .map(|name| json!({"name": name, "devicePath": ""}))
                        .collect();
                    seen = self.list(&node, &left, found.metadata.resource_version.as_deref()).await?;
                }
                match self.client.delete::<Attachment>("", &name, &DeleteParams::uid(&uid)).await {
                    Ok(_) => seen.push(Box::pin(self.attachments.going(&Key::cluster(&name), &uid))),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
                Ok(seen)
            }
            Action::Tell { about, pods, message } => {
                if self.told.is_new(&about, Failure { reason: "FailedAttachVolume", message: message.clone() }) {
                    pods.iter().for_each(|key| {
                        self.tell(key, client::events::WARNING, "FailedAttachVolume", &message);
                    });
                }
                Ok(vec![])
            }
            Action::List { node, attached, revision, new } => {
                let seen = self.list(&node, &attached, revision.as_deref()).await?;
                for (volume, pods) in new {
                    let message = format!("AttachVolume.Attach succeeded for volume \"{volume}\" ");
                    pods.iter().for_each(|key| {
                        self.tell(key, client::events::NORMAL, "SuccessfulAttachVolume", &message);
                    });
                }
                Ok(seen)
            }
        }
    }
}

#[cfg(test)]
#[path = "attach_detach_tests.rs"]
mod tests;
