//! Never more pods than a rolling update may make.
//!
//! Source: apps/v1 `RollingUpdateDeployment.maxSurge`: the total number of pods running at any time during the update is at most
//! the desired number and the surge. A create whose answer was lost may be made again before it is seen, as upstream does.

use jiff::SignedDuration;
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{Change, Objects, count, is_active, name, share, text, uid};

#[derive(Debug)]
pub struct Surge {
    /// Deployments that somebody changed, or for which a create was not answered.
    recent: Recent,
}

impl Surge {
    pub fn new(lag: SignedDuration) -> Self {
        Self { recent: Recent::new(lag) }
    }
}

/// How many pods there may be; `None`: the strategy sets no limit.
fn limit(deployment: &Value) -> Option<i64> {
    let replicas = count(deployment, "/spec/replicas");
    let surge = deployment.pointer("/spec/strategy/rollingUpdate/maxSurge")?;
    Some(replicas + share(surge, replicas, true))
}

impl Invariant for Surge {
    fn name(&self) -> &'static str {
        "surge"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let object = change.object();
        match change.resource.as_str() {
            "deployments.apps" => {
                let spec = |o: &Option<_>| o.as_deref().map(|o: &Value| o["spec"].clone());
                if spec(&change.old) != spec(&change.new) {
                    self.recent.mark(uid(object), change.at);
                }
                Ok(())
            }
            "replicasets.apps" => {
                let Some(deployment) = objects.owner("deployments.apps", object) else { return Ok(()) };
                let size = |o: &Option<_>| o.as_deref().map_or(0, |o: &Value| count(o, "/spec/replicas"));
                let Some(limit) = limit(deployment).filter(|_| size(&change.new) > size(&change.old)) else {
                    return Ok(());
                };
                let all: i64 = objects.owned("replicasets.apps", deployment).map(|s| count(s, "/spec/replicas")).sum();
                if all > limit && !self.recent.has(uid(deployment), change.at) {
                    return Err(format!("{} has sets of {all} pods, {limit} allowed", name(deployment)));
                }
                Ok(())
            }
            "pods" if change.old.is_none() => {
                let set = objects.owner("replicasets.apps", object);
                let Some(deployment) = set.and_then(|set| objects.owner("deployments.apps", set)) else {
                    return Ok(());
                };
                if change.by.unanswered {
                    self.recent.mark(uid(deployment), change.at);
                }
                let sets = objects.owned("replicasets.apps", deployment);
                let active = sets.flat_map(|s| objects.owned("pods", s)).filter(|p| is_active(p)).count() as i64;
                match limit(deployment) {
                    Some(limit) if active > limit && !self.recent.has(uid(deployment), change.at) => Err(format!(
                        "{} has {active} pods with {}, {limit} allowed",
                        name(deployment),
                        text(object, "/metadata/name")
                    )),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{History, deployment, pod_of, set_of};
    use super::*;

    #[test]
    fn too_many_pods_or_too_large_sets_are_told() {
        let mut history = History::of(Surge::new(SignedDuration::from_secs(10)));
        let web = deployment("web", 2, 1, 0);
        history.write("user", "deployments.apps", &web);
        history.later(60);
        let (old, new) = (set_of(&web, "web-1", 2), set_of(&web, "web-2", 1));
        history.write("deployment-controller", "replicasets.apps", &old);
        history.write("deployment-controller", "replicasets.apps", &new);
        for (n, set) in [&old, &old, &new].into_iter().enumerate() {
            history.write("replicaset-controller", "pods", &pod_of(set, &format!("p{n}")));
        }
        history.holds();
        history.write("replicaset-controller", "pods", &pod_of(&new, "p4"));
        history.breaks("web has 4 pods with p4, 3 allowed");
        history.write("deployment-controller", "replicasets.apps", &set_of(&web, "web-2", 2));
        history.breaks("web has sets of 4 pods, 3 allowed");
    }

    #[test]
    fn who_has_not_heard_is_excused() {
        let mut history = History::of(Surge::new(SignedDuration::from_secs(10)));
        history.write("user", "deployments.apps", &deployment("web", 3, 0, 1));
        let set = set_of(&deployment("web", 3, 0, 1), "web-1", 3);
        history.write("deployment-controller", "replicasets.apps", &set);
        history.later(60);
        history.write("user", "deployments.apps", &deployment("web", 1, 0, 1));
        for n in 0..3 {
            history.write("replicaset-controller", "pods", &pod_of(&set, &format!("p{n}")));
        }
        history.holds();
        history.later(60);
        history.write("replicaset-controller", "pods", &pod_of(&set, "late"));
        history.breaks("web has 4 pods with late, 1 allowed");
    }
}
