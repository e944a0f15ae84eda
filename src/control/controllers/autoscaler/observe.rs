//! What an autoscaler goes by: the scale of its target, and its metrics from the aggregated metrics APIs. Reads only, decides
//! nothing; what fails is a text for conditions and events.
//!
//! Source: kubernetes `pkg/controller/podautoscaler/metrics/client.go`; `staging/src/k8s.io/metrics/pkg/client`.

use client::aggregated::Resources;
use client::api::{object_path, resource_path};
use client::{Autoscaler, Client, Error, ListParams, Object as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use types::quantity::Quantity;
use types::registry::{self, BUILT_IN};
use types::selector::LabelSelector;

use super::calculate::{Sample, Samples};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// What a custom metric is of when it does not say. Source: `metricServerDefaultMetricWindow`.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// The scale subresource of the target.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    pub path: String,
    pub object: Value,
}

impl Scale {
    pub fn wanted(&self) -> i32 {
        int(&self.object["spec"]["replicas"])
    }
    pub fn has(&self) -> i32 {
        int(&self.object["status"]["replicas"])
    }
    pub fn selector(&self) -> &str {
        self.object["status"]["selector"].as_str().unwrap_or_default()
    }
}

/// A metric, in thousandths.
#[derive(Debug, Clone, PartialEq)]
pub enum Measured {
    Pods(Samples),
    Value(i64),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    pub scale: Result<Scale, String>,
    /// In the order of the spec; empty when the scale alone decides.
    pub metrics: Vec<Result<Measured, String>>,
}

pub fn int(value: &Value) -> i32 {
    value.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
}

/// The fewest replicas that an autoscaler leaves.
pub fn min_replicas(spec: &Value) -> i32 {
    spec["minReplicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(1)
}

/// Whether metrics decide, and not the limits alone.
pub fn by_metrics(spec: &Value, current: i32) -> bool {
    current != 0 && current <= int(&spec["maxReplicas"]) && current >= min_replicas(spec)
}

/// Reads what is there now.
pub async fn observe(client: &Client, autoscaler: &Autoscaler) -> Observed {
    let (spec, namespace) = (&autoscaler.spec, autoscaler.namespace());
    let scale = scale(client, namespace, &spec["scaleTargetRef"]).await;
    let mut metrics = Vec::new();
    if let Ok(scale) = &scale
        && by_metrics(spec, scale.wanted())
        && !scale.selector().is_empty()
    {
        let mut asking = Asking { client, namespace, selector: scale.selector(), usage: None };
        for metric in spec["metrics"].as_array().into_iter().flatten() {
            metrics.push(asking.metric(metric).await);
        }
    }
    Observed { scale, metrics }
}

async fn scale(client: &Client, namespace: &str, target: &Value) -> Result<Scale, String> {
    let text = |field: &str| target[field].as_str().unwrap_or_default();
    let found = resource(client, text("apiVersion"), text("kind")).await?;
    let collection = resource_path(&found.group, &found.version, namespace, &found.plural);
    let path = object_path(&collection, text("name"), "scale");
    let object = client.get_path(&path).await.map_err(said)?;
    Ok(Scale { path, object })
}

fn said(error: Error) -> String {
    error.to_string()
}

struct Resource {
    group: String,
    version: String,
    plural: String,
}

/// The resource of a kind, in the version that is named or else in one that has it.
async fn resource(client: &Client, api_version: &str, kind: &str) -> Result<Resource, String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if version.contains('/') {
        return Err(format!("unexpected GroupVersion string: {api_version}"));
    }
    let of = |version: &str, plural: &str| Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
    };
    let built_in = registry::by_kind(group, version, kind);
    if let Some(known) = built_in.or_else(|| BUILT_IN.iter().find(|k| k.group == group && k.kind == kind)) {
        return Ok(of(&known.version, &known.plural));
    }
    let unknown = || format!("no matches for kind {kind:?} in group {group:?}");
    let mut versions = vec![version.to_owned()];
    if let Ok(all) = client.get_path::<Value>(&format!("/apis/{group}")).await {
        let others = all["versions"].as_array().into_iter().flatten().filter_map(|v| v["version"].as_str());
        versions.extend(others.filter(|v| *v != version).map(str::to_owned));
    }
    for version in versions.iter().filter(|v| !v.is_empty() && !group.is_empty()) {
        let list = match client.get_path::<Resources>(&format!("/apis/{group}/{version}")).await {
            Ok(list) => list,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(said(error)),
        };
        if let Some(found) = list.kinds(group, version).into_iter().find(|k| k.kind == kind) {
            return Ok(of(version, &found.plural));
        }
    }
    Err(unknown())
}

