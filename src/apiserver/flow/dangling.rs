//! Says in the status of every FlowSchema whether the priority level that it names is there.
//!
//! Source: apiserver `pkg/util/flowcontrol/apf_controller.go` `presyncFlowSchemaStatus`.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use store::View;
use types::registry::{Kind, by_kind};

use crate::follow::Upheld;
use crate::hooks::json::{get, list, text};
use crate::server::{ApiServer, Shared};
use crate::verbs::object;

const DANGLING: &str = "Dangling";

/// Said of those of which something else was said.
pub(crate) const UPHELD: Upheld = Upheld { right: uphold, matters: |_| true };

fn uphold(shared: &Arc<Shared>) -> BoxFuture<'_, ()> {
    Box::pin(settle(shared))
}

async fn settle(shared: &Arc<Shared>) {
    let due = {
        let view = shared.store.snapshot();
        let levels: BTreeSet<String> =
            all(&*view, "PriorityLevelConfiguration").map(|level| name(&level).to_owned()).collect();
        let now = types::time::rfc3339((shared.config.clock)());
        let due = all(&*view, "FlowSchema")
            .filter_map(|schema| Some((name(&schema).to_owned(), conditions(&schema, &levels, &now)?)));
        due.collect::<Vec<_>>()
    };
    let server = ApiServer::of(shared.clone());
    for (name, conditions) in due {
        let path = format!(
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}/status?fieldManager=api-priority-and-fairness-config-consumer-v1"
        );
        if let Err(status) =
            crate::verbs::start::merge(&server, &path, &json!({"status": {"conditions": conditions}})).await
        {
            // Who changed it or removed it meanwhile is heard of next.
            tracing::debug!(schema = name, why = status.message, "the status of a flow schema was not written");
        }
    }
}

fn kind(name: &str) -> Option<&'static Kind> {
    by_kind("flowcontrol.apiserver.k8s.io", "v1", name)
}

fn all<'v>(view: &'v dyn View, kind_name: &str) -> impl Iterator<Item = Value> + 'v {
    let entries = kind(kind_name).map(|kind| view.range(&kind.store_prefix(), None));
    entries.into_iter().flatten().filter_map(|entry| object::read(entry).ok())
}

fn name(object: &Value) -> &str {
    text(get(object, "metadata"), "name")
}

/// The conditions that the schema must have, when it has others.
fn conditions(schema: &Value, levels: &BTreeSet<String>, now: &str) -> Option<Vec<Value>> {
    let level = text(get(get(schema, "spec"), "priorityLevelConfiguration"), "name");
    let refers = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = match levels.contains(level) {
        true => ("False", "Found", format!("{refers} and it exists")),
        false => ("True", "NotFound", format!("{refers} but there is no such object")),
    };
    let there = list(get(schema, "status"), "conditions");
    let before = there.iter().find(|condition| text(condition, "type") == DANGLING);
    let said = |field: &str| before.map_or("", |before| text(before, field));
    if (said("status"), said("reason"), said("message")) == (status, reason, message.as_str()) {
        return None;
    }
    let since = if said("status") == status { said("lastTransitionTime") } else { now };
    let mut all: Vec<Value> = there.iter().filter(|condition| text(condition, "type") != DANGLING).cloned().collect();
    all.push(
        json!({"type": DANGLING, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}),
    );
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_schema() {
        let levels = BTreeSet::from(["there".to_owned()]);
        let schema = |level: &str, conditions: Value| json!({"spec": {"priorityLevelConfiguration": {"name": level}}, "status": {"conditions": conditions}});
        let condition = |status: &str, reason: &str, what: &str, level: &str, since: &str| {
            let message =
                format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {what}");
            json!({"type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
        };
        let found = condition("False", "Found", "and it exists", "there", "now");
        let lost = condition("True", "NotFound", "but there is no such object", "gone", "now");
        let other = json!({"type": "Other", "status": "True"});
        for (case, schema, expected) in [
            ("all well", schema("there", json!([found])), None),
            ("new", schema("there", Value::Null), Some(vec![found.clone()])),
            ("new, without its level", schema("gone", json!([])), Some(vec![lost.clone()])),
            ("others' stay", schema("gone", json!([other])), Some(vec![other.clone(), lost.clone()])),
            ("another level", schema("gone", json!([found])), Some(vec![lost.clone()])),
            (
                "a new message is no transition",
                schema("there", json!([condition("False", "Found", "and it exists", "x", "then")])),
                Some(vec![condition("False", "Found", "and it exists", "there", "then")]),
            ),
        ] {
            assert_eq!(conditions(&schema, &levels, "now"), expected, "{case}");
        }
    }
}
