//! The kinds of resource.k8s.io. Source: `pkg/apis/resource/validation/validation.go`, `pkg/apis/resource/v1/defaults.go`,
//! `pkg/registry/resource/*/strategy.go`.

use super::{Hooks, strategy};

/// The hooks of a kind of the group.
pub fn named(kind: &str) -> Option<&'static Hooks> {
    Some(match kind {
        "DeviceClass" => &DEVICE_CLASS,
        "ResourceClaim" => &RESOURCE_CLAIM,
        "ResourceClaimTemplate" => &RESOURCE_CLAIM_TEMPLATE,
        "ResourceSlice" => &RESOURCE_SLICE,
        _ => return None,
    })
}

const BASE: Hooks = Hooks { delete_returns_object: true, ..Hooks::NEUTRAL };

static DEVICE_CLASS: Hooks =
    Hooks { prepare_create: strategy::create_spec, prepare_update: strategy::update_spec, ..BASE };
static RESOURCE_CLAIM: Hooks = Hooks {
    prepare_create: |object, _| strategy::empty_status(object),
    prepare_update: strategy::update_ungenerated,
    ..BASE
};
static RESOURCE_CLAIM_TEMPLATE: Hooks = BASE;
static RESOURCE_SLICE: Hooks =
    Hooks { prepare_create: strategy::create_spec, prepare_update: strategy::update_spec, ..BASE };
