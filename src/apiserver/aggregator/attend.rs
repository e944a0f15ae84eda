//! Attends to one remote APIService: keeps its condition, and asks its server what it serves.
//!
//! Acts when the Service, its EndpointSlices or the condition change. A server that is asked is asked again after a while,
//! because no event tells that it has begun or ceased to answer, or serves something else.
//!
//! Source: kube-aggregator `pkg/controllers/status/remote/remote_available_controller.go`, `pkg/apiserver/handler_discovery.go`,
//! `pkg/controllers/openapi{,v3}/controller.go`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use store::{Event, Store, Watcher};
use tokio::time::Instant;
use types::registry::by_kind;
use types::time::rfc3339;

use super::check::{self, Verdict};
use super::link::{Asked, Link, Read};
use super::registration::{self, STORE_PREFIX};
use super::told::{self, Told};
use crate::hooks::json::{get, text};
use crate::retry::Retry;
use crate::server::{ApiServer, Shared};
use crate::webhook::{Target, is_slice_of};

/// Between two questions to a server that answers: upstream's resync.
const AGAIN: Duration = Duration::from_secs(30);
/// How old what a server tells of itself may be. Source: `discoveryRefreshInterval`, `successfulUpdateDelay`.
const REFRESH: Duration = Duration::from_secs(60);
/// What a document of discovery has.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);
/// What an OpenAPI document has. Source: `specDownloadTimeout`.
const OPENAPI_LIMIT: Duration = Duration::from_secs(60);

/// The documents that are known, by their tags.
#[derive(Default)]
struct Tags {
    discovery: String,
    v3: String,
    v2: String,
}

/// Where to look for changes of what the verdict depends on.
struct Feeds {
    service: Box<dyn Watcher>,
    slices: Box<dyn Watcher>,
    object: Box<dyn Watcher>,
}

/// Runs until the server or the store ends. The keeper aborts it when the APIService goes, or leads elsewhere.
pub async fn attend(shared: Weak<Shared>, name: String, link: Arc<Link>) {
    let Target::Service { namespace, name: service, .. } = link.target().clone() else { return };
    let mut tags = Tags::default();
    let mut retry = Retry::default();
    let mut heard: Option<Instant> = None;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let view = strong.store.snapshot();
        let Some(mut feeds) = feeds(&*strong.store, view.revision(), &namespace) else { return };
        let found = match check::place(&*view, link.target()) {
            Err(verdict) => Err(verdict),
            Ok(place) => check::probe(&*strong.store, &link, &place).await,
        };
        drop(view);
        let (verdict, answer) = match found {
            Ok(answer) => (Verdict::passed(), Some(answer)),
            Err(verdict) => (verdict, None),
        };
        let is_fresh = link.told.load().fresh;
        let due = !is_fresh || heard.is_none_or(|at| at.elapsed() >= REFRESH);
        match &answer {
            // Whoever sees that it is available may ask at once what it has.
            Some(answer) if !is_fresh => {
                tags.discovery = learn_resources(&strong, &link, told::legacy(&answer.body), "")
            }
            None if is_fresh => say(&strong, &link, Told { fresh: false, ..(**link.told.load()).clone() }),
            _ => {}
        }
        link.set_available(verdict.available);
        let written = write(&strong, &name, &verdict).await;
        let failed = verdict.reason == "FailedDiscoveryCheck" || !written;
        let wait = match verdict.reason {
            _ if failed => Some(retry.refused()),
            "Passed" => Some(AGAIN),
            // Nothing changes without an event.
            _ => None,
        };
        if !failed {
            retry.went_well();
        }
        let changed = async {
            let is_service = |e: &Event| key_name(e) == service;
            let is_slice = |e: &Event| is_slice_of(e.entry(), &service);
            let differs = |e: &Event| key_name(e) == name && !is_said(e.entry().value(), &verdict);
            tokio::select! {
                open = until(&mut feeds.service, is_service) => open,
                open = until(&mut feeds.slices, is_slice) => open,
                open = until(&mut feeds.object, differs) => open,
            }
        };
        let rest = async {
            if let Some(answer) = answer.filter(|_| due) {
                listen(&strong, &link, &answer, &mut tags).await;
                heard = Some(Instant::now());
            }
            drop(strong);
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let open = tokio::select! {
            open = changed => open,
            () = rest => true,
        };
        if !open {
            return;
        }
    }
}

/// Writes the condition, again after a while when that is refused. Ends when it is there, or the object is not.
pub async fn insist(shared: Weak<Shared>, name: String, verdict: Verdict) {
    let mut retry = Retry::default();
    while let Some(strong) = shared.upgrade() {
        if write(&strong, &name, &verdict).await {
            return;
        }
        drop(strong);
        tokio::time::sleep(retry.refused()).await;
    }
}

