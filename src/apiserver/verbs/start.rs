//! What every cluster starts with: written where it is absent, completed where it is less than it must be, never reduced.

use std::sync::Arc;

use serde_json::{Value, json};
use store::{Expect, Op, Store, Write};
use types::registry::{Kind, by_kind};

use super::object::{self, fill_new, meta};
use crate::auth::bootstrap;
use crate::hooks;
use crate::server::Clock;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Source: `pkg/apis/scheduling/v1/helpers.go`.
const PRIORITY_CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

fn wanted() -> Vec<Value> {
    let mut all: Vec<Value> = NAMESPACES
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    all.extend(PRIORITY_CLASSES.iter().map(|(name, value, description)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description})
    }));
    all.extend(bootstrap::objects());
    all
}

/// Writes what is missing in one batch: a fresh store is ready after one flush.
pub async fn bootstrap(store: &dyn Store, clock: &Clock) -> Result<(), store::Error> {
    let (view, now) = (store.snapshot(), clock());
    let mut batch = Vec::new();
    for mut wanted in wanted() {
        let Some(kind) = kind_of(&wanted) else { continue };
        let (namespace, name) = (meta(&wanted, "namespace").to_owned(), meta(&wanted, "name").to_owned());
        let key: Arc<str> = kind.store_key(&namespace, &name).into();
        let (object, expect) = match view.get(&key) {
            None => {
                let hooks = hooks::of(kind);
                fill_new(&mut wanted, &namespace, now);
                (hooks.default)(&mut wanted);
                let context = hooks::Context { subresource: "", user: "system:apiserver", now };
                (hooks.prepare_create)(&mut wanted, &context);
                (wanted, Expect::Absent)
            }
            Some(entry) => {
                let Ok(stored) = object::read(&entry) else { continue };
                match bootstrap::reconcile(&stored, &wanted) {
                    Some(merged) => (merged, Expect::At(entry.modified)),
                    None => continue,
                }
            }
        };
        let op = Op::Put(object::to_store(kind, &object));
        batch.push(Write { key, expect, class: store::Class::Durable, op });
    }
    if !batch.is_empty() {
        store.write(batch).await?;
    }
    Ok(())
}

fn kind_of(object: &Value) -> Option<&'static Kind> {
    let gvk = crate::http::respond::gvk(object);
    by_kind(&gvk.group, &gvk.version, &gvk.kind)
}
