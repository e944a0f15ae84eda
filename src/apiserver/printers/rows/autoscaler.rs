//! The row of a HorizontalPodAutoscaler, in the version that is kept (v2).

use serde_json::Value;

use super::super::cells::{NONE, number, quantity};
use super::with_age;
use crate::hooks::json::{get, has, int, list, text};

/// How many metrics are told.
const SHOWN_MAX: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub fn cells(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let target = get(spec, "scaleTargetRef");
    let fewest = int(spec, "minReplicas").map_or_else(|| "<unset>".into(), |n| n.to_string());
    let between = [
        format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
        targets(list(spec, "metrics"), list(status, "currentMetrics")).into(),
        fewest.into(),
        number(spec, "maxReplicas"),
        number(status, "currentReplicas"),
    ];
    with_age(object, now, between)
}

fn targets(metrics: &[Value], current: &[Value]) -> String {
    if metrics.is_empty() {
        return NONE.into();
    }
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(SHOWN_MAX)
        .map(|(i, m)| metric(m, current.get(i).unwrap_or(&Value::Null)))
        .collect();
    let shown = shown.join(", ");
    match metrics.len() {
        n if n > SHOWN_MAX => format!("{shown} + {} more...", n - SHOWN_MAX),
        _ => shown,
    }
}

fn metric(metric: &Value, status: &Value) -> String {
    let source = match text(metric, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let (spec, status) = (get(metric, source), get(status, source));
    let (target, current) = (get(spec, "target"), get(status, "current"));
    let averages = has(target, "averageValue");
    let value = |field: &str, known: bool| if known { quantity(get(current, field)) } else { UNKNOWN.to_owned() };
    match source {
        "external" | "object" if averages => {
            let now = value("averageValue", has(current, "averageValue"));
            format!("{now}/{} (avg)", quantity(get(target, "averageValue")))
        }
        "external" | "object" => {
            format!("{}/{}", value("value", !status.is_null()), quantity(get(target, "value")))
        }
        "pods" => {
            format!("{}/{}", value("averageValue", !status.is_null()), quantity(get(target, "averageValue")))
        }
        _ if averages => {
            let now = value("averageValue", !status.is_null());
            format!("{}: {now}/{}", text(spec, "name"), quantity(get(target, "averageValue")))
        }
        _ => {
            let percent = |v: &Value, none: &str| {
                int(v, "averageUtilization").map_or_else(|| none.to_owned(), |percent| format!("{percent}%"))
            };
            format!("{}: {}/{}", text(spec, "name"), percent(current, UNKNOWN), percent(target, "<auto>"))
        }
    }
}
