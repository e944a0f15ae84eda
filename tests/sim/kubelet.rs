//! A node that pretends: it sends heartbeats and takes its pods through their phases, in an order and a time that chance
//! chooses, through the same API as a real one.
//!
//! What an image does: `broken` never becomes ready; `works` and everything else runs until it is told to stop, unless its pod
//! may end (`restartPolicy` other than `Always`): then it succeeds after a while, `flaky` every other time, `fails` never.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Clock, DeleteParams, Informers, Key, Object as _, Patch, Result, Selector};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chance::Chance;

/// Between heartbeats; upstream's.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
const CPU: &str = "4";
const MEMORY: &str = "8Gi";
const PODS: &str = "20";

/// How the nodes' pods behave, which the scenario changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habits {
    /// Thousandths of the containers that end although they should not.
    pub crashes: u64,
}

/// A node as it registers itself.
pub fn registration(name: &str, now: &str) -> Value {
    let amounts = json!({"cpu": CPU, "memory": MEMORY, "pods": PODS});
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
                "lastHeartbeatTime": now, "lastTransitionTime": now}]}})
}

/// What runs for one pod.
struct Sandbox {
    ready_at: Instant,
    /// When it ends, if it does.
    ends_at: Option<Instant>,
}

pub struct Kubelet {
    pub client: Client,
    pub clock: Clock,
    pub node: String,
    pub habits: Arc<Mutex<Habits>>,
    pub chance: Chance,
}

/// What to do for a pod.
enum Act {
    Nothing,
    Wait(Instant),
    Say(Value),
    Remove,
}

