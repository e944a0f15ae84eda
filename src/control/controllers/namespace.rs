//! Namespace controller. Empties a namespace that is being deleted, kind by kind, then lets it go.
//!
//! Pods go first; other kinds follow when no pod is left, so that nothing a pod uses disappears under it. What hinders is
//! written into the namespace's conditions. Custom kinds are emptied like all others: the definitions that make them are
//! followed in a cache, which a sweep first lets catch up with the API. So are those of aggregated servers, which a sweep asks
//! for them. While objects remain, the kinds that they are of are watched in the namespace, and each that goes brings the key
//! again; after what failed it comes again with a growing delay.
//!
//! Source: kubernetes `pkg/controller/namespace/deletion/{namespaced_resources_deleter,status_condition_utils}.go`, KEP-5080.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::aggregated::{Registration, Resources};
use client::definition::Definition;
use client::runner::{Controller, Plan, Seen};
use client::watch::EventType;
use client::{Cache, Client, DeleteParams, Key, ListParams, Object, Propagation, Result, Revision, Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::Resource as _;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde::Deserialize;
use types::registry::{BUILT_IN, Kind, Verb};

use crate::Context;
use crate::watches::Watches;

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
/// Namespaces emptied at once; upstream's `--concurrent-namespace-syncs` is 10, for clusters of thousands.
const WORKERS: usize = 4;
/// After a sweep that failed: the first wait and the longest. Nobody says when a webhook or a server stops refusing.
const AGAIN_MIN: SignedDuration = SignedDuration::from_secs(2);
const AGAIN_MAX: SignedDuration = SignedDuration::from_secs(300);
/// Longest wait for the cache of definitions; it is a few milliseconds behind. Then the sweep is an error, and comes again.
const DEFINITIONS_WAIT: Duration = Duration::from_secs(5);

/// What is left in a namespace, as the last sweep found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// Objects per kind, as `pods.` or `widgets.example.com`.
    pub objects: BTreeMap<String, usize>,
    /// Objects per finalizer.
    pub finalizers: BTreeMap<String, usize>,
    pub errors: Vec<String>,
    /// Groups and versions whose resources are not known: their servers do not answer.
    pub unknown: Vec<String>,
}

impl Remains {
    /// Nothing is left, as far as anybody can know.
    fn is_nothing(&self) -> bool {
        self.objects.is_empty() && self.errors.is_empty() && self.unknown.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Deletes what may go now: pods while there are any, then everything; remembers what remains.
    Sweep,
    Status(Box<Namespace>),
    /// Removes our finalizer, after which the API removes the namespace.
    Release(Box<Namespace>),
}

pub struct Observed<'a> {
    pub namespace: &'a Namespace,
    /// None: not swept yet.
    pub remains: Option<&'a Remains>,
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let namespace = observed.namespace;
    let ours =
        namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| f.iter().any(|f| f == FINALIZER));
    if !namespace.is_terminating() || !ours {
        return plan;
    }
    let Some(remains) = observed.remains else {
        plan.push(Action::Sweep, "being deleted");
        // What it finds is looked at right after.
        plan.again_at(now);
        return plan;
    };
    let status = status(namespace, remains, now);
    if namespace.status.as_ref() != Some(&status) {
        let mut new = namespace.clone();
        new.status = Some(status);
        plan.push(Action::Status(Box::new(new)), "what remains has changed");
        return plan;
    }
    if remains.is_nothing() {
        let mut new = namespace.clone();
        if let Some(finalizers) = new.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        plan.push(Action::Release(Box::new(new)), "nothing is left in it");
    }
    plan
}

const REMAINING: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";
const FAILURE: &str = "NamespaceDeletionContentFailure";

