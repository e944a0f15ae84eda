//! `rollout`: status, history, undo, restart, pause, resume.
//!
//! Source: kubectl `pkg/polymorphichelpers` (status texts, history, rollback), `pkg/cmd/rollout`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use client::{Clock, ListParams, Patch, WriteParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::failure::{self, usage};
use crate::logs;
use crate::manifest::{Files, text};
use crate::session::Session;
use crate::target::{self, Found, Selection};
use crate::until::{self, Verdict};
use crate::write::DryRun;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Longest wait for a roll-out that names no limit: upstream's week.
const FOREVER: Duration = Duration::from_secs(168 * 3600);

#[derive(Debug, Clone, Args)]
pub struct Rollout {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Wait until the roll-out is done
    Status {
        #[command(flatten)]
        which: Which,
        /// Wait until done
        #[arg(long, short = 'w', default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
        watch: bool,
        /// How long to wait at most; 0s: without limit
        #[arg(long, default_value = "0s", value_parser = crate::duration::parse)]
        timeout: Duration,
    },
    /// List the revisions
    History {
        #[command(flatten)]
        which: Which,
        /// This revision, with its template
        #[arg(long, default_value_t = 0)]
        revision: i64,
    },
    /// Go back to a revision
    Undo {
        #[command(flatten)]
        which: Which,
        /// This revision; 0: the one before
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
        /// none, client or server
        #[arg(long, default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
        dry_run: String,
    },
    /// Replace all pods
    Restart {
        #[command(flatten)]
        which: Which,
    },
    /// Hold the roll-out
    Pause {
        #[command(flatten)]
        which: Which,
    },
    /// Go on with a held roll-out
    Resume {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Clone, Args)]
pub struct Which {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
}

async fn found(session: &Session, which: &Which) -> Result<(Vec<Found>, Vec<anyhow::Error>)> {
    let selection = Selection { selector: which.selector.clone(), ..Selection::default() };
    let targets = target::resolve(session, &which.files, &which.resources, &selection).await?;
    Ok(target::fetch(session, &targets, &selection).await)
}

pub async fn run(session: &Session, rollout: &Rollout) -> Result<()> {
    let (What::Status { which, .. }
    | What::History { which, .. }
    | What::Undo { which, .. }
    | What::Restart { which }
    | What::Pause { which }
    | What::Resume { which }) = &rollout.what;
    if which.resources.is_empty() && which.files.is_empty() {
        return Err(usage("required resource not specified"));
    }
    let (objects, mut errors) = found(session, which).await?;
    for one in &objects {
        let result = match &rollout.what {
            What::Status { watch, timeout, .. } => status(session, one, *watch, *timeout).await,
            What::History { revision, .. } => history(session, one, *revision).await,
            What::Undo { to_revision, dry_run, .. } => match DryRun::parse(dry_run) {
                Ok(dry_run) => undo(session, one, *to_revision, dry_run).await,
                Err(error) => Err(error),
            },
            What::Restart { .. } => restart(session, one).await,
            What::Pause { .. } => pause(session, one, true).await,
            What::Resume { .. } => pause(session, one, false).await,
        };
        if let Err(error) = result {
            errors.push(error);
        }
    }
    failure::all(errors)
}

