//! Eviction: only ever posted to a pod. Source: `pkg/registry/core/pod/storage/eviction.go`.

use super::Hooks;

pub static EVICTION: Hooks = Hooks { ..Hooks::NEUTRAL };
