//! The events about an object.

use client::ListParams;
use jiff::Timestamp;
use serde_json::Value;
use types::time::age;

use super::page::{Page, int};
use crate::manifest::text;
use crate::session::Session;
use crate::target::{self, Found};

/// Set on pods that a node made from a file: events name them by it.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// The events about an object; none when they cannot be had, as in kubectl.
pub async fn search(session: &Session, one: &Found) -> Vec<Value> {
    let kind = one.resource.kind.as_str();
    let mut uids = vec![text(&one.object, "/metadata/uid")];
    if kind == "Pod" && one.object.pointer(MIRROR).is_some() {
        uids = vec![text(&one.object, MIRROR)];
    }
    if kind == "Node" {
        // Agents name their node by its name, controllers by its uid.
        uids.push(&one.name);
    }
    // Events about what has no namespace lie in `default`; they are looked for everywhere.
    let path = client::api::resource_path("", "v1", &one.namespace, "events");
    let mut events = Vec::new();
    for uid in uids {
        let mut terms = vec![format!("involvedObject.name={}", one.name)];
        terms.push(format!("involvedObject.namespace={}", one.namespace));
        if kind != "Pod" {
            terms.push(format!("involvedObject.kind={kind}"));
        }
        terms.push(format!("involvedObject.uid={uid}"));
        let listed = target::list_all(session, &path, &ListParams::fields(terms.join(","))).await;
        events.extend(listed.map(|(items, _)| items).unwrap_or_default());
    }
    events
}

pub fn write(page: &mut Page, events: &[Value], now: Timestamp) {
    if events.is_empty() {
        return page.line(0, "Events:\t<none>");
    }
    page.flush();
    let mut events: Vec<&Value> = events.iter().collect();
    // A missing time is before all others.
    events.sort_by_key(|e| text(e, "/lastTimestamp").parse::<Timestamp>().unwrap_or(Timestamp::MIN));
    page.line(0, "Events:");
    page.line(1, "Type\tReason\tAge\tFrom\tMessage");
    page.line(1, "----\t------\t----\t----\t-------");
    for event in events {
        let mut message = text(event, "/message").trim().to_owned();
        let field = text(event, "/involvedObject/fieldPath");
        if !field.is_empty() {
            message = format!("{field}: {message}");
        }
        let from = match text(event, "/source/component") {
            "" => text(event, "/reportingComponent"),
            component => component,
        };
        let cells = [text(event, "/type"), text(event, "/reason"), &interval(event, now), from, &message];
        page.line(1, cells.join("\t"));
    }
}

/// `3m`, or `5s (x4 over 3m)`.
pub fn interval(event: &Value, now: Timestamp) -> String {
    let since = |pointer: &str| age(event.pointer(pointer).and_then(Value::as_str), now);
    let first = match event.pointer("/eventTime").and_then(Value::as_str) {
        Some(_) => since("/eventTime"),
        None => since("/firstTimestamp"),
    };
    if event.get("series").is_some_and(Value::is_object) {
        format!("{} (x{} over {first})", since("/series/lastObservedTime"), int(event, "/series/count"))
    } else if int(event, "/count") > 1 {
        format!("{} (x{} over {first})", since("/lastTimestamp"), int(event, "/count"))
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn intervals() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        for (event, expected) in [
            (json!({"firstTimestamp": "2026-01-01T00:00:00Z", "count": 1}), "10m"),
            (
                json!({"firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:09:55Z", "count": 3}),
                "5s (x3 over 10m)",
            ),
            (json!({"eventTime": "2026-01-01T00:09:00.000000Z"}), "60s"),
            (
                json!({"eventTime": "2026-01-01T00:09:00.000000Z",
                    "series": {"count": 2, "lastObservedTime": "2026-01-01T00:09:59.000000Z"}}),
                "1s (x2 over 60s)",
            ),
            (json!({}), "<unknown>"),
        ] {
            assert_eq!(interval(&event, now), expected);
        }
    }
}
