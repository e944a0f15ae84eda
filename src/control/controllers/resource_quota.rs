//! ResourceQuota controller. Says in a quota's status what may be had of it and what is in use.
//!
//! Admission charges what is created; only this controller takes a charge back, by counting again what is there: when an object
//! that a quota counts comes or goes, when a pod ends, when the quota changes. Kinds are watched in the namespaces whose quotas
//! count them, and nowhere else. A count that admission overtakes fails on the quota's version and is made again.
//!
//! Source: kubernetes `pkg/controller/resourcequota/resource_quota_controller.go`, `pkg/quota/v1/resources.go` `CalculateUsage`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::api::ListParams;
use client::queue::Queue;
use client::runner::{Controller, Plan, Seen};
use client::watch::EventType;
use client::{Cache, Client, Clock, Key, Object, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use parking_lot::Mutex;
use serde_json::Value;
use types::quantity::Quantity;
use types::quota::Resource;
use types::resources::{self, List};

use crate::watches::{Place, Watches};
use crate::{Context, pods};

const NAME: &str = "resourcequota-controller";
/// Source: `--concurrent-resource-quota-syncs`.
const WORKERS: usize = 5;
/// Kinds with names of their own in quotas, besides `count/…`, with their groups.
const NAMED: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "services"),
    ("", "persistentvolumeclaims"),
    ("", "configmaps"),
    ("", "replicationcontrollers"),
    ("", "resourcequotas"),
    ("", "secrets"),
    ("resource.k8s.io", "resourceclaims"),
];

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Counts what is there and remembers it for the next plan.
    Count,
    Status(Box<ResourceQuota>),
}

/// `counted` is of this version of the quota; `None`: to be counted.
pub fn plan(quota: &ResourceQuota, counted: Option<&List>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if quota.is_terminating() {
        return plan;
    }
    let Some(counted) = counted else {
        plan.push(Action::Count, "what it counts may have changed");
        plan.again_at(now);
        return plan;
    };
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let status = quota.status.clone().unwrap_or_default();
    // What nobody counts stays what it was.
    let before = status.used.clone().unwrap_or_default();
    let used: BTreeMap<String, Text> = hard
        .keys()
        .filter_map(|name| match counted.get(name) {
            Some(quantity) => Some((name.clone(), Text(quantity.to_string()))),
            None => before.get(name).map(|old| (name.clone(), old.clone())),
        })
        .collect();
    let status_is = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
    if !same(status.hard.as_ref(), status_is.hard.as_ref()) || !same(status.used.as_ref(), status_is.used.as_ref()) {
        let mut new = quota.clone();
        new.status = Some(status_is);
        plan.push(Action::Status(Box::new(new)), "usage changed");
    }
    plan
}

/// Whether a change of a quota asks for a count. A status is either our own, or a charge, which is right already; other limits
/// than those of the spec are somebody's mistake there.
fn is_due(old: Option<&ResourceQuota>, new: Option<&ResourceQuota>) -> bool {
    let other_limits = |quota: &ResourceQuota| {
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let said = quota.status.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        !same(Some(&hard), Some(&said))
    };
    old.map(|q| &q.spec) != new.map(|q| &q.spec) || new.is_some_and(other_limits)
}

/// Whether both say the same quantities, however they are written.
fn same(a: Option<&BTreeMap<String, Text>>, b: Option<&BTreeMap<String, Text>>) -> bool {
    let read = |list: &BTreeMap<String, Text>| -> Vec<(String, Option<Quantity>)> {
        list.iter().map(|(name, text)| (name.clone(), text.0.parse().ok())).collect()
    };
    a.map(read) == b.map(read)
}

/// Groups and plurals of what the quota counts.
pub fn counted_resources(quota: &ResourceQuota) -> BTreeSet<(String, String)> {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
    let names = hard.into_iter().flat_map(|hard| hard.keys());
    names
        .flat_map(|name| match name.strip_prefix("count/") {
            Some(counted) => {
                let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
                vec![(group.to_owned(), plural.to_owned())]
            }
            None => NAMED
                .iter()
                .filter(|(group, plural)| Resource { group, plural }.is_counted_by(name))
                .map(|(group, plural)| ((*group).to_owned(), (*plural).to_owned()))
                .collect(),
        })
        .collect()
}

/// What the objects of one resource use of the quota.
pub fn usage(quota: &Value, resource: Resource<'_>, objects: &[Value], now: Timestamp) -> List {
    let names = quota["spec"]["hard"].as_object().into_iter().flat_map(|hard| hard.keys());
    let names: Vec<&String> = names.filter(|name| resource.is_counted_by(name)).collect();
    let mut used: List = names.iter().map(|name| ((*name).clone(), Quantity::default())).collect();
    for object in objects.iter().filter(|object| resource.in_scopes(quota, object)) {
        let mut costs = resource.usage(object, now);
        costs.retain(|name, _| names.contains(&name));
        resources::add(&mut used, &costs);
    }
    used
}

