//! Keeps an APIService for every group and version that a CustomResourceDefinition makes, and takes back those whose reason is
//! gone. Those of the built-in groups are written when the server starts (`hooks::apiregistration::built_in`).
//!
//! An object that somebody has taken over, by removing the label, is left alone.
//!
//! Source: kube-aggregator `pkg/controllers/autoregister/autoregister_controller.go`,
//! `pkg/controlplane/controller/crdregistration/crdregistration_controller.go`.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Weak};

use http::Method;
use serde_json::{Value, json};
use store::{Event, View};
use tokio::time::Instant;
use types::registry::{DEFAULT_GROUP_PRIORITY, DEFAULT_VERSION_PRIORITY, GROUP_VERSIONS};
use types::status::{Reason, Status};

use super::registration::{self, STORE_PREFIX};
use crate::custom::{self, Definition, Served};
use crate::follow::Step as InStep;
use crate::hooks::apiregistration::AUTOMANAGED;
use crate::hooks::json::{get, text};
use crate::retry::Retries;
use crate::server::{ApiServer, Shared};
use crate::verbs::start;

const COLLECTION: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create,
    Update,
    Delete,
}

/// What to do about one object. `at_start`: it was there when the server started.
fn step(current: Option<&Value>, wanted: Option<&Value>, at_start: bool) -> Step {
    let Some(current) = current else { return if wanted.is_some() { Step::Create } else { Step::Nothing } };
    match (text(get(get(current, "metadata"), "labels"), AUTOMANAGED), wanted) {
        ("true", None) => Step::Delete,
        // An earlier version served a group that this one does not.
        ("onstart", None) if at_start => Step::Delete,
        ("true", Some(spec)) if get(current, "spec") != spec => Step::Update,
        ("onstart", Some(spec)) if at_start && get(current, "spec") != spec => Step::Update,
        _ => Step::Nothing,
    }
}

/// The spec of the object of a group and version that definitions make.
fn wanted(served: &Served, name: &str) -> Option<Value> {
    let (version, group) = name.split_once('.')?;
    let makes = |d: &&Arc<Definition>| d.group == group && d.versions.iter().any(|v| v.served && v.name == version);
    served.definitions().find(makes)?;
    Some(json!({"group": group, "version": version, "groupPriorityMinimum": DEFAULT_GROUP_PRIORITY,
        "versionPriority": DEFAULT_VERSION_PRIORITY}))
}

fn is_built_in(name: &str) -> bool {
    GROUP_VERSIONS.iter().any(|g| g.group != super::GROUP && registration::name(g.group, g.version) == name)
}

/// The names of the objects that an event may concern.
fn concerned(event: &Event) -> Vec<String> {
    let (entry, previous) = match event {
        Event::Put { entry, previous } => (entry, previous.as_ref()),
        Event::Delete { entry, previous } => (entry, Some(previous)),
    };
    if entry.key().starts_with(STORE_PREFIX) {
        return vec![crate::verbs::options::place(entry.key()).1.to_owned()];
    }
    let of = |entry: &store::Entry| Definition::read(entry).map(|d| names(&d)).unwrap_or_default();
    let mut all = of(entry);
    all.extend(previous.into_iter().flat_map(of));
    all
}

fn names(definition: &Definition) -> Vec<String> {
    definition.versions.iter().map(|v| registration::name(&definition.group, &v.name)).collect()
}

fn registered(view: &dyn View) -> HashSet<String> {
    let names = view.range(STORE_PREFIX, None).map(|entry| crate::verbs::options::place(entry.key()).1.to_owned());
    names.collect()
}

