//! What one metric of an autoscaler asks for, and how it is told. Pure.
//!
//! Source: kubernetes `pkg/controller/podautoscaler/horizontal.go` (`computeStatusFor…Metric`).

use std::fmt::Write as _;

use serde_json::{Value, json};
use types::quantity::Quantity;

use super::calculate::{self, Proposal, Samples, Scene};
use super::observe::Measured;

/// What one metric asks for, what it is called, and what the status says of it.
#[derive(Debug)]
pub struct Proposed {
    pub replicas: i32,
    pub name: String,
    pub status: Value,
}

/// A metric that says nothing: for its condition and event, and as it is told of the autoscaler as a whole.
#[derive(Debug)]
pub struct Failed {
    pub reason: &'static str,
    pub error: String,
    pub within: String,
}

/// Works out one metric of the spec.
///
/// # Errors
/// Why it says nothing.
pub fn propose(
    scene: &Scene<'_>,
    namespace: &str,
    metric: &Value,
    measured: Result<Measured, String>,
) -> Result<Proposed, Failed> {
    match metric["type"].as_str().unwrap_or_default() {
        "Resource" => of_resource(scene, metric, "resource", measured),
        "ContainerResource" => of_resource(scene, metric, "containerResource", measured),
        "Pods" => of_pods(scene, &metric["pods"], measured),
        "Object" => of_object(scene, namespace, &metric["object"], measured),
        "External" => of_external(scene, namespace, &metric["external"], measured),
        other => {
            let error = format!("unknown metric source type {other:?}");
            Err(Failed { reason: "InvalidMetricSourceType", within: error.clone(), error })
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A quantity of the spec, in thousandths.
fn target(source: &Value, field: &str) -> Option<i64> {
    source["target"][field].as_str()?.parse::<Quantity>().ok().map(|q| q.millis())
}

fn millis(value: i64) -> Value {
    Quantity::from_millis(value).to_string().into()
}

/// What is used of a resource: memory as bytes are told.
fn quantity(resource: &str, value: i64) -> Value {
    match resource {
        "memory" if value % 1000 == 0 => Quantity::from_bytes(value / 1000).to_string().into(),
        _ => millis(value),
    }
}

fn of_resource(
    scene: &Scene<'_>,
    metric: &Value,
    field: &str,
    measured: Result<Measured, String>,
) -> Result<Proposed, Failed> {
    let source = &metric[field];
    let (resource, container) = (text(source, "name"), text(source, "container"));
    let samples = pods_of(measured).map_err(|e| format!("unable to get metrics for resource {resource}: {e}"));
    let found = if let Some(average) = target(source, "averageValue") {
        let found = samples.and_then(|samples| calculate::average(scene, samples, resource, average));
        found.map_err(|e| format!("failed to get {resource} usage: {e}"))
    } else if let Some(percent) = source["target"]["averageUtilization"].as_i64() {
        let percent = i32::try_from(percent).unwrap_or(i32::MAX);
        let found = samples.and_then(|samples| calculate::utilization(scene, samples, resource, container, percent));
        found.map_err(|e| format!("failed to get {resource} utilization: {e}"))
    } else {
        let words = "neither an average utilization target nor an average value (usage) target was set";
        Err(format!("invalid resource metric source: {words}"))
    };
    let (reason, what) = if container.is_empty() {
        ("FailedGetResourceMetric", format!("failed to get {resource} resource metric value"))
    } else {
        ("FailedGetContainerResourceMetric", format!("failed to get {container} container metric value"))
    };
    let found = found.map_err(|error| Failed { reason, within: format!("{what}: {error}"), error })?;
    let mut current = json!({"averageValue": quantity(resource, found.average)});
    let mut name = format!("{resource} resource");
    if let Some(percent) = found.utilization {
        current["averageUtilization"] = percent.into();
        let of = if container.is_empty() { "resource" } else { "container resource" };
        name = format!("{resource} {of} utilization (percentage of request)");
    }
    let mut status = json!({"type": metric["type"]});
    status[field] = json!({"name": resource, "current": current});
    if !container.is_empty() {
        status[field]["container"] = container.into();
    }
    Ok(Proposed { replicas: found.replicas, name, status })
}

fn pods_of(measured: Result<Measured, String>) -> Result<Samples, String> {
    match measured? {
        Measured::Pods(samples) => Ok(samples),
        Measured::Value(_) => Err("it is no metric of pods".into()),
    }
}

fn value_of(measured: Result<Measured, String>) -> Result<i64, String> {
    match measured? {
        Measured::Value(value) => Ok(value),
        Measured::Pods(_) => Err("it is a metric of pods".into()),
    }
}

/// What the status repeats of a metric's identity.
fn identity(source: &Value) -> Value {
    let mut identity = json!({"name": source["metric"]["name"]});
    if source["metric"]["selector"].is_object() {
        identity["selector"] = source["metric"]["selector"].clone();
    }
    identity
}

fn of_pods(scene: &Scene<'_>, source: &Value, measured: Result<Measured, String>) -> Result<Proposed, Failed> {
    let name = text(&source["metric"], "name");
    let samples = pods_of(measured).map_err(|e| format!("unable to get metric {name}: {e}"));
    let average = target(source, "averageValue").unwrap_or(0);
    let found = samples.and_then(|samples| calculate::average(scene, samples, "", average)).map_err(|error| {
        Failed { reason: "FailedGetPodsMetric", within: format!("failed to get pods metric value: {error}"), error }
    })?;
    let status = json!({"type": "Pods",
        "pods": {"metric": identity(source), "current": {"averageValue": millis(found.average)}}});
    Ok(Proposed { replicas: found.replicas, name: format!("pods metric {name}"), status })
}

fn of_object(
    scene: &Scene<'_>,
    namespace: &str,
    source: &Value,
    measured: Result<Measured, String>,
) -> Result<Proposed, Failed> {
    let (name, object) = (text(&source["metric"], "name"), &source["describedObject"]);
    let (kind, on) = (text(object, "kind"), text(object, "name"));
    let usage = value_of(measured).map_err(|e| format!("unable to get metric {name}: {e} on {kind} {namespace}/{on}"));
    let (found, field, called) = numbers(scene, source, usage, || format!("{kind} metric {name}"));
    let found = found.map_err(|error| {
        let inner =
            if field == "averageValue" { format!("failed to get {name} object metric: ") } else { String::new() };
        let within = format!("failed to get object metric value: {inner}{error}");
        Failed { reason: "FailedGetObjectMetric", within, error }
    })?;
    let mut of = json!({"metric": identity(source), "describedObject": object, "current": {}});
    of["current"][field] = millis(found.average);
    Ok(Proposed { replicas: found.replicas, name: called, status: json!({"type": "Object", "object": of}) })
}

fn of_external(
    scene: &Scene<'_>,
    namespace: &str,
    source: &Value,
    measured: Result<Measured, String>,
) -> Result<Proposed, Failed> {
    let (name, selector) = (text(&source["metric"], "name"), in_go(&source["metric"]["selector"]));
    let usage =
        value_of(measured).map_err(|e| format!("unable to get external metric {namespace}/{name}/{selector}: {e}"));
    let (found, field, called) = numbers(scene, source, usage, || format!("external metric {name}({selector})"));
    let found = found.map_err(|error| {
        let inner = if field == "averageValue" {
            format!("failed to get {name} external metric")
        } else {
            format!("failed to get external metric {name}")
        };
        let within = format!("failed to get {name} external metric value: {inner}: {error}");
        Failed { reason: "FailedGetExternalMetric", within, error }
    })?;
    let mut of = json!({"metric": identity(source), "current": {}});
    of["current"][field] = millis(found.average);
    Ok(Proposed { replicas: found.replicas, name: called, status: json!({"type": "External", "external": of}) })
}

/// A number that is to be one value, or so much for each replica; which of both, and what the metric is called then.
fn numbers(
    scene: &Scene<'_>,
    source: &Value,
    usage: Result<i64, String>,
    by_value: impl FnOnce() -> String,
) -> (Result<Proposal, String>, &'static str, String) {
    if let Some(average) = target(source, "averageValue") {
        let metric = &source["metric"];
        let name = format!("external metric {}({})", text(metric, "name"), in_go(&metric["selector"]));
        (usage.map(|usage| calculate::value_per_pod(scene, usage, average)), "averageValue", name)
    } else {
        let value = target(source, "value").unwrap_or(0);
        (usage.and_then(|usage| calculate::value(scene, usage, value)), "value", by_value())
    }
}

/// A selector as upstream's texts show it. Source: Go's `%+v` of `*metav1.LabelSelector`.
fn in_go(selector: &Value) -> String {
    if !selector.is_object() {
        return "nil".into();
    }
    let mut labels = String::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        let _ = write!(labels, "{key}: {},", value.as_str().unwrap_or_default());
    }
    let mut expressions = String::new();
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let values: Vec<&str> = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (key, operator, values) = (text(e, "key"), text(e, "operator"), values.join(" "));
        let _ = write!(expressions, "LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},");
    }
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}