struct Quotas {
    client: Client,
    quotas: Arc<Cache<ResourceQuota>>,
    /// What was counted, with the version of the quota that it was counted for.
    counted: Mutex<BTreeMap<Key, (String, List)>>,
    watches: Watches,
    clock: Clock,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let quotas = context.informers.cache::<ResourceQuota>(Selector::all());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    quotas.on_change(Box::new(move |old, new| {
        if let Some(quota) = new.or(old).filter(|_| is_due(old.map(|q| &**q), new.map(|q| &**q))) {
            dirty.add(quota.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&quotas));
    context.pods().on_change(Box::new(move |old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>| {
        if let Some(pod) = new.or(old).filter(|_| costs_otherwise(old.map(|p| &**p), new.map(|p| &**p))) {
            mark(&all, &dirty, pod.namespace());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&quotas));
    let marked = Arc::new(move |namespace: &str| mark(&all, &dirty, namespace));
    let watches = Watches::new(context, client.clone(), frees, marked);
    let clock = context.config.clock;
    context.run(Quotas { client, quotas, counted: Mutex::default(), watches, clock }, queue, WORKERS);
}

/// Whether an event may change what is in use: of services and claims a change may, too.
fn frees((_, group, plural): &Place, event: EventType) -> bool {
    let changes = group.is_empty() && matches!(plural.as_str(), "services" | "persistentvolumeclaims");
    matches!(event, EventType::Added | EventType::Deleted) || (event == EventType::Modified && changes)
}

/// Whether quotas count a pod otherwise than before: it comes, ends or goes, moves from one scope into another, or has been
/// resized.
///
/// Source: `pkg/quota/v1/install/update_filter.go`.
fn costs_otherwise(old: Option<&Pod>, new: Option<&Pod>) -> bool {
    let ended = |pod: Option<&Pod>| pod.is_none_or(pods::is_finished);
    let (Some(before), Some(after)) = (old, new) else { return old.is_none() || ended(old) != ended(new) };
    let scoped =
        |pod: &Pod| pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).is_some_and(|seconds| seconds >= 0);
    let statuses = |pod: &Pod| -> BTreeMap<String, Option<ResourceRequirements>> {
        let lists = pod.status.iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]);
        lists.flatten().flatten().map(|c| (c.name.clone(), c.resources.clone())).collect()
    };
    let resized = || {
        let after = statuses(after);
        statuses(before).iter().any(|(name, resources)| after.get(name).is_some_and(|now| now != resources))
    };
    ended(old) != ended(new) || scoped(before) != scoped(after) || resized()
}

/// Every quota of the namespace wants to be counted again.
fn mark(quotas: &Cache<ResourceQuota>, queue: &Queue, namespace: &str) {
    for quota in quotas.in_namespace(namespace) {
        queue.add(quota.key());
    }
}

impl Quotas {
    async fn count(&self, quota: &ResourceQuota) -> Result<List> {
        let object = serde_json::to_value(quota).unwrap_or_default();
        let mut all = List::new();
        for (group, plural) in counted_resources(quota) {
            let resource = Resource { group: &group, plural: &plural };
            let path = self.watches.paths().of(&group, &plural, quota.namespace()).await;
            let whole = group.is_empty() && matches!(plural.as_str(), "pods" | "services" | "persistentvolumeclaims");
            let params = ListParams::default();
            let listed = match path {
                Ok(path) if whole => self.client.list_path::<Value>(&path, &params).await,
                Ok(path) => self.client.list_metadata::<Value>(&path, &params).await,
                Err(error) => Err(error),
            };
            let objects = match listed {
                Ok(list) => list.items,
                // A kind that is not served has no objects.
                Err(error) if error.is_not_found() => Vec::new(),
                Err(error) => return Err(error),
            };
            resources::raise(&mut all, &usage(&object, resource, &objects, self.clock.now()));
        }
        Ok(all)
    }
}

impl Controller for Quotas {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let counted = |quota: &Arc<ResourceQuota>| counted_resources(quota);
        let mut wanted: BTreeSet<_> = self.quotas.in_namespace(&key.namespace).iter().flat_map(counted).collect();
        // Pods come from the shared cache.
        wanted.remove(&(String::new(), "pods".to_owned()));
        self.watches.follow(&key.namespace, &wanted);
        let counted = self.counted.lock().remove(key);
        let Some(quota) = self.quotas.get(key) else { return Plan::nothing() };
        let version = quota.metadata.resource_version.clone().unwrap_or_default();
        // A count that was made for another version may have been overtaken by a charge.
        let counted = counted.filter(|(of, _)| *of == version).map(|(_, list)| list);
        plan(&quota, counted.as_ref(), now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Count => {
                let Some(quota) = self.quotas.get(key) else { return Ok(vec![]) };
                let version = quota.metadata.resource_version.clone().unwrap_or_default();
                let counted = self.count(&quota).await?;
                self.counted.lock().insert(key.clone(), (version, counted));
                Ok(vec![])
            }
            Action::Status(quota) => match self.client.update_status(&*quota).await {
                Ok(quota) => Ok(vec![Box::pin(self.quotas.reached(quota.revision()))]),
                Err(error) if error.is_not_found() => Ok(vec![]),
                Err(error) => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quota(hard: Value, status: Value) -> ResourceQuota {
        let object = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard}, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn list(entries: &[(&str, &str)]) -> List {
        entries.iter().map(|(name, text)| ((*name).to_owned(), text.parse().unwrap())).collect()
    }

    #[test]
    fn a_foreign_limit_in_the_status_is_taken_back() {
        let of = |spec: &str, status: &str, used: &str| {
            quota(json!({"cpu": spec}), json!({"hard": {"cpu": status}, "used": {"cpu": used}}))
        };
        let (own, charged) = (of("1", "1000m", "0"), of("1", "1", "500m"));
        for (old, new, due) in [
            (None, Some(&own), true),
            (Some(&own), Some(&charged), false),
            (Some(&own), Some(&of("1", "2", "0")), true),
            (Some(&own), Some(&of("2", "1", "0")), true),
            (Some(&own), None, true),
        ] {
            assert_eq!(is_due(old, new), due, "{old:?} {new:?}");
        }
    }

    #[test]
    fn plans() {
        let hard = || json!({"pods": "2", "cpu": "1"});
        let good = json!({"hard": {"pods": "2", "cpu": "1000m"}, "used": {"pods": "1", "cpu": "500m"}});
        let counted = list(&[("pods", "1"), ("cpu", "0.5")]);
        let check = |name: &str, hard: Value, status: Value, counted: Option<&List>, expected: Option<Value>| {
            let quota = quota(hard, status);
            let plan = plan(&quota, counted, Timestamp::UNIX_EPOCH);
            let found = plan.actions.first().map(|action| match action {
                Action::Count => json!("count"),
                Action::Status(new) => serde_json::to_value(&new.status).unwrap(),
            });
            assert_eq!(found, expected, "{name}");
        };
        check("all is well", hard(), good.clone(), Some(&counted), None);
        check("not counted", hard(), good.clone(), None, Some(json!("count")));
        check(
            "new",
            hard(),
            json!({}),
            Some(&counted),
            Some(json!({"hard": {"pods": "2", "cpu": "1"}, "used": {"pods": "1", "cpu": "500m"}})),
        );
        check(
            "less is there, and a limit is gone",
            json!({"pods": "3"}),
            good,
            Some(&list(&[("pods", "0")])),
            Some(json!({"hard": {"pods": "3"}, "used": {"pods": "0"}})),
        );
    }

    #[test]
    fn pods_that_cost_otherwise() {
        let pod = |spec: Value, status: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
        };
        let cpu = |cpu: &str| {
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "resources": {"requests": {"cpu": cpu}}}]})
        };
        let (plain, waiting) = (json!({"containers": []}), json!({"phase": "Pending"}));
        let limited = json!({"containers": [], "activeDeadlineSeconds": 5});
        let running = pod(plain.clone(), cpu("1"));
        for (case, old, new, expected) in [
            ("all well", Some(&running), Some(&running), false),
            ("begins", Some(&pod(plain.clone(), waiting.clone())), Some(&running), false),
            ("comes", None, Some(&running), true),
            ("goes", Some(&running), None, true),
            ("ends", Some(&running), Some(&pod(plain.clone(), json!({"phase": "Failed"}))), true),
            ("moves into another scope", Some(&running), Some(&pod(limited, cpu("1"))), true),
            ("is resized", Some(&running), Some(&pod(plain.clone(), cpu("2"))), true),
        ] {
            assert_eq!(costs_otherwise(old, new), expected, "{case}");
        }
    }

    #[test]
    fn what_is_counted() {
        let hard = json!({"limits.cpu": "1", "services.nodeports": "1", "gold.storageclass.storage.k8s.io/requests.storage": "1",
            "count/deployments.apps": "1", "secrets": "1", "gold.deviceclass.resource.k8s.io/devices": "1"});
        let found: Vec<String> = counted_resources(&quota(hard, json!({})))
            .into_iter()
            .map(|(group, plural)| format!("{plural}.{group}"))
            .collect();
        let expected = [
            "persistentvolumeclaims.",
            "pods.",
            "secrets.",
            "services.",
            "deployments.apps",
            "resourceclaims.resource.k8s.io",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn usage_is_the_sum_of_what_is_in_scope() {
        let quota = json!({"spec": {"hard": {"pods": "9", "cpu": "9"}, "scopes": ["NotTerminating"]}});
        let pod = |cpu: &str, deadline: Value| json!({"spec": {"activeDeadlineSeconds": deadline, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
        let objects = [pod("1", Value::Null), pod("500m", Value::Null), pod("1", json!(5))];
        let used = usage(&quota, Resource { group: "", plural: "pods" }, &objects, Timestamp::UNIX_EPOCH);
        assert_eq!(used, list(&[("pods", "2"), ("cpu", "1.5")]));
        let none = usage(&quota, Resource { group: "", plural: "pods" }, &[], Timestamp::UNIX_EPOCH);
        assert_eq!(none, list(&[("pods", "0"), ("cpu", "0")]));
    }
}
