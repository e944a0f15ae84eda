//! An eviction leaves a budget as many healthy pods as it wants.
//!
//! What is lost otherwise is not an eviction's doing, and excuses it until the budget's controller can have heard of it.
//!
//! Source: policy/v1 `PodDisruptionBudgetSpec`: an eviction is allowed if `minAvailable` pods are still available after it;
//! `pkg/registry/core/pod/storage/eviction.go` `checkAndDecrement`.

use jiff::SignedDuration;
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{Change, Objects, carries, count, is_active, is_going, is_ready, name, namespace, share, uid};

/// Who evicts.
pub const DRAINS: &str = "drain";
const BUDGETS: &str = "poddisruptionbudgets.policy";

#[derive(Debug)]
pub struct Budgets {
    /// Budgets that changed, or whose pods were lost otherwise.
    recent: Recent,
}

impl Budgets {
    pub fn new(lag: SignedDuration) -> Self {
        Self { recent: Recent::new(lag) }
    }
}

fn covers(budget: &Value, pod: &Value) -> bool {
    namespace(budget) == namespace(pod) && carries(pod, &budget["spec"]["selector"]["matchLabels"])
}

fn is_healthy(pod: &Value) -> bool {
    is_active(pod) && is_ready(pod)
}

/// How many pods its owner wants, for the pods of this simulation.
fn expected(objects: &Objects, pod: &Value) -> Option<i64> {
    let owner = ["replicasets.apps", "statefulsets.apps"].iter().find_map(|kind| objects.owner(kind, pod))?;
    let top = objects.owner("deployments.apps", owner).unwrap_or(owner);
    Some(count(top, "/spec/replicas"))
}

impl Invariant for Budgets {
    fn name(&self) -> &'static str {
        "budgets"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let object = change.object();
        if change.resource == BUDGETS {
            let spec = |o: &Option<_>| o.as_deref().map(|o: &Value| o["spec"].clone());
            if spec(&change.old) != spec(&change.new) {
                self.recent.mark(uid(object), change.at);
            }
            return Ok(());
        }
        if ["deployments.apps", "statefulsets.apps"].contains(&change.resource.as_str()) {
            let size = |o: &Option<_>| o.as_deref().map_or(0, |o: &Value| count(o, "/spec/replicas"));
            if size(&change.old) != size(&change.new) {
                let selects = |b: &&Value| b["spec"]["selector"] == object["spec"]["selector"];
                objects.all(BUDGETS).filter(selects).for_each(|b| self.recent.mark(uid(b), change.at));
            }
            return Ok(());
        }
        if change.resource != "pods" || !change.ceases(is_healthy) {
            return Ok(());
        }
        let evicted = &*change.by.name == DRAINS && change.becomes(is_going);
        for budget in objects.all(BUDGETS).filter(|b| covers(b, object)) {
            if !evicted {
                self.recent.mark(uid(budget), change.at);
                continue;
            }
            let left = objects.all("pods").filter(|p| covers(budget, p) && is_healthy(p)).count() as i64;
            let Some(expected) = expected(objects, object) else { continue };
            let spec = &budget["spec"];
            let wanted = match &spec["maxUnavailable"] {
                Value::Null => share(&spec["minAvailable"], expected, true),
                max => expected - share(max, expected, true),
            };
            if left < wanted && !self.recent.has(uid(budget), change.at) {
                let evicted = name(object);
                return Err(format!("{} wants {wanted} pods, {left} are left without {evicted}", name(budget)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, deployment, going, object, pod_of, ready, set_of};
    use super::*;

    #[test]
    fn one_eviction_too_many_is_told() {
        let mut history = History::of(Budgets::new(SignedDuration::from_secs(10)));
        let web = deployment("web", 3, 1, 1);
        let set = set_of(&web, "web-1", 3);
        let selector = json!({"matchLabels": {"app": "web"}});
        history.write("user", "deployments.apps", &web);
        history.write("deployment-controller", "replicasets.apps", &set);
        let budget = json!({"spec": {"selector": selector, "maxUnavailable": 1}});
        history.write("user", BUDGETS, &object("web-budget", budget));
        let pod = |n: i64| {
            let mut pod = ready(pod_of(&set, &format!("p{n}")), "");
            pod["metadata"]["labels"] = json!({"app": "web"});
            pod
        };
        (0..3).for_each(|n| history.write("kubelet/n1", "pods", &pod(n)));
        history.later(60);
        history.write(DRAINS, "pods", &going(pod(0)));
        history.holds();
        history.write(DRAINS, "pods", &going(pod(1)));
        history.breaks("web-budget wants 2 pods, 1 are left without p1");
        history.write("user", "pods", &pod(1));
        history.write("user", "pods", &going(pod(1)));
        history.write(DRAINS, "pods", &going(pod(2)));
        history.holds();
    }
}
