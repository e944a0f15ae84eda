//! Once faults have ended and nobody changes anything, everything becomes as it is wanted, and the status says so.
//!
//! Source: apps/v1 `DeploymentStatus`, `StatefulSetStatus`, `DaemonSetStatus`; policy/v1 `PodDisruptionBudgetStatus`;
//! `kubectl rollout status`, which waits for exactly this.

use serde_json::Value;

use super::Invariant;
use crate::objects::{Change, Objects, carries, count, is_active, is_going, is_ready, name, namespace, text};

#[derive(Debug)]
pub struct Settled;

/// A field of the status that is not what it must be.
fn differs(object: &Value, field: &str, wanted: i64) -> Option<String> {
    let said = count(object, &format!("/status/{field}"));
    (said != wanted).then(|| format!("{} says {field}={said}, not {wanted}", name(object)))
}

fn deployment(objects: &Objects, deployment: &Value) -> Option<String> {
    let wanted = count(deployment, "/spec/replicas");
    let pods = objects.owned("replicasets.apps", deployment).flat_map(|set| objects.owned("pods", set));
    let run = pods.filter(|pod| is_active(pod) && is_ready(pod)).count() as i64;
    if run != wanted {
        return Some(format!("{} runs {run} pods, not {wanted}", name(deployment)));
    }
    let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
    fields.iter().find_map(|field| differs(deployment, field, wanted)).or_else(|| observed(deployment))
}

fn stateful_set(objects: &Objects, set: &Value) -> Option<String> {
    let wanted = count(set, "/spec/replicas");
    let run = objects.owned("pods", set).filter(|pod| is_active(pod) && is_ready(pod)).count() as i64;
    if run != wanted {
        return Some(format!("{} runs {run} pods, not {wanted}", name(set)));
    }
    let partition = count(set, "/spec/updateStrategy/rollingUpdate/partition");
    let new = objects
        .owned("pods", set)
        .filter(|pod| text(pod, "/metadata/labels/controller-revision-hash") == text(set, "/status/updateRevision"));
    let new = new.count() as i64;
    if new < wanted - partition {
        return Some(format!("{} runs {new} new pods of {}", name(set), wanted - partition));
    }
    ["replicas", "readyReplicas", "availableReplicas"]
        .iter()
        .find_map(|field| differs(set, field, wanted))
        .or_else(|| differs(set, "updatedReplicas", new))
        .or_else(|| observed(set))
}

fn daemon_set(objects: &Objects, set: &Value) -> Option<String> {
    let wanted = objects.all("nodes").count() as i64;
    ["desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable"]
        .iter()
        .find_map(|field| differs(set, field, wanted))
        .or_else(|| observed(set))
}

fn budget(objects: &Objects, budget: &Value) -> Option<String> {
    let selector = &budget["spec"]["selector"]["matchLabels"];
    let healthy = objects
        .all("pods")
        .filter(|pod| namespace(pod) == namespace(budget) && carries(pod, selector) && is_active(pod) && is_ready(pod));
    let healthy = healthy.count() as i64;
    let allowed = (healthy - count(budget, "/status/desiredHealthy")).max(0);
    differs(budget, "currentHealthy", healthy)
        .or_else(|| differs(budget, "disruptionsAllowed", allowed))
        .or_else(|| observed(budget))
}

fn observed(object: &Value) -> Option<String> {
    differs(object, "observedGeneration", count(object, "/metadata/generation"))
}

impl Invariant for Settled {
    fn name(&self) -> &'static str {
        "settled"
    }

    fn observe(&mut self, _: &Objects, _: &Change) -> Result<(), String> {
        Ok(())
    }

    fn settled(&self, objects: &Objects) -> Result<(), String> {
        let of = |kind, judge: fn(&Objects, &Value) -> Option<String>| {
            objects.all(kind).find_map(|object| judge(objects, object))
        };
        let going = ["pods", "deployments.apps", "statefulsets.apps", "jobs.batch", "namespaces", "nodes"];
        let left = going.iter().flat_map(|kind| objects.all(kind)).find(|object| is_going(object));
        let why = of("deployments.apps", deployment)
            .or_else(|| of("statefulsets.apps", stateful_set))
            .or_else(|| of("daemonsets.apps", daemon_set))
            .or_else(|| of("poddisruptionbudgets.policy", budget))
            .or_else(|| left.map(|object| format!("{} is still going", name(object))));
        why.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, deployment, going, object, pod_of, ready, set_of};
    use super::*;

    #[test]
    fn what_is_not_as_it_is_wanted_is_told() {
        let mut history = History::of(Settled);
        assert_eq!(history.settled(), Ok(()));
        let mut web = deployment("web", 1, 1, 0);
        history.write("user", "deployments.apps", &web);
        assert_eq!(history.settled(), Err("web runs 0 pods, not 1".into()));
        let set = set_of(&web, "web-1", 1);
        let mut pod = ready(pod_of(&set, "p"), "");
        pod["metadata"]["labels"] = json!({"app": "web"});
        history.write("deployment-controller", "replicasets.apps", &set);
        history.write("kubelet/n1", "pods", &pod);
        assert_eq!(history.settled(), Err("web says replicas=0, not 1".into()));
        web["status"] = json!({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1});
        history.write("deployment-controller", "deployments.apps", &web);
        assert_eq!(history.settled(), Ok(()));
        let spec = json!({"spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": {"currentHealthy": 1}});
        history.write("user", "poddisruptionbudgets.policy", &object("b", spec));
        assert_eq!(history.settled(), Err("b says disruptionsAllowed=0, not 1".into()));
        history.remove("user", "poddisruptionbudgets.policy", &object("b", json!({})));
        let db = object("db", json!({"spec": {"replicas": 2}}));
        history.write("user", "statefulsets.apps", &db);
        assert_eq!(history.settled(), Err("db runs 0 pods, not 2".into()));
        history.remove("user", "statefulsets.apps", &db);
        history.write("user", "nodes", &json!({"metadata": {"name": "n1"}}));
        history.write("user", "daemonsets.apps", &object("log", json!({})));
        assert_eq!(history.settled(), Err("log says desiredNumberScheduled=0, not 1".into()));
        history.remove("user", "daemonsets.apps", &object("log", json!({})));
        history.write("user", "pods", &going(object("q", json!({}))));
        assert_eq!(history.settled(), Err("q is still going".into()));
    }
}
