//! Tables over what is decided, and an autoscaler in a small cluster.

use client::{Patch, WriteParams};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use super::calculate::Sample;
use super::observe::Measured;
use super::*;
use crate::controllers::harness::{self, Cluster, Kubelet};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

/// A pod that asks for a core and has been ready for an hour.
fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {"phase": "Running", "startTime": "2023-11-14T21:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2023-11-14T21:13:20Z"}]}})
}

fn sample(value: i64) -> Sample {
    Sample { at: now(), window: SignedDuration::from_secs(15), value }
}

struct Case {
    autoscaler: Autoscaler,
    replicas: i32,
    pods: Vec<Value>,
    scale: std::result::Result<(), String>,
    selector: &'static str,
    metrics: Vec<std::result::Result<Measured, String>>,
    selecting: Vec<(String, String)>,
}

impl Case {
    /// Three pods, each using half of what it asks for, which is what is wanted.
    fn good() -> Self {
        let metric = json!({"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
        let autoscaler = Autoscaler {
            metadata: serde_json::from_value(json!({"name": "web", "namespace": "shop"})).unwrap(),
            spec: json!({"minReplicas": 2, "maxReplicas": 10, "metrics": [metric],
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}),
            ..Autoscaler::default()
        };
        let names = ["a", "b", "c"];
        let samples = names.iter().map(|name| ((*name).to_owned(), sample(500))).collect();
        Self {
            autoscaler,
            replicas: 3,
            pods: names.iter().map(|name| pod(name)).collect(),
            scale: Ok(()),
            selector: "app=web",
            metrics: vec![Ok(Measured::Pods(samples))],
            selecting: vec![("shop".into(), "web".into())],
        }
    }

    fn samples(&mut self, values: &[(&str, i64)]) {
        let samples = values.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect();
        self.metrics = vec![Ok(Measured::Pods(samples))];
    }

    fn target(&mut self, kind: &str, field: &str, of: Value) {
        let mut metric = json!({"type": kind});
        metric[field] = of;
        self.autoscaler.spec["metrics"] = json!([metric]);
    }

    fn decide(&self, history: &mut History) -> Decision {
        let object = json!({"spec": {"replicas": self.replicas},
            "status": {"replicas": self.replicas, "selector": self.selector}});
        let scale = self.scale.clone().map(|()| Scale { path: "/scale".into(), object });
        let pods: Vec<Arc<Pod>> =
            self.pods.iter().map(|p| Arc::new(serde_json::from_value(p.clone()).unwrap())).collect();
        let around = Around { pods: &pods, selecting: &self.selecting, now: now() };
        decide(&self.autoscaler, Observed { scale, metrics: self.metrics.clone() }, &around, history)
    }
}

fn conditions(status: &Value) -> Vec<(&str, &str, &str)> {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.map(|c| (c["type"].as_str().unwrap(), c["status"].as_str().unwrap(), c["reason"].as_str().unwrap())).collect()
}

type Change = fn(&mut Case);

#[test]
fn how_many_replicas() {
    let cases: &[(&str, Change, Option<i32>)] = &[
        ("all is well", |_| {}, None),
        ("within the tolerance", |c| c.samples(&[("a", 540), ("b", 550), ("c", 550)]), None),
        ("above", |c| c.samples(&[("a", 900), ("b", 900), ("c", 900)]), Some(6)),
        ("far above, at most twice as many", |c| c.samples(&[("a", 9000), ("b", 9000), ("c", 9000)]), Some(6)),
        ("below, and nothing else was wished for", |c| c.samples(&[("a", 100), ("b", 100), ("c", 100)]), None),
        (
            "one is not heard of: it uses nothing",
            |c| c.samples(&[("a", 900), ("b", 900)]),
            // 1800 of 3000 are 60 %: a fifth above the target.
            Some(4),
        ),
        ("one is not heard of, and what is known is only just above", |c| c.samples(&[("a", 600), ("b", 600)]), None),
        (
            "one is not ready: it uses nothing",
            |c| {
                c.samples(&[("a", 900), ("b", 900), ("c", 900)]);
                c.pods[2]["status"]["phase"] = json!("Pending");
            },
            Some(4),
        ),
        (
            "one has just started",
            |c| {
                c.samples(&[("a", 900), ("b", 900), ("c", 4000)]);
                c.pods[2]["status"]["startTime"] = json!("2023-11-14T22:12:00Z");
                c.pods[2]["status"]["conditions"][0]["lastTransitionTime"] = json!("2023-11-14T22:13:10Z");
            },
            Some(4),
        ),
        (
            "one goes",
            |c| {
                c.samples(&[("a", 900), ("b", 900), ("c", 4000)]);
                c.pods[2]["metadata"]["deletionTimestamp"] = json!("2023-11-14T22:13:10Z");
            },
            Some(4),
        ),
        ("above the maximum", |c| c.replicas = 12, Some(10)),
        ("below the minimum", |c| c.replicas = 1, Some(2)),
        ("switched off", |c| c.replicas = 0, None),
        (
            "a wider tolerance",
            |c| {
                c.samples(&[("a", 900), ("b", 900), ("c", 900)]);
                c.autoscaler.spec["behavior"] = json!({"scaleUp": {"tolerance": "1"}});
            },
            None,
        ),
        (
            "one container",
            |c| {
                let target = json!({"type": "Utilization", "averageUtilization": 50});
                c.target(
                    "ContainerResource",
                    "containerResource",
                    json!({"name": "cpu", "container": "app", "target": target}),
                );
                c.samples(&[("a", 900), ("b", 900), ("c", 900)]);
            },
            Some(6),
        ),
        (
            "an average of memory",
            |c| {
                c.target(
                    "Resource",
                    "resource",
                    json!({"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Ki"}}),
                );
                c.samples(&[("a", 2_048_000), ("b", 1_024_000), ("c", 1_024_000)]);
            },
            Some(4),
        ),
        (
            "a metric of pods",
            |c| {
                c.target(
                    "Pods",
                    "pods",
                    json!({"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}),
                );
                c.samples(&[("a", 20_000), ("b", 20_000), ("c", 10_000)]);
            },
            Some(5),
        ),
        (
            "a value of an object",
            |c| {
                c.target(
                    "Object",
                    "object",
                    json!({"metric": {"name": "rps"}, "describedObject": {"kind": "Ingress", "name": "web"},
                    "target": {"type": "Value", "value": "100"}}),
                );
                c.metrics = vec![Ok(Measured::Value(150_000))];
            },
            Some(5),
        ),
        (
            "a value of something else, for each",
            |c| {
                c.target(
                    "External",
                    "external",
                    json!({"metric": {"name": "queue"},
                    "target": {"type": "AverageValue", "averageValue": "30"}}),
                );
                c.metrics = vec![Ok(Measured::Value(150_000))];
            },
            Some(5),
        ),
    ];
    for (name, change, expected) in cases {
        let mut case = Case::good();
        change(&mut case);
        let found = case.decide(&mut History::default());
        assert_eq!(found.rescale.as_ref().map(|r| r.to), *expected, "{name}: {found:#?}");
        assert!(found.told.is_empty(), "{name}: {:?}", found.told);
    }
}

#[test]
fn what_is_said() {
    let active = ("ScalingActive", "True", "ValidMetricFound");
    let within = ("ScalingLimited", "False", "DesiredWithinRange");
    let able = ("AbleToScale", "True", "SucceededGetScale");
    type Row =
        (&'static str, Change, Vec<(&'static str, &'static str, &'static str)>, Vec<(&'static str, &'static str)>);
    let unknown = "unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    let rows: &[Row] = &[
        ("all is well", |_| {}, vec![("AbleToScale", "True", "ReadyForNewScale"), active, within], vec![]),
        (
            "there is no target",
            |c| c.scale = Err("deployments.apps \"web\" not found".into()),
            vec![("AbleToScale", "False", "FailedGetScale")],
            vec![("FailedGetScale", "deployments.apps \"web\" not found")],
        ),
        ("switched off", |c| c.replicas = 0, vec![able, ("ScalingActive", "False", "ScalingDisabled")], vec![]),
        (
            "no selector",
            |c| c.selector = "",
            vec![able, ("ScalingActive", "False", "InvalidSelector")],
            vec![
                ("SelectorRequired", "selector is required"),
                ("FailedComputeMetricsReplicas", "selector is required"),
            ],
        ),
        (
            "somebody else's pods",
            |c| c.selecting.push(("shop".into(), "web2".into())),
            vec![able, ("ScalingActive", "False", "AmbiguousSelector")],
            vec![
                (
                    "AmbiguousSelector",
                    "pods by selector app=web are controlled by multiple HPAs: [{web shop} {web2 shop}]",
                ),
                (
                    "FailedComputeMetricsReplicas",
                    "pods by selector app=web are controlled by multiple HPAs: [{web shop} {web2 shop}]",
                ),
            ],
        ),
        (
            "nothing is known",
            |c| c.metrics = vec![Err("no metrics returned from resource metrics API".into())],
            vec![able, ("ScalingActive", "False", "FailedGetResourceMetric")],
            vec![
                ("FailedGetResourceMetric", "failed to get cpu utilization: {}"),
                (
                    "FailedComputeMetricsReplicas",
                    "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: \
                     failed to get cpu utilization: {}",
                ),
            ],
        ),
        (
            "a pod asks for nothing",
            |c| c.pods[1]["spec"]["containers"][0]["resources"] = json!({}),
            vec![able, ("ScalingActive", "False", "FailedGetResourceMetric")],
            vec![
                (
                    "FailedGetResourceMetric",
                    "failed to get cpu utilization: missing request for cpu in container app of Pod b",
                ),
                (
                    "FailedComputeMetricsReplicas",
                    "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: \
                     failed to get cpu utilization: missing request for cpu in container app of Pod b",
                ),
            ],
        ),
        (
            "below",
            |c| c.samples(&[("a", 100), ("b", 100), ("c", 100)]),
            vec![("AbleToScale", "True", "ScaleDownStabilized"), active, within],
            vec![],
        ),
        (
            "far above",
            |c| c.samples(&[("a", 9000), ("b", 9000), ("c", 9000)]),
            vec![("AbleToScale", "True", "ReadyForNewScale"), active, ("ScalingLimited", "True", "ScaleUpLimit")],
            vec![],
        ),
    ];
    for (name, change, expected, told) in rows {
        let mut case = Case::good();
        change(&mut case);
        let found = case.decide(&mut History::default());
        assert_eq!(conditions(&found.status.value), *expected, "{name}");
        let told: Vec<(&str, String)> = told.iter().map(|(r, m)| (*r, m.replace("{}", unknown))).collect();
        let found: Vec<(&str, String)> = found.told.iter().map(|t| (t.reason, t.message.clone())).collect();
        assert_eq!(found, told, "{name}");
    }
}

/// One metric that fails stops shrinking, not growing.
#[test]
fn with_metrics_that_fail() {
    let mut case = Case::good();
    let metric = case.autoscaler.spec["metrics"][0].clone();
    let queue = json!({"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"a": "b"}}},
        "target": {"type": "Value", "value": "1"}}});
    case.autoscaler.spec["metrics"] = json!([metric, queue]);
    case.metrics.push(Err("unable to fetch metrics from external metrics API: gone".into()));
    case.metrics[0] = Ok(Measured::Pods(["a", "b", "c"].map(|n| (n.to_owned(), sample(900))).into()));
    let up = case.decide(&mut History::default());
    let rescale = up.rescale.unwrap();
    assert_eq!(
        (rescale.to, rescale.reason.as_str()),
        (6, "cpu resource utilization (percentage of request) above target")
    );
    assert_eq!(up.told.len(), 1);
    assert_eq!(
        up.told[0].message,
        "unable to get external metric shop/queue/&LabelSelector{MatchLabels:map[string]string{a: b,},\
         MatchExpressions:[]LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: gone"
    );
    let current = &up.status.value["currentMetrics"];
    assert_eq!(current[0]["resource"]["current"], json!({"averageUtilization": 90, "averageValue": "900m"}));
    assert_eq!(current[1], json!({"type": ""}));
    case.metrics[0] = Ok(Measured::Pods(["a", "b", "c"].map(|n| (n.to_owned(), sample(100))).into()));
    let down = case.decide(&mut History::default());
    assert!(down.rescale.is_none());
    assert_eq!(conditions(&down.status.value)[1], ("ScalingActive", "False", "FailedGetExternalMetric"));
}

