//! Service: strategy. Source: `pkg/registry/core/service/strategy.go`, `storage/storage.go`.

use super::super::Hooks;
use types::names;

pub mod validate;

pub static HOOKS: Hooks = Hooks {
    validate_name: names::dns1035_label,
    create_on_update: true,
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};
