//! What controllers and scheduler ask about claims, volumes and classes. Pure.
//!
//! Source: kubernetes `staging/src/k8s.io/component-helpers/storage/{volume,ephemeral}`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::storage::Volume;
use client::{Key, Object as _};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod, Volume as PodVolume};
use k8s_openapi::api::storage::v1::StorageClass;
use types::quantity::Quantity;

use crate::nodes::matches_labels;
use crate::pods;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// Index of the pod cache: the claims that a pod uses, as `namespace/name`.
pub const POD_BY_CLAIM: &str = "claim";

/// The claim behind a volume of a pod, and whether it is made for the pod.
pub fn claim_of<'a>(pod: &Pod, volume: &'a PodVolume) -> Option<(std::borrow::Cow<'a, str>, bool)> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some((source.claim_name.as_str().into(), false)),
        (None, Some(_)) => Some((format!("{}-{}", pod.name(), volume.name).into(), true)),
        (None, None) => None,
    }
}

/// Every claim that a pod uses, those that are made for it included.
pub fn claim_keys(pod: &Pod) -> impl Iterator<Item = Key> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| Some(Key::new(pod.namespace(), &claim_of(pod, v)?.0)))
}

/// # Errors
/// Upstream's text: an ephemeral volume's claim has that name already, and is somebody else's.
pub fn is_for_pod(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if claim.controller_owner().is_some_and(|owner| owner.uid == pod.uid()) {
        return Ok(());
    }
    Err(format!("PVC {} was not created for pod {} (pod is not owner)", claim.key(), pod.key()))
}

/// The class that a claim asks for; empty: none.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let annotated = claim.annotation(CLASS_BETA);
    annotated.or(claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref())).unwrap_or_default()
}

/// Whether a claim says which class it wants, be it none.
pub fn names_class(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(CLASS_BETA).is_some() || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

pub fn class_of_volume(volume: &Volume) -> &str {
    volume.annotation(CLASS_BETA).unwrap_or(&volume.spec.storage_class_name)
}

pub fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The volume that a claim names; empty: none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && claim.annotation(BIND_COMPLETED).is_some()
}

pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get("storage")).and_then(|q| q.0.parse().ok()).unwrap_or_default()
}

pub fn capacity(volume: &Volume) -> Quantity {
    volume.spec.capacity.get("storage").and_then(|q| q.0.parse().ok()).unwrap_or_default()
}

/// What a volume is compared with for a claim besides names: each answers whether it fits.
pub fn mode_fits(claim: &PersistentVolumeClaim, volume: &Volume) -> bool {
    let filesystem = "Filesystem";
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or(filesystem);
    wanted == volume.spec.volume_mode.as_deref().unwrap_or(filesystem)
}

pub fn access_fits(claim: &PersistentVolumeClaim, volume: &Volume) -> bool {
    let wanted = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten());
    wanted.into_iter().all(|mode| volume.spec.access_modes.contains(mode))
}

pub fn attributes_fit(claim: &PersistentVolumeClaim, volume: &Volume) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    wanted.unwrap_or_default() == volume.spec.volume_attributes_class_name.as_deref().unwrap_or_default()
}

/// Whether a volume names this claim; one that names no uid yet waits for any claim of that name.
pub fn is_bound_to(volume: &Volume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|reference| {
        let uid = reference.uid.as_deref().unwrap_or_default();
        claim_key(reference) == claim.key() && (uid.is_empty() || uid == claim.uid())
    })
}

pub fn claim_key(reference: &ObjectReference) -> Key {
    Key::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default())
}

/// Whether the nodes with these labels reach a volume.
pub fn reaches(labels: &BTreeMap<String, String>, volume: &Volume) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
    required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches_labels(term, labels)))
}

/// Whether claims of a class are bound when a pod that uses them is placed.
pub fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|c| c.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// The newest of the classes that are marked as default; among equals the first by name.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let marked = |c: &&Arc<StorageClass>| DEFAULT_CLASS.iter().any(|name| c.annotation(name) == Some("true"));
    let age = |c: &StorageClass| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
    classes.iter().filter(marked).max_by(|a, b| age(a).cmp(&age(b)).then_with(|| b.name().cmp(a.name())))
}

/// Where a volume for a claim is looked for.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// Wherever; `delayed`: only volumes that name the claim, all others are found when a node is known.
    Any { delayed: bool },
    /// It must be reached from a node with these labels.
    Node(&'a BTreeMap<String, String>),
}

/// The volume that suits a claim best: the one that names it, else the smallest that is available and large enough, with as
/// few access modes beyond those asked for as may be. `taken` names volumes that others have chosen.
pub fn find_volume<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<Volume>],
    place: Place<'_>,
    taken: &BTreeSet<String>,
) -> Option<&'a Arc<Volume>> {
    let wanted = requested(claim);
    let selector = match claim.spec.as_ref().and_then(|s| s.selector.as_ref()) {
        Some(selector) => Some(pods::matcher(selector)?),
        None => None,
    };
    let fits = |v: &&Arc<Volume>| {
        !taken.contains(v.name())
            && !v.is_terminating()
            && capacity(v) >= wanted
            && mode_fits(claim, v)
            && access_fits(claim, v)
            && attributes_fit(claim, v)
    };
    let reached = |v: &Volume| match place {
        Place::Any { .. } => true,
        Place::Node(labels) => reaches(labels, v),
    };
    if let Some(volume) = volumes.iter().filter(fits).find(|v| is_bound_to(v, claim)) {
        return reached(volume).then_some(volume);
    }
    if matches!(place, Place::Any { delayed: true }) {
        return None;
    }
    let free = volumes.iter().filter(fits).filter(|v| {
        v.spec.claim_ref.is_none()
            && v.status.phase == "Available"
            && class_of_volume(v) == class_of(claim)
            && selector.as_ref().is_none_or(|s| s.matches(&v.metadata.labels))
            && reached(v)
    });
    free.min_by_key(|v| (v.spec.access_modes.len(), capacity(v), v.name()))
}
