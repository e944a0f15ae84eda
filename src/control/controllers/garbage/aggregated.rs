//! The watches of kinds that aggregated servers serve, one for each resource while an APIService registers it.
//!
//! A server that does not answer keeps the watches that it has: they go on by themselves when it is back. What it serves is
//! asked for whenever its APIService changes, which it also does when the server comes back.
//!
//! Source: kubernetes `pkg/controller/garbagecollector/garbagecollector.go` `GetDeletableResources`, `Sync`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::Cache;
use client::aggregated::{Registration, Resources};
use tokio_util::sync::CancellationToken;
use types::registry::{Kind, KindRef, Verb};

use super::feeds::{Feeds, Running};

pub struct Aggregated {
    feeds: Feeds,
    registrations: Arc<Cache<Registration>>,
    /// By group and plural.
    running: BTreeMap<(String, String), (Arc<Kind>, Running)>,
}

/// The versions of a group that other servers serve, the preferred ones first.
fn versions(all: Vec<Arc<Registration>>, group: &str) -> Vec<Arc<Registration>> {
    let mut found: Vec<_> = all.into_iter().filter(|r| r.is_remote() && r.spec.group == group).collect();
    found.sort_by_key(|r| (Reverse(r.spec.version_priority), r.spec.version.clone()));
    found
}

/// Takes over the kinds that can own or be owned, each resource in the first version that has it.
fn take(kinds: Vec<Kind>, into: &mut BTreeMap<String, Arc<Kind>>) {
    let collected = |kind: &Kind| [Verb::List, Verb::Watch, Verb::Delete].iter().all(|verb| kind.allows(*verb));
    for kind in kinds.into_iter().filter(collected) {
        into.entry(kind.plural.to_string()).or_insert_with(|| Arc::new(kind));
    }
}

impl Aggregated {
    pub fn new(feeds: Feeds, registrations: Arc<Cache<Registration>>) -> Self {
        Self { feeds, registrations, running: BTreeMap::new() }
    }

    /// Keeps the watches until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut dirty = self.registrations.dirty();
        loop {
            let keys = tokio::select! {
                () = stop.cancelled() => break,
                keys = dirty.next() => keys,
            };
            let group = |name: &str| name.split_once('.').map_or("", |(_, group)| group).to_owned();
            let groups: BTreeSet<String> = keys.iter().map(|key| group(&key.name)).collect();
            for group in groups {
                tokio::select! {
                    () = self.look_at(&group) => {}
                    () = stop.cancelled() => break,
                }
            }
        }
        for (_, running) in self.running.into_values() {
            running.end().await;
        }
    }

    async fn look_at(&mut self, group: &str) {
        let mut wanted = BTreeMap::new();
        let mut all_known = true;
        for registration in versions(self.registrations.all(), group) {
            match self.feeds.client.get_path::<Resources>(&registration.path()).await {
                Ok(resources) => take(resources.kinds(group, &registration.spec.version), &mut wanted),
                Err(_) => all_known = false,
            }
        }
        let ours: Vec<(String, String)> = self.running.keys().filter(|(g, _)| g == group).cloned().collect();
        for key in ours {
            let stays = match wanted.get(&key.1) {
                Some(kind) => self.running.get(&key).is_some_and(|(known, _)| known == kind),
                None => !all_known,
            };
            if !stays && let Some((_, running)) = self.running.remove(&key) {
                self.feeds.drop(running.end().await, false);
            }
        }
        for (plural, kind) in wanted {
            let key = (group.to_owned(), plural);
            if self.running.contains_key(&key) {
                continue;
            }
            let slot = self.feeds.graph.lock().add_kind(KindRef::Custom(Arc::clone(&kind)));
            let Some(slot) = slot else {
                tracing::error!(group, resource = key.1, "too many kinds: the objects of this one are not collected");
                return;
            };
            let running = Running::begin(&self.feeds, slot, &kind);
            self.running.insert(key, (kind, running));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn registration(group: &str, version: &str, priority: i64) -> Arc<Registration> {
        let spec = json!({"group": group, "version": version, "versionPriority": priority, "service": {"name": "s"}});
        Arc::new(serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    #[test]
    fn a_resource_is_watched_in_its_preferred_version() {
        let all =
            vec![registration("a.io", "v1alpha1", 5), registration("b.io", "v9", 9), registration("a.io", "v1", 7)];
        let found = versions(all, "a.io");
        assert_eq!(found.iter().map(|r| &*r.spec.version).collect::<Vec<_>>(), ["v1", "v1alpha1"]);
        let resource = |name: &str, verbs: &[&str]| json!({"name": name, "kind": "K", "verbs": verbs});
        let whole = ["list", "watch", "delete"];
        let mut wanted = BTreeMap::new();
        for (version, resources) in [
            ("v1", json!([resource("ships", &whole), resource("logs", &["list", "delete"])])),
            ("v1alpha1", json!([resource("ships", &whole), resource("boats", &whole)])),
        ] {
            let resources: Resources = serde_json::from_value(json!({"resources": resources})).unwrap();
            take(resources.kinds("a.io", version), &mut wanted);
        }
        let found: Vec<_> = wanted.iter().map(|(plural, kind)| (&**plural, &*kind.version)).collect();
        assert_eq!(found, [("boats", "v1alpha1"), ("ships", "v1")]);
    }
}
