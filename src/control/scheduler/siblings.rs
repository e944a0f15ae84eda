//! Who is of the same workload or service as a pod: over whom it is spread when it has no constraints of its own.
//!
//! Source: `pkg/scheduler/framework/plugins/helper/spread.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Informers, Key, Object as _, Selector};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use types::selector::LabelSelector;

use crate::pods;

pub struct Siblings {
    services: Arc<Cache<Service>>,
    sets: Arc<Cache<ReplicaSet>>,
    stateful: Arc<Cache<StatefulSet>>,
    controllers: Arc<Cache<ReplicationController>>,
}

impl Siblings {
    pub fn new(informers: &Informers) -> Self {
        Self {
            services: informers.cache(Selector::all()),
            sets: informers.cache(Selector::all()),
            stateful: informers.cache(Selector::all()),
            controllers: informers.cache(Selector::all()),
        }
    }

    pub async fn synced(&self) {
        self.services.synced().await;
        self.sets.synced().await;
        self.stateful.synced().await;
        self.controllers.synced().await;
    }

    /// What selects them; `None`: nothing does.
    pub fn of(&self, pod: &Pod) -> Option<LabelSelector> {
        let mut shared: BTreeMap<String, String> = BTreeMap::new();
        for service in self.services.in_namespace(pod.namespace()) {
            let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
            if let Some(selector) = selector.filter(|s| s.iter().all(|(k, v)| pod.label(k) == Some(v))) {
                shared.extend(selector.clone());
            }
        }
        let mut all = LabelSelector::equal(&shared);
        if let Some(selector) = pod.controller_owner().and_then(|o| self.of_workload(pod.namespace(), o)) {
            all.requirements.extend(selector.requirements);
        }
        (!all.is_empty()).then_some(all)
    }

    fn of_workload(&self, namespace: &str, owner: &OwnerReference) -> Option<LabelSelector> {
        let key = Key::new(namespace, &owner.name);
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => pods::matcher(&self.sets.get(&key)?.spec.as_ref()?.selector),
            ("apps/v1", "StatefulSet") => pods::matcher(&self.stateful.get(&key)?.spec.as_ref()?.selector),
            ("v1", "ReplicationController") => {
                Some(LabelSelector::equal(self.controllers.get(&key)?.spec.as_ref()?.selector.as_ref()?))
            }
            _ => None,
        }
    }
}
