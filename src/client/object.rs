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

impl<K> Object for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + serde::de::DeserializeOwned
        + serde::Serialize
        + Clone
        + Send
        + Sync
        + 'static
{
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
