//! What a claim needs. Pure.
//!
//! Source: `syncUnboundClaim`, `syncBoundClaim`, `bind`, `provisionClaim` in `pv_controller.go`.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::events::{NORMAL, WARNING, reference};
use client::runner::Plan;
use client::storage::Volume;
use client::{Key, Object as _};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Map, Value, json};
use types::quantity::Quantity;

use super::{Action, What, volume};
use crate::storage::{self, Place};

/// Said by upstream's expand controller.
pub const EXTERNAL_EXPANDING: &str = "ExternalExpanding";

/// What there is to decide about one claim.
pub struct Observed<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub volumes: &'a [Arc<Volume>],
    /// The claim's class, when there is one of that name.
    pub class: Option<&'a StorageClass>,
    pub default_class: Option<&'a str>,
    /// Names of the pods that use the claim and have no node yet.
    pub waiting: Vec<&'a str>,
}

impl Observed<'_> {
    fn named(&self) -> Option<&Arc<Volume>> {
        let name = storage::volume_name(self.claim);
        self.volumes.iter().find(|v| v.name() == name)
    }

    fn tell(&self, event_type: &'static str, reason: &'static str, message: impl Into<String>) -> Action {
        Action::Tell { what: What::Claim, key: self.claim.key(), event_type, reason, message: message.into() }
    }
}

pub fn plan(o: &Observed<'_>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if o.claim.annotation(storage::BIND_COMPLETED).is_some() {
        bound(o, &mut plan);
    } else if !o.claim.is_terminating() {
        unbound(o, &mut plan);
    }
    plan
}

fn bound(o: &Observed<'_>, plan: &mut Plan<Action>) {
    let name = storage::volume_name(o.claim);
    let Some(found) = o.named() else {
        let message = if name.is_empty() {
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
        } else {
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
        };
        return lose(o, name, "ClaimLost", message, plan);
    };
    match found.spec.claim_ref.as_ref().map(|r| r.uid.as_deref().unwrap_or_default()) {
        Some(uid) if uid != o.claim.uid() => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            lose(o, "", "ClaimMisbound", message, plan);
        }
        Some(_) | None => bind(o, found, plan),
    }
    grow(o, found, plan);
}

/// A driver's volume is made larger by somebody else. Source: `syncHandler` in `pkg/controller/volume/expand/expand_controller.go`.
fn grow(o: &Observed<'_>, found: &Volume, plan: &mut Plan<Action>) {
    let status = o.claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")?.0.parse::<Quantity>().ok());
    if found.spec.csi.is_some() && status.is_some_and(|has| has < storage::requested(o.claim)) {
        let message = "waiting for an external controller to expand this PVC";
        plan.push(o.tell(NORMAL, EXTERNAL_EXPANDING, message), "the resizer's turn");
    }
}

/// `volume`: whose absence is the reason, to be asked for.
fn lose(o: &Observed<'_>, volume: &str, reason: &'static str, message: &'static str, plan: &mut Plan<Action>) {
    if storage::phase(o.claim) != "Lost"
        && let Some(patch) = status(o.claim, "Lost", None)
    {
        let lost = Action::Lose { claim: o.claim.key(), volume: volume.into(), patch, reason, message };
        plan.push(lost, message);
    }
}

fn unbound(o: &Observed<'_>, plan: &mut Plan<Action>) {
    let claim = o.claim;
    if !storage::volume_name(claim).is_empty() {
        return asked_for(o, plan);
    }
    let delayed = storage::waits_for_consumer(o.class);
    if let Some(found) = storage::find_volume(claim, o.volumes, Place::Any { delayed }, &BTreeSet::new()) {
        return bind(o, found, plan);
    }
    if !storage::names_class(claim)
        && let Some(class) = o.default_class
    {
        let patch = json!({"metadata": guard(&claim.metadata.resource_version), "spec": {"storageClassName": class}});
        return plan.push(patch_claim(claim, false, patch), "a class is the default by now");
    }
    if delayed && claim.annotation(storage::SELECTED_NODE).is_none() {
        let (reason, message) = match o.waiting.as_slice() {
            [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        };
        plan.push(o.tell(NORMAL, reason, message), "a pod decides");
    } else if !storage::class_of(claim).is_empty() {
        return provision(o, plan);
    } else {
        let message = "no persistent volumes available for this claim and no storage class is set";
        plan.push(o.tell(NORMAL, "FailedBinding", message), message);
    }
    pending(claim, plan);
}

/// The claim names its volume.
fn asked_for(o: &Observed<'_>, plan: &mut Plan<Action>) {
    let claim = o.claim;
    let Some(volume) = o.named() else { return pending(claim, plan) };
    if volume.spec.claim_ref.is_none() {
        match unfit(volume, claim) {
            None => return bind(o, volume, plan),
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{}\": {why}", volume.name());
                plan.push(o.tell(WARNING, "VolumeMismatch", message), why);
            }
        }
    } else if storage::is_bound_to(volume, claim) {
        return bind(o, volume, plan);
    } else {
        let message = format!("volume \"{}\" already bound to a different claim.", volume.name());
        plan.push(o.tell(WARNING, "FailedBinding", message), "its volume is another claim's");
    }
    pending(claim, plan);
}

