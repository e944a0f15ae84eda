//! Keeps the kinds that are served in step with the store, and does what definitions leave to be done: names that became free
//! go to those who wait for them, objects of a definition that is deleted go before it.
//!
//! It is here and not among the controllers because it follows the store's feed and must go on when nobody may speak to the
//! API; what it deletes goes through the same verb as everybody's deletions.
//!
//! Source: apiextensions-apiserver `pkg/controller/{status,finalizer}`.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::Value;
use store::{Entry, Event, Expect, Op, Store, Write};
use types::registry::{Kind, KindRef, by_kind};
use types::status::Status;

use super::kinds::kind_of;
use super::settle::{set_condition, settle};
use super::{Definition, GROUP};
use crate::Identity;
use crate::audit::Annotations;
use crate::codec::Accepted;
use crate::follow::Follower;
use crate::http::query::Query;
use crate::retry::Retry;
use crate::server::Shared;
use crate::verbs::ask::Ask;
use crate::verbs::{self, object};

pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The definitions, by uid, whose objects are being deleted.
#[derive(Default)]
pub struct Keeper {
    finishing: Arc<Mutex<HashSet<String>>>,
}

impl Follower for Keeper {
    fn whole<'a>(&'a mut self, shared: &'a Arc<Shared>) -> BoxFuture<'a, ()> {
        shared.kinds.reload(&*shared.store);
        let all: Vec<Arc<Definition>> = shared.kinds.served().definitions().cloned().collect();
        all.iter().for_each(|definition| look_at(shared, definition, &self.finishing));
        Box::pin(reconsider(shared))
    }

    fn changed<'a>(&'a mut self, shared: &'a Arc<Shared>, events: &'a [Event]) -> BoxFuture<'a, ()> {
        events.iter().for_each(|event| shared.kinds.refresh(&*shared.store, event.entry().key()));
        for event in events.iter().filter(|e| matches!(e, Event::Put { .. })) {
            if let Some(definition) = shared.kinds.served().definition(name(event.entry())) {
                look_at(shared, definition, &self.finishing);
            }
        }
        Box::pin(reconsider(shared))
    }
}

fn name(entry: &Entry) -> &str {
    verbs::options::place(entry.key()).1
}

fn definitions() -> Option<&'static Kind> {
    by_kind(GROUP, "v1", "CustomResourceDefinition")
}

/// Gives definitions without their names the ones that are free now.
async fn reconsider(shared: &Arc<Shared>) {
    let served = shared.kinds.served();
    let mut waiting: Vec<&Arc<Definition>> =
        served.definitions().filter(|d| !d.names_accepted && !d.terminating).collect();
    // Who came first is served first.
    waiting.sort_by_key(|d| d.created);
    for definition in waiting {
        change(shared, &definition.name, |object, shared| {
            settle(object, &shared.kinds.served(), (shared.config.clock)());
        })
        .await;
    }
}

/// Changes a definition as it is now. A race is another writer's, whose event brings us here again.
async fn change(shared: &Arc<Shared>, name: &str, with: impl FnOnce(&mut Value, &Arc<Shared>)) -> Option<Value> {
    let kind = definitions()?;
    let key: Arc<str> = kind.store_key("", name).into();
    let entry = shared.store.snapshot().get(&key)?;
    let (mut object, managed) = object::open(&entry).ok()?;
    let before = object.clone();
    with(&mut object, shared);
    if object == before {
        return Some(object);
    }
    let released = object::is_deleting(&object) && object::finalizers(&object).is_empty();
    let op = if released { Op::Delete } else { Op::Put(object::to_store(&kind.into(), &object, &managed)) };
    let write = Write { key: key.clone(), expect: Expect::At(entry.modified()), class: store::Class::Durable, op };
    let written = shared.store.write(vec![write]).await;
    shared.kinds.refresh(&*shared.store, &key);
    match written {
        Ok(_) => Some(object),
        Err(store::Error::Precondition { .. }) => None,
        Err(error) => {
            tracing::warn!(%error, definition = name, "a definition's status could not be written");
            None
        }
    }
}

