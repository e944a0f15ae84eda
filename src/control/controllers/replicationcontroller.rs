//! ReplicationController controller: the ReplicaSet controller, shown each ReplicationController as the ReplicaSet that it
//! would be today.
//!
//! Source: kubernetes `pkg/controller/replication/{replication_controller,conversion}.go`.

use std::sync::Arc;

use client::runner::Seen;
use client::{Cache, Client, Key, Object, Result, Selector};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::replicaset::{self, Family};
use crate::{Context, pods};

const NAME: &str = "replication-controller";

/// As a ReplicaSet.
fn view(rc: &ReplicationController) -> ReplicaSet {
    let spec = rc.spec.as_ref().map(|s| ReplicaSetSpec {
        replicas: s.replicas,
        min_ready_seconds: s.min_ready_seconds,
        selector: LabelSelector { match_labels: s.selector.clone(), match_expressions: None },
        template: s.template.clone(),
    });
    let condition = |c: &ReplicationControllerCondition| ReplicaSetCondition {
        type_: c.type_.clone(),
        status: c.status.clone(),
        reason: c.reason.clone(),
        message: c.message.clone(),
        last_transition_time: c.last_transition_time.clone(),
    };
    let status = rc.status.as_ref().map(|s| ReplicaSetStatus {
        replicas: s.replicas,
        fully_labeled_replicas: s.fully_labeled_replicas,
        ready_replicas: s.ready_replicas,
        available_replicas: s.available_replicas,
        terminating_replicas: None,
        observed_generation: s.observed_generation,
        conditions: s.conditions.as_ref().map(|all| all.iter().map(condition).collect()),
    });
    ReplicaSet { metadata: rc.metadata.clone(), spec, status }
}

/// The status of a view, as a ReplicationController has it.
fn status(s: &ReplicaSetStatus) -> ReplicationControllerStatus {
    let condition = |c: &ReplicaSetCondition| ReplicationControllerCondition {
        type_: c.type_.clone(),
        status: c.status.clone(),
        reason: c.reason.clone(),
        message: c.message.clone(),
        last_transition_time: c.last_transition_time.clone(),
    };
    ReplicationControllerStatus {
        replicas: s.replicas,
        fully_labeled_replicas: s.fully_labeled_replicas,
        ready_replicas: s.ready_replicas,
        available_replicas: s.available_replicas,
        observed_generation: s.observed_generation,
        conditions: s.conditions.as_ref().map(|all| all.iter().map(condition).collect()),
    }
}

struct Controllers {
    client: Client,
    all: Arc<Cache<ReplicationController>>,
}

impl Family for Controllers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> (&'static str, &'static str) {
        ("v1", "ReplicationController")
    }

    fn get(&self, key: &Key) -> Option<Arc<ReplicaSet>> {
        self.all.get(key).map(|rc| Arc::new(view(&rc)))
    }

    /// None: what owns a ReplicationController owns no other beside it.
    fn siblings(&self, _: &ReplicaSet) -> Vec<String> {
        Vec::new()
    }

    fn live<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move { Ok(self.client.get::<ReplicationController>(&key.namespace, &key.name).await?.metadata) }.boxed()
    }

    fn write_status<'a>(&'a self, set: &'a ReplicaSet) -> BoxFuture<'a, Result<Seen>> {
        async move {
            // Its spec is what the cache has: a write of the status leaves it alone.
            let known = self.all.get(&set.key());
            let rc = ReplicationController {
                metadata: set.metadata.clone(),
                spec: known.and_then(|rc| rc.spec.clone()),
                status: set.status.as_ref().map(status),
            };
            let rc = self.client.update_status(&rc).await?;
            Ok(Box::pin(self.all.reached(rc.revision())) as Seen)
        }
        .boxed()
    }
}

/// Starts the controller on the shared caches.
pub fn start(context: &Context) {
    let client = context.client(NAME);
    let all = context.informers.cache::<ReplicationController>(Selector::all());
    let (pods, queue) = (context.pods(), context.queue());
    let dirty = Arc::clone(&queue);
    all.on_change(Box::new(move |old, new| {
        if let Some(rc) = new.or(old) {
            dirty.add(rc.key());
        }
    }));
    let (dirty, takers) = (Arc::clone(&queue), Arc::clone(&all));
    pods.on_change(Box::new(move |old, new| {
        pods::wake(&dirty, "ReplicationController", old, new, &|pod| selecting(&takers, pod));
    }));
    replicaset::run(context, Box::new(Controllers { client: client.clone(), all }), client, queue);
}