/// Whether the stored object has the condition.
pub fn has(store: &dyn Store, name: &str, verdict: &Verdict) -> bool {
    store.snapshot().get(&registration::key(name)).is_some_and(|entry| is_said(entry.value(), verdict))
}

fn feeds(store: &dyn Store, after: store::Revision, namespace: &str) -> Option<Feeds> {
    let folder = |group: &str, kind: &str| by_kind(group, "v1", kind).map(|k| k.store_key(namespace, ""));
    Some(Feeds {
        service: store.watch(&folder("", "Service")?, after).ok()?,
        slices: store.watch(&folder("discovery.k8s.io", "EndpointSlice")?, after).ok()?,
        object: store.watch(STORE_PREFIX, after).ok()?,
    })
}

fn key_name(event: &Event) -> &str {
    crate::verbs::options::place(event.entry().key()).1
}

/// Waits for an event that matters; `false` when the store closes first.
async fn until(feed: &mut Box<dyn Watcher>, matters: impl Fn(&Event) -> bool) -> bool {
    let mut events = Vec::new();
    loop {
        events.clear();
        match feed.next(&mut events).await {
            Ok(_) if events.iter().any(&matters) => return true,
            Ok(_) => {}
            Err(store::Error::Compacted { .. }) => return true,
            Err(_) => return false,
        }
    }
}

fn is_said(object: &[u8], verdict: &Verdict) -> bool {
    let object: Value = serde_json::from_slice(object).unwrap_or_default();
    registration::condition(&object).is_some_and(|c| is_same(c, verdict))
}

fn is_same(condition: &Value, verdict: &Verdict) -> bool {
    let status = if verdict.available { "True" } else { "False" };
    text(condition, "status") == status
        && text(condition, "reason") == verdict.reason
        && text(condition, "message") == verdict.message
}

/// Writes the condition where it is another one. `false` when that was refused.
async fn write(shared: &Arc<Shared>, name: &str, verdict: &Verdict) -> bool {
    let Some(entry) = shared.store.snapshot().get(&registration::key(name)) else { return true };
    let object: Value = serde_json::from_slice(entry.value()).unwrap_or_default();
    let Some(conditions) = conditions(&object, verdict, (shared.config.clock)()) else { return true };
    let metadata = get(&object, "metadata");
    let patch = json!({"status": {"conditions": conditions},
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}});
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}/status");
    let written = crate::verbs::start::merge(&ApiServer::of(shared.clone()), &path, &patch).await;
    match &written {
        Err(status) => tracing::debug!(name, why = status.message, "the condition of an APIService was not written"),
        Ok(_)
            if !verdict.available && registration::condition(&object).is_some_and(|c| text(c, "status") == "True") =>
        {
            shared.aggregator.lost.count(name, verdict.reason);
        }
        Ok(_) => {}
    }
    tracing::debug!(
        name,
        available = verdict.available,
        verdict.reason,
        verdict.message,
        "an APIService was looked at"
    );
    written.is_ok()
}

/// The conditions that are due; `None` when they are there. Source: kube-aggregator `pkg/apis/apiregistration/v1/helper`
/// `SetAPIServiceCondition`.
fn conditions(object: &Value, verdict: &Verdict, now: jiff::Timestamp) -> Option<Value> {
    let old = registration::condition(object);
    if old.is_some_and(|c| is_same(c, verdict)) {
        return None;
    }
    let status = if verdict.available { "True" } else { "False" };
    let since = old.filter(|c| text(c, "status") == status).map(|c| c["lastTransitionTime"].clone());
    let new = json!({"type": "Available", "status": status, "reason": verdict.reason, "message": verdict.message,
        "lastTransitionTime": since.unwrap_or_else(|| rfc3339(now).into())});
    let mut all = get(get(object, "status"), "conditions").as_array().cloned().unwrap_or_default();
    match all.iter_mut().find(|c| text(c, "type") == "Available") {
        Some(old) => *old = new,
        None => all.push(new),
    }
    Some(all.into())
}

