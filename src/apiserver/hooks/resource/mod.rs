//! The kinds of resource.k8s.io. Source: `pkg/apis/resource/validation/validation.go`, `pkg/apis/resource/v1/defaults.go`,
//! `pkg/registry/resource/*/strategy.go`.

use super::{Hooks, strategy};

mod attribute;
mod claim;
mod class;
mod shared;
mod slice;
mod status;

/// The hooks of a kind of the group.
pub fn named(kind: &str) -> Option<&'static Hooks> {
    Some(match kind {
        "DeviceClass" => &class::HOOKS,
        "ResourceClaim" => &claim::CLAIM,
        "ResourceClaimTemplate" => &claim::TEMPLATE,
        "ResourceSlice" => &slice::HOOKS,
        _ => return None,
    })
}

const BASE: Hooks = Hooks { delete_returns_object: true, ..Hooks::NEUTRAL };
/// With a generation that follows the spec, and no status.
const GENERATED: Hooks = Hooks { prepare_create: strategy::create_spec, prepare_update: strategy::update_spec, ..BASE };
