//! ResourceClaims of pods. A pod that names a template gets a claim of its own, which its status names; a pod that came to its
//! node without the scheduler is put down as a user of its claims once they are allocated.
//!
//! What takes users off again, and gives devices back, is in [`release`].
//!
//! Source: kubernetes `pkg/controller/resourceclaim/controller.go` (syncPod, handleClaim).

use std::sync::Arc;

use client::devices::{Claim, Consumer, POD_CLAIM, Template};
use client::object::controller_of;
use client::queue::Queue;
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Key, Object as _, Patch, Recorder, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::claims::{self, Named, POD_BY_DEVICES};
use crate::failures::{Failure, Failures};
use crate::{Context, pods};

pub mod release;

pub const NAME: &str = "resource-claim-controller";
/// As events call it.
const COMPONENT: &str = "resource_claim";
/// Pods worked on at once. Source: `DynamicResourceAllocation` workers of the controller manager's defaults.
const WORKERS: usize = 10;
/// Index of the pod cache: by the templates that a pod names.
const POD_BY_TEMPLATE: &str = "devices of template";
/// Index of the claim cache: by the uid of the pod that manages a claim.
const BY_OWNER: &str = "pod";
/// What a name may have before the random end that the API server gives it.
const BASE_BYTES_MAX: usize = 57;
const FAILED: &str = "FailedResourceClaimCreation";

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// For the entry of that name.
    Create { entry: String, claim: Value },
    /// Says in the pod's status which claims are its own.
    Name { statuses: Value },
    /// Puts the pod down as a user.
    Reserve { claim: String, revision: Option<String>, consumers: Vec<Consumer> },
    /// There can be no claim for now.
    Tell { message: String },
}

/// What there is besides the pod.
pub struct Observed<'a> {
    pub claim: &'a dyn Fn(&str) -> Option<Arc<Claim>>,
    /// Claims whose manager is the pod.
    pub own: &'a [Arc<Claim>],
    pub template: &'a dyn Fn(&str) -> Option<Arc<Template>>,
}

pub fn plan(pod: &Pod, observed: &Observed<'_>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if pod.is_terminating() {
        return plan;
    }
    let mut found: Vec<(&str, String)> = Vec::new();
    for entry in claims::entries(pod) {
        let Some(template) = missing(pod, entry, observed) else { continue };
        let made = observed.own.iter().find(|c| c.annotation(POD_CLAIM) == Some(&entry.name));
        if let Some(made) = made {
            found.push((&entry.name, made.name().to_owned()));
            continue;
        }
        let Some(template) = (observed.template)(template) else {
            let message = format!(
                "PodResourceClaim {}: resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} \
                 not found",
                entry.name
            );
            plan.push(Action::Tell { message }, "its template is missing");
            continue;
        };
        let claim = from_template(pod, &entry.name, &template);
        plan.push(Action::Create { entry: entry.name.clone(), claim }, "its claim is missing");
    }
    if !found.is_empty() {
        plan.push(Action::Name { statuses: statuses(pod, &found) }, "its status does not name its claims");
    }
    if !pods::node_name(pod).is_empty() {
        reserve(pod, observed, &mut plan);
    }
    plan
}

/// The template of an entry whose claim is not there.
fn missing<'p>(pod: &Pod, entry: &'p PodResourceClaim, observed: &Observed<'_>) -> Option<&'p str> {
    let template = entry.resource_claim_template_name.as_deref().filter(|_| entry.resource_claim_name.is_none())?;
    match claims::named(pod, entry) {
        Ok(Named::Unneeded) => None,
        Ok(Named::Is { name, .. }) => {
            let there = (observed.claim)(name).is_some_and(|claim| claims::is_for_pod(pod, &claim).is_ok());
            (!there).then_some(template)
        }
        Err(_) => Some(template),
    }
}

fn from_template(pod: &Pod, entry: &str, template: &Template) -> Value {
    let meta = &template.spec.metadata;
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.insert(POD_CLAIM.into(), entry.into());
    let owner = OwnerReference { block_owner_deletion: None, ..pods::controller_reference(pod) };
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {
            "generateName": base(pod.name(), entry), "namespace": pod.namespace(),
            "ownerReferences": [owner], "annotations": annotations, "labels": meta.labels,
        },
        "spec": template.spec.spec,
    })
}

/// `<pod>-<entry>-`, each shortened in proportion when that is too long. Both are ASCII.
fn base(pod: &str, entry: &str) -> String {
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= BASE_BYTES_MAX {
        return whole;
    }
    let cut = |text: &str, of: usize| text.get(..text.len() * BASE_BYTES_MAX / of).unwrap_or(text).to_owned();
    let pod = cut(pod, whole.len());
    format!("{pod}-{}", cut(entry, whole.len()))
}

/// All of the list, with what was found.
fn statuses(pod: &Pod, found: &[(&str, String)]) -> Value {
    let known = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let known = known.filter(|s| found.iter().all(|(entry, _)| *entry != s.name));
    let known = known.map(|s| json!({"name": s.name, "resourceClaimName": s.resource_claim_name}));
    let found = found.iter().map(|(entry, claim)| json!({"name": entry, "resourceClaimName": claim}));
    known.chain(found).collect()
}

