//! Local-path provisioner. Gives each claim of its classes a folder on the node that the scheduler selected, and takes the folder
//! away with the volume. There is a class for it, the default one, unless the cluster does without.
//!
//! Folders are made and removed by the node's agent, which is asked by way of the API server's node proxy, so that a volume exists
//! only when its folder does. A claim grows by its number: nothing holds pods to it.
//!
//! Source: rancher/local-path-provisioner `provisioner.go` and sigs.k8s.io/sig-storage-lib-external-provisioner
//! `controller/controller.go` (events, texts, annotations, finalizer).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use client::events::{NORMAL, WARNING, reference};
use client::runner::{Controller, Plan, Seen};
use client::storage::Volume;
use client::{Cache, Client, DeleteParams, Key, Object, Patch, Recorder, Result, Selector};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};
use types::quantity::Quantity;

use crate::failures::{Failure, Failures};
use crate::storage::{self, PROVISIONED_BY, SELECTED_NODE};
use crate::{Context, storage::capacity};

const NAME: &str = "local-path-provisioner";
/// As classes name it.
pub const PROVISIONER: &str = "kedge.io/local-path";
pub const CLASS: &str = "local-path";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Keeps a volume that is deleted until its folder is gone.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Claims and volumes worked on at once; the work is a request to a node and a few small writes.
const WORKERS: usize = 4;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Makes the default class.
    Class,
    /// Makes the folder, then the volume, whose path the node knows.
    Provision {
        claim: Box<PersistentVolumeClaim>,
        node: String,
        folder: String,
        volume: Value,
    },
    /// A merge patch of the claim.
    Claim {
        status: bool,
        patch: Value,
    },
    /// A merge patch of a volume.
    Volume {
        name: String,
        patch: Value,
    },
    /// Once for each cause.
    Tell {
        event_type: &'static str,
        reason: &'static str,
        message: String,
    },
    /// Removes the folder of a volume.
    Remove {
        node: String,
        folder: String,
    },
    Delete {
        uid: String,
    },
}

pub struct Observed<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub class: Option<&'a StorageClass>,
    /// The node that the scheduler selected.
    pub node: Option<&'a Node>,
    /// The claim's volume, or the one that was made for it.
    pub volume: Option<&'a Volume>,
}

fn made_here(volume: &Volume) -> bool {
    volume.annotation(PROVISIONED_BY) == Some(PROVISIONER)
}

/// The volume that is made for a claim.
fn name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid())
}

pub fn plan_claim(o: &Observed<'_>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let claim = o.claim;
    if claim.is_terminating() {
        return plan;
    }
    if storage::is_fully_bound(claim) {
        grow(o, &mut plan);
        return plan;
    }
    let asked =
        [storage::PROVISIONER, storage::PROVISIONER_BETA].iter().any(|n| claim.annotation(n) == Some(PROVISIONER));
    let Some(class) = o.class.filter(|c| asked && c.provisioner == PROVISIONER) else { return plan };
    if !storage::volume_name(claim).is_empty() || o.volume.is_some() {
        return plan;
    }
    let refused = |why: &str| Action::Tell {
        event_type: WARNING,
        reason: "ProvisioningFailed",
        message: format!("failed to provision volume with StorageClass \"{}\": {why}", class.name()),
    };
    if let Some(why) = unserved(claim) {
        plan.push(refused(why), why);
        return plan;
    }
    if claim.annotation(SELECTED_NODE).is_none() {
        plan.push(refused("configuration error, no node was specified"), "no pod has selected a node");
        return plan;
    }
    let Some(node) = o.node else {
        let patch = json!({"metadata": {"resourceVersion": claim.metadata.resource_version,
            "annotations": {SELECTED_NODE: null}}});
        plan.push(Action::Claim { status: false, patch }, "the selected node is gone: another is to be found");
        return plan;
    };
    let Some(hostname) = node.label(HOSTNAME) else {
        plan.push(refused(&format!("node {} has no label {HOSTNAME}", node.name())), "its node cannot be named");
        return plan;
    };
    let name = name_for(claim);
    let folder = format!("{name}_{}_{}", claim.namespace(), claim.name());
    // A folder's name has a bound that claims' names do not keep; the uid alone is enough.
    let folder = if folder.len() > 200 { name.clone() } else { folder };
    let volume = volume(claim, class, &name, hostname);
    let provision = Action::Provision { claim: Box::new(claim.clone()), node: node.name().into(), folder, volume };
    plan.push(provision, "its claim has a node");
    plan
}

