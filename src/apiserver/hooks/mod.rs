//! What is special about each kind: defaults, strategy, validation. Looked up by group and kind; a test asserts that every
//! registry entry has its hooks.
//!
//! Everything here is pure: no clock, no store. What needs other objects (allocation of cluster IPs, existence of a
//! namespace) is admission.
//!
//! The order of a write, as `verbs` runs it:
//!
//! ```text
//! create  decode → default → managed → admission::mutate → default → prepare_create → metadata::validate → validate
//!         → validate_create → admission::validate → allocate → store
//! update  decode or patch → default → managed → admission::mutate → default → prepare_update → metadata::validate_update
//!         → validate (not for a subresource) → validate_update → admission::validate → allocate → store
//! delete  admission::validate (Operation::Delete, through mutate as well) → store → allocate::release
//! ```
//!
//! A JSON `null` counts as an absent field everywhere, and so does an empty string where upstream's Go types cannot tell
//! them apart.

use serde_json::Value;
use types::field::FieldError;
use types::registry::Kind;
use types::status::Status;

use crate::auth::identity::Identity;
use crate::custom::{self, Custom};
use cel::schema::REQUEST_BYTES_MAX;

pub mod addresses;
pub mod admissionregistration;
pub mod amounts;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod check;
pub mod conditions;
pub mod coordination;
pub mod core;
mod difference;
pub mod discovery;
pub mod flowcontrol;
pub mod json;
pub mod metadata;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod reviews;
pub mod scheduling;
pub mod selectors;
pub mod storage;
pub mod strategy;

/// What a hook may know besides the object.
pub struct Context<'a> {
    /// The subresource that is written, empty for the object itself.
    pub subresource: &'a str,
    /// Who writes.
    pub identity: &'a Identity,
    pub now: jiff::Timestamp,
}

/// What becomes of the objects that a deleted one owns when its DELETE does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    /// They are collected afterwards.
    Collected,
    /// They stay, without their owner.
    Orphaned,
    /// The kind owns nothing: what a DELETE says about it is passed over.
    Unsupported,
}

/// The behaviour of one kind. Every function has a neutral default ([`Hooks::NEUTRAL`]), so that an entry names only what
/// differs.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Fills in the defaults that upstream's versioned defaulting sets, folds write-only fields and writes quantities
    /// canonically. Idempotent. Runs on every write, after decoding, after a patch and after mutating admission.
    /// Source: `pkg/apis/<group>/<version>/defaults.go`.
    pub default: fn(&mut Value),
    /// Drops what a creator may not set (status, generation) and sets what creation sets.
    /// Source: `pkg/registry/<group>/<kind>/strategy.go`.
    pub prepare_create: fn(&mut Value, &Context),
    /// Keeps what an update may not touch from `old`, by subresource (status separation), and bumps
    /// `metadata.generation` when the spec changed. Arguments: new, old.
    pub prepare_update: fn(&mut Value, &Value, &Context),
    /// Whether the object is valid by itself. Metadata is checked by [`metadata`].
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// What is asked of new objects only. `validate` has run.
    pub validate_create: fn(&Value, &Context) -> Vec<FieldError>,
    /// Whether the change is allowed (immutable fields …). Arguments: new, old, context. `validate` has run, except for
    /// writes of a subresource.
    pub validate_update: fn(&Value, &Value, &Context) -> Vec<FieldError>,
    /// Checks a name beyond the path-segment rule; messages as in `types::names`.
    pub validate_name: fn(&str) -> Vec<String>,
    /// PUT creates the object when it is absent.
    pub create_on_update: bool,
    /// PUT and PATCH without a resourceVersion are allowed.
    pub unconditional_update: bool,
    /// DELETE answers with the object itself instead of a Status.
    pub delete_returns_object: bool,
    /// Source: `DefaultGarbageCollectionPolicy` of the kind's strategy.
    pub dependents: Dependents,
    /// Kinds that are deleted gracefully: the seconds of grace for an object and a requested grace. `None`: at once.
    pub grace_seconds: Option<fn(&Value, Option<i64>) -> i64>,
    /// Texts for `Warning` headers.
    pub warnings: fn(&Value) -> Vec<String>,
    /// Those that are said of new objects only.
    pub warnings_create: fn(&Value) -> Vec<String>,
    /// Said to everyone who uses the kind, whatever the verb; empty for kinds in good standing.
    pub deprecated: &'static str,
}