/// How far a roll-out is: a text, and whether it is done; an error when it failed.
fn progress(kind: &str, o: &Value) -> Result<(String, bool), String> {
    let number = |pointer: &str| o.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let name = text(o, "/metadata/name");
    let seen = number("/metadata/generation") <= number("/status/observedGeneration");
    let wanted = o.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    match kind {
        "Deployment" => {
            if !seen {
                return Ok(("Waiting for deployment spec update to be observed...".into(), false));
            }
            let conditions = o.pointer("/status/conditions").and_then(Value::as_array);
            let late = conditions
                .into_iter()
                .flatten()
                .any(|c| text(c, "/type") == "Progressing" && text(c, "/reason") == "ProgressDeadlineExceeded");
            if late {
                return Err(format!("deployment {name:?} exceeded its progress deadline"));
            }
            let (all, updated, available) =
                (number("/status/replicas"), number("/status/updatedReplicas"), number("/status/availableReplicas"));
            let waiting = format!("Waiting for deployment {name:?} rollout to finish: ");
            Ok(if updated < wanted {
                (format!("{waiting}{updated} out of {wanted} new replicas have been updated..."), false)
            } else if all > updated {
                (format!("{waiting}{} old replicas are pending termination...", all - updated), false)
            } else if available < updated {
                (format!("{waiting}{available} of {updated} updated replicas are available..."), false)
            } else {
                (format!("deployment {name:?} successfully rolled out"), true)
            })
        }
        "DaemonSet" | "StatefulSet" if text(o, "/spec/updateStrategy/type") != "RollingUpdate" => {
            Err("rollout status is only available for RollingUpdate strategy type".into())
        }
        "DaemonSet" => {
            if !seen {
                return Ok(("Waiting for daemon set spec update to be observed...".into(), false));
            }
            let (desired, updated, available) = (
                number("/status/desiredNumberScheduled"),
                number("/status/updatedNumberScheduled"),
                number("/status/numberAvailable"),
            );
            let waiting = format!("Waiting for daemon set {name:?} rollout to finish: ");
            Ok(if updated < desired {
                (format!("{waiting}{updated} out of {desired} new pods have been updated..."), false)
            } else if available < desired {
                (format!("{waiting}{available} of {desired} updated pods are available..."), false)
            } else {
                (format!("daemon set {name:?} successfully rolled out"), true)
            })
        }
        "StatefulSet" => {
            if !seen || number("/status/observedGeneration") == 0 {
                return Ok(("Waiting for statefulset spec update to be observed...".into(), false));
            }
            let (ready, updated) = (number("/status/readyReplicas"), number("/status/updatedReplicas"));
            let partition =
                o.pointer("/spec/updateStrategy/rollingUpdate").map(|r| r["partition"].as_i64().unwrap_or(0));
            let (update, current) = (text(o, "/status/updateRevision"), text(o, "/status/currentRevision"));
            Ok(if ready < wanted {
                (format!("Waiting for {} pods to be ready...", wanted - ready), false)
            } else if let Some(new) = partition.map(|first| wanted - first) {
                if updated < new {
                    let waiting = "Waiting for partitioned roll out to finish";
                    (format!("{waiting}: {updated} out of {new} new pods have been updated..."), false)
                } else {
                    (format!("partitioned roll out complete: {updated} new pods have been updated..."), true)
                }
            } else if update != current {
                (
                    format!(
                        "waiting for statefulset rolling update to complete {updated} pods at revision {update}..."
                    ),
                    false,
                )
            } else {
                let replicas = number("/status/currentReplicas");
                (format!("statefulset rolling update complete {replicas} pods at revision {current}..."), true)
            })
        }
        _ => Err(format!("no status viewer has been implemented for {kind}")),
    }
}

async fn status(session: &Session, one: &Found, watch: bool, timeout: Duration) -> Result<()> {
    let kind = one.resource.kind.clone();
    if !watch {
        let (text, _) = progress(&kind, &one.object).map_err(|e| anyhow::anyhow!(e))?;
        return session.line(text);
    }
    let deadline = Instant::now() + if timeout.is_zero() { FOREVER } else { timeout };
    let mut said = String::new();
    until::seen(session, one, deadline, |object| {
        let Some(object) = object else { return Verdict::Failed("object has been deleted".into()) };
        match progress(&kind, object) {
            Err(why) => Verdict::Failed(why),
            Ok((text, done)) => {
                if text != said {
                    let _ = session.line(&text);
                    said = text;
                }
                if done { Verdict::Done(()) } else { Verdict::Wait }
            }
        }
    })
    .await
}

/// What keeps an object's former templates, by revision, oldest first: a deployment's replica sets, others' ControllerRevisions.
async fn revisions(session: &Session, one: &Found, undoes: bool) -> Result<Vec<(i64, Value)>> {
    let keeper = match one.resource.kind.as_str() {
        "Deployment" => "replicasets.apps",
        "DaemonSet" | "StatefulSet" => "controllerrevisions.apps",
        kind => anyhow::bail!(
            "{} for {kind:?}",
            if undoes { "no rollbacker has been implemented" } else { "no history viewer has been implemented" },
        ),
    };
    let keepers = session.discovery().await?.only(keeper)?;
    let selector = logs::selector_text(&one.object["spec"]["selector"]);
    let (items, _) = target::list_all(session, &keepers.path(&one.namespace), &ListParams::labels(selector)).await?;
    let uid = crate::output::uid(&one.object);
    let owned = |keeper: &Value| {
        let owners = keeper["metadata"]["ownerReferences"].as_array();
        owners.into_iter().flatten().any(|o| o["controller"] == json!(true) && text(o, "/uid") == uid)
    };
    let mut revisions: Vec<(i64, Value)> =
        items.into_iter().filter(|k| owned(k)).filter_map(|k| Some((number(&k)?, k))).collect();
    revisions.sort_unstable_by_key(|(revision, _)| *revision);
    Ok(revisions)
}

/// The number of a revision, by what keeps it.
fn number(keeper: &Value) -> Option<i64> {
    match keeper.get("revision") {
        Some(revision) => revision.as_i64(),
        None => keeper["metadata"]["annotations"][REVISION].as_str()?.parse().ok(),
    }
}

