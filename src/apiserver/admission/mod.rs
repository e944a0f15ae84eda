//! Admission: what a write may be only in the light of other objects and of who asks.
//!
//! Two passes, as upstream: [`mutate`] completes the object (ServiceAccount, Priority, tolerations, taints), [`validate`]
//! refuses (NamespaceLifecycle, NodeRestriction). The plugins are pure functions over the request, which reads one store view;
//! the two passes are async for [`Plugins`], which have to ask somebody else, and wait for nothing when there is nobody to ask.
//! Cluster IPs and node ports are handed out by [`allocate`], around the write itself.
//!
//! What never lives here: a write of the object, a clock.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde_json::Value;
use types::registry::{GroupVersionKind, Kind, KindRef, by_kind};
use types::status::Status;

use crate::audit::Annotations;
use crate::auth::Authorizer;
use crate::auth::identity::Identity;
use crate::hooks::json::{get, text};
use crate::http::query::Query;
use crate::verbs::options::DeleteOptions;
use crate::{conversion, custom};

pub mod allocate;
mod certificates;
mod devices;
mod ingress_class;
mod limit_ranger;
pub mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
pub mod policy;
mod priority;
pub mod resource_quota;
mod runtime_class;
pub mod service_account;
mod storage;
mod tolerations;
mod versions;
pub mod webhook;

/// What is done, by admission's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// The options of the request, from which its `CreateOptions`, `UpdateOptions` … are made for whom they concern.
#[derive(Clone, Copy)]
pub enum Options<'a> {
    /// The query of a write. A patch, too, is in the end a creation or an update.
    Query(&'a Query),
    Delete(&'a DeleteOptions),
    /// A connection has none of its own.
    None,
}

/// One request on its way to the store.
pub struct Request<'a> {
    pub operation: Operation,
    /// The kind of the resource that is addressed, also for a subresource, as which its objects are kept.
    pub kind: &'a Kind,
    /// The same in the version that the client speaks.
    pub served: &'a KindRef,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for kinds without namespace.
    pub namespace: &'a str,
    /// Empty when the server will choose it.
    pub name: &'a str,
    /// The object as it would be stored; what a subresource exchanges for subresources; `None` for deletions.
    pub object: Option<&'a mut Value>,
    /// The object as it is; `None` for creations.
    pub old: Option<&'a Value>,
    pub user: &'a Identity,
    pub dry_run: bool,
    pub options: Options<'a>,
    pub now: Timestamp,
    pub view: &'a dyn store::View,
    /// What else the user may do; `None` where nobody can tell, which allows nothing.
    pub authorizer: Option<&'a Authorizer>,
    /// Texts for `Warning` headers; they are said whatever comes of the request.
    pub warnings: Vec<String>,
    /// What the audit log is told; as the warnings.
    pub annotations: Annotations,
    pub others: OnceLock<Vec<KindRef>>,
}

/// The plugins with a state of their own.
pub struct Plugins {
    pub policies: policy::Policies,
    pub webhooks: webhook::Webhooks,
    pub charges: resource_quota::Charges,
}

impl Plugins {
    pub fn new(store: Arc<dyn store::Store>) -> Self {
        Self {
            policies: policy::Policies::new(store.clone()),
            webhooks: webhook::Webhooks::new(store.clone()),
            charges: resource_quota::Charges::new(store),
        }
    }

    /// Something of the group was written: what was read of it is stale.
    pub fn changed(&self, group: &str) {
        if group == webhook::GROUP {
            self.webhooks.changed();
        }
        // A new kind may be the one whose objects are parameters.
        if group == webhook::GROUP || group == custom::GROUP {
            self.policies.changed();
        }
    }
}

impl Request<'_> {
    /// The kind of the object that is admitted when `kind` is the resource: of a subresource, what is exchanged there.
    pub fn kind_in(&self, kind: &Kind) -> GroupVersionKind {
        let connects = match self.subresource {
            "exec" => Some("PodExecOptions"),
            "attach" => Some("PodAttachOptions"),
            "portforward" => Some("PodPortForwardOptions"),
            "proxy" => match &*kind.kind {
                "Pod" => Some("PodProxyOptions"),
                "Node" => Some("NodeProxyOptions"),
                _ => Some("ServiceProxyOptions"),
            },
            _ => None,
        };
        if let Some(kind) = connects {
            return GroupVersionKind::new("", "v1", kind);
        }
        match kind.subresource(self.subresource).and_then(|s| s.response.clone()) {
            Some(response) => response,
            _ => kind.gvk(),
        }
    }

    /// The other versions in which the same objects, or the same subresource of them, are served.
    pub fn others(&self) -> &[KindRef] {
        self.others.get_or_init(|| {
            let mut others = custom::others(self.served).unwrap_or_else(|| conversion::others(self.served));
            others.retain(|kind| self.subresource.is_empty() || kind.subresource(self.subresource).is_some());
            others
        })
    }

    /// The options of the operation as an object; null for a connection.
    pub fn options_value(&self) -> Value {
        let mut options = serde_json::Map::new();
        let kind = match (self.options, self.operation) {
            (Options::None, _) => return Value::Null,
            (Options::Delete(given), _) => {
                if let Some(seconds) = given.grace_period_seconds {
                    options.insert("gracePeriodSeconds".into(), seconds.into());
                }
                if let Some(policy) = given.propagation {
                    options.insert("propagationPolicy".into(), format!("{policy:?}").into());
                }
                let mut preconditions = serde_json::Map::new();
                for (field, value) in [("uid", &given.uid), ("resourceVersion", &given.resource_version)] {
                    if let Some(value) = value {
                        preconditions.insert(field.into(), value.as_str().into());
                    }
                }
                if !preconditions.is_empty() {
                    options.insert("preconditions".into(), preconditions.into());
                }
                "DeleteOptions"
            }
            (Options::Query(query), operation) => {
                for field in ["fieldManager", "fieldValidation"] {
                    if let Some(value) = query.text(field) {
                        options.insert(field.into(), value.into());
                    }
                }
                if operation == Operation::Update { "UpdateOptions" } else { "CreateOptions" }
            }
        };
        if self.dry_run {
            options.insert("dryRun".into(), serde_json::json!(["All"]));
        }
        options.insert("kind".into(), kind.into());
        options.insert("apiVersion".into(), "meta.k8s.io/v1".into());
        Value::Object(options)
    }
}

