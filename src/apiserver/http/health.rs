//! `/livez`, `/readyz`, `/healthz`, with their single checks.
//!
//! Source: apiserver `pkg/server/healthz/healthz.go`.

use store::Store;

use super::query::Query;

/// One check: its name and whether it passes.
struct Check {
    name: &'static str,
    result: Result<(), String>,
}

/// What upstream does after its start, and monitors ask for by name.
/// Source: kubernetes `test/e2e/apimachinery/health_handlers.go`, and the hooks' names at `AddPostStartHook`.
const START_HOOKS: [&str; 20] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-readiness",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/kube-apiserver-autoregistration",
];
/// Those that upstream lists after the hooks.
const AGGREGATION: [&str; 2] = ["autoregister-completion", "poststarthook/apiservice-openapi-controller"];

/// The health paths.
pub const ROOTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// What is looked at under one of them. `out_of_step`: what memory does not hold as the store does any more.
fn checks(root: &str, store: &dyn Store, out_of_step: &[&str], stopping: bool) -> Vec<Check> {
    let passed = |name| Check { name, result: Ok(()) };
    let mut checks = vec![passed("ping"), passed("log")];
    // A store that takes no writes still serves: the process is alive, but others should be asked.
    let writable = store.writable().map_err(|e| e.to_string());
    checks.push(Check { name: "etcd", result: if root == "livez" { Ok(()) } else { writable.clone() } });
    if root == "readyz" {
        checks.push(Check { name: "etcd-readiness", result: writable });
        // Everything is read from memory, which is filled before the first request comes and follows the store.
        let result =
            if out_of_step.is_empty() { Ok(()) } else { Err(format!("not in step: {}", out_of_step.join(", "))) };
        checks.push(Check { name: "informer-sync", result });
    }
    // What these hooks do upstream is done before the first request comes, too.
    checks.extend(START_HOOKS.map(passed));
    checks.extend(AGGREGATION.map(passed));
    if root == "readyz" {
        let stopping = if stopping { Err("process is shutting down".into()) } else { Ok(()) };
        checks.push(Check { name: "shutdown", result: stopping });
    }
    checks
}

/// How each check of each path ends now, by `(check, path, passed)`.
pub fn now(store: &dyn Store, out_of_step: &[&str], stopping: bool) -> Vec<(&'static str, &'static str, bool)> {
    let all =
        |root| checks(root, store, out_of_step, stopping).into_iter().map(move |c| (c.name, root, c.result.is_ok()));
    ROOTS.into_iter().flat_map(all).collect()
}

/// Answers a health path: `Some((code, text))` when it is one.
///
/// `out_of_step`: as for [`now`], what memory does not hold as the store does any more.
pub fn answer(
    path: &str,
    query: &Query,
    store: &dyn Store,
    out_of_step: &[&str],
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
        let code = |path: &str, out_of_step: &[&str]| answer(path, &query, &*store, out_of_step, false).unwrap().0;
        for (path, expected) in
            [("/readyz", 500), ("/readyz/informer-sync", 500), ("/livez", 200), ("/readyz/ping", 200)]
        {
            assert_eq!((code(path, &[]), code(path, &["roles"])), (200, expected), "{path}");
        }
    }
}