/// Follows definitions and APIServices until the store closes or the server is gone.
pub(crate) async fn follow(shared: Weak<Shared>, in_step: InStep) {
    let mut at_start: Option<HashSet<String>> = None;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let store = strong.store.clone();
        let view = store.snapshot();
        let feeds = (store.watch(STORE_PREFIX, view.revision()), store.watch(custom::STORE_PREFIX, view.revision()));
        let (Ok(mut objects), Ok(mut definitions)) = feeds else { return };
        strong.kinds.reload(&*store);
        let there = registered(&*view);
        let mut dirty: BTreeSet<String> = there.iter().cloned().collect();
        dirty.extend(strong.kinds.served().definitions().flat_map(|d| names(d)));
        let mut first = at_start.is_none();
        // By a webhook perhaps.
        let mut refused = Retries::default();
        let at_start = at_start.get_or_insert(there);
        drop((strong, store, view));
        loop {
            for name in std::mem::take(&mut dirty) {
                let Some(strong) = shared.upgrade() else { return };
                let known = first && at_start.contains(&name);
                match settle(&strong, &name, known).await {
                    Ok(()) => refused.went_well(&name),
                    Err(status) => {
                        tracing::debug!(name, why = status.message, "an APIService was not written");
                        refused.refused(name, Instant::now());
                    }
                }
            }
            in_step.found();
            first = first && !refused.is_empty();
            let (mut of_objects, mut of_definitions) = (Vec::new(), Vec::new());
            let next = tokio::select! {
                next = objects.next(&mut of_objects) => next,
                next = definitions.next(&mut of_definitions) => next,
                () = refused.wait() => Ok(store::Revision::default()),
            };
            match next {
                Ok(_) => {}
                Err(store::Error::Compacted { .. }) => break,
                Err(_) => return,
            }
            let Some(strong) = shared.upgrade() else { return };
            for event in &of_definitions {
                strong.kinds.refresh(&*strong.store, event.entry().key());
            }
            dirty.extend(refused.due(Instant::now()).cloned());
            dirty.extend(of_objects.iter().chain(&of_definitions).flat_map(concerned));
        }
        in_step.lost();
    }
}

async fn settle(shared: &Arc<Shared>, name: &str, at_start: bool) -> Result<(), Status> {
    if is_built_in(name) {
        return Ok(());
    }
    let entry = shared.store.snapshot().get(&registration::key(name));
    let current: Option<Value> = entry.and_then(|entry| serde_json::from_slice(entry.value()).ok());
    let wanted = wanted(&shared.kinds.served(), name);
    let server = ApiServer::of(shared.clone());
    let path = format!("{COLLECTION}/{name}");
    let done = match (step(current.as_ref(), wanted.as_ref(), at_start), current, wanted) {
        (Step::Create, _, Some(spec)) => {
            let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "spec": spec,
                "metadata": {"name": name, "labels": {AUTOMANAGED: "true"}}});
            start::send(&server, Method::POST, COLLECTION, "application/json", &object).await
        }
        (Step::Update, Some(mut object), Some(spec)) => {
            object["spec"] = spec;
            start::send(&server, Method::PUT, &path, "application/json", &object).await
        }
        (Step::Delete, Some(object), _) => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "preconditions": {"uid": get(&object, "metadata")["uid"]}});
            start::send(&server, Method::DELETE, &path, "application/json", &options).await
        }
        _ => return Ok(()),
    };
    match done {
        // Somebody else was here meanwhile: their event brings us again.
        Err(status) if [Reason::AlreadyExists, Reason::Conflict, Reason::NotFound].iter().any(|r| status.is(*r)) => {
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_manages_an_object_decides() {
        let spec = json!({"group": "acme.io", "version": "v1"});
        let object = |label: &str, version: &str| json!({"metadata": {"labels": {AUTOMANAGED: label}}, "spec": {"group": "acme.io", "version": version}});
        let (same, other) = ("v1", "v2");
        for (current, is_wanted, at_start, expected) in [
            (None, true, false, Step::Create),
            (None, false, true, Step::Nothing),
            (Some(object("", other)), true, true, Step::Nothing),
            (Some(object("", other)), false, true, Step::Nothing),
            (Some(object("true", same)), true, false, Step::Nothing),
            (Some(object("true", other)), true, false, Step::Update),
            (Some(object("true", same)), false, false, Step::Delete),
            (Some(object("onstart", other)), true, true, Step::Update),
            (Some(object("onstart", other)), true, false, Step::Nothing),
            (Some(object("onstart", same)), false, true, Step::Delete),
            (Some(object("onstart", same)), false, false, Step::Nothing),
        ] {
            let found = step(current.as_ref(), is_wanted.then_some(&spec), at_start);
            assert_eq!(found, expected, "{current:?} {is_wanted} {at_start}");
        }
        assert!(!is_built_in("v1.apiregistration.k8s.io"), "that of an earlier version goes");
        assert!(is_built_in("v1.") && is_built_in("v2.autoscaling") && !is_built_in("v1.acme.io"));
    }
}
