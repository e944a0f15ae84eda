//! PersistentVolume binder. Brings claims and volumes together, both ways, and says what becomes of volumes whose claim is gone.
//!
//! A claim's key is its namespace and name, a volume's its name alone; one worker takes both, so that no two claims choose the
//! same volume from the same view. What each needs is decided in [`claim`] and [`volume`]. Volumes are never made or removed
//! here: provisioners do that, Kedge's own among them, which are told by annotation.
//!
//! Source: kubernetes `pkg/controller/volume/persistentvolume/{pv_controller,pv_controller_base,index}.go`.

pub mod claim;
pub mod volume;

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::storage::Volume;
use client::{Cache, Client, Key, Object, Patch, Recorder, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use crate::failures::{Failure, Failures};
use crate::storage::{POD_BY_CLAIM, claim_key, claim_keys, class_of, default_class, is_fully_bound, volume_name};
use crate::{Context, pods};

const NAME: &str = "persistent-volume-binder";
/// As events call it, and the part of it that upstream has as a controller of its own.
const COMPONENT: &str = "persistentvolume-controller";
const EXPANDER: &str = "volume_expand";
/// One, so that each decision sees the one before.
const WORKERS: usize = 1;
/// Indexes of claims: those without a volume, by class; all by the volume that they name. And of volumes, by their claim.
const UNBOUND: &str = "unbound";
const BY_VOLUME: &str = "volume";
const BY_CLAIM: &str = "claim";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Claim,
    Volume,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A merge patch that fails when its object is another one by now.
    Patch { what: What, key: Key, status: bool, patch: Value },
    /// Once for each cause: the same is not said again until another was.
    Tell { what: What, key: Key, event_type: &'static str, reason: &'static str, message: String },
    /// A volume's claim seems to be gone or to have another volume; the API knows whether it is.
    Release { volume: Key, claim: Key, uid: String, patch: Value },
    /// A claim's volume seems to be gone, or not to be there yet; the API knows. With the event that says so.
    Lose { claim: Key, volume: String, patch: Value, reason: &'static str, message: &'static str },
}

struct Binder {
    client: Client,
    recorder: Recorder,
    expander: Recorder,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<Volume>>,
    classes: Arc<Cache<StorageClass>>,
    pods: Arc<Cache<Pod>>,
    /// What was said last about each object.
    told: Failures,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let claims = context.informers.cache::<PersistentVolumeClaim>(Selector::all());
    let volumes = context.informers.cache::<Volume>(Selector::all());
    let classes = context.informers.cache::<StorageClass>(Selector::all());
    let (pods, queue) = (context.pods(), context.queue());
    claims.add_index(UNBOUND, |c| {
        Some(class_of(c).to_owned()).filter(|_| volume_name(c).is_empty()).into_iter().collect()
    });
    claims.add_index(BY_VOLUME, |c| Some(volume_name(c).to_owned()).filter(|v| !v.is_empty()).into_iter().collect());
    volumes.add_index(BY_CLAIM, |v| v.spec.claim_ref.iter().map(|r| claim_key(r).to_string()).collect());
    let (dirty, theirs) = (Arc::clone(&queue), Arc::clone(&volumes));
    claims.on_change(Box::new(move |old, new| {
        let Some(claim) = new.or(old) else { return };
        dirty.add(claim.key());
        let named = [old, new].into_iter().flatten().map(|c| volume_name(c)).filter(|v| !v.is_empty());
        named.for_each(|name| dirty.add(Key::cluster(name)));
        theirs.indexed(BY_CLAIM, &claim.key().to_string()).iter().for_each(|v| dirty.add(v.key()));
    }));
    let (dirty, theirs) = (Arc::clone(&queue), Arc::clone(&claims));
    volumes.on_change(Box::new(move |old, new| {
        let Some(volume) = new.or(old) else { return };
        dirty.add(volume.key());
        let claimed = [old, new].into_iter().flatten().filter_map(|v| v.spec.claim_ref.as_ref());
        claimed.for_each(|reference| dirty.add(claim_key(reference)));
        theirs.indexed(BY_VOLUME, volume.name()).iter().for_each(|c| dirty.add(c.key()));
        if new.is_some_and(|v| v.spec.claim_ref.is_none() && v.status.phase == "Available") {
            let class = crate::storage::class_of_volume(volume);
            theirs.indexed(UNBOUND, class).iter().for_each(|c| dirty.add(c.key()));
        }
    }));
    let (dirty, theirs) = (Arc::clone(&queue), Arc::clone(&claims));
    classes.on_change(Box::new(move |old, new| {
        let Some(class) = new.or(old) else { return };
        // The default class is for claims that name none.
        for name in [class.name(), ""] {
            theirs.indexed(UNBOUND, name).iter().for_each(|c| dirty.add(c.key()));
        }
    }));
    let (dirty, theirs) = (Arc::clone(&queue), Arc::clone(&claims));
    pods.on_change(Box::new(move |old, new| {
        let waits = |p: Option<&Arc<Pod>>| p.is_some_and(|p| waits(p));
        if waits(old) == waits(new) {
            return;
        }
        let keys = new.or(old).into_iter().flat_map(|pod| claim_keys(pod));
        keys.filter(|key| theirs.get(key).is_some_and(|c| !is_fully_bound(&c))).for_each(|key| dirty.add(key));
    }));
    let recorder = context.recorder(&client, COMPONENT);
    let expander = context.recorder(&client, EXPANDER);
    context.run(
        Binder { client, recorder, expander, claims, volumes, classes, pods, told: Failures::default() },
        queue,
        WORKERS,
    );
}

