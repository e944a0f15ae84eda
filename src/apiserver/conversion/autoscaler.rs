//! HorizontalPodAutoscaler in autoscaling/v1: knows the use of CPU only; the rest travels in annotations.
//! Source: `pkg/apis/autoscaling/v1/conversion.go`, `pkg/apis/autoscaling/annotations.go`.

use serde_json::{Map, Value, json};

use super::Rule;
use crate::hooks::autoscaling::autoscaler::{cpu, drop_round_trip};
use crate::hooks::json::{at, ensure_object, get, has, int, list, object_mut, quantity, remove, set, text};

pub static V1: Rule = Rule { keep, serve };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CPU_PERCENT: &str = "targetCPUUtilizationPercentage";
const CURRENT_CPU_PERCENT: &str = "currentCPUUtilizationPercentage";
/// What v1 uses when nothing is asked for. Source: `DefaultCPUUtilization`.
const DEFAULT_PERCENT: i64 = 80;

/// A field of a metric: its name in v1, and the struct (if any) and name in v2.
type Field = (&'static str, &'static str, &'static str);

/// The fields of one source of metrics, in the spec and in the status.
struct Source {
    name: &'static str,
    spec: &'static [Field],
    status: &'static [Field],
}

const SOURCES: [Source; 5] = [
    Source {
        name: "object",
        spec: &[
            ("target", "", "describedObject"),
            ("metricName", "metric", "name"),
            ("selector", "metric", "selector"),
            ("targetValue", "target", "value"),
            ("averageValue", "target", "averageValue"),
        ],
        status: &[
            ("target", "", "describedObject"),
            ("metricName", "metric", "name"),
            ("selector", "metric", "selector"),
            ("currentValue", "current", "value"),
            ("averageValue", "current", "averageValue"),
        ],
    },
    Source {
        name: "pods",
        spec: &[
            ("metricName", "metric", "name"),
            ("selector", "metric", "selector"),
            ("targetAverageValue", "target", "averageValue"),
        ],
        status: &[
            ("metricName", "metric", "name"),
            ("selector", "metric", "selector"),
            ("currentAverageValue", "current", "averageValue"),
        ],
    },
    Source {
        name: "resource",
        spec: &[
            ("name", "", "name"),
            ("targetAverageUtilization", "target", "averageUtilization"),
            ("targetAverageValue", "target", "averageValue"),
        ],
        status: &[
            ("name", "", "name"),
            ("currentAverageUtilization", "current", "averageUtilization"),
            ("currentAverageValue", "current", "averageValue"),
        ],
    },
    Source {
        name: "containerResource",
        spec: &[
            ("name", "", "name"),
            ("container", "", "container"),
            ("targetAverageUtilization", "target", "averageUtilization"),
            ("targetAverageValue", "target", "averageValue"),
        ],
        status: &[
            ("name", "", "name"),
            ("container", "", "container"),
            ("currentAverageUtilization", "current", "averageUtilization"),
            ("currentAverageValue", "current", "averageValue"),
        ],
    },
    Source {
        name: "external",
        spec: &[
            ("metricName", "metric", "name"),
            ("metricSelector", "metric", "selector"),
            ("targetValue", "target", "value"),
            ("targetAverageValue", "target", "averageValue"),
        ],
        status: &[
            ("metricName", "metric", "name"),
            ("metricSelector", "metric", "selector"),
            ("currentValue", "current", "value"),
            ("currentAverageValue", "current", "averageValue"),
        ],
    },
];

/// Amounts that v1 cannot leave out.
const ALWAYS: [(&str, &str); 7] = [
    ("object", "targetValue"),
    ("pods", "targetAverageValue"),
    ("object", "currentValue"),
    ("pods", "currentAverageValue"),
    ("resource", "currentAverageValue"),
    ("containerResource", "currentAverageValue"),
    ("external", "currentValue"),
];

fn fields(source: &'static Source, status: bool) -> &'static [Field] {
    if status { source.status } else { source.spec }
}

/// Whether the metric is the one that v1 has a field for.
fn is_cpu(metric: &Value) -> bool {
    text(metric, "type") == "Resource" && text(get(metric, "resource"), "name") == "cpu"
}

fn serve(object: &mut Value) {
    drop_round_trip(object);
    let (spec, status) = (get(object, "spec").clone(), get(object, "status").clone());
    let percent =
        |metric: &Value| int(at(metric, &["resource", "target"]), "averageUtilization").filter(|_| is_cpu(metric));
    let mut said: Vec<(&str, Value)> = Vec::new();
    let others = list(&spec, "metrics").iter().filter(|m| percent(m).is_none());
    let others: Vec<Value> = others.map(|m| older(m, false)).collect();
    if !others.is_empty() {
        said.push((METRICS, others.into()));
    }
    let current: Vec<Value> = list(&status, "currentMetrics").iter().map(|m| older(m, true)).collect();
    if !current.is_empty() {
        said.push((CURRENT_METRICS, current.into()));
    }
    if has(&spec, "behavior") {
        said.push((BEHAVIOR, behavior(get(&spec, "behavior"), str::to_ascii_uppercase)));
    }
    if !list(&status, "conditions").is_empty() {
        said.push((CONDITIONS, get(&status, "conditions").clone()));
    }
    if !said.is_empty()
        && let Some(annotations) = ensure_object(object, "metadata").and_then(|meta| ensure_object(meta, "annotations"))
    {
        said.into_iter().for_each(|(name, value)| set(annotations, name, value.to_string()));
    }
    if let Some(kept) = object_mut(object, "spec") {
        ["metrics", "behavior"].iter().for_each(|field| remove(kept, field));
        if let Some(percent) = list(&spec, "metrics").iter().find_map(percent) {
            set(kept, CPU_PERCENT, percent);
        }
    }
    if let Some(kept) = object_mut(object, "status") {
        ["currentMetrics", "conditions"].iter().for_each(|field| remove(kept, field));
        // these two are always shown
        for field in ["currentReplicas", "desiredReplicas"] {
            set(kept, field, int(&status, field).unwrap_or(0));
        }
        let current = |m: &Value| int(at(m, &["resource", "current"]), "averageUtilization").filter(|_| is_cpu(m));
        if let Some(percent) = list(&status, "currentMetrics").iter().rev().find_map(current) {
            set(kept, CURRENT_CPU_PERCENT, percent);
        }
    }
}

fn keep(object: &mut Value) {
    let annotated = |name: &str| -> Option<Value> {
        serde_json::from_str(at(object, &["metadata", "annotations", name]).as_str()?).ok()
    };
    let metrics = annotated(METRICS).filter(Value::is_array);
    let current = annotated(CURRENT_METRICS).filter(Value::is_array);
    let conditions = annotated(CONDITIONS).filter(Value::is_array);
    let behavior = annotated(BEHAVIOR).filter(|b| b.as_object().is_some_and(|b| b.values().any(|v| !v.is_null())));
    drop_round_trip(object);
    if let Some(spec) = ensure_object(object, "spec") {
        let mut all: Vec<Value> =
            metrics.iter().flat_map(|m| m.as_array().into_iter().flatten()).map(newer_spec).collect();
        if let Some(percent) = int(spec, CPU_PERCENT) {
            all.push(cpu(percent));
        }
        if all.is_empty() {
            all.push(cpu(DEFAULT_PERCENT));
        }
        remove(spec, CPU_PERCENT);
        set(spec, "metrics", all);
        if let Some(given) = behavior {
            set(spec, "behavior", self::behavior(&given, str::to_ascii_lowercase));
        }
    }
    let Some(status) = object_mut(object, "status") else { return };
    let percent = int(status, CURRENT_CPU_PERCENT);
    remove(status, CURRENT_CPU_PERCENT);
    if let Some(current) = current {
        let current: Vec<Value> = current.as_array().into_iter().flatten().map(|m| newer(m, true)).collect();
        set(status, "currentMetrics", current);
    } else if let Some(percent) = percent {
        let current =
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}});
        set(status, "currentMetrics", json!([current]));
    } else {
        set(status, "currentMetrics", Value::Null);
    }
    if let Some(conditions) = conditions {
        set(status, "conditions", conditions);
    }
}

