//! Claims that are no longer used. Pods that are done or gone are taken off the users of a claim; what nobody uses is given
//! back, so that others may have the devices; a claim that was made for a pod goes as soon as the pod is done.
//!
//! Giving back is bound to the loss of the last user: a claim that has none yet is not touched, since its allocation and its
//! first user need not be written together.
//!
//! Source: kubernetes `pkg/controller/resourceclaim/controller.go` (syncClaim), `uid_cache.go`.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use client::devices::{Claim, Consumer, FINALIZER};
use client::queue::Queue;
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, DeleteParams, Key, Object as _, Patch, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{NAME, owner};
use crate::Context;
use crate::claims::{self, POD_BY_DEVICES};

const WORKERS: usize = 10;
/// Pods that are remembered as gone, so that nobody has to ask for each. Source: `maxUIDCacheEntries`.
const GONE_MAX: usize = 500;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Whether that pod exists: the cache of pods may be behind.
    Ask { pod: String, uid: String },
    /// Writes the users that are left; with `status` that gives the devices back, then without the finalizer.
    Release { status: Value, revision: Option<String>, unprotected: Option<Vec<String>> },
    /// Nobody waits for the claim any more.
    Delete { uid: String },
}

/// What is known of a pod by its name.
pub enum Known {
    Is(Arc<Pod>),
    /// The cache does not have it, and nobody has asked.
    Unknown,
    /// It was deleted.
    Gone,
}

/// `pod`: what is known of one by its name and uid.
pub fn plan(claim: &Claim, pod: &dyn Fn(&str, &str) -> Known) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let before = &claim.status.reserved_for;
    let mut users: Vec<&Consumer> = Vec::with_capacity(before.len());
    for user in before {
        let is_pod = user.api_group.is_empty() && user.resource == "pods";
        match if is_pod { Some(pod(&user.name, &user.uid)) } else { None } {
            Some(Known::Gone) => {}
            Some(Known::Is(pod)) if pod.uid() != user.uid || claims::is_done(&pod) => {}
            Some(Known::Unknown) => {
                plan.push(Action::Ask { pod: user.name.clone(), uid: user.uid.clone() }, "a user is not known");
                users.push(user);
            }
            // Of users of other kinds nobody knows whether they are done.
            Some(Known::Is(_)) | None => users.push(user),
        }
    }
    let finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    let is_protected = finalizers.iter().any(|f| f == FINALIZER);
    let unprotected = || Some(finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect::<Vec<_>>());
    let revision = claim.metadata.resource_version.clone();
    if users.len() < before.len() {
        let mut status = json!({"reservedFor": users});
        if users.is_empty() && is_protected {
            status = json!({"reservedFor": null, "allocation": null});
        }
        let unprotected = unprotected().filter(|_| users.is_empty() && is_protected);
        plan.push(Action::Release { status, revision, unprotected }, "users are done");
    } else if is_protected && claim.is_terminating() && users.is_empty() {
        let status = if claim.status.allocation.is_some() { json!({"allocation": null}) } else { Value::Null };
        plan.push(Action::Release { status, revision, unprotected: unprotected() }, "it is deleted and not used");
    }
    if users.is_empty()
        && !claim.is_terminating()
        && let Some(owner) = owner(claim)
        && let Known::Is(pod) = pod(&owner.name, &owner.uid)
        && (pod.uid() != owner.uid || claims::is_done(&pod))
    {
        plan.push(Action::Delete { uid: claim.uid().to_owned() }, "the pod that it was made for is done");
    }
    plan
}

#[derive(Default)]
struct Gone {
    uids: HashSet<String>,
    order: VecDeque<String>,
}

impl Gone {
    fn insert(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
        }
        if self.order.len() > GONE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

struct Releaser {
    client: Client,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<Claim>>,
    queue: Arc<Queue>,
    gone: Arc<Mutex<Gone>>,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let claims = context.informers.cache::<Claim>(Selector::all());
    let (pods, queue, gone) = (context.pods(), context.queue(), Arc::new(Mutex::new(Gone::default())));
    pods.add_index(POD_BY_DEVICES, |pod| claims::keys(pod).map(|key| key.to_string()).collect());
    let (dirty, seen) = (Arc::clone(&queue), Arc::clone(&gone));
    pods.on_change(Box::new(move |old, new| {
        let Some(pod) = new.or(old).filter(|p| claims::keys(p).next().is_some()) else { return };
        if new.is_none() {
            seen.lock().insert(pod.uid());
        }
        if new.is_none_or(|pod| claims::is_done(pod)) {
            claims::keys(pod).for_each(|key| dirty.add(key));
        }
    }));
    let dirty = Arc::clone(&queue);
    claims.on_change(Box::new(move |_, new| new.into_iter().for_each(|claim| dirty.add(claim.key()))));
    let releaser = Releaser { client, pods, claims, queue: Arc::clone(&queue), gone };
    context.run(releaser, queue, WORKERS);
}

impl Controller for Releaser {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let Some(claim) = self.claims.get(key) else { return Plan::nothing() };
        plan(&claim, &|name, uid| {
            if self.gone.lock().uids.contains(uid) {
                return Known::Gone;
            }
            self.pods.get(&Key::new(&key.namespace, name)).map_or(Known::Unknown, Known::Is)
        })
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Ask { pod, uid } => {
                let there = match self.client.get::<Pod>(&key.namespace, &pod).await {
                    Ok(pod) => pod.uid() == uid,
                    Err(error) if error.is_not_found() => false,
                    Err(error) => return Err(error),
                };
                if !there {
                    self.gone.lock().insert(&uid);
                    self.queue.add(key.clone());
                }
                Ok(vec![])
            }
            Action::Release { status, revision, unprotected } => {
                let released = self.release(key, status, revision, unprotected).await;
                gone_is_well(released.map(|claim| vec![Box::pin(self.claims.reached(claim.revision())) as Seen]))
            }
            Action::Delete { uid } => {
                let deleted = self.client.delete::<Claim>(&key.namespace, &key.name, &DeleteParams::uid(&uid)).await;
                gone_is_well(deleted.map(|_| vec![Box::pin(self.claims.going(key, &uid)) as Seen]))
            }
        }
    }
}

impl Releaser {
    async fn release(
        &self,
        key: &Key,
        status: Value,
        mut revision: Option<String>,
        unprotected: Option<Vec<String>>,
    ) -> Result<Claim> {
        let (namespace, name) = (&*key.namespace, &*key.name);
        let mut written = None;
        if !status.is_null() {
            let patch = json!({"metadata": {"resourceVersion": revision}, "status": status});
            let claim: Claim = self.client.patch_status(namespace, name, Patch::Merge(&patch)).await?;
            revision.clone_from(&claim.metadata.resource_version);
            written = Some(claim);
        }
        match (unprotected, written) {
            (None, Some(claim)) => Ok(claim),
            (finalizers, _) => {
                let metadata = json!({"resourceVersion": revision, "finalizers": finalizers});
                self.client.patch(namespace, name, Patch::Merge(&json!({"metadata": metadata}))).await
            }
        }
    }
}

fn gone_is_well(result: Result<Vec<Seen>>) -> Result<Vec<Seen>> {
    match result {
        Err(error) if error.is_not_found() => Ok(vec![]),
        other => other,
    }
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