impl Hooks {
    /// A kind without peculiarities: what an unknown kind and the base of every entry gets.
    pub const NEUTRAL: Hooks = Hooks {
        default: |_| {},
        prepare_create: |_, _| {},
        prepare_update: |_, _, _| {},
        validate: |_| Vec::new(),
        validate_create: |_, _| Vec::new(),
        validate_update: |_, _, _| Vec::new(),
        validate_name: types::names::dns1123_subdomain,
        create_on_update: false,
        unconditional_update: true,
        delete_returns_object: false,
        dependents: Dependents::Collected,
        grace_seconds: None,
        warnings: |_| Vec::new(),
        warnings_create: |_| Vec::new(),
        deprecated: "",
    };
}

static NEUTRAL: Hooks = Hooks::NEUTRAL;
/// Source: apiextensions-apiserver `pkg/registry/customresource/strategy.go`.
static CUSTOM: Hooks = Hooks { unconditional_update: false, ..Hooks::NEUTRAL };

/// How objects of one kind behave: by the hooks of a built-in kind, or by the schema of a custom one. What is asked of it by
/// a method goes to whichever it is; the switches of [`Hooks`] are read through it.
#[derive(Clone, Copy)]
pub struct Behaviour<'a> {
    hooks: &'static Hooks,
    custom: Option<&'a Custom>,
}

impl std::ops::Deref for Behaviour<'_> {
    type Target = Hooks;
    fn deref(&self) -> &Hooks {
        self.hooks
    }
}

impl Behaviour<'_> {
    /// Fills in defaults.
    ///
    /// Errors: 413 when a custom kind's defaults multiply beyond what a request may be.
    pub fn default(&self, object: &mut Value) -> Result<(), Status> {
        match self.custom {
            Some(custom) if custom.default(object) => Ok(()),
            Some(_) => Err(Status::too_large(format!("Request entity too large: limit is {REQUEST_BYTES_MAX}"))),
            None => {
                (self.hooks.default)(object);
                Ok(())
            }
        }
    }
    pub fn prepare_create(&self, object: &mut Value, context: &Context<'_>) {
        match self.custom {
            Some(custom) => custom.prepare_create(object),
            None => (self.hooks.prepare_create)(object, context),
        }
    }
    pub fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        match self.custom {
            Some(custom) => custom.prepare_update(new, old, context.subresource),
            None => (self.hooks.prepare_update)(new, old, context),
        }
    }
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        match self.custom {
            // What a custom object must be depends on what it was: `validate_create` and `validate_update` say.
            Some(_) => Vec::new(),
            None => (self.hooks.validate)(object),
        }
    }
    pub fn validate_create(&self, object: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match self.custom {
            Some(custom) => custom.validate_create(object),
            None => (self.hooks.validate_create)(object, context),
        }
    }
    pub fn warnings_create(&self, object: &Value) -> Vec<String> {
        match self.custom {
            Some(custom) => custom.warnings_create(object),
            None => (self.hooks.warnings_create)(object),
        }
    }
    pub fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match self.custom {
            Some(custom) => custom.validate_update(new, old, context.subresource),
            None => (self.hooks.validate_update)(new, old, context),
        }
    }
    pub fn warnings(&self, object: &Value) -> Vec<String> {
        match self.custom {
            Some(_) => Vec::new(),
            None => (self.hooks.warnings)(object),
        }
    }
    /// Said to everyone who uses the kind; empty for one in good standing.
    pub fn deprecation(&self) -> &str {
        match self.custom {
            Some(custom) => custom.deprecation(),
            None => self.hooks.deprecated,
        }
    }
}

/// The behaviour of a kind; [`Hooks::NEUTRAL`] for a built-in one that has none of its own.
pub fn of(kind: &Kind) -> Behaviour<'_> {
    match custom::of(kind) {
        Some(custom) => Behaviour { hooks: &CUSTOM, custom: Some(custom) },
        None => Behaviour { hooks: named(&kind.group, &kind.kind).unwrap_or(&NEUTRAL), custom: None },
    }
}

