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

const START_HOOKS: [&str; 3] = [
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
];

/// Answers a health path: `Some((code, text))` when it is one.
///
/// `out_of_step`: what memory does not hold as the store does any more.
pub fn answer(
    path: &str,
    query: &Query,
    store: &dyn Store,
    out_of_step: &[&str],
    stopping: bool,
) -> Option<(u16, String)> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let root = parts.next()?;
    if !matches!(root, "livez" | "readyz" | "healthz") {
        return None;
    }
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
    if root == "readyz" {
        let stopping = if stopping { Err("process is shutting down".into()) } else { Ok(()) };
        checks.push(Check { name: "shutdown", result: stopping });
    }
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
