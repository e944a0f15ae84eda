//! PersistentVolumes, as far as clients need them: whose they are, and where the data are when that is on a node.
//!
//! The many kinds of sources that nobody here serves are not read, so that decoding stays small. Who writes a volume patches it.
//!
//! Source: kubernetes core/v1 `types.go` (PersistentVolumeSpec).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, NodeSelector, ObjectReference};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// What is read of a PersistentVolume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub metadata: ObjectMeta,
    pub spec: Spec,
    pub status: State,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub access_modes: Vec<String>,
    pub capacity: BTreeMap<String, Quantity>,
    pub claim_ref: Option<ObjectReference>,
    pub persistent_volume_reclaim_policy: String,
    pub storage_class_name: String,
    pub volume_attributes_class_name: Option<String>,
    pub volume_mode: Option<String>,
    pub node_affinity: Option<Affinity>,
    pub host_path: Option<HostPathVolumeSource>,
    pub local: Option<Local>,
    pub csi: Option<Csi>,
    pub mount_options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Affinity {
    pub required: Option<NodeSelector>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Local {
    pub path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Csi {
    pub driver: String,
    pub volume_handle: String,
    pub fs_type: String,
    pub volume_attributes: BTreeMap<String, String>,
    pub node_stage_secret_ref: Option<SecretRef>,
    pub node_publish_secret_ref: Option<SecretRef>,
    pub node_expand_secret_ref: Option<SecretRef>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretRef {
    pub name: String,
    pub namespace: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub phase: String,
}

crate::kinds::kinds! {
    Volume: "" "v1" "PersistentVolume" "persistentvolumes" ClusterResourceScope;
}