/// The hooks by group and kind; also for kinds that only subresources exchange (`Scale`, `Eviction`, `TokenRequest`).
pub fn named(group: &str, kind: &str) -> Option<&'static Hooks> {
    Some(match (group, kind) {
        ("", "Binding") => &core::binding::HOOKS,
        ("", "ComponentStatus") => &core::COMPONENT_STATUS,
        ("", "ConfigMap") => &core::config_map::HOOKS,
        ("", "Endpoints") => &core::endpoints::HOOKS,
        ("", "Event") => &core::event::HOOKS,
        ("events.k8s.io", "Event") => &core::event::STRICT,
        ("", "LimitRange") => &core::limit_range::HOOKS,
        ("", "Namespace") => &core::namespace::HOOKS,
        ("", "Node") => &core::node::HOOKS,
        ("", "PersistentVolume") => &core::persistent_volume::HOOKS,
        ("", "PersistentVolumeClaim") => &core::persistent_volume_claim::HOOKS,
        ("", "Pod") => &core::pod::HOOKS,
        ("", "PodTemplate") => &core::pod_template::HOOKS,
        ("", "ReplicationController") => &core::replication_controller::HOOKS,
        ("", "ResourceQuota") => &core::resource_quota::HOOKS,
        ("", "Secret") => &core::secret::HOOKS,
        ("", "ServiceAccount") => &core::service_account::HOOKS,
        ("", "Service") => &core::service::HOOKS,
        ("authentication.k8s.io", "SelfSubjectReview") => &reviews::SELF_SUBJECT_REVIEW,
        ("authentication.k8s.io", "TokenReview") => &reviews::TOKEN_REVIEW,
        ("authentication.k8s.io", "TokenRequest") => &reviews::TOKEN_REQUEST,
        ("authorization.k8s.io", "LocalSubjectAccessReview" | "SubjectAccessReview") => &reviews::SUBJECT_ACCESS_REVIEW,
        ("authorization.k8s.io", "SelfSubjectAccessReview") => &reviews::SELF_SUBJECT_ACCESS_REVIEW,
        ("authorization.k8s.io", "SelfSubjectRulesReview") => &reviews::SELF_SUBJECT_RULES_REVIEW,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &apiextensions::DEFINITION,
        ("apps", "ControllerRevision") => &apps::controller_revision::HOOKS,
        ("apps", "DaemonSet") => &apps::daemon_set::HOOKS,
        ("apps", "Deployment") => &apps::deployment::HOOKS,
        ("apps", "ReplicaSet") => &apps::replica_set::HOOKS,
        ("apps", "StatefulSet") => &apps::stateful_set::HOOKS,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaling::autoscaler::HOOKS,
        ("autoscaling", "Scale") => &autoscaling::SCALE,
        ("batch", "CronJob") => &batch::cron_job::HOOKS,
        ("batch", "Job") => &batch::job::HOOKS,
        ("policy", "Eviction") => &policy::EVICTION,
        ("rbac.authorization.k8s.io", "Role") => &rbac::ROLE,
        ("rbac.authorization.k8s.io", "ClusterRole") => &rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &rbac::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &rbac::CLUSTER_ROLE_BINDING,
        ("scheduling.k8s.io", "PriorityClass") => &scheduling::PRIORITY_CLASS,
        ("coordination.k8s.io", "Lease") => &coordination::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => &discovery::ENDPOINT_SLICE,
        ("admissionregistration.k8s.io", kind) => return admissionregistration::named(kind),
        ("apiregistration.k8s.io", "APIService") => &apiregistration::API_SERVICE,
        ("certificates.k8s.io", "CertificateSigningRequest") => &certificates::SIGNING_REQUEST,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &flowcontrol::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &flowcontrol::PRIORITY_LEVEL,
        ("metrics.k8s.io", "NodeMetrics" | "PodMetrics") => &NEUTRAL,
        ("networking.k8s.io", kind) => return networking::named(kind),
        ("node.k8s.io", "RuntimeClass") => &node::RUNTIME_CLASS,
        ("policy", "PodDisruptionBudget") => &policy::DISRUPTION_BUDGET,
        ("resource.k8s.io", kind) => return resource::named(kind),
        ("storage.k8s.io", kind) => return storage::named(kind),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
