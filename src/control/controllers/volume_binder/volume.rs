//! What a volume needs. Pure.
//!
//! Source: `syncVolume`, `unbindVolume`, `reclaimVolume` in `pv_controller.go`.

use client::Object as _;
use client::events::WARNING;
use client::runner::Plan;
use client::storage::Volume;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::claim::guard;
use super::{Action, What};
use crate::storage;

/// Whether a claim has found another volume.
pub fn is_elsewhere(claim: &PersistentVolumeClaim, volume: &str) -> bool {
    let name = storage::volume_name(claim);
    !name.is_empty() && name != volume
}

/// `named`: the claim that the volume names, though it may be a namesake.
pub fn plan(volume: &Volume, named: Option<&PersistentVolumeClaim>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let claim_ref = volume.spec.claim_ref.as_ref();
    let uid = claim_ref.and_then(|r| r.uid.as_deref()).unwrap_or_default();
    let Some(claim_ref) = claim_ref.filter(|_| !uid.is_empty()) else {
        if volume.status.phase != "Available" {
            plan.push(phase(volume, "Available", ""), "it is nobody's");
        }
        return plan;
    };
    let gone = |plan: &mut Plan<Action>| {
        if matches!(volume.status.phase.as_str(), "Released" | "Failed") {
            return reclaim(volume, plan);
        }
        let released = Action::Release {
            volume: volume.key(),
            claim: storage::claim_key(claim_ref),
            uid: uid.to_owned(),
            patch: phase_patch(volume, "Released", ""),
        };
        plan.push(released, "its claim is gone");
    };
    let Some(claim) = named.filter(|c| c.uid() == uid) else {
        gone(&mut plan);
        return plan;
    };
    if storage::volume_name(claim).is_empty() {
        if !storage::mode_fits(claim, volume) {
            let tell =
                |what, key, message| Action::Tell { what, key, event_type: WARNING, reason: "VolumeMismatch", message };
            let (to_claim, to_volume) = (
                format!(
                    "Cannot bind PersistentVolume \"{}\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
                    volume.name()
                ),
                format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to incompatible volumeMode.",
                    claim.name()
                ),
            );
            plan.push(tell(What::Volume, volume.key(), to_volume), "its claim wants another mode");
            plan.push(tell(What::Claim, claim.key(), to_claim), "it is of another mode");
        }
        // Otherwise the claim's turn.
    } else if storage::volume_name(claim) == volume.name() {
        if volume.status.phase != "Bound" {
            plan.push(phase(volume, "Bound", ""), "it is its claim's");
        }
    } else if volume.annotation(storage::PROVISIONED_BY).is_some()
        && volume.spec.persistent_volume_reclaim_policy == "Delete"
    {
        // Made for the claim, which found another one meanwhile.
        gone(&mut plan);
    } else {
        plan.push(patch(volume, false, unbound(volume)), "its claim has another volume");
        plan.push(phase(volume, "Available", ""), "it is nobody's");
    }
    plan
}

/// Takes back what the binder wrote; what a person wrote stays, to be bound again.
fn unbound(volume: &Volume) -> Value {
    let mut meta = guard(&volume.metadata.resource_version);
    if volume.annotation(storage::BOUND_BY_CONTROLLER).is_some() {
        meta["annotations"] = json!({storage::BOUND_BY_CONTROLLER: null});
        return json!({"metadata": meta, "spec": {"claimRef": null}});
    }
    json!({"metadata": meta, "spec": {"claimRef": {"uid": null}}})
}

fn reclaim(volume: &Volume, plan: &mut Plan<Action>) {
    let (reason, message) = match volume.spec.persistent_volume_reclaim_policy.as_str() {
        "Retain" => return,
        // Who made it removes it; a driver's volumes are the driver's.
        "Delete" if volume.spec.csi.is_some() => return,
        "Delete" if volume.annotation(storage::PROVISIONED_BY).is_some_and(|p| !p.starts_with("kubernetes.io/")) => {
            return;
        }
        "Delete" => {
            let why = "no deletable volume plugin matched";
            let name = volume.name();
            ("VolumeFailedDelete", format!("error getting deleter volume plugin for volume \"{name}\": {why}"))
        }
        "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        _ => ("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned()),
    };
    if volume.status.phase != "Failed" {
        plan.push(phase(volume, "Failed", &message), message.clone());
        let tell = Action::Tell {
            what: What::Volume,
            key: volume.key(),
            event_type: WARNING,
            reason,
            message: message.clone(),
        };
        plan.push(tell, message);
    }
}

pub fn patch(volume: &Volume, status: bool, patch: Value) -> Action {
    Action::Patch { what: What::Volume, key: volume.key(), status, patch }
}

pub fn phase(volume: &Volume, phase: &str, message: &str) -> Action {
    patch(volume, true, phase_patch(volume, phase, message))
}

fn phase_patch(volume: &Volume, phase: &str, message: &str) -> Value {
    let message = if message.is_empty() { Value::Null } else { message.into() };
    json!({"metadata": {"uid": volume.uid()}, "status": {"phase": phase, "message": message}})
}
