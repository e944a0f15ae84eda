//! Keeps what is registered in step with the store, has every remote APIService attended to, and says of every local one that
//! it is there.
//!
//! It is here and not among the controllers because it follows the store's feed, and asks other servers with this one's
//! certificate.
//!
//! Source: kube-aggregator `pkg/apiserver/apiservice_controller.go`, `pkg/controllers/status/local`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

use super::attend;
use super::check::Verdict;
use super::link::Link;
use super::registration::STORE_PREFIX;
use crate::server::Shared;

/// A task that attends to an APIService; ends with this.
struct Attended {
    link: Arc<Link>,
    task: AbortHandle,
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows the APIServices until the store closes or the server is gone.
pub async fn follow(shared: Weak<Shared>) {
    let mut attended: BTreeMap<String, Attended> = BTreeMap::new();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let store = strong.store.clone();
        let Ok(mut feed) = store.watch(STORE_PREFIX, store.snapshot().revision()) else { return };
        // Whatever was written before the feed began.
        strong.aggregator.reload(&*store.snapshot());
        let registered = strong.aggregator.registered();
        let mut names: BTreeSet<String> = registered.iter().map(|r| r.name.clone()).collect();
        names.extend(attended.keys().cloned());
        for name in names {
            look_at(&strong, &name, &mut attended).await;
        }
        drop((strong, store));
        let mut events = Vec::new();
        loop {
            events.clear();
            let next = feed.next(&mut events).await;
            let Some(shared) = shared.upgrade() else { return };
            match next {
                Ok(_) => {
                    for event in &events {
                        let key = &event.entry().key;
                        shared.aggregator.refresh(&*shared.store, key);
                        look_at(&shared, crate::verbs::options::place(key).1, &mut attended).await;
                    }
                }
                Err(store::Error::Compacted { .. }) => break,
                Err(_) => return,
            }
        }
    }
}

async fn look_at(shared: &Arc<Shared>, name: &str, attended: &mut BTreeMap<String, Attended>) {
    let registered = shared.aggregator.registered();
    let registration = registered.iter().find(|r| r.name == name);
    let link = registration.and_then(|r| r.remote.as_ref()).map(|remote| &remote.link);
    let Some(link) = link else {
        attended.remove(name);
        if registration.is_some() {
            attend::write(shared, name, &local()).await;
        }
        return;
    };
    if attended.get(name).is_some_and(|known| Arc::ptr_eq(&known.link, link)) {
        return;
    }
    let task = tokio::spawn(attend::attend(Arc::downgrade(shared), name.to_owned(), link.clone())).abort_handle();
    attended.insert(name.to_owned(), Attended { link: link.clone(), task });
}

fn local() -> Verdict {
    Verdict { available: true, reason: "Local", message: "Local APIServices are always available".into() }
}