impl Kubelet {
    /// Runs until it is dropped. What ran before it has been lost, as after a reboot.
    pub async fn run(mut self) {
        let informers = Informers::new(self.client.clone());
        let pods = informers.cache::<Pod>(Selector::fields(format!("spec.nodeName={}", self.node)));
        let mut dirty = pods.dirty();
        let nodes = informers.cache::<Node>(Selector::fields(format!("metadata.name={}", self.node)));
        let (mut due, mut sandboxes) = (BTreeMap::<Key, Instant>::new(), BTreeMap::new());
        let mut heartbeat = Instant::now();
        loop {
            let next = due.values().min().copied().map_or(heartbeat, |at| at.min(heartbeat));
            tokio::select! {
                biased;
                keys = dirty.next() => for key in keys {
                    let at = Instant::now() + self.chance.millis(5, 800);
                    let known = due.entry(key).or_insert(at);
                    *known = at.min(*known);
                },
                () = tokio::time::sleep_until(next) => {
                    let now = Instant::now();
                    if heartbeat <= now {
                        heartbeat = now + HEARTBEAT;
                        // One that fails is not missed: the next comes.
                        let _ = self.beat(nodes.get(&Key::cluster(&self.node)).as_deref()).await;
                    }
                    let Some(key) = due.iter().find(|(_, at)| **at <= now).map(|(key, _)| key.clone()) else { continue };
                    due.remove(&key);
                    let Some(pod) = pods.get(&key) else { continue };
                    let again = match self.act(&pod, &mut sandboxes, now) {
                        Act::Nothing => None,
                        Act::Wait(at) => Some(at),
                        Act::Say(status) => {
                            let said = self.client.patch_status::<Pod>(&key.namespace, &key.name, Patch::Strategic(&status));
                            let said = said.await;
                            Some(now + if said.is_ok() { self.chance.millis(100, 300) } else { Duration::from_secs(1) })
                        }
                        Act::Remove => {
                            sandboxes.remove(pod.uid());
                            let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(pod.uid()) };
                            let gone = self.client.delete::<Pod>(&key.namespace, &key.name, &params).await;
                            gone.is_err_and(|e| !e.is_not_found()).then(|| now + Duration::from_secs(1))
                        }
                    };
                    if let Some(at) = again {
                        due.insert(key, at);
                    }
                }
            }
        }
    }

    fn act(&mut self, pod: &Pod, sandboxes: &mut BTreeMap<String, Sandbox>, now: Instant) -> Act {
        let phase = control::pods::phase(pod);
        let finished = control::pods::is_finished(pod);
        if pod.is_terminating() {
            return match sandboxes.remove(pod.uid()) {
                Some(_) if !finished => {
                    let code = if self.chance.permille(700) { 143 } else { 0 };
                    Act::Say(self.ended(pod, code))
                }
                _ => Act::Remove,
            };
        }
        if finished {
            return Act::Nothing;
        }
        let Some(sandbox) = sandboxes.get(pod.uid()) else {
            let restarts = control::pods::restarts(pod) + i32::from(phase == "Running");
            let sandbox = self.sandbox(pod, now);
            sandboxes.insert(pod.uid().to_owned(), sandbox);
            return Act::Say(self.running(pod, false, restarts));
        };
        if sandbox.ready_at > now {
            return Act::Wait(sandbox.ready_at);
        }
        if image(pod) == "broken" {
            return Act::Nothing;
        }
        if !control::pods::is_ready(pod) {
            return Act::Say(self.running(pod, true, control::pods::restarts(pod)));
        }
        let Some(ends_at) = sandbox.ends_at else { return Act::Nothing };
        if ends_at > now {
            return Act::Wait(ends_at);
        }
        let fails = match image(pod) {
            "fails" => true,
            "flaky" => self.chance.permille(500),
            _ => false,
        };
        let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
        match (policy, fails) {
            ("Always", _) | ("OnFailure", true) => {
                let sandbox = self.sandbox(pod, now);
                sandboxes.insert(pod.uid().to_owned(), sandbox);
                Act::Say(self.running(pod, false, control::pods::restarts(pod) + 1))
            }
            (_, fails) => Act::Say(self.ended(pod, i32::from(fails))),
        }
    }

    fn sandbox(&mut self, pod: &Pod, now: Instant) -> Sandbox {
        let ready_at = now + self.chance.millis(50, 3000);
        let ends = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) != Some("Always");
        let crashes = self.chance.permille(self.habits.lock().crashes);
        let ends_at = (ends || crashes).then(|| ready_at + self.chance.millis(500, 20_000));
        Sandbox { ready_at, ends_at }
    }

    fn now(&self) -> String {
        types::time::rfc3339(self.clock.now())
    }

    fn running(&mut self, pod: &Pod, ready: bool, restarts: i32) -> Value {
        let now = self.now();
        let known = pod.status.as_ref().and_then(|s| s.pod_ip.clone());
        let ip =
            known.unwrap_or_else(|| format!("10.42.{}.{}", self.chance.between(0, 255), self.chance.between(1, 254)));
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| types::time::rfc3339(t.0));
        let said = if ready { "True" } else { "False" };
        json!({"status": {"phase": "Running", "startTime": started.unwrap_or_else(|| now.clone()), "hostIP": "192.0.2.1",
            "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": said, "lastTransitionTime": now}],
            "containerStatuses": [{"name": "c", "image": image(pod), "imageID": "", "ready": ready,
                "restartCount": restarts, "state": {"running": {"startedAt": now}}}]}})
    }

    fn ended(&self, pod: &Pod, code: i32) -> Value {
        let now = self.now();
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        json!({"status": {"phase": phase,
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}],
            "containerStatuses": [{"name": "c", "image": image(pod), "imageID": "", "ready": false,
                "restartCount": control::pods::restarts(pod),
                "state": {"running": null, "terminated": {"exitCode": code, "startedAt": now, "finishedAt": now}}}]}})
    }

    /// Renews the lease, and says that it is ready when somebody else has said that it is not.
    async fn beat(&self, node: Option<&Node>) -> Result<()> {
        const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let lease = json!({"metadata": {"name": self.node}, "spec": {"holderIdentity": self.node,
            "leaseDurationSeconds": 40, "renewTime": types::time::rfc3339_micros(self.clock.now())}});
        let path = format!("{LEASES}/{}", self.node);
        let renewed = json!({"spec": {"renewTime": lease["spec"]["renewTime"]}});
        match self.client.patch_path::<Value>(&path, Patch::Merge(&renewed), &Default::default()).await {
            Err(error) if error.is_not_found() => {
                self.client.create_path::<Value>(LEASES, &lease, &Default::default()).await?;
            }
            other => drop(other?),
        }
        let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
        if conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status != "True")) {
            let now = self.now();
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "kubelet is posting ready status", "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
            let path = format!("/api/v1/nodes/{}/status", self.node);
            self.client.patch_path::<Value>(&path, Patch::Strategic(&ready), &Default::default()).await?;
        }
        Ok(())
    }
}

fn image(pod: &Pod) -> &str {
    pod.spec.iter().flat_map(|s| &s.containers).find_map(|c| c.image.as_deref()).unwrap_or_default()
}
