//! Service account controller. Every active namespace has a ServiceAccount `default`.
//!
//! Source: kubernetes `pkg/controller/serviceaccount/serviceaccounts_controller.go`.

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Key, Object, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::Context;

const NAME: &str = "service-account-controller";
const DEFAULT: &str = "default";
/// Namespaces worked on at once; the work is one create.
const WORKERS: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create,
}

/// Whether objects may still be created in a namespace.
pub fn is_active(namespace: Option<&Namespace>) -> bool {
    namespace.is_some_and(|n| {
        !n.is_terminating() && n.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
    })
}

pub fn plan(namespace: Option<&Namespace>, account: Option<&ServiceAccount>) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if is_active(namespace) && account.is_none() {
        plan.push(Action::Create, "the default service account is missing");
    }
    plan
}

struct Accounts {
    client: Client,
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
}

pub fn start(context: &Context) {
    let namespaces = context.informers.cache::<Namespace>(Selector::all());
    // Only the default ones: nobody here reads the others.
    let accounts = context.informers.cache::<ServiceAccount>(Selector::fields("metadata.name=default"));
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    namespaces.on_change(Box::new(move |_, new| {
        if let Some(n) = new {
            dirty.add(Key::cluster(n.name()));
        }
    }));
    let dirty = Arc::clone(&queue);
    accounts.on_change(Box::new(move |old, new| {
        if let (Some(a), None) = (old, new) {
            dirty.add(Key::cluster(a.namespace()));
        }
    }));
    context.run(Accounts { client: context.client(NAME), namespaces, accounts }, queue, WORKERS);
}

impl Controller for Accounts {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let account = self.accounts.get(&Key::new(&key.name, DEFAULT));
        plan(self.namespaces.get(key).as_deref(), account.as_deref())
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Create => {
                let metadata = ObjectMeta {
                    name: Some(DEFAULT.into()),
                    namespace: Some(key.name.to_string()),
                    ..ObjectMeta::default()
                };
                match self.client.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await {
                    Ok(account) => Ok(vec![Box::pin(self.accounts.reached(account.revision()))]),
                    Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(vec![]),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let namespace = Namespace::default();
        let mut terminating = Namespace::default();
        terminating.status.get_or_insert_default().phase = Some("Terminating".into());
        let account = ServiceAccount::default();
        assert!(plan(Some(&namespace), Some(&account)).actions.is_empty());
        assert_eq!(plan(Some(&namespace), None).actions, [Action::Create]);
        assert!(plan(Some(&terminating), None).actions.is_empty());
        assert!(plan(None, None).actions.is_empty());
    }
}
