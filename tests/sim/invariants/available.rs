//! Never fewer available pods than a rolling update must leave.
//!
//! Judged where it is decided: when the ReplicaSet controller sends a pod away that is available. What is lost otherwise (a crash,
//! a node, a person) is not its doing, and excuses it until it can have heard of it.
//!
//! Source: apps/v1 `RollingUpdateDeployment.maxUnavailable`; `pkg/controller/deployment/util` `ResolveFenceposts`.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{Change, Objects, condition, count, is_active, is_ready, name, share, time, uid};

#[derive(Debug)]
pub struct Available {
    /// Deployments that somebody changed, or that lost a pod otherwise.
    recent: Recent,
}

impl Available {
    pub fn new(lag: SignedDuration) -> Self {
        Self { recent: Recent::new(lag) }
    }
}

/// How many pods must be available; `None`: the strategy promises none.
fn floor(deployment: &Value) -> Option<i64> {
    let replicas = count(deployment, "/spec/replicas");
    let rolling = deployment.pointer("/spec/strategy/rollingUpdate")?;
    let unavailable = share(&rolling["maxUnavailable"], replicas, false);
    let unavailable =
        if unavailable == 0 && share(&rolling["maxSurge"], replicas, true) == 0 { 1 } else { unavailable };
    Some(replicas - unavailable)
}

fn is_available(pod: &Value, seconds: i64, now: Timestamp) -> bool {
    let since = condition(pod, "Ready").and_then(|c| time(c, "/lastTransitionTime"));
    is_active(pod)
        && is_ready(pod)
        && (seconds == 0 || since.is_some_and(|at| at + SignedDuration::from_secs(seconds) <= now))
}

impl Invariant for Available {
    fn name(&self) -> &'static str {
        "available"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let object = change.object();
        if change.resource == "deployments.apps" {
            let spec = |o: &Option<_>| o.as_deref().map(|o: &Value| o["spec"].clone());
            if spec(&change.old) != spec(&change.new) {
                self.recent.mark(uid(object), change.at);
            }
            return Ok(());
        }
        let runs = |pod: &Value| is_active(pod) && is_ready(pod);
        if change.resource != "pods" || !change.ceases(runs) {
            return Ok(());
        }
        let set = objects.owner("replicasets.apps", object);
        let Some(deployment) = set.and_then(|set| objects.owner("deployments.apps", set)) else { return Ok(()) };
        if &*change.by.name != "replicaset-controller" {
            self.recent.mark(uid(deployment), change.at);
            return Ok(());
        }
        let seconds = count(deployment, "/spec/minReadySeconds");
        if !change.old.as_deref().is_some_and(|pod| is_available(pod, seconds, change.at)) {
            return Ok(());
        }
        let sets = objects.owned("replicasets.apps", deployment);
        let pods = sets.flat_map(|s| objects.owned("pods", s));
        let left = pods.filter(|p| is_available(p, seconds, change.at)).count() as i64;
        match floor(deployment) {
            Some(floor) if left < floor && !self.recent.has(uid(deployment), change.at) => {
                Err(format!("{} has {left} available pods after {}, {floor} promised", name(deployment), name(object)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{History, deployment, going, pod_of, ready, set_of};
    use super::*;

    fn begin() -> (History<Available>, Vec<Value>) {
        let mut history = History::of(Available::new(SignedDuration::from_secs(10)));
        let web = deployment("web", 3, 1, 1);
        let set = set_of(&web, "web-1", 3);
        history.write("user", "deployments.apps", &web);
        history.write("deployment-controller", "replicasets.apps", &set);
        let now = history.now();
        let pods: Vec<Value> = (0..3).map(|n| ready(pod_of(&set, &format!("p{n}")), &now)).collect();
        pods.iter().for_each(|pod| history.write("kubelet/n1", "pods", pod));
        history.later(60);
        (history, pods)
    }

    #[test]
    fn one_too_many_is_told() {
        let (mut history, pods) = begin();
        history.write("replicaset-controller", "pods", &going(pods[0].clone()));
        history.holds();
        history.write("replicaset-controller", "pods", &going(pods[1].clone()));
        history.breaks("web has 1 available pods after p1, 2 promised");
    }

    #[test]
    fn what_others_take_is_not_its_doing() {
        let (mut history, pods) = begin();
        history.write("user", "pods", &going(pods[0].clone()));
        history.write("kubelet/n1", "pods", &pod_of(&serde_json::json!({}), "p1"));
        history.write("replicaset-controller", "pods", &going(pods[2].clone()));
        history.holds();
    }
}
