//! CustomResourceDefinition. Source: apiextensions-apiserver `pkg/registry/customresourcedefinition/strategy.go`.

use super::{Hooks, strategy};

pub static CUSTOM_RESOURCE_DEFINITION: Hooks = Hooks {
    prepare_create: strategy::create,
    prepare_update: strategy::update_strictly,
    unconditional_update: false,
    ..Hooks::NEUTRAL
};
