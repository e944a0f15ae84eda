//! What several controllers do to pods alike: create them gently, delete, adopt and release them, and tell of it in events
//! about their owner.
//!
//! What never lives here: a decision about which pods.
//!
//! Source: kubernetes `pkg/controller/controller_utils.go` (RealPodControl), `pkg/controller/replicaset/replica_set.go`
//! (slowStartBatch).

use std::sync::Arc;
use std::time::Duration;

use client::events::{NORMAL, WARNING};
use client::runner::{SEEN_SECONDS_MAX, Seen};
use client::{Cache, Client, DeleteParams, Error, Key, Object, Patch, Recorder, Result};
use futures_util::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use serde_json::Value;

/// What one attempt of a [`slow_start`] leads to: what to wait for, or `None` when no further attempt makes sense.
pub type Attempt = Result<Option<Vec<Seen>>>;

/// Makes attempts `0..count` in batches of 1, 2, 4, …, so that a refusal is met once and not by all.
///
/// # Errors
/// One of the failures of the first batch that had any. What succeeded until then has been waited for, so that the next plan
/// counts it.
pub async fn slow_start<'a>(
    count: usize,
    attempt: &(dyn Fn(usize) -> BoxFuture<'a, Attempt> + Send + Sync),
) -> Result<Vec<Seen>> {
    let (mut from, mut batch, mut seen, mut failure, mut over) = (0, 1, Vec::new(), None, false);
    while from < count && failure.is_none() && !over {
        let to = count.min(from + batch);
        for outcome in join_all((from..to).map(attempt)).await {
            match outcome {
                Ok(Some(more)) => seen.extend(more),
                Ok(None) => over = true,
                Err(error) => failure = Some(error),
            }
        }
        from = to;
        batch *= 2;
    }
    settle(seen, failure).await
}

/// Ends in the failure, after what was done before it shows.
async fn settle(seen: Vec<Seen>, failure: Option<Error>) -> Result<Vec<Seen>> {
    let Some(error) = failure else { return Ok(seen) };
    let _ = tokio::time::timeout(Duration::from_secs(SEEN_SECONDS_MAX), join_all(seen)).await;
    Err(error)
}

/// Writes pods for one controller.
pub struct PodWrites {
    pub client: Client,
    pub pods: Arc<Cache<Pod>>,
    pub recorder: Recorder,
}

impl PodWrites {
    /// Creates `count` pods in a [`slow_start`]; none any more once their namespace goes, which is no failure.
    ///
    /// # Errors
    /// As of [`slow_start`].
    pub async fn create(
        &self,
        about: &ObjectReference,
        count: usize,
        pod: &(dyn Fn(usize) -> Pod + Send + Sync),
    ) -> Result<Vec<Seen>> {
        slow_start(count, &|n| Box::pin(self.create_one(about, pod(n)))).await
    }

    async fn create_one(&self, about: &ObjectReference, pod: Pod) -> Attempt {
        match self.client.create(&pod).await {
            Ok(created) => {
                let text = format!("Created pod: {}", created.name());
                self.recorder.about(about.clone(), NORMAL, "SuccessfulCreate", text);
                Ok(Some(vec![self.reached(&created)]))
            }
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                self.recorder.about(about.clone(), WARNING, "FailedCreate", format!("Error creating: {error}"));
                Err(error)
            }
        }
    }

    /// Deletes these pods, by key and uid, at once. One that is gone is well deleted.
    ///
    /// # Errors
    /// One of the failures; the others were deleted nevertheless.
    pub async fn delete(&self, about: &ObjectReference, pods: &[(Key, String)]) -> Result<Vec<Seen>> {
        let (mut seen, mut failure) = (Vec::new(), None);
        let deletes = pods.iter().map(|(key, uid)| async move {
            (key, uid, self.client.delete::<Pod>(&key.namespace, &key.name, &DeleteParams::uid(uid)).await)
        });
        for (key, uid, outcome) in join_all(deletes).await {
            match outcome {
                Ok(_) => {
                    let text = format!("Deleted pod: {}", key.name);
                    self.recorder.about(about.clone(), NORMAL, "SuccessfulDelete", text);
                    seen.push(Box::pin(self.pods.going(key, uid)) as Seen);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    self.recorder.about(about.clone(), WARNING, "FailedDelete", format!("Error deleting: {error}"));
                    failure = Some(error);
                }
            }
        }
        settle(seen, failure).await
    }

    /// Patches a pod (its owners, its labels); one that is gone needs nothing.
    pub async fn patch(&self, pod: &Key, patch: &Value) -> Result<Vec<Seen>> {
        match self.client.patch::<Pod>(&pod.namespace, &pod.name, Patch::Merge(patch)).await {
            Ok(pod) => Ok(vec![self.reached(&pod)]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    /// Resolves when the cache has the pod as it was written.
    pub fn reached(&self, pod: &Pod) -> Seen {
        Box::pin(self.pods.reached(pod.revision()))
    }
}