/// What a folder on one node cannot be.
fn unserved(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    let alone = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
    if spec.selector.is_some() {
        Some("claim.Spec.Selector is not supported")
    } else if !spec.access_modes.iter().flatten().all(alone) {
        Some("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes")
    } else if spec.volume_mode.as_deref() == Some("Block") {
        Some("block volume provisioning is not supported")
    } else if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        Some("data sources are not supported")
    } else {
        None
    }
}

/// The volume of a claim, but for its path.
fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, name: &str, hostname: &str) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers = if policy == "Delete" { vec![FINALIZER] } else { vec![] };
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": finalizers},
        "spec": {
            "accessModes": spec.access_modes,
            "capacity": {"storage": storage::requested(claim).to_string()},
            "claimRef": reference(claim),
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class.name(),
            "volumeMode": "Filesystem",
            "local": {"path": ""},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME, "operator": "In", "values": [hostname]}]}]}},
        },
    })
}

/// A larger claim has a larger volume, by its number.
fn grow(o: &Observed<'_>, plan: &mut Plan<Action>) {
    let Some(volume) = o.volume.filter(|v| made_here(v) && v.name() == storage::volume_name(o.claim)) else { return };
    let wanted = storage::requested(o.claim);
    let size = || json!({"storage": wanted.to_string()});
    if capacity(volume) < wanted {
        let patch =
            json!({"metadata": {"resourceVersion": volume.metadata.resource_version}, "spec": {"capacity": size()}});
        plan.push(Action::Volume { name: volume.name().into(), patch }, "its claim is larger");
    }
    let status = o.claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    let has = status.and_then(|c| c.get("storage")).and_then(|q| q.0.parse().ok());
    let has: Quantity = has.unwrap_or_default();
    if storage::phase(o.claim) == "Bound" && has < wanted {
        let patch = json!({"metadata": {"uid": o.claim.uid()}, "status": {"capacity": size()}});
        plan.push(Action::Claim { status: true, patch }, "its volume is larger");
        let message = "Resize volume succeeded".to_owned();
        plan.push(Action::Tell { event_type: NORMAL, reason: "VolumeResizeSuccessful", message }, "it has grown");
    }
}

/// `node`: the node where a volume lies, when there is one.
pub fn plan_volume(volume: &Volume, node: Option<&Node>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let released = matches!(volume.status.phase.as_str(), "Released" | "Failed");
    if !made_here(volume) || !released || volume.spec.persistent_volume_reclaim_policy != "Delete" {
        return plan;
    }
    let path = volume.spec.local.as_ref().map(|l| l.path.as_str()).unwrap_or_default();
    let folder = path.rsplit('/').next().unwrap_or_default();
    // Of a node that is gone nothing is left to remove.
    if let Some(node) = node {
        let remove = Action::Remove { node: node.name().into(), folder: folder.into() };
        plan.push(remove, "nobody claims it any more");
    }
    let mut finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    if finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.retain(|f| f != FINALIZER);
        let patch =
            json!({"metadata": {"resourceVersion": volume.metadata.resource_version, "finalizers": finalizers}});
        plan.push(Action::Volume { name: volume.name().into(), patch }, "its folder is gone");
    }
    if !volume.is_terminating() {
        plan.push(Action::Delete { uid: volume.uid().into() }, "its folder is gone");
    }
    plan
}