/// Who selects a pod with this metadata.
fn selecting(all: &Cache<ReplicationController>, pod: &ObjectMeta) -> Vec<Key> {
    let finds = |rc: &Arc<ReplicationController>| {
        let selector = rc.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
        let label = |key: &String| pod.labels.as_ref().and_then(|l| l.get(key));
        selector.is_some_and(|s| s.iter().all(|(k, v)| label(k) == Some(v)))
    };
    let all = all.in_namespace(pod.namespace.as_deref().unwrap_or_default());
    all.iter().filter(|rc| finds(rc)).map(|rc| rc.key()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::harness::{Cluster, Kubelet};
    use client::DeleteParams;
    use k8s_openapi::api::core::v1::{Event, Pod};
    use serde_json::{Value, json};

    fn plain(replicas: i32) -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": replicas, "selector": {"app": "web"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn a_view_and_back_loses_nothing() {
        let mut rc = plain(3);
        rc["spec"]["minReadySeconds"] = json!(5);
        rc["status"] = json!({"replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1,
            "observedGeneration": 4, "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                "message": "no", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let rc: ReplicationController = serde_json::from_value(rc).unwrap();
        let set = view(&rc);
        let spec = set.spec.as_ref().unwrap();
        assert_eq!((spec.replicas, spec.min_ready_seconds), (Some(3), Some(5)));
        assert_eq!(spec.selector.match_labels, rc.spec.as_ref().unwrap().selector);
        assert_eq!(spec.template, rc.spec.as_ref().unwrap().template);
        assert_eq!(set.status.as_ref().map(status), rc.status);
    }

    fn available(n: i32) -> impl Fn(&[Arc<ReplicationController>]) -> bool {
        move |all| {
            let status = all.first().and_then(|rc| rc.status.clone()).unwrap_or_default();
            status.replicas == n && status.available_replicas.unwrap_or(0) == n
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_kept_adopted_and_let_go_and_then_there_is_rest() {
        let c = Cluster::start(Kubelet::Works).await;
        let orphan = json!({"metadata": {"name": "lonely", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c"}]}});
        c.create::<Pod>(orphan).await;
        c.create::<ReplicationController>(plain(3)).await;
        c.until("three", available(3)).await;
        let pods = c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items;
        assert!(pods.iter().any(|p| p.name() == "lonely"));
        for pod in &pods {
            let owner = pod.controller_owner().unwrap();
            assert_eq!((owner.api_version.as_str(), owner.kind.as_str()), ("v1", "ReplicationController"));
        }
        c.patch::<Pod>("lonely", json!({"metadata": {"labels": {"app": "other"}}})).await;
        c.until::<Pod>("let go and replaced", |all| {
            all.len() == 4 && all.iter().any(|p| p.name() == "lonely" && p.controller_owner().is_none())
        })
        .await;
        let one = pods.iter().find(|p| p.name() != "lonely").unwrap();
        c.client.delete::<Pod>("shop", one.name(), &DeleteParams::default()).await.unwrap();
        let gone = one.uid().to_owned();
        c.until::<Pod>("replaced", move |all| all.len() == 4 && all.iter().all(|p| p.uid() != gone)).await;
        c.patch::<ReplicationController>("web", json!({"spec": {"replicas": 1}})).await;
        c.until("one", available(1)).await;
        assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
        c.until::<Event>("told", |all| {
            let about = |e: &Arc<Event>| e.involved_object.kind.as_deref() == Some("ReplicationController");
            all.iter().any(|e| about(e) && e.reason.as_deref() == Some("SuccessfulCreate"))
        })
        .await;
        c.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_said_in_the_status() {
        let c = Cluster::start(Kubelet::Works).await;
        c.fake.set_fault(Some(Box::new(|method, path, _| {
            let create = method == "POST" && path.ends_with("/pods");
            create.then(|| types::status::Status::new(types::status::Reason::Forbidden, "exceeded quota"))
        })));
        c.create::<ReplicationController>(plain(2)).await;
        let failed = |all: &[Arc<ReplicationController>]| {
            all.first().is_some_and(|rc| rc.status.as_ref().is_some_and(|s| s.conditions.is_some()))
        };
        c.until("ReplicaFailure", failed).await;
        c.fake.set_fault(None);
        c.until("healed", available(2)).await;
        c.until("condition gone", move |all| !failed(all)).await;
        c.stop().await;
    }
}
