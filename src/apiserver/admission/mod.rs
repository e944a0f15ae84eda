//! Built-in admission: what a write may be only in the light of other objects and of who asks.
//!
//! Two passes, as upstream: [`mutate`] completes the object (ServiceAccount, Priority, tolerations, taints), [`validate`]
//! refuses (NamespaceLifecycle, NodeRestriction). Both read one store view and change nothing but the object. Cluster IPs
//! and node ports are handed out by [`allocate`], around the write itself.
//!
//! What never lives here: a write, a clock, webhooks.

use serde_json::Value;
use types::registry::Kind;
use types::status::Status;

pub mod allocate;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
pub mod service_account;
mod tolerations;

/// What is done, by admission's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    pub name: &'a str,
    pub groups: &'a [String],
}

/// One request on its way to the store.
pub struct Request<'a> {
    pub operation: Operation,
    /// The kind of the resource that is addressed, also for a subresource.
    pub kind: &'a Kind,
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
    pub user: User<'a>,
    pub dry_run: bool,
    pub view: &'a dyn store::View,
}

/// Completes the object. Returns texts for `Warning` headers.
///
/// # Errors
/// The `Status` to answer with; the object may have been changed in part and must be dropped.
pub fn mutate(request: &mut Request) -> Result<Vec<String>, Status> {
    // upstream's order; the lifecycle check runs first, so that nothing is asked about a namespace that is not there
    namespace_lifecycle::admit(request)?;
    match (&*request.kind.group, &*request.kind.kind) {
        ("", "Pod") if request.subresource.is_empty() => {
            service_account::mutate(request)?;
            priority::pod(request)?;
            tolerations::default_seconds(request);
        }
        ("", "Node") if request.subresource.is_empty() => tolerations::taint_new_node(request),
        _ => {}
    }
    Ok(Vec::new())
}

/// Refuses what must not be. Sees the object as it will be stored.
///
/// # Errors
/// The `Status` to answer with.
pub fn validate(request: &Request) -> Result<Vec<String>, Status> {
    match (&*request.kind.group, &*request.kind.kind) {
        ("", "Pod") if request.subresource.is_empty() => service_account::validate(request)?,
        ("scheduling.k8s.io", "PriorityClass") => priority::class(request)?,
        _ => {}
    }
    node_restriction::validate(request)?;
    Ok(Vec::new())
}

/// The stored object under that key as a typed view of what admission asks of it.
fn read<T: serde::de::DeserializeOwned>(view: &dyn store::View, key: &str) -> Option<T> {
    let entry = view.get(key)?;
    serde_json::from_slice(&entry.value).ok()
}

#[cfg(test)]
mod tests;
