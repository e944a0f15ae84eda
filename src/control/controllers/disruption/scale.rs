//! How many pods the controllers of pods want.
//!
//! Deployments and ReplicaSets are read from the caches; whatever else owns pods, a custom object for instance, is asked for
//! its scale subresource.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Client, Error, Key, Object, Selector};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;
use types::registry::by_kind;

use crate::Context;

/// Why a scale is not known.
pub enum Trouble {
    /// What owns the pod has none; asking again is no use.
    Never(String),
    /// The API did not answer as it should.
    Error(Error),
}

pub struct Owners {
    client: Client,
    sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
}

impl Owners {
    pub fn new(context: &Context, client: Client) -> Self {
        let informers = &context.informers;
        Self { client, sets: informers.cache(Selector::all()), deployments: informers.cache(Selector::all()) }
    }

    /// The sum over the controllers of `pods`, and whether some pods have none.
    ///
    /// # Errors
    /// The first of them whose scale is not known.
    pub async fn scale(&self, pods: &[Arc<Pod>]) -> Result<(i32, bool), Trouble> {
        // By the pods' direct owners, and by what is counted: several sets of one deployment are one.
        let (mut asked, mut scales) = (BTreeMap::new(), BTreeMap::new());
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = pod.controller_owner() else {
                unmanaged = true;
                continue;
            };
            if asked.insert(owner.uid.as_str(), ()).is_some() {
                continue;
            }
            let found = match self.cached(owner, pod.namespace()) {
                Some(found) => Some(found),
                None => self.ask(owner, pod.namespace()).await?,
            };
            let Some((uid, scale)) = found else {
                return Err(Trouble::Never(format!("found no controllers for pod {:?}", pod.name())));
            };
            scales.insert(uid, scale);
        }
        Ok((scales.values().fold(0, |sum: i32, scale| sum.saturating_add(*scale)), unmanaged))
    }

    /// A set's scale is its deployment's.
    fn cached(&self, owner: &OwnerReference, namespace: &str) -> Option<(String, i32)> {
        if owner.kind != "ReplicaSet" || !owner.api_version.starts_with("apps/") {
            return None;
        }
        let set = self.sets.get(&Key::new(namespace, &owner.name)).filter(|s| s.uid() == owner.uid)?;
        let Some(above) = set.controller_owner().filter(|o| o.kind == "Deployment") else {
            return Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1)));
        };
        let deployment = self.deployments.get(&Key::new(namespace, &above.name)).filter(|d| d.uid() == above.uid)?;
        Some((above.uid.clone(), deployment.spec.as_ref()?.replicas.unwrap_or(1)))
    }

    async fn ask(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<(String, i32)>, Trouble> {
        let collection = self.collection(owner, namespace).await?;
        let path = client::api::object_path(&collection, &owner.name, "scale");
        let scale: Value = match self.client.get_path(&path).await {
            Ok(scale) => scale,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(Trouble::Error(error)),
        };
        if scale["metadata"]["uid"] != owner.uid.as_str() {
            return Ok(None);
        }
        let replicas = scale["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        Ok(Some((owner.uid.clone(), replicas)))
    }

    /// Where the owner's kind is, which must have scales.
    async fn collection(&self, owner: &OwnerReference, namespace: &str) -> Result<String, Trouble> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let without = |resource: &str| Trouble::Never(format!("{resource} does not implement the scale subresource"));
        if let Some(kind) = by_kind(group, version, &owner.kind) {
            return match kind.subresource("scale") {
                Some(_) => Ok(kind.path(namespace)),
                None => Err(without(&kind.group_resource())),
            };
        }
        let unknown =
            || Trouble::Never(format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version));
        if group.is_empty() {
            return Err(unknown());
        }
        let served: Value = match self.client.get_path(&format!("/apis/{group}/{version}")).await {
            Ok(served) => served,
            Err(error) if error.is_not_found() => return Err(unknown()),
            Err(error) => return Err(Trouble::Error(error)),
        };
        let named =
            |r: &&Value| r["kind"] == owner.kind.as_str() && r["name"].as_str().is_some_and(|n| !n.contains('/'));
        let resources = || served["resources"].as_array().into_iter().flatten();
        let plural = resources().find(named).and_then(|r| r["name"].as_str()).ok_or_else(unknown)?;
        let scale = format!("{plural}/scale");
        if !resources().any(|r| r["name"] == scale.as_str() && r["kind"] == "Scale") {
            return Err(without(&format!("{plural}.{group}")));
        }
        Ok(client::api::resource_path(group, version, namespace, plural))
    }
}