/// The template that a revision keeps, as its object had it.
fn template(keeper: &Value) -> Value {
    let Some(data) = keeper.get("data") else {
        let mut template = keeper["spec"]["template"].clone();
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove("pod-template-hash");
        }
        return template;
    };
    let mut template = data["spec"]["template"].clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    template
}

/// The template as it is shown: of a replica set as it stands, with why it was made.
fn shown(keeper: &Value) -> Value {
    if keeper.get("data").is_some() {
        return template(keeper);
    }
    let mut template = keeper["spec"]["template"].clone();
    if let Some(cause) = keeper["metadata"]["annotations"].get(CHANGE_CAUSE) {
        template["metadata"]["annotations"][CHANGE_CAUSE] = cause.clone();
    }
    template
}

async fn history(session: &Session, one: &Found, revision: i64) -> Result<()> {
    let revisions = revisions(session, one, false).await?;
    if revisions.is_empty() {
        return session.line(format!("{} No rollout history found.", one.named()));
    }
    if revision > 0 {
        let Some((_, keeper)) = revisions.iter().find(|(r, _)| *r == revision) else {
            anyhow::bail!("unable to find the specified revision");
        };
        session.line(format!("{} with revision #{revision}", one.named()))?;
        return session.line(crate::describe::template(&shown(keeper)));
    }
    session.line(format!("{} ", one.named()))?;
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    for (revision, keeper) in &revisions {
        let cause = keeper["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap_or("<none>");
        rows.push(vec![revision.to_string(), cause.to_owned()]);
    }
    let lines: String = rows.iter().map(|row| format!("{}\n", row.join("\t"))).collect();
    session.print(&format!("{}\n", crate::describe::lay_out(&lines)))
}

/// The revision to go back to; 0: the one before the newest.
fn wanted<'r>(one: &Found, revisions: &'r [(i64, Value)], to: i64) -> Result<&'r Value> {
    if to != 0 {
        let found = revisions.iter().find(|(r, _)| *r == to);
        return match found {
            Some((_, keeper)) => Ok(keeper),
            None => anyhow::bail!("unable to find specified revision {to} in history"),
        };
    }
    match revisions {
        [.., (_, before), _] => Ok(before),
        _ if one.resource.kind == "Deployment" => {
            anyhow::bail!("no rollout history found for deployment {:?}", one.name)
        }
        _ => anyhow::bail!("no last revision to roll back to"),
    }
}