/// The name of the host that a volume is for.
fn host_of(volume: &Volume) -> Option<&str> {
    let required = volume.spec.node_affinity.as_ref()?.required.as_ref()?;
    let expressions = required.node_selector_terms.iter().flat_map(|t| t.match_expressions.iter().flatten());
    expressions.into_iter().find(|e| e.key == HOSTNAME)?.values.as_ref()?.first().map(String::as_str)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

struct Provisioner {
    client: Client,
    recorder: Recorder,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<Volume>>,
    classes: Arc<Cache<StorageClass>>,
    nodes: Arc<Cache<Node>>,
    told: Failures,
    /// The class was made, or was there already: who removes it afterwards means it.
    has_class: AtomicBool,
}

pub fn start(context: &Context) {
    if !context.config.local_path {
        return;
    }
    let client = context.client(NAME);
    let claims = context.informers.cache::<PersistentVolumeClaim>(Selector::all());
    let volumes = context.informers.cache::<Volume>(Selector::all());
    let classes = context.informers.cache::<StorageClass>(Selector::all());
    let nodes = context.informers.cache::<Node>(Selector::all());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    claims.on_change(Box::new(move |_, new| new.into_iter().for_each(|c| dirty.add(c.key()))));
    let dirty = Arc::clone(&queue);
    volumes.on_change(Box::new(move |_, new| {
        new.filter(|v| made_here(v)).into_iter().for_each(|v| dirty.add(v.key()));
    }));
    // What failed while a node was away is tried when it is back.
    let (dirty, waiting, left) = (Arc::clone(&queue), Arc::clone(&claims), Arc::clone(&volumes));
    nodes.on_change(Box::new(move |old, new| {
        let Some(node) = new.or(old) else { return };
        if new.is_some_and(|n| is_ready(n)) == old.is_some_and(|n| is_ready(n)) {
            return;
        }
        let claims = waiting.all().into_iter();
        claims.filter(|c| c.annotation(SELECTED_NODE) == Some(node.name())).for_each(|c| dirty.add(c.key()));
        left.all().into_iter().filter(|v| made_here(v)).for_each(|v| dirty.add(v.key()));
    }));
    queue.add(Key::default());
    let recorder = context.recorder(&client, PROVISIONER);
    let (told, has_class) = (Failures::default(), AtomicBool::new(false));
    let provisioner = Provisioner { client, recorder, claims, volumes, classes, nodes, told, has_class };
    context.run(provisioner, queue, WORKERS);
}

impl Controller for Provisioner {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        if key.name.is_empty() {
            let mut plan = Plan::nothing();
            if !self.has_class.load(Ordering::Relaxed) {
                plan.push(Action::Class, "the cluster begins");
            }
            return plan;
        }
        if key.namespace.is_empty() {
            let Some(volume) = self.volumes.get(key) else { return Plan::nothing() };
            let host = host_of(&volume).unwrap_or_default();
            let node = self.nodes.all().into_iter().find(|n| n.label(HOSTNAME) == Some(host));
            return plan_volume(&volume, node.as_deref());
        }
        let Some(claim) = self.claims.get(key) else { return Plan::nothing() };
        let named = match storage::volume_name(&claim) {
            "" => name_for(&claim),
            name => name.to_owned(),
        };
        let plan = plan_claim(&Observed {
            claim: &claim,
            class: self.classes.get(&Key::cluster(storage::class_of(&claim))).as_deref(),
            node: claim.annotation(SELECTED_NODE).and_then(|n| self.nodes.get(&Key::cluster(n))).as_deref(),
            volume: self.volumes.get(&Key::cluster(&named)).as_deref(),
        });
        if !plan.actions.iter().any(|a| matches!(a, Action::Tell { .. })) {
            self.told.clear(claim.uid());
        }
        plan
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Class => self.make_class().await,
            Action::Provision { claim, node, folder, volume } => {
                let about = format!("External provisioner is provisioning volume for claim \"{}\"", claim.key());
                self.recorder.normal(&*claim, "Provisioning", about);
                match self.provision(&node, &folder, volume).await {
                    Ok(made) => {
                        let message = format!("Successfully provisioned volume {}", made.name());
                        self.recorder.normal(&*claim, "ProvisioningSucceeded", message);
                        Ok(vec![Box::pin(self.volumes.reached(made.revision()))])
                    }
                    Err(error) if error.is_already_exists() => Ok(vec![]),
                    Err(error) => {
                        let class = storage::class_of(&claim);
                        let message = format!("failed to provision volume with StorageClass \"{class}\": {error}");
                        self.recorder.warning(&*claim, "ProvisioningFailed", message);
                        Err(error)
                    }
                }
            }
            Action::Claim { status, patch } => {
                let (sub, patch) = (if status { "status" } else { "" }, Patch::Merge(&patch));
                let claim = self.client.patch_sub::<PersistentVolumeClaim>(&key.namespace, &key.name, sub, patch).await;
                gone(claim.map(|c| vec![Box::pin(self.claims.reached(c.revision())) as Seen]))
            }
            Action::Volume { name, patch } => {
                let volume = self.client.patch::<Volume>("", &name, Patch::Merge(&patch)).await;
                gone(volume.map(|v| vec![Box::pin(self.volumes.reached(v.revision())) as Seen]))
            }
            Action::Tell { event_type, reason, message } => {
                if let Some(claim) = self.claims.get(key)
                    && self.told.is_new(claim.uid(), Failure { reason, message: message.clone() })
                {
                    self.recorder.event(&*claim, event_type, reason, message);
                }
                Ok(vec![])
            }
            Action::Remove { node, folder } => {
                let removed = self.ask(Method::DELETE, &node, &folder).await;
                if let (Err(error), Some(volume)) = (&removed, self.volumes.get(key)) {
                    self.recorder.warning(&*volume, "VolumeFailedDelete", error.to_string());
                }
                removed.map(|_| vec![])
            }
            Action::Delete { uid } => match self.client.delete::<Volume>("", &key.name, &DeleteParams::uid(&uid)).await
            {
                Ok(_) => Ok(vec![Box::pin(self.volumes.going(key, &uid))]),
                Err(error) if error.is_not_found() || error.is_conflict() => Ok(vec![]),
                Err(error) => Err(error),
            },
        }
    }
}

