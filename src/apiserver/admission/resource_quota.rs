//! ResourceQuota: what a namespace may have in all. Runs last, because what it charges is charged.
//!
//! The charge is a write of the quota's status that fails when somebody else charged first, so that two requests never share
//! what is left. A request that fails after it leaves a charge behind, as upstream's; the quota controller, which alone counts
//! what is there, takes it back.
//!
//! Source: apiserver `pkg/admission/plugin/resourcequota/{admission,controller}.go`.

use std::sync::Arc;

use serde_json::{Value, json};
use store::{Class, Entry, Expect, Op, Store, Write};
use tokio::sync::Mutex;
use types::quantity::Quantity;
use types::quota::{self, Resource};
use types::registry::{Kind, by_kind};
use types::resources::{self, List};
use types::status::Status;

use super::{Operation, Request};
use crate::hooks::json::{ensure_object, get, same, set, text};
use crate::verbs::ask::store_error;
use crate::verbs::object;

/// Others that charge in between: the lock keeps those of this server away, so these are the controller and other servers.
const ATTEMPTS: usize = 8;
/// Namespaces are spread over so many locks.
const LOCKS: usize = 16;

/// Charges one after the other per namespace, so that they do not make each other fail.
pub struct Charges {
    store: Arc<dyn Store>,
    locks: [Mutex<()>; LOCKS],
}

/// Whether quotas count what the request does.
fn concerns(request: &Request) -> bool {
    let (kind, created) = (request.kind, request.operation == Operation::Create);
    if !kind.stored || request.namespace.is_empty() || kind.plural == "events" {
        return false;
    }
    let updated = request.operation == Operation::Update;
    let both = || request.object.as_deref().zip(request.old);
    match (&*kind.group, &*kind.plural, request.subresource) {
        ("", "pods", "") if updated => {
            both().is_some_and(|(new, old)| quota::is_terminating(new) != quota::is_terminating(old))
        }
        ("", "pods", "resize") => updated,
        ("", "services" | "persistentvolumeclaims", "") => created || updated,
        ("", "persistentvolumeclaims", "status") => both().is_some_and(|(new, old)| {
            let allocated = |claim| get(get(claim, "status"), "allocatedResources");
            !same(allocated(new), allocated(old))
        }),
        (_, _, "") => created,
        _ => false,
    }
}

impl Charges {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, locks: std::array::from_fn(|_| Mutex::new(())) }
    }

    /// Charges the request, unless it is a dry run.
    ///
    /// # Errors
    /// 403 when a quota does not allow it or cannot tell.
    pub async fn charge(&self, request: &Request<'_>) -> Result<(), Status> {
        if !concerns(request) {
            return Ok(());
        }
        let Some(quotas) = by_kind("", "v1", "ResourceQuota") else { return Ok(()) };
        let prefix = quotas.store_key(request.namespace, "");
        if request.view.count(&prefix) == 0 {
            return Ok(());
        }
        let lock = request.namespace.bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(b)));
        let _turn = self.locks[lock % LOCKS].lock().await;
        for _ in 0..ATTEMPTS {
            // The newest state: the request's own is from before those that charged meanwhile.
            let view = self.store.snapshot();
            let found: Vec<(Entry, Value)> = view
                .range(&prefix, None)
                .filter_map(|entry| Some((entry.clone(), serde_json::from_slice(entry.value()).ok()?)))
                .collect();
            let charged = decide(request, found.iter().map(|(_, quota)| quota))?;
            if request.dry_run || charged.is_empty() {
                return Ok(());
            }
            let batch = charged.into_iter().map(|(at, used)| write(quotas, &found[at].0, &used));
            match self.store.write(batch.collect::<Result<_, _>>()?).await {
                Ok(_) => return Ok(()),
                Err(store::Error::Precondition { .. }) => {}
                Err(other) => return Err(store_error(quotas, "", &other)),
            }
        }
        Err(Status::conflict(quotas, "", types::status::OBJECT_MODIFIED))
    }
}

/// The quota with a new usage. Relaxed: what is created on its account is written after it, and takes it along to the disk.
fn write(kind: &'static Kind, entry: &Entry, used: &List) -> Result<Write, Status> {
    let (mut quota, managed) = object::open(entry)?;
    let used: Value = used.iter().map(|(name, quantity)| (name.clone(), json!(quantity.to_string()))).collect();
    if let Some(status) = ensure_object(&mut quota, "status") {
        set(status, "used", used);
    }
    let op = Op::Put(object::to_store(&types::registry::KindRef::BuiltIn(kind), &quota, &managed));
    Ok(Write { key: entry.key().into(), expect: Expect::At(entry.modified()), class: Class::Relaxed, op })
}

