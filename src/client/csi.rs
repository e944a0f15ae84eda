//! What the API knows of CSI drivers, as far as clients need it: which volumes should be attached where, what a driver asks for,
//! which nodes have it, and how much room its storage has. Who writes one of these sends what it means.
//!
//! Source: kubernetes storage/v1 `types.go`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The name of what says that a volume should be attached to a node. Source: `getAttachmentName` in
/// `pkg/volume/csi/csi_attacher.go`.
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    digest.iter().fold("csi-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// A VolumeAttachment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    pub metadata: ObjectMeta,
    pub spec: AttachmentSpec,
    pub status: AttachmentState,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSpec {
    pub attacher: String,
    pub node_name: String,
    pub source: AttachmentSource,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSource {
    pub persistent_volume_name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentState {
    pub attached: bool,
    pub attach_error: Option<AttachError>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachError {
    pub message: String,
}

impl Attachment {
    /// The volume's name; empty: it has none.
    pub fn volume(&self) -> &str {
        self.spec.source.persistent_volume_name.as_deref().unwrap_or_default()
    }
}

/// A CSIDriver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Driver {
    pub metadata: ObjectMeta,
    pub spec: DriverSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DriverSpec {
    pub attach_required: Option<bool>,
    pub storage_capacity: bool,
}

/// A CSINode: the drivers of the node of its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDrivers {
    pub metadata: ObjectMeta,
    pub spec: NodeDriversSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDriversSpec {
    pub drivers: Vec<NodeDriver>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDriver {
    pub name: String,
    pub allocatable: Option<Allocatable>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocatable {
    pub count: Option<i32>,
}

/// A CSIStorageCapacity: how much room storage of a class has for the nodes that a selector names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capacity {
    pub metadata: ObjectMeta,
    pub storage_class_name: String,
    pub node_topology: Option<LabelSelector>,
    pub capacity: Option<Quantity>,
    pub maximum_volume_size: Option<Quantity>,
}

crate::kinds::kinds! {
    Attachment: "storage.k8s.io" "v1" "VolumeAttachment" "volumeattachments" ClusterResourceScope;
    Driver: "storage.k8s.io" "v1" "CSIDriver" "csidrivers" ClusterResourceScope;
    NodeDrivers: "storage.k8s.io" "v1" "CSINode" "csinodes" ClusterResourceScope;
    Capacity: "storage.k8s.io" "v1" "CSIStorageCapacity" "csistoragecapacities" NamespaceResourceScope;
}
