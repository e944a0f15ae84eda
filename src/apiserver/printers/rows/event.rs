//! The event row, of both groups that serve events.

use serde_json::Value;

use super::super::cells::{age, or};
use super::name;
use crate::hooks::json::{get, has, int, text};

pub fn cells(event: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let first_or = |a: &'static str, b: &'static str| if has(event, a) { get(event, a) } else { get(event, b) };
    let first = first_or("firstTimestamp", "eventTime");
    let series = get(event, "series");
    let last = match () {
        () if has(series, "lastObservedTime") => get(series, "lastObservedTime"),
        () if has(event, "lastTimestamp") => get(event, "lastTimestamp"),
        () => first,
    };
    let object = get(event, "involvedObject");
    let source = get(event, "source");
    let component = or(text(source, "component"), text(event, "reportingComponent"));
    let host = or(text(source, "host"), text(event, "reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let count = int(series, "count").or_else(|| int(event, "count")).filter(|n| *n != 0).unwrap_or(1);
    vec![
        age(last, now).into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        format!("{}/{}", text(object, "kind").to_ascii_lowercase(), text(object, "name")).into(),
        text(object, "fieldPath").into(),
        source.into(),
        text(event, "message").trim().into(),
        age(first, now).into(),
        count.into(),
        name(event),
    ]
}
