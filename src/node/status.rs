//! Tells the API server how a pod is: only on change, the latest wins, and the deletion of the object comes after the last word.
//! What somebody else writes over it (the node lifecycle controller when the node was silent) is said again.
//!
//! One task per pod that sleeps while there is nothing to say. Source: `pkg/kubelet/status/status_manager.go`.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Patch};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tokio::sync::watch;
use types::status::Reason;

use crate::pod;
use crate::worker::summary::terminal;

/// Wait after a failure, doubled each time up to the second value: short, so that a server that restarts is hardly noticed.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A pod is set right at once, but not again before this is over: whoever contradicts the node at each turn (the node lifecycle
/// controller while it holds the node for dead) costs a write a second, not a core. Upstream looks every 10 s.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default)]
struct Say {
    status: Option<Arc<PodStatus>>,
    /// As the watch last showed the pod.
    shown: Option<Arc<Pod>>,
    delete: bool,
}

/// Where a worker leaves what is to be said; dropped, what was left is still said once.
pub struct Reporter(watch::Sender<Say>);

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A terminal phase has arrived (or there is nobody to be told).
    Verdict,
    /// The object is gone.
    Gone,
}

impl Reporter {
    /// `told` is called from the reporter's task.
    pub fn start(client: Client, pod: &Pod, told: impl Fn(Told) + Send + 'static) -> Reporter {
        let (sender, receiver) = watch::channel(Say::default());
        let (namespace, name, uid) =
            (pod::namespace(pod).to_owned(), pod::name(pod).to_owned(), pod::uid(pod).to_owned());
        // What an earlier daemon said stands as if said by this one.
        let said = pod.status.clone().filter(|s| s.phase.is_some()).map(Arc::new);
        let kept = Kept { status: said, revision: revision(pod) };
        tokio::spawn(run(client, namespace, name, uid, kept, receiver, told));
        Reporter(sender)
    }

    pub fn status(&self, status: PodStatus) {
        self.0.send_modify(|say| say.status = Some(Arc::new(status)));
    }

    /// The watch shows the pod like this now.
    pub fn shown(&self, pod: Arc<Pod>) {
        self.0.send_modify(|say| say.shown = Some(pod));
    }

    pub fn delete(&self) {
        self.0.send_modify(|say| say.delete = true);
    }
}

/// What the API server has accepted, and the revision that the pod had then: what the watch shows of earlier ones is old news.
struct Kept {
    status: Option<Arc<PodStatus>>,
    revision: u64,
}

impl Kept {
    /// What was accepted once and is not there any more.
    fn lost(&self, shown: &Pod) -> Option<Arc<PodStatus>> {
        let said = self.status.as_ref().filter(|_| revision(shown) > self.revision)?;
        overwritten(said, shown.status.as_ref()?).then(|| Arc::clone(said))
    }
}

/// What is to be done next.
enum Next {
    Say(Arc<PodStatus>),
    /// What was accepted before, over what another hand has written.
    SayAgain(Arc<PodStatus>),
    Delete,
    Nothing,
}

fn next(say: &Say, sent: Option<&Arc<PodStatus>>, kept: &Kept) -> Next {
    if let Some(status) = say.status.as_ref().filter(|s| sent.is_none_or(|old| !Arc::ptr_eq(old, s))) {
        return Next::Say(Arc::clone(status));
    }
    match say.shown.as_deref().and_then(|pod| kept.lost(pod)) {
        Some(status) => Next::SayAgain(status),
        None if say.delete => Next::Delete,
        None => Next::Nothing,
    }
}

