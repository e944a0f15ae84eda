//! What is special about each kind: defaults, strategy, validation. Looked up by group and kind; a test asserts that every
//! registry entry has its hooks.
//!
//! Everything here is pure: no clock, no store. What needs other objects (allocation of cluster IPs, quotas) is admission.

use serde_json::Value;
use types::field::FieldError;

/// What a hook may know besides the object.
pub struct Context<'a> {
    /// The subresource that is written, empty for the object itself.
    pub subresource: &'a str,
    pub user: &'a str,
    pub now: jiff::Timestamp,
}

/// The behaviour of one kind. Every function has a neutral default, so that an entry names only what differs.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Fills in the defaults that upstream's versioned defaulting sets. Idempotent. Runs on every write, after decoding and
    /// after a patch. Source: `pkg/apis/<group>/<version>/defaults.go`.
    pub default: fn(&mut Value),
    /// Drops what a creator may not set (status, generation) and sets what creation sets.
    /// Source: `pkg/registry/<group>/<kind>/strategy.go`.
    pub prepare_create: fn(&mut Value, &Context),
    /// Keeps what an update may not touch from `old`, by subresource (status separation), and bumps
    /// `metadata.generation` when the spec changed. Arguments: new, old.
    pub prepare_update: fn(&mut Value, &Value, &Context),
    /// Whether the object is valid by itself. Metadata has been checked by the generic path.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// Whether the change is allowed (immutable fields …). Arguments: new, old, context. `validate` has run.
    pub validate_update: fn(&Value, &Value, &Context) -> Vec<FieldError>,
    /// Checks a name beyond the path-segment rule; messages as in `types::names`.
    pub validate_name: fn(&str) -> Vec<String>,
    /// PUT creates the object when it is absent.
    pub create_on_update: bool,
    /// PUT and PATCH without a resourceVersion are allowed.
    pub unconditional_update: bool,
    /// DELETE answers with the object itself instead of a Status.
    pub delete_returns_object: bool,
    /// Texts for `Warning` headers.
    pub warnings: fn(&Value) -> Vec<String>,
}