/// Takes over what the server tells of itself, one document after the other. What cannot be had stays as it was; what cannot
/// be read, too, and is asked for again.
async fn listen(shared: &Arc<Shared>, link: &Arc<Link>, answer: &Read, tags: &mut Tags) {
    let store = &*shared.store;
    let identity = check::aggregator();
    let (group, version) = group_version(link.root());
    let all = if group.is_empty() { "/api" } else { "/apis" };
    let asked = Asked { path: all, accept: told::ACCEPT, tag: &tags.discovery, limit: DISCOVERY_LIMIT };
    tags.discovery = match link.read(store, &identity, &asked).await {
        Ok(read) if read.code == 304 => learn(shared, link, |told| told.fresh = true, &tags.discovery),
        Ok(read) if read.code == 200 && told::is_aggregated(&read.media) => {
            learn_resources(shared, link, told::aggregated(&read.body, group, version), &read.tag)
        }
        _ => learn_resources(shared, link, told::legacy(&answer.body), ""),
    };
    let asked = Asked { path: "/openapi/v3", accept: "application/json", tag: &tags.v3, limit: OPENAPI_LIMIT };
    let read = match link.read(store, &identity, &asked).await {
        Ok(read) if read.code == 200 => Some((told::v3(&read.body, group, version), read.tag)),
        Ok(read) if read.code == 404 => Some((Ok(Vec::new()), String::new())),
        _ => None,
    };
    if let Some((read, tag)) = read {
        tags.v3 = learn_of("OpenAPI v3", read, |read| learn(shared, link, |told| told.v3 = read, &tag));
    }
    let asked = Asked { path: "/openapi/v2", accept: "application/json", tag: &tags.v2, limit: OPENAPI_LIMIT };
    let read = match link.read(store, &identity, &asked).await {
        Ok(read) if read.code == 200 => Some((told::v2(&read.body, link.root()).map(Some), read.tag)),
        Ok(read) if read.code == 404 => Some((Ok(None), String::new())),
        _ => None,
    };
    if let Some((read, tag)) = read {
        tags.v2 = learn_of("OpenAPI v2", read, |read| learn(shared, link, |told| told.v2 = read, &tag));
    }
}

/// The tag by which a document is known from now on: none for one that could not be read.
fn learn_of<T>(document: &str, read: Result<T, String>, learn: impl FnOnce(T) -> String) -> String {
    match read {
        Ok(read) => learn(read),
        Err(why) => {
            tracing::debug!(document, why, "an aggregated server's document cannot be read");
            String::new()
        }
    }
}

fn learn_resources(shared: &Shared, link: &Link, read: Result<Vec<Value>, String>, tag: &str) -> String {
    learn_of("discovery", read, |resources| {
        let change = |told: &mut Told| (told.fresh, told.resources) = (true, resources);
        learn(shared, link, change, tag)
    })
}

fn learn(shared: &Shared, link: &Link, change: impl FnOnce(&mut Told), tag: &str) -> String {
    let before = link.told.load_full();
    let mut told = (*before).clone();
    change(&mut told);
    if told != *before {
        say(shared, link, told);
    }
    tag.to_owned()
}

fn say(shared: &Shared, link: &Link, told: Told) {
    link.told.store(Arc::new(told));
    shared.aggregator.heard();
}

/// Of the path below which they are served.
fn group_version(root: &str) -> (&str, &str) {
    match root.strip_prefix("/apis/").and_then(|rest| rest.split_once('/')) {
        Some(both) => both,
        None => ("", root.trim_start_matches("/api/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let now: jiff::Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let passed = Verdict::passed();
        let first = conditions(&json!({}), &passed, now).unwrap();
        assert_eq!(
            first,
            json!([{"type": "Available", "status": "True", "reason": "Passed", "message": "all checks passed",
                "lastTransitionTime": "2026-01-02T00:00:00Z"}])
        );
        let object = json!({"status": {"conditions": [{"type": "Other"}, first[0]]}});
        let later: jiff::Timestamp = "2026-01-03T00:00:00Z".parse().unwrap();
        assert_eq!(conditions(&object, &passed, later), None);
        let failed = Verdict::failed_to_answer("why".into());
        let second = conditions(&object, &failed, later).unwrap();
        assert_eq!(
            (&second[0]["type"], &second[1]["lastTransitionTime"]),
            (&json!("Other"), &json!("2026-01-03T00:00:00Z"))
        );
        let again = Verdict::failed_to_answer("else".into());
        let object = json!({"status": {"conditions": second}});
        let third = conditions(&object, &again, now).unwrap();
        assert_eq!(
            (&third[1]["message"], &third[1]["lastTransitionTime"]),
            (&json!("else"), &json!("2026-01-03T00:00:00Z"))
        );
        assert!(!is_said(object.to_string().as_bytes(), &passed) && is_said(object.to_string().as_bytes(), &failed));
    }

    #[test]
    fn roots() {
        assert_eq!((group_version("/apis/a.b/v1"), group_version("/api/v1")), (("a.b", "v1"), ("", "v1")));
    }
}
