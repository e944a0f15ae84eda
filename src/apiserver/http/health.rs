//! `/livez`, `/readyz`, `/healthz`, with their single checks.
//!
//! Source: apiserver `pkg/server/healthz/healthz.go`.

use store::Store;

use super::query::Query;
use crate::follow::Kept;

/// One check: its name and whether it passes.
struct Check {
    name: &'static str,
    result: Result<(), String>,
}

/// What upstream does after its start, by the names that monitors ask for, and what of this server it is that does it. It passes
/// once that has taken in what was there, and fails when it has ended. What names nothing is done before the first request.
/// Source: kubernetes `test/e2e/apimachinery/health_handlers.go`, and the hooks' names at `AddPostStartHook`.
const HOOKS: [(&str, &[Kept]); 26] = [
    (
        "poststarthook/start-apiserver-admission-initializer",
        &[Kept::Webhooks, Kept::Parameters, Kept::Policies, Kept::Definitions],
    ),
    ("poststarthook/generic-apiserver-start-informers", &Kept::ALL),
    ("poststarthook/priority-and-fairness-config-consumer", &[Kept::Flows, Kept::FlowStatus]),
    ("poststarthook/priority-and-fairness-filter", &[]),
    ("poststarthook/storage-object-count-tracker-hook", &[]),
    ("poststarthook/storage-readiness", &[]),
    ("poststarthook/start-apiextensions-informers", &[Kept::Definitions]),
    ("poststarthook/start-apiextensions-controllers", &[Kept::Definitions]),
    ("poststarthook/crd-informer-synced", &[Kept::Definitions]),
    ("poststarthook/start-system-namespaces-controller", &[Kept::Namespaces]),
    ("poststarthook/start-cluster-authentication-info-controller", &[Kept::Trust]),
    ("poststarthook/start-service-ip-repair-controllers", &[Kept::Addresses]),
    ("poststarthook/rbac/bootstrap-roles", &[Kept::Roles]),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", &[]),
    ("poststarthook/priority-and-fairness-config-producer", &[Kept::FlowDefaults]),
    ("poststarthook/bootstrap-controller", &[Kept::OwnService]),
    ("poststarthook/start-kubernetes-service-cidr-controller", &[Kept::DefaultRange]),
    ("poststarthook/start-kube-aggregator-informers", &[Kept::Registrations]),
    ("poststarthook/apiservice-registration-controller", &[Kept::Registrations]),
    ("poststarthook/apiservice-status-local-available-controller", &[Kept::Registrations]),
    ("poststarthook/apiservice-status-remote-available-controller", &[Kept::Registrations]),
    ("poststarthook/apiservice-discovery-controller", &[Kept::Registrations]),
    ("poststarthook/kube-apiserver-autoregistration", &[Kept::OwnRegistrations]),
    ("autoregister-completion", &[Kept::OwnRegistrations]),
    ("poststarthook/apiservice-openapi-controller", &[Kept::Registrations]),
    ("poststarthook/apiservice-openapiv3-controller", &[Kept::Registrations]),
];

/// The health paths.
pub const ROOTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// What is looked at under one of them. `out_of_step`: what is not as the store has it, not yet or not any more.
fn checks(root: &str, store: &dyn Store, out_of_step: &[Kept], stopping: bool) -> Vec<Check> {
    let passed = |name| Check { name, result: Ok(()) };
    let mut checks = vec![passed("ping"), passed("log")];
    // A store that takes no writes still serves: the process is alive, but others should be asked.
    let writable = store.writable().map_err(|e| e.to_string());
    checks.push(Check { name: "etcd", result: if root == "livez" { Ok(()) } else { writable.clone() } });
    if root == "readyz" {
        checks.push(Check { name: "etcd-readiness", result: writable });
        checks.push(Check { name: "informer-sync", result: in_step(&Kept::ALL, out_of_step) });
    }
    checks.extend(HOOKS.map(|(name, kept)| Check { name, result: in_step(kept, out_of_step) }));
    if root == "readyz" {
        let stopping = if stopping { Err("process is shutting down".into()) } else { Ok(()) };
        checks.push(Check { name: "shutdown", result: stopping });
    }
    checks
}

fn in_step(kept: &[Kept], out_of_step: &[Kept]) -> Result<(), String> {
    let not: Vec<&str> = kept.iter().filter(|one| out_of_step.contains(one)).map(|one| one.words()).collect();
    if not.is_empty() { Ok(()) } else { Err(format!("not in step: {}", not.join(", "))) }
}

