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
use tokio::sync::watch;
use tokio::task::AbortHandle;

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

/// What must be so whatever is stored: put right at first, and again when something happens that matters.
pub(crate) struct Upheld {
    pub right: for<'a> fn(&'a Arc<Shared>) -> BoxFuture<'a, ()>,
    pub matters: fn(&Event) -> bool,
}

impl Follower for Upheld {
    fn whole<'a>(&'a mut self, shared: &'a Arc<Shared>) -> BoxFuture<'a, ()> {
        (self.right)(shared)
    }

    fn changed<'a>(&'a mut self, shared: &'a Arc<Shared>, events: &'a [Event]) -> BoxFuture<'a, ()> {
        if events.iter().any(self.matters) { (self.right)(shared) } else { Box::pin(std::future::ready(())) }
    }
}

/// What is kept in step, or upheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Webhooks,
    Parameters,
    Policies,
    Definitions,
    Registrations,
    OwnRegistrations,
    Addresses,
    DefaultRange,
    OwnService,
    Namespaces,
    Trust,
    Roles,
    Flows,
    FlowStatus,
    FlowDefaults,
}

impl Kept {
    pub const ALL: [Self; 15] = [
        Self::Webhooks,
        Self::Parameters,
        Self::Policies,
        Self::Definitions,
        Self::Registrations,
        Self::OwnRegistrations,
        Self::Addresses,
        Self::DefaultRange,
        Self::OwnService,
        Self::Namespaces,
        Self::Trust,
        Self::Roles,
        Self::Flows,
        Self::FlowStatus,
        Self::FlowDefaults,
    ];

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Webhooks => "webhooks",
            Self::Parameters => "parameters of policies",
            Self::Policies => "policies",
            Self::Definitions => "definitions",
            Self::Registrations => "registrations",
            Self::OwnRegistrations => "registrations of this server",
            Self::Addresses => "addresses",
            Self::DefaultRange => "the default range",
            Self::OwnService => "the Service of this server",
            Self::Namespaces => "namespaces of the system",
            Self::Trust => "what extension servers are told",
            Self::Roles => "roles",
            Self::Flows => "flow control",
            Self::FlowStatus => "status of flow schemas",
            Self::FlowDefaults => "default flow schemas",
        }
    }
}

/// A follower that runs.
pub(crate) struct Following {
    pub what: Kept,
    task: AbortHandle,
    step: watch::Receiver<bool>,
}

/// Whether a follower has taken in what was there. Not before its beginning is done, nor while it makes up for a gap.
pub(crate) struct Step(watch::Sender<bool>);

impl Step {
    pub fn lost(&self) {
        self.0.send_replace(false);
    }

    pub fn found(&self) {
        self.0.send_replace(true);
    }
}

impl Following {
    /// Begins a task that follows, and says how far it is by the [`Step`] that it is given.
    pub fn begin<F: Future<Output = ()> + Send + 'static>(what: Kept, follow: impl FnOnce(Step) -> F) -> Self {
        let (step, seen) = watch::channel(false);
        let task = tokio::spawn(follow(Step(step))).abort_handle();
        Self { what, task, step: seen }
    }

    pub fn is_in_step(&self) -> bool {
        *self.step.borrow() && !self.task.is_finished()
    }

    /// Resolves when it is in step, or has ended.
    pub async fn in_step(&self) {
        let _ = self.step.clone().wait_for(|step| *step).await;
    }
}

/// Follows `prefix` from the revision `after` until the store closes or the server is gone.
pub(crate) async fn follow(
    shared: Weak<Shared>,
    prefix: &'static str,
    after: Revision,
    mut follower: Box<dyn Follower>,
    step: Step,
) {
    let mut from = Some(after);
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let store = strong.store.clone();
        let from = from.take().unwrap_or_else(|| store.snapshot().revision());
        let mut feed = match store.watch(prefix, from) {
            Ok(feed) => feed,
            Err(store::Error::Compacted { .. }) => {
                step.lost();
                follower.whole(&strong).await;
                continue;
            }
            Err(_) => return,
        };
        // Whatever was written before the feed began.
        follower.whole(&strong).await;
        step.found();
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
        step.lost();
    }
}
