//! ClusterRole aggregation controller. A role with an aggregation rule has the rules of every role that its selectors choose,
//! in the order of their names, each once.
//!
//! Source: kubernetes `pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go`.

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Key, Object, Patch, Result, Selector, WriteParams};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value, json};
use types::selector::LabelSelector;

use crate::Context;

const NAME: &str = "clusterrole-aggregation-controller";
/// Roles worked on at once; the work is one write.
const WORKERS: usize = 1;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The role's rules are to be these.
    Apply(Vec<PolicyRule>),
}

pub fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(aggregation) = &role.aggregation_rule else { return plan };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let object = serde_json::to_value(selector).unwrap_or_default();
        // One that cannot be understood chooses nothing; the server refuses such.
        let Ok(selector) = LabelSelector::from_object(&object) else { continue };
        let mut chosen: Vec<_> =
            all.iter().filter(|r| selector.matches(&Labels(r)) && r.name() != role.name()).collect();
        chosen.sort_by_key(|r| r.name());
        for rule in chosen.into_iter().flat_map(|r| r.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    if role.rules.as_deref().unwrap_or_default() != rules {
        plan.push(Action::Apply(rules), "the roles that it gathers say something else");
    }
    plan
}

struct Labels<'a>(&'a ClusterRole);
impl types::selector::Labels for Labels<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        Object::label(self.0, key)
    }
}

struct Aggregation {
    client: Client,
    roles: Arc<Cache<ClusterRole>>,
}

pub fn start(context: &Context) {
    let roles = context.informers.cache::<ClusterRole>(Selector::all());
    let queue = context.queue();
    let (dirty, all) = (Arc::clone(&queue), Arc::downgrade(&roles));
    roles.on_change(Box::new(move |old, new| {
        let same =
            old.zip(new).is_some_and(|(old, new)| old.rules == new.rules && old.metadata.labels == new.metadata.labels);
        if let Some(role) = new.filter(|r| r.aggregation_rule.is_some()) {
            dirty.add(role.key());
        }
        // Any change of a role may be one of what others gather; there are few that gather.
        if same {
            return;
        }
        for role in all.upgrade().iter().flat_map(|roles| roles.all()).filter(|r| r.aggregation_rule.is_some()) {
            dirty.add(role.key());
        }
    }));
    context.run(Aggregation { client: context.client(NAME), roles }, queue, WORKERS);
}

impl Controller for Aggregation {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        self.roles.get(key).map_or_else(Plan::nothing, |role| plan(&role, &self.roles.all()))
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let Action::Apply(rules) = action;
        let wanted = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": &*key.name}, "rules": rules});
        let params = WriteParams { field_manager: NAME.into(), force: true, ..WriteParams::default() };
        let path = client::api::object_path(&client::api::collection_path::<ClusterRole>(""), &key.name, "");
        let role: Value = self.client.patch_path(&path, Patch::Apply(&wanted), &params).await?;
        let revision = role["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        Ok(vec![Box::pin(self.roles.reached(client::Revision::parse(revision)))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, verbs: &[&str]) -> Arc<ClusterRole> {
        let role = json!({"metadata": {"name": name, "labels": {"to": label}},
            "rules": verbs.iter().map(|v| json!({"verbs": [v]})).collect::<Vec<_>>()});
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn rules_are_gathered_by_name_and_once() {
        let gathers = json!({"metadata": {"name": "all", "labels": {"to": "x"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}, {"matchLabels": {"to": "y"}}]}});
        let mut gathers: ClusterRole = serde_json::from_value(gathers).unwrap();
        let all = [
            role("b", "x", &["get", "list"]),
            role("a", "x", &["watch"]),
            role("c", "y", &["get"]),
            role("d", "z", &["delete"]),
            Arc::new(gathers.clone()),
        ];
        let Action::Apply(rules) = plan(&gathers, &all).actions.remove(0);
        let verbs: Vec<&str> = rules.iter().map(|r| r.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["watch", "get", "list"]);
        gathers.rules = Some(rules);
        assert!(plan(&gathers, &all).actions.is_empty());
        assert!(plan(&all[0], &all).actions.is_empty());
    }
}