fn status(namespace: &Namespace, remains: &Remains, now: Timestamp) -> NamespaceStatus {
    let counted = |counts: &BTreeMap<String, usize>, text: fn(&str, usize) -> String| {
        counts.iter().map(|(k, n)| text(k, *n)).collect::<Vec<_>>().join(", ")
    };
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!remains.unknown.is_empty()).then(|| {
                let stale = |gv: &String| format!("{gv}: stale GroupVersion discovery: {gv}");
                let text = format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                    remains.unknown.len(),
                    remains.unknown.iter().map(stale).collect::<Vec<_>>().join(", ")
                );
                ("DiscoveryFailed", text)
            }),
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            FAILURE,
            (!remains.errors.is_empty()).then(|| {
                let text = format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    remains.errors.len(),
                    remains.errors.join(", ")
                );
                ("ContentDeletionFailed", text)
            }),
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            REMAINING,
            (!remains.objects.is_empty()).then(|| {
                let list = counted(&remains.objects, |k, n| format!("{k} has {n} resource instances"));
                ("SomeResourcesRemain", format!("Some resources are remaining: {list}"))
            }),
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            FINALIZERS,
            (!remains.finalizers.is_empty()).then(|| {
                let list = counted(&remains.finalizers, |k, n| format!("{k} in {n} resource instances"));
                ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {list}"))
            }),
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let mut status = namespace.status.clone().unwrap_or_default();
    status.phase = Some("Terminating".into());
    let conditions = status.conditions.get_or_insert_default();
    for (kind, bad, reason, text) in wanted {
        let (state, reason, text) = match bad {
            Some((reason, text)) => ("True", reason, text),
            None => ("False", reason, text.to_owned()),
        };
        let new = NamespaceCondition {
            type_: kind.into(),
            status: state.into(),
            reason: Some(reason.into()),
            message: Some(text),
            last_transition_time: Some(Time(crate::pods::whole_second(now))),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {}
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
    status
}

struct Namespaces {
    client: Client,
    namespaces: Arc<Cache<Namespace>>,
    definitions: Arc<Cache<Definition>>,
    registrations: Arc<Cache<Registration>>,
    /// What the last sweep of each terminating namespace found, by uid.
    remains: Mutex<BTreeMap<String, Remains>>,
    /// How long to wait after the next sweep that fails, of those whose last one did.
    waits: Mutex<BTreeMap<Key, SignedDuration>>,
    watches: Watches,
}

pub fn start(context: &Context) {
    let namespaces = context.informers.cache::<Namespace>(Selector::all());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    namespaces.on_change(Box::new(move |old, new| {
        if let Some(n) = new.or(old).filter(|n| n.is_terminating()) {
            dirty.add(n.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&namespaces));
    context.pods().on_change(Box::new(move |old, new| {
        if let (Some(pod), None) = (old, new) {
            let key = Key::cluster(pod.namespace());
            if all.get(&key).is_some_and(|n| n.is_terminating()) {
                dirty.add(key);
            }
        }
    }));
    let remains = Mutex::new(BTreeMap::new());
    let (definitions, registrations) = (context.informers.definitions(), context.informers.registrations());
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&namespaces));
    registrations.on_change(Box::new(move |old, new| {
        // A server that is back, or not waited for any more, says what is left of a namespace.
        let said = |r: Option<&Arc<Registration>>| r.filter(|r| r.is_remote()).map(|r| r.is_available());
        if said(old) != said(new) {
            all.all().iter().filter(|n| n.is_terminating()).for_each(|n| dirty.add(n.key()));
        }
    }));
    let client = context.client(NAME);
    let dirty = Arc::clone(&queue);
    let mark = Arc::new(move |namespace: &str| dirty.add(Key::cluster(namespace)));
    let watches = Watches::new(context, client.clone(), |_, event| event == EventType::Deleted, mark);
    let waits = Mutex::default();
    context.run(Namespaces { client, namespaces, definitions, registrations, remains, waits, watches }, queue, WORKERS);
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: PartialMeta,
}
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PartialMeta {
    name: String,
    finalizers: Option<BTreeSet<String>>,
    resource_version: String,
}

impl Namespaces {
    /// Deletes the objects of one kind and counts those that stay.
    async fn empty(&self, kind: &Kind, namespace: &str, remains: &mut Remains) {
        let path = kind.path(namespace);
        let name = format!("{}.{}", kind.plural, kind.group);
        if kind.allows(Verb::DeleteCollection) {
            let params = DeleteParams::default().propagation(Propagation::Background);
            if let Err(error) = self.client.delete_path(&path, &params).await
                && !error.is_not_found()
            {
                remains.errors.push(format!("{name}: {error}"));
            }
        }
        let mut listed = self.client.list_metadata::<Partial>(&path, &ListParams::default()).await;
        if !kind.allows(Verb::DeleteCollection)
            && let Ok(list) = &mut listed
        {
            // One after the other, and each is counted until it is gone.
            for item in &list.items {
                let params = DeleteParams::default().propagation(Propagation::Background);
                if let Err(error) = self.client.delete_path(&format!("{path}/{}", item.metadata.name), &params).await
                    && !error.is_not_found()
                {
                    remains.errors.push(format!("{name}: {error}"));
                }
            }
        }
        match listed {
            Ok(list) if list.items.is_empty() => {}
            Ok(list) => {
                for finalizer in list.items.iter().filter_map(|i| i.metadata.finalizers.as_ref()).flatten() {
                    *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
                remains.objects.insert(name, list.items.len());
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => remains.errors.push(format!("{name}: {error}")),
        }
    }

    /// The custom kinds that there are now: one that was defined just before the namespace's end may have objects in it.
    async fn custom_kinds(&self) -> Result<Vec<Kind>, String> {
        let path = client::api::collection_path::<Definition>("");
        let listed = self.client.list_metadata::<Partial>(&path, &ListParams::default()).await;
        let listed = listed.map_err(|error| error.to_string())?.items;
        if let Some(newest) = listed.iter().map(|d| Revision::parse(&d.metadata.resource_version)).max() {
            let reached = tokio::time::timeout(DEFINITIONS_WAIT, self.definitions.reached(newest)).await;
            reached.map_err(|_| "the definitions of custom resources are not known yet".to_owned())?;
        }
        let kinds = self.definitions.all().into_iter().filter_map(|definition| definition.kind());
        Ok(kinds.filter(Kind::namespaced).collect())
    }

    /// The kinds of aggregated servers. Those of one that does not answer are unknown, and the namespace waits for it.
    async fn aggregated_kinds(&self, remains: &mut Remains) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for registration in self.registrations.all().into_iter().filter(|r| r.is_remote()) {
            let (group, version) = (&*registration.spec.group, &*registration.spec.version);
            match self.client.get_path::<Resources>(&registration.path()).await {
                Ok(resources) => kinds.extend(resources.kinds(group, version)),
                // It was taken back just now.
                Err(error) if error.is_not_found() => {}
                Err(_) => remains.unknown.push(registration.group_version()),
            }
        }
        kinds.retain(|kind| kind.namespaced() && kind.allows(Verb::List) && kind.allows(Verb::Delete));
        kinds
    }

    async fn sweep(&self, namespace: &str) -> Remains {
        let mut remains = Remains::default();
        let kinds = || {
            BUILT_IN.iter().filter(|k| k.keeps() && k.namespaced() && k.allows(Verb::List) && k.allows(Verb::Delete))
        };
        for kind in kinds().filter(|k| k.kind == Pod::KIND) {
            self.empty(kind, namespace, &mut remains).await;
        }
        if !remains.objects.is_empty() {
            let count: usize = remains.objects.values().sum();
            // As upstream has it: pods that stay are a failure to delete, which the suite looks for.
            remains.errors.push(format!(
                "unexpected items still remain in namespace: {namespace} for gvr: /v1, Resource=pods ({count})"
            ));
            return remains;
        }
        for kind in kinds().filter(|k| k.kind != Pod::KIND) {
            self.empty(kind, namespace, &mut remains).await;
        }
        match self.custom_kinds().await {
            Ok(kinds) => {
                for kind in &kinds {
                    self.empty(kind, namespace, &mut remains).await;
                }
            }
            Err(why) => remains.errors.push(why),
        }
        for kind in self.aggregated_kinds(&mut remains).await {
            self.empty(&kind, namespace, &mut remains).await;
        }
        remains
    }
}

impl Controller for Namespaces {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(namespace) = self.namespaces.get(key) else {
            self.watches.follow(&key.name, &BTreeSet::new());
            self.waits.lock().remove(key);
            return Plan::nothing();
        };
        let mut remains = self.remains.lock();
        let last = remains.remove(namespace.uid());
        let mut plan = plan(&Observed { namespace: &namespace, remains: last.as_ref() }, now);
        // A finding is good for the plan that reports it; the one after looks again.
        if let Some(last) = last {
            let reported = plan.actions.iter().any(|a| matches!(a, Action::Status(_)));
            let failed = !last.errors.is_empty() || !last.unknown.is_empty();
            if reported && last.objects.is_empty() && !failed {
                remains.insert(namespace.uid().to_owned(), last);
            }
            let mut waits = self.waits.lock();
            if failed {
                let wait = waits.get(key).copied().unwrap_or(AGAIN_MIN);
                plan.again_at(now + wait);
                waits.insert(key.clone(), (wait * 2).min(AGAIN_MAX));
            } else {
                waits.remove(key);
            }
        }
        plan
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let outcome = match action {
            Action::Sweep => {
                let Some(namespace) = self.namespaces.get(key) else { return Ok(vec![]) };
                let remains = self.sweep(&key.name).await;
                let split = |name: &String| name.split_once('.').map(|(plural, group)| (group.into(), plural.into()));
                let mut kinds: BTreeSet<_> = remains.objects.keys().filter_map(split).collect();
                // Pods come from the shared cache.
                kinds.remove(&(String::new(), "pods".to_owned()));
                self.watches.follow(&key.name, &kinds);
                self.remains.lock().insert(namespace.uid().to_owned(), remains);
                return Ok(vec![]);
            }
            Action::Status(namespace) => self.client.update_status(&*namespace).await,
            Action::Release(namespace) => self.client.update_sub(&*namespace, "finalize").await,
        };
        match outcome {
            Ok(namespace) => Ok(vec![Box::pin(self.namespaces.reached(namespace.revision()))]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}
