//! Names and amounts of resources, as quotas, limits and claims know them.
//! Source: `pkg/apis/core/helper/helpers.go`, `validateResourceName` and its kin in `pkg/apis/core/validation/validation.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;
use types::quantity::{ParseError, Quantity};

use super::check::{Errors, NOT_NEGATIVE, wrong};
use super::json::quantity;

/// What is counted in whole objects.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// What is measured, of nodes and pods.
const MEASURED: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a quota can count it.
pub fn is_quota(name: &str) -> bool {
    COUNTED.contains(&name) || MEASURED.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// Whether the name is of the system: without a prefix, or with one of kubernetes.io.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource of somebody else's, which nodes offer in whole numbers.
fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether more may be promised than there is.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// A name of any resource.
pub fn name(name: &str, path: &Path, errors: &mut Errors) {
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        wrong(errors, path, name, messages);
    } else if !name.contains('/') && !is_quota(name) && name != "storage" {
        errors.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
}

/// A name of a resource that a quota limits.
pub fn quota_name(resource: &str, path: &Path, errors: &mut Errors) {
    name(resource, path, errors);
    if !resource.contains('/') && !is_quota(resource) {
        errors.push(FieldError::invalid(path, resource, "must be a standard resource for quota"));
    }
}

/// A name of a resource that a container asks for.
pub fn container_name(resource: &str, path: &Path, errors: &mut Errors) {
    name(resource, path, errors);
    let standard = matches!(resource, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(resource);
    if !resource.contains('/') {
        if !standard {
            errors.push(FieldError::invalid(path, resource, "must be a standard resource for containers"));
        }
    } else if !is_native(resource) && !is_extended(resource) {
        errors.push(FieldError::invalid(path, resource, "doesn't follow extended resource name standard"));
    }
}

/// The amount at `path`; an error for a text that is none.
pub fn parsed(value: &Value, path: &Path, errors: &mut Errors) -> Option<Quantity> {
    let parsed = quantity(value);
    if parsed.is_none() {
        errors.push(FieldError::invalid(path, value, ParseError.to_string()));
    }
    parsed
}

/// An amount of a resource: not negative, and whole where it is counted.
pub fn amount(resource: &str, value: &Value, path: &Path, errors: &mut Errors) {
    let Some(amount) = parsed(value, path, errors) else { return };
    if amount.is_negative() {
        errors.push(FieldError::invalid(path, &amount.to_string(), NOT_NEGATIVE));
    }
    if (COUNTED.contains(&resource) || is_extended(resource)) && !amount.is_integer() {
        errors.push(FieldError::invalid(path, &amount.to_string(), "must be an integer"));
    }
}

/// An amount above zero. Returns whether it is one.
pub fn positive(value: &Value, path: &Path, errors: &mut Errors) -> bool {
    match parsed(value, path, errors) {
        Some(amount) if amount <= Quantity::default() => {
            errors.push(FieldError::invalid(path, &amount.to_string(), "must be greater than zero"));
            false
        }
        parsed => parsed.is_some(),
    }
}

/// An amount that is not below zero, in the words of capacities.
pub fn basic(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(amount) = parsed(value, path, errors).filter(|q| q.value() < 0) {
        errors.push(FieldError::invalid(path, amount.value(), "must be a valid resource quantity"));
    }
}
