//! The kinds of the core group.

pub mod binding;
pub mod config_map;
pub mod endpoints;
pub mod event;
pub mod limit_range;
pub mod namespace;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
mod persistent_volume_source;
pub mod pod;
pub mod pod_template;
pub mod replication_controller;
pub mod resource_quota;
pub mod secret;
pub mod service;
pub mod service_account;

use super::Hooks;

/// Never written.
pub static COMPONENT_STATUS: Hooks =
    Hooks { deprecated: "v1 ComponentStatus is deprecated in v1.19+", ..Hooks::NEUTRAL };
