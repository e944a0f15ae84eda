//! What controllers and the scheduler ask about the device claims of pods.
//!
//! Source: k8s.io/dynamic-resource-allocation `resourceclaim/resourceclaim.go`.

use client::devices::{Claim, Consumer};
use client::object::controller_of;
use client::{Key, Object as _};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};

use crate::pods;

/// Index of the pod cache: by the keys of the claims that a pod uses.
pub const POD_BY_DEVICES: &str = "devices";

/// The entries of a pod's list of claims.
pub fn entries(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|s| s.resource_claims.as_deref()).unwrap_or_default()
}

/// The claim of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'p> {
    /// `own`: it was made for the pod, which has to be its owner.
    Is { name: &'p str, own: bool },
    /// None is needed.
    Unneeded,
}

/// Which claim an entry is about.
///
/// # Errors
/// It was not made yet, or the entry says nothing.
pub fn named<'p>(pod: &'p Pod, entry: &'p PodResourceClaim) -> Result<Named<'p>, String> {
    let of = format_args!("pod \"{}/{}\"", pod.namespace(), pod.name()).to_string();
    if let Some(name) = entry.resource_claim_name.as_deref() {
        return Ok(Named::Is { name, own: false });
    }
    if entry.resource_claim_template_name.is_none() {
        return Err(format!("{of}, spec.resourceClaim {:?}: none of the supported fields are set", entry.name));
    }
    let mut statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    match statuses.find(|s| s.name == entry.name) {
        Some(status) => Ok(match status.resource_claim_name.as_deref() {
            Some(name) => Named::Is { name, own: true },
            None => Named::Unneeded,
        }),
        None => Err(format!("{of}: ResourceClaim not created yet")),
    }
}

/// The keys of all claims that a pod is known to use.
pub fn keys(pod: &Pod) -> impl Iterator<Item = Key> + '_ {
    let listed = entries(pod).iter().filter_map(|entry| match named(pod, entry) {
        Ok(Named::Is { name, .. }) => Some(name),
        Ok(Named::Unneeded) | Err(_) => None,
    });
    let extended = pod.status.iter().filter_map(|s| s.extended_resource_claim_status.as_ref());
    let extended = extended.map(|s| s.resource_claim_name.as_str());
    listed.chain(extended).map(|name| Key::new(pod.namespace(), name))
}

/// Whether a claim was made for a pod.
///
/// # Errors
/// It was not.
pub fn is_for_pod(pod: &Pod, claim: &Claim) -> Result<(), String> {
    if controller_of(&claim.metadata).is_some_and(|owner| owner.uid == pod.uid()) {
        return Ok(());
    }
    Err(format!("ResourceClaim {} was not created for Pod {} (Pod is not owner)", claim.key(), pod.key()))
}

pub fn is_reserved_for(pod: &Pod, claim: &Claim) -> bool {
    claim.status.reserved_for.iter().any(|consumer| consumer.uid == pod.uid())
}

/// The pod as the user of a claim.
pub fn consumer(pod: &Pod) -> Consumer {
    Consumer { api_group: String::new(), resource: "pods".into(), name: pod.name().into(), uid: pod.uid().into() }
}

/// Whether none of the pod's containers runs or ever will.
pub fn is_done(pod: &Pod) -> bool {
    pods::is_finished(pod) || pod.is_terminating() && pods::node_name(pod).is_empty()
}
