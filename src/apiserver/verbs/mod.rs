//! What each verb does, for every kind alike. What never lives here: a kind by name, but where a subresource is a kind's own.

pub mod ask;
pub mod binding;
pub mod connect;
pub mod create;
pub mod delete;
pub mod eviction;
pub mod facts;
pub mod object;
pub mod options;
pub mod patch;
pub mod read;
pub mod scale;
pub mod start;
pub mod token_request;
pub mod update;
pub mod watch;

use types::registry::Kind;

/// Whether writes of the kind take addresses and ports.
pub(crate) fn allocates(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Service"
}