fn reserve(pod: &Pod, observed: &Observed<'_>, plan: &mut Plan<Action>) {
    for entry in claims::entries(pod) {
        let Ok(Named::Is { name, own }) = claims::named(pod, entry) else { continue };
        let Some(claim) = (observed.claim)(name) else { continue };
        if own && claims::is_for_pod(pod, &claim).is_err()
            || claim.status.allocation.is_none()
            || claims::is_reserved_for(pod, &claim)
            || claims::is_done(pod)
        {
            continue;
        }
        let mut consumers = claim.status.reserved_for.clone();
        consumers.push(claims::consumer(pod));
        let revision = claim.metadata.resource_version.clone();
        plan.push(Action::Reserve { claim: name.to_owned(), revision, consumers }, "it is bound and uses the claim");
    }
}

struct Maker {
    client: Client,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<Claim>>,
    templates: Arc<Cache<Template>>,
    told: Failures,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let claims = context.informers.cache::<Claim>(Selector::all());
    let templates = context.informers.cache::<Template>(Selector::all());
    let (pods, queue) = (context.pods(), context.queue());
    pods.add_index(POD_BY_DEVICES, |pod| claims::keys(pod).map(|key| key.to_string()).collect());
    pods.add_index(POD_BY_TEMPLATE, |pod| {
        let names = claims::entries(pod).iter().filter_map(|e| e.resource_claim_template_name.as_deref());
        names.map(|name| Key::new(pod.namespace(), name).to_string()).collect()
    });
    claims.add_index(BY_OWNER, |claim| owner(claim).into_iter().map(|owner| owner.uid.clone()).collect());
    let dirty = Arc::clone(&queue);
    pods.on_change(Box::new(move |_, new| {
        new.into_iter().filter(|pod| !claims::entries(pod).is_empty()).for_each(|pod| dirty.add(pod.key()));
    }));
    let (dirty, users) = (Arc::clone(&queue), Arc::clone(&pods));
    claims.on_change(Box::new(move |old, new| {
        let Some(claim) = new.or(old) else { return };
        users.indexed(POD_BY_DEVICES, &claim.key().to_string()).iter().for_each(|pod| dirty.add(pod.key()));
        if let Some(owner) = owner(claim) {
            dirty.add(Key::new(claim.namespace(), &owner.name));
        }
    }));
    let (dirty, users): (Arc<Queue>, _) = (Arc::clone(&queue), Arc::clone(&pods));
    templates.on_change(Box::new(move |_, new| {
        if let Some(template) = new {
            users.indexed(POD_BY_TEMPLATE, &template.key().to_string()).iter().for_each(|pod| dirty.add(pod.key()));
        }
    }));
    let recorder = context.recorder(&client, COMPONENT);
    let maker = Maker { client, recorder, pods, claims, templates, told: Failures::default() };
    context.run(maker, queue, WORKERS);
}

/// The pod that manages a claim.
fn owner(claim: &Claim) -> Option<&OwnerReference> {
    controller_of(&claim.metadata).filter(|owner| owner.api_version == "v1" && owner.kind == "Pod")
}

impl Maker {
    fn tell(&self, key: &Key, message: String) {
        if let Some(pod) = self.pods.get(key)
            && self.told.is_new(pod.uid(), Failure { reason: FAILED, message: message.clone() })
        {
            self.recorder.warning(&*pod, FAILED, message);
        }
    }
}

impl Controller for Maker {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let Some(pod) = self.pods.get(key) else { return Plan::nothing() };
        let observed = Observed {
            claim: &|name| self.claims.get(&Key::new(&key.namespace, name)),
            own: &self.claims.indexed(BY_OWNER, pod.uid()),
            template: &|name| self.templates.get(&Key::new(&key.namespace, name)),
        };
        let plan = plan(&pod, &observed);
        if plan.actions.is_empty() {
            self.told.clear(pod.uid());
        }
        plan
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Tell { message } => {
                self.tell(key, message);
                Ok(vec![])
            }
            Action::Create { entry, claim } => {
                let path = client::api::collection_path::<Claim>(&key.namespace);
                match self.client.create_path::<Claim>(&path, &claim, &Default::default()).await {
                    Ok(made) => Ok(vec![Box::pin(self.claims.reached(made.revision()))]),
                    Err(error) if error.is_namespace_terminating() => Ok(vec![]),
                    Err(error) => {
                        self.tell(key, format!("PodResourceClaim {entry}: create ResourceClaim : {error}"));
                        Err(error)
                    }
                }
            }
            Action::Name { statuses } => {
                let patch = json!({"status": {"resourceClaimStatuses": statuses}});
                let patched: Result<Pod> =
                    self.client.patch_status(&key.namespace, &key.name, Patch::Strategic(&patch)).await;
                gone_is_well(patched.map(|pod| vec![Box::pin(self.pods.reached(pod.revision())) as Seen]))
            }
            Action::Reserve { claim, revision, consumers } => {
                let patch = json!({"metadata": {"resourceVersion": revision}, "status": {"reservedFor": consumers}});
                let patched: Result<Claim> =
                    self.client.patch_status(&key.namespace, &claim, Patch::Merge(&patch)).await;
                gone_is_well(patched.map(|claim| vec![Box::pin(self.claims.reached(claim.revision())) as Seen]))
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
#[path = "resource_claim_tests.rs"]
mod tests;
