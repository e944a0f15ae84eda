//! A CustomResourceDefinition as the server reads it: what routes, discovery and tables need. Schemas stay text until the
//! first object of the kind comes.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use store::{Entry, Revision};

use super::convert::Webhook;
use super::keeper::FINALIZER;

pub const GROUP: &str = "apiextensions.k8s.io";
/// Where definitions lie in the store.
pub const STORE_PREFIX: &str = "apiextensions.k8s.io/customresourcedefinitions/";

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Names {
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub kind: String,
    pub list_kind: String,
    pub categories: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subresources {
    pub status: Option<serde::de::IgnoredAny>,
    pub scale: Option<Scale>,
}

/// Where the replicas are in an object, as dotted paths.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scale {
    pub spec_replicas_path: String,
    pub status_replicas_path: String,
    pub label_selector_path: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PrinterColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub type_: String,
    pub format: String,
    pub description: String,
    pub priority: i32,
    pub json_path: String,
}

/// One version of the kind, served or not.
#[derive(Debug, Clone)]
pub struct Version {
    pub name: String,
    pub served: bool,
    pub storage: bool,
    /// What is said to those who use a deprecated version; else empty.
    pub warning: String,
    pub subresources: Subresources,
    pub columns: Vec<PrinterColumn>,
    /// Paths with their leading dot.
    pub selectable: Vec<String>,
    /// `openAPIV3Schema`, as a part of the stored bytes.
    pub schema: Bytes,
}

/// A definition, read from its stored bytes.
#[derive(Debug, Clone)]
pub struct Definition {
    /// `<plural>.<group>`.
    pub name: String,
    pub uid: String,
    pub modified: Revision,
    pub created: Revision,
    pub group: String,
    pub namespaced: bool,
    pub names: Names,
    pub accepted: Names,
    pub preserve_unknown_fields: bool,
    pub versions: Vec<Version>,
    pub stored_versions: Vec<String>,
    /// Webhook that converts between versions; `None`: only `apiVersion` differs.
    pub webhook: Option<Arc<Webhook>>,
    pub established: bool,
    pub names_accepted: bool,
    /// Its objects are being deleted, and no new ones are taken.
    pub terminating: bool,
    pub deleting: bool,
    /// It goes only after its objects.
    pub cleans_up: bool,
}

impl Definition {
    /// `None` for bytes that are no definition, which nothing has written.
    pub fn read(entry: &Entry) -> Option<Self> {
        let raw: Raw<'_> = serde_json::from_slice(entry.value()).ok()?;
        let Raw { metadata, spec, status } = raw;
        let is_true = |kind: &str| status.conditions.iter().any(|c| c.type_ == kind && c.status == "True");
        let warned = |version: &RawVersion<'_>| match (version.deprecated, &version.deprecation_warning) {
            (false, _) => String::new(),
            (true, Some(text)) => text.clone(),
            (true, None) => format!("{}/{} {} is deprecated", spec.group, version.name, spec.names.kind),
        };
        let versions = spec
            .versions
            .iter()
            .map(|version| Version {
                name: version.name.clone(),
                served: version.served,
                storage: version.storage,
                warning: warned(version),
                subresources: version.subresources.clone(),
                columns: version.additional_printer_columns.clone(),
                selectable: version.selectable_fields.iter().map(|f| f.json_path.clone()).collect(),
                schema: match version.schema.as_ref().and_then(|s| s.schema) {
                    Some(raw) => entry.bytes().slice_ref(raw.get().as_bytes()),
                    None => Bytes::from_static(b"{}"),
                },
            })
            .collect();
        Some(Self {
            name: metadata.name,
            uid: metadata.uid,
            modified: entry.modified(),
            created: entry.created(),
            namespaced: spec.scope == "Namespaced",
            names: spec.names,
            preserve_unknown_fields: spec.preserve_unknown_fields,
            versions,
            webhook: spec.conversion.filter(|c| c.strategy == "Webhook").map(|c| Arc::new(Webhook::read(&c.webhook))),
            established: is_true("Established"),
            names_accepted: is_true("NamesAccepted"),
            terminating: is_true("Terminating"),
            deleting: metadata.deletion_timestamp.is_some(),
            cleans_up: metadata.finalizers.iter().any(|f| f == FINALIZER),
            group: spec.group,
            accepted: status.accepted_names,
            stored_versions: status.stored_versions,
        })
    }

    /// The version in which objects are kept.
    pub fn storage(&self) -> Option<&Version> {
        self.versions.iter().find(|v| v.storage)
    }

    /// Whether objects can be had in that version.
    pub fn serves(&self, version: &str) -> bool {
        self.versions.iter().any(|v| v.served && v.name == version)
    }

    /// Prefix of the keys of its objects.
    pub fn objects_prefix(&self) -> String {
        format!("{}/{}/", self.group, self.names.plural)
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Raw<'a> {
    #[serde(default)]
    metadata: RawMetadata,
    spec: RawSpec<'a>,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    name: String,
    uid: String,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    finalizers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct RawSpec<'a> {
    #[serde(default)]
    group: String,
    #[serde(default)]
    names: Names,
    #[serde(default)]
    scope: String,
    versions: Vec<RawVersion<'a>>,
    #[serde(default)]
    conversion: Option<RawConversion>,
    #[serde(default)]
    preserve_unknown_fields: bool,
}

#[derive(Deserialize)]
struct RawConversion {
    #[serde(default)]
    strategy: String,
    #[serde(default)]
    webhook: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct RawVersion<'a> {
    #[serde(default)]
    name: String,
    #[serde(default)]
    served: bool,
    #[serde(default)]
    storage: bool,
    #[serde(default)]
    deprecated: bool,
    #[serde(default)]
    deprecation_warning: Option<String>,
    #[serde(default)]
    subresources: Subresources,
    #[serde(default)]
    additional_printer_columns: Vec<PrinterColumn>,
    #[serde(default)]
    selectable_fields: Vec<Selectable>,
    #[serde(default, borrow)]
    schema: Option<RawSchema<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selectable {
    #[serde(default)]
    json_path: String,
}

#[derive(Deserialize)]
struct RawSchema<'a> {
    #[serde(rename = "openAPIV3Schema", default, borrow)]
    schema: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    conditions: Vec<Condition>,
    accepted_names: Names,
    stored_versions: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}
