//! Writes to claims what was decided for a pod before the pod is bound: the finalizer, the devices, and the pod as their user;
//! waits for devices that have to be got ready; takes it back when the pod is not bound. No decisions.
//!
//! Source: `pkg/scheduler/framework/plugins/dynamicresources/dynamicresources.go` (bindClaim, PreBind, Unreserve).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::devices::{Allocation, Claim, Consumer, FINALIZER};
use client::{Client, DeleteParams, Error, Key, Object as _, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::extended::{self, Mapping};
use super::{BIND_SECONDS_MAX, Devices, Readiness, readiness, waits_for_devices};
use crate::claims;

/// Tries when somebody else writes the claim at the same time. Source: client-go `retry.DefaultRetry`.
const TRIES_MAX: u32 = 5;

/// What becomes of a claim of a pod that goes to a node.
#[derive(Clone)]
pub struct Binding {
    pub claim: Arc<Claim>,
    /// The devices that it gets; `None`: it has them.
    pub allocation: Option<Arc<Allocation>>,
    /// It stands for extended resources and is made when the pod is bound.
    pub made: Option<Arc<Made>>,
}

/// A claim for extended resources, which goes again when the pod is not bound.
#[derive(Debug)]
pub struct Made {
    mappings: Vec<Mapping>,
    name: OnceLock<String>,
}

impl Made {
    pub fn of(mappings: Vec<Mapping>) -> Self {
        Self { mappings, name: OnceLock::new() }
    }
}

impl Binding {
    /// Whether devices have to be got ready first.
    pub fn waits(&self) -> bool {
        let results = self.allocation.iter().flat_map(|a| &a.devices.results);
        results.into_iter().any(|picked| !picked.binding_conditions.is_empty()) || waits_for_devices(&self.claim)
    }
}

impl Devices {
    /// Writes to each claim that the pod uses it, and which devices it has. `now`: when.
    ///
    /// # Errors
    /// The text of a condition. What was written stays until [`Devices::give_up`].
    pub async fn bind(&self, client: &Client, pod: &Pod, bindings: &[Binding], now: Timestamp) -> Result<(), String> {
        for binding in bindings.iter().filter(|b| !claims::is_reserved_for(pod, &b.claim)) {
            let written = match &binding.made {
                None => self.write(client, pod, binding, now).await,
                Some(made) => self.make(client, pod, binding, made, now).await,
            };
            self.settled(std::slice::from_ref(binding));
            written?;
        }
        Ok(())
    }

    /// Makes the claim that stands for extended resources, and has the pod name it.
    async fn make(
        &self,
        client: &Client,
        pod: &Pod,
        binding: &Binding,
        made: &Made,
        now: Timestamp,
    ) -> Result<(), String> {
        let path = client::api::collection_path::<Claim>(pod.namespace());
        let claim = extended::to_create(&binding.claim);
        let created: Result<Claim, Error> = client.create_path(&path, &claim, &Default::default()).await;
        let created = created.map_err(|error| format!("create claim for extended resources: {error}"))?;
        let name = created.name().to_owned();
        let _ = made.name.set(name.clone());
        let real = Binding { claim: Arc::new(created), ..binding.clone() };
        self.write(client, pod, &real, now).await?;
        let status = json!({"resourceClaimName": name, "requestMappings": made.mappings});
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"extendedResourceClaimStatus": status}});
        let patched = client.patch_status::<Pod>(pod.namespace(), pod.name(), Patch::Merge(&patch)).await;
        patched.map(drop).map_err(|error| format!("update pod {} ExtendedResourceClaimStatus: {error}", pod.key()))
    }

    /// Deletes a claim that stood for extended resources.
    pub async fn delete(&self, client: &Client, namespace: &str, name: &str) {
        let patch = json!({"metadata": {"finalizers": null}});
        let freed = client.patch::<Claim>(namespace, name, Patch::Merge(&patch)).await;
        let deleted = match freed {
            Ok(_) => client.delete::<Claim>(namespace, name, &DeleteParams::default()).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = deleted
            && !error.is_not_found()
        {
            tracing::warn!(namespace, claim = name, %error, "a claim for extended resources is left behind");
        }
    }

    /// Waits until every device is ready for the pod.
    ///
    /// # Errors
    /// One says that it never will be, or it takes too long.
    pub async fn ready(&self, bindings: &[Binding]) -> Result<(), String> {
        let mut outcome = Ok(());
        let mut waits_for = "";
        let ready = self.claims.until(|| {
            for binding in bindings {
                let made = binding.made.as_ref().and_then(|made| made.name.get());
                let name = made.map_or(binding.claim.name(), String::as_str);
                let Some(claim) = self.claims.get(&Key::new(binding.claim.namespace(), name)) else {
                    outcome = Err(format!("resourceclaim.resource.k8s.io {name:?} not found"));
                    return true;
                };
                match readiness(&claim) {
                    Readiness::Ready => {}
                    Readiness::Pending => {
                        waits_for = binding.claim.name();
                        return false;
                    }
                    Readiness::Failed(why) => {
                        outcome = Err(why);
                        return true;
                    }
                }
            }
            true
        });
        match tokio::time::timeout(Duration::from_secs(BIND_SECONDS_MAX), ready).await {
            Ok(()) => outcome,
            Err(_) => Err(format!("device binding timeout: claim={waits_for}")),
        }
    }

    /// What was decided shows in the caches, or has failed.
    pub fn settled(&self, bindings: &[Binding]) {
        let mut taken = self.taken.lock();
        for binding in bindings.iter().filter(|b| b.allocation.is_some()) {
            taken.settled(binding.claim.uid());
        }
    }

    /// The pod does not use the claims after all. The devices stay the claims', as upstream leaves them.
    pub async fn give_up(&self, client: &Client, pod: &Pod, bindings: &[Binding]) {
        self.settled(bindings);
        for binding in bindings {
            if let Some(made) = &binding.made {
                if let Some(name) = made.name.get() {
                    self.delete(client, pod.namespace(), name).await;
                }
                continue;
            }
            let key = binding.claim.key();
            let Some(claim) = self.claims.get(&key).filter(|claim| claims::is_reserved_for(pod, claim)) else {
                continue;
            };
            let users: Vec<&Consumer> = claim.status.reserved_for.iter().filter(|c| c.uid != pod.uid()).collect();
            let metadata = json!({"uid": claim.uid(), "resourceVersion": claim.metadata.resource_version});
            let patch = json!({"metadata": metadata, "status": {"reservedFor": users}});
            // The claim's controller takes off whoever is left behind once its pod is gone; the next try writes it again.
            match client.patch_status::<Claim>(&key.namespace, &key.name, Patch::Merge(&patch)).await {
                Ok(claim) => self.claims.reached(claim.revision()).await,
                Err(error) => tracing::warn!(pod = %pod.key(), claim = %key, %error, "the claim is still reserved"),
            }
        }
    }

    /// Takes the devices of a claim back, with which its only user cannot be placed.
    pub async fn give_back(&self, client: &Client, claim: &Claim) {
        let metadata = json!({"uid": claim.uid(), "resourceVersion": claim.metadata.resource_version});
        let status = json!({"allocation": null, "reservedFor": null, "devices": null});
        let patch = json!({"metadata": metadata, "status": status});
        let key = claim.key();
        if let Err(error) = client.patch_status::<Claim>(&key.namespace, &key.name, Patch::Merge(&patch)).await {
            tracing::warn!(claim = %key, %error, "its devices could not be given back");
        }
    }

    async fn write(&self, client: &Client, pod: &Pod, binding: &Binding, now: Timestamp) -> Result<(), String> {
        let key = binding.claim.key();
        let mut claim = Claim::clone(&binding.claim);
        for attempt in 1.. {
            match self.write_once(client, pod, claim, binding.allocation.as_deref(), now).await {
                Ok(()) => break,
                Err(Failed::Api(_, error)) if error.is_conflict() && attempt < TRIES_MAX => {}
                Err(Failed::Api(what, error)) => return Err(format!("{what} claim {key}: {error}")),
                Err(Failed::Changed(why)) => return Err(format!("claim {key} {why}")),
            }
            let fresh = client.get::<Claim>(&key.namespace, &key.name).await;
            claim = fresh.map_err(|error| format!("get updated claim {key} after conflict: {error}"))?;
        }
        Ok(())
    }

    async fn write_once(
        &self,
        client: &Client,
        pod: &Pod,
        claim: Claim,
        allocation: Option<&Allocation>,
        now: Timestamp,
    ) -> Result<(), Failed> {
        let (namespace, name) = (claim.namespace().to_owned(), claim.name().to_owned());
        let mut claim = claim;
        if claim.is_terminating() {
            return Err(Failed::Changed("got deleted in the meantime"));
        }
        match (allocation, &claim.status.allocation) {
            (Some(_), Some(_)) => return Err(Failed::Changed("got allocated elsewhere in the meantime")),
            (None, None) => return Err(Failed::Changed("got deallocated elsewhere in the meantime")),
            (Some(_), None) | (None, Some(_)) => {}
        }
        let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        if allocation.is_some() && !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
            let metadata = json!({"uid": claim.uid(), "resourceVersion": claim.metadata.resource_version,
                "finalizers": finalizers});
            let patched = client.patch(&namespace, &name, Patch::Merge(&json!({"metadata": metadata}))).await;
            claim = patched.map_err(|error| Failed::Api("add finalizer to", error))?;
        }
        let mut users = claim.status.reserved_for.clone();
        users.retain(|user| user.uid != pod.uid());
        users.push(claims::consumer(pod));
        let mut status = json!({"reservedFor": users});
        let mut what = "add reservation to";
        if let Some(allocation) = allocation {
            let dated = Allocation { allocation_timestamp: Some(Time(now)), ..allocation.clone() };
            status["allocation"] = serde_json::to_value(dated).unwrap_or(Value::Null);
            what = "add allocation and reservation to";
        }
        let metadata = json!({"uid": claim.uid(), "resourceVersion": claim.metadata.resource_version});
        let patch = json!({"metadata": metadata, "status": status});
        let written = client.patch_status::<Claim>(&namespace, &name, Patch::Merge(&patch)).await;
        let written = written.map_err(|error| Failed::Api(what, error))?;
        self.claims.reached(written.revision()).await;
        Ok(())
    }
}

enum Failed {
    /// What was being done.
    Api(&'static str, Error),
    /// Somebody else was faster.
    Changed(&'static str),
}
