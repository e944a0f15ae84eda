//! The writes of the StatefulSet controller, and the events that tell of them. Decides nothing.
//!
//! Source: kubernetes `pkg/controller/statefulset/stateful_pod_control.go` (events' texts).

use client::Error;
use client::runner::Seen;
use futures_util::future::join_all;
use serde_json::Value;

use super::claims::Needed;
use super::{DeleteParams, Key, NewPod, Object, PersistentVolumeClaim, Pod, Result, StatefulSet, StatefulSets};
use crate::pod_writes::{Attempt, slow_start};

impl StatefulSets {
    /// Tells that a pod was created, updated or deleted, or why not.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, failure: Option<&str>) {
        let what = format!("{verb} Pod {pod} in StatefulSet {}", set.name());
        match failure {
            None => self.writes.recorder.normal(set, &format!("Successful{verb}"), format!("{what} successful")),
            Some(why) => {
                self.writes.recorder.warning(set, &format!("Failed{verb}"), format!("{what} failed error: {why}"));
            }
        }
    }

    pub(super) fn conflicts(&self, set: &StatefulSet, claims: &[String]) {
        for claim in claims {
            let text = format!(
                "PersistentVolumeClaim {claim} has a conflicting OwnerReference that acts as a manging controller, the \
                 retention policy is ignored for this claim"
            );
            self.writes.recorder.warning(set, "ConflictingController", text);
        }
    }

    pub(super) async fn create(&self, set: &StatefulSet, pods: &[NewPod]) -> Result<Vec<Seen>> {
        slow_start(pods.len(), &|n| Box::pin(self.create_one(set, &pods[n]))).await
    }

    async fn create_one(&self, set: &StatefulSet, new: &NewPod) -> Attempt {
        let name = new.pod.name();
        let mut seen = match self.make_claims(set, name, &new.claims).await {
            Ok(seen) => seen,
            Err((_, error)) if error.is_namespace_terminating() => return Ok(None),
            Err((claim, error)) => {
                self.tell(set, "Create", name, Some(&format!("failed to create PVC {claim}: {error}")));
                return Err(error);
            }
        };
        if !new.claims.going.is_empty() {
            // That the claim is gone is a change that asks for the pod again.
            self.tell(set, "Create", name, Some(&new.claims.going.join(", ")));
            return Ok(Some(seen));
        }
        match self.writes.client.create(&new.pod).await {
            Ok(pod) => {
                self.conflicts(set, &new.conflicts);
                self.tell(set, "Create", name, None);
                seen.push(self.writes.reached(&pod));
                Ok(Some(seen))
            }
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                if !error.is_already_exists() {
                    self.tell(set, "Create", name, Some(&error.to_string()));
                }
                Err(error)
            }
        }
    }

    /// Creates a pod's missing claims; all are tried. The error is the last one, with its claim's name.
    pub(super) async fn make_claims(
        &self,
        set: &StatefulSet,
        pod: &str,
        needed: &Needed,
    ) -> Result<Vec<Seen>, (String, Error)> {
        let (mut seen, mut failure) = (Vec::new(), None);
        for claim in &needed.missing {
            let (name, set_name) = (claim.name(), set.name());
            match self.writes.client.create(claim).await {
                Ok(created) => {
                    let text = format!("Create Claim {name} Pod {pod} in StatefulSet {set_name} success");
                    self.writes.recorder.normal(set, "SuccessfulCreate", text);
                    seen.push(Box::pin(self.claims.reached(created.revision())) as Seen);
                }
                Err(error) => {
                    if !error.is_already_exists() && !error.is_namespace_terminating() {
                        let text = format!(
                            "Create Claim {name} for Pod {pod} in StatefulSet {set_name} failed error: {error}"
                        );
                        self.writes.recorder.warning(set, "FailedCreate", text);
                    }
                    failure = Some((name.to_owned(), error));
                }
            }
        }
        failure.map_or(Ok(seen), Err)
    }

    /// Writes claims with their new owners; `told`: the update is worth an event of its own.
    pub(super) async fn own_claims(
        &self,
        set: &StatefulSet,
        pod: &str,
        claims: &[PersistentVolumeClaim],
        told: bool,
    ) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        for claim in claims {
            match self.writes.client.update(claim).await {
                Ok(claim) => seen.push(Box::pin(self.claims.reached(claim.revision())) as Seen),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    if !error.is_conflict() {
                        let why =
                            format!("could not update claim {} for delete policy ownerRefs: {error}", claim.name());
                        self.tell(set, "Update", pod, Some(&why));
                    }
                    return Err(error);
                }
            }
        }
        if told && !claims.is_empty() {
            self.tell(set, "Update", pod, None);
        }
        Ok(seen)
    }

    pub(super) async fn correct(
        &self,
        set: &StatefulSet,
        pod: &Key,
        patch: &Value,
        missing: Vec<PersistentVolumeClaim>,
    ) -> Result<Vec<Seen>> {
        let needed = Needed { missing, ..Needed::default() };
        let mut seen = self.make_claims(set, &pod.name, &needed).await.map_err(|(_, error)| error)?;
        let outcome = self.writes.patch(pod, patch).await;
        let failure = outcome.as_ref().err().map(ToString::to_string);
        self.tell(set, "Update", &pod.name, failure.as_deref());
        seen.extend(outcome?);
        Ok(seen)
    }

    pub(super) async fn delete(&self, set: &StatefulSet, pods: &[(Key, String)]) -> Result<Vec<Seen>> {
        let (mut seen, mut failure) = (Vec::new(), None);
        let deletes = pods.iter().map(|(key, uid)| async move {
            (key, uid, self.writes.client.delete::<Pod>(&key.namespace, &key.name, &DeleteParams::uid(uid)).await)
        });
        for (key, uid, outcome) in join_all(deletes).await {
            match outcome {
                Err(error) if !error.is_not_found() => {
                    self.tell(set, "Delete", &key.name, Some(&error.to_string()));
                    failure = Some(error);
                }
                _ => {
                    self.tell(set, "Delete", &key.name, None);
                    seen.push(Box::pin(self.writes.pods.going(key, uid)) as Seen);
                }
            }
        }
        failure.map_or(Ok(seen), Err)
    }
}