/// The quotas, by their places, that are to be charged, with what is used of them then.
fn decide<'a>(request: &Request, quotas: impl Iterator<Item = &'a Value>) -> Result<Vec<(usize, List)>, Status> {
    let Some(object) = request.object.as_deref() else { return Ok(Vec::new()) };
    let refuse = |why: String| Status::forbidden(request.kind, request.name, &why);
    let resource = Resource { group: &request.kind.group, plural: &request.kind.plural };
    let usage = resource.usage(object, request.now);
    let negative: Vec<&str> = usage.iter().filter(|(_, q)| q.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(refuse(format!("quota usage is negative for resource(s): {}", negative.join(","))));
    }
    let old = request.old.filter(|_| request.operation == Operation::Update);
    let before = old.map(|old| resource.usage(old, request.now)).unwrap_or_default();
    let mut charged = Vec::new();
    for (at, quota) in quotas.enumerate() {
        let name = text(get(quota, "metadata"), "name");
        let status = get(quota, "status");
        let (hard, used) = (resources::list(status, "hard"), resources::list(status, "used"));
        let counted: Vec<&str> = hard.keys().map(String::as_str).filter(|name| resource.is_counted_by(name)).collect();
        if counted.is_empty() || !resource.in_scopes(quota, object) {
            continue;
        }
        if resource.plural == "pods" && resource.group.is_empty() {
            quota::unsaid(counted.iter().copied(), object)
                .map_err(|why| refuse(format!("failed quota: {name}: {why}")))?;
        }
        if counted.iter().any(|name| !used.contains_key(*name)) {
            return Err(refuse(format!("status unknown for quota: {name}, resources: {}", counted.join(","))));
        }
        // What was counted already is not counted again, if it was counted here.
        let known = old.is_some_and(|old| resource.in_scopes(quota, old));
        let mut asked = List::new();
        for (name, quantity) in usage.iter().filter(|(name, _)| hard.contains_key(*name)) {
            let more = match before.get(name).filter(|_| known) {
                Some(before) => quantity.minus(before),
                None => *quantity,
            };
            if !more.is_zero() && !more.is_negative() {
                asked.insert(name.clone(), more);
            }
        }
        let mut sum = used.clone();
        resources::add(&mut sum, &asked);
        let over: Vec<&String> = asked.keys().filter(|name| sum.get(*name) > hard.get(*name)).collect();
        if !over.is_empty() && request.subresource != "status" {
            let shown = |of: &List| {
                let one =
                    |name: &&String| format!("{name}={}", of.get(*name).copied().unwrap_or_else(Quantity::default));
                over.iter().map(one).collect::<Vec<_>>().join(",")
            };
            return Err(refuse(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                shown(&asked),
                shown(&used),
                shown(&hard)
            )));
        }
        if !asked.is_empty() {
            charged.push((at, sum));
        }
    }
    Ok(charged)
}

#[cfg(test)]
mod tests {
    use types::registry::by_kind;

    use super::*;
    use crate::admission::tests::{Fixed, request};

    fn check(
        kind: &str,
        object: &mut Value,
        old: Option<&Value>,
        quota: Value,
        expected: Result<&[(&str, &str)], &str>,
    ) {
        let view = Fixed::default();
        let kind = &types::registry::KindRef::from(by_kind("", "v1", kind).unwrap());
        let user = crate::auth::identity::Identity::default();
        let mut request = request(&view, &user, kind);
        request.operation = if old.is_some() { Operation::Update } else { Operation::Create };
        (request.object, request.old) = (Some(object), old);
        let mut quota = quota;
        quota["metadata"] = json!({"name": "q"});
        let decided = decide(&request, [&quota].into_iter()).map_err(|status| status.message);
        let decided = decided.map(|charged| {
            let used = charged.into_iter().flat_map(|(_, used)| used);
            used.map(|(name, quantity)| (name, quantity.to_string())).collect::<Vec<_>>()
        });
        let expected = expected.map(|list| list.iter().map(|(n, q)| ((*n).to_owned(), (*q).to_owned())).collect());
        assert_eq!(decided, expected.map_err(str::to_owned), "{quota}");
    }

    #[test]
    fn charges() {
        let pod = || {
            json!({"metadata": {"name": "x"}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]}})
        };
        let quota = |hard: Value, used: Value| json!({"status": {"hard": hard, "used": used}});
        check(
            "Pod",
            &mut pod(),
            None,
            quota(json!({"pods": "2", "cpu": "3"}), json!({"pods": "1", "cpu": "1"})),
            Ok(&[("cpu", "2"), ("pods", "2")]),
        );
        check(
            "Pod",
            &mut pod(),
            None,
            quota(
                json!({"pods": "1", "cpu": "1500m", "secrets": "1"}),
                json!({"pods": "1", "cpu": "1", "secrets": "1"}),
            ),
            Err("pods \"x\" is forbidden: exceeded quota: q, requested: cpu=1,pods=1, used: cpu=1,pods=1, limited: \
                 cpu=1500m,pods=1"),
        );
        check(
            "Pod",
            &mut pod(),
            None,
            quota(json!({"limits.memory": "1"}), json!({"limits.memory": "0"})),
            Err("pods \"x\" is forbidden: failed quota: q: must specify limits.memory for: a"),
        );
        check(
            "Pod",
            &mut pod(),
            None,
            quota(json!({"pods": "1"}), json!({})),
            Err("pods \"x\" is forbidden: status unknown for quota: q, resources: pods"),
        );
        // what it does not count, and what is out of its scope, is not charged
        check("Pod", &mut pod(), None, quota(json!({"secrets": "0"}), json!({"secrets": "0"})), Ok(&[]));
        let mut scoped = quota(json!({"pods": "0"}), json!({"pods": "0"}));
        scoped["spec"] = json!({"scopes": ["BestEffort"]});
        check("Pod", &mut pod(), None, scoped, Ok(&[]));
        // an update pays for what it adds
        let service = |kind: &str| json!({"metadata": {"name": "x"}, "spec": {"type": kind, "ports": [{}, {}]}});
        check(
            "Service",
            &mut service("NodePort"),
            Some(&service("ClusterIP")),
            quota(
                json!({"services": "1", "services.nodeports": "2"}),
                json!({"services": "1", "services.nodeports": "0"}),
            ),
            Ok(&[("services", "1"), ("services.nodeports", "2")]),
        );
        check(
            "Service",
            &mut service("ClusterIP"),
            Some(&service("NodePort")),
            quota(
                json!({"services": "0", "services.nodeports": "0"}),
                json!({"services": "1", "services.nodeports": "2"}),
            ),
            Ok(&[]),
        );
    }
}
