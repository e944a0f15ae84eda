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
    // An empty holder is one that has stepped down: that is how leader election lets go.
    if has(spec, "strategy") {
        // Upstream names the field twice.
        strategy(text(spec, "strategy"), &path.child("strategy").child("strategy"), &mut errors);
    } else if !text(spec, "preferredHolder").is_empty() {
        let path = path.child("preferredHolder");
        errors.push(FieldError::forbidden(&path, "may only be specified if `strategy` is defined"));
    }
    errors
}

/// One of upstream's own strategies, or somebody else's qualified name.
fn strategy(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    const OWN: &str = "OldestEmulationVersion";
    if !name.contains('/') {
        if name != OWN {
            errors.push(FieldError::not_supported(path, name, &[OWN]));
        }
        return;
    }
    errors.extend(types::names::qualified_name(name).into_iter().map(|why| FieldError::invalid(path, name, why)));
}