/// Whether a pod waits for a node.
fn waits(pod: &Pod) -> bool {
    !pods::is_finished(pod) && pods::node_name(pod).is_empty()
}

impl Controller for Binder {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let mut plan = Plan::nothing();
        let uid;
        if key.namespace.is_empty() {
            let Some(volume) = self.volumes.get(key) else { return plan };
            let claim = volume.spec.claim_ref.as_ref().and_then(|r| self.claims.get(&claim_key(r)));
            plan = volume::plan(&volume, claim.as_deref());
            uid = volume.uid().to_owned();
        } else {
            let Some(claim) = self.claims.get(key) else { return plan };
            let (volumes, classes) = (self.volumes.all(), self.classes.all());
            let users = self.pods.indexed(POD_BY_CLAIM, &key.to_string());
            plan = claim::plan(&claim::Observed {
                claim: &claim,
                volumes: &volumes,
                class: self.classes.get(&Key::cluster(class_of(&claim))).as_deref(),
                default_class: default_class(&classes).map(|c| c.name()),
                waiting: users.iter().filter(|p| waits(p)).map(|p| p.name()).collect(),
            });
            uid = claim.uid().to_owned();
        }
        let tells = plan.actions.iter().any(|action| matches!(action, Action::Tell { key: about, .. } if about == key));
        if !tells {
            self.told.clear(&uid);
        }
        plan
    }

    async fn apply(&self, _: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Patch { what, key, status, patch } => self.patch(what, &key, status, &patch).await,
            Action::Tell { what, key: about, event_type, reason, message } => {
                let said = || Failure { reason, message: message.clone() };
                match what {
                    What::Claim => {
                        if let Some(claim) = self.claims.get(&about).filter(|c| self.told.is_new(c.uid(), said())) {
                            let says =
                                if reason == claim::EXTERNAL_EXPANDING { &self.expander } else { &self.recorder };
                            says.event(&*claim, event_type, reason, message);
                        }
                    }
                    What::Volume => {
                        if let Some(volume) = self.volumes.get(&about).filter(|v| self.told.is_new(v.uid(), said())) {
                            self.recorder.event(&*volume, event_type, reason, message);
                        }
                    }
                }
                Ok(vec![])
            }
            Action::Release { volume, claim, uid, patch } => {
                match self.client.get::<PersistentVolumeClaim>(&claim.namespace, &claim.name).await {
                    // It is there: whoever decided so had an older view, and the claim's coming brings the key again.
                    Ok(found) if found.uid() == uid && !volume::is_elsewhere(&found, &volume.name) => Ok(vec![]),
                    Err(error) if !error.is_not_found() => Err(error),
                    Ok(_) | Err(_) => self.patch(What::Volume, &volume, true, &patch).await,
                }
            }
            Action::Lose { claim, volume, patch, reason, message } => {
                if !volume.is_empty() {
                    match self.client.get::<Volume>("", &volume).await {
                        Ok(found) => return Ok(vec![Box::pin(self.volumes.reached(found.revision()))]),
                        Err(error) if error.is_not_found() => {}
                        Err(error) => return Err(error),
                    }
                }
                let seen = self.patch(What::Claim, &claim, true, &patch).await?;
                if let Some(claim) = self.claims.get(&claim) {
                    self.recorder.warning(&*claim, reason, message);
                }
                Ok(seen)
            }
        }
    }
}

impl Binder {
    async fn patch(&self, what: What, key: &Key, status: bool, patch: &Value) -> Result<Vec<Seen>> {
        let (sub, patch) = (if status { "status" } else { "" }, Patch::Merge(patch));
        let written: Result<Seen> = match what {
            What::Claim => {
                let claim = self.client.patch_sub::<PersistentVolumeClaim>(&key.namespace, &key.name, sub, patch).await;
                claim.map(|c| Box::pin(self.claims.reached(c.revision())) as Seen)
            }
            What::Volume => {
                let volume = self.client.patch_sub::<Volume>("", &key.name, sub, patch).await;
                volume.map(|v| Box::pin(self.volumes.reached(v.revision())) as Seen)
            }
        };
        match written {
            Ok(seen) => Ok(vec![seen]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
