//! What each verb does, for every kind alike. What never lives here: a kind by name, but where a subresource is a kind's own.

pub mod apply;
pub mod ask;
mod bare;
pub mod binding;
pub mod component_status;
pub mod connect;
pub mod create;
pub mod delete;
pub mod dispatch;
pub mod eviction;
pub mod facts;
pub mod frame;
mod log_options;
pub(crate) mod message_socket;
pub mod metrics;
pub mod object;
pub mod options;
mod pages;
pub mod patch;
pub mod proxy;
mod proxy_links;
pub mod read;
pub mod scale;
pub mod start;
pub mod token_request;
pub mod update;
pub mod uphold;
pub mod watch;

use std::sync::Arc;

use types::registry::Kind;

use crate::admission::allocate::Reservation;

/// Whether writes of the kind take addresses and ports.
pub(crate) fn allocates(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Service"
}

/// A write that is abandoned while it is on its way keeps what was reserved for it; one that the store refuses does not.
pub(crate) async fn reserved_write(
    ask: &ask::Ask<'_>,
    mut reservation: Option<Reservation<'_>>,
    key: Arc<str>,
    expect: store::Expect,
    op: store::Op,
) -> Result<store::Entry, store::Error> {
    let mut others = Vec::new();
    if let Some(reservation) = &mut reservation {
        others = reservation.objects(&*ask.view(), ask.now);
        reservation.sent();
    }
    let written = ask.write_with(others, key, expect, op).await;
    match (reservation, &written) {
        (Some(reservation), Ok(_)) => reservation.commit(),
        (Some(reservation), Err(_)) => reservation.undo(),
        (None, _) => {}
    }
    written
}