struct Asking<'a> {
    client: &'a Client,
    namespace: &'a str,
    selector: &'a str,
    /// The answer about resources, which several metrics may be of.
    usage: Option<Result<Vec<Value>, String>>,
}

impl Asking<'_> {
    async fn metric(&mut self, metric: &Value) -> Result<Measured, String> {
        match metric["type"].as_str().unwrap_or_default() {
            "Resource" => self.usage(&metric["resource"], "").await,
            "ContainerResource" => {
                let container = metric["containerResource"]["container"].as_str().unwrap_or_default();
                self.usage(&metric["containerResource"], container).await
            }
            "Pods" => self.pods(&metric["pods"]["metric"]).await,
            "Object" => self.object(&metric["object"]).await,
            "External" => self.external(&metric["external"]["metric"]).await,
            other => Err(format!("unknown metric source type {other:?}")),
        }
    }

    async fn usage(&mut self, of: &Value, container: &str) -> Result<Measured, String> {
        if self.usage.is_none() {
            let params = ListParams::labels(self.selector);
            let path = format!("{METRICS}/namespaces/{}/pods", self.namespace);
            let listed = self.client.list_path::<Value>(&path, &params).await;
            let failed = |e| format!("unable to fetch metrics from resource metrics API: {e}");
            self.usage = Some(listed.map(|list| list.items).map_err(failed));
        }
        let items = self.usage.as_ref().map_or(Ok(&[][..]), |u| u.as_deref().map_err(Clone::clone))?;
        if items.is_empty() {
            return Err("no metrics returned from resource metrics API".into());
        }
        Ok(Measured::Pods(samples(items, of["name"].as_str().unwrap_or_default(), container)))
    }

    async fn list(&self, path: &str, params: &ListParams, selector: &str) -> Result<Vec<Value>, Error> {
        let mut query = params.query();
        query.text("metricLabelSelector", selector);
        Ok(self.client.get_path::<client::List<Value>>(&query.on(path)).await?.items)
    }

    async fn pods(&self, metric: &Value) -> Result<Measured, String> {
        let failed = |e: String| format!("unable to fetch metrics from custom metrics API: {e}");
        let selector = selector(metric)?;
        let root = custom(self.client).await.map_err(failed)?;
        let name = metric["name"].as_str().unwrap_or_default();
        let path = object_path(&format!("{root}/namespaces/{}/pods/*", self.namespace), name, "");
        let items = self.list(&path, &ListParams::labels(self.selector), &selector).await;
        let items = items.map_err(|e| failed(said(e)))?;
        if items.is_empty() {
            return Err("no metrics returned from custom metrics API".into());
        }
        let of = |item: &Value| {
            let window = item["windowSeconds"].as_i64().map_or(WINDOW, SignedDuration::from_secs);
            let name = item["describedObject"]["name"].as_str()?.to_owned();
            Some((name, Sample { at: time(&item["timestamp"]), window, value: millis(&item["value"])? }))
        };
        Ok(Measured::Pods(items.iter().filter_map(of).collect()))
    }

    async fn object(&self, of: &Value) -> Result<Measured, String> {
        let failed = |e: String| format!("unable to fetch metrics from custom metrics API: {e}");
        let (metric, object) = (&of["metric"], &of["describedObject"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let selector = selector(metric)?;
        let root = custom(self.client).await.map_err(failed)?;
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let collection = if kind == "Namespace" && !api_version.contains('/') {
            // Its name is not looked at: nobody looks beyond the own namespace.
            format!("{root}/namespaces/{}/metrics", self.namespace)
        } else {
            let found = resource(self.client, &api_version, &kind).await.map_err(failed)?;
            let plural =
                if found.group.is_empty() { found.plural } else { format!("{}.{}", found.plural, found.group) };
            object_path(&format!("{root}/namespaces/{}/{plural}", self.namespace), &text(&object["name"]), "")
        };
        let path = object_path(&collection, &text(&metric["name"]), "");
        let items = self.list(&path, &ListParams::default(), &selector).await.map_err(|e| failed(said(e)))?;
        let [item] = items.as_slice() else {
            let words = "the custom metrics API server returned";
            return Err(failed(format!("{words} {} results when we asked for exactly one", items.len())));
        };
        millis(&item["value"]).map(Measured::Value).ok_or_else(|| failed("its value is no quantity".into()))
    }

    async fn external(&self, metric: &Value) -> Result<Measured, String> {
        let name = metric["name"].as_str().unwrap_or_default();
        let path = object_path(&format!("{EXTERNAL}/namespaces/{}", self.namespace), name, "");
        let items = self.list(&path, &ListParams::labels(selector(metric)?), "").await;
        let items = items.map_err(|e| format!("unable to fetch metrics from external metrics API: {e}"))?;
        if items.is_empty() {
            return Err("no metrics returned from external metrics API".into());
        }
        let values = items.iter().filter_map(|item| millis(&item["value"]));
        Ok(Measured::Value(values.fold(0, i64::saturating_add)))
    }
}

/// Where custom metrics are served.
async fn custom(client: &Client) -> Result<String, String> {
    let group: Value = match client.get_path(&format!("/apis/{CUSTOM}")).await {
        Err(error) if error.is_not_found() => return Err(format!("no custom metrics API ({CUSTOM}) registered")),
        other => other.map_err(said)?,
    };
    let versions = group["versions"].as_array().into_iter().flatten();
    let mut served = std::iter::once(&group["preferredVersion"]).chain(versions).filter_map(|v| v["version"].as_str());
    let version = served.find(|v| matches!(*v, "v1beta1" | "v1beta2")).unwrap_or("v1beta1");
    Ok(format!("/apis/{CUSTOM}/{version}"))
}

/// A metric's own selector as a parameter.
fn selector(metric: &Value) -> Result<String, String> {
    LabelSelector::from_object(&metric["selector"]).map(|s| s.to_string()).map_err(|e| e.0)
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|t| t.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn millis(value: &Value) -> Option<i64> {
    value.as_str()?.parse::<Quantity>().ok().map(|q| q.millis())
}

/// What pods use of a resource, or their containers of that name; those of which something is not known are left out.
fn samples(items: &[Value], resource: &str, container: &str) -> Samples {
    let of = |item: &Value| {
        let all = item["containers"].as_array()?;
        let chosen: Vec<&Value> = all.iter().filter(|c| container.is_empty() || c["name"] == container).collect();
        let values: Option<Vec<i64>> = chosen.iter().map(|c| millis(&c["usage"][resource])).collect();
        let values = values.filter(|v| !v.is_empty())?;
        let window = item["window"].as_str().and_then(|w| w.parse().ok()).unwrap_or_default();
        let sample = Sample { at: time(&item["timestamp"]), window, value: values.iter().sum() };
        Some((item["metadata"]["name"].as_str()?.to_owned(), sample))
    };
    items.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_is_read_from_what_metrics_servers_say() {
        let items = [
            json!({"metadata": {"name": "a"}, "timestamp": "2026-01-02T03:04:05Z", "window": "1m0.5s", "containers": [
                {"name": "app", "usage": {"cpu": "100m", "memory": "1Ki"}}, {"name": "log", "usage": {"cpu": "1500001n"}}]}),
            json!({"metadata": {"name": "b"}, "window": "15.034s", "containers": [{"name": "app", "usage": {"cpu": "2"}}]}),
            json!({"metadata": {"name": "c"}, "containers": []}),
        ];
        let found = |resource: &str, container: &str| -> Vec<(String, i64, i128)> {
            let all = samples(&items, resource, container).into_iter();
            all.map(|(name, s)| (name, s.value, s.window.as_millis())).collect()
        };
        assert_eq!(found("cpu", ""), [("a".to_owned(), 102, 60_500), ("b".to_owned(), 2000, 15_034)]);
        assert_eq!(found("cpu", "log"), [("a".to_owned(), 2, 60_500)]);
        assert!(found("memory", "").is_empty());
        assert_eq!(found("memory", "app"), [("a".to_owned(), 1_024_000, 60_500)]);
    }
}
