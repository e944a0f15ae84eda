//! Rows of what makes pods: workloads, jobs, templates.

use serde_json::Value;

use super::super::cells::{NONE, age, containers, containers_of, created, labels, number, selector};
use super::{condition, name, with_age};
use crate::hooks::json::{at, boolean, get, has, int, list, text};

pub fn deployment(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let counts = [ready(object).into(), number(status, "updatedReplicas"), number(status, "availableReplicas")];
    with_containers(object, with_age(object, now, counts), selector(get(spec, "selector"), "", "<invalid>"))
}

pub fn replica_set(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let cells = with_age(object, now, replicas(object));
    with_containers(object, cells, selector(at(object, &["spec", "selector"]), NONE, "<error>"))
}

pub fn replication_controller(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    with_containers(object, with_age(object, now, replicas(object)), labels(get(object, "spec"), "selector"))
}

pub fn stateful_set(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut cells = with_age(object, now, [ready(object).into()]);
    let (names, images) = containers(object);
    cells.extend([names.into(), images.into()]);
    cells
}

pub fn daemon_set(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let status = get(object, "status");
    let counts = [
        number(status, "desiredNumberScheduled"),
        number(status, "currentNumberScheduled"),
        number(status, "numberReady"),
        number(status, "updatedNumberScheduled"),
        number(status, "numberAvailable"),
        labels(at(object, &["spec", "template", "spec"]), "nodeSelector").into(),
    ];
    let cells = with_age(object, now, counts);
    with_containers(object, cells, selector(at(object, &["spec", "selector"]), NONE, "<error>"))
}

pub fn controller_revision(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let owners = list(get(object, "metadata"), "ownerReferences");
    let controller = owners.iter().find(|o| boolean(o, "controller")).map_or_else(
        || NONE.to_owned(),
        |owner| {
            let group = text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
            let kind = text(owner, "kind").to_ascii_lowercase();
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", text(owner, "name"))
        },
    );
    with_age(object, now, [controller.into(), number(object, "revision")])
}

pub fn pod_template(object: &Value) -> Vec<Value> {
    let template = get(object, "template");
    let (names, images) = containers_of(template);
    vec![name(object), names.into(), images.into(), labels(get(template, "metadata"), "labels").into()]
}

pub fn job(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let succeeded = int(status, "succeeded").unwrap_or(0);
    let completions = match (int(spec, "completions"), int(spec, "parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |field| text(status, field).parse::<jiff::Timestamp>().ok();
    let duration = time("startTime").map_or_else(String::new, |start| {
        types::time::human_duration(time("completionTime").unwrap_or(now).as_second() - start.as_second())
    });
    let is = |kind: &str| condition(object, kind).is_some_and(|c| text(c, "status") == "True");
    let state = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if has(get(object, "metadata"), "deletionTimestamp") => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let cells = with_age(object, now, [state.into(), completions.into(), duration.into()]);
    with_containers(object, cells, selector(get(spec, "selector"), NONE, "<error>"))
}

pub fn cron_job(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let suspend = match get(spec, "suspend").as_bool() {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    let zone = if has(spec, "timeZone") { text(spec, "timeZone") } else { NONE };
    let last = get(status, "lastScheduleTime");
    let last = if last.is_null() { NONE.to_owned() } else { age(last, now) };
    let job = at(spec, &["jobTemplate", "spec"]);
    let (names, images) = containers_of(get(job, "template"));
    vec![
        name(object),
        text(spec, "schedule").into(),
        zone.into(),
        suspend.into(),
        list(status, "active").len().into(),
        last.into(),
        created(object, now).into(),
        names.into(),
        images.into(),
        selector(get(job, "selector"), NONE, "<error>").into(),
    ]
}

/// Ready replicas of those that are wanted.
fn ready(object: &Value) -> String {
    let (ready, wanted) = (at(object, &["status", "readyReplicas"]), at(object, &["spec", "replicas"]));
    format!("{}/{}", ready.as_i64().unwrap_or(0), wanted.as_i64().unwrap_or(0))
}

/// Wanted, there, ready.
fn replicas(object: &Value) -> [Value; 3] {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    [number(spec, "replicas"), number(status, "replicas"), number(status, "readyReplicas")]
}

/// The wide cells of a workload behind the others.
fn with_containers(object: &Value, mut cells: Vec<Value>, selector: String) -> Vec<Value> {
    let (names, images) = containers(object);
    cells.extend([names.into(), images.into(), selector.into()]);
    cells
}