fn gone(result: Result<Vec<Seen>>) -> Result<Vec<Seen>> {
    match result {
        Err(error) if error.is_not_found() => Ok(vec![]),
        other => other,
    }
}

impl Provisioner {
    async fn make_class(&self) -> Result<Vec<Seen>> {
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true,
        });
        let path = client::api::collection_path::<StorageClass>("");
        match self.client.create_path::<Value>(&path, &class, &Default::default()).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        self.has_class.store(true, Ordering::Relaxed);
        Ok(vec![])
    }

    async fn provision(&self, node: &str, folder: &str, mut volume: Value) -> Result<Volume> {
        let answer = self.ask(Method::PUT, node, folder).await?;
        volume["spec"]["local"]["path"] = answer["path"].clone();
        self.client
            .create_path::<Volume>(&client::api::collection_path::<Volume>(""), &volume, &Default::default())
            .await
    }

    /// Asks a node's agent for a folder, or for its end.
    async fn ask(&self, method: Method, node: &str, folder: &str) -> Result<Value> {
        let node = client::api::object_path(&client::api::collection_path::<Node>(""), node, "proxy");
        let path = client::api::object_path(&format!("{node}/volumes"), folder, "");
        let answer = self.client.send(method, &path, "application/json", None).await?;
        serde_json::from_slice(&answer).map_err(|source| client::Error::Decode { path, source })
    }
}

#[cfg(test)]
#[path = "local_path_tests.rs"]
mod tests;
