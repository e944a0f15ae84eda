//! Root CA publisher. Every active namespace has a ConfigMap `kube-root-ca.crt` with the cluster's certificate authority, and
//! it says what it should whoever wrote to it.
//!
//! Source: kubernetes `pkg/controller/certificates/rootcacertpublisher/publisher.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Key, Object, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::Context;
use crate::controllers::service_account::is_active;

const NAME: &str = "root-ca-cert-publisher";
const CONFIG_MAP: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
/// Upstream's words, so that tools that strip it recognise it.
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);
/// Namespaces worked on at once; the work is one write.
const WORKERS: usize = 2;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create(Box<ConfigMap>),
    Update(Box<ConfigMap>),
}

pub fn plan(namespace: Option<&Namespace>, map: Option<&ConfigMap>, ca: &str) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(namespace) = namespace.filter(|n| is_active(Some(n))) else { return plan };
    let data = Some(BTreeMap::from([(FILE.to_owned(), ca.to_owned())]));
    let described = BTreeMap::from([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())]);
    match map {
        None => {
            let metadata = ObjectMeta {
                name: Some(CONFIG_MAP.into()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some(described),
                ..ObjectMeta::default()
            };
            let map = ConfigMap { metadata, data, ..ConfigMap::default() };
            plan.push(Action::Create(Box::new(map)), "the root CA is missing");
        }
        Some(map) if map.data != data || map.annotation(DESCRIPTION.0).is_none() => {
            let mut map = map.clone();
            map.data = data;
            map.binary_data = None;
            map.metadata.annotations.get_or_insert_default().extend(described);
            plan.push(Action::Update(Box::new(map)), "the root CA differs");
        }
        Some(_) => {}
    }
    plan
}

struct Publisher {
    client: Client,
    namespaces: Arc<Cache<Namespace>>,
    maps: Arc<Cache<ConfigMap>>,
    ca: String,
}

pub fn start(context: &Context) {
    let namespaces = context.informers.cache::<Namespace>(Selector::all());
    let maps = context.informers.cache::<ConfigMap>(Selector::fields("metadata.name=kube-root-ca.crt"));
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    namespaces.on_change(Box::new(move |_, new| {
        if let Some(n) = new {
            dirty.add(Key::cluster(n.name()));
        }
    }));
    let dirty = Arc::clone(&queue);
    maps.on_change(Box::new(move |old, new| {
        if let Some(m) = new.or(old) {
            dirty.add(Key::cluster(m.namespace()));
        }
    }));
    let ca = context.config.root_ca.clone();
    context.run(Publisher { client: context.client(NAME), namespaces, maps, ca }, queue, WORKERS);
}

impl Controller for Publisher {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let map = self.maps.get(&Key::new(&key.name, CONFIG_MAP));
        plan(self.namespaces.get(key).as_deref(), map.as_deref(), &self.ca)
    }

    async fn apply(&self, _: &Key, action: Action) -> Result<Vec<Seen>> {
        let outcome = match action {
            Action::Create(map) => self.client.create(&*map).await,
            Action::Update(map) => self.client.update(&*map).await,
        };
        match outcome {
            Ok(map) => Ok(vec![Box::pin(self.maps.reached(map.revision()))]),
            Err(error) if error.is_namespace_terminating() || error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("shop".into());
        let Action::Create(map) = plan(Some(&namespace), None, "PEM").actions.remove(0) else { panic!("no create") };
        assert_eq!(map.key(), Key::new("shop", CONFIG_MAP));
        // What was applied needs nothing more.
        assert!(plan(Some(&namespace), Some(&map), "PEM").actions.is_empty());
        let Action::Update(changed) = plan(Some(&namespace), Some(&map), "NEW").actions.remove(0) else {
            panic!("no update")
        };
        assert!(plan(Some(&namespace), Some(&changed), "NEW").actions.is_empty());
        assert!(plan(None, Some(&map), "NEW").actions.is_empty());
    }
}
