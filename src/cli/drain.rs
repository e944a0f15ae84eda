//! `drain`: takes a node out of use and moves its pods away, as far as they have somewhere to go.
//!
//! Source: kubectl `pkg/drain` (filters and their texts), `pkg/cmd/drain`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use client::{DeleteParams, ListParams, Patch, WriteParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::failure::{self, usage};
use crate::manifest::text;
use crate::session::Session;
use crate::target::{self, Found, Selection};
use crate::until;
use crate::write::DryRun;

/// Longest wait that a drain without a timeout has: upstream's week.
const FOREVER: Duration = Duration::from_secs(168 * 3600);

#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command")]
pub struct Drain {
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Only the pods with these labels
    #[arg(long, default_value = "", hide_default_value = true)]
    pub pod_selector: String,
    /// Pods that nothing will replace too
    #[arg(long)]
    pub force: bool,
    /// Leave the pods of daemon sets
    #[arg(long)]
    pub ignore_daemonsets: bool,
    /// Pods with emptyDir volumes too: their data is lost
    #[arg(long)]
    pub delete_emptydir_data: bool,
    /// Delete rather than evict
    #[arg(long)]
    pub disable_eviction: bool,
    /// Seconds given to end gracefully; -1: as the pod says
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub grace_period: i64,
    /// How long to wait at most; 0s: without limit
    #[arg(long, default_value = "0s", value_parser = crate::duration::parse)]
    pub timeout: Duration,
    /// none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: String,
}

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Goes; what is to be said of it.
    Evict(Option<&'static str>),
    /// Stays; why it is worth a word.
    Leave(Option<&'static str>),
    /// Nothing may be drained while this stands.
    Refuse(&'static str),
}

const UNMANAGED: &str = "deleting Pods that declare no controller";

fn fate(drain: &Drain, pod: &Value) -> Fate {
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Fate::Leave(None);
    }
    let ended = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let owner = owners.into_iter().flatten().find(|o| o["controller"] == json!(true)).map(|o| text(o, "/kind"));
    if owner == Some("DaemonSet") && !ended {
        return match drain.ignore_daemonsets {
            true => Fate::Leave(Some("ignoring DaemonSet-managed Pods")),
            false => Fate::Refuse("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"),
        };
    }
    let scratch = pod["spec"]["volumes"].as_array().into_iter().flatten().any(|v| v.get("emptyDir").is_some());
    if scratch && !ended && !drain.delete_emptydir_data {
        return Fate::Refuse("cannot delete Pods with local storage (use --delete-emptydir-data to override)");
    }
    match owner.is_none() && !ended {
        true if !drain.force => Fate::Refuse("cannot delete Pods that declare no controller (use --force to override)"),
        true => Fate::Evict(Some(UNMANAGED)),
        false => Fate::Evict(None),
    }
}

pub async fn run(session: &Session, drain: &Drain) -> Result<()> {
    if drain.nodes.is_empty() && drain.selector.is_empty() {
        return Err(usage("USAGE: drain NODE [flags]\nSee 'kedge drain -h' for help and examples"));
    }
    let dry_run = DryRun::parse(&drain.dry_run)?;
    let nodes = drain.nodes.iter().map(|n| n.strip_prefix("node/").unwrap_or(n).to_owned());
    let words: Vec<String> = std::iter::once("nodes".to_owned()).chain(nodes).collect();
    let selection = Selection { selector: drain.selector.clone(), ..Selection::default() };
    let targets = target::of_words(session.discovery().await?, &words, &session.namespace, false)?;
    let (found, errors) = target::fetch(session, &targets, &selection).await;
    failure::all(errors)?;
    for node in &found {
        let cordoned = node.object["spec"]["unschedulable"] == json!(true);
        if !cordoned && dry_run != DryRun::Client {
            let params = WriteParams { dry_run: dry_run == DryRun::Server, ..WriteParams::default() };
            let patch = json!({"spec": {"unschedulable": true}});
            let _: Value = session.client.patch_path(&node.path(), Patch::Merge(&patch), &params).await?;
        }
        let already = if cordoned { "already " } else { "" };
        session.line(format!("{} {already}cordoned{}", node.named(), dry_run.suffix()))?;
    }
    let timeout = if drain.timeout.is_zero() { FOREVER } else { drain.timeout };
    let deadline = Instant::now() + timeout;
    for node in &found {
        drain_one(session, drain, node, dry_run, deadline).await?;
        session.line(format!("{} drained{}", node.named(), dry_run.suffix()))?;
    }
    Ok(())
}

async fn drain_one(session: &Session, drain: &Drain, node: &Found, dry_run: DryRun, deadline: Instant) -> Result<()> {
    let pods = session.discovery().await?.only("pods")?;
    let mut params = ListParams::fields(format!("spec.nodeName={}", node.name));
    params.label_selector.clone_from(&drain.pod_selector);
    let (items, _) = target::list_all(session, &pods.path(""), &params).await?;
    let all: Vec<Found> = items.into_iter().map(|o| target::as_found(&pods, o)).collect();
    let mut refused: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
    let mut warned: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
    let mut evicted = Vec::new();
    for pod in all {
        let name = format!("{}/{}", pod.namespace, pod.name);
        match fate(drain, &pod.object) {
            Fate::Evict(why) => {
                evicted.push(pod);
                if let Some(why) = why {
                    warned.entry(why).or_default().push(name);
                }
            }
            Fate::Leave(None) => {}
            Fate::Leave(Some(why)) => warned.entry(why).or_default().push(name),
            Fate::Refuse(why) => refused.entry(why).or_default().push(name),
        }
    }
    let told = |(why, pods): (&&str, &Vec<String>)| format!("{why}: {}", pods.join(", "));
    if !refused.is_empty() {
        let why: Vec<String> = refused.iter().map(told).collect();
        let why = if let [one] = &why[..] { one.clone() } else { format!("[{}]", why.join(", ")) };
        anyhow::bail!(
            "unable to drain node {0:?} due to error: {why}, continuing command...\nThere are pending nodes to be drained:\n \
             {0}\n{why}",
            node.name
        );
    }
    if !warned.is_empty() {
        session.note(format!("Warning: {}", warned.iter().map(told).collect::<Vec<_>>().join("; ")));
    }
    let mut waits = Vec::new();
    for pod in &evicted {
        let verb = if drain.disable_eviction { "deleting" } else { "evicting" };
        let suffix = dry_run.suffix();
        session.line(format!("{verb} pod {}/{}{suffix}", pod.namespace, pod.name))?;
        if dry_run == DryRun::None {
            evict(session, drain, pod, deadline).await?;
            waits.push(pod);
        }
    }
    for pod in waits {
        until::gone(session, pod, crate::output::uid(&pod.object), deadline).await?;
        let verb = if drain.disable_eviction { "deleted" } else { "evicted" };
        session.line(format!("pod/{} {verb}", pod.name))?;
    }
    Ok(())
}

/// Asks for a pod's end. A budget that does not allow it yet is asked again when the server says so.
async fn evict(session: &Session, drain: &Drain, pod: &Found, deadline: Instant) -> Result<()> {
    let grace = (drain.grace_period >= 0).then_some(drain.grace_period);
    if drain.disable_eviction {
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        return Ok(session.client.delete_path(&pod.path(), &params).await.map(drop)?);
    }
    let mut body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace}});
    if let Some(grace) = grace {
        body["deleteOptions"] = json!({"gracePeriodSeconds": grace});
    }
    let path = format!("{}/eviction", pod.path());
    loop {
        match session.client.create_path::<Value>(&path, &body, &WriteParams::default()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.status().is_some_and(|s| s.code == 429) && Instant::now() < deadline => {
                let seconds = error.retry_after_seconds().unwrap_or(5);
                session.note(format!("error when evicting pods/{:?} (will retry after {seconds}s): {error}", pod.name));
                tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    fn drain(line: &str) -> Drain {
        let command = Drain::augment_args(clap::Command::new("drain"));
        let matches = command.try_get_matches_from(line.split(' ')).unwrap();
        Drain::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn fates() {
        let owned = |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        let scratch = json!({"spec": {"volumes": [{"emptyDir": {}}]}, "metadata": owned("ReplicaSet")["metadata"]});
        let refused = |f: Fate| matches!(f, Fate::Refuse(_));
        assert_eq!(fate(&drain("drain n"), &owned("ReplicaSet")), Fate::Evict(None));
        assert!(refused(fate(&drain("drain n"), &owned("DaemonSet"))));
        assert!(matches!(fate(&drain("drain n --ignore-daemonsets"), &owned("DaemonSet")), Fate::Leave(Some(_))));
        assert!(refused(fate(&drain("drain n"), &json!({}))));
        assert_eq!(fate(&drain("drain n --force"), &json!({})), Fate::Evict(Some(UNMANAGED)));
        assert!(refused(fate(&drain("drain n"), &scratch)));
        assert_eq!(fate(&drain("drain n --delete-emptydir-data"), &scratch), Fate::Evict(None));
        assert_eq!(fate(&drain("drain n"), &json!({"status": {"phase": "Succeeded"}})), Fate::Evict(None));
    }
}
