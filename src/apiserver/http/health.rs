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
pub fn answer(path: &str, query: &Query, store: &dyn Store, stopping: bool) -> Option<(u16, String)> {
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
        // Everything is read from memory, which is filled before the first request comes.
        checks.push(passed("informer-sync"));
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
