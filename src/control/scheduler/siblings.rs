//! Who is of the same workload or service as a pod: over whom it is spread when it has no constraints of its own.
//!
//! Source: `pkg/scheduler/framework/plugins/helper/spread.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Informers, Key, Object as _, Selector};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use types::selector::LabelSelector;

use crate::pods;

pub struct Siblings {
    services: Arc<Cache<Service>>,
    sets: Arc<Cache<ReplicaSet>>,
}

impl Siblings {
    pub fn new(informers: &Informers) -> Self {
        Self { services: informers.cache(Selector::all()), sets: informers.cache(Selector::all()) }
    }

    pub async fn synced(&self) {
        self.services.synced().await;
        self.sets.synced().await;
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
        if let Some(owner) = pod.controller_owner()
            && (owner.api_version.as_str(), owner.kind.as_str()) == ("apps/v1", "ReplicaSet")
            && let Some(set) = self.sets.get(&Key::new(pod.namespace(), &owner.name))
            && let Some(selector) = set.spec.as_ref().and_then(|s| pods::matcher(&s.selector))
        {
            all.requirements.extend(selector.requirements);
        }
        (!all.is_empty()).then_some(all)
    }
}
