//! The kinds of admissionregistration.k8s.io. Source: `pkg/apis/admissionregistration/validation/validation.go`,
//! `pkg/apis/admissionregistration/v1/defaults.go`, `pkg/registry/admissionregistration/*/strategy.go`.
//!
//! Whether expressions compile is not asked here: that is for whoever can compile them.

use super::{Hooks, strategy};

mod binding;
mod conditions;
mod policy;
mod rules;
mod webhook;

/// The hooks of a kind of the group.
pub fn named(kind: &str) -> Option<&'static Hooks> {
    Some(match kind {
        "MutatingWebhookConfiguration" => &webhook::MUTATING,
        "ValidatingWebhookConfiguration" => &webhook::VALIDATING,
        "ValidatingAdmissionPolicy" => &policy::VALIDATING,
        "MutatingAdmissionPolicy" => &policy::MUTATING,
        "ValidatingAdmissionPolicyBinding" => &binding::VALIDATING,
        "MutatingAdmissionPolicyBinding" => &binding::MUTATING,
        _ => return None,
    })
}

const BASE: Hooks = Hooks {
    prepare_create: strategy::create_spec,
    prepare_update: strategy::update_spec,
    unconditional_update: false,
    warnings_create: static_name,
    ..Hooks::NEUTRAL
};

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];

/// Said of a name that upstream keeps for objects from files. Source: `WarningsForStaticSuffix`.
fn static_name(object: &serde_json::Value) -> Vec<String> {
    const SUFFIX: &str = ".static.k8s.io";
    if !super::json::text(super::json::get(object, "metadata"), "name").ends_with(SUFFIX) {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: names ending with {SUFFIX:?} are reserved for static manifest-based configurations and cannot be \
         managed via the API"
    )]
}
