//! Strategy of the workload.

use super::super::Hooks;

pub static HOOKS: Hooks = Hooks { ..Hooks::NEUTRAL };
