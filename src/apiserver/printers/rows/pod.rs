//! The pod row: readiness, the one word for what the pod is doing, restarts.

use serde_json::Value;

use super::super::Row;
use super::super::cells::{NONE, created, or};
use super::{completed, condition, name};
use crate::hooks::json::{boolean, get, has, int, list, text};

/// What the walk over container statuses gathers.
#[derive(Default)]
struct Walk {
    reason: String,
    ready: usize,
    restarts: i64,
    sidecar_restarts: i64,
    last_restart: Option<jiff::Timestamp>,
    last_sidecar_restart: Option<jiff::Timestamp>,
    initializing: bool,
}

pub fn row(pod: &Value, now: jiff::Timestamp) -> Row {
    let (spec, status) = (get(pod, "spec"), get(pod, "status"));
    let phase = text(status, "phase");
    let mut walk = Walk { reason: or(text(status, "reason"), phase).to_owned(), ..Walk::default() };
    if condition(pod, "PodScheduled").is_some_and(|c| text(c, "reason") == "SchedulingGated") {
        walk.reason = "SchedulingGated".into();
    }
    let sidecar_names: Vec<&str> = list(spec, "initContainers")
        .iter()
        .filter(|c| text(c, "restartPolicy") == "Always")
        .map(|c| text(c, "name"))
        .collect();
    let total = list(spec, "containers").len() + sidecar_names.len();
    init_containers(&mut walk, spec, status, &sidecar_names);
    if !walk.initializing || condition(pod, "Initialized").is_some_and(|c| text(c, "status") == "True") {
        app_containers(&mut walk, pod, status);
    }
    if has(get(pod, "metadata"), "deletionTimestamp") {
        if text(status, "reason") == "NodeLost" {
            walk.reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            walk.reason = "Terminating".into();
        }
    }
    let restarts = match walk.last_restart {
        Some(at) if walk.restarts != 0 => {
            let ago = types::time::human_duration(now.as_second() - at.as_second());
            format!("{} ({ago} ago)", walk.restarts)
        }
        _ => walk.restarts.to_string(),
    };
    let ip = list(status, "podIPs").first().map_or("", |ip| text(ip, "ip"));
    let cells = vec![
        name(pod),
        format!("{}/{total}", walk.ready).into(),
        walk.reason.into(),
        restarts.into(),
        created(pod, now).into(),
        or(or(ip, text(status, "podIP")), NONE).into(),
        or(text(spec, "nodeName"), NONE).into(),
        or(text(status, "nominatedNodeName"), NONE).into(),
        readiness_gates(pod, spec).into(),
    ];
    let conditions = match phase {
        "Succeeded" => vec![completed("Succeeded", "The pod has completed successfully.")],
        "Failed" => vec![completed("Failed", "The pod failed.")],
        _ => Vec::new(),
    };
    Row { cells, conditions }
}

fn readiness_gates(pod: &Value, spec: &Value) -> String {
    let gates = list(spec, "readinessGates");
    if gates.is_empty() {
        return NONE.into();
    }
    let holds = |g: &&Value| condition(pod, text(g, "conditionType")).is_some_and(|c| text(c, "status") == "True");
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

fn finished(container: &Value) -> Option<jiff::Timestamp> {
    text(get(get(container, "lastState"), "terminated"), "finishedAt").parse().ok()
}

fn init_containers(walk: &mut Walk, spec: &Value, status: &Value, sidecars: &[&str]) {
    let total = list(spec, "initContainers").len();
    for (i, container) in list(status, "initContainerStatuses").iter().enumerate() {
        let restarts = int(container, "restartCount").unwrap_or(0);
        let at = finished(container);
        walk.restarts += restarts;
        walk.last_restart = walk.last_restart.max(at);
        let sidecar = sidecars.contains(&text(container, "name"));
        if sidecar {
            walk.sidecar_restarts += restarts;
            walk.last_sidecar_restart = walk.last_sidecar_restart.max(at);
        }
        let state = get(container, "state");
        let (terminated, waiting) = (get(state, "terminated"), get(state, "waiting"));
        if !terminated.is_null() && int(terminated, "exitCode").unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && boolean(container, "started") {
            walk.ready += usize::from(boolean(container, "ready"));
            continue;
        }
        walk.reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !matches!(text(waiting, "reason"), "" | "PodInitializing") {
            format!("Init:{}", text(waiting, "reason"))
        } else {
            format!("Init:{i}/{total}")
        };
        walk.initializing = true;
        break;
    }
}

/// The reason of an end, or its signal or exit code.
fn ended(terminated: &Value) -> String {
    match (text(terminated, "reason"), int(terminated, "signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn app_containers(walk: &mut Walk, pod: &Value, status: &Value) {
    walk.restarts = walk.sidecar_restarts;
    walk.last_restart = walk.last_sidecar_restart;
    let mut running = false;
    let mut error = None;
    // backwards, so that the first container has the last word
    for container in list(status, "containerStatuses").iter().rev() {
        walk.restarts += int(container, "restartCount").unwrap_or(0);
        walk.last_restart = walk.last_restart.max(finished(container));
        let state = get(container, "state");
        let (terminated, waiting) = (get(state, "terminated"), text(get(state, "waiting"), "reason"));
        if !waiting.is_empty() {
            walk.reason = waiting.to_owned();
        } else if !terminated.is_null() {
            walk.reason = ended(terminated);
            if int(terminated, "exitCode").unwrap_or(0) != 0 {
                error = Some(walk.reason.clone());
            }
        } else if boolean(container, "ready") && has(state, "running") {
            running = true;
            walk.ready += 1;
        }
    }
    if walk.reason == "Completed" {
        let ready = condition(pod, "Ready").is_some_and(|c| text(c, "status") == "True");
        match (running, ready, error) {
            (true, true, _) => walk.reason = "Running".into(),
            (_, _, Some(error)) => walk.reason = error,
            (true, false, None) => walk.reason = "NotReady".into(),
            (false, _, None) => {}
        }
    }
}