async fn run(
    client: Client,
    namespace: String,
    name: String,
    uid: String,
    mut kept: Kept,
    mut inbox: watch::Receiver<Say>,
    told: impl Fn(Told) + Send,
) {
    let mut sent: Option<Arc<PodStatus>> = None;
    let mut wait = RETRY_MIN;
    let mut again_from = tokio::time::Instant::now();
    loop {
        let say = inbox.borrow_and_update().clone();
        let (new, outcome) = match next(&say, sent.as_ref(), &kept) {
            Next::SayAgain(_) if tokio::time::Instant::now() < again_from => {
                tokio::select! {
                    changed = inbox.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep_until(again_from) => {}
                }
                continue;
            }
            Next::Nothing => {
                if inbox.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Next::Delete => {
                let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(&uid) };
                (None, client.delete::<Pod>(&namespace, &name, &params).await.map(|_| kept.revision))
            }
            what @ (Next::Say(_) | Next::SayAgain(_)) => {
                let (Next::Say(status) | Next::SayAgain(status)) = &what else { continue };
                if let Next::SayAgain(_) = &what {
                    again_from = tokio::time::Instant::now() + AGAIN_AFTER;
                }
                let patch = patch(&uid, status);
                let sent = client.patch_status::<Pod>(&namespace, &name, Patch::Strategic(&patch)).await;
                (Some(Arc::clone(status)), sent.map(|pod| revision(&pod)))
            }
        };
        match outcome {
            Ok(revision) => {
                wait = RETRY_MIN;
                match new {
                    Some(status) => {
                        if terminal(status.phase.as_deref().unwrap_or_default()) {
                            told(Told::Verdict);
                        }
                        kept = Kept { status: Some(Arc::clone(&status)), revision };
                        sent = Some(status);
                    }
                    // The watch says when it is gone; finalizers may hold it.
                    None => return,
                }
                continue;
            }
            Err(e) if e.is_not_found() => return told_gone(told),
            // Too many others wrote at the same time, or it is another pod of that name by now.
            Err(e) if e.is_conflict() => match client.get::<Pod>(&namespace, &name).await {
                Ok(there) if pod::uid(&there) != uid => return told_gone(told),
                Err(e) if e.is_not_found() => return told_gone(told),
                Ok(_) | Err(_) => {}
            },
            Err(e) => {
                tracing::warn!(pod = %format_args!("{namespace}/{name}"), error = %e, "status not sent");
                if e.is(Reason::Invalid) {
                    // The server will never take it; the next one may be better.
                    sent = new.or(sent);
                    kept.status = None;
                }
            }
        }
        // A newer status must not wait behind the failure of an older one for long, nor hammer a dead server.
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

fn told_gone(told: impl Fn(Told)) {
    told(Told::Verdict);
    told(Told::Gone);
}

/// Zero where the server's revision is no number: then nothing is ever taken for overwritten.
fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Whether somebody else has changed what the node owns: everything but the conditions of others and what the server adds.
fn overwritten(said: &PodStatus, shown: &PodStatus) -> bool {
    let condition_differs = said.conditions.iter().flatten().any(|own| {
        let there = shown.conditions.iter().flatten().find(|c| c.type_ == own.type_);
        there.is_none_or(|c| c.status != own.status || c.reason != own.reason || c.message != own.message)
    });
    condition_differs
        || (&said.phase, &said.reason, &said.message) != (&shown.phase, &shown.reason, &shown.message)
        || (&said.pod_ips, &said.host_ips) != (&shown.pod_ips, &shown.host_ips)
        || (&said.container_statuses, &said.init_container_statuses, &said.ephemeral_container_statuses)
            != (&shown.container_statuses, &shown.init_container_statuses, &shown.ephemeral_container_statuses)
}

/// The uid makes the server refuse a namesake. What the node owns is written whole; `null` removes what no longer applies.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut status = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = status.as_object_mut() {
        for field in ["reason", "message", "initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
            fields.entry(field).or_insert(Value::Null);
        }
        // Conditions are merged field by field: one that has become True must not keep why it was not.
        for condition in fields.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(condition) = condition.as_object_mut() {
                for field in ["reason", "message"] {
                    condition.entry(field).or_insert(Value::Null);
                }
            }
        }
        // Merged by key upstream: say which addresses are all.
        if let Some(ips) = fields.get_mut("podIPs").and_then(Value::as_array_mut) {
            ips.insert(0, json!({"$patch": "replace"}));
        }
        if let Some(ips) = fields.get_mut("hostIPs").and_then(Value::as_array_mut) {
            ips.insert(0, json!({"$patch": "replace"}));
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(revision: &str, ready: &str, extra: Value) -> Pod {
        let mut status = json!({
            "phase": "Running", "podIPs": [{"ip": "10.42.0.2"}],
            "conditions": [{"type": "Ready", "status": ready}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0}],
        });
        for (k, v) in extra.as_object().cloned().unwrap_or_default() {
            status[k] = v;
        }
        serde_json::from_value(json!({"metadata": {"resourceVersion": revision}, "status": status})).unwrap()
    }

    #[test]
    fn what_others_overwrite_is_noticed() {
        let kept = Kept { status: pod("5", "True", json!({})).status.map(Arc::new), revision: 5 };
        let others = json!([{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"},
            {"type": "example.com/gate", "status": "False"}]);
        for (name, revision, ready, extra, expected) in [
            ("as said", "6", "True", json!({}), false),
            ("its own echo", "5", "False", json!({}), false),
            ("old news", "4", "False", json!({}), false),
            ("not ready by another hand", "6", "False", json!({}), true),
            ("conditions of others", "6", "True", json!({"conditions": others, "qosClass": "Burstable"}), false),
            ("a condition taken away", "6", "True", json!({"conditions": []}), true),
            ("another phase", "6", "True", json!({"phase": "Failed"}), true),
            ("a reason", "6", "True", json!({"reason": "NodeLost"}), true),
            ("no containers", "6", "True", json!({"containerStatuses": null}), true),
            ("another address", "6", "True", json!({"podIPs": [{"ip": "10.42.0.3"}]}), true),
        ] {
            assert_eq!(kept.lost(&pod(revision, ready, extra)).is_some(), expected, "{name}");
        }
        assert!(Kept { status: None, revision: 0 }.lost(&pod("6", "False", json!({}))).is_none());
    }

    #[test]
    fn a_condition_that_turned_true_loses_its_reason() {
        let p = patch("u", &pod("1", "True", json!({})).status.unwrap());
        assert_eq!(p["status"]["conditions"][0]["reason"], Value::Null);
        assert!(p["status"]["conditions"][0].as_object().unwrap().contains_key("message"));
        assert!(p["status"].as_object().unwrap().contains_key("reason"));
        assert_eq!(p["status"]["containerStatuses"][0]["name"], "c");
    }
}
