//! Ephemeral volumes. A pod's volume with a claim template has a claim of its own, which goes with the pod.
//!
//! Source: kubernetes `pkg/controller/volume/ephemeral/controller.go`.

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Key, Object, Recorder, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::storage::{POD_BY_CLAIM, claim_of, is_for_pod};
use crate::{Context, pods};

const NAME: &str = "ephemeral-volume-controller";
/// As events call it.
const COMPONENT: &str = "ephemeral_volume";
/// Pods worked on at once; the work is one create for each volume.
const WORKERS: usize = 2;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create {
        volume: String,
        claim: Box<PersistentVolumeClaim>,
    },
    /// A claim of that name is somebody else's; nothing can be done until it goes.
    Tell {
        message: String,
    },
}

/// `claim`: the claims of the pod's namespace, by name.
pub fn plan(pod: &Pod, claim: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if pod.is_terminating() {
        return plan;
    }
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some((name, true)) = claim_of(pod, volume) else { continue };
        if let Some(there) = claim(&name) {
            if let Err(why) = is_for_pod(pod, &there) {
                plan.push(Action::Tell { message: format!("ephemeral volume {}: {why}", volume.name) }, why);
                return plan;
            }
            continue;
        }
        let Some(template) = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref()) else { continue };
        let given = template.metadata.clone().unwrap_or_default();
        let metadata = ObjectMeta {
            name: Some(name.into_owned()),
            namespace: Some(pod.namespace().into()),
            owner_references: Some(vec![pods::controller_reference(pod)]),
            annotations: given.annotations,
            labels: given.labels,
            ..ObjectMeta::default()
        };
        let made = PersistentVolumeClaim { metadata, spec: Some(template.spec.clone()), status: None };
        plan.push(Action::Create { volume: volume.name.clone(), claim: Box::new(made) }, "its claim is missing");
    }
    plan
}

struct Ephemeral {
    client: Client,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let claims = context.informers.cache::<PersistentVolumeClaim>(Selector::all());
    let (pods, queue) = (context.pods(), context.queue());
    let dirty = Arc::clone(&queue);
    pods.on_change(Box::new(move |old, new| {
        if let (None, Some(pod)) = (old, new)
            && is_concerned(pod)
        {
            dirty.add(pod.key());
        }
    }));
    let (dirty, users) = (Arc::clone(&queue), Arc::clone(&pods));
    claims.on_change(Box::new(move |old, new| {
        if let (Some(claim), None) = (old, new) {
            let users = users.indexed(POD_BY_CLAIM, &claim.key().to_string());
            users.iter().filter(|pod| is_concerned(pod)).for_each(|pod| dirty.add(pod.key()));
        }
    }));
    let recorder = context.recorder(&client, COMPONENT);
    context.run(Ephemeral { client, recorder, pods, claims }, queue, WORKERS);
}

fn is_concerned(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| v.ephemeral.is_some())
}

impl Controller for Ephemeral {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let Some(pod) = self.pods.get(key) else { return Plan::nothing() };
        plan(&pod, |name| self.claims.get(&Key::new(&key.namespace, name)))
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let tell = |message: String| {
            if let Some(pod) = self.pods.get(key) {
                self.recorder.warning(&*pod, "FailedBinding", message);
            }
        };
        match action {
            Action::Tell { message } => {
                tell(message);
                Ok(vec![])
            }
            Action::Create { volume, claim } => match self.client.create(&*claim).await {
                Ok(made) => Ok(vec![Box::pin(self.claims.reached(made.revision()))]),
                Err(error) if error.is_namespace_terminating() => Ok(vec![]),
                Err(error) => {
                    tell(format!("ephemeral volume {volume}: create PVC {}: {error}", claim.name()));
                    Err(error)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [],
            "volumes": [{"name": "plain", "emptyDir": {}}, {"name": "own", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn each_template_has_its_claim() {
        let made = plan(&pod(), |_| None);
        let [Action::Create { volume, claim }] = made.actions.as_slice() else { panic!("{made:?}") };
        assert_eq!((volume.as_str(), claim.name(), claim.label("a")), ("own", "p-own", Some("b")));
        assert_eq!(claim.spec.as_ref().unwrap().access_modes.as_ref().unwrap(), &["ReadWriteOnce"]);
        let claim = Arc::new((**claim).clone());
        assert!(plan(&pod(), |name| (name == "p-own").then(|| Arc::clone(&claim))).actions.is_empty(), "planned again");
        let mut foreign = (*claim).clone();
        foreign.metadata.owner_references = None;
        let foreign = Arc::new(foreign);
        let message = "ephemeral volume own: PVC d/p-own was not created for pod d/p (pod is not owner)".to_owned();
        assert_eq!(plan(&pod(), |_| Some(Arc::clone(&foreign))).actions, [Action::Tell { message }]);
        let mut going = pod();
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        assert!(plan(&going, |_| None).actions.is_empty(), "deleted");
    }
}
