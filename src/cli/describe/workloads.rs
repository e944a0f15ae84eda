//! What keeps pods alive: deployments, replica sets, daemon sets, replication controllers.

use serde_json::Value;

use super::Facts;
use super::page::{NONE, Page, controller, int, list, map, or, pairs_text, selector_text, shown};
use super::pod::template;
use crate::manifest::text;

const HASH: &str = "pod-template-hash";

pub fn deployment(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    page.field(0, "Name", text(o, "/metadata/name"));
    page.field(0, "Namespace", text(o, "/metadata/namespace"));
    page.field(0, "CreationTimestamp", facts.date("/metadata/creationTimestamp"));
    page.labels(o);
    page.annotations("Annotations", o);
    page.field(0, "Selector", selector_text(&o["spec"]["selector"]));
    page.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            int(o, "/spec/replicas"),
            int(o, "/status/updatedReplicas"),
            int(o, "/status/replicas"),
            int(o, "/status/availableReplicas"),
            int(o, "/status/unavailableReplicas")
        ),
    );
    page.field(0, "StrategyType", text(o, "/spec/strategy/type"));
    page.field(0, "MinReadySeconds", int(o, "/spec/minReadySeconds"));
    if let Some(rolling) = o.pointer("/spec/strategy/rollingUpdate") {
        let (down, up) = (shown(rolling, "/maxUnavailable"), shown(rolling, "/maxSurge"));
        page.field(0, "RollingUpdateStrategy", format!("{down} max unavailable, {up} max surge"));
    }
    template(page, &o["spec"]["template"]);
    conditions(page, o);
    let (new, old) = split_sets(o, &facts.sets);
    if new.is_some() || !old.is_empty() {
        page.field(0, "OldReplicaSets", sets_text(&old));
        page.field(0, "NewReplicaSet", sets_text(new.as_slice()));
    }
    facts.write_events(page);
}

/// The set with the deployment's template, oldest first where several have it, and all the others.
fn split_sets<'a>(deployment: &Value, sets: &'a [Value]) -> (Option<&'a Value>, Vec<&'a Value>) {
    let bare = |template: &Value| {
        let mut template = template.clone();
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH);
        }
        if let Some(meta) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("creationTimestamp");
        }
        template
    };
    let wanted = bare(&deployment["spec"]["template"]);
    let mut sorted: Vec<&Value> = sets.iter().collect();
    sorted.sort_by_key(|s| (text(s, "/metadata/creationTimestamp"), text(s, "/metadata/name")));
    let new = sorted.iter().position(|s| bare(&s["spec"]["template"]) == wanted).map(|at| sorted.remove(at));
    (new, sorted)
}

fn sets_text(sets: &[&Value]) -> String {
    let one = |s: &&Value| {
        let (name, there, wanted) = (text(s, "/metadata/name"), int(s, "/status/replicas"), int(s, "/spec/replicas"));
        format!("{name} ({there}/{wanted} replicas created)")
    };
    or(&sets.iter().map(one).collect::<Vec<_>>().join(", "), NONE).to_owned()
}

fn conditions(page: &mut Page, object: &Value) {
    let conditions = list(object, "/status/conditions");
    if conditions.is_empty() {
        return;
    }
    page.line(0, "Conditions:");
    page.line(1, "Type\tStatus\tReason");
    page.line(1, "----\t------\t------");
    for c in conditions {
        page.line(1, format!("{} \t{}\t{}", text(c, "/type"), text(c, "/status"), text(c, "/reason")));
    }
}

pub fn replica_set(page: &mut Page, facts: &Facts<'_>) {
    replicated(page, facts, &selector_text(&facts.object["spec"]["selector"]));
}

pub fn replication_controller(page: &mut Page, facts: &Facts<'_>) {
    replicated(page, facts, &pairs_text(&map(facts.object, "/spec/selector")));
}

fn replicated(page: &mut Page, facts: &Facts<'_>, selector: &str) {
    let o = facts.object;
    page.field(0, "Name", text(o, "/metadata/name"));
    page.field(0, "Namespace", text(o, "/metadata/namespace"));
    page.field(0, "Selector", selector);
    page.labels(o);
    page.annotations("Annotations", o);
    if let Some(owner) = controller(o) {
        page.field(0, "Controlled By", format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    }
    let (there, wanted) = (int(o, "/status/replicas"), int(o, "/spec/replicas"));
    page.field(0, "Replicas", format!("{there} current / {wanted} desired"));
    page.field(0, "Pods Status", pods_text(facts));
    template(page, &o["spec"]["template"]);
    conditions(page, o);
    facts.write_events(page);
}

pub fn daemon_set(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    page.field(0, "Name", text(o, "/metadata/name"));
    page.field(0, "Namespace", text(o, "/metadata/namespace"));
    page.field(0, "Selector", selector_text(&o["spec"]["selector"]));
    page.pairs("", "Node-Selector", &map(o, "/spec/template/spec/nodeSelector"));
    page.labels(o);
    page.annotations("Annotations", o);
    for (title, field) in [
        ("Desired Number of Nodes Scheduled", "/status/desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "/status/currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "/status/updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "/status/numberAvailable"),
        ("Number of Nodes Misscheduled", "/status/numberMisscheduled"),
    ] {
        page.line(0, format!("{title}: {}", int(o, field)));
    }
    page.field(0, "Pods Status", pods_text(facts));
    template(page, &o["spec"]["template"]);
    facts.write_events(page);
}

fn pods_text(facts: &Facts<'_>) -> String {
    match &facts.pods {
        Err(error) => format!("error in fetching pods: {error}"),
        Ok(pods) => {
            let count = |phase: &str| pods.iter().filter(|p| text(p, "/status/phase") == phase).count();
            format!(
                "{} Running / {} Waiting / {} Succeeded / {} Failed",
                count("Running"),
                count("Pending"),
                count("Succeeded"),
                count("Failed")
            )
        }
    }
}