async fn undo(session: &Session, one: &Found, to: i64, dry_run: DryRun) -> Result<()> {
    if one.object["metadata"]["annotations"].get(client::apply::LAST_APPLIED).is_some() {
        session.note(format!(
            "Warning: resource {}/{} was previously managed with 'kedge apply'. Rolling back will not update the {} \
             annotation, which may cause unexpected behavior on future 'kedge apply' operations. Consider using 'kedge \
             apply' with your previous configuration file instead.",
            one.resource.plural,
            one.name,
            client::apply::LAST_APPLIED
        ));
    }
    let revisions = revisions(session, one, true).await?;
    let keeper = wanted(one, &revisions, to)?;
    if one.object["spec"]["paused"] == json!(true) {
        anyhow::bail!(
            "you cannot rollback a paused deployment; resume it first with 'kedge rollout resume' and try again"
        );
    }
    let template = template(keeper);
    if template == one.object["spec"]["template"] {
        return session
            .line(format!("{} skipped rollback (current template already matches revision {to})", one.named()));
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    if dry_run != DryRun::Client {
        let params = WriteParams { dry_run: dry_run == DryRun::Server, ..WriteParams::default() };
        let _: Value = session.client.patch_path(&one.path(), Patch::Json(&patch), &params).await?;
    }
    session.line(format!("{} rolled back{}", one.named(), dry_run.suffix()))
}

async fn restart(session: &Session, one: &Found) -> Result<()> {
    if !matches!(one.resource.kind.as_str(), "Deployment" | "DaemonSet" | "StatefulSet") {
        return Err(usage(format!("{} {:?} restarting is not supported", one.resource.group_resource(), one.name)));
    }
    if one.object["spec"]["paused"] == json!(true) {
        anyhow::bail!(
            "{} {:?} can't restart paused deployment (run rollout resume first)",
            one.resource.group_resource(),
            one.name
        );
    }
    let now = types::time::rfc3339(Clock::system().now());
    let patch =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    let params = WriteParams { field_manager: "kubectl-rollout".into(), ..WriteParams::default() };
    let _: Value = session.client.patch_path(&one.path(), Patch::Merge(&patch), &params).await?;
    session.line(format!("{} restarted", one.named()))
}

async fn pause(session: &Session, one: &Found, paused: bool) -> Result<()> {
    if one.resource.kind != "Deployment" {
        let word = if paused { "pausing" } else { "resuming" };
        anyhow::bail!("{} {:?} {word} is not supported", one.resource.group_resource(), one.name);
    }
    if (one.object["spec"]["paused"] == json!(true)) == paused {
        let word = if paused { "is already paused" } else { "is not paused" };
        anyhow::bail!("{} {:?} {word}", one.resource.group_resource(), one.name);
    }
    let value = if paused { Value::Bool(true) } else { Value::Null };
    let patch = json!({"spec": {"paused": value}});
    let _: Value = session.client.patch_path(&one.path(), Patch::Merge(&patch), &WriteParams::default()).await?;
    session.line(format!("{} {}", one.named(), if paused { "paused" } else { "resumed" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_progress() {
        let o = |generation: i64, status: Value| json!({"metadata": {"name": "d", "generation": generation}, "spec": {"replicas": 3}, "status": status});
        for (object, text, done) in [
            (o(2, json!({"observedGeneration": 1})), "Waiting for deployment spec update to be observed...", false),
            (
                o(1, json!({"observedGeneration": 1, "updatedReplicas": 1})),
                "Waiting for deployment \"d\" rollout to finish: 1 out of 3 new replicas have been updated...",
                false,
            ),
            (
                o(1, json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 4})),
                "Waiting for deployment \"d\" rollout to finish: 1 old replicas are pending termination...",
                false,
            ),
            (
                o(1, json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2})),
                "Waiting for deployment \"d\" rollout to finish: 2 of 3 updated replicas are available...",
                false,
            ),
            (
                o(1, json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3})),
                "deployment \"d\" successfully rolled out",
                true,
            ),
        ] {
            assert_eq!(progress("Deployment", &object), Ok((text.to_owned(), done)));
        }
        let late = o(
            1,
            json!({"observedGeneration": 1, "conditions": [
            {"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}),
        );
        assert_eq!(progress("Deployment", &late), Err("deployment \"d\" exceeded its progress deadline".into()));
    }

    #[test]
    fn sets_progress() {
        let o = |strategy: Value, status: Value| json!({"metadata": {"name": "s", "generation": 2}, "spec": {"replicas": 3, "updateStrategy": strategy}, "status": status});
        let rolling = || json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
        let plain = || json!({"type": "RollingUpdate"});
        let status = |ready: i64, updated: i64| {
            json!({"observedGeneration": 2, "readyReplicas": ready, "updatedReplicas": updated, "currentReplicas": 3 - updated,
                "updateRevision": "s-2", "currentRevision": if updated == 3 { "s-2" } else { "s-1" }})
        };
        let waiting = "Waiting for statefulset spec update to be observed...";
        for (object, text, done) in [
            (o(plain(), json!({})), waiting, false),
            (o(plain(), json!({"observedGeneration": 1})), waiting, false),
            (o(rolling(), status(1, 0)), "Waiting for 2 pods to be ready...", false),
            (
                o(rolling(), status(3, 1)),
                "Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated...",
                false,
            ),
            (o(rolling(), status(3, 2)), "partitioned roll out complete: 2 new pods have been updated...", true),
            (
                o(plain(), status(3, 1)),
                "waiting for statefulset rolling update to complete 1 pods at revision s-2...",
                false,
            ),
            (o(plain(), status(3, 3)), "statefulset rolling update complete 0 pods at revision s-2...", true),
        ] {
            assert_eq!(progress("StatefulSet", &object), Ok((text.to_owned(), done)));
        }
        for kind in ["StatefulSet", "DaemonSet"] {
            let other = o(json!({"type": "OnDelete"}), json!({}));
            let text = "rollout status is only available for RollingUpdate strategy type";
            assert_eq!(progress(kind, &other), Err(text.into()));
        }
    }

    #[test]
    fn templates_come_from_what_keeps_them() {
        let set = json!({"metadata": {"annotations": {REVISION: "4", CHANGE_CAUSE: "why"}},
            "spec": {"template": {"metadata": {"labels": {"a": "b", "pod-template-hash": "x"}}}}});
        assert_eq!((number(&set), template(&set)), (Some(4), json!({"metadata": {"labels": {"a": "b"}}})));
        assert_eq!(shown(&set)["metadata"]["annotations"][CHANGE_CAUSE], "why");
        let revision = json!({"revision": 7, "metadata": {"annotations": {CHANGE_CAUSE: "why"}},
            "data": {"spec": {"template": {"$patch": "replace", "metadata": {"labels": {"a": "b"}}}}}});
        let bare = json!({"metadata": {"labels": {"a": "b"}}});
        assert_eq!((number(&revision), template(&revision), shown(&revision)), (Some(7), bare.clone(), bare));
    }
}
