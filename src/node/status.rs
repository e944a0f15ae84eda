//! Tells the API server how a pod is: only on change, the latest wins, and the deletion of the object comes after the last word.
//!
//! One task per pod that sleeps while there is nothing to say. Source: `pkg/kubelet/status/status_manager.go`.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Patch};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::pod;
use crate::worker::summary::terminal;

/// Wait after a failure, doubled each time up to the second value: short, so that a server that restarts is hardly noticed.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
struct Say {
    status: Option<Arc<PodStatus>>,
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
        tokio::spawn(run(client, namespace, name, uid, receiver, told));
        Reporter(sender)
    }

    pub fn status(&self, status: PodStatus) {
        self.0.send_modify(|say| say.status = Some(Arc::new(status)));
    }

    pub fn delete(&self) {
        self.0.send_modify(|say| say.delete = true);
    }
}

async fn run(
    client: Client,
    namespace: String,
    name: String,
    uid: String,
    mut inbox: watch::Receiver<Say>,
    told: impl Fn(Told) + Send,
) {
    let mut sent: Option<Arc<PodStatus>> = None;
    let mut wait = RETRY_MIN;
    loop {
        let say = inbox.borrow_and_update().clone();
        let new = say.status.filter(|s| sent.as_ref().is_none_or(|old| !Arc::ptr_eq(old, s)));
        let outcome = match &new {
            Some(status) => {
                let patch = patch(&uid, status);
                client.patch_status::<Pod>(&namespace, &name, Patch::Strategic(&patch)).await.map(|_| ())
            }
            None if say.delete => {
                let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(&uid) };
                client.delete::<Pod>(&namespace, &name, &params).await.map(|_| ())
            }
            None => {
                if inbox.changed().await.is_err() {
                    return;
                }
                continue;
            }
        };
        match outcome {
            Ok(()) => {
                wait = RETRY_MIN;
                match new {
                    Some(status) => {
                        if terminal(status.phase.as_deref().unwrap_or_default()) {
                            told(Told::Verdict);
                        }
                        sent = Some(status);
                    }
                    // The watch says when it is gone; finalizers may hold it.
                    None => return,
                }
            }
            // Gone, or another pod of that name by now (its uid does not match).
            Err(e) if e.is_not_found() || e.is_conflict() => {
                told(Told::Verdict);
                if e.is_not_found() {
                    told(Told::Gone);
                    return;
                }
                match new {
                    Some(status) => sent = Some(status),
                    None => {
                        told(Told::Gone);
                        return;
                    }
                }
            }
            Err(e) => {
                tracing::warn!(pod = %format_args!("{namespace}/{name}"), error = %e, "status not sent");
                if !e.retryable() && e.status().is_some() {
                    // The server will never take it; the next one may be better.
                    sent = new.or(sent);
                }
                // A newer status must not wait behind the failure of an older one for long, nor hammer a dead server.
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }
}

/// The uid makes the server refuse a namesake. What the node owns is written whole; `null` removes what no longer applies.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut status = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = status.as_object_mut() {
        for field in ["reason", "message"] {
            fields.entry(field).or_insert(Value::Null);
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
