//! Who a pod of a StatefulSet is: its number, its name, its labels, its volumes.
//!
//! Source: kubernetes `pkg/controller/statefulset/stateful_set_utils.go`.

use std::ops::Range;

use client::Object;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodSpec, PodTemplateSpec, Volume};
use serde_json::{Value, json};

use super::claims;
use crate::history::POD_LABEL;
use crate::pods;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The numbers that the set wants. Wider than a number of the API, so that their end cannot overflow.
pub fn range(spec: &StatefulSetSpec) -> Range<i64> {
    let start = i64::from(spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0));
    start..start + i64::from(spec.replicas.unwrap_or(1).max(0))
}

/// The number in the name of a pod of the set; `None`: by its name it is none of the set's.
pub fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number: i32 = digits.parse().ok()?;
    // One name for each number: neither a sign nor leading zeros.
    (number.to_string() == digits && number >= 0).then(|| number.into())
}

pub fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.name())
}

/// The set's pod of that number, as a revision's template has it.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Pod {
    let mut pod = pods::from_template(template, &set.metadata, pods::controller_reference(set));
    let name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(POD_LABEL.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let volumes = volumes(set, spec, ordinal);
    spec.volumes = Some(volumes).filter(|v| !v.is_empty());
    pod.metadata.name = Some(name);
    pod
}

/// The volumes of the claims, and those of the pod that have other names.
fn volumes(set: &StatefulSet, pod: &PodSpec, ordinal: i64) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for (template, claim_name) in claims::names(set, ordinal) {
        let claim = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
        volumes.push(Volume { name: template.to_owned(), persistent_volume_claim: Some(claim), ..Volume::default() });
    }
    let own = volumes.len();
    for volume in pod.volumes.iter().flatten() {
        if volumes[..own].iter().all(|v| v.name != volume.name) {
            volumes.push(volume.clone());
        }
    }
    volumes
}

fn has_claims(set: &StatefulSet, pod: &Pod, ordinal: i64) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    claims::names(set, ordinal).all(|(template, name)| {
        let volume = volumes.iter().find(|v| v.name == template);
        volume.and_then(|v| v.persistent_volume_claim.as_ref()).is_some_and(|c| c.claim_name == name)
    })
}

/// The merge patch that gives a pod the identity and the volumes of its number; `None`: it has them.
pub fn correction(set: &StatefulSet, pod: &Pod, ordinal: i64) -> Option<Value> {
    let mut patch = json!({"metadata": {"uid": pod.uid()}});
    let named = pod.label(POD_NAME) == Some(pod.name());
    let stored = has_claims(set, pod, ordinal);
    if !named {
        patch["metadata"]["labels"] = json!({POD_NAME: pod.name(), POD_INDEX: ordinal.to_string()});
    }
    if !stored {
        let spec = pod.spec.clone().unwrap_or_default();
        // By way of text, as in `history`: no second serializer for every kind of volume.
        let text = serde_json::to_vec(&volumes(set, &spec, ordinal)).unwrap_or_default();
        patch["spec"]["volumes"] = serde_json::from_slice(&text).unwrap_or_default();
    }
    (!named || !stored).then_some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (pod, expected) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-2147483647", Some(2_147_483_647)),
            ("web-2147483648", None),
            ("web-01", None),
            ("web--1", None),
            ("web-+1", None),
            ("web-1-2", None),
            ("web-", None),
            ("web", None),
            ("other-1", None),
        ] {
            assert_eq!(ordinal("web", pod), expected, "{pod}");
        }
        assert_eq!(ordinal("web-1", "web-1-2"), Some(2));
    }
}
