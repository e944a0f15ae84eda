//! Garbage collector. Deletes what lost all its owners, and carries out foreground deletion and orphaning.
//!
//! A [`graph`] of every object's identity and owners is kept from metadata-only watches ([`feeds`]) over all kinds of the
//! registry, those that CustomResourceDefinitions make and those of aggregated servers. `decide` is pure over the graph; an
//! owner that the graph does not have is looked up in the API once before anything is deleted for its absence, because one
//! watch may be behind another.
//!
//! Source: kubernetes `pkg/controller/garbagecollector/{garbagecollector,graph_builder,graph,operations}.go`.

use std::sync::Arc;
use std::time::Duration;

use client::queue::Queue;
use client::runner::{Controller, Plan, Seen};
use client::{Client, DeleteParams, Key, Patch, Result};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{oneshot, watch};
use types::registry::KindRef;

use crate::Context;
use aggregated::Aggregated;
use feeds::{Customs, Feeds, Synced};
use graph::{Action, Graph, Meta, Partial, Place};

mod aggregated;
pub mod feeds;
pub mod graph;
mod node;

const NAME: &str = "generic-garbage-collector";
/// What the events say they come from.
const COMPONENT: &str = "garbage-collector-controller";
/// Objects worked on at once; upstream's `--concurrent-gc-syncs` is 20.
const WORKERS: usize = 8;
/// Longest that the first listings of custom kinds hold back the work: a conversion webhook that is a pod of this cluster
/// may not answer before others are collected. Upstream goes on after as long.
const CUSTOM_SYNC_MAX: Duration = Duration::from_secs(30);

struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue>,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let feeds = Feeds {
        client: client.clone(),
        graph: Arc::new(Mutex::new(Graph::default())),
        // What the watches mark dirty before all of them are complete waits here, and is worked on afterwards.
        queue: context.queue(),
        recorder: context.recorder(&client, COMPONENT),
        synced: watch::Sender::new(Synced::default()),
    };
    let mut expected = 0;
    for kind in feeds::built_in() {
        let slot = feeds.graph.lock().add_kind(KindRef::BuiltIn(kind));
        if let Some(slot) = slot {
            expected += 1;
            context.spawn(feeds.follow(slot, kind, false, context.stopping()));
        }
    }
    let (begun, customs_begun) = oneshot::channel();
    let (definitions, stop) = (context.informers.definitions(), context.stopping());
    let mut customs = Customs::new(feeds.clone());
    context.spawn(async move {
        tokio::select! {
            () = definitions.synced() => {}
            () = stop.cancelled() => return,
        }
        for definition in definitions.all() {
            customs.look_at(&client::Object::key(&*definition), Some(&definition)).await;
        }
        // Nobody listens when all is being stopped.
        let _ = begun.send(customs.count());
        customs.run(definitions, stop).await;
    });
    let aggregated = Aggregated::new(feeds.clone(), context.informers.registrations());
    context.spawn(aggregated.run(context.stopping()));
    let Feeds { graph, queue, synced, .. } = feeds;
    let collector: Arc<dyn client::runner::Reconcile> =
        Arc::new(Collector { client, graph, queue: Arc::clone(&queue) });
    context.show(collector.name(), &queue);
    let (stop, clock) = (context.stopping(), context.config.clock);
    context.spawn(async move {
        let mut ready = synced.subscribe();
        let wait = async {
            let customs = customs_begun.await.unwrap_or_default();
            // The sender is this task's own.
            let _ = ready.wait_for(|n| n.built_in >= expected).await;
            let _ = tokio::time::timeout(CUSTOM_SYNC_MAX, ready.wait_for(|n| n.custom >= customs)).await;
        };
        tokio::select! {
            () = wait => {}
            () = stop.cancelled() => return,
        }
        client::runner::run(collector, queue, clock, WORKERS, stop).await;
    });
}

impl Collector {
    async fn live(&self, place: &Place) -> Result<Option<Meta>> {
        match self.client.get_path::<Partial>(&place.path).await {
            Ok(object) if *object.metadata.uid == *place.uid => Ok(Some(object.metadata)),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes one list of the live object's metadata; a conflict is tried again by the runner.
    async fn change(&self, place: &Place, edit: impl FnOnce(&mut serde_json::Value) -> bool) -> Result<()> {
        let mut object: serde_json::Value = match self.client.get_path(&place.path).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let meta = &mut object["metadata"];
        if meta["uid"] != *place.uid || !edit(meta) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "finalizers": meta["finalizers"],
            "ownerReferences": meta["ownerReferences"],
        }});
        match self
            .client
            .patch_path::<serde_json::Value>(&place.path, Patch::Merge(&patch), &client::WriteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn retain(meta: &mut serde_json::Value, field: &str, keep: impl Fn(&serde_json::Value) -> bool) -> bool {
    let Some(list) = meta[field].as_array_mut() else { return false };
    let before = list.len();
    list.retain(|v| keep(v));
    let changed = list.len() != before;
    if list.is_empty() {
        // An empty list and none are the same; the patch says none.
        meta[field] = serde_json::Value::Null;
    }
    changed
}

impl Controller for Collector {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        self.graph.lock().decide(&Arc::from(&*key.name))
    }

    async fn apply(&self, _: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Delete(place, propagation) => {
                // The newest state decides: somebody may have given it an owner, or deleted it, meanwhile.
                let Some(live) = self.live(&place).await? else { return Ok(vec![]) };
                let known = self.graph.lock().nodes.get(&place.uid).cloned();
                if live.deletion_timestamp.is_some() || known.is_none_or(|n| n.owners != live.owners()) {
                    return Ok(vec![]);
                }
                let params = DeleteParams {
                    resource_version: live.resource_version,
                    ..DeleteParams::uid(&place.uid).propagation(propagation)
                };
                match self.client.delete_path(&place.path, &params).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            Action::Disown(place, owners) => {
                let gone = |r: &serde_json::Value| owners.iter().any(|o| r["uid"] == **o);
                self.change(&place, |meta| retain(meta, "ownerReferences", |r| !gone(r))).await?;
            }
            Action::Unblock(place) => {
                self.change(&place, |meta| {
                    let mut changed = false;
                    for reference in meta["ownerReferences"].as_array_mut().into_iter().flatten() {
                        changed |= reference["blockOwnerDeletion"] == true;
                        reference["blockOwnerDeletion"] = false.into();
                    }
                    changed
                })
                .await?;
            }
            Action::RemoveFinalizer(place, name) => {
                self.change(&place, |meta| retain(meta, "finalizers", |f| f != name)).await?;
            }
            Action::LookUp(owner) => {
                if self.live(&owner).await?.is_none() {
                    self.graph.lock().is_absent(&owner.uid);
                }
                // It exists, but its watch is behind: its arrival decides, and the back-off looks again until then.
                else if !self.graph.lock().nodes.contains(&owner.uid) {
                    return Err(types::status::Status::service_unavailable("an owner is not in the graph yet").into());
                }
            }
            Action::Wake(uids) => {
                for uid in uids {
                    self.queue.add(Key::cluster(&uid));
                }
            }
        }
        Ok(vec![])
    }
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;