/// Why a volume cannot be had although it is asked for.
fn unfit(volume: &Volume, claim: &PersistentVolumeClaim) -> Option<String> {
    let why = if volume.is_terminating() {
        return Some(format!("the volume is marked for deletion \"{}\"", volume.name()));
    } else if storage::capacity(volume) < storage::requested(claim) {
        "requested PV is too small"
    } else if storage::class_of_volume(volume) != storage::class_of(claim) {
        "storageClassName does not match"
    } else if !storage::attributes_fit(claim, volume) {
        "volumeAttributesClassName does not match"
    } else if !storage::mode_fits(claim, volume) {
        "incompatible volumeMode"
    } else if !storage::access_fits(claim, volume) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// Volume first, claim second, the volume's phase between: whoever is interrupted finds out by the volume whom it belongs to.
fn bind(o: &Observed<'_>, found: &Volume, plan: &mut Plan<Action>) {
    let claim = o.claim;
    let why = "claim and volume belong together";
    let mut push = |action| plan.push(action, why);
    let uid = found.spec.claim_ref.as_ref().and_then(|r| r.uid.as_deref());
    if uid != Some(claim.uid()) || !storage::is_bound_to(found, claim) {
        push(volume::patch(found, false, claimed(found, claim)));
    }
    if found.status.phase != "Bound" {
        push(volume::phase(found, "Bound", ""));
    }
    let (chosen, completed) =
        (storage::volume_name(claim) != found.name(), claim.annotation(storage::BIND_COMPLETED).is_some());
    if chosen || !completed {
        let mut annotations = json!({storage::BIND_COMPLETED: "yes"});
        if chosen {
            annotations[storage::BOUND_BY_CONTROLLER] = "yes".into();
        }
        let mut meta = guard(&claim.metadata.resource_version);
        meta["annotations"] = annotations;
        push(patch_claim(claim, false, json!({"metadata": meta, "spec": {"volumeName": found.name()}})));
    }
    if let Some(patch) = status(claim, "Bound", Some(found)) {
        push(patch_claim(claim, true, patch));
    }
}

/// The patch by which a volume becomes a claim's.
pub fn claimed(volume: &Volume, claim: &PersistentVolumeClaim) -> Value {
    let mut meta = guard(&volume.metadata.resource_version);
    if !storage::is_bound_to(volume, claim) {
        meta["annotations"] = json!({storage::BOUND_BY_CONTROLLER: "yes"});
    }
    json!({"metadata": meta, "spec": {"claimRef": reference(claim)}})
}

fn provision(o: &Observed<'_>, plan: &mut Plan<Action>) {
    let name = storage::class_of(o.claim);
    let Some(class) = o.class else {
        let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
        return plan.push(o.tell(WARNING, "ProvisioningFailed", message), "its class is not there");
    };
    let provisioner = class.provisioner.as_str();
    if provisioner.starts_with("kubernetes.io/") {
        let message = format!("no volume plugin matched name: {provisioner}");
        return plan.push(o.tell(WARNING, "ProvisioningFailed", message), "nobody provisions for its class");
    }
    let names = [storage::PROVISIONER, storage::PROVISIONER_BETA];
    if names.iter().any(|n| o.claim.annotation(n) != Some(provisioner)) {
        let mut meta = guard(&o.claim.metadata.resource_version);
        meta["annotations"] =
            names.iter().map(|n| ((*n).to_owned(), Value::from(provisioner))).collect::<Map<_, _>>().into();
        plan.push(patch_claim(o.claim, false, json!({"metadata": meta})), "tells the provisioner");
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    plan.push(o.tell(NORMAL, "ExternalProvisioning", message), "the provisioner's turn");
}

fn pending(claim: &PersistentVolumeClaim, plan: &mut Plan<Action>) {
    if let Some(patch) = status(claim, "Pending", None) {
        plan.push(patch_claim(claim, true, patch), "it has no volume");
    }
}

/// The patch that makes a claim's status say what it has; `None` when it does.
fn status(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&Volume>) -> Option<Value> {
    let now = claim.status.clone().unwrap_or_default();
    let moves = storage::phase(claim) != phase;
    let mut patch = Map::new();
    if moves {
        patch.insert("phase".into(), phase.into());
    }
    match volume {
        None => {
            let there = [
                ("accessModes", now.access_modes.is_some()),
                ("capacity", now.capacity.is_some()),
                ("currentVolumeAttributesClassName", now.current_volume_attributes_class_name.is_some()),
            ];
            patch.extend(there.into_iter().filter(|(_, there)| *there).map(|(name, _)| (name.into(), Value::Null)));
        }
        Some(volume) => {
            if now.access_modes.as_ref() != Some(&volume.spec.access_modes) {
                patch.insert("accessModes".into(), json!(volume.spec.access_modes));
            }
            // The size changes with a resize afterwards, which is another controller's to say.
            let size = now.capacity.as_ref().and_then(|c| c.get("storage")).and_then(|q| q.0.parse().ok());
            if moves && size != Some(storage::capacity(volume)) {
                patch.insert("capacity".into(), json!(volume.spec.capacity));
            }
            let class = &volume.spec.volume_attributes_class_name;
            if moves && storage::phase(claim) == "Pending" && now.current_volume_attributes_class_name != *class {
                patch.insert("currentVolumeAttributesClassName".into(), json!(class));
            }
        }
    }
    (!patch.is_empty()).then(|| json!({"metadata": {"uid": claim.uid()}, "status": patch}))
}

/// Metadata of a patch that fails when the object has changed since.
pub fn guard(revision: &Option<String>) -> Value {
    json!({"resourceVersion": revision})
}

fn patch_claim(claim: &PersistentVolumeClaim, status: bool, patch: Value) -> Action {
    Action::Patch { what: What::Claim, key: Key::of(&claim.metadata), status, patch }
}