/// A metric of v2 as v1 writes it into an annotation.
fn older(metric: &Value, status: bool) -> Value {
    let mut out = json!({"type": text(metric, "type")});
    for source in SOURCES.iter().filter(|source| has(metric, source.name)) {
        let given = get(metric, source.name);
        let mut written = Map::new();
        for (older, holder, newer) in fields(source, status) {
            let value = get(if holder.is_empty() { given } else { get(given, holder) }, newer);
            if !value.is_null() {
                written.insert((*older).to_owned(), value.clone());
            } else if ALWAYS.contains(&(source.name, older)) {
                written.insert((*older).to_owned(), "0".into());
            }
        }
        set(&mut out, source.name, written);
    }
    out
}

/// A metric of v1, from an annotation, as v2 has it.
fn newer(metric: &Value, status: bool) -> Value {
    let mut out = json!({"type": text(metric, "type")});
    for source in SOURCES.iter().filter(|source| has(metric, source.name)) {
        let mut written = json!({});
        for (older, holder, newer) in fields(source, status) {
            let value = get(get(metric, source.name), older);
            if value.is_null() {
                continue;
            }
            let into = if holder.is_empty() { Some(&mut written) } else { ensure_object(&mut written, holder) };
            if let Some(into) = into {
                set(into, newer, value.clone());
            }
        }
        set(&mut out, source.name, written);
    }
    out
}

/// A metric of a spec has the kind of its target said in v2, which v1 leaves to be seen.
fn newer_spec(metric: &Value) -> Value {
    let mut out = newer(metric, false);
    for source in &SOURCES {
        let Some(target) = object_mut(&mut out, source.name).and_then(|s| ensure_object(s, "target")) else { continue };
        let kind = match source.name {
            "object" if has(target, "averageValue") => {
                // v1 cannot leave the value out
                if quantity(get(target, "value")).is_none_or(|q| q.is_zero()) {
                    remove(target, "value");
                }
                "AverageValue"
            }
            "object" => "Value",
            "external" if has(target, "value") => "Value",
            "resource" | "containerResource" if has(target, "averageUtilization") => "Utilization",
            _ => "AverageValue",
        };
        set(target, "type", kind);
    }
    out
}

/// The behavior with the first letters of its fields changed: the annotation has the names of upstream's internal type.
fn behavior(given: &Value, change: fn(&str) -> String) -> Value {
    match given {
        Value::Object(fields) => {
            let renamed = fields.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| {
                let (first, rest) = key.split_at(key.chars().next().map_or(0, char::len_utf8));
                (format!("{}{rest}", change(first)), behavior(value, change))
            });
            Value::Object(renamed.collect())
        }
        Value::Array(items) => items.iter().map(|item| behavior(item, change)).collect(),
        other => other.clone(),
    }
}
