//! Keeping something in step with what is stored under a prefix, whoever writes it.
//!
//! ```text
//! store ── feed ─▶ follow ── whole, once and after a gap; changed, for each batch ─▶ Follower
//! ```
//!
//! What never lives here: what is kept, or a wait for anything but the feed.

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use store::{Event, Revision};

use crate::server::Shared;

/// What is kept in step. Neither call waits for a server that is going: both hold it only while they run.
pub(crate) trait Follower: Send {
    /// Anything may be different: called before the first event, and whenever some were missed.
    fn whole<'a>(&'a mut self, shared: &'a Arc<Shared>) -> BoxFuture<'a, ()>;

    /// These events have come, at least one, in their order.
    fn changed<'a>(&'a mut self, shared: &'a Arc<Shared>, events: &'a [Event]) -> BoxFuture<'a, ()>;
}

/// Whatever was compiled from a prefix is made anew when something under it changes. What was compiled when the server was
/// made is of the revision from which it is followed, so that the beginning is no reason.
pub(crate) struct Anew {
    make: fn(&Shared),
    begun: bool,
}

impl Anew {
    pub fn new(make: fn(&Shared)) -> Self {
        Self { make, begun: false }
    }
}

impl Follower for Anew {
    fn whole<'a>(&'a mut self, shared: &'a Arc<Shared>) -> BoxFuture<'a, ()> {
        if std::mem::replace(&mut self.begun, true) {
            (self.make)(shared);
        }
        Box::pin(std::future::ready(()))
    }

    fn changed<'a>(&'a mut self, shared: &'a Arc<Shared>, _: &'a [Event]) -> BoxFuture<'a, ()> {
        (self.make)(shared);
        Box::pin(std::future::ready(()))
    }
}

/// Follows `prefix` from the revision `after` until the store closes or the server is gone.
pub(crate) async fn follow(
    shared: Weak<Shared>,
    prefix: &'static str,
    after: Revision,
    mut follower: Box<dyn Follower>,
) {
    let mut from = Some(after);
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let store = strong.store.clone();
        let from = from.take().unwrap_or_else(|| store.snapshot().revision());
        let mut feed = match store.watch(prefix, from) {
            Ok(feed) => feed,
            Err(store::Error::Compacted { .. }) => {
                follower.whole(&strong).await;
                continue;
            }
            Err(_) => return,
        };
        // Whatever was written before the feed began.
        follower.whole(&strong).await;
        drop((strong, store));
        let mut events = Vec::new();
        loop {
            events.clear();
            let next = feed.next(&mut events).await;
            let Some(shared) = shared.upgrade() else { return };
            match next {
                Ok(_) if events.is_empty() => {}
                Ok(_) => follower.changed(&shared, &events).await,
                Err(store::Error::Compacted { .. }) => break,
                Err(_) => return,
            }
        }
    }
}