/// Completes the object.
///
/// # Errors
/// The `Status` to answer with; the object may have been changed in part and must be dropped.
pub async fn mutate(plugins: &Plugins, request: &mut Request<'_>) -> Result<(), Status> {
    built_in_mutate(request)?;
    if matching::is_exempt(request.kind) {
        return Ok(());
    }
    let (mut policies, mut webhooks) = (plugins.policies.mutating(), plugins.webhooks.mutating());
    let mut changed = false;
    if let Some(policies) = &mut policies {
        changed |= policies.round(request).await?;
    }
    if let Some(webhooks) = &mut webhooks {
        changed |= webhooks.round(request).await?;
    }
    if changed {
        // What others add is completed as what a client sends is, and those who asked for it look at it again.
        built_in_mutate(request)?;
        if let Some(policies) = &mut policies {
            policies.round(request).await?;
        }
        if let Some(webhooks) = &mut webhooks {
            webhooks.round(request).await?;
        }
    }
    Ok(())
}

/// The plugins that wait for nobody.
fn built_in_mutate(request: &mut Request) -> Result<(), Status> {
    // upstream's order; the lifecycle check runs first, so that nothing is asked about a namespace that is not there
    namespace_lifecycle::admit(request)?;
    match (&*request.kind.group, &*request.kind.kind) {
        ("", "Pod") if matches!(request.subresource, "" | "resize") => {
            limit_ranger::mutate(request);
            if request.subresource.is_empty() {
                service_account::mutate(request)?;
                priority::pod(request)?;
                tolerations::default_seconds(request);
                runtime_class::mutate(request)?;
            }
        }
        ("", "Node") if request.subresource.is_empty() => tolerations::taint_new_node(request),
        ("", "PersistentVolumeClaim") if request.subresource.is_empty() => {
            storage::default_class(request);
            storage::protect(request);
        }
        ("", "PersistentVolume") | ("storage.k8s.io", "VolumeAttributesClass") if request.subresource.is_empty() => {
            storage::protect(request);
        }
        ("networking.k8s.io", "Ingress") if request.subresource.is_empty() => ingress_class::mutate(request),
        _ => {}
    }
    Ok(())
}

/// Refuses what must not be. Sees the object as it will be stored.
///
/// # Errors
/// The `Status` to answer with.
pub async fn validate(plugins: &Plugins, request: &mut Request<'_>) -> Result<(), Status> {
    built_in_validate(request)?;
    if !matching::is_exempt(request.kind) {
        plugins.policies.validate(request).await?;
        plugins.webhooks.validate(request).await?;
    }
    // Last, because it is the only one that changes something.
    plugins.charges.charge(request).await
}

/// The plugins that wait for nobody.
fn built_in_validate(request: &mut Request) -> Result<(), Status> {
    match (&*request.kind.group, &*request.kind.kind) {
        ("", "Pod") if matches!(request.subresource, "" | "resize") => {
            limit_ranger::validate(request)?;
            if request.subresource.is_empty() {
                service_account::validate(request)?;
                runtime_class::validate(request)?;
            }
        }
        ("", "PersistentVolumeClaim") if request.subresource.is_empty() => {
            limit_ranger::validate(request)?;
            storage::resize(request)?;
        }
        ("scheduling.k8s.io", "PriorityClass") => priority::class(request)?,
        ("certificates.k8s.io", "CertificateSigningRequest") => certificates::validate(request)?,
        ("resource.k8s.io", "ResourceClaim" | "ResourceClaimTemplate") => devices::validate(request)?,
        _ => {}
    }
    node_restriction::validate(request)?;
    pod_security::validate(request)
}

/// Every object of a kind in a namespace; none of a kind that is not served.
fn all_in(view: &dyn store::View, group: &str, kind: &str, namespace: &str) -> Vec<Value> {
    let Some(kind) = by_kind(group, "v1", kind) else { return Vec::new() };
    let entries = view.range(&kind.store_key(namespace, ""), None);
    entries.filter_map(|entry| serde_json::from_slice(entry.value()).ok()).collect()
}

/// The name of the class that one of the annotations marks as the default; the newest, if there are several.
fn default_of(view: &dyn store::View, group: &str, kind: &str, annotations: &[&str]) -> Option<String> {
    let classes = all_in(view, group, kind, "");
    let meta = |class: &Value, field| text(get(class, "metadata"), field).to_owned();
    let marked = classes.iter().filter(|class| {
        let given = get(get(class, "metadata"), "annotations");
        annotations.iter().any(|annotation| text(given, annotation) == "true")
    });
    let newest = marked.min_by_key(|class| {
        (std::cmp::Reverse(meta(class, "creationTimestamp").parse::<Timestamp>().ok()), meta(class, "name"))
    });
    newest.map(|class| meta(class, "name"))
}

/// The stored object under that key as a typed view of what admission asks of it.
fn read<T: serde::de::DeserializeOwned>(view: &dyn store::View, key: &str) -> Option<T> {
    let entry = view.get(key)?;
    serde_json::from_slice(entry.value()).ok()
}

#[cfg(test)]
mod tests;
