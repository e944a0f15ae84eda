//! Lease. Source: `pkg/apis/coordination/validation/validation.go`, `pkg/registry/coordination/lease/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::Hooks;
use super::json::{get, has, int, text};

pub static LEASE: Hooks = Hooks {
    validate,
    // every renewal of a lease stands on what its holder has seen
    unconditional_update: false,
    create_on_update: true,
    ..Hooks::NEUTRAL
};

fn validate(lease: &Value) -> Vec<FieldError> {
    let spec = get(lease, "spec");
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let Some(seconds) = int(spec, "leaseDurationSeconds")
        && seconds <= 0
    {
        errors.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    if let Some(n) = int(spec, "leaseTransitions")
        && n < 0
    {
        errors.push(FieldError::invalid(&path.child("leaseTransitions"), n, "must be greater than or equal to 0"));
    }
    if has(spec, "holderIdentity") && text(spec, "holderIdentity").is_empty() {
        errors.push(FieldError::invalid(&path.child("holderIdentity"), "", "must not be empty"));
    }
    errors
}
