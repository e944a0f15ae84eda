//! Each kind with two versions, there and back.

use serde_json::json;
use types::registry::BUILT_IN;

use super::*;

fn served(group: &str, version: &str, plural: &str) -> &'static Kind {
    router::kind(group, version, plural).unwrap()
}

fn autoscaler() -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "annotations": {"a": "b"}},
        "spec": {
            "minReplicas": 1, "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
                {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "q"},
                    "target": {"type": "AverageValue", "averageValue": "2"}}},
                {"type": "External", "external": {"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "Value", "value": "3"}}},
                {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                    "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
            ],
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
        },
        "status": {
            "currentReplicas": 2, "desiredReplicas": 3,
            "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": 55, "averageValue": "100m"}}}],
            "conditions": [{"type": "AbleToScale", "status": "True"}],
        },
    })
}

#[test]
fn an_autoscaler_survives_its_older_version() {
    let v1 = served("autoscaling", "v1", "horizontalpodautoscalers");
    let kept = autoscaler();
    let shown = serve(v1, kept.clone());
    assert_eq!(shown["apiVersion"], "autoscaling/v1");
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 55);
    assert_eq!((&shown["spec"]["metrics"], &shown["spec"]["behavior"]), (&Value::Null, &Value::Null));
    let annotation = |name: &str| -> Value {
        let text = shown["metadata"]["annotations"][format!("autoscaling.alpha.kubernetes.io/{name}")].as_str();
        serde_json::from_str(text.unwrap()).unwrap()
    };
    assert_eq!(
        annotation("metrics")[0],
        json!({"type": "Pods", "pods": {"metricName": "hits", "targetAverageValue": "10"}})
    );
    assert_eq!(annotation("metrics")[1]["object"]["targetValue"], "0");
    assert_eq!(annotation("behavior")["ScaleUp"]["Policies"][0]["PeriodSeconds"], 15);
    assert_eq!(annotation("conditions"), kept["status"]["conditions"]);
    assert_eq!(keep(v1, shown), kept);
}

#[test]
fn an_autoscaler_without_a_metric_follows_cpu() {
    let v1 = served("autoscaling", "v1", "horizontalpodautoscalers");
    let kept = keep(
        v1,
        json!({"spec": {"maxReplicas": 2}, "metadata": {"annotations": {
            "autoscaling.alpha.kubernetes.io/metrics": "nonsense", "mine": "x",
        }}}),
    );
    assert_eq!(
        kept["spec"]["metrics"][0]["resource"]["target"],
        json!({"type": "Utilization", "averageUtilization": 80})
    );
    assert_eq!(kept["metadata"]["annotations"], json!({"mine": "x"}));
    assert_eq!((&kept["apiVersion"], &kept["kind"]), (&json!("autoscaling/v2"), &json!("HorizontalPodAutoscaler")));
}

#[test]
fn an_event_has_two_shapes() {
    let newer = served("events.k8s.io", "v1", "events");
    let shown = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "pulled",
        "regarding": {"kind": "Pod"}, "reportingController": "kubelet", "deprecatedCount": 2, "reason": "Pulled"});
    let kept = keep(newer, shown.clone());
    assert_eq!(
        kept,
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "pulled",
            "involvedObject": {"kind": "Pod"}, "reportingComponent": "kubelet", "count": 2, "reason": "Pulled"})
    );
    assert_eq!(serve(newer, kept.clone()), shown);
    let core = &*keeper(&KindRef::from(newer));
    assert_eq!(translate(core, &kept, "events.k8s.io/v1"), Some(shown));
    assert_eq!(translate(core, &kept, "apps/v1"), None);
}

#[test]
fn what_is_kept_is_served_as_it_is() {
    let pod = json!({"a": 1});
    for kind in BUILT_IN.iter().filter(|k| k.keeps()) {
        assert!(matches!(shown(kind, &pod), Cow::Borrowed(_)), "{}", kind.plural);
        assert_eq!(keep(kind, pod.clone()), pod);
    }
    // no rule panics on nonsense
    for kind in BUILT_IN.iter().filter(|k| !k.keeps() && k.stored) {
        for nonsense in [json!(null), json!([]), json!({"spec": 1, "metadata": [], "status": "x"})] {
            keep(kind, serve(kind, nonsense));
        }
    }
}
