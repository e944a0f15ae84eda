//! Keeps what is registered in step with the store, has every remote APIService attended to, and says of every local one that
//! it is there.
//!
//! It is here and not among the controllers because it follows the store's feed, and asks other servers with this one's
//! certificate.
//!
//! Source: kube-aggregator `pkg/apiserver/apiservice_controller.go`, `pkg/controllers/status/local`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use store::Event;
use tokio::task::AbortHandle;

use super::attend;
use super::check::Verdict;
use super::link::Link;
use crate::follow::Follower;
use crate::server::Shared;

/// A task that attends to an APIService; ends with this.
struct Attended {
    /// `None`: it is served here, and the task ends as soon as that is said.
    link: Option<Arc<Link>>,
    task: AbortHandle,
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who is attended to, by name.
#[derive(Default)]
pub struct Keeper {
    attended: BTreeMap<String, Attended>,
}

impl Follower for Keeper {
    fn whole<'a>(&'a mut self, shared: &'a Arc<Shared>) -> BoxFuture<'a, ()> {
        shared.aggregator.reload(&*shared.store.snapshot());
        let mut names: BTreeSet<String> = self.attended.keys().cloned().collect();
        names.extend(shared.aggregator.registered().iter().map(|r| r.name.clone()));
        names.iter().for_each(|name| look_at(shared, name, &mut self.attended));
        Box::pin(std::future::ready(()))
    }

    fn changed<'a>(&'a mut self, shared: &'a Arc<Shared>, events: &'a [Event]) -> BoxFuture<'a, ()> {
        for event in events {
            let key = event.entry().key();
            shared.aggregator.refresh(&*shared.store, key);
            look_at(shared, crate::verbs::options::place(key).1, &mut self.attended);
        }
        Box::pin(std::future::ready(()))
    }
}

fn look_at(shared: &Arc<Shared>, name: &str, attended: &mut BTreeMap<String, Attended>) {
    let registered = shared.aggregator.registered();
    let Some(registration) = registered.named(name) else {
        attended.remove(name);
        return;
    };
    let link = registration.remote.as_ref().map(|remote| remote.link.clone());
    let is_same = |known: &Attended| known.link.as_ref().map(Arc::as_ptr) == link.as_ref().map(Arc::as_ptr);
    if attended.get(name).is_some_and(|known| is_same(known) && !known.task.is_finished()) {
        return;
    }
    attended.remove(name);
    let weak = Arc::downgrade(shared);
    let task = match &link {
        Some(link) => tokio::spawn(attend::attend(weak, name.to_owned(), link.clone())),
        None if attend::has(&*shared.store, name, &local()) => return,
        None => tokio::spawn(attend::insist(weak, name.to_owned(), local())),
    };
    attended.insert(name.to_owned(), Attended { link, task: task.abort_handle() });
}

fn local() -> Verdict {
    Verdict { available: true, reason: "Local", message: "Local APIServices are always available".into() }
}