/// Deciding again on what was decided changes nothing.
#[test]
fn a_decision_is_its_own_end() {
    let mut case = Case::good();
    case.samples(&[("a", 900), ("b", 900), ("c", 900)]);
    let mut history = History::default();
    let first = case.decide(&mut history);
    let rescale = first.rescale.clone().unwrap();
    case.autoscaler.status = first.status.scaled(&rescale).value;
    // Twice the pods share the work.
    case.replicas = rescale.to;
    case.pods = ["a", "b", "c", "d", "e", "f"].iter().map(|name| pod(name)).collect();
    case.samples(&[("a", 450), ("b", 450), ("c", 450), ("d", 450), ("e", 450), ("f", 450)]);
    let second = case.decide(&mut history);
    assert_eq!(second.rescale, None);
    assert_eq!(second.status.value["lastScaleTime"], "2023-11-14T22:13:20Z");
    case.autoscaler.status = second.status.value;
    let third = plan(&case.autoscaler, case.decide(&mut history), now());
    assert_eq!((third.actions, third.again), (vec![], Some(now() + PERIOD)));
}

#[tokio::test(start_paused = true)]
async fn a_deployment_grows_and_shrinks() {
    let cluster = Cluster::start(Kubelet::Works).await;
    let deployment = harness::deployment(2, "one", harness::rolling(json!(1), json!(0)));
    let _: Deployment = cluster.create(deployment).await;
    let autoscaler = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"minReplicas": 1, "maxReplicas": 5,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "metrics": [{"type": "Resource",
            "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "100Mi"}}}]}});
    let _: Autoscaler = cluster.create(autoscaler).await;
    let said = |reason: &'static str| {
        move |all: &[Arc<Autoscaler>]| {
            all.iter().flat_map(|a| a.status["conditions"].as_array()).flatten().any(|c| c["reason"] == reason)
        }
    };
    cluster.until::<Autoscaler>("nothing is known", said("FailedGetResourceMetric")).await;
    let uses = async |memory: &str| {
        let path = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods";
        let pods = cluster.informers.cache::<Pod>(Selector::namespace("shop"));
        pods.synced().await;
        for pod in pods.all() {
            let metrics = json!({"metadata": {"name": pod.name(), "labels": {"app": "web"}},
                "timestamp": "2023-11-14T22:13:20Z", "window": "15s",
                "containers": [{"name": "c", "usage": {"cpu": "0", "memory": memory}}]});
            if cluster.client.create_path::<Value>(path, &metrics, &WriteParams::default()).await.is_err() {
                let path = format!("{path}/{}", pod.name());
                let _: Value =
                    cluster.client.patch_path(&path, Patch::Merge(&metrics), &WriteParams::default()).await.unwrap();
            }
        }
    };
    let sized = |n: i32| {
        move |all: &[Arc<Deployment>]| all.iter().any(|d| d.status.as_ref().and_then(|s| s.ready_replicas) == Some(n))
    };
    cluster.until::<Deployment>("two", sized(2)).await;
    uses("200Mi").await;
    cluster.until::<Deployment>("twice as many", sized(4)).await;
    cluster.until::<Autoscaler>("it is content", said("ValidMetricFound")).await;
    uses("100Mi").await;
    let uses_what_it_should = |all: &[Arc<Autoscaler>]| {
        all.iter().any(|a| a.status["currentMetrics"][0]["resource"]["current"]["averageValue"] == "100Mi")
    };
    cluster.until::<Autoscaler>("the new use is seen", uses_what_it_should).await;
    assert_eq!(cluster.writes_at_rest().await, Vec::<String>::new());
    uses("10Mi").await;
    cluster.until::<Deployment>("the fewest", sized(1)).await;
    let events =
        cluster.client.list::<k8s_openapi::api::core::v1::Event>("shop", &Default::default()).await.unwrap().items;
    let messages: Vec<String> = events.into_iter().filter_map(|e| e.message).collect();
    for message in
        ["New size: 4; reason: memory resource above target", "New size: 1; reason: All metrics below target"]
    {
        assert!(messages.iter().any(|m| m == message), "{message} in {messages:#?}");
    }
    cluster.stop().await;
}