/// Every path of a single check.
pub fn paths() -> impl Iterator<Item = String> {
    let ends = |root: &'static str| {
        let of_ready = ["etcd-readiness", "informer-sync", "shutdown"].into_iter().filter(move |_| root == "readyz");
        let names = ["ping", "log", "etcd"].into_iter().chain(of_ready).chain(HOOKS.iter().map(|(name, _)| *name));
        std::iter::once(format!("/{root}")).chain(names.map(move |name| format!("/{root}/{name}")))
    };
    ROOTS.into_iter().flat_map(ends)
}

/// How each check of each path ends now, by `(check, path, passed)`.
pub(crate) fn now(store: &dyn Store, out_of_step: &[Kept], stopping: bool) -> Vec<(&'static str, &'static str, bool)> {
    let all =
        |root| checks(root, store, out_of_step, stopping).into_iter().map(move |c| (c.name, root, c.result.is_ok()));
    ROOTS.into_iter().flat_map(all).collect()
}

/// Answers a health path: `Some((code, text))` when it is one.
///
/// `out_of_step`: what is not as the store has it, not yet or not any more.
pub(crate) fn answer(
    path: &str,
    query: &Query,
    store: &dyn Store,
    out_of_step: &[Kept],
    stopping: bool,
) -> Option<(u16, String)> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let root = parts.next()?;
    if !ROOTS.contains(&root) {
        return None;
    }
    let checks = checks(root, store, out_of_step, stopping);
    if let Some(single) = parts.next().filter(|s| !s.is_empty()) {
        let check = checks.iter().find(|c| c.name == single)?;
        return Some(match &check.result {
            Ok(()) => (200, "ok".into()),
            Err(why) => (500, format!("internal server error: {why}\n")),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut text = String::new();
    let mut failed = false;
    for check in &checks {
        if excluded.contains(&check.name) {
            text.push_str(&format!("[+]{} excluded: ok\n", check.name));
            continue;
        }
        match &check.result {
            Ok(()) => text.push_str(&format!("[+]{} ok\n", check.name)),
            Err(why) => {
                tracing::warn!(check = check.name, why, "a health check failed");
                failed = true;
                text.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
            }
        }
    }
    if failed {
        text.push_str(&format!("{root} check failed\n"));
        return Some((500, text));
    }
    if query.get("verbose").is_none() {
        return Some((200, "ok".into()));
    }
    text.push_str(&format!("{root} check passed\n"));
    Some((200, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_does_after_its_start_is_listed_once() {
        let folder = tempfile::tempdir().unwrap();
        let facts = std::sync::Arc::new(crate::facts_of);
        let store = store::SqliteStore::open(&folder.path().join("s"), facts, store::Options::default()).unwrap();
        for (root, own) in [("livez", "etcd"), ("healthz", "etcd"), ("readyz", "informer-sync")] {
            let (code, text) =
                answer(&format!("/{root}"), &Query::parse(Some("verbose=1")), &*store, &[], false).unwrap();
            assert_eq!(code, 200);
            for check in ["ping", own, "poststarthook/bootstrap-controller", "autoregister-completion"] {
                assert_eq!(text.lines().filter(|line| *line == format!("[+]{check} ok")).count(), 1, "{root} {check}");
            }
        }
        assert_eq!(now(&*store, &[], true).iter().filter(|(.., passed)| !passed).count(), 1);
    }

    #[test]
    fn what_is_out_of_step_is_not_ready() {
        let folder = tempfile::tempdir().unwrap();
        let facts = std::sync::Arc::new(crate::facts_of);
        let store = store::SqliteStore::open(&folder.path().join("s"), facts, store::Options::default()).unwrap();
        let query = Query::default();
        let code = |path: &str, out_of_step: &[Kept]| answer(path, &query, &*store, out_of_step, false).unwrap().0;
        for (path, expected) in [
            ("/readyz", 500),
            ("/livez", 500),
            ("/readyz/informer-sync", 500),
            ("/readyz/poststarthook/rbac/bootstrap-roles", 500),
            ("/readyz/poststarthook/generic-apiserver-start-informers", 500),
            ("/livez/poststarthook/bootstrap-controller", 200),
            ("/readyz/ping", 200),
        ] {
            assert_eq!((code(path, &[]), code(path, &[Kept::Roles])), (200, expected), "{path}");
        }
        // Whatever is kept is asked for by somebody, and every path that is named is there.
        for kept in Kept::ALL {
            let named = |(name, of): &(&str, &[Kept])| of.contains(&kept) && !name.ends_with("start-informers");
            assert!(HOOKS.iter().any(named), "{kept:?}");
        }
        for path in paths() {
            assert_eq!(code(&path, &[]), 200, "{path}");
        }
    }
}
