//! Pods of a StatefulSet come and go in order.
//!
//! With `OrderedReady` a pod is made once all before it run and are ready, and the last goes first, one at a time. Updates go from
//! the last to the first, never below the partition, each once those after it are new and ready; this `Parallel` keeps too.
//!
//! Source: apps/v1 `OrderedReadyPodManagement`, `RollingUpdateStatefulSetStrategy.partition`;
//! `pkg/controller/statefulset/stateful_set_control.go`.

use jiff::SignedDuration;
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{Change, Objects, count, is_active, is_finished, is_going, is_ready, name, text, uid};

#[derive(Debug)]
pub struct Ordinals {
    /// Sets that somebody changed, or that lost a pod otherwise.
    recent: Recent,
}

impl Ordinals {
    pub fn new(lag: SignedDuration) -> Self {
        Self { recent: Recent::new(lag) }
    }

    fn created(&self, objects: &Objects, set: &Value, pod: &Value) -> Result<(), String> {
        let ordinal = ordinal(pod);
        let size = count(set, "/spec/replicas");
        if ordinal >= size {
            return Err(format!("{} is made, of {size}", name(pod)));
        }
        if text(set, "/spec/podManagementPolicy") == "Parallel" {
            return Ok(());
        }
        for before in 0..ordinal {
            let found = objects.owned("pods", set).find(|p| self::ordinal(p) == before);
            if !found.is_some_and(runs) {
                return Err(format!("{} is made before {before} runs", name(pod)));
            }
        }
        Ok(())
    }

    fn sent_away(&self, objects: &Objects, set: &Value, pod: &Value) -> Result<(), String> {
        let ordinal = ordinal(pod);
        let after = || objects.owned("pods", set).filter(|p| self::ordinal(p) > ordinal);
        if ordinal >= count(set, "/spec/replicas") {
            let ordered = text(set, "/spec/podManagementPolicy") != "Parallel";
            return match after().next().filter(|_| ordered) {
                Some(other) => Err(format!("{} goes while {} is there", name(pod), name(other))),
                None => Ok(()),
            };
        }
        if is_finished(pod) {
            return Ok(());
        }
        let revision = text(set, "/status/updateRevision");
        if text(pod, "/metadata/labels/controller-revision-hash") == revision {
            return Err(format!("{} goes although it is new", name(pod)));
        }
        if ordinal < count(set, "/spec/updateStrategy/rollingUpdate/partition") {
            return Err(format!("{} goes although it is below the partition", name(pod)));
        }
        let is_new = |p: &Value| text(p, "/metadata/labels/controller-revision-hash") == revision && runs(p);
        let there = after().filter(|p| is_new(p)).count() as i64;
        let wanted = count(set, "/spec/replicas") - ordinal - 1;
        if there < wanted {
            return Err(format!("{} goes while {there} of the {wanted} after it are new and ready", name(pod)));
        }
        Ok(())
    }
}

fn ordinal(pod: &Value) -> i64 {
    name(pod).rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(-1)
}

fn runs(pod: &Value) -> bool {
    is_active(pod) && is_ready(pod)
}

impl Invariant for Ordinals {
    fn name(&self) -> &'static str {
        "ordinals"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let object = change.object();
        let ours = &*change.by.name == "statefulset-controller";
        if change.resource == "statefulsets.apps" {
            if !ours {
                self.recent.mark(uid(object), change.at);
            }
            return Ok(());
        }
        let Some(set) = objects.owner("statefulsets.apps", object).filter(|_| change.resource == "pods") else {
            return Ok(());
        };
        let verdict = if ours && change.old.is_none() {
            self.created(objects, set, object)
        } else if ours && change.becomes(is_going) {
            self.sent_away(objects, set, object)
        } else {
            Ok(())
        };
        let verdict = verdict.map_err(|why| format!("{}: {why}", name(set)));
        if verdict.is_err() && self.recent.has(uid(set), change.at) {
            return Ok(());
        }
        if !ours && change.ceases(runs) {
            self.recent.mark(uid(set), change.at);
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, going, object, pod_of, ready};
    use super::*;

    fn set(replicas: i64, revision: &str, partition: i64) -> Value {
        object(
            "db",
            json!({"spec": {"replicas": replicas,
            "updateStrategy": {"rollingUpdate": {"partition": partition}}}, "status": {"updateRevision": revision}}),
        )
    }

    fn pod(set: &Value, ordinal: i64, revision: &str) -> Value {
        let mut pod = pod_of(set, &format!("db-{ordinal}"));
        pod["metadata"]["labels"]["controller-revision-hash"] = revision.into();
        pod
    }

    /// Three pods that run.
    fn begin() -> History<Ordinals> {
        let mut history = History::of(Ordinals::new(SignedDuration::from_secs(10)));
        let db = set(3, "a", 0);
        history.write("user", "statefulsets.apps", &db);
        history.later(60);
        for n in 0..3 {
            history.write("statefulset-controller", "pods", &pod(&db, n, "a"));
            history.write("kubelet/n1", "pods", &ready(pod(&db, n, "a"), ""));
        }
        history.holds();
        history
    }

    #[test]
    fn pods_made_out_of_order_are_told() {
        let mut history = History::of(Ordinals::new(SignedDuration::from_secs(10)));
        let db = set(3, "a", 0);
        history.write("user", "statefulsets.apps", &db);
        history.later(60);
        history.write("statefulset-controller", "pods", &pod(&db, 0, "a"));
        history.write("statefulset-controller", "pods", &pod(&db, 1, "a"));
        history.breaks("db: db-1 is made before 0 runs");
        history.write("statefulset-controller", "pods", &pod(&db, 3, "a"));
        history.breaks("db: db-3 is made, of 3");
    }

    #[test]
    fn updates_out_of_order_are_told() {
        let mut history = begin();
        let db = set(3, "b", 1);
        history.write("user", "statefulsets.apps", &db);
        history.later(60);
        history.write("statefulset-controller", "pods", &going(ready(pod(&db, 1, "a"), "")));
        history.breaks("db: db-1 goes while 0 of the 1 after it are new and ready");
        history.write("statefulset-controller", "pods", &going(ready(pod(&db, 0, "a"), "")));
        history.breaks("db: db-0 goes although it is below the partition");
        history.write("statefulset-controller", "pods", &going(ready(pod(&db, 2, "b"), "")));
        history.breaks("db: db-2 goes although it is new");
    }

    #[test]
    fn the_last_goes_first() {
        let mut history = begin();
        let db = set(1, "a", 0);
        history.write("user", "statefulsets.apps", &db);
        history.later(60);
        history.write("statefulset-controller", "pods", &going(ready(pod(&db, 1, "a"), "")));
        history.breaks("db: db-1 goes while db-2 is there");
        history.remove("kubelet/n1", "pods", &pod(&db, 2, "a"));
        history.later(60);
        history.write("statefulset-controller", "pods", &ready(pod(&db, 1, "a"), ""));
        history.write("statefulset-controller", "pods", &going(ready(pod(&db, 1, "a"), "")));
        history.holds();
    }
}
