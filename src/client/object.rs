//! The few things that every API object has, for code that is generic over kinds.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// A typed API object that requests and caches can carry.
pub trait Object:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + serde::de::DeserializeOwned
    + serde::Serialize
    + Clone
    + Send
    + Sync
    + 'static
{
    /// The object of a JSON text.
    fn decode(text: &str) -> serde_json::Result<Self>;

    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
    fn key(&self) -> Key {
        Key::new(self.namespace(), self.name())
    }
    fn revision(&self) -> Revision {
        Revision::of(self.metadata())
    }
    fn is_terminating(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
    fn label(&self, key: &str) -> Option<&str> {
        self.metadata().labels.as_ref()?.get(key).map(String::as_str)
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(key).map(String::as_str)
    }
    /// The owner that manages this object, if any.
    fn controller_owner(&self) -> Option<&OwnerReference> {
        controller_of(self.metadata())
    }
}

/// The kinds that are read as types. Their decoders are made here, once: a generic function would be compiled anew in every
/// room that uses it, and those of Pod alone are hundreds of kilobytes.
macro_rules! objects {
    ($($kind:ty,)*) => {
        $(impl Object for $kind {
            fn decode(text: &str) -> serde_json::Result<Self> {
                serde_json::from_str(text)
            }
        })*
    };
}

objects! {
    k8s_openapi::api::apps::v1::ControllerRevision,
    k8s_openapi::api::apps::v1::DaemonSet,
    k8s_openapi::api::apps::v1::Deployment,
    k8s_openapi::api::apps::v1::ReplicaSet,
    k8s_openapi::api::apps::v1::StatefulSet,
    k8s_openapi::api::batch::v1::CronJob,
    k8s_openapi::api::batch::v1::Job,
    k8s_openapi::api::certificates::v1::CertificateSigningRequest,
    k8s_openapi::api::coordination::v1::Lease,
    k8s_openapi::api::core::v1::ConfigMap,
    k8s_openapi::api::core::v1::Endpoints,
    k8s_openapi::api::core::v1::Event,
    k8s_openapi::api::core::v1::Namespace,
    k8s_openapi::api::core::v1::Node,
    k8s_openapi::api::core::v1::PersistentVolumeClaim,
    k8s_openapi::api::core::v1::Pod,
    k8s_openapi::api::core::v1::ReplicationController,
    k8s_openapi::api::core::v1::ResourceQuota,
    k8s_openapi::api::core::v1::Secret,
    k8s_openapi::api::core::v1::Service,
    k8s_openapi::api::core::v1::ServiceAccount,
    k8s_openapi::api::discovery::v1::EndpointSlice,
    k8s_openapi::api::policy::v1::PodDisruptionBudget,
    k8s_openapi::api::rbac::v1::ClusterRole,
    k8s_openapi::api::storage::v1::StorageClass,
    k8s_openapi::api::storage::v1::VolumeAttributesClass,
    crate::aggregated::Registration,
    crate::autoscaler::Autoscaler,
    crate::csi::Attachment,
    crate::csi::Capacity,
    crate::csi::Driver,
    crate::csi::NodeDrivers,
    crate::definition::Definition,
    crate::devices::Claim,
    crate::devices::Class,
    crate::devices::Slice,
    crate::devices::Template,
    crate::range::Address,
    crate::range::ServiceRange,
    crate::storage::Volume,
}

pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
}

/// Which object of a kind: namespace (empty for cluster-scoped kinds) and name. Ordered by namespace, then name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    pub namespace: Box<str>,
    pub name: Box<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
    pub fn cluster(name: &str) -> Self {
        Self::new("", name)
    }
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A `resourceVersion` as a number. Kubernetes 1.36 promises that they are decimal and comparable within a kind; here they
/// are comparable across kinds too, because one store numbers them all.
///
/// Source: KEP-5504 (comparable resource version).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// Zero when the text is no number.
    pub fn parse(text: &str) -> Self {
        Self(text.parse().unwrap_or_default())
    }
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::parse(meta.resource_version.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