/// Begins to delete the objects of a definition that is being deleted.
fn look_at(shared: &Arc<Shared>, definition: &Arc<Definition>, finishing: &Arc<Mutex<HashSet<String>>>) {
    if !definition.deleting || !definition.cleans_up || !finishing.lock().insert(definition.uid.clone()) {
        return;
    }
    let (weak, definition, finishing) = (Arc::downgrade(shared), definition.clone(), finishing.clone());
    tokio::spawn(async move {
        finish(&weak, &definition).await;
        finishing.lock().remove(&definition.uid);
    });
}

/// Deletes the objects of a definition, waits until they are gone, and lets the definition go.
async fn finish(shared: &Weak<Shared>, definition: &Arc<Definition>) {
    let mut retry = Retry::default();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let last = if definition.established {
            say(&strong, definition, ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"))
                .await;
            if let Err(status) = delete_all(&strong, definition).await {
                let why = format!("could not issue all deletes: {status}");
                say(&strong, definition, ("True", "InstanceDeletionFailed", &why)).await;
                drop(strong);
                tokio::time::sleep(retry.refused()).await;
                continue;
            }
            let store = strong.store.clone();
            drop(strong);
            if !emptied(&*store, &definition.objects_prefix()).await {
                return;
            }
            ("False", "InstanceDeletionCompleted", "removed all instances")
        } else {
            ("False", "NeverEstablished", "resource was never established")
        };
        let Some(strong) = shared.upgrade() else { return };
        let done = change(&strong, &definition.name, |object, shared| {
            set_condition(object, "Terminating", last, (shared.config.clock)());
            let metadata = object::meta_mut(object);
            if let Some(Value::Array(list)) = metadata.get_mut("finalizers") {
                list.retain(|f| f != FINALIZER);
                if list.is_empty() {
                    metadata.remove("finalizers");
                }
            }
        });
        if done.await.is_some() || strong.kinds.served().definition(&definition.name).is_none() {
            return;
        }
        drop(strong);
        tokio::time::sleep(retry.refused()).await;
    }
}

async fn say(shared: &Arc<Shared>, definition: &Definition, condition: (&str, &str, &str)) {
    change(shared, &definition.name, |object, shared| {
        set_condition(object, "Terminating", condition, (shared.config.clock)());
    })
    .await;
}

/// Deletes every object of the kind, namespace by namespace, as anybody would.
async fn delete_all(shared: &Arc<Shared>, definition: &Arc<Definition>) -> Result<(), Status> {
    let at = definition.versions.iter().position(|v| v.storage).unwrap_or(0);
    let kind = KindRef::Custom(Arc::new(kind_of(definition, at)));
    let prefix = definition.objects_prefix();
    let view = shared.store.snapshot();
    let namespaces: BTreeSet<String> =
        view.range(&prefix, None).map(|e| verbs::options::place(e.key()).0.to_owned()).collect();
    drop(view);
    let identity = Identity::admin();
    let (query, headers) = (Query::default(), HeaderMap::new());
    for namespace in &namespaces {
        let mut ask = Ask {
            shared,
            kind: &kind,
            served: &kind,
            subresource: "",
            namespace,
            name: "",
            query: &query,
            headers: &headers,
            identity: &identity,
            now: (shared.config.clock)(),
            accepted: Accepted::JSON,
            tracked: true,
            warnings: Vec::new(),
            annotations: Annotations::default(),
        };
        verbs::delete::delete_collection(&mut ask, &Bytes::new()).await?;
    }
    Ok(())
}

/// Waits until no key has the prefix; `false` when the store closes first.
async fn emptied(store: &dyn Store, prefix: &str) -> bool {
    loop {
        let view = store.snapshot();
        if view.count(prefix) == 0 {
            return true;
        }
        let Ok(mut feed) = store.watch(prefix, view.revision()) else { return false };
        drop(view);
        let mut events = Vec::new();
        match feed.next(&mut events).await {
            Ok(_) | Err(store::Error::Compacted { .. }) => {}
            Err(_) => return false,
        }
    }
}
